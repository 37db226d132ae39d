"""BADJA: percentage of correct keypoints on animals (Biggs et al., *Creatures Great and SMAL*, ACCV 2018).

The joints that are visible in a video's first annotated frame are followed; those that are visible in the later annotated
frames count. A prediction is right within 0.2 times the square root of the animal's area in that frame, as published, and
within some fixed numbers of pixels. One set of numbers per video, then their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError
from pixeltrail.evaluation.points import badja_threshold, pck
from pixeltrail.evaluation.scores import Follow, OnFrame, Scores, mean_of
from pixeltrail.evaluation.worst import Clock, worst_first, worst_of
from pixeltrail.types import Image, Points

PIXELS = (1, 2, 3, 4, 8, 16)
MAIN = "PCK_0.2"
Draw = Callable[[Image, NDArray[np.floating[Any]], NDArray[np.bool_]], Image]
"""A frame, points (P, 2) on it, and which of them (P,) are right; ``pixeltrail.visual.overlay.draw_points`` is one."""


class Video(Protocol):
    """``pixeltrail.data.badja.BadjaVideo`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def at(self) -> NDArray[np.int64]: ...
    @property
    def joints(self) -> NDArray[np.float64]: ...
    @property
    def visible(self) -> NDArray[np.bool_]: ...
    def images(self) -> Iterator[Image]: ...
    def areas(self) -> NDArray[np.float64]: ...


def evaluate_badja(
    follow: Follow,
    videos: Iterable[Video],
    *,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
    draw: Draw | None = None,
) -> Scores:
    """PCK by area and by pixels of the frames as they are. ``draw`` makes pictures of the worst frame of each video.
    Raises InputError without a video, or for a follower that gives another number of frames."""
    rows, curves, pictures = [], [], []
    for video in videos:
        asked = video.visible[0]
        predicted = np.full((len(video.at), int(asked.sum()), 2), math.nan)
        points = Points(video.joints[0, asked].astype(np.float32))
        done, clock = 0, Clock()
        for t, found in enumerate(clock(follow(video.images(), points))):
            predicted[video.at == t] = found.xy
            done = t + 1
            if on_frame:
                on_frame(video.name, done, int(video.at[-1]) + 1)
        if done != video.at[-1] + 1:
            raise InputError(f"{video.name}: {done} frames were followed, {video.at[-1] + 1} are needed")
        truth, visible = video.joints[:, asked], video.visible[:, asked].copy()
        visible[0] = False
        limits = {MAIN: badja_threshold(video.areas()), **{f"PCK_{n}px": np.array(float(n)) for n in PIXELS}}
        scores = {name: pck(predicted, truth, visible, limit) for name, limit in limits.items()}
        size = {"frames": done, "seconds_per_frame": clock.seconds / done, "joints": int(visible.sum())}
        rows.append({"sequence": video.name, **size, **scores})
        right = np.linalg.norm(predicted - truth, axis=2) <= limits[MAIN][:, None]
        counts = np.flatnonzero(visible.any(axis=1))
        shares = [float(right[a, visible[a]].mean()) for a in counts]
        curve = {"sequence": video.name, "object": "joints", "t": video.at[counts].tolist(), MAIN: shares}
        curves.append(curve)
        if draw and shares:
            both = partial(_drawn, draw, predicted[counts], truth[counts], right[counts], visible[counts])
            pictures.append(worst_of(curve, MAIN, video.images(), both))
    if not rows:
        raise InputError("badja: no video was given; one at least is needed")
    measures = (MAIN, *(f"PCK_{n}px" for n in PIXELS))
    overall = mean_of(rows, measures)
    return Scores("badja", measures, overall, rows, [], dict(settings or {}), curves, worst_first(pictures, MAIN))


def _drawn(
    draw: Draw,
    predicted: NDArray[np.float64],
    truth: NDArray[np.float64],
    right: NDArray[np.bool_],
    visible: NDArray[np.bool_],
    image: Image,
    i: int,
) -> list[Image]:
    shown = visible[i]
    return [draw(image, predicted[i, shown], right[i, shown]), draw(image, truth[i, shown], shown[shown])]
