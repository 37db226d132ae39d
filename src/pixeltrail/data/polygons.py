"""Masks as polygons along the edges of pixels, and back: exact both ways, holes and separate parts included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError

Loop = NDArray[np.float64]


def outlines(mask: NDArray[np.bool_]) -> list[Loop]:
    """The closed outlines of a mask (H, W), each (n, 2) corners (x, y) on the edges of pixels.

    The mask lies to the right of the path: outlines run clockwise on the screen, those of holes anticlockwise.
    """
    inside = np.pad(mask, 1).astype(np.int8)
    # Below an upper edge lies the mask: it is walked to the right. Left of a right edge lies it too: walked down.
    level = [((x, y), (end, y)) for y, x, end in _runs(np.diff(inside, axis=0))]
    upright = [((x, end), (x, y)) for x, y, end in _runs(np.diff(inside, axis=1).T)]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end in upright:
        following.setdefault(start, []).append(end)
    across: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for start, end in level:
        across.setdefault(start, []).append(end)
    loops = []
    while across:
        begin = here = next(iter(across))
        corners = [here]
        while True:
            for edges in (across, following):
                there = edges[here].pop()
                if not edges[here]:
                    del edges[here]
                here = there
                corners.append(here)
            if here == begin:
                break
        loops.append(np.array(corners[:-1], np.float64))
    return loops


def _runs(edges: NDArray[np.int8]) -> Iterator[tuple[int, int, int]]:
    """Along each row the runs of 1 from their first place to one past the last, those of -1 the other way round."""
    change = np.pad(edges, ((0, 0), (1, 1)))
    change = change[:, 1:] != change[:, :-1]
    starts, ends = np.nonzero(change[:, :-1] & (edges != 0)), np.nonzero(change[:, 1:] & (edges != 0))
    forward = edges[starts] > 0
    first, last = starts[1] - 1, ends[1]  # the picture was padded by one pixel
    begin, end = np.where(forward, first, last), np.where(forward, last, first)
    return zip(starts[0].tolist(), begin.tolist(), end.tolist(), strict=True)


def joined(loops: Sequence[Loop]) -> Loop:
    """One polygon with the same inside: every loop is reached and left along the same line, which then bounds nothing."""
    first, *others = loops
    path = [first, first[:1]] if others else [first]
    for loop in others:
        path += [loop, loop[:1], first[:1]]
    return np.concatenate(path)


def fill(loops: Iterable[Loop], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels whose centres lie inside, by the even-odd rule over all loops of (x, y) corners.

    Raises InputError for loops of less than three corners and for corners far from the picture.
    """
    height, width = size
    toggle = np.zeros(height * (width + 1), np.bool_)
    bound = np.array([width, height])
    for loop in loops:
        corners = np.asarray(loop, np.float64).reshape(-1, 2)
        if len(corners) < 3 or not ((corners >= -bound) & (corners <= 2 * bound)).all():  # NaN fails too
            raise InputError("a polygon needs three corners or more, all of them near the picture")
        down = np.stack([corners, np.roll(corners, -1, 0)])
        down = np.take_along_axis(down, np.argsort(down[..., 1:], 0, kind="stable"), 0)
        first, last = np.clip(np.ceil(down[..., 1] - 0.5), 0, height).astype(np.intp)  # rows whose middle it crosses
        for some in _portions(last - first):
            count = (last - first)[some]
            rows = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first[some], count)
            (x0, y0), (x1, y1) = (np.repeat(end[some], count, 0).T for end in down)
            columns = np.clip(np.ceil(x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0)) - 0.5), 0, width)
            np.logical_xor.at(toggle, rows * (width + 1) + columns.astype(np.intp), True)
    inside: NDArray[np.bool_] = np.logical_xor.accumulate(toggle.reshape(height, width + 1), axis=1)[:, :width]
    return inside


def _portions(counts: NDArray[np.intp], limit: int = 1 << 20) -> Iterator[slice]:
    """Slices over the edges that cross about ``limit`` rows each, so that memory stays bounded."""
    part = np.cumsum(counts) // limit
    places = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(counts)]
    return (slice(a, b) for a, b in pairwise(places))
