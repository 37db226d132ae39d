"""Optical flow as pictures: colours whose hue says where to and whose strength how far, arrows, errors, legends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from pixeltrail.errors import ShapeError
from pixeltrail.types import Image

Field = NDArray[np.floating]
"""(H, W, 2) in pixels: dx to the right, dy down."""

UNKNOWN = 1e9
"""Flow of at least this size, or not a number, is unknown (Middlebury)."""

_ERRORS = 2.0 ** np.arange(-4, 5)
"""Edges between the colours of an error map: 1/16, 1/8 ... 16 times the limit; 1 is the fifth."""
_BLUE_TO_RED = np.array(
    [[49, 54, 149], [69, 117, 180], [116, 173, 209], [171, 217, 233], [224, 243, 248],
     [254, 224, 144], [253, 174, 97], [244, 109, 67], [215, 48, 39], [165, 0, 38]], np.uint8,
)  # fmt: skip


@cache
def colour_wheel() -> NDArray[np.float64]:
    """The 55 hues of Baker et al., A Database and Evaluation Methodology for Optical Flow, IJCV 2011. (55, 3), 0–255.

    Six ramps, red over yellow, green, cyan, blue and magenta back to red; in each one channel rises or falls.
    """
    channel = {"red": 0, "green": 1, "blue": 2}
    colour, wheel = np.array([255.0, 0.0, 0.0]), []
    for steps, name, rises in (
        (15, "green", True), (6, "red", False), (4, "blue", True), (11, "green", False), (13, "red", True),
        (6, "blue", False),
    ):  # fmt: skip
        for k in range(steps):
            ramp = np.floor(255 * k / steps)
            colour[channel[name]] = ramp if rises else 255 - ramp
            wheel.append(colour.copy())
        colour[channel[name]] = 255.0 if rises else 0.0
    return np.array(wheel)


def flow_to_colour(flow: Field, max_magnitude: float | None = None) -> Image:
    """Middlebury colours of ``flow`` (H, W, 2) in pixels: white is still, red to the right, unknown black.

    ``max_magnitude`` is the length drawn at full saturation (default: the longest known vector); longer ones are
    darker. Returns (H, W, 3) uint8. Raises ShapeError.
    """
    u, v, known = _components("flow_to_colour", flow, max_magnitude)
    length = np.hypot(u, v)
    length /= (float(length.max(initial=0)) if max_magnitude is None else max_magnitude) + 1e-5
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    first = place.astype(np.intp)
    part = (place - first)[..., None]
    hue = ((1 - part) * colour_wheel()[first] + part * colour_wheel()[(first + 1) % 55]) / 255
    length = length[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.where(known[..., None], np.floor(255 * colour), 0).astype(np.uint8)


def flow_to_hsv(flow: Field, max_magnitude: float | None = None) -> Image:
    """The rendering of OpenCV's tutorials: the hue is the angle from right (red) over down (green), in steps of two
    degrees, the brightness the length; unknown is black.

    By default, as there, brightness runs from the shortest to the longest vector of this flow, so that a video flickers;
    with ``max_magnitude`` from 0 to that length. Returns (H, W, 3) uint8. Raises ShapeError.
    """
    u, v, known = _components("flow_to_hsv", flow, max_magnitude)
    length = np.hypot(u, v)
    low, high = 0.0, max_magnitude or 0.0
    if max_magnitude is None and known.any():
        low, high = float(length[known].min()), float(length[known].max())
    value = np.floor(255 * np.clip((length - low) / max(high - low, 1e-9), 0, 1))
    turn = np.floor(np.degrees(np.arctan2(v, u)) % 360 / 2) / 30  # sixths of a turn
    rgb = np.clip(np.abs((turn[..., None] + [0, 4, 2]) % 6 - 3) - 1, 0, 1)
    return np.where(known[..., None], np.rint(rgb * value[..., None]), 0).astype(np.uint8)


def typical_length(flow: Field, share: float = 0.99) -> float:
    """The length in pixels that this ``share`` of the known vectors does not exceed: a scale that outliers leave alone.

    0 where nothing is known. Raises ShapeError.
    """
    u, v, known = _components("typical_length", flow, None)
    return float(np.quantile(np.hypot(u, v)[known], share)) if known.any() else 0.0


def draw_arrows(
    image: Image,
    flow: Field,
    max_magnitude: float | None = None,
    *,
    step: int = 16,
    at: NDArray[np.integer] | None = None,
) -> Image:
    """Arrows over ``image`` (H, W, 3) uint8 of the flow's size, one every ``step`` pixels, or ``at`` chosen ones (P, 2), as
    (x, y), in the colours of the wheel.

    An arrow of ``max_magnitude`` pixels (default: the longest known vector) reaches one and a half steps, longer ones at
    most four; what moves less than a twentieth of it is a dot. Returns a new image. Raises ShapeError.
    """
    u, v, known = _components("draw_arrows", flow, max_magnitude)
    if image.shape != (*known.shape, 3) or image.dtype != np.uint8 or step < 4:
        raise ShapeError(
            f"draw_arrows: expected an image {(*known.shape, 3)} uint8 and step >= 4, "
            f"got {image.dtype} {image.shape} and {step}"
        )
    top = max(max_magnitude or float(np.hypot(u, v).max(initial=0)), 1e-9)
    fine = 3  # drawn so many times larger, then reduced: smooth lines
    layer = Pillow.new("RGBA", (image.shape[1] * fine, image.shape[0] * fine))
    draw = ImageDraw.Draw(layer)
    height, width = known.shape
    if at is None:
        y, x = np.mgrid[(height - 1) % step // 2 : height : step, (width - 1) % step // 2 : width : step].reshape(2, -1)
    else:
        x, y = at.T
    y, x = y[known[y, x]], x[known[y, x]]
    colours = flow_to_colour(np.stack((u, v), -1)[y, x][None], top)[0]
    way = np.stack((u, v), -1)[y, x] * (1.5 * step / top)
    reach = np.hypot(*way.T)
    way *= np.minimum(1, 4 * step / np.maximum(reach, 1e-9))[:, None]
    for start, along, colour in zip(fine * (np.stack((x, y), -1) + 0.5), fine * way, colours, strict=True):
        for ink, extra in (((0, 0, 0, 160), fine), ((*(int(c) for c in colour), 255), 0)):
            _arrow(draw, start, along, ink, fine + extra, fine * step)
    reduced = np.asarray(layer.resize(image.shape[1::-1], Pillow.Resampling.BOX), np.float64)
    alpha = reduced[..., 3:] / 255
    return np.rint(image * (1 - alpha) + reduced[..., :3] * alpha).astype(np.uint8)


def _arrow(
    draw: ImageDraw.ImageDraw,
    start: NDArray[np.float64],
    along: NDArray[np.float64],
    ink: tuple[int, ...],
    thick: int,
    step: int,
) -> None:
    length = float(np.hypot(*along))
    if length < 0.075 * step:
        draw.ellipse([*(start - thick / 2), *(start + thick / 2)], fill=ink)
        return
    tip, forth = start + along, along / length
    across = np.array([-forth[1], forth[0]])
    head = min(0.35 * length, 0.4 * step)
    draw.line([*start, *(tip - head * forth)], fill=ink, width=thick)
    rim = (thick - 3) / 2
    neck = tip - (head + rim) * forth
    draw.polygon(
        [tuple(tip + 2 * rim * forth), *(tuple(neck + s * (0.5 * head + 2 * rim) * across) for s in (1, -1))], fill=ink
    )


def with_legend(
    picture: Image, max_magnitude: float, colours: Callable[[Field, float | None], Image] = flow_to_colour
) -> Image:
    """``picture`` with a small wheel in its bottom right corner, whose rim is ``max_magnitude`` pixels of motion, which it
    says below. ``colours`` is the function that made it. Pictures too small for it come back as they are.
    """
    height, width = picture.shape[:2]
    radius = min(height, width) // 13
    if radius < 9:
        return picture.copy()
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    wheel = colours(np.stack((x, y), -1) * np.float32(max_magnitude / radius), max_magnitude * (1 + 1e-6))
    sheet = Pillow.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    size = max(9, round(0.7 * radius))
    pad = max(2, radius // 6)
    left, top = width - 2 * radius - 3 * pad, height - 2 * radius - size - 4 * pad
    draw.rounded_rectangle((left - pad, top - pad, width - pad, height - pad), pad, fill=(24, 24, 26))
    fine = 4
    disc = Pillow.new("L", ((2 * radius + 1) * fine,) * 2)
    ImageDraw.Draw(disc).ellipse((0, 0, *(side - 1 for side in disc.size)), fill=255)
    sheet.paste(Pillow.fromarray(wheel), (left, top), disc.resize(wheel.shape[1::-1], Pillow.Resampling.BOX))
    text = f"{max_magnitude:.2g} px"
    middle = (left + radius, height - pad - size * 0.75)
    draw.text(middle, text, fill=(235, 235, 235), font=ImageFont.load_default(size * 0.8), anchor="mm")
    return np.asarray(sheet).copy()


def error_map(flow: Field, truth: Field, valid: NDArray[np.bool_] | None = None) -> Image:
    """Where ``flow`` (H, W, 2) is wrong, in the ten colours of KITTI: blues within the limit, yellow to red beyond it.

    The limit is 3 pixels or 5 % of the true length, whichever is more; each colour stands for twice the error of the one
    before, and pale blue ends at the limit. Black: not ``valid`` (H, W), or not known. Returns (H, W, 3) uint8. Raises
    ShapeError.
    """
    u, v, known = _components("error_map", flow, None)
    a, b, sure = _components("error_map", truth, None)
    if known.shape != sure.shape or (valid is not None and valid.shape != sure.shape):
        raise ShapeError(f"error_map: expected flow and truth of one size, got {flow.shape} and {truth.shape}")
    error = np.hypot(u - a, v - b) / np.maximum(3, 0.05 * np.hypot(a, b))
    shown = known & sure if valid is None else known & sure & valid
    picture: Image = np.where(shown[..., None], _BLUE_TO_RED[np.digitize(error, _ERRORS)], np.uint8(0))
    return picture


def with_error_legend(picture: Image) -> Image:
    """An `error_map` with its ten colours in the bottom right corner, and the limit, 3 px or 5 %, below their middle.
    Pictures too small for it come back as they are."""
    height, width = picture.shape[:2]
    cell = min(height, width) // 22
    if cell < 9:
        return picture.copy()
    sheet = Pillow.fromarray(picture)
    draw = ImageDraw.Draw(sheet)
    pad = max(2, cell // 3)
    size = max(9.0, 0.8 * cell)
    left, top = width - 10 * cell - 2 * pad, height - cell - 3 * pad - round(size)
    draw.rounded_rectangle((left - pad, top - pad, width - pad, height - pad), pad, fill=(24, 24, 26))
    for k, colour in enumerate(_BLUE_TO_RED):
        draw.rectangle(
            (left + k * cell, top, left + (k + 1) * cell - 1, top + cell), fill=tuple(int(c) for c in colour)
        )
    middle = (left + 5 * cell, top + cell + pad / 2 + size / 2)
    draw.text(middle, "3 px or 5 %", fill=(235, 235, 235), font=ImageFont.load_default(size), anchor="mm")
    return np.asarray(sheet).copy()


def warped(second: Image, flow: Field) -> Image:
    """The second frame (H, W, 3) uint8 brought onto the first by ``flow``, bilinearly; grey where it does not show it, and
    where flow is unknown. Raises ShapeError."""
    import torch

    from pixeltrail.geometry import warp

    u, v, known = _components("warped", flow, None)
    if second.shape != (*known.shape, 3) or second.dtype != np.uint8:
        raise ShapeError(f"warped: expected an image {(*known.shape, 3)} uint8, got {second.dtype} {second.shape}")
    rgb, way = (
        torch.from_numpy(np.array(a, np.float32)).permute(2, 0, 1)[None] for a in (second, np.stack((u, v), -1))
    )
    found: Image = np.rint(warp(rgb, way, padding="border")[0].permute(1, 2, 0).numpy()).astype(np.uint8)
    height, width = known.shape
    x, y = u + np.arange(width), v + np.arange(height)[:, None]
    found[~(known & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))] = 128
    return found


def side_by_side(pictures: Sequence[Image], *, gap: int = 4) -> Image:
    """Pictures (H, W, 3) uint8 of one height in a row, ``gap`` white columns between them. Raises ShapeError."""
    if not pictures or any(p.ndim != 3 or p.shape[2] != 3 or len(p) != len(pictures[0]) for p in pictures) or gap < 0:
        raise ShapeError(f"side_by_side: expected pictures of one height, got {[p.shape for p in pictures]}")
    white = np.full((len(pictures[0]), gap, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (white, picture)]
    return np.concatenate(row[1:], 1)


def _components(
    what: str, flow: Field, top: float | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """u, v, 0 where unknown, and where they are known: (H, W) each."""
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ShapeError(f"{what}: expected (H, W, 2), got {flow.shape}")
    if top is not None and not 0 < top < np.inf:
        raise ShapeError(f"{what}: expected max_magnitude above 0, got {top}")
    known = np.logical_and(*(np.abs(flow[..., c]) < UNKNOWN for c in (0, 1)))  # false for nan
    u, v = (np.where(known, flow[..., c], 0).astype(np.float64) for c in (0, 1))
    return u, v, known
