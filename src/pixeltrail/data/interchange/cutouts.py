"""Cut-outs: ID/FRAME.png, the picture with the object's (soft) mask as alpha. Alpha from 128 upwards is the object's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from pixeltrail.data.annotations import Annotations, Lazy, Row, Shape, Size, checked_size, encode, place
from pixeltrail.data.images import image_size, natural_key, open_image
from pixeltrail.data.interchange.npz import opacity
from pixeltrail.data.interchange.shared import files, refusing, whole_folder
from pixeltrail.errors import InputError

TITLE, SUFFIX = "cut-outs", ""
LOSES = {
    "boxes": "left out", "points": "left out", "labels": "left out", "occlusion": "left out", "confidence": "left out",
    "rate": "left out", "void": "left out",
    "gaps": "frames without annotation and empty ones are not told apart",
}  # fmt: skip


def detect(path: Path) -> bool:
    folders = _folders(path) if path.is_dir() else []
    return bool(folders) and bool(files(folders[0], ".png"))


def read(path: Path, size: Size | None = None) -> Annotations:
    """Masks from the alpha of ID/FRAME.png."""
    pictures = [(folder, picture) for folder in _folders(path) for picture in files(folder, ".png")]
    if not pictures:
        raise InputError(f"{path}: no cut-outs; PNG files such as 1/00000.png are expected")
    stems = sorted({picture.stem for _, picture in pictures}, key=natural_key)
    found = checked_size(image_size(pictures[0][1]))
    frames, places = place(stems)
    return Annotations(
        path.name, found, frames, Lazy(lambda: _rows(path, dict(zip(places, stems, strict=True)), found))
    )


def _rows(path: Path, stems: dict[int, str], size: Size) -> Iterator[Row]:
    for t in sorted(stems):
        shapes = []
        for folder in _folders(path):
            picture = folder / f"{stems[t]}.png"
            if picture.is_file():
                with refusing(picture, "cut-out"), open_image(picture) as image:
                    if image.mode != "RGBA" or image.size != (size[1], size[0]):
                        raise InputError(f"is {image.mode} {image.size}; expected RGBA {size[1]}x{size[0]}")
                    counts = encode(np.asarray(image)[..., 3] >= 128)
                if counts is not None:
                    shapes.append(Shape(int(folder.name), counts))
        yield Row(t, tuple(shapes))


def _folders(path: Path) -> list[Path]:
    there = [p for p in path.iterdir() if p.is_dir() and p.name.isascii() and p.name.isdecimal() and len(p.name) < 10]
    return sorted((p for p in there if int(p.name) and str(int(p.name)) == p.name), key=natural_key)


def write(annotations: Annotations, path: Path) -> set[str]:
    """Needs the pictures: raises InputError where the annotations know no video."""
    if annotations.video is None:
        raise InputError("cut-outs need the pictures; name the video (--video)")
    rows = iter(annotations.rows)
    row = next(rows, None)
    with whole_folder(path) as folder:
        for frame in annotations.video.frames():
            while row is not None and row.frame < frame.index:
                row = next(rows, None)
            if row is None:
                break
            for shape in row.shapes if row.frame == frame.index else ():
                if shape.counts is not None:
                    alpha = opacity(row, shape, annotations.size)
                    (folder / str(shape.id)).mkdir(exist_ok=True)
                    picture = PIL.Image.fromarray(np.dstack([frame.image, alpha]))
                    picture.save(
                        folder / str(shape.id) / f"{annotations.frames[row.frame]}.png", "PNG", compress_level=1
                    )
    return set()
