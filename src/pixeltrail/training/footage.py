"""The user's own video as material to learn from: stretches of frames, the end of each held out to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pixeltrail.data.video import open_frames
from pixeltrail.errors import DamagedInputError, InputError
from pixeltrail.tracker import Tracker
from pixeltrail.training.run import Run
from pixeltrail.types import Image

STRETCH = 40
"""Frames in a row that are kept of a long video at a time."""
HELD_OUT = 0.2
"""Share of each stretch, at its end, that is never trained on."""
SHORTEST = 10
"""Frames that a stretch needs to be split."""
MAX_BYTES = 256 << 20
FARTHEST = 12
"""Frames between the first and the last of a clip, at most."""

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """One video: ``train`` and ``held`` are stretches (L, H, W, 3) uint8 RGB of frames in a row."""

    name: str
    train: list[Frames]
    held: list[Frames]


def read_footage(path: str | Path, tracker: Tracker, *, max_bytes: int = MAX_BYTES) -> Footage:
    """Read a video, a folder of frames or a glob, at the size at which ``tracker`` would embed its frames.

    Of what does not fit into ``max_bytes``, evenly spread stretches are kept. A damaged video is used up to the damage.
    Raises ``InputError`` for what cannot be read, or is too short to hold anything out.
    """
    source = open_frames(path)
    session = tracker.live()
    session.size = source.size
    size = session.work_size()
    stretches: list[list[Image]] = []
    every, total = 1, 0
    try:
        for frame in source.frames():
            number, place = divmod(frame.index, STRETCH)
            if number % every:
                continue
            image = _at_size(frame.image, size)
            if place == 0:
                stretches.append([])
                if (
                    total + STRETCH * image.nbytes > max_bytes and len(stretches) > 2
                ):  # keep every other one from here on
                    every, stretches = 2 * every, stretches[::2]
                    total = sum(len(s) for s in stretches) * image.nbytes
                    if number % every:
                        continue
            stretches[-1].append(image)
            total += image.nbytes
    except DamagedInputError:
        if not stretches:
            raise
    long = [np.stack(s) for s in stretches if len(s) >= SHORTEST]
    if not long:
        count = sum(map(len, stretches))
        raise InputError(f"{path}: {count} frames are too few to adapt to; give a video of {SHORTEST} or more")
    ends = [len(s) - max(3, round(HELD_OUT * len(s))) for s in long]
    return Footage(
        source.path.stem,
        [s[:end] for s, end in zip(long, ends, strict=True)],
        [s[end:] for s, end in zip(long, ends, strict=True)],
    )


def _at_size(image: Image, size: tuple[int, int]) -> Image:
    if image.shape[:2] == size:
        return image
    return np.asarray(PIL.Image.fromarray(image).resize(size[::-1], PIL.Image.Resampling.BILINEAR))


class Crops:
    """Clips of ``run.frames`` frames at most ``FARTHEST`` apart, cut out in squares of ``run.size`` pixels (or as large
    as the smallest video allows) at the scale at which the video is tracked. A row depends on (seed, step, row) alone."""

    def __init__(self, footage: Sequence[Footage], run: Run) -> None:
        self.stretches = [(f.name, s) for f in footage for s in f.train]
        self.run = run
        self.side = min(run.size, *(min(s.shape[1:3]) for _, s in self.stretches))
        share = np.array([len(s) for _, s in self.stretches], float)
        self.share = share / share.sum()

    def batch(self, step: int, rows: range) -> NDArray[np.uint8]:
        """(len(rows), T, S, S, 3) uint8 RGB."""
        return np.stack([self._row(step, row) for row in rows])

    def names(self, step: int) -> list[str]:
        """The video of each row."""
        return [self.stretches[self._chosen(self._random(step, row))][0] for row in range(self.run.batch_size)]

    def _row(self, step: int, row: int) -> NDArray[np.uint8]:
        random, count = self._random(step, row), self.run.frames
        frames = self.stretches[self._chosen(random)][1]
        length, height, width = frames.shape[:3]
        span = min(int(random.integers(min(count - 1, FARTHEST), FARTHEST + 1)), length - 1)
        first = int(random.integers(0, length - span))
        times = sorted([first, first + span, *random.integers(first, first + span + 1, max(0, count - 2))])[:count]
        y, x = (int(random.integers(0, n - self.side + 1)) for n in (height, width))
        clip = frames[times, y : y + self.side, x : x + self.side]
        return clip[:, :, ::-1] if random.random() < 0.5 else clip

    def _random(self, step: int, row: int) -> np.random.Generator:
        return np.random.default_rng((self.run.seed, step, row))

    def _chosen(self, random: np.random.Generator) -> int:
        return int(random.choice(len(self.stretches), p=self.share))
