"""Whether features have become better for a video, judged without labels on frames that they were not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixeltrail.geometry import pixel_grid, sample
from pixeltrail.tracker import Tracker
from pixeltrail.training.footage import Footage

STRETCHES = 8
"""Held-out stretches that are looked at, at most."""
GAPS = (1, 3, 7)
"""Frames between the two of a pair."""
LOSS = 0.1
"""Share of either that may be lost."""
QUERIES = 1000
"""Cells of a frame that are looked for."""
VIEWS = ((0.6, 0.1, 0.3, False), (0.8, 0.15, 0.05, True))
"""Side, left and top of a second view, as shares of the frame, and whether it is mirrored."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Two shares in [0, 1]. ``view``: of the cells of a zoomed and mirrored copy of a frame, those found again within a
    cell of their true place. ``cycle``: of the cells of a frame, those that come home within a cell after going to their
    best match in a later frame and back. Features that are the same everywhere fail both; features that only know
    where they are come home, but fail the view.
    """

    view: float
    cycle: float

    @property
    def score(self) -> float:
        """The geometric mean."""
        return math.sqrt(self.view * self.cycle)

    def holds(self, before: Guard) -> bool:
        """Whether neither share has lost more than ``LOSS`` of what it was."""
        bound = 1 - LOSS
        return self.view >= bound * before.view and self.cycle >= bound * before.cycle

    def improves(self, before: Guard) -> bool:
        """Whether this is better as a whole, and neither was bought with the other."""
        return self.score > before.score and self.holds(before)


@torch.inference_mode()
def guard(tracker: Tracker, footage: Sequence[Footage]) -> Guard:
    """Judge ``tracker`` by what was held out of ``footage``, by hard matches of what its affinity compares."""
    held = [stretch for video in footage for stretch in video.held]
    held = [held[i] for i in np.unique(np.linspace(0, len(held) - 1, STRETCHES).round().astype(int))]
    views, cycles = [], []
    tracker.eval()
    for frames in held:
        times = sorted({0, *(min(gap, len(frames) - 1) for gap in GAPS)})
        rgb = torch.from_numpy(frames[times]).to(tracker.device).movedim(-1, 1).float() / 255
        mean = _mean(tracker, rgb[:1])
        maps = [_features(tracker, image[None], mean) for image in rgb]
        cycles += [_cycle(tracker, maps[0], later) for later in maps[1:]]
        views += [_view(tracker, rgb[:1], maps[0], mean, *view) for view in VIEWS]
    return Guard(round(float(np.mean(views)), 6), round(float(np.mean(cycles)), 6))


def _mean(tracker: Tracker, rgb: Tensor) -> Tensor:
    """What the protocol takes off all embeddings of a video that begins with ``rgb`` (1, 3, H, W): (C, 1, 1)."""
    mean = tracker.embed(rgb)[0].float().mean((1, 2), keepdim=True)
    return mean if tracker.protocol.centred else torch.zeros_like(mean)


def _features(tracker: Tracker, rgb: Tensor, mean: Tensor) -> Tensor:
    """(1, 3, H, W) -> (C, h, w), of unit length where the affinity compares directions."""
    found = tracker.embed(rgb)[0].float() - mean
    return F.normalize(found, dim=0) if tracker.protocol.affinity.normalize else found


def _cells(features: Tensor) -> Tensor:
    """The positions (x, y) of at most about ``QUERIES`` cells: (2, Q)."""
    grid = pixel_grid(*features.shape[-2:], device=features.device).flatten(1)
    return grid[:, :: max(1, grid.shape[1] // QUERIES)]


def _match(tracker: Tracker, first: Tensor, places: Tensor, second: Tensor, *, near: bool) -> Tensor:
    """Where the cells of ``first`` at ``places`` (2, Q) have their best match in ``second``: (2, Q).

    ``near``: within the affinity's window."""
    width = first.shape[-1]
    grid = pixel_grid(*second.shape[-2:], device=second.device).flatten(1)
    scores = first.flatten(1)[:, (places[1] * width + places[0]).long()].T @ second.flatten(1)
    radius = tracker.protocol.affinity.radius
    if near and radius is not None:
        for axis in (0, 1):
            scores.masked_fill_((places[axis, :, None] - grid[axis]).abs() > radius, -torch.inf)
    return grid[:, scores.argmax(1)]


def _cycle(tracker: Tracker, first: Tensor, second: Tensor) -> float:
    start = _cells(first)
    there = _match(tracker, first, start, second, near=True)
    home = _match(tracker, second, there, first, near=True)
    return float(((home - start).abs().amax(0) <= 1).float().mean())


def _view(
    tracker: Tracker, rgb: Tensor, plain: Tensor, mean: Tensor, side: float, left: float, top: float, mirrored: bool
) -> float:
    height, width = rgb.shape[-2:]
    extent = torch.tensor([width - 1.0, height - 1.0], device=rgb.device).view(2, 1, 1)
    scale = torch.tensor([-side if mirrored else side, side], device=rgb.device).view(2, 1, 1)
    corner = torch.tensor([left + side if mirrored else left, top], device=rgb.device).view(2, 1, 1) * extent
    source = scale * pixel_grid(height, width, device=rgb.device) + corner  # where each pixel of the view lies
    other = _features(tracker, sample(rgb, source[None], padding="border"), mean)
    places = _cells(other)
    found = _match(tracker, other, places, plain, near=False)
    true = scale.flatten(1) * places + corner.flatten(1) / tracker.stride
    return float(((found - true).abs().amax(0) <= 1).float().mean())
