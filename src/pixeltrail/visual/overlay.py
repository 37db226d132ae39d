"""Masks, points and boxes drawn over a frame. Nothing here changes the frame that is passed in."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import ShapeError
from pixeltrail.types import VOID, Image, davis_palette


def point_colours(count: int) -> NDArray[np.uint8]:
    """``count`` bright colours, neighbours far apart in hue (steps of the golden ratio). (count, 3) uint8."""
    hue = np.arange(count) * 0.6180339887 % 1
    rgb = np.clip(np.abs((hue[:, None] * 6 + [0, 4, 2]) % 6 - 3) - 1, 0, 1)
    colours: NDArray[np.uint8] = (55 + 200 * rgb).astype(np.uint8)
    return colours


def overlay(image: Image, ids: NDArray[np.uint8], *, alpha: float = 0.5, contour: bool = True) -> Image:
    """Objects tinted with their palette colour, with an inner contour of a lighter one.

    ``ids`` (H, W) uint8 with the size of ``image``; 0 and 255 (void) keep the image's own pixels. ``alpha`` in 0–1 is
    the tint's opacity. Returns a new (H, W, 3) image. Raises ShapeError.
    """
    _expect_image(image)
    if ids.shape != image.shape[:2] or ids.dtype != np.uint8:
        raise ShapeError(f"overlay: expected ids {image.shape[:2]} uint8, got {ids.dtype} {ids.shape}")
    if not 0 <= alpha <= 1:
        raise ShapeError(f"overlay: expected alpha in 0 to 1, got {alpha}")
    out = image.copy()
    where = np.flatnonzero((ids != 0) & (ids != VOID))
    flat, pixels = out.reshape(-1, 3), ids.ravel()
    share = round(256 * alpha)  # in 256ths: 16-bit integers are four times quicker here than floats
    tint = davis_palette() * np.uint16(share) + np.uint16(128)
    mixed = flat.take(where, 0) * np.uint16(256 - share)
    mixed += tint.take(pixels.take(where), 0)
    mixed >>= 8
    flat[where] = mixed
    if contour:
        edge = where[_boundary(ids, max(1, round(image.shape[0] / 400))).ravel().take(where)]
        flat[edge] = _light().take(pixels.take(edge), 0)
    return out


def draw_points(
    image: Image,
    xy: NDArray[np.floating],
    visible: NDArray[np.bool_],
    trails: NDArray[np.floating] | None = None,
    *,
    radius: float = 3.0,
) -> Image:
    """Points ``xy`` (P, 2) in pixels: a dot where ``visible`` (P,), a thin ring where not.

    ``trails`` (L, P, 2), oldest first, are where the points were before; drawn as lines that fade with age.
    """
    _expect_image(image)
    if xy.ndim != 2 or xy.shape[1] != 2 or visible.shape != (len(xy),):
        raise ShapeError(f"draw_points: expected xy (P, 2) and visible (P,), got {xy.shape} and {visible.shape}")
    if trails is not None and trails.shape[1:] != xy.shape:
        raise ShapeError(f"draw_points: expected trails (L, {len(xy)}, 2), got {trails.shape}")
    out, colours = image.copy(), point_colours(len(xy))
    if trails is not None:
        path = np.concatenate([trails, xy[None]])
        for age in range(len(trails)):
            for start, end, colour in zip(path[age], path[age + 1], colours, strict=True):
                _stroke(out, start, end, radius / 3, colour, 0.8 * (age + 1) / len(trails))
    for point, seen, colour in zip(xy, visible, colours, strict=True):
        _stroke(out, point, point, radius + 1, np.zeros(3, np.uint8), 0.6, hollow=None if seen else radius - 1.5)
        _stroke(out, point, point, radius, colour, 1.0, hollow=None if seen else radius - 1)
    return out


def draw_boxes(image: Image, xyxy: NDArray[np.floating], ids: NDArray[np.uint8]) -> Image:
    """Boxes (P, 4) as left, top, right, bottom in pixels, each in the palette's colour of its id, lightened, with a
    dark line about it. Parts outside the image are left out."""
    _expect_image(image)
    if xyxy.ndim != 2 or xyxy.shape[1] != 4 or ids.shape != (len(xyxy),):
        raise ShapeError(f"draw_boxes: expected xyxy (P, 4) and ids (P,), got {xyxy.shape} and {ids.shape}")
    out = image.copy()
    width = max(2, round(image.shape[0] / 240))
    for box, number in zip(xyxy, ids, strict=True):
        if not np.isfinite(box).all():
            continue
        limit = max(image.shape) + 4 * width
        left, top, right, bottom = (int(v) for v in np.clip(np.rint(box), -limit, limit))
        for colour, grow, thick in ((np.zeros(3, np.uint8), 1, width + 2), (_light()[number], 0, width)):
            x0, x1, y0, y1 = left - grow, right + 1 + grow, top - grow, bottom + 1 + grow
            for rows, cols in (
                ((y0, y0 + thick), (x0, x1)), ((y1 - thick, y1), (x0, x1)),
                ((y0, y1), (x0, x0 + thick)), ((y0, y1), (x1 - thick, x1)),
            ):  # fmt: skip
                out[max(rows[0], 0) : max(rows[1], 0), max(cols[0], 0) : max(cols[1], 0)] = colour
    return out


@cache
def _light() -> NDArray[np.uint8]:
    """The palette made bright, for thin lines; different ids stay different."""
    light: NDArray[np.uint8] = (np.minimum(davis_palette() * np.uint16(2), 255) * 4 // 5 + 51).astype(np.uint8)
    return light


def _boundary(ids: NDArray[np.uint8], thickness: int) -> NDArray[np.bool_]:
    """Pixels (H, W) with another id ``thickness`` or fewer steps to the left, right, above or below. The image's border
    is no boundary."""
    edge = np.zeros(ids.shape, np.bool_)
    for step in range(1, thickness + 1):
        down = ids[step:] != ids[:-step]
        edge[step:] |= down
        edge[:-step] |= down
        right = ids[:, step:] != ids[:, :-step]
        edge[:, step:] |= right
        edge[:, :-step] |= right
    return edge


def _stroke(
    image: Image,
    start: NDArray[np.floating],
    end: NDArray[np.floating],
    radius: float,
    colour: NDArray[np.uint8],
    opacity: float,
    hollow: float | None = None,
) -> None:
    """Blend a round-ended line of half width ``radius`` into ``image``, smooth at its rim; empty within ``hollow``."""
    height, width = image.shape[:2]
    ends = np.stack([start, end]).astype(np.float64)
    limit = 4.0 * (height + width)
    if not np.isfinite(ends).all() or np.abs(ends).max() > limit:
        return
    x0, y0 = np.maximum(np.floor(ends.min(0) - radius - 1), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(ends.max(0) + radius + 2), (width, height)).astype(int)
    if x0 >= x1 or y0 >= y1:
        return
    x, y = np.arange(x0, x1)[None] - ends[0, 0], np.arange(y0, y1)[:, None] - ends[0, 1]
    along = ends[1] - ends[0]
    place = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    distance = np.hypot(x - place * along[0], y - place * along[1])
    cover = np.clip(radius + 0.5 - distance, 0, 1)
    if hollow is not None:
        cover *= np.clip(distance - hollow + 0.5, 0, 1)
    patch = image[y0:y1, x0:x1]
    patch[:] = np.rint(patch + (opacity * cover)[..., None] * (colour.astype(np.float64) - patch)).astype(np.uint8)


def _expect_image(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"image to draw on: expected (H, W, 3) uint8, got {image.dtype} {image.shape}")
