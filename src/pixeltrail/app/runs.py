"""Masks on their way between server and page: runs of equal labels, row by row.

``n`` as uint32, then n lengths as uint32, then n labels as uint8, all little-endian. The page has the same in `runs.ts`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError

Ids = NDArray[np.uint8]


def encode(ids: Ids) -> bytes:
    """Labels (H, W) uint8 as bytes."""
    flat = ids.ravel()
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    lengths = np.diff(np.append(starts, len(flat)))
    head = np.array([len(starts), *lengths], "<u4")
    return bytes(head.tobytes() + flat[starts].tobytes())


def decode(data: bytes, size: tuple[int, int]) -> Ids:
    """Bytes as labels (H, W). Raises InputError where they do not fill exactly one frame of ``size``."""
    count = int.from_bytes(data[:4], "little")
    if len(data) < 4 or len(data) != 4 + 5 * count:
        raise InputError(f"mask: {len(data)} bytes do not hold {count} runs; reload the page")
    lengths = np.frombuffer(data, "<u4", count, 4).astype(np.int64)
    if int(lengths.sum()) != size[0] * size[1]:
        raise InputError(f"mask: runs of {int(lengths.sum())} pixels, the frame is {size[1]}x{size[0]}")
    return np.repeat(np.frombuffer(data, np.uint8, count, 4 + 4 * count), lengths).reshape(size)
