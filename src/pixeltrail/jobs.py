"""Tracking a whole video into a folder: interruptible, resumable, in memory that does not grow with its length.

The folder holds ``masks/NAME.png`` and ``tracks.json`` for masks and boxes, ``points.csv`` for points, and
``overlay.mp4``. While work goes on it also holds ``.job/``: the settings, a journal with one line per finished frame,
and every ``SAVE_EVERY`` frames the state of the tracker, from which ``resume`` goes on with identical results.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import atomic, require_writable_folder, write_text
from pixeltrail.data.labels import write_labels
from pixeltrail.data.video import Frame, FrameSource, VideoWriter
from pixeltrail.errors import DamagedInputError, InputError
from pixeltrail.tracker import Live, PointSession, Tracker
from pixeltrail.types import Boxes, LabelMap, Points
from pixeltrail.visual.overlay import draw_points, overlay
from pixeltrail.weights import read_card, read_tensors, save_tensors

Direction = Literal["forward", "backward", "both"]
SAVE_EVERY = 50
CHUNK_BYTES = 256 << 20
FPS = 25.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done: ``frames`` tracked now (resumed ones not counted), ``damage`` one line, or empty."""

    frames: int
    damage: str = ""


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
    on_frame: Callable[[str, int], None] | None = None,
) -> Summary:
    """Track ``given`` (frame number -> labels, or points) through ``source`` and write the results to ``out``.

    ``direction``: from the first labelled frame to the end, from it back to the start, or both ways. ``settings`` name
    the job (video, labels, weights): a resumed job must have the same. ``on_frame(stage, frames done)`` reports
    progress. A video damaged in its middle is tracked up to there; the summary names the damage.
    Raises ``InputError`` for a folder that holds something else, labels beyond the video's end, or another job's state.
    """
    out = Path(out)
    job = _Folder(out, {**settings, "direction": direction}, resume=resume)
    first = int(given.t.min()) if isinstance(given, Points) else min(given)
    if source.count is not None and isinstance(given, Mapping) and max(given) >= source.count:
        raise InputError(f"{source.path}: labels are for frame {max(given)}, the video has {source.count} frames")
    done, damage = 0, ""
    legs: list[Literal["forward", "backward"]] = ["backward", "forward"] if direction == "both" else [direction]
    for leg in legs:
        if leg == "backward" and first == 0 and direction == "both":
            continue
        session: Live | PointSession = PointSession(tracker, given) if isinstance(given, Points) else Live(tracker)
        start = job.restore(leg, session)
        labels: dict[int, LabelMap] = {}  # by step; on the way back only the first labelled frame is met
        if not isinstance(given, Points):
            labels = {t - first: v for t, v in given.items()} if leg == "forward" else {0: given[first]}
        try:
            for k, frame in enumerate(_frames(source, leg, first, start), start):
                job.record(leg, k, _row(session, frame, labels.get(k), job.masks), session)
                done += 1
                if on_frame:
                    on_frame("tracking", done)
        except DamagedInputError as error:
            damage = str(error)
        job.finish(leg, session)
    if not job.any_rows():
        raise InputError(f"{source.path}: the labelled frame {first} could not be reached; the video ends before it")
    if isinstance(given, Points):
        _write_points(job, given, out / "points.csv")
    else:
        _write_tracks(job, source, settings, out / "tracks.json")
    if with_overlay:
        _write_overlay(job, source, out, given, on_frame)
    job.close()
    return Summary(done, damage)


def _frames(source: FrameSource, leg: str, first: int, start: int) -> Iterator[Frame]:
    """Frames of a leg, the labelled frame first, without the ``start`` frames that are done."""
    if leg == "forward":
        yield from source.frames(first + start)
        return
    end = first - start + 1
    chunk = max(8, CHUNK_BYTES // (source.size[0] * source.size[1] * 3))
    while end > 0:
        begin = max(0, end - chunk)
        held = []
        for frame in source.frames(begin):
            held.append(frame)
            if len(held) == end - begin:
                break
        if len(held) < end - begin:
            raise InputError(f"{source.path}: frame {begin + len(held)} could not be read; the video ends before it")
        yield from reversed(held)
        end = begin


def _row(session: Live | PointSession, frame: Frame, labels: LabelMap | None, masks: Path) -> dict[str, Any]:
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


class _Folder:
    """The results folder while work goes on: journal and state."""

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.out, self.masks, self.work = out, out / "masks", out / ".job"
        self.settings = json.loads(json.dumps(dict(settings)))
        finished = out / "tracks.json", out / "points.csv"
        if resume:
            self._check_same()
        else:
            if self.masks.exists() and not (self.work.exists() or any(f.exists() for f in finished)):
                raise InputError(f"{self.masks}: holds files that pixeltrail track did not write; choose another --out")
            require_writable_folder(out)
            for old in (self.masks, self.work):
                shutil.rmtree(old, ignore_errors=True)
            for file in (*finished, out / "overlay.mp4"):
                file.unlink(missing_ok=True)
        require_writable_folder(self.masks)
        require_writable_folder(self.work)
        write_text(self.work / "settings.json", json.dumps(self.settings, indent=1))
        self.journals: dict[str, Any] = {}

    def _check_same(self) -> None:
        file = self.work / "settings.json"
        if not file.is_file():
            raise InputError(f"{self.out}: nothing to resume (finished, or never begun); leave --resume out")
        theirs = json.loads(file.read_text())
        different = [k for k in self.settings if theirs.get(k) != self.settings[k]]
        if different:
            key = different[0]
            raise InputError(
                f"{self.out}: was begun with {key} {theirs.get(key)!r}, now it is {self.settings[key]!r}; "
                "resume with the same settings, or leave --resume out to begin anew"
            )

    def restore(self, leg: str, session: Live | PointSession) -> int:
        """Load the last saved state of a leg into the session; how many of its frames are done."""
        state, journal = self.work / f"{leg}.safetensors", self.work / f"{leg}.jsonl"
        done = 0
        if state.is_file():
            session.load_state(read_tensors(state))
            done = int(read_card(state)["done"])
        kept: list[str] = []
        if done:
            with open(journal) as file:
                kept = [line for line, _ in zip(file, range(done), strict=False)]
        with atomic(journal) as part:
            part.write_text("".join(kept))
        self.journals[leg] = open(journal, "a")
        return done

    def record(self, leg: str, k: int, row: dict[str, Any], session: Live | PointSession) -> None:
        self.journals[leg].write(json.dumps(row) + "\n")
        if (k + 1) % SAVE_EVERY == 0:
            self._save(leg, k + 1, session)

    def _save(self, leg: str, done: int, session: Live | PointSession) -> None:
        self.journals[leg].flush()
        save_tensors(session.state(), self.work / f"{leg}.safetensors", {"done": done})

    def finish(self, leg: str, session: Live | PointSession) -> None:
        self._save(leg, session.index + 1, session)
        self.journals[leg].close()

    def any_rows(self) -> bool:
        return next(self.rows(), None) is not None

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows in the order of the frames."""
        last = -1
        backward = self.work / "backward.jsonl"
        if backward.is_file():
            with open(backward, "rb") as file:
                starts = [0]
                for line in file:
                    starts.append(starts[-1] + len(line))
                for start in reversed(starts[:-1]):
                    file.seek(start)
                    row = json.loads(file.readline())
                    last = row["frame"]
                    yield row
        forward = self.work / "forward.jsonl"
        if forward.is_file():
            with open(forward) as text:
                for entry in text:
                    row = json.loads(entry)
                    if row["frame"] > last:
                        yield row

    def close(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


def _write_tracks(job: _Folder, source: FrameSource, settings: Mapping[str, Any], path: Path) -> None:
    head = {"video": source.path.name, "width": source.size[1], "height": source.size[0], "fps": source.fps, **settings}
    with atomic(path) as part, open(part, "w") as file:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "frames": [')
        for i, row in enumerate(job.rows()):
            file.write(("" if i == 0 else ",") + "\n  " + json.dumps(row))
        file.write("\n ]\n}\n")


def _write_points(job: _Folder, points: Points, path: Path) -> None:
    with atomic(path) as part, open(part, "w", newline="") as file:
        file.write("frame,name,point,x,y,confidence\n")
        for row in job.rows():
            for name, point in zip(points.names, row["points"], strict=True):
                if point is not None:
                    label = f'"{name.replace(chr(34), chr(34) * 2)}"' if set(name) & set(',"\n') else name
                    file.write(f"{row['frame']},{row['name']},{label},{point[0]},{point[1]},{point[2]}\n")


def _write_overlay(
    job: _Folder,
    source: FrameSource,
    out: Path,
    given: Mapping[int, LabelMap] | Points,
    on_frame: Callable[[str, int], None] | None,
) -> None:
    """A second pass over the video, so that an interrupted job has lost nothing of its overlay."""
    rows = job.rows()
    row = next(rows, None)
    with VideoWriter(out / "overlay.mp4", source.fps or FPS, source.size) as video:
        try:
            for done, frame in enumerate(source.frames(), 1):
                picture = frame.image
                if row is not None and row["frame"] == frame.index:
                    if isinstance(given, Points):
                        xy = np.array([p[:2] if p else (np.nan, np.nan) for p in row["points"]], np.float32)
                        picture = draw_points(picture, xy, ~np.isnan(xy[:, 0]))
                    else:
                        picture = overlay(picture, read_ids(out / "masks" / f"{frame.name}.png"))
                    row = next(rows, None)
                video.write(picture)
                if on_frame:
                    on_frame("overlay", done)
        except DamagedInputError:
            return  # already reported by the tracking leg; the video shows what could be read
