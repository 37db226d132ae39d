"""Contrastive random walk: there and back through a video, a walker should end where it began.

Jabri, Owens & Efros, "Space-Time Correspondence as a Contrastive Random Walk", NeurIPS 2020. Every frame is cut into
overlapping patches, the nodes of a graph; affinities between neighbouring frames are the probabilities of a step. The
palindrome I₀ … Iₖ … I₀ needs no labels: its end is its start.
"""

from __future__ import annotations

from math import log

import torch
from torch import Generator, Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Everything
from pixeltrail.errors import InputError
from pixeltrail.geometry import sample
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.resnet import resnet18
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/2006.14613"


class WalkHome(nn.Module):
    """L = mean over k of the cross-entropy of the round trip I₀ → Iₖ → I₀ with the identity (paper, eq. 3–5).

    ``grid``: grid × grid nodes, each a patch that overlaps its neighbours by half (7: sides of a quarter of the frame,
    64 of 256 pixels). ``area``: each is cropped anew to a share of its area within these bounds, so that two frames'
    patches never coincide. ``dim`` of a node's embedding. ``dropout``: share of edges that are cut.
    """

    def __init__(
        self,
        channels: int,
        *,
        dim: int = 128,
        grid: int = 7,
        dropout: float = 0.1,
        temperature: float = 0.05,
        area: tuple[float, float] = (0.7, 0.9),
    ) -> None:
        super().__init__()
        self.project = nn.Linear(channels, dim)
        self.grid, self.dropout, self.temperature, self.area = grid, dropout, temperature, area

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """Terms ``walk_k``, already weighted, from clips of two frames or more. InputError if patches are too small."""
        x = self._nodes(tracker, batch)
        with torch.autocast(x.device.type, enabled=False):  # products of probabilities need every digit
            return self._walks(x.float(), batch.generator)

    def _walks(self, x: Tensor, random: Generator | None) -> dict[str, Tensor]:
        """Nodes (B, T, D, g, g) to losses."""
        steps = x.shape[1] - 1
        there = back = torch.eye(self.grid**2, device=x.device)
        terms = {}
        # Departure: the released code leaves out k = 1; the paper has it, and a pair of frames would teach nothing.
        for k in range(1, steps + 1):
            there = there @ self._step(x[:, k - 1], x[:, k], random)  # (B, N, N), from I₀ to Iₖ
            back = self._step(x[:, k], x[:, k - 1], random) @ back  # its own softmax, not a transpose
            home = (there @ back).diagonal(dim1=1, dim2=2)
            terms[f"walk_{k}"] = -(home + 1e-20).log().mean() / steps
        return terms

    def _step(self, here: Tensor, there: Tensor, random: Generator | None) -> Tensor:
        """Probabilities (B, N, N) of going from each node of one frame to each of another; rows sum to one."""
        weight = Affinity(temperature=self.temperature, normalize=True)(here, there.unsqueeze(1)).dense()
        kept = torch.rand(weight.shape, generator=random).to(weight.device) >= self.dropout
        weight = weight * kept  # cut before the softmax, or after it and scaled to sum one again: the same
        return weight / weight.sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)

    def _nodes(self, tracker: Tracker, batch: Batch) -> Tensor:
        """(B, T, dim, g, g): every patch goes through the encoder alone, so that it cannot know where it is."""
        view = tracker.bottleneck(batch.clip, batch.generator).view
        patches = cut(view.flatten(0, 1), self.grid, self.area, batch.generator)
        if min(patches.shape[-2:]) <= tracker.stride:
            size, enough = min(view.shape[-2:]), (self.grid + 1) * (tracker.stride + 1) // 2
            raise InputError(f"crw: clips of {size} pixels make patches too small to encode; give at least {enough}")
        nodes = self.project(tracker.encoder(patches).mean((2, 3)))
        return nodes.view(*view.shape[:2], self.grid, self.grid, -1).movedim(-1, 2)  # type: ignore[no-any-return]


def cut(frames: Tensor, grid: int, area: tuple[float, float], random: Generator | None) -> Tensor:
    """(F, 3, H, W) -> (F · grid², 3, 2H/(grid + 1), 2W/(grid + 1)), row by row: overlapping patches, each cropped to a
    share of its area within ``area`` and of aspect 3/4 to 4/3, and brought back to its size."""
    f, n = len(frames), grid**2
    share = area[0] + (area[1] - area[0]) * torch.rand(f, n, generator=random)
    aspect = (log(4 / 3) * (2 * torch.rand(f, n, generator=random) - 1)).exp()
    column, row = torch.arange(n) % grid, torch.arange(n) // grid
    where = []
    for place, length, factor in ((column, frames.shape[-1], aspect), (row, frames.shape[-2], 1 / aspect)):
        side = 2 * length / (grid + 1)
        pixels = round(side)
        crop = side * (share * factor).sqrt().clamp_max(1)
        start = place * side / 2 + (side - crop) * torch.rand(f, n, generator=random)
        where.append(start[..., None] + (torch.arange(pixels) + 0.5) * crop[..., None] / pixels - 0.5)
    x, y = (w.to(frames.device) for w in where)  # (F, N, width) and (F, N, height)
    shape = (f, n, y.shape[-1], x.shape[-1])
    xy = torch.stack((x.unsqueeze(2).expand(shape), y.unsqueeze(3).expand(shape)), 1).flatten(2, 3)
    patches: Tensor = sample(frames, xy, padding="border").unflatten(2, shape[1:3])
    return patches.movedim(2, 1).flatten(0, 1)


def build(*, width: int = 64, **objective: float) -> Tracker:
    """``width`` of the ResNet-18's first stage (paper: 64). Other settings go to ``WalkHome``."""
    # Departure: the released code learns through a stage 4 that it throws away when it tracks; here there is none.
    encoder = resnet18(stride=8, width=width, padding_mode="reflect")
    return Tracker(
        encoder=encoder,
        bottleneck=Everything(),
        protocol=Protocol(
            affinity=Affinity(radius=12, circle=True, temperature=0.05, normalize=True, topk=10, free_first=True),
            policy=MemoryPolicy(anchors=(0,), recent=20),
        ),
        objective=WalkHome(encoder.channels, **objective),  # type: ignore[arg-type]
    )
