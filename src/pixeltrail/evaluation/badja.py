"""BADJA: percentage of correct keypoints on animals (Biggs et al., *Creatures Great and SMAL*, ACCV 2018).

The joints that are visible in a video's first annotated frame are followed; those that are visible in the later annotated
frames count. A prediction is right within 0.2 times the square root of the animal's area in that frame, as published, and
within some fixed numbers of pixels. One set of numbers per video, then their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError
from pixeltrail.evaluation.points import badja_threshold, pck
from pixeltrail.evaluation.scores import Follow, OnFrame, Scores, mean_of
from pixeltrail.types import Image, Points

PIXELS = (1, 2, 3, 4, 8, 16)


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
) -> Scores:
    """PCK by area and by pixels of the frames as they are. Raises InputError without a video, or for a follower that
    gives another number of frames."""
    rows = []
    for video in videos:
        asked = video.visible[0]
        predicted = np.full((len(video.at), int(asked.sum()), 2), math.nan)
        points = Points(video.joints[0, asked].astype(np.float32))
        done = 0
        for t, found in enumerate(follow(video.images(), points)):
            predicted[video.at == t] = found.xy
            done = t + 1
            if on_frame:
                on_frame(video.name, done, int(video.at[-1]) + 1)
        if done != video.at[-1] + 1:
            raise InputError(f"{video.name}: {done} frames were followed, {video.at[-1] + 1} are needed")
        visible = video.visible[:, asked].copy()
        visible[0] = False
        limits = {"PCK_0.2": badja_threshold(video.areas()), **{f"PCK_{n}px": np.array(float(n)) for n in PIXELS}}
        found_all = {name: pck(predicted, video.joints[:, asked], visible, limit) for name, limit in limits.items()}
        rows.append({"sequence": video.name, "frames": done, "joints": int(visible.sum()), **found_all})
    if not rows:
        raise InputError("badja: no video was given; one at least is needed")
    measures = ("PCK_0.2", *(f"PCK_{n}px" for n in PIXELS))
    return Scores("badja", measures, mean_of(rows, measures), rows, settings=dict(settings or {}))
