"""What is kept on disk: a folder with one project for each video, saved whenever something changes.

A project's folder is one of results as `pixeltrail track` writes it (``masks/NAME.png``, ``tracks.json``,
``points.csv``), so that every command reads it, and ``project.json``: where the video lies, the objects' names and
colours, which frames are key frames, the points as they were set. Every file is written whole or not at all.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.app.frames import FrameCache
from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import fingerprint, one_line, remove_leftovers, require_writable_folder, write_text
from pixeltrail.data.labels import MAX_OBJECTS, write_labels
from pixeltrail.data.video import FrameSource, open_frames
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.jobs.results import shape, write_points, write_tracks
from pixeltrail.types import VOID, LabelMap

Ids = NDArray[np.uint8]
POINTS = 512
"""The most points of one project."""


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
        self.frames = FrameCache(source)
        self.count = self.frames.count()
        self.rows: dict[int, dict[str, Any]] = {}
        self.followed: dict[int, dict[int, tuple[float, float, float]]] = {}
        self.lock = threading.RLock()
        self.busy = threading.Lock()  # held by the job that writes masks
        self._load()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.source.size

    def describe(self) -> dict[str, Any]:
        """All that the page needs to show the project, but pictures and masks."""
        with self.lock:
            return {
                "id": self.id, "name": self.name, "width": self.size[1], "height": self.size[0], "count": self.count,
                "fps": self.source.fps or 25.0, "objects": [asdict(t) for t in self.things.values()],
                "keys": sorted(self.keys), "points": [asdict(p) for p in self.points],
                "adapted": (self.folder / "adapted.safetensors").is_file(),
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
        path = self.masks / f"{self.frame_name(index)}.png"
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
            (self.masks / f"{self.frame_name(index)}.png").unlink(missing_ok=True)
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

    def track(self, index: int, ids: Ids, chosen: Iterable[int], confidence: Mapping[int, float]) -> Ids:
        """Take what was tracked of the ``chosen`` objects: all others keep their pixels. Returns the mask.

        A key frame is left as it is: the user may have painted it while it was being tracked.
        """
        with self.lock:
            old = self.mask(index)
            if index in self.keys:
                return old
            numbers = list(chosen)
            new = np.where(np.isin(old, numbers), np.uint8(0), old)
            new = np.where((new == 0) & np.isin(ids, numbers), ids, new).astype(np.uint8)
            was = {o["id"]: o["confidence"] for o in self.rows.get(index, {"objects": []})["objects"]}
            self._write(index, new, {**was, **{i: confidence[i] for i in numbers if i in confidence}})
            return new

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

    def place_points(self, index: int, found: Mapping[int, tuple[float, float, float]]) -> None:
        """Take where points were followed to: point id -> (x, y, confidence)."""
        with self.lock:
            self.followed.setdefault(index, {}).update(found)

    def save(self) -> None:
        """Write everything but the masks, which are on disk already."""
        with self.lock:
            about = {
                "video": str(self.source.path.resolve()), "fingerprint": fingerprint(self.source.files), "id": self.id,
                "name": self.name, "objects": [asdict(t) for t in self.things.values()],
                "keys": {str(t): gone for t, gone in sorted(self.keys.items())},
                "points": [asdict(p) for p in self.points],
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
            self.save()

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


def told(error: BaseException, root: Path) -> str:
    """What an error says, in one line, without naming the place of the workspace to whoever is at the page."""
    text = str(error)
    for place in {str(root), str(root.resolve())}:
        text = text.replace(f"{place}/", "")
    return one_line(text, 300)


class Workspace:
    """The folder of projects. Ids are random, so that one project cannot be guessed from another."""

    def __init__(self, root: str | Path) -> None:
        self.root = require_writable_folder(Path(root))
        self.lock = threading.RLock()
        self._open: dict[str, Project] = {}
        remove_leftovers(self.root)

    def listing(self) -> list[dict[str, str]]:
        """Id and name of every project, those in use first."""
        found = {about["id"]: {"id": about["id"], "name": about["name"]} for _, about in self._abouts()}
        return [found[i] for i in self._open if i in found] + [a for i, a in found.items() if i not in self._open]

    def project(self, number: str) -> Project:
        """A project by its id, opened where it is not. Raises InputError."""
        with self.lock:
            if number in self._open:
                return self._open[number]
            for folder, about in self._abouts():
                if about["id"] == number:
                    source = open_frames(about["video"])
                    if fingerprint(source.files) != about["fingerprint"]:
                        raise InputError(f"{source.path}: is another video than {folder.name} was made with")
                    self._open[number] = Project(folder, source, about)
                    return self._open[number]
        raise InputError("no such project; reload the page")

    def add(self, video: str | Path, folder: Path | None = None) -> Project:
        """The project of a video: the one that there is, or a new one. Raises InputError for what is no video."""
        source = open_frames(video)
        with self.lock:
            print_, where = fingerprint(source.files), str(source.path.resolve())
            for _, about in self._abouts():
                if (about["fingerprint"], about["video"]) == (print_, where):
                    return self.project(about["id"])
            folder = folder or self.free_folder(source.path.stem)
            require_writable_folder(folder)
            project = Project(folder, source, {"id": secrets.token_hex(16), "name": source.path.name})
            project.save()
            self._open[project.id] = project
            return project

    def free_folder(self, stem: str) -> Path:
        """A folder that does not exist yet, named after ``stem``."""
        with self.lock:
            plain = re.sub(r"[^\w-]+", "-", stem)[:60].strip("-") or "video"
            number = 1
            while (folder := self.root / (plain if number == 1 else f"{plain}-{number}")).exists():
                number += 1
            folder.mkdir()
            return folder

    def close(self) -> None:
        with self.lock:
            for project in self._open.values():
                project.close()
            self._open.clear()

    def _abouts(self) -> Iterable[tuple[Path, dict[str, Any]]]:
        for file in sorted(self.root.glob("*/project.json")):
            try:
                about = json.loads(file.read_text())
                if all(isinstance(about[key], str) for key in ("id", "name", "video", "fingerprint")):
                    yield file.parent, about
            except (ValueError, KeyError, TypeError, OSError, PixeltrailError):
                continue  # not ours, or damaged: the others can still be worked on
