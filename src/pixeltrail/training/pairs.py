"""Batches for objectives that learn from optical flow (CPFS): clips, and the flow that an estimator finds in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.clips import Cut
from pixeltrail.data.files import require_writable_folder
from pixeltrail.flow.camera import camera_flow
from pixeltrail.flow_methods import FlowMethod, flow_method, weights_of
from pixeltrail.methods.cpfs import Flows
from pixeltrail.training.feed import Sampler
from pixeltrail.types import Image
from pixeltrail.weights import digest

TRIES = 4
"""How many clips are drawn for a row, until one of them moves enough."""
MOVING = 90
"""Per cent of the pixels that may stand still against the others."""


class Draw(Sampler, Protocol):
    """A sampler that also says where its rows are taken from, such as `data.Mixed`."""

    def cut(self, step: int, row: int) -> Cut | None:
        """None for a row that comes from no video."""


class FlowPairs:
    """The rows of ``draws``, each with the flow from its first frame to its last: estimated on whole frames and cut out as
    they are, so that it knows what the crop's edge hides; of rendered rows on the crop.

    Each row is that of the first of ``draws`` whose clip moves as `Flows` asks, or of the one that moves most: it depends
    on (seed, step, row) alone, as theirs do. With ``wanted.keep`` the flow of whole frames is kept in the folder ``kept``
    for all runs, in half precision. Raises UnknownNameError for an unknown flow method.
    """

    def __init__(self, draws: Sequence[Draw], wanted: Flows, batch_size: int, kept: Path) -> None:
        self.draws, self.wanted, self.batch_size = draws, wanted, batch_size
        _method(wanted.flow)
        if wanted.keep:
            file = weights_of(wanted.flow)
            self.kept = require_writable_folder(kept / (digest(file) if file else wanted.flow))

    def batch(self, step: int, rows: range | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Clips (len(rows), T, H, W, 3) uint8 and flow (len(rows), H, W, 2) in pixels; all rows by default."""
        found = [self._row(step, row) for row in rows or range(self.batch_size)]
        return np.stack([clip for clip, _, _ in found]), np.stack([flow for _, flow, _ in found])

    def names(self, step: int) -> list[str]:
        """The source of each row."""
        return [self.draws[self._row(step, row)[2]].names(step)[row] for row in range(self.batch_size)]

    def _row(self, step: int, row: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], int]:
        """A clip, its flow, and which of the draws it is."""
        most, best = -1.0, None
        for k, draw in enumerate(self.draws):
            cut = draw.cut(step, row)
            if cut:
                clip, flow = None, cut.of_flow(self._whole(cut))
            else:
                made = draw.batch(step, range(row, row + 1))
                clip = (made[0] if isinstance(made, tuple) else made)[0]
                flow = self._flow(clip[0], clip[-1])
            moved = contrast(flow)
            if moved > most:
                most, best = moved, (cut, clip, flow, k)
            if most >= self.wanted.motion:
                break
        assert best is not None
        cut, clip, flow, k = best
        if cut:
            clip = cut.clip()
        assert clip is not None
        return clip, flow, k

    def _whole(self, cut: Cut) -> NDArray[np.float32]:
        """Flow over the whole frames, (H, W, 2)."""
        frames = cut.whole()
        if not self.wanted.keep:
            return self._flow(frames[0], frames[-1])
        name = f"{Path(cut.video.path).stem}-{cut.times[0]}-{cut.times[-1]}{'-camera' * self.wanted.camera}"
        path = self.kept / f"{name}.npy"
        if not path.is_file():
            part = path.with_name(f"{name}-{os.getpid()}.part")  # loader processes may find the same flow at once
            with open(part, "wb") as file:
                np.save(file, self._flow(frames[0], frames[-1]).astype(np.float16))
            os.replace(part, path)
        found: NDArray[np.float16] = np.load(path)
        return found.astype(np.float32)

    def _flow(self, first: Image, second: Image) -> NDArray[np.float32]:
        pair = (np.ascontiguousarray(image) for image in (first, second))
        flow = np.asarray(_method(self.wanted.flow)(*pair), np.float32)
        camera = camera_flow(flow) if self.wanted.camera else None
        return flow if camera is None else flow - camera


def contrast(flow: NDArray[np.float32]) -> float:
    """By how many pixels a tenth of ``flow`` (H, W, 2) at least differs from its median; 0 where nothing is known."""
    known = flow[np.isfinite(flow).all(-1)]
    if not len(known):
        return 0.0
    return float(np.percentile(np.linalg.norm(known - np.median(known, axis=0), axis=1), MOVING))


@cache
def _method(name: str) -> FlowMethod:
    """Once in each process that makes batches."""
    return flow_method(name)
