"""YOLO segmentation: labels/FRAME.txt with a line `class x1 y1 x2 y2 ...` for each object, coordinates from 0 to 1 by
pixel edges, and data.yaml with the classes' names. Polygons run along the edges of pixels, which is exact.

There is no identity in it: objects are told apart by class, or one by one (see `identities`). Lines with a number behind
the polygon, as trackers write them, keep theirs; boxes (`class x y w h`, centre and size) are read too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from pixeltrail.data import polygons
from pixeltrail.data.annotations import LABEL, Annotations, Row, Shape, Size, checked_size, encode, place
from pixeltrail.data.images import IMAGE_SUFFIXES, image_size
from pixeltrail.data.interchange.shared import files, identities, lines, peek, refusing, table, whole_folder
from pixeltrail.errors import InputError

TITLE, SUFFIX = "YOLO", ""
LOSES = {
    "boxes": "left out", "points": "left out", "void": "left out", "occlusion": "left out", "confidence": "left out",
    "rate": "left out", "identities": "objects of one class are no longer told apart", "opacity": "masks are hard",
}  # fmt: skip


def detect(path: Path) -> bool:
    return path.is_dir() and (path / "labels").is_dir() and bool(files(path / "labels", ".txt"))


def read(path: Path, size: Size | None = None) -> Annotations:
    """A folder with labels/; the size stands in our data.yaml, or that of the first picture of images/ counts."""
    about = peek(path / "data.yaml", 1 << 20)
    sides = [re.search(rf"^{side}: (\d{{1,6}})$", about, re.M) for side in ("height", "width")]
    pictures = files(path / "images", *IMAGE_SUFFIXES) if (path / "images").is_dir() else []
    if sides[0] and sides[1]:
        size = checked_size((int(sides[0][1]), int(sides[1][1])))
    elif pictures:
        size = image_size(pictures[0])
    if size is None:
        raise InputError(f"{path}: says no frame size and has no images; name the video (--video)")
    names = _classes(about)
    there = files(path / "labels", ".txt")
    if not there:
        raise InputError(f"{path / 'labels'}: no labels; a text file for each frame is expected")
    frames, places = place([p.stem for p in there])
    found: list[tuple[int, str, int | None]] = []
    shapes: list[tuple[int, Shape]] = []
    for file, frame in zip(there, places, strict=True):
        with refusing(file, "YOLO file"):
            for count, text in lines(file):
                try:
                    kind, own, shape = _shape(text, size)
                except (ValueError, OverflowError, InputError) as error:
                    raise InputError(
                        f"{file}: line {count}: is no class x1 y1 x2 y2 ...: {text[:40]!r} ({error})"
                    ) from None
                if shape is not None:
                    found.append((frame, names.get(kind, LABEL if not names else str(kind)), own))
                    shapes.append((frame, shape))
    rows: dict[int, list[Shape]] = {t: [] for t in places}
    labels: dict[int, str] = {}
    for (frame, shape), (_, label, _), i in zip(shapes, found, identities(found), strict=True):
        rows[frame].append(Shape(i, shape.counts, shape.box))
        labels |= {i: label} if label != LABEL else {}
    return Annotations(path.name, size, frames, tuple(Row(t, tuple(rows[t])) for t in sorted(rows)), labels)


def _shape(text: str, size: Size) -> tuple[int, int | None, Shape | None]:
    """Class, id if there is one, and the shape of a line."""
    first, *cells = text.split()
    values = np.array([float(cell) for cell in cells])
    height, width = size
    kind = int(first)
    if kind < 0 or not (np.abs(values) < 2**31).all():
        raise ValueError("numbers out of range")
    own = int(values[-1]) if len(values) % 2 else None
    if own is not None:
        values = values[:-1]
    if len(values) == 4:
        x, y, w, h = values
        left, top, right, bottom = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        return kind, own, Shape(1, None, (float(left), float(top), float(right), float(bottom)))
    corners = values.reshape(-1, 2) * (width, height)
    near = np.rint(corners)
    corners = np.where(np.abs(corners - near) < 1e-6, near, corners)  # what was a pixel's edge is one again
    counts = encode(polygons.fill([corners], size))
    return kind, own, None if counts is None else Shape(1, counts)


def _classes(text: str) -> dict[int, str]:
    """The names of data.yaml: a mapping, a list, or a list in brackets."""
    _, _, rest = text.partition("\nnames:") if not text.startswith("names:") else ("", "", text[6:])
    inline, _, block = rest.partition("\n")
    if inline.strip().startswith("["):
        return dict(enumerate(_word(word) for word in inline.strip().strip("[]").split(",")))
    found: dict[int, str] = {}
    for line in block.splitlines():
        entry = re.fullmatch(r"\s*(?:(\d{1,6})\s*:|-)\s*(.+)", line)
        if entry is None:
            break
        found[int(entry[1]) if entry[1] else len(found)] = _word(entry[2])
    return found


def _word(text: str) -> str:
    text = text.strip()
    try:
        return str(json.loads(text))[:200] if text.startswith('"') else text.strip("'")[:200]
    except ValueError:
        return text[:200]


def write(annotations: Annotations, path: Path) -> set[str]:
    """labels/ and data.yaml; an annotated frame with nothing on it has an empty file. The pictures are not copied."""
    classes: dict[str, int] = {}
    owners: dict[str, set[int]] = {}
    height, width = annotations.size
    with whole_folder(path) as folder:
        (folder / "labels").mkdir()
        for row in annotations.rows:
            rows = []
            for shape in row.shapes:
                if shape.counts is not None:
                    label = annotations.label(shape.id)
                    owners.setdefault(label, set()).add(shape.id)
                    corners = polygons.joined(polygons.outlines(shape.mask(annotations.size))) / (width, height)
                    numbers = " ".join(f"{v:.9g}" for v in corners.ravel())
                    rows.append(f"{classes.setdefault(label, len(classes))} {numbers}")
            table(folder / "labels" / f"{annotations.frames[row.frame]}.txt", rows)
        names = [f"  {i}: {json.dumps(label)}" for label, i in classes.items()]
        table(
            folder / "data.yaml",
            ["path: .", "train: images", "val: images", f"width: {width}", f"height: {height}", "names:", *names],
        )
    return {"identities"} if any(len(ids) > 1 for ids in owners.values()) else set()
