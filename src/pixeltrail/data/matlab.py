"""MATLAB's level-5 ``.mat`` files: the arrays of numbers in them, and nothing else.

MathWorks, *MAT-File Format*, version 5. Every size that a file declares is compared with the bytes that are there
before anything is made of them; compressed parts may not grow beyond `MAX_BYTES`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.files import one_line
from pixeltrail.errors import InputError

MAX_BYTES = 256 << 20
"""Of a file, and of what its compressed parts hold together."""

# Types of elements: what the numbers are stored as, which may be smaller than what they are.
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_COMPLEX = 0x800


def read_mat(path: str | Path) -> dict[str, NDArray[Any]]:
    """The real arrays of numbers by their names; text, cells, structs, sparse and complex arrays are left out.

    Raises InputError for a missing, damaged or hostile file and for other formats (version 7.3 is HDF5).
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; a MATLAB .mat file is expected")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        return parse_mat(path.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable MATLAB file ({one_line(error)}); get it again") from error


def parse_mat(data: bytes) -> dict[str, NDArray[Any]]:
    """As `read_mat`, from the file's bytes. Raises ValueError and nothing else."""
    if len(data) < 128:
        raise ValueError("it is shorter than its header")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("no level-5 .mat file begins like this")
    if struct.unpack(f"{order}H", data[124:126])[0] != 0x0100:
        raise ValueError("it is of version 7.3; save it with -v7 or older")
    arrays: dict[str, NDArray[Any]] = {}
    left = MAX_BYTES
    for kind, content in _elements(memoryview(data)[128:], order):
        if kind == _COMPRESSED:
            inflated = _inflated(content, left)
            left -= len(inflated)
            parts = list(_elements(memoryview(inflated), order))
        else:
            parts = [(kind, content)]
        arrays |= dict(named for k, c in parts if k == _MATRIX and (named := _matrix(c, order)))
    return arrays


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element: an 8-byte tag and so many bytes, or four bytes of tag and up to four."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("an element ends too early")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # the small format: the size is in the upper half
            kind, size, begin, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError("a small element is too large")
        else:
            begin = at + 8
            following = begin + size + (-size % 8 if kind != _COMPRESSED else 0)
        if begin + size > len(data):
            raise ValueError("an element ends too early")
        yield kind, data[begin : begin + size]
        at = following


def _inflated(content: memoryview, limit: int) -> bytes:
    engine = zlib.decompressobj()
    try:
        inflated = engine.decompress(content, limit)
    except zlib.error as error:
        raise ValueError(f"a compressed part is damaged: {error}") from None
    if engine.unconsumed_tail:
        raise ValueError(f"its parts hold more than {MAX_BYTES >> 20} MiB")
    if not engine.eof:
        raise ValueError("a compressed part ends too early")
    return inflated


def _matrix(content: memoryview, order: str) -> tuple[str, NDArray[Any]] | None:
    """Name and array of a matrix; None for one that holds no real numbers."""
    parts = _elements(content, order)
    (a, flags), (b, sizes), (c, name) = (next(parts, (0, memoryview(b""))) for _ in range(3))
    if a != _UINT32 or len(flags) != 8:
        raise ValueError("an array has no header")
    (flag,) = struct.unpack_from(f"{order}I", flags)
    wanted = _CLASSES.get(flag & 0xFF)
    if wanted is None or flag & _COMPLEX:
        return None
    if (b, c) != (_INT32, _INT8) or len(sizes) % 4 or not 8 <= len(sizes) <= 32:
        raise ValueError("an array has no sizes")
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    kind, numbers = next(parts, (0, memoryview(b"")))
    stored = _STORED.get(kind)
    if stored is None or min(shape) < 0:
        raise ValueError("an array has no numbers")
    dtype = np.dtype(f"{order}{stored}")
    if math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"an array of shape {shape} does not have the size of its contents")
    values = np.frombuffer(numbers, dtype).reshape(shape, order="F")
    with np.errstate(invalid="ignore"):  # numbers that the class cannot hold are the file's own business
        return bytes(name).decode("latin-1"), values.astype(wanted)
