"""Counting what crosses a line: moving things by number, and on which side of the line each has been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pixeltrail.errors import InputError
from pixeltrail.flow.classical import Flow
from pixeltrail.flow.segment import Moving, segment_motion
from pixeltrail.types import Image

Line = tuple[float, float, float, float]
YOUNGEST = 4
"""What was first seen fewer frames ago does not count: flow is noisy, and noise does not last."""
SHARE = 0.25
"""Of its own size, which a thing must be away from the line to be on a side: its outline is estimated, and with it its middle."""
FORGOTTEN = 50
"""Frames after which a thing that is no longer seen is not waited for."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Thing ``number`` crossed at (``x``, ``y``) pixels, seen in frame ``index``, towards ``direction``: up, down, left
    or right, whichever is nearest to straight across the line."""

    index: int
    number: int
    direction: str
    x: float
    y: float


@dataclass(slots=True)
class _Thing:
    """Since and until when it was seen, how far from the line it was last, and where."""

    first: int
    last: int = 0
    away: float = 0.0
    place: complex = 0j


@dataclass(slots=True)
class LineCounter:
    """Counts the things whose middle crosses the segment ``line``, (x1, y1, x2, y2) in pixels.

    A thing is on a side once it is ``margin`` pixels and ``SHARE`` of its size away from the line, so one that stops on it
    does not count twice; one that turns round and comes back counts again, the other way. ``counts``: how many went where.
    Raises InputError for a line without a length.
    """

    line: Line
    margin: float = 4.0
    counts: Counter[str] = field(default_factory=Counter)
    _things: dict[int, _Thing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not np.isfinite(self.line).all() or self.line[:2] == self.line[2:]:
            raise InputError(f"line {self.line}: has no length; give two different points X1,Y1,X2,Y2")

    def step(
        self, index: int, centres: Mapping[int, tuple[float, float]], sizes: Mapping[int, float] | None = None
    ) -> list[Crossing]:
        """The crossings of a frame, from the middle (x, y) of each thing seen in it, and its size in pixels (default: 0)."""
        start, along = complex(*self.line[:2]), complex(*self.line[2:]) - complex(*self.line[:2])
        crossings = []
        for number, place in centres.items():
            z = complex(*place)
            away = ((z - start) / along).imag * abs(along)  # pixels, positive on the right hand of who walks the line
            thing = self._things.setdefault(number, _Thing(index))
            thing.last = index
            if abs(away) < max(self.margin, SHARE * (sizes or {}).get(number, 0.0)):
                continue
            if thing.away * away < 0 and index - thing.first >= YOUNGEST:
                cut = thing.place + (z - thing.place) * thing.away / (thing.away - away)
                if 0 <= ((cut - start) / along).real <= 1:
                    direction = _direction(along * 1j * np.sign(away))
                    self.counts[direction] += 1
                    crossings.append(Crossing(index, number, direction, round(cut.real, 2), round(cut.imag, 2)))
            thing.away, thing.place = away, z
        self._things = {n: thing for n, thing in self._things.items() if index - thing.last <= FORGOTTEN}
        return crossings


def count_crossings(
    frames: Iterable[Image],
    line: Line,
    flow: Callable[[Image, Image], Flow],
    *,
    threshold: float = 0.8,
    smallest: float = 0.003,
) -> Iterator[tuple[Moving, list[Crossing]]]:
    """The moving things of each frame, and which of them cross ``line`` there.

    ``threshold`` and ``smallest`` are those of `segment_motion`. Things are told apart by the motion of their pixels:
    what drives side by side, touching and as fast, is one thing until it parts. Raises InputError.
    """
    counter = LineCounter(line)
    for moving in segment_motion(frames, flow, threshold=threshold, smallest=smallest):
        yield moving, counter.step(moving.index, moving.centres(), moving.sizes())


def _direction(across: complex) -> str:
    if abs(across.real) > abs(across.imag):
        return "right" if across.real > 0 else "left"
    return "down" if across.imag > 0 else "up"
