"""Boxes: success and precision of OTB, accuracy and robustness of VOT.

Wu, Lim & Yang, *Online Object Tracking: A Benchmark*, CVPR 2013 (one pass, begun in the first frame), and Kristan et al.,
*The Visual Object Tracking VOT2013/2015 challenge results* (the tracker is begun again after every failure).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.evaluation.scores import Masks, OnFrame, Scores, mean, mean_of
from pixeltrail.evaluation.worst import Clock, worst_first, worst_of
from pixeltrail.types import Image, LabelMap

Box = NDArray[np.float64]
"""(4,) left, top, right, bottom in pixels; NaN for none."""
Track = Callable[[Iterable[Image], Box], Iterable[Box]]
"""A box tracker: frames and the box in the first of them -> the box in every frame."""
Draw = Callable[[Image, NDArray[np.float64], NDArray[np.uint8]], Image]
"""A frame, boxes (P, 4) on it, and their ids (P,); ``pixeltrail.visual.overlay.draw_boxes`` is one."""

SUCCESS = np.linspace(0, 1, 21)
PRECISION = np.arange(51)
AT_PIXELS = 20
BURN_IN, SKIPPED, SENSITIVITY = 10, 5, 30.0
MEASURES = ("success_AUC", "precision_20px", "accuracy", "failures", "robustness")


class Sequence(Protocol):
    """``pixeltrail.data.boxes.BoxSequence`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def boxes(self) -> NDArray[np.float64]: ...
    def images(self, start: int = 0, /) -> Iterator[Image]: ...


def overlaps(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """(T,) intersection over union of two lists of boxes (T, 4), 0 where either is NaN. Raises ShapeError."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 4:
        raise ShapeError(f"boxes: expected two (T, 4), got {a.shape} and {b.shape}")
    sides = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
    common = sides.prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - common
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.nan_to_num(common / union))


def success_and_precision(predicted: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """OTB's two curves: (21,) share of frames whose overlap is above 0, 0.05, ... 1 (strictly), and (51,) share whose
    centres are at most 0, 1, ... 50 pixels apart.

    The success AUC is the mean of the first, the precision the value at 20 pixels of the second. All frames with a true
    box count, the first included; a frame without a predicted box is a miss. NaN without a frame. Raises ShapeError.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    overlap = overlaps(p, t)
    there = ~np.asarray(np.isnan(t).any(axis=1))
    if not there.any():
        return np.full(len(SUCCESS), math.nan), np.full(len(PRECISION), math.nan)
    apart = np.linalg.norm((p[:, :2] + p[:, 2:]) / 2 - (t[:, :2] + t[:, 2:]) / 2, axis=1)[there]
    success = (overlap[there][None] > SUCCESS[:, None]).mean(axis=1)
    with np.errstate(invalid="ignore"):
        return success, (apart[None] <= PRECISION[:, None]).mean(axis=1)


def restarted(
    track: Track, sequence: Sequence, first: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], int]:
    """VOT's way: overlaps (T,) that count for accuracy, NaN elsewhere, and the number of failures. ``first`` (T, 4) is
    what ``track`` gives from frame 0 on, where that is known already.

    The tracker begins with the true box. Once its box does not touch the true one it has failed: it begins again five
    frames later, at the next frame with a true box. The ten frames from each beginning on do not count for accuracy.
    Of all boxes only what lies inside the frame counts.
    """
    truth = sequence.boxes
    height, width = next(sequence.images()).shape[:2]
    inside = np.array([width, height, width, height])
    there = ~np.asarray(np.isnan(truth).any(axis=1))
    counted, failures, start = np.full(len(truth), math.nan), 0, 0
    while start < len(truth):
        if not there[start]:
            start += 1
            continue
        failed = False
        known = first if start == 0 else None
        boxes: Iterable[Box] = track(sequence.images(start), truth[start]) if known is None else known
        for t, box in enumerate(boxes, start):
            overlap = float(overlaps(box[None].clip(0, inside), truth[t : t + 1].clip(0, inside))[0])
            if there[t] and t > start and overlap <= 0:
                failures, start, failed = failures + 1, t + SKIPPED, True
                break
            if there[t] and t >= start + BURN_IN:
                counted[t] = overlap
        if not failed:
            break
    return counted, failures


def evaluate_boxes(
    track: Track,
    sequences: Iterable[Sequence],
    *,
    restarts: bool = True,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    draw: Draw | None = None,
) -> Scores:
    """Success AUC and precision at 20 pixels of one pass; with ``restarts`` also VOT's accuracy (mean overlap), failures,
    and robustness, exp(-30 failures / frames). Overall: means over sequences, but accuracy over all frames, failures
    added up and robustness of all frames, as in VOT. ``draw`` makes a picture of the worst frame of each sequence.
    Raises InputError without a sequence or for too few boxes.
    """
    rows: list[dict[str, Any]] = []
    curves, pictures = [], []
    kept, frames = [], 0
    for sequence in sequences:
        truth = sequence.boxes
        predicted = np.full(truth.shape, math.nan)
        done, clock = 0, Clock()
        for t, box in enumerate(clock(track(sequence.images(), truth[0]))):
            predicted[t], done = box, t + 1
            if on_frame:
                on_frame(sequence.name, done, len(truth))
        if done != len(truth):
            raise InputError(
                f"{sequence.name}: {done} boxes for {len(truth)} true ones; check that all frames are there"
            )
        success, precision = success_and_precision(predicted, truth)
        row = {"sequence": sequence.name, "frames": done, "seconds_per_frame": clock.seconds / done,
               "success_AUC": float(success.mean()), "precision_20px": float(precision[AT_PIXELS])}  # fmt: skip
        scored = np.flatnonzero(~np.isnan(truth).any(axis=1))[1:]  # the first is given
        curve = {"sequence": sequence.name, "object": "box", "t": scored.tolist(),
                 "overlap": overlaps(predicted, truth)[scored].tolist()}  # fmt: skip
        curves.append(curve)
        if draw and len(scored):
            both = partial(_drawn, draw, predicted[scored], truth[scored])
            pictures.append(worst_of(curve, "overlap", sequence.images(), both))
        if restarts:
            counted, failures = restarted(track, sequence, predicted)
            kept.append(counted)
            row |= {"accuracy": mean(counted.tolist()), "failures": failures, "robustness": _robustness(failures, done)}
            frames += done
        rows.append(row)
    if not rows:
        raise InputError("boxes: no sequence was given; one at least is needed")
    overall = mean_of(rows, MEASURES[:2])
    if restarts:
        failures = sum(row["failures"] for row in rows)
        overall |= {"accuracy": mean(np.concatenate(kept).tolist()), "failures": failures}
        overall["robustness"] = _robustness(failures, frames)
    measures = MEASURES[: 5 if restarts else 2]
    worst = worst_first(pictures, "overlap")
    return Scores("boxes", measures, overall, rows, [], dict(settings or {}), curves, worst)


def _drawn(draw: Draw, predicted: NDArray[np.float64], truth: NDArray[np.float64], image: Image, i: int) -> list[Image]:
    return [draw(image, boxes[i : i + 1], np.ones(1, np.uint8)) for boxes in (predicted, truth)]


def by_masks(masks: Masks) -> Track:
    """A box tracker from a mask tracker: the box is filled, its mask is followed, and the box around that is given."""

    def track(frames: Iterable[Image], box: Box) -> Iterator[Box]:
        images = iter(frames)
        first = next(images)
        height, width = first.shape[:2]
        ids = np.zeros((height, width), np.uint8)
        left, top, right, bottom = np.rint(box).astype(int)
        ids[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
        if not ids.any():
            raise InputError(f"boxes: {box.tolist()} lies outside the {width}x{height} frame, or is no pixel wide")
        for t, found in enumerate(masks(chain([first], images), {0: LabelMap(ids)})):
            yield box_of(found == 1) if t else box

    return track


def box_of(mask: NDArray[np.bool_]) -> Box:
    """The box around what an (H, W) bool mask marks, right and bottom exclusive; NaN where it marks nothing."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], np.float64) if len(x) else np.full(4, math.nan)


def _robustness(failures: int, frames: int) -> float:
    return math.exp(-SENSITIVITY * failures / frames)
