"""YouTube-VOS: J and F of objects of seen and of unseen categories (Xu et al., *YouTube-VOS*, ECCV 2018).

An object's score is the mean over the annotated frames after the one in which it is given, J and F as in DAVIS; then the
mean over the objects of each kind, and G, the mean of the four. The server that scores the official validation split
keeps its masks to itself; here any split with masks can be scored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError
from pixeltrail.evaluation.masks import boundary_f, jaccard
from pixeltrail.evaluation.scores import Masks, OnFrame, Scores, mean
from pixeltrail.types import Image, LabelMap

Ids = NDArray[np.uint8]
Write = Callable[[str, str, Ids], None]
"""Takes a mask of a submission: video, frame, ids."""
MEASURES = ("G", "J_seen", "F_seen", "J_unseen", "F_unseen")


class Object(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def category(self) -> str: ...
    @property
    def first(self) -> int: ...


class Video(Protocol):
    """``pixeltrail.data.youtubevos.YouTubeVideo`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def frames(self) -> Sequence[Any]: ...
    @property
    def annotations(self) -> Mapping[int, Any]: ...
    @property
    def objects(self) -> Sequence[Any]: ...
    def images(self) -> Iterator[Image]: ...
    def truth(self, t: int, /) -> Ids: ...
    def given(self) -> dict[int, LabelMap]: ...
    def expected(self) -> list[int]: ...


def evaluate_youtubevos(
    masks: Masks,
    videos: Iterable[Video],
    *,
    seen: Collection[str] | None = None,
    write: Write | None = None,
    on_frame: OnFrame | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Scores:
    """Track every video, each object from its first frame, and score it where there are masks.

    ``seen``: the categories of the training split; None: all are, and G is the mean of J and F. ``write`` receives the
    masks of a submission. An object of which no later frame is annotated (as in the official validation split) has no
    score. Raises InputError for masks of another size or number.
    """
    rows: list[dict[str, Any]] = []
    sequences = []
    for video in videos:
        own = _scored(masks, video, write, on_frame)
        for row in own:
            row["seen"] = seen is None or row["category"] in seen
        rows += own
        sequences.append({"sequence": video.name, "frames": len(video.frames), **_means(own)})
    return Scores("youtube-vos", MEASURES, _means(rows), sequences, rows, dict(settings or {}))


def _scored(masks: Masks, video: Video, write: Write | None, on_frame: OnFrame | None) -> list[dict[str, Any]]:
    found: dict[int, list[tuple[float, float]]] = {thing.id: [] for thing in video.objects}
    expected = set(video.expected()) if write else set()
    done = 0
    for t, ids in enumerate(masks(video.images(), video.given())):
        done = t + 1
        if t in expected and write:
            write(video.name, video.frames[t].stem, ids)
        later = [thing for thing in video.objects if thing.first < t] if t in video.annotations else []
        if later:
            truth = video.truth(t)
            if ids.shape != truth.shape:
                raise InputError(f"{video.name}: frame {t}: the mask is {ids.shape}, the annotation {truth.shape}")
            for thing in later:
                p, q = ids == thing.id, truth == thing.id
                found[thing.id].append((jaccard(p, q), boundary_f(p, q)))
        if on_frame:
            on_frame(video.name, done, len(video.frames))
    if done != len(video.frames):
        raise InputError(f"{video.name}: {done} masks for {len(video.frames)} frames; one per frame is needed")
    return [
        {"sequence": video.name, "object": thing.id, "category": thing.category, "frames": len(found[thing.id]),
         "J": mean(j for j, _ in found[thing.id]), "F": mean(f for _, f in found[thing.id])}
        for thing in video.objects
    ]  # fmt: skip


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    parts = {
        f"{measure}_{kind}": mean(row[measure] for row in rows if row["seen"] is (kind == "seen"))
        for kind in ("seen", "unseen")
        for measure in ("J", "F")
    }
    return {"G": mean(parts.values()), **parts}
