"""One tracked video's annotations: what every format of `pixeltrail.data.interchange` is read into and written from.

Conventions. Frames count from 0. Boxes are (left, top, right, bottom) by the *edges* of pixels, so that width is
right - left and the box of a mask ends one past its last column. Points are (x, y) by pixel *centres*: the middle of
the first pixel is (0, 0), as everywhere in pixeltrail. Object ids are whole numbers from 1, without an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data import rle
from pixeltrail.data.images import MAX_PIXELS
from pixeltrail.errors import InputError

if TYPE_CHECKING:
    from pixeltrail.data.video import FrameSource

LABEL = "object"
"""What an object is called that nobody named."""
MAX_FRAMES = 1_000_000
MAX_ID = 2**31 - 1

Box = tuple[float, float, float, float]
Size = tuple[int, int]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Shape:
    """One object on one frame: a mask, as the ``counts`` of COCO's compressed run lengths, or else a ``box``."""

    id: int
    counts: str | None = None
    box: Box | None = None
    occluded: bool = False
    confidence: float | None = None

    def __post_init__(self) -> None:
        if type(self.id) is not int or not 1 <= self.id <= MAX_ID:
            raise InputError(f"object id {self.id!r}: ids are whole numbers from 1 to {MAX_ID}")
        if (self.counts is None) == (self.box is None):
            raise InputError(f"object {self.id}: a mask or a box is needed, and not both")
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (np.isfinite(self.box).all() and left < right and top < bottom):
                raise InputError(f"object {self.id}: box {self.box}: expected left < right and top < bottom")
        if self.confidence is not None and not np.isfinite(self.confidence):
            raise InputError(f"object {self.id}: confidence {self.confidence}: expected a number")

    def mask(self, size: Size) -> Mask:
        """(H, W) bool. Raises InputError where the counts do not fill the frame, or there are none."""
        return rle.decode({"size": list(size), "counts": self.counts})

    def bounds(self, size: Size) -> Box:
        """The box, or that of the mask. Raises as `mask`."""
        return self.box or bounds(self.mask(size))


@dataclass(frozen=True, slots=True)
class Dot:
    """One point on one frame. Where it is not ``visible`` its place is a guess behind what covers it."""

    x: float
    y: float
    visible: bool = True
    confidence: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite([self.x, self.y]).all() and np.isfinite(self.confidence or 0)):
            raise InputError(f"point ({self.x}, {self.y}): expected finite coordinates")


@dataclass(frozen=True, slots=True)
class Row:
    """An annotated frame, possibly empty. ``dots`` holds one entry a point of the video, None where it is not given, or
    nothing at all; ``void`` is a mask that belongs to nobody; ``opacity(id)`` is an object's soft mask (H, W) uint8."""

    frame: int
    shapes: tuple[Shape, ...] = ()
    dots: tuple[Dot | None, ...] = ()
    void: str | None = None
    opacity: Callable[[int], NDArray[np.uint8]] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Lazy:
    """Rows that are made anew each time that they are iterated over."""

    make: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self.make()


@dataclass(frozen=True, slots=True, eq=False)
class Annotations:
    """A video's annotations. ``rows`` come in the order of the frames, one at most for each, and may be read again; a
    frame without a row is not annotated. ``size`` is (height, width); ``frames`` are the names of all frames, ``labels``
    those of objects (default: "object"), ``points`` those of points; ``video`` is where the pictures are. What a file
    cannot be called is taken out of ``name``.

    Raises InputError for sizes, names and numbers that cannot be.
    """

    name: str
    size: Size
    frames: Sequence[str]
    rows: Iterable[Row]
    labels: Mapping[int, str] = field(default_factory=dict)
    points: tuple[str, ...] = ()
    fps: float | None = None
    video: FrameSource | None = None

    def __post_init__(self) -> None:
        checked_size(self.size)
        plain = "".join("_" if c in "/\\" or not c.isprintable() else c for c in self.name[:200]).strip(" .") or "video"
        object.__setattr__(self, "name", plain)
        if self.fps is not None and not 0 < self.fps <= 1e6:
            raise InputError(f"{self.fps} frames per second are not possible")
        if len(self.frames) > MAX_FRAMES:
            raise InputError(f"{len(self.frames)} frames, but {MAX_FRAMES} are the most; split the video")
        for name in self.frames:
            require_plain(name)
        for names, what in ((self.frames, "frames"), (self.points, "points")):
            if len(set(names)) < len(names):
                raise InputError(f"two {what} have the same name; names must differ")

    def label(self, number: int) -> str:
        return self.labels.get(number, LABEL)


def encode(mask: Mask) -> str | None:
    """The counts of a mask (H, W), or None if it is empty."""
    return str(rle.encode(mask)["counts"]) if mask.any() else None


def bounds(mask: Mask) -> Box:
    """(left, top, right, bottom) of a mask that is not empty, right and bottom exclusive."""
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)


def label_map(row: Row, size: Size, number: Callable[[int], int]) -> tuple[NDArray[np.uint16], bool]:
    """(H, W) ids of the masks, ``number`` of each, 0 elsewhere, and whether one covers another: the later wins."""
    ids, overlap = np.zeros(size, np.uint16), False
    for shape in row.shapes:
        if shape.counts is not None:
            mask = shape.mask(size)
            overlap = overlap or bool(ids[mask].any())
            ids[mask] = number(shape.id)
    return ids, overlap


class Renumber:
    """Ids up to ``limit`` stay as they are; larger ones get free numbers from the top. Raises InputError for too many."""

    def __init__(self, limit: int) -> None:
        self.limit, self.changed = limit, False
        self._given: dict[int, int] = {}
        self._taken: set[int] = set()

    def __call__(self, number: int) -> int:
        if number not in self._given:
            new = number
            if number > self.limit or number in self._taken:
                new = next((n for n in range(self.limit, 0, -1) if n not in self._taken), 0)
                self.changed = True
            if not new:
                raise InputError(f"more than {self.limit} objects; the format goes no further, remove some")
            self._given[number] = new
            self._taken.add(new)
        return self._given[number]


def numbered(count: int) -> list[str]:
    """The names of frames that have none: 00000, 00001, ... Raises InputError for more than MAX_FRAMES."""
    if not 0 <= count <= MAX_FRAMES:
        raise InputError(f"{count} frames, but {MAX_FRAMES} are the most; split the video")
    return [f"{i:05d}" for i in range(count)]


def place(stems: Sequence[str]) -> tuple[list[str], list[int]]:
    """The names of all frames and the number of each of ``stems``.

    Names that are numbers say where they belong, counted from 1 if the first is 1, else from 0; others follow one another.
    """
    if stems and all(s.isascii() and s.isdecimal() and len(s) <= 9 for s in stems):
        start, digits = int(min(map(int, stems)) == 1), len(stems[0])
        places = [int(s) - start for s in stems]
        if max(places) < MAX_FRAMES and all(f"{i + start:0{digits}d}" == s for i, s in zip(places, stems, strict=True)):
            return [f"{i + start:0{digits}d}" for i in range(max(places) + 1)], places
    return list(stems), list(range(len(stems)))


def checked_size(size: object) -> Size:
    """(height, width), if a picture can have it. Raises InputError."""
    match size:
        case (int() as height, int() as width) if height > 0 and width > 0 and height * width <= MAX_PIXELS:
            return height, width
    raise InputError(f"a picture of (height, width) {size!r} is not possible; up to {MAX_PIXELS / 1e6:.0f} megapixels")


def require_plain(name: str) -> None:
    """Refuse a name that would leave the folder it is written to."""
    if not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()) or set(name) & set("/\\"):
        raise InputError(f"name {str(name)[:60]!r}: expected a plain file name")
    if name.startswith(".") or name != name.strip():
        raise InputError(f"name {name[:60]!r}: expected a plain file name")


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, with a number behind those that came before."""
    found: dict[str, None] = {}
    for name in names:
        number, new = 2, name
        while new in found:
            new, number = f"{name} {number}", number + 1
        found[new] = None
    return tuple(found)


def between(first: Shape | Dot, second: Shape | Dot, share: float) -> Shape | Dot:
    """What lies ``share`` of the way from one key frame to the next: boxes and points move evenly, masks stay."""
    if isinstance(first, Shape) and isinstance(second, Shape) and first.box and second.box:
        left, top, right, bottom = (a + (b - a) * share for a, b in zip(first.box, second.box, strict=True))
        return Shape(first.id, None, (left, top, right, bottom), first.occluded, first.confidence)
    if isinstance(first, Dot) and isinstance(second, Dot):
        x, y = first.x + (second.x - first.x) * share, first.y + (second.y - first.y) * share
        return Dot(x, y, first.visible, first.confidence)
    return first


def gather(tracks: Mapping[int, Mapping[int, Shape]], dots: Sequence[Mapping[int, Dot]], count: int) -> tuple[Row, ...]:
    """Rows of all ``count`` frames from tracks (object -> frame -> shape) and point tracks (frame -> dot)."""
    shapes: dict[int, list[Shape]] = {}
    for track in tracks.values():
        for frame, shape in track.items():
            shapes.setdefault(frame, []).append(shape)
    return tuple(
        Row(t, tuple(shapes.get(t, ())), tuple(track.get(t) for track in dots) if dots else ()) for t in range(count)
    )
