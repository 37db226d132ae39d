"""JHMDB: percentage of correct keypoints (PCK), as the released code of UVC, TimeCycle and CRW computes it.

Frames are squashed to 320 x 320. A joint whose first position lies too far outside the frame to leave a trace on the
feature map is not followed, and one that was lost does not count, just as there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.evaluation.scores import Follow, OnFrame, Scores, mean, squashed
from pixeltrail.types import Image, Points

SIZE = 320
OUTSIDE = 12.0
"""Pixels of the squashed frame: three deviations of the Gaussian that is drawn for a joint."""
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
KINDS: tuple[Literal["instance", "max"], ...] = ("instance", "max")


class Clip(Protocol):
    """``pixeltrail.data.jhmdb.JhmdbClip`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def joints(self) -> NDArray[np.float64]: ...
    def images(self) -> Iterator[Image]: ...


def normalised_distances(
    predicted: ArrayLike, truth: ArrayLike, kind: Literal["instance", "max"] = "instance"
) -> NDArray[np.float64]:
    """Distances (T - 1, P) of one clip in units of the person's size; NaN where nothing was predicted.

    ``predicted``, ``truth`` (T, P, 2) in pixels; frame 0, which is given, is left out. The size is that of the box around
    the true joints for which there is a prediction: 0.6 of its diagonal (``instance``), or its longer side (``max``).
    Raises ShapeError.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape or p.ndim != 3 or p.shape[2] != 2:
        raise ShapeError(f"jhmdb: expected predicted and truth (T, P, 2), got {p.shape} and {t.shape}")
    p, t = p[1:], t[1:]
    seen = np.asarray(np.isfinite(p).all(axis=2, keepdims=True))
    low = np.min(t, axis=1, initial=np.inf, where=seen)
    high = np.max(t, axis=1, initial=-np.inf, where=seen)
    sides = np.where(np.isfinite(high), high - low, np.nan)
    size = 0.6 * np.linalg.norm(sides, axis=1) if kind == "instance" else sides.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a single joint has a box without a size: never right
        distances = np.linalg.norm(p - t, axis=2) / size[:, None]
    return np.where(seen[..., 0] & np.isnan(distances), np.inf, distances)


def pck_by_joint(distances: Iterable[NDArray[np.float64]], alpha: float) -> NDArray[np.float64]:
    """(P,) share of the distances of each joint, over the frames of all clips together, that are at most ``alpha``; NaN
    for a joint without any."""
    together = np.concatenate(list(distances))
    known = ~np.isnan(together)
    with np.errstate(invalid="ignore"):
        right = ((together <= alpha) & known).sum(axis=0) / known.sum(axis=0)
    return np.asarray(right, np.float64)


def evaluate_jhmdb(
    follow: Follow,
    clips: Iterable[Clip],
    *,
    clip_count: int | None = None,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Scores:
    """PCK by both kinds of size: the mean over joints of `pck_by_joint` for alpha 0.1 ... 0.5.

    ``on_frame(stage, clips done, of how many)``. Raises InputError without a clip.
    """
    kept: dict[str, list[NDArray[np.float64]]] = {kind: [] for kind in KINDS}
    rows = []
    for clip in clips:
        predicted = _followed(follow, clip)
        distances = {kind: normalised_distances(predicted, clip.joints, kind) for kind in KINDS}
        for kind, of_clip in distances.items():
            kept[kind].append(of_clip)
        rows.append(
            {"sequence": clip.name, "frames": len(predicted), **_measures({k: [d] for k, d in distances.items()})}
        )
        if on_frame:
            on_frame("clips", len(rows), clip_count or len(rows))
    if not rows:
        raise InputError("jhmdb: no clip was given; one at least is needed")
    overall = _measures(kept)
    joints = [
        {"object": f"joint {number}", **{name: float(values[number - 1]) for name, values in _by_joint(kept).items()}}
        for number in range(1, len(kept["instance"][0][0]) + 1 if len(kept["instance"][0]) else 1)
    ]
    return Scores("jhmdb", tuple(overall), overall, rows, joints, dict(settings or {}))


def _by_joint(distances: Mapping[str, list[NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    return {f"PCK_{k}_{alpha}": pck_by_joint(distances[k], alpha) for k in KINDS for alpha in ALPHAS}


def _measures(distances: Mapping[str, list[NDArray[np.float64]]]) -> dict[str, float]:
    return {name: mean(values.tolist()) for name, values in _by_joint(distances).items()}


def _followed(follow: Follow, clip: Clip) -> NDArray[np.float64]:
    """Where the joints are (T, P, 2), NaN for those that are not followed or lost."""
    images = clip.images()
    first = next(images)
    height, width = first.shape[:2]
    scale = np.array([SIZE / width, SIZE / height])
    start = clip.joints[0] * scale
    inside = ((start >= -OUTSIDE) & (start <= SIZE - 1 + OUTSIDE)).all(axis=1)
    predicted = np.full(clip.joints.shape, math.nan)
    if not inside.any():
        return predicted

    def frames() -> Iterator[Image]:
        yield first
        yield from images

    points = Points(start[inside].astype(np.float32))
    for t, found in enumerate(follow(squashed(frames(), (SIZE, SIZE)), points)):
        known = np.where((found.confidence > 0)[:, None], found.xy.astype(np.float64), math.nan)
        predicted[t, inside] = known / scale
    return predicted
