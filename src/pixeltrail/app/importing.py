"""Annotations made elsewhere, into a project: all that `pixeltrail convert` and `pixeltrail track` read."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrail import exchange
from pixeltrail.app.history import Past, Places
from pixeltrail.app.project import Point, Project, Thing
from pixeltrail.data.annotations import Annotations, Lazy, Row
from pixeltrail.data.interchange.shared import refusing
from pixeltrail.data.labels import MAX_OBJECTS, read_labels, read_points
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.types import LabelMap, Points

UNPACKED_BYTES = 1 << 30
UNPACKED_FILES = 100_000


def read(path: Path, project: Project, index: int) -> LabelMap | Points | Annotations:
    """What a file holds: one frame's mask, points to follow, or annotations of the video. Those of a single picture that
    is no frame by its name are moved to frame ``index``. Raises InputError."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        return read_labels(path, project.size)
    if suffix == ".zip":
        path = _unpacked(path)
    reader = next((r for r in exchange.READERS.values() if r.detect(path)), None)
    if reader is not None:
        with refusing(path, f"{reader.TITLE} file or folder"):
            found = reader.read(path, project.size)
        alone = len(found.frames) == 1 and found.frames[0] not in {file.stem for file in project.source.files}
        whole = exchange.with_video(found, project.source, path)
        return replace(whole, rows=Lazy(lambda: (replace(r, frame=index) for r in whole.rows))) if alone else whole
    if suffix == ".csv":
        return read_points(path, project.size)
    if suffix == ".json":
        with suppress(InputError):
            return read_points(path, project.size)
        return read_labels(path, project.size)
    formats = ", ".join(reader.TITLE for reader in exchange.READERS.values())
    raise InputError(f"{path}: holds nothing that can be read; formats are {formats}")


def take(project: Project, found: LabelMap | Points | Annotations, index: int, past: Past) -> None:
    """Put it into the project: masks and boxes become key frames, places of points are set; what says how sure its
    tracker was counts as tracked. Objects of the same id are the same. A mask is that of frame ``index``. Raises
    InputError where something does not fit; what was taken by then can be undone.
    """
    if isinstance(found, LabelMap):
        _require(project, found.objects, {})
        project.take(index, np.where(found.ids > MAX_OBJECTS, np.uint8(0), found.ids), None, past)
    elif isinstance(found, Points):
        places: dict[str, Places] = {}
        for name, t, (x, y) in zip(found.names, found.t.tolist(), found.xy.tolist(), strict=True):
            places.setdefault(name, {})[t] = x, y, 1.0
        _set_points(project, places, past)
    else:
        _take_annotations(project, found, past)
    project.save()


def _take_annotations(project: Project, found: Annotations, past: Past) -> None:
    tracked = any(s.confidence is not None and s.confidence < 1 for row in found.rows for s in row.shapes)
    numbers: dict[int, int] = {}
    places: dict[str, Places] = {}
    for row in found.rows:
        t = row.frame
        project.frame_name(t)  # refuses what lies beyond the video's end
        for name, dot in zip(found.points, row.dots, strict=False):
            if dot and dot.visible:
                places.setdefault(name, {})[t] = dot.x, dot.y, 1.0 if dot.confidence is None else dot.confidence
        if row.shapes or not row.dots:
            _number(project, row, numbers, found)
            sure = {numbers[s.id]: 1.0 if s.confidence is None else s.confidence for s in row.shapes}
            painted = not tracked or (bool(sure) and min(sure.values()) >= 1)
            project.take(t, _ids(row, project.size, numbers), None if painted else sure, past)
    if places:
        _set_points(project, places, past)


def _ids(row: Row, size: tuple[int, int], numbers: dict[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(H, W) of a row's masks and, filled, its boxes; the later covers the earlier."""
    ids = np.zeros(size, np.uint8)
    for shape in row.shapes:
        if shape.counts is not None:
            ids[shape.mask(size)] = numbers[shape.id]
        else:
            left, top, right, bottom = (max(0, round(v)) for v in shape.bounds(size))
            ids[top:bottom, left:right] = numbers[shape.id]
    return ids


def _number(project: Project, row: Row, numbers: dict[int, int], found: Annotations) -> None:
    """Give each new object of a row its number in the project: its own where that is possible."""
    for shape in row.shapes:
        if shape.id not in numbers:
            gone = {t.id for t in project.things.values() if t.deleted}
            number = shape.id
            if number > MAX_OBJECTS or number in gone or number in numbers.values():
                taken = {*project.things, *numbers.values()}
                number = next((n for n in range(1, MAX_OBJECTS + 1) if n not in taken), 0)
            if not number:
                raise InputError(f"more than {MAX_OBJECTS} objects; remove some")
            numbers[shape.id] = number
            _require(project, [number], {number: found.labels.get(shape.id, "")})


def _require(project: Project, numbers: Sequence[int], names: dict[int, str]) -> None:
    """Make the objects that the project has not."""
    new = [Thing.new(n, names.get(n, "")) for n in numbers if n not in project.things]
    if new:
        project.set_things([*project.things.values(), *new])


def _set_points(project: Project, places: dict[str, Places], past: Past) -> None:
    """Points by name: those that are known get more places, others are new. Sure places are set ones."""
    points = {p.id: p for p in project.points}
    numbers = {p.name: p.id for p in reversed(project.points)}
    paths = {}
    for given, path in places.items():
        plain = " ".join(given.split())[:60]
        name = f"Point {plain}" if plain.isdecimal() or not plain else plain
        number = numbers.setdefault(name, max(points, default=-1) + 1)
        known = points.setdefault(number, Point(number, name))
        sure = {t: (x, y) for t, (x, y, c) in path.items() if c >= 1} or {t: (x, y) for t, (x, y, _) in path.items()}
        points[number] = Point(number, name, {**known.keys, **sure})
        paths[number] = path
    for t in {t for path in paths.values() for t in path}:
        past.keep_points(t, project.followed.get(t, {}))
    project.set_points(list(points.values()))
    for number, path in paths.items():
        for t, place in path.items():
            project.place_points(t, {number: place})


def _unpacked(path: Path) -> Path:
    """A ZIP archive's files, in a folder beside it; the folder in it where there is but one. Raises InputError."""
    out, room = path.with_suffix(""), UNPACKED_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if len(members) > UNPACKED_FILES:
                raise InputError(f"the archive holds {len(members)} files, {UNPACKED_FILES} are the most")
            for member in members:
                parts = Path(member.filename.replace("\\", "/")).parts
                plain = all(p not in ("..", "/", ".") and ":" not in p and p.isprintable() for p in parts)
                if not parts or not plain or stat.S_ISLNK(member.external_attr >> 16):
                    raise InputError(f"the archive holds {member.filename[:60]!r}; expected plain files")
                target = out.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, open(target, "xb") as file:
                    while part := packed.read(1 << 20):
                        room -= len(part)
                        if room < 0:
                            raise InputError(f"the archive holds more than {UNPACKED_BYTES >> 20} MB; split it")
                        file.write(part)
    except PixeltrailError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{path}: is no ZIP archive that can be read; pack it again") from error
    inside = list(out.iterdir()) if out.is_dir() else []
    return inside[0] if len(inside) == 1 else out
