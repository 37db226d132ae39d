"""One video and what is known of it, saved whenever something changes.

A project's folder is one of results as `pixeltrail track` writes it (``masks/NAME.png``, ``tracks.json``,
``points.csv``), so that every command reads it, and ``project.json``: where the video lies, the objects' names and
colours, which frames are key frames, the points as they were set. Every file is written whole or not at all.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.app.frames import FrameCache
from pixeltrail.app.history import UNDO, Frame, Past
from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import fingerprint, remove_leftovers, require_writable_folder, write_text
from pixeltrail.data.labels import MAX_OBJECTS, write_labels
from pixeltrail.data.video import FrameSource
from pixeltrail.errors import InputError
from pixeltrail.jobs.results import shape, write_points, write_tracks
from pixeltrail.types import VOID, LabelMap

Ids = NDArray[np.uint8]
POINTS = 512
"""The most points of one project."""
COLORS = (
    "#ff5a5f", "#2dd4a7", "#5b9dff", "#ffb454", "#c678ff", "#3fd0e6", "#f78fb3", "#a8d84e", "#ff8a3d", "#8d9bff",
)  # fmt: skip
"""Of new objects, in turn."""


@dataclass
class Thing:
    """An object as the user sees it. A deleted one stays in the masks until the project is closed, so that it can come
    back; until then it counts as background."""

    id: int
    name: str
    color: str
    hidden: bool = False
    locked: bool = False
    deleted: bool = False

    def __post_init__(self) -> None:
        if not (type(self.id) is int and 1 <= self.id <= MAX_OBJECTS):
            raise InputError(f"object {self.id!r}: ids are whole numbers from 1 to {MAX_OBJECTS}")
        if not re.fullmatch(r"#[0-9a-f]{6}", self.color):
            raise InputError(f"object {self.id}: colour {self.color[:20]!r}: expected six hexadecimal digits after #")
        self.name = " ".join(self.name.split())[:60] or f"Object {self.id}"

    @classmethod
    def new(cls, number: int, name: str = "") -> Thing:
        """An object in its turn's colour."""
        return cls(number, name, COLORS[(number - 1) % len(COLORS)])


@dataclass
class Point:
    """A point to follow: where the user has set it, by frame."""

    id: int
    name: str
    keys: dict[int, tuple[float, float]] = field(default_factory=dict)


class Project:
    """One video and what is known of it. Made by `Workspace`; safe to use from several threads."""

    def __init__(self, folder: Path, source: FrameSource, about: Mapping[str, Any]) -> None:
        self.folder, self.source, self.masks = folder, source, folder / "masks"
        self.id: str = about["id"]
        self.name: str = about["name"]
        self.things = {int(t["id"]): Thing(**t) for t in about.get("objects", [])}
        self.keys: dict[int, list[int]] = {int(t): list(gone) for t, gone in about.get("keys", {}).items()}
        self.points = [
            Point(int(p["id"]), str(p["name"]), {int(t): (float(x), float(y)) for t, (x, y) in p["keys"].items()})
            for p in about.get("points", [])
        ]
        self.adaptation: dict[str, Any] | None = about.get("adaptation")
        self.frames = FrameCache(source)
        self.count = self.frames.count
        self.pasts: dict[str, Past] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.followed: dict[int, dict[int, tuple[float, float, float]]] = {}
        self.lock = threading.RLock()
        self.busy = threading.Lock()  # held by the job that writes masks
        self._load()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.source.size

    @property
    def adapted(self) -> Path:
        """Where the weights lie that were adapted to this video, if they were."""
        return self.folder / "adapted.safetensors"

    def describe(self) -> dict[str, Any]:
        """All that the page needs to show the project, but pictures and masks."""
        with self.lock:
            return {
                "id": self.id, "name": self.name, "width": self.size[1], "height": self.size[0], "count": self.count,
                "fps": self.source.fps or 25.0, "objects": [asdict(t) for t in self.things.values()],
                "keys": sorted(self.keys), "points": [asdict(p) for p in self.points],
                "adapted": self.adaptation if self.adapted.is_file() else None,
                "tracked": {t: {o["id"]: o["confidence"] for o in row["objects"]} for t, row in self.rows.items()},
                "followed": self.followed,
            }  # fmt: skip

    def frame_name(self, index: int) -> str:
        """What the files of a frame are called. Raises InputError for a frame that does not exist."""
        if not 0 <= index < self.count:
            raise InputError(f"frame {index}: the video has {self.count}, from 0")
        return f"{index:05d}" if not self.frames.of_folder else self.source.files[index].stem

    def mask(self, index: int) -> Ids:
        """(H, W) uint8 ids, all 0 where there is no mask. Deleted objects are left out."""
        path = self._mask_file(index)
        ids = read_ids(path) if path.is_file() else np.zeros(self.size, np.uint8)
        if ids.shape != self.size:
            raise InputError(f"{path}: is {ids.shape[1]}x{ids.shape[0]}, not of the video's size; remove it")
        with self.lock:
            gone = [t.id for t in self.things.values() if t.deleted]
        return np.where(np.isin(ids, [*gone, VOID]), np.uint8(0), ids) if gone or VOID in ids else ids

    def edit(self, index: int, ids: Ids) -> None:
        """Take what the user has painted: the frame becomes a key frame. Raises InputError for unknown objects."""
        with self.lock:
            objects = LabelMap(ids).objects
            if unknown := set(objects) - self.things.keys():
                raise InputError(f"mask: there is no object {min(unknown)}; reload the page")
            before = set(LabelMap(self.mask(index)).objects) | set(self.keys.get(index, []))
            self.keys[index] = sorted(before - set(objects))
            self._write(index, ids, dict.fromkeys(objects, 1.0))
            self.save()

    def clear(self, index: int) -> None:
        """Forget the mask of a frame, and that it is a key frame."""
        with self.lock:
            self._mask_file(index).unlink(missing_ok=True)
            self.rows.pop(index, None)
            self.keys.pop(index, None)
            self.save()

    def restore(self, index: int, ids: Ids, *, key: bool, confidence: Mapping[int, float]) -> None:
        """Put a frame back as it was before an edit."""
        if key:
            return self.edit(index, ids)
        if not ids.any():
            return self.clear(index)
        with self.lock:
            self.keys.pop(index, None)
            self._write(index, ids, {i: confidence.get(i, 1.0) for i in LabelMap(ids).objects})
            return self.save()

    def track(
        self, index: int, ids: Ids, chosen: Iterable[int], confidence: Mapping[int, float], past: Past | None = None
    ) -> Ids:
        """Take what was tracked of the ``chosen`` objects: all others keep their pixels. Returns the mask.

        A key frame is left as it is: the user may have painted it while it was being tracked. ``past`` keeps the frame
        as it was.
        """
        with self.lock:
            old = self.mask(index)
            if index in self.keys:
                return old
            numbers = list(chosen)
            new = np.where(np.isin(old, numbers), np.uint8(0), old)
            new = np.where((new == 0) & np.isin(ids, numbers), ids, new).astype(np.uint8)
            if past:
                past.keep(index, self._frame(index), self._mask_file(index))
            was = {o["id"]: o["confidence"] for o in self.rows.get(index, {"objects": []})["objects"]}
            self._write(index, new, {**was, **{i: confidence[i] for i in numbers if i in confidence}})
            return new

    def take(self, index: int, ids: Ids, confidence: Mapping[int, float] | None, past: Past) -> None:
        """Take a whole mask from elsewhere: a key frame without a ``confidence`` of each object, else as if tracked."""
        with self.lock:
            past.keep(index, self._frame(index), self._mask_file(index))
            objects = LabelMap(ids).objects
            self.keys.pop(index, None)
            if confidence is None:
                self.keys[index] = []
            self._write(index, ids, {i: 1.0 if confidence is None else confidence.get(i, 1.0) for i in objects})

    def past(self, number: str) -> Past:
        """Where the run of this number keeps what it writes over."""
        with self.lock:
            return self.pasts.setdefault(number, Past(self.folder / UNDO / number))

    def swap(self, number: str) -> None:
        """Take a run back; a second time, do it again. Raises InputError for a run that is forgotten or not over."""
        if not self.busy.acquire(timeout=30):
            raise InputError("this video is being tracked; cancel that, then undo")
        try:
            if number not in self.pasts:
                raise InputError("what was before this run is forgotten; it cannot be undone any more")
            self.exchange(self.pasts[number])
        finally:
            self.busy.release()

    def exchange(self, past: Past) -> None:
        """Put all frames back that ``past`` keeps, and keep them there as they are now. The caller holds ``busy``."""
        with self.lock:
            for index in past.frames:
                row, key = past.swap(index, self._frame(index), self._mask_file(index))
                for known, value in ((self.rows, row), (self.keys, key)):
                    known.pop(index, None)
                    if value is not None:
                        known[index] = value  # type: ignore[assignment]
            for index in past.points:
                self.followed[index] = past.swap_points(index, self.followed.get(index, {}))
            self.save()

    def set_things(self, things: Iterable[Thing]) -> None:
        with self.lock:
            self.things = {t.id: t for t in things}
            self.save()

    def set_points(self, points: list[Point]) -> None:
        """Raises InputError for too many points, or places outside the picture."""
        if len(points) > POINTS or len({p.id for p in points}) < len(points):
            raise InputError(f"points: {len(points)} given; up to {POINTS} with ids of their own are possible")
        for point in points:
            for t, (x, y) in point.keys.items():
                self.frame_name(t)
                if not (-0.5 <= x <= self.size[1] - 0.5 and -0.5 <= y <= self.size[0] - 0.5):
                    raise InputError(f"point {point.id}: ({x:g}, {y:g}) lies outside the picture")
            point.name = " ".join(point.name.split())[:60] or f"Point {point.id}"
        with self.lock:
            self.points = points
            known = {p.id for p in points}
            self.followed = {t: {i: v for i, v in row.items() if i in known} for t, row in self.followed.items()}
            for point in points:
                for t, (x, y) in point.keys.items():
                    self.followed.setdefault(t, {})[point.id] = (x, y, 1.0)
            self.save()

    def place_points(
        self, index: int, found: Mapping[int, tuple[float, float, float]], past: Past | None = None
    ) -> None:
        """Take where points were followed to: point id -> (x, y, confidence)."""
        with self.lock:
            if past:
                past.keep_points(index, self.followed.get(index, {}))
            self.followed.setdefault(index, {}).update(found)

    def save(self) -> None:
        """Write everything but the masks, which are on disk already."""
        with self.lock:
            about = {
                "video": str(self.source.path.resolve()), "fingerprint": fingerprint(self.source.files), "id": self.id,
                "name": self.name, "objects": [asdict(t) for t in self.things.values()],
                "keys": {str(t): gone for t, gone in sorted(self.keys.items())},
                "points": [asdict(p) for p in self.points], "adaptation": self.adaptation,
            }  # fmt: skip
            write_text(self.folder / "project.json", json.dumps(about, indent=1))
            head = {"width": self.size[1], "height": self.size[0], "fps": self.source.fps}
            rows = [self.rows[t] for t in sorted(self.rows)]
            write_tracks(self.folder / "tracks.json", self.source.path.name, head, rows)
            if self.points or (self.folder / "points.csv").exists():
                names = [f"{p.id}" for p in self.points]
                found = (
                    {"frame": t, "name": self.frame_name(t), "points": [row.get(p.id) for p in self.points]}
                    for t, row in sorted(self.followed.items())
                )
                write_points(self.folder / "points.csv", names, found)

    def close(self) -> None:
        """Take deleted objects out of the masks for good, and save."""
        with self.lock:
            gone = [t.id for t in self.things.values() if t.deleted]
            for index in list(self.rows) if gone else []:
                if any(o["id"] in gone for o in self.rows[index]["objects"]):
                    was = {o["id"]: o["confidence"] for o in self.rows[index]["objects"]}
                    self._write(index, self.mask(index), was)
            self.things = {t.id: t for t in self.things.values() if not t.deleted}
            self.pasts.clear()
            shutil.rmtree(self.folder / UNDO, ignore_errors=True)
            self.save()

    def _mask_file(self, index: int) -> Path:
        return self.masks / f"{self.frame_name(index)}.png"

    def _frame(self, index: int) -> Frame:
        return Frame(self.rows.get(index), self.keys.get(index))

    def _write(self, index: int, ids: Ids, confidence: Mapping[int, float]) -> None:
        name = self.frame_name(index)
        write_labels(self.masks / f"{name}.png", LabelMap(ids))
        objects = [
            {"id": i, **shape(ids == i), "confidence": round(float(confidence[i]), 4)} for i in sorted(confidence)
        ]
        self.rows[index] = {"frame": index, "name": name, "objects": objects}

    def _load(self) -> None:
        """The rows of tracks.json, and those of masks that a crash has left without one; the points."""
        require_writable_folder(self.masks)
        remove_leftovers(self.masks)
        remove_leftovers(self.folder)
        for left in (self.folder / UNDO, *self.folder.glob("import-*")):
            shutil.rmtree(left, ignore_errors=True)
        file = self.folder / "tracks.json"
        kept = json.loads(file.read_text())["frames"] if file.is_file() else []
        known = {row["name"]: row for row in kept}
        stems = {path.stem for path in self.masks.glob("*.png")}
        for index in range(self.count) if stems else []:
            if (name := self.frame_name(index)) in stems:
                if name in known:
                    self.rows[index] = known[name]
                else:
                    ids = self.mask(index)
                    objects = [{"id": i, **shape(ids == i), "confidence": 1.0} for i in LabelMap(ids).objects]
                    self.rows[index] = {"frame": index, "name": name, "objects": objects}
        self.keys = {t: gone for t, gone in self.keys.items() if t in self.rows}
        if self.points and (self.folder / "points.csv").is_file():
            for line in (self.folder / "points.csv").read_text().splitlines()[1:]:
                t, _, point, x, y, c = line.rsplit(",", 5)
                self.followed.setdefault(int(t), {})[int(point)] = (float(x), float(y), float(c))
