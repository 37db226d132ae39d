"""Mean intersection over union of classes, as VIP is scored: one confusion matrix over all frames of all videos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.evaluation.scores import Masks, OnFrame, Scores, mean, squashed
from pixeltrail.types import Image, LabelMap

SIZE = 560
Ids = NDArray[np.uint8]


class Video(Protocol):
    """``pixeltrail.data.vip.VipVideo`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def frames(self) -> Sequence[Any]: ...
    def images(self) -> Iterator[Image]: ...
    def truth(self, t: int, /) -> Ids | None: ...


def confusion(predicted: Ids, truth: Ids, classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts of pixels, row: true class, column: predicted one. A pixel whose true class is none of
    them (void) is left out; one predicted as something else is put down as background. Raises ShapeError."""
    if predicted.shape != truth.shape:
        raise ShapeError(f"confusion: expected two maps of one size, got {predicted.shape} and {truth.shape}")
    known = truth < classes
    said = np.where(predicted < classes, predicted, 0)[known]
    counts = np.bincount(classes * truth[known].astype(np.int64) + said, minlength=classes**2)
    return counts.reshape(classes, classes)


def class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes,) intersection over union from a confusion matrix; NaN for a class that is nowhere."""
    right = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - right
    return np.asarray(np.divide(right, union, out=np.full(len(right), math.nan), where=union > 0))


def evaluate_parsing(
    masks: Masks,
    videos: Iterable[Video],
    classes: Sequence[str],
    *,
    size: int = SIZE,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Scores:
    """``mIoU`` over the classes that occur, and ``accuracy``, the share of right pixels.

    Frames are squashed to ``size`` x ``size`` (0: left as they are) and masks enlarged again to the nearest pixel. The
    first frame, which is given, counts like the others, as in the released evaluation. Raises InputError without a video.
    """
    total = np.zeros((len(classes), len(classes)), np.int64)
    rows = []
    for video in videos:
        counts = np.zeros_like(total)
        for t, ids in enumerate(_tracked(masks, video, size)):
            truth = video.truth(t)
            if truth is not None:
                counts += confusion(nearest(ids, truth.shape), truth, len(classes))
            if on_frame:
                on_frame(video.name, t + 1, len(video.frames))
        total += counts
        rows.append({"sequence": video.name, "frames": len(video.frames), **_measures(counts)})
    if not rows:
        raise InputError("parsing: no video was given; one at least is needed")
    of_classes = [{"object": c, "IoU": float(v)} for c, v in zip(classes, class_iou(total), strict=True)]
    return Scores("vip", ("mIoU", "accuracy"), _measures(total), rows, of_classes, dict(settings or {}))


def nearest(ids: Ids, size: tuple[int, ...]) -> Ids:
    """(H, W) ids at another size, never blended: each pixel takes the one that its centre falls on."""
    rows = ((np.arange(size[0]) + 0.5) * ids.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * ids.shape[1] / size[1]).astype(np.intp)
    return np.asarray(ids[rows[:, None], columns])


def _tracked(masks: Masks, video: Video, size: int) -> Iterator[Ids]:
    first = video.truth(0)
    assert first is not None
    if not size:
        yield from masks(video.images(), {0: LabelMap(first)})
        return
    small = squashed(video.images(), (size, size))
    for t, ids in enumerate(masks(small, {0: LabelMap(nearest(first, (size, size)))})):
        yield ids if t else first


def _measures(counts: NDArray[np.int64]) -> dict[str, float]:
    pixels = int(counts.sum())
    accuracy = float(np.trace(counts)) / pixels if pixels else math.nan
    return {"mIoU": mean(class_iou(counts).tolist()), "accuracy": accuracy}
