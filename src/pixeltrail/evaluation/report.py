"""Score a tracker, or masks that it left behind, on sequences with true masks, and say the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError
from pixeltrail.evaluation.masks import SequenceScore
from pixeltrail.types import Image, LabelMap

if TYPE_CHECKING:
    from rich.table import Table

Ids = NDArray[np.uint8]
Predict = Callable[[Iterator[Image], LabelMap], Iterable[Ids]]
OnFrame = Callable[[str, int, int], None]

MEASURES = ("J_mean", "J_recall", "J_decay", "F_mean", "F_recall", "F_decay", "J&F")
WORST = 10


class MaskSequence(Protocol):
    """What is needed of a sequence; ``pixeltrail.data.davis.DavisSequence`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def frame_names(self) -> list[str]: ...
    def images(self) -> Iterator[Image]: ...
    def truth(self) -> Iterator[Ids]: ...
    def first(self) -> LabelMap: ...
    def results(self, folder: str | Path) -> Iterator[Ids]: ...


@dataclass(frozen=True)
class Report:
    """J and F (mean, recall, decay) and J&F, all in [0, 1] but the decays, by object, by sequence and overall.

    ``overall`` is the unweighted mean over all objects of all sequences, as in DAVIS. ``objects``: a dict per object
    with ``sequence``, ``object`` and the seven measures. ``sequences``: a dict each with ``sequence``, the means over
    its objects, the number of ``frames`` and ``seconds_per_frame`` of the method, reading of the frames included.
    ``per_frame``: the ten worst of all scored masks by (J + F) / 2, as ``sequence``, ``object``, ``frame``, J, F.
    ``settings``: whatever says how the masks were made. A value that is not defined (no frame was scored) is NaN.
    """

    overall: dict[str, float]
    sequences: list[dict[str, Any]]
    objects: list[dict[str, Any]]
    per_frame: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The same, ready for ``json.dump``: NaN as None."""
        fields = ("overall", "sequences", "objects", "per_frame", "settings")
        return {name: _plain(getattr(self, name)) for name in fields}

    def table(self) -> Table:
        """One line per sequence and one for all, for a rich console."""
        from rich.table import Table

        table = Table("sequence", *(measure.replace("_", "\n") for measure in MEASURES), "s per\nframe")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.sequences:
            seconds = row["seconds_per_frame"]
            table.add_row(row["sequence"], *_cells(row), "" if math.isnan(seconds) else f"{seconds:.3f}")
        table.add_section()
        table.add_row(f"all {len(self.objects)} objects", *_cells(self.overall), style="bold")
        return table


def evaluate_masks(
    predict: Predict,
    dataset: Iterable[MaskSequence],
    *,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Run ``predict(frames, first true mask)`` on every sequence and score the (H, W) uint8 ids that it yields.

    It gives one map per frame, frame 0 first. Masks are scored as they come, so memory does not grow with the length of
    a sequence. ``on_frame(sequence, frames done, frames)`` is called after each. Raises InputError when the number or
    the size of the masks is wrong, or an id is none of the first mask's.
    """
    board = _Board(on_frame)
    for sequence in dataset:
        board.score(sequence, sequence.name, predict(sequence.images(), sequence.first()), timed=True)
    return board.report(settings)


def evaluate_results(
    folder: str | Path,
    dataset: Iterable[MaskSequence],
    *,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Score masks on the disk, ``folder/SEQUENCE/00000.png`` ...; otherwise as ``evaluate_masks``, without times."""
    board = _Board(on_frame)
    for sequence in dataset:
        board.score(sequence, str(Path(folder) / sequence.name), sequence.results(folder), timed=False)
    return board.report(settings)


class _Board:
    """Collects the scores of one run."""

    def __init__(self, on_frame: OnFrame | None) -> None:
        self.on_frame = on_frame
        self.sequences: list[dict[str, Any]] = []
        self.objects: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []

    def score(self, sequence: MaskSequence, source: str, masks: Iterable[Ids], *, timed: bool) -> None:
        score, clock = SequenceScore(source), _Clock()
        names = sequence.frame_names
        for ids, truth in zip_longest(clock(masks), sequence.truth()):
            if ids is None or truth is None:
                gave = "fewer" if ids is None else "more"
                raise InputError(f"{source}: frame {score.frames}: {gave} masks than the {len(names)} frames; "
                                 "one mask per frame is needed")  # fmt: skip
            score.add(ids, truth)
            if self.on_frame:
                self.on_frame(sequence.name, score.frames, len(names))
        rows = [
            {"sequence": sequence.name, "object": k, **_measures(j.mean, j.recall, j.decay, f.mean, f.recall, f.decay)}
            for k, (j, f) in enumerate(score.statistics(), 1)
        ]
        seconds = clock.seconds / score.frames if timed else math.nan
        size = {"frames": score.frames, "seconds_per_frame": seconds}
        self.objects += rows
        self.sequences.append({"sequence": sequence.name, **_means(rows), **size})
        self.frames += [
            {"sequence": sequence.name, "object": k, "frame": names[t], "J": float(j), "F": float(f)}
            for t, objects in enumerate(score.values, 1)
            for k, (j, f) in enumerate(objects, 1)
        ]
        self.frames = sorted(self.frames, key=lambda row: row["J"] + row["F"])[:WORST]

    def report(self, settings: Mapping[str, Any] | None) -> Report:
        return Report(_means(self.objects), self.sequences, self.objects, self.frames, dict(settings or {}))


class _Clock:
    """Time spent inside an iterable."""

    seconds = 0.0

    def __call__(self, masks: Iterable[Ids]) -> Iterator[Ids]:
        iterator = iter(masks)
        while True:
            start = time.perf_counter()
            ids = next(iterator, None)
            self.seconds += time.perf_counter() - start
            if ids is None:
                return
            yield ids


def _measures(*values: float) -> dict[str, float]:
    """The seven measures from the first six."""
    return dict(zip(MEASURES, [*values, (values[0] + values[3]) / 2], strict=True))


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of each measure over the objects that had a frame to score."""
    scored = [row for row in rows if not math.isnan(row["J_mean"])]
    return {m: sum(row[m] for row in scored) / len(scored) if scored else math.nan for m in MEASURES}


def _cells(row: Mapping[str, float]) -> list[str]:
    return ["" if math.isnan(row[m]) else f"{row[m]:.3f}" for m in MEASURES]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
