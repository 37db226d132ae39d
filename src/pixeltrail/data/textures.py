"""Procedural textures with the statistics of natural images: 1/f spectra, edges at every scale, few colours.

Sources: 1/f amplitude spectra of natural scenes (Field 1987); dead leaves (Lee, Mumford & Huang 2001); cell noise
(Worley 1996); palettes as ramps in OKLab (Ottosson 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pixeltrail.types import Image

Field = NDArray[np.float32]
"""(H, W) float32."""
Texture = NDArray[np.float32]
"""(H, W, 3) float32, RGB in 0–255."""
Rng = np.random.Generator

_LAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def noise(rng: Rng, height: int, width: int, slope: float, finest: float = 0.0) -> Field:
    """Gaussian noise with amplitude spectrum f^-slope. Returns (H, W) float32 with mean 0 and deviation 1.

    ``slope`` 1 is that of natural images, 2 is smoother; structure finer than ``finest`` pixels is taken out.
    """
    h, w = -(-height // 32) * 32, -(-width // 32) * 32  # sizes that the FFT is quick at
    fy, fx = np.fft.fftfreq(h).astype(np.float32)[:, None], np.fft.rfftfreq(w).astype(np.float32)[None]
    squared = fx * fx + fy * fy
    squared[0, 0] = 1.0
    gain = squared ** np.float32(-slope / 2)
    if finest:
        gain *= np.exp(-squared * np.float32(finest * finest))
    gain[0, 0] = 0.0
    spectrum = np.fft.rfft2(rng.standard_normal((h, w), np.float32))
    field: Field = np.fft.irfft2(spectrum * gain, s=(h, w))[:height, :width].astype(np.float32)
    field -= field.mean()
    field /= field.std() + 1e-6
    return field


def palette(rng: Rng, chroma: float) -> NDArray[np.float32]:
    """A random ramp of 256 colours from dark to light whose hue drifts. Returns (256, 3) float32 in 0–255."""
    steps = np.linspace(0.0, 1.0, 5)
    light = rng.uniform(0.18, 0.38) + steps * rng.uniform(0.42, 0.6) + rng.normal(0, 0.03, 5)
    hue = rng.uniform(0, 2 * np.pi) + (steps - 0.5) * rng.normal(0, 1.6)
    strength = chroma * rng.uniform(0.4, 1.0, 5)
    knots = np.stack([light, strength * np.cos(hue), strength * np.sin(hue)], 1)
    x = np.linspace(0.0, 1.0, 256)
    return _srgb(np.stack([np.interp(x, steps, knots[:, i]) for i in range(3)], 1))


def texture(rng: Rng, height: int, width: int, *, kind: str | None = None, chroma: float = 0.13) -> Texture:
    """One random texture (H, W, 3) float32 in 0–255, of ``kind`` (a key of ``KINDS``; drawn by chance when None)."""
    kind = str(rng.choice(list(KINDS))) if kind is None else kind
    colours = palette(rng, chroma)
    out = KINDS[kind](rng, height, width, colours)
    out *= 1 + 0.13 * noise(rng, height, width, 1.0)[..., None]  # every pixel gets something to be known by
    return np.clip(out, 0, 255, out=out)


def crop(rng: Rng, images: Sequence[Image], height: int, width: int) -> Texture:
    """A random piece (H, W, 3) float32 of one of ``images``: shrunk by a whole number where it is larger, mirrored at
    its borders where it is smaller."""
    image = images[int(rng.integers(len(images)))]
    most = max(1, min(image.shape[0] // height, image.shape[1] // width))
    k = int(rng.integers(1, most + 1))
    rows, cols = image.shape[0] // k, image.shape[1] // k
    y, x = (int(rng.integers(max(1, have - want + 1))) for have, want in ((rows, height), (cols, width)))
    piece = image[y * k : (y + min(height, rows)) * k, x * k : (x + min(width, cols)) * k]
    small = piece.reshape(piece.shape[0] // k, k, piece.shape[1] // k, k, 3).mean((1, 3), dtype=np.float32)
    missing = ((0, height - small.shape[0]), (0, width - small.shape[1]), (0, 0))
    return np.pad(small, missing, mode="symmetric")


def _srgb(lab: NDArray[np.float64]) -> NDArray[np.float32]:
    """OKLab (N, 3) -> sRGB (N, 3) in 0–255, out-of-gamut values clipped."""
    linear = np.clip((lab @ _LAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: NDArray[np.float32] = (255 * curve).astype(np.float32)
    return colours


def _paint(colours: NDArray[np.float32], field: Field) -> Texture:
    """Colour a field in 0–1 with a ramp."""
    return colours[np.clip(field * 255, 0, 255).astype(np.uint8)]


def _spread(field: Field) -> Field:
    """Gaussian values to about even ones in 0–1."""
    spread: Field = np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.8) * field)
    return spread


def _clouds(rng: Rng, h: int, w: int, colours: NDArray[np.float32]) -> Texture:
    return _paint(colours, _spread(noise(rng, h, w, rng.uniform(1.4, 2.0))))


def _stripes(rng: Rng, h: int, w: int, colours: NDArray[np.float32]) -> Texture:
    y, x = np.ogrid[:h, :w]
    a, period = rng.uniform(0, np.pi), rng.uniform(9, 26)
    along = (x * np.cos(a) + y * np.sin(a)).astype(np.float32) * np.float32(2 * np.pi / period)
    wave = np.sin(along + np.float32(rng.uniform(0.6, 2.5)) * noise(rng, h, w, 2.2))
    return _paint(colours, 0.5 + 0.5 * np.tanh(np.float32(rng.uniform(0.9, 3.0)) * wave))


def _spots(rng: Rng, h: int, w: int, colours: NDArray[np.float32]) -> Texture:
    size = rng.uniform(7, 18)
    band = noise(rng, h, w, 0.2, finest=size) - np.float32(0.3)
    field = 0.5 + 0.5 * np.tanh(np.float32(rng.uniform(2, 5)) * band)
    return _paint(colours, np.float32(0.75) * field + np.float32(0.25) * _spread(noise(rng, h, w, 1.5)))


def _cells(rng: Rng, h: int, w: int, colours: NDArray[np.float32]) -> Texture:
    pitch = rng.uniform(14, 34)
    bend = np.float32(0.18 * pitch)
    rows, cols = int(h / pitch) + 3, int(w / pitch) + 3
    jitter = rng.uniform(0, 1, (rows + 2, cols + 2, 2)).astype(np.float32)
    shade = rng.uniform(0.15, 1, (rows + 2, cols + 2)).astype(np.float32)
    y, x = np.ogrid[:h, :w]
    y, x = ((c + bend * noise(rng, h, w, 1.8)) / np.float32(pitch) + 1 for c in (y, x))
    iy, ix = np.clip(y.astype(np.intp), 1, rows), np.clip(x.astype(np.intp), 1, cols)
    first = np.full((h, w), np.inf, np.float32)
    second, value = first.copy(), np.zeros((h, w), np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            jy, jx = iy + dy, ix + dx
            place = jitter[jy, jx]
            distance = (jy + place[..., 0] - y) ** 2 + (jx + place[..., 1] - x) ** 2
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            first = np.where(nearer, distance, first)
            value = np.where(nearer, shade[jy, jx], value)
    seam = np.clip((np.sqrt(second) - np.sqrt(first)) * np.float32(pitch / 3), 0, 1)
    return _paint(colours, value * (np.float32(0.35) + np.float32(0.65) * seam))


def _leaves(rng: Rng, h: int, w: int, colours: NDArray[np.float32]) -> Texture:
    out = _clouds(rng, h, w, colours)
    smallest, largest = 5.0, 0.16 * min(h, w) + 8
    count = min(1200, int(h * w / 160))
    u = rng.uniform(0, 1, count)
    sizes = 1 / np.sqrt(u / smallest**2 + (1 - u) / largest**2)  # density r^-3: the same at every scale
    turns = rng.uniform(0, np.pi, count)
    leaves = np.stack([sizes, rng.uniform(0, h, count), rng.uniform(0, w, count), np.cos(turns), np.sin(turns)], 1)
    for (size, cy, cx, c, s), shade in zip(leaves.astype(np.float32), rng.integers(20, 256, count), strict=True):
        y0, y1 = max(0, int(cy - size)), min(h, int(cy + size) + 2)
        x0, x1 = max(0, int(cx - size)), min(w, int(cx + size) + 2)
        y = (np.arange(y0, y1, dtype=np.float32)[:, None] - cy) / size
        x = (np.arange(x0, x1, dtype=np.float32)[None] - cx) / size
        along, across = c * x + s * y, (c * y - s * x) * 2
        cover = np.clip((1 - along * along - across * across) * (size / 3), 0, 1)[..., None]
        shaded = colours[shade] * (np.float32(0.85) + np.float32(0.35) * across)[..., None]
        out[y0:y1, x0:x1] += cover * (shaded - out[y0:y1, x0:x1])
    return out


KINDS: dict[str, Callable[[Rng, int, int, NDArray[np.float32]], Texture]] = {
    "clouds": _clouds,
    "stripes": _stripes,
    "spots": _spots,
    "cells": _cells,
    "leaves": _leaves,
}
