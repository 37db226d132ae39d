"""Affine maps of pixel positions, as (3, 3) matrices that act on (x, y, 1), and bilinear samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
"""(3, 3), a map of points (x, y, 1)."""
Field = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A crop of ``size`` (height, width) from both frames of a pair; ``first`` and ``second`` take its pixels to theirs."""

    size: tuple[int, int]
    first: Matrix
    second: Matrix


def affine(turn: float, across: float, down: float) -> Matrix:
    """Scaling of x and y, then a rotation by ``turn`` radians, from x towards y."""
    c, s = math.cos(turn), math.sin(turn)
    return np.array([[c * across, -s * down, 0], [s * across, c * down, 0], [0, 0, 1]])


def shift(x: float, y: float) -> Matrix:
    """A translation."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def apply(m: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> tuple[Field, Field]:
    """Where points go, in float32; ``x`` and ``y`` may be a row and a column."""
    (a, b, c), (d, e, f) = m[:2].astype(np.float32)
    u, v = x.astype(np.float32), y.astype(np.float32)
    return a * u + b * v + c, d * u + e * v + f


def sampled(image: NDArray[Any], x: Field, y: Field) -> NDArray[np.float32]:
    """Bilinear samples (..., C) of (H, W, C) at positions with 0 <= x < W - 1, 0 <= y < H - 1."""
    width = image.shape[1]
    flat = image.reshape(-1, image.shape[2])
    ix, iy = x.astype(np.intp), y.astype(np.intp)
    fx, fy = (x - ix.astype(np.float32))[..., None], (y - iy.astype(np.float32))[..., None]
    corner = iy * width + ix
    right, below = int(width > 1), width if image.shape[0] > 1 else 0
    a, b, c, d = (flat.take(corner + k, 0).astype(np.float32) for k in (0, right, below, below + right))
    upper = a + fx * (b - a)
    sampled: NDArray[np.float32] = upper + fy * (c + fx * (d - c) - upper)
    return sampled
