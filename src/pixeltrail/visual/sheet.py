"""Many pictures on one page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from pixeltrail.errors import ShapeError
from pixeltrail.types import Image

_LIGHT = ((255, 255, 255), (64, 64, 68))
_DARK = ((20, 20, 22), (205, 205, 210))


def contact_sheet(
    images: Sequence[Image],
    *,
    columns: int = 4,
    titles: Sequence[str] | None = None,
    width: int = 320,
    margin: int = 12,
    dark: bool = False,
) -> Image:
    """Even thumbnails in rows of ``columns``, with captions below where ``titles`` are given (one per image).

    Every thumbnail is ``width`` pixels wide and as high as the first image's shape asks; images of other shapes are
    fitted whole into that. Returns uint8 of rows · (height + caption + margin) + margin by columns · (width + margin)
    + margin pixels; a caption is ``caption_height(width)`` high, 0 without titles. Raises ShapeError.
    """
    if not images or columns < 1 or width < 8 or margin < 0:
        raise ShapeError(
            "contact_sheet: expected at least one image and column, width >= 8, margin >= 0; "
            f"got {len(images)} images, {columns} columns, width {width}, margin {margin}"
        )
    if titles is not None and len(titles) != len(images):
        raise ShapeError(f"contact_sheet: expected {len(images)} titles, got {len(titles)}")
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape) == 0:
            raise ShapeError(f"contact_sheet: expected images (H, W, 3) uint8, got {image.dtype} {image.shape}")
    columns = min(columns, len(images))
    height = max(1, round(width * images[0].shape[0] / images[0].shape[1]))
    caption = caption_height(width) if titles is not None else 0
    rows = -(-len(images) // columns)
    paper, ink = _DARK if dark else _LIGHT
    sheet = Pillow.new("RGB", (columns * (width + margin) + margin, rows * (height + caption + margin) + margin), paper)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(caption * 0.62) if caption else None
    for number, image in enumerate(images):
        left = margin + number % columns * (width + margin)
        top = margin + number // columns * (height + caption + margin)
        scale = min(width / image.shape[1], height / image.shape[0])
        fitted = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        thumbnail = Pillow.fromarray(image).resize(fitted, Pillow.Resampling.LANCZOS)
        sheet.paste(thumbnail, (left + (width - fitted[0]) // 2, top + (height - fitted[1]) // 2))
        if font is not None and titles is not None:
            text = _shortened(titles[number], width, draw, font)
            draw.text((left, top + height + caption * 0.55), text, fill=ink, font=font, anchor="lm")
    return np.asarray(sheet).copy()


def caption_height(width: int) -> int:
    """Height in pixels of the strip for a caption below a thumbnail of ``width``."""
    return max(18, round(width * 0.075))


def _shortened(
    text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """The first line of ``text``, cut with an ellipsis to fit ``width`` pixels."""
    line = (text.splitlines() or [""])[0]
    if draw.textlength(line, font=font) <= width:
        return line
    while line and draw.textlength(line + "...", font=font) > width:
        line = line[:-1]
    return line + "..."
