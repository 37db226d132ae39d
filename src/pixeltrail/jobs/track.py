"""Tracking a whole video into a folder: interruptible, resumable, in memory that does not grow with its length.

The folder holds ``masks/NAME.png`` and ``tracks.json`` for masks and boxes, ``points.csv`` for points, and
``overlay.mp4``. While work goes on it also holds ``.job/``: the settings, for each direction a journal with one line
per finished frame, and every ``save_every`` frames the state of the tracker, from which ``resume`` goes on with
identical results. Whatever stops the job, each file is whole or not there.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import PART, atomic, explain, fingerprint, require_writable_folder, write_text
from pixeltrail.data.labels import write_labels
from pixeltrail.data.video import Frame, FrameSource, VideoWriter
from pixeltrail.errors import DamagedInputError, InputError, PixeltrailError
from pixeltrail.tracker import Live, PointSession, Tracker
from pixeltrail.types import Boxes, LabelMap, Points
from pixeltrail.visual.overlay import draw_points, overlay
from pixeltrail.weights import read_card, read_tensors, save_tensors

Direction = Literal["forward", "backward", "both"]
OnFrame = Callable[[str, int, int | None], None]
SAVE_EVERY = 50
CHUNK_BYTES = 256 << 20
FPS = 25.0
POINTS_HEAD = "frame,name,point,x,y,confidence\n"
TRACKS_HEAD = '{\n "video": '


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done: ``frames`` tracked now (resumed ones not counted), and why not all could be, where that is so."""

    frames: int
    problem: PixeltrailError | None = None


def track_video(
    tracker: Tracker,
    source: FrameSource,
    out: str | Path,
    given: Mapping[int, LabelMap] | Points,
    *,
    settings: Mapping[str, Any],
    direction: Direction = "forward",
    resume: bool = False,
    with_overlay: bool = True,
    save_every: int = SAVE_EVERY,
    on_frame: OnFrame | None = None,
) -> Summary:
    """Track ``given`` (frame number -> labels, or points) through ``source`` and write the results to ``out``.

    ``direction``: ``"forward"`` begins at the first labelled frame; ``"backward"`` at the last one and is the same as
    forward on the reversed video; ``"both"`` goes both ways from the first labelled frame, and with each point from its
    own. ``settings`` say how ``tracker`` was made: they go into ``tracks.json``, and a resumed job must have the same,
    as well as the same video, ``given`` and direction. ``on_frame(stage, frames done, of how many)`` reports progress.

    A video that is damaged, or changes its size, in its middle is tracked up to there; the summary holds the error.
    Raises ``InputError``, before anything is written, for labels that cannot be reached or do not fit, a folder that
    holds something else, or nothing to resume; ``DiskError`` for a full disk, after which ``resume`` goes on.
    """
    out = Path(out)
    require_apart(out, source.files)
    _require_reachable(source, given, direction)
    legs = _legs(given, direction)
    for leg in legs:
        leg.session(tracker)  # refuses too many points before anything is written
    job = _Job(out, {"video": fingerprint(source.files), "given": _digest(given), "direction": direction, **settings})
    job.begin(resume=resume, masks=not isinstance(given, Points))
    done, problems = 0, []
    for leg in legs:
        session, start = job.restore(leg, tracker)
        with job.journal(leg) as write:
            for k, frame in enumerate(_until_problem(leg.frames(source, start), problems), start):
                labels = None if isinstance(leg.given, Points) else leg.given.get(k)
                write(_row(session, frame, labels, job.masks))
                done += 1
                if (k + 1) % save_every == 0:
                    job.save(leg, session)
                if on_frame:
                    on_frame(leg.stage, k + 1, leg.length(source))
            job.save(leg, session)
    if next(job.rows(), None) is None:
        raise InputError(f"{problems[0] if problems else source.path}; no frame could be tracked")
    if isinstance(given, Points):
        _write_points(job, given, out / "points.csv")
    else:
        head = {"video": source.path.name, "width": source.size[1], "height": source.size[0], "fps": source.fps}
        _write_tracks(job, {**head, "direction": direction, **settings}, out / "tracks.json")
    if with_overlay:
        _write_overlay(job, source, out, given, on_frame)
    job.end()
    return Summary(done, problems[0] if problems else None)


def resumable(out: Path) -> bool:
    """Whether ``out`` holds a job that ``resume`` would go on with."""
    return (out / ".job" / "settings.json").is_file()


def require_apart(out: Path, files: Iterable[Path]) -> None:
    """Raise ``InputError`` if a job in ``out`` would overwrite one of the ``files`` that it reads."""
    masks, written = (out / "masks").resolve(), {(out / n).resolve() for n in ("overlay.mp4", "points.csv")}
    for file in files:
        if masks in (file.resolve(), *file.resolve().parents) or file.resolve() in written:
            raise InputError(f"{file}: lies where {out} will be written; choose another --out")


def boxes_to_labels(boxes: Boxes, size: tuple[int, int]) -> LabelMap:
    """Boxes as filled rectangles of labels (H, W); where they overlap the later one wins."""
    ids = np.zeros(size, np.uint8)
    for (left, top, right, bottom), number in zip(np.rint(boxes.xyxy).astype(int), boxes.ids, strict=True):
        ids[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = number
    return LabelMap(ids)


def shape(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """``area`` in pixels, ``box`` [left, top, right, bottom] (right and bottom exclusive) and ``centroid`` [x, y] of a
    mask (H, W); box and centroid are None where it is empty."""
    columns, rows = mask.sum(0), mask.sum(1)
    area = int(columns.sum())
    if not area:
        return {"area": 0, "box": None, "centroid": None}
    x, y = np.flatnonzero(columns), np.flatnonzero(rows)
    centroid = [round(float(n @ np.arange(len(n)) / area), 2) for n in (columns, rows)]
    return {"area": area, "box": [int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1], "centroid": centroid}


# One way through the video


@dataclass(frozen=True, slots=True)
class _Leg:
    """One direction: the frame that it begins at, and what is given, by the leg's own steps from 0."""

    name: Literal["forward", "backward"]
    begin: int
    given: Mapping[int, LabelMap] | Points

    @property
    def stage(self) -> str:
        return "tracking" if self.name == "forward" else "tracking back"

    def length(self, source: FrameSource) -> int | None:
        if self.name == "backward":
            return self.begin + 1
        return None if source.count is None else source.count - self.begin

    def session(self, tracker: Tracker) -> Live | PointSession:
        return PointSession(tracker, self.given) if isinstance(self.given, Points) else Live(tracker)

    def frames(self, source: FrameSource, start: int) -> Iterator[Frame]:
        """The leg's frames in its order, without the ``start`` first ones. Backward they are read in chunks."""
        if self.name == "forward":
            yield from source.frames(self.begin + start)
            return
        end = self.begin - start + 1
        chunk = max(8, CHUNK_BYTES // (source.size[0] * source.size[1] * 3))
        while end > 0:
            begin = max(0, end - chunk)
            held = [frame for _, frame in zip(range(end - begin), source.frames(begin), strict=False)]
            yield from reversed(held)
            end = begin


def _legs(given: Mapping[int, LabelMap] | Points, direction: Direction) -> list[_Leg]:
    if isinstance(given, Points):
        first, last = int(given.t.min()), int(given.t.max())
        forward = _Leg("forward", first, Points(given.xy, given.t - first, given.names))
        backward = _Leg("backward", last, Points(given.xy, last - given.t, given.names))
    else:
        first, last = min(given), max(given)
        forward = _Leg("forward", first, {t - first: labels for t, labels in given.items()})
        backward = _Leg("backward", last, {last - t: labels for t, labels in given.items()})
        if direction == "both":
            backward = _Leg("backward", first, {0: given[first]})
    if direction == "both":
        return [backward, forward] if backward.begin > 0 else [forward]
    return [forward if direction == "forward" else backward]


def _require_reachable(source: FrameSource, given: Mapping[int, LabelMap] | Points, direction: Direction) -> None:
    """Refuse what does not fit the video before hours are spent on it."""
    numbers = sorted({int(t) for t in given.t}) if isinstance(given, Points) else sorted(given)
    if not numbers:
        raise InputError(f"{source.path}: nothing is given to track; give labels of at least one frame")
    if not isinstance(given, Points):
        for t, labels in given.items():
            if labels.size != source.size:
                (h, w), (height, width) = labels.size, source.size
                raise InputError(f"{source.path}: frame {t}: labels are {w}x{h}, frames {width}x{height}; resize them")
    for number in {numbers[0], numbers[-1]} - {0}:
        begins = number == (numbers[-1] if direction == "backward" else numbers[0])
        try:
            if next(source.frames(number), None) is None:
                raise InputError(f"{source.path}: frame {number}: is beyond the video's end; frames count from 0")
        except DamagedInputError as error:
            if begins:  # else there is something to track before the damage
                raise InputError(f"{error}; label a frame before it instead of frame {number}") from error


def _until_problem(frames: Iterator[Frame], problems: list[PixeltrailError]) -> Iterator[Frame]:
    """The frames up to the first that cannot be had; what was wrong with it is added to ``problems``."""
    try:
        yield from frames
    except (DamagedInputError, InputError) as error:
        problems.append(error)


def _row(session: Live | PointSession, frame: Frame, labels: LabelMap | None, masks: Path) -> dict[str, Any]:
    """Track one frame, write its mask, and say the rest in one entry of the journal."""
    row: dict[str, Any] = {"frame": frame.index, "name": frame.name}
    if frame.time is not None:
        row["time"] = round(frame.time, 6)
    if isinstance(session, PointSession):
        followed = session.step(frame.image)
        row["points"] = [
            None if np.isnan(x) else [round(float(x), 3), round(float(y), 3), round(float(c), 4)]
            for (x, y), c in zip(followed.xy, followed.confidence, strict=True)
        ]
        return row
    tracked = session.step(frame.image, labels)
    write_labels(masks / f"{frame.name}.png", LabelMap(tracked.ids))
    row["objects"] = [
        {"id": i, **shape(tracked.ids == i), "confidence": round(c, 4)} for i, c in sorted(tracked.objects.items())
    ]
    return row


def _digest(given: Mapping[int, LabelMap] | Points) -> str:
    digest = hashlib.sha256()
    if isinstance(given, Points):
        digest.update(given.xy.tobytes() + given.t.tobytes() + json.dumps(given.names).encode())
    else:
        for t, labels in sorted(given.items()):
            digest.update(t.to_bytes(8, "big") + labels.ids.tobytes())
    return digest.hexdigest()[:12]


