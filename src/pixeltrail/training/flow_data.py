"""Batches for flow networks: generated pairs or a data set's, augmented, with exact flow; or pairs of the user's videos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.augment import augmented, random_view, relit
from pixeltrail.data.chairs import chairs
from pixeltrail.data.clips import ClipSampler, Frames, Sources, build_cache
from pixeltrail.errors import InputError
from pixeltrail.training.data import RENDERED, Mixed
from pixeltrail.training.feed import Sampler
from pixeltrail.training.flow import task_of
from pixeltrail.training.run import Run
from pixeltrail.types import Image

MARGIN = 4 / 3
"""Sides of a generated pair, in sides of the crop that is taken from it."""


class ExactPair(Protocol):
    """Two frames (H, W, 3) uint8 and the flow (H, W, 2) float32 between them, NaN where unknown."""

    first: Image
    second: Image
    flow: NDArray[np.float32]


class Pairs:
    """Rows with exact flow: of ``pairs`` (a data set), or else generated, with ``textures`` where there are some.

    A row depends on (seed, step, row) alone.
    """

    def __init__(
        self, run: Run, *, pairs: Sequence[ExactPair] | None = None, textures: Sequence[Image] | None = None
    ) -> None:
        self.run, self.pairs, self.textures = run, pairs, textures
        self.size = (run.size, run.width or run.size)
        self.motion = task_of(run)[0].motion

    def batch(self, step: int, rows: range | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frames (len(rows), 2, H, W, 3) and flow (len(rows), H, W, 2); all rows by default."""
        made = [self._row(step, row) for row in rows or range(self.run.batch_size)]
        return np.stack([np.stack(row[:2]) for row in made]), np.stack([row[2] for row in made])

    def names(self, step: int) -> list[str]:
        """Where each row comes from."""
        return ["a data set of flow" if self.pairs else RENDERED] * self.run.batch_size

    def _row(self, step: int, row: int) -> tuple[Image, Image, NDArray[np.float32]]:
        rng = np.random.default_rng((self.run.seed, step, row, 2))
        if self.pairs:
            pair = self.pairs[int(rng.integers(len(self.pairs)))]
            return augmented(rng, pair.first, pair.second, pair.flow, self.size)
        whole = (round(MARGIN * self.size[0]), round(MARGIN * self.size[1]))
        made = chairs(
            [int(s) for s in rng.integers(0, 2**32, 2)], size=whole, motion=float(rng.uniform(*self.motion)),
            textures=self.textures, view=random_view(rng, whole, self.size),
        )  # fmt: skip
        return *relit(rng, made.first, made.second), made.flow


class Partly:
    """Rows of ``clips``, whose flow nobody knows, and evenly spread among them generated ones with it: ``run.rendered`` of each
    batch."""

    def __init__(self, clips: ClipSampler, pairs: Pairs, run: Run) -> None:
        self.mixed, self.pairs = Mixed(clips, run), pairs

    def batch(self, step: int, rows: range | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frames (len(rows), 2, H, W, 3) and flow (len(rows), H, W, 2), all NaN in the rows of clips; all rows by default."""
        made = [self._row(step, row) for row in rows or range(self.pairs.run.batch_size)]
        return np.stack([frames for frames, _ in made]), np.stack([flow for _, flow in made])

    def names(self, step: int) -> list[str]:
        """Where each row comes from."""
        return self.mixed.names(step)

    def _row(self, step: int, row: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        cut = self.mixed.cut(step, row)
        if cut is None:
            frames, flow = self.pairs.batch(step, range(row, row + 1))
            return frames[0], flow[0]
        clip = cut.clip()
        return clip, np.full((*clip.shape[1:3], 2), np.nan, np.float32)


def flow_sampler_for(
    run: Run,
    data: Sources | None,
    cache: str | Path,
    *,
    only: Iterable[str] | None = None,
    on_video: Callable[[int, int, str], None] | None = None,
) -> tuple[Sampler, list[str], list[str]]:
    """As `training.data.sampler_for`. Generated pairs need no ``data``; where it is given, it lends them textures."""
    unlabelled = task_of(run)[0].objective == "photometric"
    if unlabelled and (run.frames != 2 or run.width):
        raise InputError("recipe: the photometric objective takes frames = 2 and square crops (no width)")
    if unlabelled and data is None:
        raise InputError("training without labels needs videos: give their folder as --data")
    generated = round(run.rendered * run.batch_size)
    if unlabelled and generated >= run.batch_size:
        raise InputError(
            f"recipe: rendered is {run.rendered}, which leaves no row of the batch to the videos; take less"
        )
    if data is None:
        return Pairs(run), [RENDERED], []
    videos, bad = build_cache(data, cache, only=only, on_video=on_video)
    if not unlabelled:
        return Pairs(run, textures=Frames(videos)), [RENDERED, *(f"textures of {v.name}" for v in videos)], bad
    clips = ClipSampler(
        videos,
        batch_size=run.batch_size - generated,
        frames=2,
        size=run.size,
        span=run.span,
        crop=run.crop,
        seed=run.seed,
    )
    names = [v.name for v in clips.videos]
    if not generated:
        return Mixed(clips, run), names, bad
    pairs = Pairs(run, textures=Frames(videos))
    return Partly(clips, pairs, run), [*names, RENDERED, *(f"textures of {v.name}" for v in videos)], bad
