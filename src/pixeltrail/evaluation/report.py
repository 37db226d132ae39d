"""Score a tracker, or masks that it left behind, on sequences with true masks, and say the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError
from pixeltrail.evaluation.masks import SequenceScore
from pixeltrail.evaluation.worst import PICTURES, Clock, beside, frames_at
from pixeltrail.types import Image, LabelMap

if TYPE_CHECKING:
    from rich.table import Table

Ids = NDArray[np.uint8]
Predict = Callable[[Iterator[Image], LabelMap], Iterable[Ids]]
OnFrame = Callable[[str, int, int], None]
Draw = Callable[[Image, Ids], Image]
"""A frame and ids over it as a picture of the frame's size; ``pixeltrail.visual.overlay.overlay`` is one."""

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
    ``curves``: a dict per object with ``sequence``, ``object``, and J and F of all its scored frames, from frame 1 on.
    ``pictures``: the worst mask of each of the twelve worst objects, as those of ``per_frame``, with ``picture``, a JPEG
    as a data URI: the prediction left, the truth right. None unless the evaluation was told how to draw.
    """

    overall: dict[str, float]
    sequences: list[dict[str, Any]]
    objects: list[dict[str, Any]]
    per_frame: list[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    curves: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[dict[str, Any]] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """The same, ready for ``json.dump``: NaN as None."""
        fields = ("overall", "sequences", "objects", "per_frame", "settings", "curves", "pictures")
        return {name: plain(getattr(self, name)) for name in fields}

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
    draw: Draw | None = None,
) -> Report:
    """Run ``predict(frames, first true mask)`` on every sequence and score the (H, W) uint8 ids that it yields.

    It gives one map per frame, frame 0 first. Masks are scored as they come, so memory does not grow with the length of
    a sequence. ``on_frame(sequence, frames done, frames)`` is called after each. ``draw`` makes the report's pictures.
    Raises InputError when the number or the size of the masks is wrong, or an id is none of the first mask's.
    """
    board = _Board(on_frame, draw)
    for sequence in dataset:
        board.score(sequence, sequence.name, predict(sequence.images(), sequence.first()), timed=True)
    return board.report(settings)


def evaluate_results(
    folder: str | Path,
    dataset: Iterable[MaskSequence],
    *,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    draw: Draw | None = None,
) -> Report:
    """Score masks on the disk, ``folder/SEQUENCE/00000.png`` ...; otherwise as ``evaluate_masks``, without times."""
    board = _Board(on_frame, draw)
    for sequence in dataset:
        board.score(sequence, str(Path(folder) / sequence.name), sequence.results(folder), timed=False)
    return board.report(settings)


class _Board:
    """Collects the scores of one run."""

    def __init__(self, on_frame: OnFrame | None, draw: Draw | None) -> None:
        self.on_frame, self.draw = on_frame, draw
        self.sequences: list[dict[str, Any]] = []
        self.objects: list[dict[str, Any]] = []
        self.frames: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.pictures: list[dict[str, Any]] = []

    def score(self, sequence: MaskSequence, source: str, masks: Iterable[Ids], *, timed: bool) -> None:
        score, clock = SequenceScore(source), Clock()
        names = sequence.frame_names
        worst: dict[int, _Frame] = {}  # of each object
        for ids, truth in zip_longest(clock(masks), sequence.truth()):
            if ids is None or truth is None:
                gave = "fewer" if ids is None else "more"
                raise InputError(f"{source}: frame {score.frames}: {gave} masks than the {len(names)} frames; "
                                 "one mask per frame is needed")  # fmt: skip
            score.add(ids, truth)
            if self.draw and score.frames < len(names):  # the last frame is not scored
                for k, (j, f) in enumerate(score.latest, 1):
                    if k not in worst or j + f < worst[k].j + worst[k].f:
                        worst[k] = _Frame(score.frames - 1, j, f, ids, truth)
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
        self.frames = sorted(self.frames, key=_goodness)[:WORST]
        self.curves += [
            {"sequence": sequence.name, "object": k + 1, "J": j.tolist(), "F": f.tolist()}
            for k, (j, f) in enumerate(score.values.transpose(1, 2, 0))
        ]
        if self.draw:
            self._draw(sequence, worst, self.draw)

    def _draw(self, sequence: MaskSequence, worst: dict[int, _Frame], draw: Draw) -> None:
        """Add pictures of the worst frames, for which the sequence's frames are read once more."""
        names, images = sequence.frame_names, frames_at(sequence.images(), {frame.t for frame in worst.values()})
        for k, frame in worst.items():
            both = (np.where(ids == k, ids, 0).astype(np.uint8) for ids in (frame.ids, frame.truth))
            row = {"sequence": sequence.name, "object": k, "frame": names[frame.t], "J": frame.j, "F": frame.f}
            self.pictures.append({**row, "picture": beside([draw(images[frame.t], ids) for ids in both])})
        self.pictures = sorted(self.pictures, key=_goodness)[:PICTURES]

    def report(self, settings: Mapping[str, Any] | None) -> Report:
        return Report(
            _means(self.objects), self.sequences, self.objects, self.frames, dict(settings or {}), self.curves,
            self.pictures,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """One frame, J and F of one of its objects, and the masks of all: predicted and true ids (H, W)."""

    t: int
    j: float
    f: float
    ids: Ids
    truth: Ids


def _goodness(row: Mapping[str, Any]) -> float:
    return float(row["J"] + row["F"])


def _measures(*values: float) -> dict[str, float]:
    """The seven measures from the first six."""
    return dict(zip(MEASURES, [*values, (values[0] + values[3]) / 2], strict=True))


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of each measure over the objects that had a frame to score."""
    scored = [row for row in rows if not math.isnan(row["J_mean"])]
    return {m: sum(row[m] for row in scored) / len(scored) if scored else math.nan for m in MEASURES}


def _cells(row: Mapping[str, float]) -> list[str]:
    return ["" if math.isnan(row[m]) else f"{row[m]:.3f}" for m in MEASURES]


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
