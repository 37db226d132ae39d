"""Soft masks: one .npz with a (H, W) uint8 array for each object on each frame, 0 to 255, called FRAME/ID.

Beside them stand `size`, `frames`, `annotated` (frame numbers), `labels` (JSON) and `fps`. A pixel is the object's from
128 upwards. Objects without a soft mask are written hard, as 0 and 255.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pixeltrail.data.annotations import MAX_FRAMES, Annotations, Lazy, Row, Shape, Size, checked_size, encode
from pixeltrail.data.files import atomic, one_line
from pixeltrail.data.images import MAX_PIXELS
from pixeltrail.data.interchange.shared import peek, refusing
from pixeltrail.errors import InputError

TITLE, SUFFIX = "npz", ".npz"
LOSES = {
    "boxes": "left out", "points": "left out", "occlusion": "left out", "confidence": "left out", "void": "left out",
}  # fmt: skip


_DAMAGE = (ValueError, SyntaxError, TypeError, EOFError, OSError, zlib.error, zipfile.BadZipFile, RuntimeError)


def detect(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and peek(path, 2) == "PK" and "annotated.npy" in _names(path)


def read(path: Path, size: Size | None = None) -> Annotations:
    """The arrays of a frame are read when its row is."""
    with refusing(path, "npz of soft masks"), _opened(path) as archive:
        found = checked_size(tuple(load(archive, "size", 64).tolist()))
        frames = [str(name) for name in load(archive, "frames", 800 * MAX_FRAMES).tolist()]
        annotated = [int(t) for t in load(archive, "annotated", 8 * MAX_FRAMES).tolist()]
        labels = {int(i): str(label) for i, label in json.loads(str(load(archive, "labels", 1 << 24))).items()}
        fps = float(load(archive, "fps", 8))
        order = {name: t for t, name in enumerate(frames)}
        members: dict[int, list[int]] = {t: [] for t in sorted(annotated)}
        for member in archive.namelist():
            frame, slash, number = member.removesuffix(".npy").rpartition("/")
            if slash:
                members[order[frame]].append(int(number))
        if not all(0 <= t < len(frames) for t in annotated):
            raise InputError("annotates frames that it does not have")
    return Annotations(
        path.stem, found, frames, Lazy(lambda: _rows(path, frames, members, found)), labels, (), fps or None
    )


def _rows(path: Path, frames: list[str], members: dict[int, list[int]], size: Size) -> Iterator[Row]:
    with refusing(path, "npz of soft masks"), _opened(path) as archive:
        for t, numbers in members.items():
            soft: dict[int, NDArray[np.uint8]] = {}
            shapes = []
            for i in numbers:
                soft[i] = load(archive, f"{frames[t]}/{i}", MAX_PIXELS)
                if soft[i].shape != size or soft[i].dtype != np.uint8:
                    raise InputError(f"{frames[t]}/{i}: is {soft[i].dtype} {soft[i].shape}, expected uint8 {size}")
                counts = encode(soft[i] >= 128)
                if counts is not None:
                    shapes.append(Shape(i, counts))
            yield Row(t, tuple(shapes), opacity=soft.__getitem__)


def write(annotations: Annotations, path: Path) -> set[str]:
    annotated = []
    with atomic(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for row in annotations.rows:
            annotated.append(row.frame)
            for shape in row.shapes:
                if shape.counts is not None:
                    _save(archive, f"{annotations.frames[row.frame]}/{shape.id}", opacity(row, shape, annotations.size))
        _save(archive, "size", np.array(annotations.size))
        _save(archive, "frames", np.array(list(annotations.frames), np.str_))
        _save(archive, "annotated", np.array(annotated, np.int64))
        _save(archive, "labels", np.array(json.dumps({str(i): label for i, label in annotations.labels.items()})))
        _save(archive, "fps", np.array(annotations.fps or 0.0))
    return set()


def opacity(row: Row, shape: Shape, size: Size) -> NDArray[np.uint8]:
    """(H, W) uint8: the soft mask where there is one, else the mask as 0 and 255."""
    return row.opacity(shape.id) if row.opacity else shape.mask(size).astype(np.uint8) * np.uint8(255)


def load(archive: zipfile.ZipFile, name: str, limit: int) -> NDArray[Any]:
    """An array of an .npz, of at most ``limit`` bytes: nothing is allocated before its header has been compared with
    what the archive holds, and objects are refused. Raises InputError."""
    with _entry(archive, name) as (file, shape, fortran, dtype):
        count = math.prod(shape) * dtype.itemsize
        if count > limit or file.tell() + count != archive.getinfo(f"{name}.npy").file_size:
            raise ValueError(f"{dtype} {shape} is not what is there")
        content = file.read(count)
        if len(content) != count:
            raise ValueError("cut short")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def shape_of(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """The shape of an array, from its header alone. Raises InputError."""
    with _entry(archive, name) as (_, shape, _, _):
        return shape


@contextmanager
def _entry(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]]:
    """An array's content after its header, and what the header says of it."""
    try:
        with archive.open(f"{name}.npy") as file:
            version = npy.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version}")
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = header(file)
            if dtype.hasobject or any(n < 0 for n in shape):
                raise ValueError(f"{dtype} {shape} cannot be")
            yield file, tuple(shape), fortran, dtype
    except KeyError:
        raise InputError(f"has no array {name[:60]!r}") from None
    except _DAMAGE as error:
        raise InputError(f"array {name[:60]!r} is damaged ({one_line(error, 80)})") from None


def _save(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        npy.write_array(file, array, allow_pickle=False)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: is no .npz ({one_line(error, 80)}); save it again") from None


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []
