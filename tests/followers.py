"""Fakes for the benchmarks of points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pixeltrail.types import Points


@dataclass
class Found:
    xy: np.ndarray
    confidence: np.ndarray


def staying(frames: Iterable, points: Points) -> Iterator[Found]:
    for _ in frames:
        yield Found(points.xy, np.ones(len(points.xy), np.float32))


def save_image(path: Path, size: tuple[int, int] = (24, 32), shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), shade, np.uint8)).save(path)
