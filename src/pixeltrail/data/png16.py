"""PNG files of three 16-bit channels, which KITTI keeps flow in and Pillow cannot handle (it gives 8 bits, silently).

By the PNG specification (W3C, third edition): colour type 2, bit depth 16, not interlaced. Standard library and NumPy only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint16]
"""(H, W, 3) uint16."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEFLATE = 1040
"""No byte of a deflate stream stands for more bytes than about this (the limit is 1032, and a little for its ends)."""
MAX_SIDE = 65536

_PIXEL = 6  # bytes
_PAETH = 4


def decode(data: bytes, max_pixels: int) -> Pixels:
    """The pixels of a file's bytes, (H, W, 3) uint16.

    Nothing is decompressed before the size that the header claims is found possible. Raises ValueError that says what is
    wrong: no PNG, another depth, interlaced, too large, cut off, a wrong checksum, or rows that do not fit.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("is no PNG")
    header, packed = b"", []
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed.append(content)
    if len(header) != 13:
        raise ValueError("has no header")
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", header)
    if (depth, colour) != (16, 2):
        raise ValueError(f"has {depth} bits and PNG colour type {colour}, not three channels of 16 bits")
    if any(methods):
        raise ValueError("is interlaced, or packed in a way that PNG does not know")
    if not 0 < width * height <= max_pixels or max(width, height) > MAX_SIDE:
        raise ValueError(f"claims {width}x{height} pixels; at most {max_pixels / 1e6:.0f} million are read")
    size = height * (1 + _PIXEL * width)
    if size > DEFLATE * sum(map(len, packed)):
        raise ValueError(f"claims {width}x{height} pixels, too many for its length")
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(b"".join(packed), size + 1)
    except zlib.error as error:
        raise ValueError(f"is damaged ({error})") from None
    if len(rows) != size:
        raise ValueError(f"has {'more' if len(rows) > size else 'fewer'} rows than the {height} that its header claims")
    return _unfilter(np.frombuffer(rows, np.uint8).reshape(height, -1), width)


def encode(pixels: Pixels) -> bytes:
    """The bytes of a file for (H, W, 3) uint16, every row predicted by Paeth's filter."""
    height, width, _ = pixels.shape
    raw = np.zeros((height + 1, width + 1, _PIXEL), np.uint8)  # with the zeros that lie above and to the left
    raw[1:, 1:] = np.ascontiguousarray(pixels, ">u2").view(np.uint8).reshape(height, width, _PIXEL)
    rows = np.full((height, 1 + _PIXEL * width), _PAETH, np.uint8)
    rows[:, 1:] = (raw[1:, 1:] - _paeth(raw[1:, :-1], raw[:-1, 1:], raw[:-1, :-1])).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk up to the end's."""
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if len(data) < at + 12:
            raise ValueError("is cut off")
        length, kind = struct.unpack_from(">I4s", data, at)
        if len(data) < at + 12 + length:
            raise ValueError("is cut off")
        content = data[at + 8 : at + 8 + length]
        if zlib.crc32(kind + content) != struct.unpack_from(">I", data, at + 8 + length)[0]:
            raise ValueError("is damaged (a checksum is wrong)")
        yield kind, content
        at += 12 + length


def _unfilter(rows: NDArray[np.uint8], width: int) -> Pixels:
    """Undo the filters 0-4 that each row names in its first byte.

    A byte is predicted from those of the pixels to its left, above, and above left. All pixels of one antidiagonal are
    done at once, as each of them needs only the two antidiagonals before.
    """
    height, filters = len(rows), rows[:, 0]
    if filters.max() > _PAETH:
        raise ValueError(f"is damaged (row filter {filters.max()})")
    out = np.zeros((height + 1, width + 1, _PIXEL), np.uint8)
    out[1:, 1:] = rows[:, 1:].reshape(height, width, _PIXEL)
    flat = out.reshape(-1, _PIXEL)
    for diagonal in range(2, height + width + 1):  # row + column; a row down is ``width`` further along the diagonal
        top, bottom = max(1, diagonal - width), min(height, diagonal - 1)
        start, stop = diagonal + top * width, diagonal + bottom * width + 1
        left, above, corner = (flat[start - back : stop - back : width] for back in (1, width + 1, width + 2))
        mean = (left.astype(np.uint16) + above) >> 1
        predicted = np.choose(
            filters[top - 1 : bottom, None],
            (np.uint8(0), left, above, mean.astype(np.uint8), _paeth(left, above, corner)),
        )
        flat[start:stop:width] += predicted
    return out[1:, 1:].copy().view(">u2").astype(np.uint16)


def _paeth(left: NDArray[np.uint8], above: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """That of the three which is nearest to left + above - corner, in this order where they tie."""
    a, b, c = (x.astype(np.int16) for x in (left, above, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, above, corner))
