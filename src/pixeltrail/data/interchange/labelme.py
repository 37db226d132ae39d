"""LabelMe: a JSON file for each frame, with masks, rectangles and points; `group_id` is the object.

Coordinates are by pixel edges (the middle of the first pixel is (0.5, 0.5)), except those of a mask: the first and the
last of its columns and rows, between which lies a PNG of it. Hidden points and objects carry the flag `occluded`.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pixeltrail.data import polygons
from pixeltrail.data.annotations import (
    LABEL,
    Annotations,
    Dot,
    Mask,
    Row,
    Shape,
    Size,
    bounds,
    checked_size,
    encode,
    place,
)
from pixeltrail.data.interchange.shared import files, identities, load_json, number, peek, refusing, whole, whole_folder
from pixeltrail.errors import InputError

TITLE, SUFFIX = "LabelMe", ""
LOSES = {"confidence": "left out", "void": "left out", "rate": "left out", "opacity": "masks are hard"}


def detect(path: Path) -> bool:
    there = files(path, ".json")[:1] if path.is_dir() else [path] if path.suffix.lower() == ".json" else []
    return bool(there) and '"shapes"' in peek(there[0])


def read(path: Path, size: Size | None = None) -> Annotations:
    """A folder of files, or a single one; file names are those of the frames."""
    there = files(path, ".json") if path.is_dir() else [path]
    if not there:
        raise InputError(f"{path}: no LabelMe files; one JSON for each frame is expected")
    frames, places = place([p.stem for p in there])
    found: list[tuple[int, str, int | None]] = []
    shapes: list[tuple[int, Shape]] = []
    dots: dict[int, dict[str, Dot]] = {}
    own: Size | None = None
    for file, frame in zip(there, places, strict=True):
        with refusing(file, "LabelMe file"):
            content = load_json(file)
            own = own or checked_size((whole(content["imageHeight"]), whole(content["imageWidth"])))
            if (content["imageHeight"], content["imageWidth"]) != own:
                raise InputError(f"is not {own[1]}x{own[0]} as the first; frames of one video are expected")
            dots[frame] = {}
            for label, group, shape in _shapes(content["shapes"], own):
                if isinstance(shape, Shape):
                    found.append((frame, label, group))
                    shapes.append((frame, shape))
                elif label in dots[frame]:
                    raise InputError(f"two points are called {label[:40]!r}; name them differently")
                else:
                    dots[frame][label] = shape
    assert own is not None
    rows: dict[int, list[Shape]] = {t: [] for t in places}
    labels: dict[int, str] = {}
    for (frame, s), (_, label, _), i in zip(shapes, found, identities(found), strict=True):
        rows[frame].append(Shape(i, s.counts, s.box, s.occluded))
        labels |= {i: label} if label != LABEL else {}
    names = tuple(dict.fromkeys(name for frame in dots.values() for name in frame))
    every = tuple(Row(t, tuple(rows[t]), tuple(dots[t].get(n) for n in names) if dots[t] else ()) for t in sorted(rows))
    name = path.name if path.is_dir() else path.stem
    return Annotations(name, own, frames, every, labels, names)


def _shapes(shapes: list[Mapping[str, Any]], size: Size) -> Iterator[tuple[str, int | None, Shape | Dot]]:
    """Label, group and shape; polygons of one label and group on a frame are one object."""
    areas: dict[tuple[str, int | None], tuple[Mask, bool]] = {}
    for shape in shapes:
        label, group, kind = str(shape["label"])[:200], shape.get("group_id"), shape.get("shape_type", "polygon")
        group = None if group is None else whole(group)
        corners = np.array([[number(x), number(y)] for x, y in shape["points"]]).reshape(-1, 2)
        hidden = bool((shape.get("flags") or {}).get("occluded", False))
        if kind == "point":
            yield label, group, Dot(float(corners[0, 0]) - 0.5, float(corners[0, 1]) - 0.5, not hidden)
        elif kind == "rectangle":
            (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
            yield label, group, Shape(1, None, (left, top, right, bottom), hidden)
        elif kind in ("polygon", "mask"):
            area = polygons.fill([corners], size) if kind == "polygon" else _mask(shape["mask"], corners, size)
            before = areas.get((label, group))
            areas[label, group] = (area | before[0] if before else area), hidden
        else:
            raise InputError(f"shape {str(kind)[:20]!r} cannot be read; use polygon, mask, rectangle or point")
    for (label, group), (area, hidden) in areas.items():
        counts = encode(area)
        if counts is not None:
            yield label, group, Shape(1, counts, None, hidden)


def _mask(text: str, corners: np.ndarray[Any, np.dtype[np.float64]], size: Size) -> Mask:
    (left, top), (right, bottom) = np.rint(corners).astype(int).tolist()
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise InputError("a mask lies outside the picture")
    try:
        with PIL.Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            if image.size != (right - left + 1, bottom - top + 1):
                raise InputError("a mask does not fill its rectangle")
            part = np.asarray(image.convert("L")) > 0
    except InputError:
        raise
    except (binascii.Error, TypeError, ValueError, OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"a mask is no PNG in base64 ({' '.join(str(error).split())[:60]})") from None
    mask = np.zeros(size, np.bool_)
    mask[top : bottom + 1, left : right + 1] = part
    return mask


def write(annotations: Annotations, path: Path) -> set[str]:
    """One file for each row; it names its picture where that is a file of its own, else FRAME.jpg beside it."""
    height, width = annotations.size
    pictures = {file.stem: file for file in annotations.video.files} if annotations.video else {}
    with whole_folder(path) as folder:
        for row in annotations.rows:
            shapes = [_entry(annotations.label(s.id), s, annotations.size) for s in row.shapes]
            for name, dot in zip(annotations.points, row.dots, strict=False):
                if dot:
                    shapes.append(_common(name, None, "point", [[dot.x + 0.5, dot.y + 0.5]], not dot.visible))
            name = annotations.frames[row.frame]
            picture = os.path.relpath(pictures[name], path) if name in pictures else f"{name}.jpg"
            content: dict[str, Any] = {
                "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": picture, "imageData": None,
                "imageHeight": height, "imageWidth": width,
            }  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(content, indent=1), "utf-8")
    return set()


def _entry(label: str, shape: Shape, size: Size) -> dict[str, Any]:
    if shape.box:
        left, top, right, bottom = shape.box
        return _common(label, shape.id, "rectangle", [[left, top], [right, bottom]], shape.occluded)
    mask = shape.mask(size)
    left, top, right, bottom = (int(v) for v in bounds(mask))
    buffer = io.BytesIO()
    PIL.Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255).save(buffer, "PNG")
    entry = _common(label, shape.id, "mask", [[left, top], [right - 1, bottom - 1]], shape.occluded)
    return {**entry, "mask": base64.b64encode(buffer.getvalue()).decode()}


def _common(label: str, group: int | None, kind: str, points: list[list[float]], hidden: bool) -> dict[str, Any]:
    flags = {"occluded": True} if hidden else {}
    return {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind, "flags": flags}
