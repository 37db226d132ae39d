"""TAP-Vid: where points are, and whether they are seen.

Doersch et al., *TAP-Vid: A Benchmark for Tracking Any Point in a Video*, NeurIPS 2022, as the released evaluation
computes it: on a raster of 256 x 256 whatever the video's shape, one set of numbers per video, then their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.evaluation.scores import Follow, OnFrame, Scores, mean, mean_of, ratio, squashed
from pixeltrail.types import Image, Points

Mode = Literal["first", "strided"]
SIZE = 256
THRESHOLDS = (1, 2, 4, 8, 16)
EVERY = 5
"""Strided queries begin in each fifth frame."""
MEASURES = ("AJ", "delta_avg", "OA")


class Video(Protocol):
    """``pixeltrail.data.tapvid.TapVideo`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def points(self) -> NDArray[np.float64]: ...
    @property
    def occluded(self) -> NDArray[np.bool_]: ...
    def frame(self, t: int, /) -> Image: ...


def queries(occluded: ArrayLike, mode: Mode) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which points are asked for, and in which frame: two (Q,) arrays, from ``occluded`` (P, T).

    ``first``: every point that is ever visible, in the first frame that shows it. ``strided``: every point in each fifth
    frame (0, 5, ...) that shows it, so that one point may be asked for several times.
    """
    visible = ~np.asarray(occluded, bool)
    if mode == "first":
        seen = np.flatnonzero(visible.any(axis=1))
        return seen, visible[seen].argmax(axis=1)
    frames, points = np.nonzero(visible.T[::EVERY])
    return points, frames * EVERY


def tapvid_metrics(
    asked: ArrayLike, truth: ArrayLike, occluded: ArrayLike, predicted: ArrayLike, hidden: ArrayLike, mode: Mode
) -> dict[str, float]:
    """AJ, delta_avg and OA of one video, and per threshold ``pts_within_D`` and ``jaccard_D``, all in [0, 1].

    ``asked`` (Q,) is the frame of each query; ``truth`` and ``predicted`` (Q, T, 2) are in pixels of the raster;
    ``occluded`` and ``hidden`` (Q, T) bool say what is not seen and what is predicted not to be. After the query frame
    (``first``), or in all other frames (``strided``):

    - OA: how often ``hidden`` equals ``occluded``;
    - pts_within_D: of the visible points, those nearer than D pixels (strictly), whatever is said of their visibility;
    - jaccard_D: TP / (visible + FP). TP: visible, said to be so, and near. FP: said to be visible, but occluded or far.

    delta_avg and AJ are the means over D of 1, 2, 4, 8, 16. NaN where nothing counts. Raises ShapeError.
    """
    frame = np.asarray(asked, np.int64)
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    seen, shown = ~np.asarray(occluded, bool), ~np.asarray(hidden, bool)
    if p.shape != t.shape or p.ndim != 3 or seen.shape != p.shape[:2] or shown.shape != p.shape[:2]:
        raise ShapeError(
            f"tapvid: expected (Q, T, 2) and (Q, T), got {p.shape}, {t.shape}, {seen.shape}, {shown.shape}"
        )
    if frame.shape != p.shape[:1]:
        raise ShapeError(f"tapvid: expected {len(p)} query frames, got {frame.shape}")
    time = np.arange(p.shape[1])
    counts = time > frame[:, None] if mode == "first" else time != frame[:, None]
    found = {"OA": ratio(np.sum((seen == shown) & counts), np.sum(counts))}
    with np.errstate(invalid="ignore"):  # where a point is occluded, or lost, it may be nowhere
        squared = np.square(p - t).sum(axis=-1)
    for limit in THRESHOLDS:
        near = squared < limit**2
        right = np.sum(near & seen & shown & counts)
        wrong = np.sum(shown & (~seen | ~near) & counts)
        visible = np.sum(seen & counts)
        found[f"pts_within_{limit}"] = ratio(np.sum(near & seen & counts), visible)
        found[f"jaccard_{limit}"] = ratio(right, visible + wrong)
    found["delta_avg"] = mean(found[f"pts_within_{limit}"] for limit in THRESHOLDS)
    found["AJ"] = mean(found[f"jaccard_{limit}"] for limit in THRESHOLDS)
    return found


def evaluate_tapvid(
    follow: Follow,
    videos: Iterable[Video],
    *,
    mode: Mode = "first",
    confident: float = 0.5,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Scores:
    """Follow every query, those of one frame together: onwards, and for ``strided`` also back to the first frame.

    A point is predicted to be occluded where its confidence is below ``confident`` (published label propagation has no
    rule of its own). Raises InputError for data without a query.
    """
    measures = (*MEASURES, *(f"{kind}_{limit}" for kind in ("jaccard", "pts_within") for limit in THRESHOLDS))
    rows = []
    for video in videos:
        which, asked = queries(video.occluded, mode)
        truth = video.points[which] * SIZE
        predicted, hidden = _followed(follow, video, truth, asked, mode, confident, on_frame)
        rows.append(
            {"sequence": video.name, **tapvid_metrics(asked, truth, video.occluded[which], predicted, hidden, mode)}
        )
    if not rows:
        raise InputError("tapvid: no video was given; one at least is needed")
    overall = mean_of(rows, measures)
    return Scores(f"tapvid-{mode}", MEASURES, overall, rows, settings={**(settings or {}), "confident": confident})


def _followed(
    follow: Follow,
    video: Video,
    truth: NDArray[np.float64],
    asked: NDArray[np.int64],
    mode: Mode,
    confident: float,
    on_frame: OnFrame | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Predictions (Q, T, 2) on the raster and (Q, T); nowhere and hidden in frames that were not looked at."""
    length = video.occluded.shape[1]
    predicted, hidden = np.full(truth.shape, np.nan), np.ones(truth.shape[:2], bool)
    for first in np.unique(asked):
        some = np.flatnonzero(asked == first)
        # The raster's corner is (0, 0); for us that is the centre of the first pixel.
        points = Points((truth[some, first] - 0.5).astype(np.float32))
        for times in [range(first, length), range(first, -1, -1)][: 2 if mode == "strided" else 1]:
            frames = squashed(map(video.frame, times), (SIZE, SIZE), smooth=True)
            for t, found in zip(times, follow(frames, points), strict=True):
                predicted[some, t] = found.xy + 0.5
                hidden[some, t] = found.confidence < confident
        if on_frame:
            on_frame(video.name, int(first) + 1, length)
    return predicted, hidden
