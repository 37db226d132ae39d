"""CVAT for video 1.1 (XML). Frames and tracks count from 0; coordinates are by pixel edges, so the middle of the first
pixel is (0.5, 0.5).

CVAT has no tracks of masks, so each object's masks become a track of polygons along the edges of pixels, which is exact;
masks are read too. A shape stays as it is, boxes and points move evenly, until the track's next key frame or `outside`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from pixeltrail.data import polygons
from pixeltrail.data.annotations import (
    LABEL,
    MAX_FRAMES,
    Annotations,
    Dot,
    Shape,
    Size,
    between,
    checked_size,
    encode,
    gather,
    numbered,
    unique,
)
from pixeltrail.data.files import atomic
from pixeltrail.data.interchange.shared import peek, refusing
from pixeltrail.errors import InputError

TITLE, SUFFIX = "CVAT", ".xml"
LOSES = {
    "confidence": "left out", "void": "left out", "rate": "left out", "gaps": "frames without annotation become empty",
    "frame names": "frames are numbered", "opacity": "masks are hard",
}  # fmt: skip
_SHAPES = ("box", "polygon", "mask", "points")

Key = tuple[Shape | Dot | tuple[Dot, ...], bool]  # what a track shows on a frame, and whether it is outside


def detect(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and "<annotations" in peek(path)


def read(path: Path, size: Size | None = None) -> Annotations:
    """Tracks of boxes, polygons, masks and points. A document type is refused, and with it every entity."""
    with refusing(path, "CVAT for video 1.1 file"):
        found = _Reader(size)
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler, parser.EndElementHandler = found.start, found.end
        parser.CharacterDataHandler = found.text
        parser.buffer_text = True
        try:
            with open(path, "rb") as file:
                parser.ParseFile(file)
        except expat.ExpatError as error:
            raise InputError(f"{path}: is damaged XML ({error}); export it again") from None
        return found.annotations(path.stem)


def _refuse_doctype(*_: object) -> None:
    raise InputError("has a document type; CVAT writes none, and entities in it could be hostile; remove it")


class _Reader:
    """Takes the elements one by one; nothing is kept of them but the tracks."""

    def __init__(self, size: Size | None) -> None:
        self.size, self.known = size, False
        self.name, self.count = "", 0
        self.path: list[str] = []
        self.characters = ""
        self.original: dict[str, int] = {}
        self.tracks: list[tuple[int, str, dict[int, Key]]] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if len(self.path) > 30:
            raise InputError("is nested too deeply")
        self.path.append(tag)
        self.characters = ""
        if tag == "image":
            raise InputError("is CVAT for images, which has no tracks; export it as CVAT for video 1.1")
        if tag == "track":
            self.tracks.append((int(attributes["id"]), attributes.get("label", LABEL)[:200], {}))
        elif "track" in self.path[:-1] and tag != "attribute":
            self._shape(tag, attributes)

    def text(self, characters: str) -> None:
        self.characters = (self.characters + characters)[:1000]

    def end(self, tag: str) -> None:
        self.path.pop()
        if self.path and self.path[-1] == "original_size":
            self.original[tag] = int(self.characters)
        elif tag == "original_size":
            self.size, self.known = checked_size((self.original["height"], self.original["width"])), True
        elif self.path[1:] in (["meta", "task"], ["meta", "job"]):
            if tag == "name":
                self.name = self.characters.strip()[:200]
            elif tag == "size":
                self.count = len(numbered(int(self.characters)))
        self.characters = ""

    def _shape(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag not in _SHAPES:
            raise InputError(f"a track of {tag[:20]!r}; only {', '.join(_SHAPES)} can be read")
        frame, track = int(attributes["frame"]), self.tracks[-1][2]
        if not 0 <= frame < MAX_FRAMES:
            raise InputError(f"frame {frame}: frames count from 0 to {MAX_FRAMES - 1}")
        outside, occluded = attributes.get("outside") == "1", attributes.get("occluded") == "1"
        if tag == "points":
            pairs = [tuple(map(float, pair.split(","))) for pair in attributes["points"].split(";")]
            track[frame] = tuple(Dot(x - 0.5, y - 0.5, not occluded) for x, y in pairs), outside
        elif tag == "box":
            left, top, right, bottom = (float(attributes[k]) for k in ("xtl", "ytl", "xbr", "ybr"))
            if float(attributes.get("rotation", 0)):
                raise InputError(f"frame {frame}: a rotated box; only upright ones can be read")
            track[frame] = Shape(1, None, (left, top, right, bottom), occluded), outside
        elif self.size is None:
            raise InputError("gives masks but no original_size; name the video (--video)")
        else:
            counts = encode(_polygon(attributes, self.size) if tag == "polygon" else _mask(attributes, self.size))
            if counts is not None or outside:
                track[frame] = Shape(1, counts or "0", None, occluded), outside

    def annotations(self, name: str) -> Annotations:
        if self.size is None:
            raise InputError("says no original_size; name the video (--video)")
        last = max((max(keys) for _, _, keys in self.tracks if keys), default=-1)
        count = self.count or last + 1
        if last >= count:
            raise InputError(f"has a shape on frame {last}, but {count} frames")
        shapes: dict[int, dict[int, Shape]] = {}
        labels: dict[int, str] = {}
        dots: list[dict[int, Dot]] = []
        names: list[str] = []
        for own, label, keys in self.tracks:
            first = next(iter(keys.values()), (None, True))[0]
            if isinstance(first, tuple):
                dots += [_follow(keys, count, k) for k in range(len(first))]
                names += [label] if len(first) == 1 else [f"{label} {k + 1}" for k in range(len(first))]
            elif first is not None:
                if own + 1 in shapes:
                    raise InputError(f"two tracks have id {own}")
                shapes[own + 1] = {t: replace(s, id=own + 1) for t, s in _follow(keys, count).items()}
                labels |= {own + 1: label} if label != LABEL else {}
        rows = gather(shapes, dots, count)
        return Annotations(self.name or name, self.size, numbered(count), rows, labels, unique(names))


def _follow(keys: Mapping[int, Key], count: int, part: int = 0) -> dict[int, Any]:
    """What a track shows on every frame, from what its key frames show."""
    frames = sorted(keys)
    shown: dict[int, Any] = {}
    for here, there in zip(frames, [*frames[1:], count], strict=True):
        now, outside = keys[here]
        if outside:
            continue
        following = keys[there][0] if there in keys and not keys[there][1] else now
        first, second = (v[part] if isinstance(v, tuple) else v for v in (now, following))
        for t in range(here, there):
            shown[t] = between(first, second, (t - here) / (there - here)) if t > here else first
    return shown


def _polygon(attributes: Mapping[str, str], size: Size) -> np.ndarray[Any, np.dtype[np.bool_]]:
    pairs = [pair.split(",") for pair in attributes["points"].split(";")]
    return polygons.fill([np.array(pairs, np.float64)], size)


def _mask(attributes: Mapping[str, str], size: Size) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A mask: runs along the rows of the rectangle that holds it, zeros first."""
    left, top, width, height = (int(attributes[k]) for k in ("left", "top", "width", "height"))
    runs = [int(n) for n in attributes["rle"].split(",")]
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
        raise InputError("a mask lies outside the picture")
    if min(runs) < 0 or sum(runs) != width * height:
        raise InputError(f"a mask's run lengths do not fill its {width}x{height} pixels")
    mask = np.zeros(size, np.bool_)
    part = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : top + height, left : left + width] = part.reshape(height, width)
    return mask


def write(annotations: Annotations, path: Path) -> set[str]:
    """One file. Tracks follow one another, so the rows are read once for all, as run lengths, before anything is written."""
    tracks: dict[int, dict[int, Shape]] = {}
    dots: list[dict[int, Dot]] = [{} for _ in annotations.points]
    for row in annotations.rows:
        for shape in row.shapes:
            tracks.setdefault(shape.id, {})[row.frame] = shape
        for track, dot in zip(dots, row.dots, strict=False):
            if dot:
                track[row.frame] = dot
    with atomic(path) as part, open(part, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in _lines(annotations, tracks, dots))
    return set()


def _lines(
    annotations: Annotations, tracks: Mapping[int, Mapping[int, Shape]], dots: list[dict[int, Dot]]
) -> Iterator[str]:
    height, width = annotations.size
    count = len(annotations.frames)
    labels = dict.fromkeys([*(annotations.label(i) for i in tracks), *annotations.points])
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task>'
    yield f"<name>{escape(annotations.name)}</name><size>{count}</size><mode>interpolation</mode>"
    yield f"<start_frame>0</start_frame><stop_frame>{count - 1}</stop_frame>\n<labels>"
    for label in labels:
        yield f"<label><name>{escape(label)}</name><type>any</type><attributes></attributes></label>"
    yield f"</labels>\n<original_size><width>{width}</width><height>{height}</height></original_size>\n</task></meta>"
    after = max(tracks, default=0)
    every: list[tuple[int, str, Mapping[int, Shape | Dot]]] = [
        *((i - 1, annotations.label(i), track) for i, track in sorted(tracks.items())),
        *((after + k, name, track) for k, (name, track) in enumerate(zip(annotations.points, dots, strict=True))),
    ]
    for own, label, track in every:
        yield f'<track id="{own}" label={quoteattr(label)} source="auto">'
        for t, shown in track.items():
            yield _element(t, shown, annotations.size, outside=False)
            if t + 1 not in track and t + 1 < count:
                yield _element(t + 1, shown, annotations.size, outside=True)
        yield "</track>"
    yield "</annotations>"


def _element(frame: int, shown: Shape | Dot, size: Size, *, outside: bool) -> str:
    hidden = shown.occluded if isinstance(shown, Shape) else not shown.visible
    common = f'frame="{frame}" keyframe="1" outside="{outside:d}" occluded="{hidden:d}" z_order="0"'
    if isinstance(shown, Dot):
        return f'<points {common} points="{shown.x + 0.5!r},{shown.y + 0.5!r}"></points>'
    if shown.box:
        corners = " ".join(f'{k}="{v!r}"' for k, v in zip(("xtl", "ytl", "xbr", "ybr"), shown.box, strict=True))
        return f"<box {common} {corners}></box>"
    path = polygons.joined(polygons.outlines(shown.mask(size)))
    points = ";".join(f"{math.floor(x)},{math.floor(y)}" for x, y in path)
    return f'<polygon {common} points="{points}"></polygon>'
