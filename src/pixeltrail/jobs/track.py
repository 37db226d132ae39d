"""The job itself: each direction in turn, frame by frame, then the results that need all frames."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pixeltrail.data.files import fingerprint, require_writable_folder
from pixeltrail.data.labels import write_labels
from pixeltrail.data.video import Frame, FrameSource, VideoWriter
from pixeltrail.errors import DamagedInputError, InputError, PixeltrailError
from pixeltrail.flow.chain import FlowLive, FlowPoints, FlowTracker
from pixeltrail.jobs.folder import JobFolder, require_apart
from pixeltrail.jobs.results import pictures, row, shape, write_confidence, write_points, write_tracks
from pixeltrail.sessions import Live, PointSession
from pixeltrail.tracker import Tracker
from pixeltrail.types import Boxes, LabelMap, Points

Direction = Literal["forward", "backward", "both"]
OnFrame = Callable[[str, int, int | None], None]
SAVE_EVERY = 50
CHUNK_BYTES = 256 << 20
FPS = 25.0
Session = Live | PointSession | FlowLive | FlowPoints
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done: ``frames`` tracked now (resumed ones not counted), and why not all could be, where that is so."""

    frames: int
    problem: PixeltrailError | None = None


def track_video(
    tracker: Tracker | FlowTracker,
    source: FrameSource,
    out: str | Path,
    given: Mapping[int, LabelMap] | Points,
    *,
    settings: Mapping[str, Any],
    direction: Direction = "forward",
    resume: bool = False,
    with_overlay: bool = True,
    with_confidence: bool = False,
    save_every: int = SAVE_EVERY,
    on_frame: OnFrame | None = None,
) -> Summary:
    """Track ``given`` (frame number -> labels, or points) through ``source`` and write the results to ``out``.

    ``direction``: ``"forward"`` begins at the first labelled frame; ``"backward"`` at the last one, and is the same as
    forward on the reversed video; ``"both"`` goes both ways from the first labelled frame, and with each point from its
    own. ``with_confidence`` adds each pixel's as ``confidence/NAME.png``. ``settings`` say how ``tracker`` was made:
    they go into ``tracks.json``, and a resumed job must have the same, as well as the same video, ``given`` and direction.
    ``on_frame(stage, frames done, of how many)`` reports progress.

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
    overlay = _overlay(source, out) if with_overlay else None
    inputs = {"video": fingerprint(source.files), "given": _digest(given), "direction": direction}
    job = JobFolder(out, {**inputs, **settings})
    job.begin(resume=resume, masks=not isinstance(given, Points))
    if with_confidence:
        require_writable_folder(job.confidence)
    done = 0
    problems: list[PixeltrailError] = []
    for leg in legs:
        session = leg.session(tracker)
        state, start = job.restore(leg.name)
        if state is not None:
            session.load_state(state)
        with job.journal(leg.name) as write:
            for k, frame in enumerate(ahead(until_problem(leg.frames(source, start), problems)), start):
                write(_step(session, frame, leg.labels(k), job, with_confidence))
                done += 1
                if (k + 1) % save_every == 0:
                    job.save(leg.name, session.state(), k + 1)
                if on_frame:
                    on_frame(leg.stage, k + 1, leg.length(source))
            job.save(leg.name, session.state(), session.index + 1)
    if next(job.rows(), None) is None:
        raise InputError(f"{problems[0] if problems else source.path}; no frame could be tracked")
    if isinstance(given, Points):
        write_points(out / "points.csv", given.names, job.rows())
    else:
        head = {"width": source.size[1], "height": source.size[0], "fps": source.fps, "direction": direction}
        write_tracks(out / "tracks.json", source.path.name, {**head, **settings}, job.rows())
    if overlay:
        _write_overlay(overlay, job, source, on_frame)
    job.end()
    return Summary(done, problems[0] if problems else None)


def boxes_to_labels(boxes: Boxes, size: tuple[int, int]) -> LabelMap:
    """Boxes as filled rectangles of labels (H, W); where they overlap the later one wins."""
    ids = np.zeros(size, np.uint8)
    for (left, top, right, bottom), number in zip(np.rint(boxes.xyxy).astype(int), boxes.ids, strict=True):
        ids[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = number
    return LabelMap(ids)


def ahead(items: Iterator[T], count: int = 2) -> Iterator[T]:
    """The same items, of which ``count`` are made ready in a thread while the one before them is used."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, items, end))
            yield item


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

    def session(self, tracker: Tracker | FlowTracker) -> Session:
        if not isinstance(self.given, Points):
            return tracker.live()
        return tracker.points(self.given) if isinstance(tracker, FlowTracker) else PointSession(tracker, self.given)

    def labels(self, step: int) -> LabelMap | None:
        return None if isinstance(self.given, Points) else self.given.get(step)

    def frames(self, source: FrameSource, start: int) -> Iterator[Frame]:
        """The leg's frames in its order, without the ``start`` first ones. Backward they are read in chunks."""
        if self.name == "forward":
            yield from source.frames(self.begin + start)
            return
        end = self.begin - start + 1
        chunk = max(8, CHUNK_BYTES // (source.size[0] * source.size[1] * 3))
        while end > 0:
            begin = max(0, end - chunk)
            yield from reversed([frame for _, frame in zip(range(end - begin), source.frames(begin), strict=False)])
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
    numbers = sorted({int(t) for t in given.t} if isinstance(given, Points) else given)
    if not numbers:
        raise InputError(f"{source.path}: nothing is given to track; give labels of at least one frame")
    if not isinstance(given, Points):
        for t, labels in given.items():
            if labels.size != source.size:
                (h, w), (height, width) = labels.size, source.size
                raise InputError(f"{source.path}: frame {t}: labels are {w}x{h}, frames {width}x{height}; resize them")
    for number in sorted({numbers[0], numbers[-1]} - {0}):
        begins = number == (numbers[-1] if direction == "backward" else numbers[0])
        try:
            if next(source.frames(number), None) is None:
                raise InputError(f"{source.path}: frame {number}: is beyond the video's end; frames count from 0")
        except DamagedInputError as error:
            if begins:  # else there is something to track before the damage
                raise InputError(f"{error}; label a frame before it instead of frame {number}") from error


def until_problem(frames: Iterator[Frame], problems: list[PixeltrailError]) -> Iterator[Frame]:
    """The frames up to the first that cannot be had; what was wrong with it is added to ``problems``."""
    try:
        yield from frames
    except (DamagedInputError, InputError) as error:
        problems.append(error)


def _step(session: Session, frame: Frame, labels: LabelMap | None, job: JobFolder, confidence: bool) -> dict[str, Any]:
    """Track one frame, write its mask, and say the rest in one entry of the journal."""
    if isinstance(session, PointSession | FlowPoints):
        followed = session.step(frame.image)
        points = [
            None if np.isnan(x) else [round(float(x), 3), round(float(y), 3), round(float(c), 4)]
            for (x, y), c in zip(followed.xy, followed.confidence, strict=True)
        ]
        return row(frame, points=points)
    tracked = session.step(frame.image, labels)
    write_labels(job.masks / f"{frame.name}.png", LabelMap(tracked.ids))
    if confidence:
        write_confidence(job.confidence / f"{frame.name}.png", tracked.confidence)
    objects = [
        {"id": i, **shape(tracked.ids == i), "confidence": round(c, 4)} for i, c in sorted(tracked.objects.items())
    ]
    return row(frame, objects=objects)


def _digest(given: Mapping[int, LabelMap] | Points) -> str:
    digest = hashlib.sha256()
    if isinstance(given, Points):
        digest.update(given.xy.tobytes() + given.t.tobytes() + json.dumps(given.names).encode())
    else:
        for t, labels in sorted(given.items()):
            digest.update(t.to_bytes(8, "big") + labels.ids.tobytes())
    return digest.hexdigest()[:12]


def _overlay(source: FrameSource, out: Path) -> VideoWriter:
    """Refuses, before anything is written, frames of a size that no video can have."""
    try:
        return VideoWriter(out / "overlay.mp4", source.fps if source.fps and source.fps >= 0.01 else FPS, source.size)
    except InputError as error:
        raise InputError(f"{error}, or leave the overlay out (--no-overlay)") from None


def _write_overlay(overlay: VideoWriter, job: JobFolder, source: FrameSource, on_frame: OnFrame | None) -> None:
    """A second pass over the video, so that an interrupted job has lost nothing of its overlay."""
    # What keeps frames from being read has stopped the tracking already: the overlay shows those before it.
    frames = until_problem(source.frames(), [])
    with overlay as video:
        for done, picture in enumerate(ahead(pictures(ahead(frames), job.rows(), job.masks)), 1):
            video.write(picture)
            if on_frame:
                on_frame("overlay", done, source.count)
