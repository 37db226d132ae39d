"""Run-length codes of masks as in COCO (Lin et al., "Microsoft COCO", 2014; its mask API).

A mask is read column by column; ``counts`` are the lengths of its runs, beginning with zeros. The compressed form
writes each count as base-32 digits from character 48 upwards, least significant first, in two's complement: bit 4 of
the last digit is the sign, bit 5 of a digit says that another follows. From the fourth count on, what is written is the
difference from the count two before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.images import MAX_PIXELS
from pixeltrail.errors import InputError

_DIGITS = 8  # 40 bits: no count of a permitted mask needs more


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """(H, W) bool -> ``{"size": [H, W], "counts": compressed string}``, as COCO's own code writes it."""
    flat = np.asarray(mask, bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
    runs = [int(n) for n in counts]
    return {"size": list(mask.shape), "counts": _compress([0, *runs] if flat[0] else runs)}


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """``{"size": [H, W], "counts": string or list}`` -> (H, W) bool.

    Raises InputError, before anything of the mask's size is allocated, if the runs do not fill H·W pixels exactly.
    """
    height, width = _size(rle.get("size"))
    counts = rle.get("counts")
    if isinstance(counts, str | bytes):
        runs = _expand(counts.encode("ascii", "replace") if isinstance(counts, str) else counts)
    elif isinstance(counts, list) and all(type(n) is int for n in counts):
        runs = counts
    else:
        raise InputError("RLE: counts must be a string or a list of whole numbers")
    if any(n < 0 for n in runs) or sum(runs) != height * width:
        raise InputError(f"RLE: counts do not fill {width}x{height} pixels; the size or the counts are wrong")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _size(size: object) -> tuple[int, int]:
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise InputError("RLE: size must be [height, width], two whole numbers above 0")
    height, width = size
    if height * width > MAX_PIXELS:
        raise InputError(f"RLE: {width}x{height} is larger than {MAX_PIXELS / 1e6:.0f} megapixels")
    return height, width


def _compress(counts: Iterable[int]) -> str:
    digits = bytearray()
    before: list[int] = []
    for i, count in enumerate(counts):
        x = count - before[i - 2] if i > 2 else count
        before.append(count)
        more = True
        while more:
            digit = x & 0x1F
            x >>= 5
            more = x != (-1 if digit & 0x10 else 0)
            digits.append(48 + (digit | 0x20 if more else digit))
    return digits.decode("ascii")


def _expand(text: bytes) -> list[int]:
    counts: list[int] = []
    x = shift = 0
    for character in text:
        digit = character - 48
        if not 0 <= digit < 64 or shift >= 5 * _DIGITS:
            raise InputError("RLE: the counts string is damaged")
        x |= (digit & 0x1F) << shift
        shift += 5
        if not digit & 0x20:
            if digit & 0x10:
                x -= 1 << shift
            counts.append(x + counts[-2] if len(counts) > 2 else x)
            x = shift = 0
    if shift:
        raise InputError("RLE: the counts string is cut short")
    return counts
