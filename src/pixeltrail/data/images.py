"""Reading and writing single images. Every file is hostile until its format and its size are known."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import numpy as np
import PIL.Image

from pixeltrail.data.files import atomic, one_line
from pixeltrail.errors import InputError
from pixeltrail.types import Image

MAX_PIXELS = 64_000_000
"""Frames and masks with more pixels than this are refused before they are decoded."""

_FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF",
    ".webp": "WEBP", ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip
IMAGE_SUFFIXES = frozenset(_FORMATS) - {".gif"}
"""Suffixes of files that are taken as one frame each. A GIF is read too, but it is a video."""

_SAVE = {"PNG": {"compress_level": 1}, "JPEG": {"quality": 92}, "WEBP": {"quality": 92}}

# The limit above is stricter than Pillow's, which would add two lines about a "decompression bomb" to our one.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


def natural_key(name: str | os.PathLike[str]) -> tuple[list[str | int], str]:
    """Sort key under which frame2 comes before frame10."""
    text = os.fspath(name)
    parts = re.split(r"([0-9]+)", text.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], text


def open_image(path: Path) -> PIL.Image.Image:
    """Open an image and read its header only; its pixels are checked to be few enough to load.

    The caller closes it. Raises InputError for a missing file, a format outside the list, or more than MAX_PIXELS.
    """
    try:
        image = PIL.Image.open(path, formats=sorted(set(_FORMATS.values())))
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name an image in it") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read; change its permissions") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise InputError(f"{path}: is larger than {MAX_PIXELS / 1e6:.0f} megapixels; scale it down") from None
    except PIL.UnidentifiedImageError:
        raise InputError(f"{path}: is not an image that can be read; use PNG or JPEG") from None
    except Exception as error:  # Pillow's readers raise ten kinds on damaged files, IndexError and SyntaxError included
        raise _unreadable(path, error) from error
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        image.close()
        raise InputError(
            f"{path}: has {width}x{height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels; scale it down"
        )
    return image


def read_image(path: str | Path) -> Image:
    """Read an image as (H, W, 3) uint8 RGB.

    The EXIF orientation is applied; 16-bit values are scaled to 8; alpha is dropped: colours count as they are stored.
    Raises InputError for a file that is missing, damaged, too large or no image.
    """
    path = Path(path)
    with open_image(path) as image:
        try:
            turn = _turn(image)
            return _to_rgb(image if turn is None else image.transpose(turn))
        except Exception as error:  # as in open_image
            raise _unreadable(path, error) from error


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as `read_image` would give it, from the header alone. Raises InputError as it does."""
    with open_image(path) as image:
        width, height = image.size
        try:
            sideways = _turn(image) in _SIDEWAYS.values()
        except Exception as error:  # as in open_image
            raise _unreadable(path, error) from error
    return (width, height) if sideways else (height, width)


def write_image(path: str | Path, image: Image) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the suffix, or nothing. Raises InputError or DiskError."""
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: images cannot be written as {path.suffix or 'a file without suffix'!r}; use .png or .jpg"
        )
    with atomic(path) as part:
        PIL.Image.fromarray(image).save(part, format=kind, **_SAVE.get(kind, {}))


_Turn = PIL.Image.Transpose
_SIDEWAYS = {5: _Turn.TRANSPOSE, 6: _Turn.ROTATE_270, 7: _Turn.TRANSVERSE, 8: _Turn.ROTATE_90}
_TURNS = {2: _Turn.FLIP_LEFT_RIGHT, 3: _Turn.ROTATE_180, 4: _Turn.FLIP_TOP_BOTTOM, **_SIDEWAYS}


def _turn(image: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """What shows the image upright, by the EXIF tag Orientation."""
    if image.format == "PNG" and "exif" not in image.info:
        return None  # Pillow would decode the whole image to look for the tag behind the pixels
    return _TURNS.get(image.getexif().get(0x0112, 1))


def _to_rgb(image: PIL.Image.Image) -> Image:
    if image.mode.startswith("I"):  # Pillow would clip 16-bit grey at 255 instead of scaling it
        grey = np.rint(np.clip(np.asarray(image, np.float64), 0, 65535) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point values have no known range")
    if "A" in image.mode and image.mode != "RGBA":  # LA, PA and La: drop alpha without blending
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: is damaged or no image ({one_line(error)}); save it again as PNG or JPEG")
