"""A line across the picture, and how many have crossed it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from pixeltrail.types import Image

_YELLOW, _RED, _DARK, _WHITE = (255, 220, 60), (255, 70, 60), (20, 20, 22), (255, 255, 255)


def draw_line(
    image: Image, line: tuple[float, float, float, float], counts: Mapping[str, int], *, lit: bool = False
) -> Image:
    """``line`` (x1, y1, x2, y2) in pixels drawn over a copy of ``image``, ``lit`` while something crosses it, and
    ``counts`` in the upper left corner."""
    height, width = image.shape[:2]
    picture = Pillow.fromarray(image)
    draw = ImageDraw.Draw(picture)
    thick = max(2, round(height / 160))
    draw.line(line, fill=_DARK, width=thick + 2)
    draw.line(line, fill=_RED if lit else _YELLOW, width=thick)
    size = min(max(12, height // 20), max(12, width // 16))
    font = ImageFont.load_default(size)
    text = "  ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "0"
    draw.rectangle((0, 0, draw.textlength(text, font=font) + size, 1.6 * size), fill=_DARK)
    draw.text((size / 2, 0.8 * size), text, fill=_WHITE, font=font, anchor="lm")
    return np.asarray(picture).copy()
