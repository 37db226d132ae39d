"""Optical flow as colours: the hue says where to, the saturation how far."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import ShapeError
from pixeltrail.types import Image

UNKNOWN = 1e9
"""Flow of at least this size, or not a number, is unknown (Middlebury)."""


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


def flow_to_colour(flow: NDArray[np.floating], max_magnitude: float | None = None) -> Image:
    """Middlebury colours of ``flow`` (H, W, 2) in pixels: white is still, red to the right, unknown black.

    ``max_magnitude`` is the length drawn at full saturation (default: the longest known vector); longer ones are
    darker. Returns (H, W, 3) uint8. Raises ShapeError.
    """
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ShapeError(f"flow_to_colour: expected (H, W, 2), got {flow.shape}")
    if max_magnitude is not None and not max_magnitude > 0:
        raise ShapeError(f"flow_to_colour: expected max_magnitude above 0, got {max_magnitude}")
    known = (np.abs(flow) < UNKNOWN).all(2)  # false for nan
    u, v = np.where(known[..., None], flow, 0).astype(np.float64).transpose(2, 0, 1)
    length = np.hypot(u, v)
    length /= (float(length.max(initial=0)) if max_magnitude is None else max_magnitude) + 1e-5
    place = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    first = place.astype(np.intp)
    part = (place - first)[..., None]
    hue = ((1 - part) * colour_wheel()[first] + part * colour_wheel()[(first + 1) % 55]) / 255
    length = length[..., None]
    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    return np.where(known[..., None], np.floor(255 * colour), 0).astype(np.uint8)
