"""DAVIS: a folder with one indexed PNG for each annotated frame; ids 1-254, 0 background, 255 void."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pixeltrail.data.annotations import (
    Annotations,
    Lazy,
    Renumber,
    Row,
    Shape,
    Size,
    checked_size,
    encode,
    label_map,
    place,
)
from pixeltrail.data.davis import read_ids
from pixeltrail.data.images import image_size
from pixeltrail.data.interchange.shared import files, whole_folder
from pixeltrail.data.labels import MAX_OBJECTS, write_labels
from pixeltrail.data.rle import decode
from pixeltrail.errors import InputError
from pixeltrail.types import VOID, LabelMap

TITLE, SUFFIX = "DAVIS", ""
LOSES = {
    "boxes": "left out", "points": "left out", "labels": "left out", "occlusion": "left out", "confidence": "left out",
    "rate": "left out", "overlaps": "the later object covers the earlier", "large ids": "ids above 254 are renumbered",
    "opacity": "masks are hard",
}  # fmt: skip


def detect(path: Path) -> bool:
    return path.is_dir() and (bool(files(path, ".png")) or (path / "Annotations").is_dir())


def read(path: Path, size: Size | None = None) -> Annotations:
    """A folder of PNGs, or a DAVIS root with one sequence. The pictures are read while the rows are iterated over."""
    folder = _sequence(path)
    pictures = files(folder, ".png")
    if not pictures:
        raise InputError(f"{folder}: no masks; PNG files such as 00000.png are expected")
    found = checked_size(image_size(pictures[0]))
    frames, places = place([p.stem for p in pictures])
    return Annotations(folder.name, found, frames, Lazy(lambda: rows(pictures, places, found)))


def rows(pictures: Sequence[Path], places: Sequence[int], size: Size) -> Iterator[Row]:
    """One row for each mask image. Raises InputError for one of another size or kind."""
    for picture, frame in zip(pictures, places, strict=True):
        ids = read_ids(picture)
        if ids.shape != size:
            raise InputError(f"{picture}: is {ids.shape[1]}x{ids.shape[0]}, the first is {size[1]}x{size[0]}")
        if (ids == VOID).any() and ((ids == 0) | (ids == VOID)).all():
            ids = (ids > 0).astype(np.uint8)  # black and white, as in 2016
        shapes = tuple(Shape(int(i), encode(ids == i)) for i in np.unique(ids) if i not in (0, VOID))
        yield Row(frame, shapes, void=encode(ids == VOID))


def write(annotations: Annotations, path: Path) -> set[str]:
    """One PNG for each row, named as the frame."""
    number, lost = Renumber(MAX_OBJECTS), set()
    with whole_folder(path) as folder:
        for row in annotations.rows:
            if write_row(annotations, row, folder, number):
                lost.add("overlaps")
    return lost | ({"large ids"} if number.changed else set())


def write_row(annotations: Annotations, row: Row, folder: Path, number: Renumber) -> bool:
    """One PNG; says whether an object covered another."""
    ids, overlap = label_map(row, annotations.size, number)
    if row.void is not None:
        ids[decode({"size": list(annotations.size), "counts": row.void}) & (ids == 0)] = VOID
    if (ids == VOID).any() and ((ids == 0) | (ids == VOID)).all():
        ids[ids == VOID] = 0  # nothing but void would be read as a black-and-white mask
    write_labels(folder / f"{annotations.frames[row.frame]}.png", LabelMap(ids.astype(np.uint8)))
    return overlap


def _sequence(path: Path) -> Path:
    """The folder of masks: the path itself or the only one below a DAVIS root's Annotations."""
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    for _ in range(2):
        below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        if files(folder, ".png") or not below:
            break
        if len(below) > 1:
            raise InputError(f"{folder}: holds several sequences; name one, such as {below[0]}")
        folder = below[0]
    return folder
