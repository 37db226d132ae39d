"""What every benchmark gives back: some measures, overall and by sequence, and what they belong to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.evaluation.report import plain
from pixeltrail.types import Image, LabelMap, Points

if TYPE_CHECKING:
    from rich.table import Table


class Located(Protocol):
    """Where points are in a frame: ``xy`` (P, 2) in pixels, and ``confidence`` (P,) in [0, 1], 0 for a lost point."""

    @property
    def xy(self) -> NDArray[np.float32]: ...
    @property
    def confidence(self) -> NDArray[np.float32]: ...


Masks = Callable[[Iterable[Image], Mapping[int, LabelMap]], Iterable[NDArray[np.uint8]]]
"""A mask tracker: frames, and the labels of some of them -> (H, W) uint8 ids of every frame."""
Follow = Callable[[Iterable[Image], Points], Iterable[Located]]
"""A point tracker: frames and points, each with its own frame -> where they are in every frame."""
OnFrame = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Scores:
    """The result of a benchmark.

    ``measures`` names the columns in order. ``overall`` and each of ``sequences`` (with ``sequence``, its name) map them
    to numbers, as do ``objects``, finer rows of any kind (objects, joints, classes, with ``object``, their name). What is
    not defined is NaN. ``settings``: whatever says how the predictions were made. ``curves``: a dict each with
    ``sequence``, ``object``, the frames ``t`` that were scored, and lists of as many values under the names of what
    was measured there. ``pictures``: of the worst frames, each with ``sequence``, ``object``, ``frame``, what was measured
    there, and ``picture``, a JPEG as a data URI: the prediction left, the truth right.
    """

    dataset: str
    measures: tuple[str, ...]
    overall: dict[str, float]
    sequences: list[dict[str, Any]]
    objects: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """The same, ready for ``json.dump``: NaN as None."""
        fields = ("dataset", "overall", "sequences", "objects", "settings", "curves", "pictures")
        return {name: plain(getattr(self, name)) for name in fields}

    def table(self) -> Table:
        """One line per sequence and one for all, for a rich console."""
        from rich.table import Table

        table = Table("sequence", *(measure.replace("_", "\n") for measure in self.measures))
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.sequences:
            table.add_row(row["sequence"], *self._cells(row))
        table.add_section()
        table.add_row(f"all {len(self.sequences)}", *self._cells(self.overall), style="bold")
        return table

    def _cells(self, row: Mapping[str, float]) -> list[str]:
        values = (row.get(measure, math.nan) for measure in self.measures)
        return [str(v) if isinstance(v, int) else "" if math.isnan(v) else f"{v:.3f}" for v in values]


def mean_of(rows: Iterable[Mapping[str, Any]], measures: Iterable[str]) -> dict[str, float]:
    """The mean of each measure over the rows that have it; NaN where none has."""
    rows = list(rows)
    return {m: mean([float(row[m]) for row in rows]) for m in measures}


def mean(values: Iterable[float]) -> float:
    """The mean of the values that are numbers; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def ratio(part: Any, whole: Any) -> float:
    """``part / whole`` of two numbers, NaN for 0 / 0."""
    return float(part) / float(whole) if whole else math.nan


def squashed(images: Iterable[Image], size: tuple[int, int], *, smooth: bool = False) -> Iterator[Image]:
    """The frames at (H, W), whatever their shape was; ``smooth``: by Lanczos' filter instead of a bilinear one."""
    import PIL.Image

    kind = PIL.Image.Resampling.LANCZOS if smooth else PIL.Image.Resampling.BILINEAR
    for image in images:
        same = image.shape[:2] == size
        yield image if same else np.asarray(PIL.Image.fromarray(image).resize(size[::-1], kind))
