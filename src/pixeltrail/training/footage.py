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
from pixeltrail.flow.camera import camera_flow
from pixeltrail.flow.classical import Flow
from pixeltrail.flow_methods import FlowMethod
from pixeltrail.tracker import Tracker
from pixeltrail.training.pairs import TRIES, contrast
from pixeltrail.training.run import Run
from pixeltrail.types import Image

STRETCH = 40
"""Frames in a row that are kept of a long video at a time."""
HELD_OUT = 0.2
"""Share of each stretch, at its end, that is never trained on."""
SHORTEST = 10
"""Frames that a stretch needs to be split."""
MAX_BYTES = 256 << 20
PAIRS = 64
"""Pairs of neighbouring frames whose flow is estimated, at most."""
MOTION = 1.0
"""Pixels that a tenth of a crop must move by, more or less than its median."""

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


class Neighbours(Sequence[tuple[Image, Flow]]):
    """Frames of ``footage`` that are trained on, or that are ``held`` out, at most ``PAIRS`` and evenly spread, each with the
    flow to the next one in pixels (H, W, 2), less what the camera did. Flow is estimated when it is first asked for."""

    def __init__(self, footage: Sequence[Footage], method: FlowMethod, *, held: bool = False) -> None:
        parts = [(f.name, s) for f in footage for s in (f.held if held else f.train)]
        places = [(name, s, t) for name, s in parts for t in range(len(s) - 1)]
        self.places: list[tuple[str, Frames, int]] = [
            places[i] for i in np.unique(np.linspace(0, len(places) - 1, PAIRS).round().astype(int))
        ]
        self.method = method
        self.flows: dict[int, NDArray[np.float16]] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Image, Flow]:  # type: ignore[override]
        _, stretch, t = self.places[index]
        if index not in self.flows:
            flow = np.asarray(self.method(stretch[t], stretch[t + 1]), np.float32)
            camera = camera_flow(flow)
            self.flows[index] = (flow if camera is None else flow - camera).astype(np.float16)
        return stretch[t], self.flows[index].astype(np.float32)

    def name(self, index: int) -> str:
        """The video that a pair is of."""
        return self.places[index][0]


class Crops:
    """Frames with their flow, cut out in squares of ``run.size`` pixels (or as large as the smallest video allows) at the
    scale at which the video is tracked; of ``TRIES`` the first that moves, or the one that moves most. A row depends on
    (seed, step, row) alone."""

    def __init__(self, neighbours: Neighbours, run: Run) -> None:
        self.neighbours, self.run = neighbours, run
        self.side = min(run.size, *(min(s.shape[1:3]) for _, s, _ in neighbours.places))

    def batch(self, step: int, rows: range) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(len(rows), 1, S, S, 3) uint8 RGB, and flow (len(rows), S, S, 2) in pixels."""
        found = [self._row(step, row) for row in rows]
        return np.stack([image[None] for _, image, _ in found]), np.stack([flow for *_, flow in found])

    def names(self, step: int) -> list[str]:
        """The video of each row."""
        return [self.neighbours.name(self._row(step, row)[0]) for row in range(self.run.batch_size)]

    def _row(self, step: int, row: int) -> tuple[int, Image, Flow]:
        random = np.random.default_rng((self.run.seed, step, row))
        most, best = -1.0, None
        for _ in range(TRIES):
            index = int(random.integers(len(self.neighbours)))
            image, flow = self.neighbours[index]
            y, x = (int(random.integers(0, n - self.side + 1)) for n in image.shape[:2])
            cut = np.s_[y : y + self.side, x : x + self.side]
            image, flow = image[cut], flow[cut]
            moved = contrast(flow)
            if moved > most:
                most, best = moved, (index, image, flow)
            if moved >= MOTION:
                break
        assert best is not None
        index, image, flow = best
        if random.random() < 0.5:
            image, flow = image[:, ::-1], flow[:, ::-1] * np.array([-1, 1], np.float32)
        return index, image, flow
