"""CSV, one line for each object or point on each frame; holds everything but soft masks and the frame rate.

Columns: frame (from 0), name (of the frame), kind (object, point, void, or frame for an annotated frame with nothing on
it), id, label, left, top, right, bottom, x, y, visible, confidence, rle, width, height, and how many frames there are.
Boxes by pixel edges, points by pixel centres, rle as COCO's compressed counts. The `points.csv` of `pixeltrail track`
is read too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from pixeltrail.data import rle
from pixeltrail.data.annotations import (
    LABEL,
    MAX_FRAMES,
    Annotations,
    Dot,
    Row,
    Shape,
    Size,
    checked_size,
    encode,
    numbered,
)
from pixeltrail.data.files import atomic, one_line
from pixeltrail.data.interchange.shared import MAX_BYTES, lines, peek, refusing
from pixeltrail.errors import InputError

TITLE, SUFFIX = "CSV", ".csv"
LOSES = {"rate": "left out", "opacity": "masks are hard"}
COLUMNS = (
    "frame", "name", "kind", "id", "label", "left", "top", "right", "bottom", "x", "y", "visible", "confidence", "rle",
    "width", "height", "frames",
)  # fmt: skip
POINTS = ("frame", "name", "point", "x", "y", "confidence")


def detect(path: Path) -> bool:
    head = tuple(peek(path).split("\n")[0].strip().split(","))
    return path.suffix.lower() == ".csv" and head in (COLUMNS, POINTS)


def read(path: Path, size: Size | None = None) -> Annotations:
    """A file of ours; `points.csv` needs ``size``."""
    with refusing(path, "CSV of tracks"):
        table = lines(path)
        _, first = next(table)
        head = tuple(first.split(","))
        if head not in (COLUMNS, POINTS):
            raise InputError(f"{path}: line 1: expected the columns {','.join(COLUMNS)}")
        csv.field_size_limit(MAX_BYTES)
        reader = _Reader(size)
        for count, text in table:
            try:
                cells = next(csv.reader([text]))
                if len(cells) != len(head):
                    raise ValueError(f"{len(cells)} cells instead of {len(head)}")
                reader.take(dict(zip(head, cells, strict=True)))
            except (csv.Error, ValueError, InputError, OverflowError) as error:
                raise InputError(f"{path}: line {count}: {one_line(error)}") from None
        return reader.annotations(path.stem)


class _Reader:
    def __init__(self, size: Size | None) -> None:
        self.size, self.count = size, 0
        self.names: dict[int, str] = {}
        self.shapes: dict[int, list[Shape]] = {}
        self.dots: dict[int, dict[str, Dot]] = {}
        self.void: dict[int, str | None] = {}
        self.labels: dict[int, str] = {}
        self.points: dict[str, None] = {}

    def take(self, cell: dict[str, str]) -> None:
        frame = int(cell["frame"])
        if not 0 <= frame < MAX_FRAMES or self.names.setdefault(frame, cell["name"]) != cell["name"]:
            raise ValueError(f"frame {frame} {cell['name'][:40]!r} cannot be")
        if "width" in cell:
            size = checked_size((int(cell["height"]), int(cell["width"])))
            if self.size not in (None, size):
                raise ValueError("another size than before")
            self.size, self.count = size, max(self.count, int(cell["frames"]))
        kind = cell.get("kind", "point")
        confidence = float(cell["confidence"]) if cell["confidence"] else None
        if kind == "point":
            name = cell["label"] if "label" in cell else cell["point"]
            self.points[name] = None
            seen = cell.get("visible", "1") == "1"
            self.dots.setdefault(frame, {})[name] = Dot(float(cell["x"]), float(cell["y"]), seen, confidence)
        elif kind == "void":
            self.void[frame] = self._mask(cell["rle"])
        elif kind == "object":
            number, hidden = int(cell["id"]), cell["visible"] == "0"
            counts = self._mask(cell["rle"]) if cell["rle"] else None
            if cell["rle"] and counts is None:
                return
            left, top, right, bottom = (float(cell[k] or 0) for k in ("left", "top", "right", "bottom"))
            box = None if counts else (left, top, right, bottom)
            self.shapes.setdefault(frame, []).append(Shape(number, counts, box, hidden, confidence))
            self.labels |= {number: cell["label"]} if cell["label"] != LABEL else {}
        elif kind != "frame":
            raise ValueError(f"kind {kind[:20]!r}; object, point, void or frame is expected")

    def _mask(self, counts: str) -> str | None:
        if self.size is None:
            raise ValueError("a mask without the size of its frame")
        return encode(rle.decode({"size": list(self.size), "counts": counts}))

    def annotations(self, name: str) -> Annotations:
        if self.size is None:
            raise InputError("says no frame size; name the video (--video)")
        frames = numbered(max(self.count, max(self.names, default=-1) + 1))
        for t, own in self.names.items():
            frames[t] = own
        rows = tuple(
            Row(
                t, tuple(self.shapes.get(t, ())),
                tuple(self.dots[t].get(p) for p in self.points) if t in self.dots else (), self.void.get(t),
            )
            for t in sorted(self.names)
        )  # fmt: skip
        return Annotations(name, self.size, frames, rows, self.labels, tuple(self.points))


def write(annotations: Annotations, path: Path) -> set[str]:
    with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        height, width = annotations.size
        for row in annotations.rows:
            common = {"frame": row.frame, "name": annotations.frames[row.frame]}
            for entry in _entries(annotations, row):
                table.writerow(common | entry | {"width": width, "height": height, "frames": len(annotations.frames)})
    return set()


def _entries(annotations: Annotations, row: Row) -> Iterator[dict[str, object]]:
    something = False
    for shape in row.shapes:
        left, top, right, bottom = shape.bounds(annotations.size)
        something = True
        yield {
            "kind": "object", "id": shape.id, "label": " ".join(annotations.label(shape.id).split()),
            "left": left, "top": top, "right": right, "bottom": bottom,
            "visible": 1 - shape.occluded, "confidence": _text(shape.confidence), "rle": shape.counts or "",
        }  # fmt: skip
    for name, dot in zip(annotations.points, row.dots, strict=False):
        if dot:
            something = True
            yield {
                "kind": "point", "label": " ".join(name.split()), "x": dot.x, "y": dot.y, "visible": int(dot.visible),
                "confidence": _text(dot.confidence),
            }  # fmt: skip
    if row.void is not None:
        something = True
        yield {"kind": "void", "rle": row.void}
    if not something:
        yield {"kind": "frame"}


def _text(value: float | None) -> object:
    return "" if value is None else value
