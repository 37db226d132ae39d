"""Batches for objectives that learn from optical flow (CPFS): clips, and the flow that an estimator finds in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pixeltrail.flow.camera import camera_flow
from pixeltrail.flow_methods import FlowMethod, flow_method
from pixeltrail.methods.cpfs import Flows
from pixeltrail.training.feed import Sampler

TRIES = 4
"""How many clips are drawn for a row, until one of them moves enough."""
MOVING = 90
"""Per cent of the pixels that may stand still against the others."""


class FlowPairs:
    """The rows of ``draws``, each with the flow from its first frame to its second, estimated on the crop itself.

    Each row is that of the first of ``draws`` whose clip moves as `Flows` asks, or of the one that moves most: it depends
    on (seed, step, row) alone, as theirs do. Raises UnknownNameError for an unknown flow method.
    """

    def __init__(self, draws: Sequence[Sampler], wanted: Flows, batch_size: int) -> None:
        self.draws, self.wanted, self.batch_size = draws, wanted, batch_size
        _method(wanted.flow)

    def batch(self, step: int, rows: range | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Clips (len(rows), T, H, W, 3) uint8 and flow (len(rows), H, W, 2) in pixels; all rows by default."""
        made = [self._row(step, row) for row in rows or range(self.batch_size)]
        return np.stack([clip for clip, _, _ in made]), np.stack([flow for _, flow, _ in made])

    def names(self, step: int) -> list[str]:
        """The source of each row."""
        return [self.draws[self._row(step, row)[2]].names(step)[row] for row in range(self.batch_size)]

    def _row(self, step: int, row: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], int]:
        """A clip, its flow, and which of the draws it is."""
        most, best = -1.0, None
        for k, draw in enumerate(self.draws):
            made = draw.batch(step, range(row, row + 1))
            clip = np.ascontiguousarray((made[0] if isinstance(made, tuple) else made)[0])
            flow = self._flow(clip)
            moved = contrast(flow)
            if moved > most:
                most, best = moved, (clip, flow, k)
            if most >= self.wanted.motion:
                break
        assert best is not None
        return best

    def _flow(self, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
        flow = np.asarray(_method(self.wanted.flow)(clip[0], clip[1]), np.float32)
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
