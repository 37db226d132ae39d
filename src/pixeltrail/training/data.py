"""Training batches: clips of the user's videos, and a share that the project renders itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixeltrail import catalogue
from pixeltrail.data.clips import ClipSampler, Cut, Sources, build_cache
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError
from pixeltrail.training.feed import Sampler
from pixeltrail.training.pairs import TRIES, FlowPairs
from pixeltrail.training.run import Run

RENDERED = "rendered by pixeltrail"


class Mixed:
    """Rows from ``clips`` and, evenly spread among them, ``run.rendered`` of each batch from the generator.

    Which videos a batch shows depends on (seed, step), all else of a row on (seed, step, row): whoever makes it, in
    whatever order, makes the same.
    """

    def __init__(self, clips: ClipSampler, run: Run) -> None:
        self.clips, self.run = clips, run

    def batch(self, step: int, rows: range | None = None) -> NDArray[np.uint8]:
        """(len(rows), T, H, W, 3) uint8 RGB; all rows by default."""
        return np.stack([self._row(step, row) for row in rows or range(self.run.batch_size)])

    def names(self, step: int) -> list[str]:
        """The source of each row."""
        real = iter(self.clips.names(step))
        return [RENDERED if _is_rendered(self.run, row) else next(real) for row in range(self.run.batch_size)]

    def cut(self, step: int, row: int) -> Cut | None:
        """Where a row is taken from; None if it is rendered."""
        if _is_rendered(self.run, row):
            return None
        return self.clips.cut(step, row - _rendered_before(self.run, row))

    def _row(self, step: int, row: int) -> NDArray[np.uint8]:
        run, cut = self.run, self.cut(step, row)
        if cut:
            return cut.clip()
        seed = int(np.random.default_rng((run.seed, step, row, 1)).integers(0, 2**31))
        return render(seed, frames=run.frames, size=(run.size, run.size)).frames


def _rendered_before(run: Run, row: int) -> int:
    return row * round(run.rendered * run.batch_size) // run.batch_size


def _is_rendered(run: Run, row: int) -> bool:
    return _rendered_before(run, row + 1) > _rendered_before(run, row)


def sampler_for(
    run: Run,
    data: Sources,
    cache: str | Path,
    *,
    only: Iterable[str] | None = None,
    on_video: Callable[[int, int, str], None] | None = None,
) -> tuple[Sampler, list[str], list[str]]:
    """The sampler of a run, the names of its sources, and one line per video that cannot be used.

    ``data``: a folder, a video, or a list of such; see ``build_cache``. A method whose file has a function ``flows`` gets
    flow with its clips (see `methods.cpfs`).
    """
    videos, bad = build_cache(data, cache, only=only, on_video=on_video)
    bad = bad + [
        f"{v.name}: a single frame; training needs videos of two frames or more" for v in videos if v.frames < 2
    ]

    def draw(again: int) -> Mixed:
        changed = replace(run, seed=run.seed + 1_000_003 * again)
        clips = ClipSampler(
            videos, batch_size=run.batch_size - _rendered_before(run, run.batch_size), frames=run.frames, size=run.size,
            span=run.span, crop=run.crop, seed=changed.seed, even=run.even,
        )  # fmt: skip
        return Mixed(clips, changed)

    plain = draw(0)
    sources = [v.name for v in plain.clips.videos] + ([RENDERED] if run.rendered else [])
    flows = getattr(catalogue.module(run.method), "flows", None)
    if flows is None:
        return plain, sources, bad
    if run.frames < 2:
        raise InputError(f"recipe: frames is {run.frames}; {run.method} learns from pairs, so take 2 or more")
    pairs = FlowPairs([plain, *map(draw, range(1, TRIES))], flows(**run.settings), run.batch_size, Path(cache) / "flow")
    return pairs, sources, bad
