"""Training batches: clips of the user's videos, and a share that the project renders itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.clips import ClipSampler, build_cache
from pixeltrail.data.synthetic import render
from pixeltrail.training.run import Run


class Mixed:
    """The first rows of each batch from ``clips``, the last ``rendered`` ones from the generator."""

    def __init__(self, clips: ClipSampler, run: Run) -> None:
        self.clips, self.run = clips, run
        self.rendered = round(run.rendered * run.batch_size)

    def batch(self, step: int) -> NDArray[np.uint8]:
        """(B, T, H, W, 3) uint8 RGB; depends on the seed and ``step`` alone."""
        real = self.clips.batch(step, self.run.batch_size - self.rendered)
        if not self.rendered:
            return real
        seeds = np.random.default_rng((self.run.seed, step, 1)).integers(0, 2**31, self.rendered)
        size = (self.run.size, self.run.size)
        drawn = [render(int(s), frames=self.run.frames, size=size).frames for s in seeds]
        return np.concatenate((real, np.stack(drawn)))


def sampler_for(
    run: Run,
    data: str | Path,
    cache: str | Path,
    *,
    only: Iterable[str] | None = None,
    on_video: Callable[[int, int, str], None] | None = None,
) -> tuple[Mixed, list[str], list[str]]:
    """The sampler of a run, the names of its sources, and one line per unreadable video."""
    videos, bad = build_cache(data, cache, only=only, on_video=on_video)
    clips = ClipSampler(
        videos, batch_size=run.batch_size, frames=run.frames, size=run.size, span=run.span, crop=run.crop, seed=run.seed
    )
    sources = [v.name for v in videos] + (["rendered by pixeltrail"] if run.rendered else [])
    return Mixed(clips, run), sources, bad
