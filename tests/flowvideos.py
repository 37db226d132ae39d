"""Frames and flows made for tests of what is done with flow."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pixeltrail.flow.camera import Similarity

SIZE = (96, 128)


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth random colours, (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def field_of(motion: Similarity, size: tuple[int, int] = SIZE) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    step = motion(x + 1j * y) - (x + 1j * y)
    return np.stack([step.real, step.imag], -1).astype(np.float32)


def constant(dx: float, dy: float):
    """A flow method of one answer, and of its opposite for pairs in reverse: frames carry their number in a corner."""

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        steps = int(second[0, 0, 0]) - int(first[0, 0, 0])
        return np.broadcast_to(np.array([dx, dy], np.float32) * steps, (*first.shape[:2], 2))

    return flow
