"""Colour classes of one's own videos, for the methods that learn by classifying colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pixeltrail.colour import colour_classes, rgb_to_lab
from pixeltrail.data.clips import CachedVideo
from pixeltrail.errors import InputError

FRAMES = 10
"""Looked at in a video, evenly spread."""
PIXELS = 500_000
"""Looked at in all, and no more than a hundredth of that in one video."""


def colours_of(
    videos: list[CachedVideo],
    count: int = 16,
    *,
    seed: int = 0,
    on_video: Callable[[int, int, str], None] | None = None,
) -> list[list[float]]:
    """``count`` centres [a, b] of the colours in cached videos, by k-means, sorted by a; ``seed`` decides everything.

    Raises InputError where ``count`` is not 2 to 256, or the videos have fewer colours than that.
    """
    if not 2 <= count <= 256:
        raise InputError(f"colours: {count} classes; expected 2 to 256")
    each = max(1, min(PIXELS // 100, PIXELS // len(videos)) // FRAMES)
    found = []
    for i, video in enumerate(videos):
        if on_video:
            on_video(i, len(videos), video.name)
        random = np.random.default_rng((seed, i))
        frames = np.load(video.path, mmap_mode="r")
        for t in np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)):
            pixels = frames[t].reshape(-1, 3)
            found.append(pixels[random.integers(len(pixels), size=each)])
    if on_video:
        on_video(len(videos), len(videos), "")
    rgb = torch.from_numpy(np.concatenate(found)).float().T.unsqueeze(-1) / 255  # (3, N, 1)
    ab = rgb_to_lab(rgb)[1:, :, 0].T.contiguous()
    if len(torch.unique(ab.round(decimals=1), dim=0)) < count:
        raise InputError(f"colours: the videos have fewer than {count} colours; ask for fewer classes")
    return [[round(float(v), 2) for v in centre] for centre in colour_classes(ab, count, seed=seed)]
