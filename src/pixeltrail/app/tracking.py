"""What jobs do that need torch: follow objects and points through a range of frames, adapt the weights to the video."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pixeltrail.app import runs
from pixeltrail.app.jobs import Job
from pixeltrail.app.project import Project
from pixeltrail.errors import InputError
from pixeltrail.sessions import PointSession
from pixeltrail.tracker import Tracker
from pixeltrail.training.adapt import adapt_file
from pixeltrail.types import Image, LabelMap, Points

CHUNK_BYTES = 128 << 20
SAVE_EVERY = 25
"""Frames between two saves, or a hundredth of those that are tracked: saving must not take over in long videos."""


def walk(project: Project, begin: int, end: int) -> Iterator[tuple[int, Image]]:
    """The frames from ``begin`` to ``end``, both included, in this order; backward they are read in chunks."""
    seeker = project.frames.seeker()
    if begin <= end:
        yield from ((t, seeker.frame(t)) for t in range(begin, end + 1))
        return
    chunk = max(8, CHUNK_BYTES // (project.size[0] * project.size[1] * 3))
    while begin >= end:
        low = max(end, begin - chunk + 1)
        yield from reversed([(t, seeker.frame(t)) for t in range(low, begin + 1)])
        begin = low - 1


def track_masks(tracker: Tracker, begin: int, end: int, chosen: list[int]) -> Callable[[Job], None]:
    """Follow the objects of frame ``begin`` to frame ``end``, backward where that is smaller.

    All key frames that lie behind ``begin`` are references, and each that is met on the way becomes one; none is
    written to. Of what is found only the ``chosen`` objects are taken. An object that the user has erased on a key frame
    is gone from there on.
    """

    def work(job: Job) -> None:
        project, step = job.project, 1 if begin <= end else -1
        first = LabelMap(project.mask(begin))
        if not first.objects:
            raise InputError(f"frame {begin} shows no object; paint one there, then track from it")
        session = tracker.live()
        gone: set[int] = set()
        behind = sorted((t for t in project.keys if (begin - t) * step > 0), key=lambda t: t * step)
        seeker = project.frames.seeker()
        for t in behind:
            if (known := LabelMap(project.mask(t))).objects:
                with job.turn():
                    session.step(seeker.frame(t), known)
        total, past = abs(end - begin) + 1, project.past(job.id)
        for done, (t, image) in enumerate(walk(project, begin, end), 1):
            is_key = t in project.keys
            labels = LabelMap(project.mask(t)) if is_key or t == begin else None
            if is_key and labels is not None:
                gone = (gone | set(project.keys[t])) - set(labels.objects)
            with job.turn():
                found = session.step(image, labels if labels is not None and labels.objects else None)
            job.done, job.total = done, total
            if labels is None:
                wanted = [i for i in chosen if i in found.objects]
                ids = np.where(np.isin(found.ids, list(gone)), np.uint8(0), found.ids) if gone else found.ids
                mask = project.track(
                    t, ids, wanted, {i: 0.0 if i in gone else c for i, c in found.objects.items()}, past
                )
                row = project.rows[t]
                sure = {o["id"]: o["confidence"] for o in row["objects"]}
                job.publish(
                    project.id, {"type": "mask", "frame": t, "confidence": sure, **_progress(job)}, runs.encode(mask)
                )
            else:
                job.tell()
            if done % max(SAVE_EVERY, len(project.rows) // 100) == 0:
                project.save()

    return work


def track_points(tracker: Tracker, begin: int, end: int) -> Callable[[Job], None]:
    """Follow all points that are on frame ``begin`` to frame ``end``; where the user has set one, it goes on from there."""

    def work(job: Job) -> None:
        project = job.project
        points = {p.id: p for p in project.points}
        place = {i: xyc[:2] for i, xyc in project.followed.get(begin, {}).items() if i in points}
        place |= {i: p.keys[begin] for i, p in points.items() if begin in p.keys}
        if not place:
            raise InputError(f"frame {begin} has no point; set one there, then track from it")
        session: PointSession | None = None
        total, past = abs(end - begin) + 1, project.past(job.id)
        for done, (t, image) in enumerate(walk(project, begin, end), 1):
            corrected = {i: p.keys[t] for i, p in points.items() if t in p.keys}
            job.done, job.total = done, total
            with job.turn():
                if session is not None:
                    found = session.step(image)
                    now = {
                        i: (float(x), float(y), float(c))
                        for i, (x, y), c in zip(place, found.xy, found.confidence, strict=True)
                    }
                    place = {i: (x, y) for i, (x, y, _) in now.items()}
                    project.place_points(t, {**now, **{i: (*xy, 1.0) for i, xy in corrected.items()}}, past)
                if session is None or corrected:
                    place |= corrected
                    session = PointSession(tracker, Points(np.array(list(place.values()), np.float32)))
                    session.step(image)
                    project.place_points(t, {i: (*xy, 1.0) for i, xy in corrected.items()})
            job.publish(
                project.id, {"type": "points", "frame": t, "points": project.followed[t], **_progress(job)}, b""
            )
            if done % max(SAVE_EVERY, len(project.rows) // 100) == 0:
                project.save()

    return work


def adapt(method: str, quality: str, minutes: float, device: str) -> Callable[[Job], None]:
    """Train on this video without labels for some minutes; what gains nothing leaves the weights as they are."""

    def work(job: Job) -> None:
        def show(stage: str, done: int, total: int | None, note: str = "", /) -> None:
            job.check()
            job.note = note or stage
            job.step(done, total or 0)

        project = job.project
        adapted = adapt_file(
            method, [project.source.path], project.adapted, quality=quality, minutes=minutes, device=device,
            on_progress=show,
        )  # fmt: skip
        project.adaptation = adapted.table()
        job.note = (
            "choose it under Method, or see before and after."
            if adapted.kept != "original"
            else "no gain, so the weights stay as they are."
        )

    return work


def _progress(job: Job) -> dict[str, object]:
    return {"job": job.id, "done": job.done, "total": job.total}
