"""What adaptation learns from: in one's own video too, what moves together belongs together."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.geometry import sample
from pixeltrail.methods.cpfs import MoveTogether, draw_pixels
from pixeltrail.tracker import Tracker
from pixeltrail.training.feed import Sampler
from pixeltrail.types import Batch

NUMBERS = 16
"""A pixel's embedding for the comparison with flow, as in CPFS."""
ANCHOR = 0.3
"""Weight of staying near the frozen features."""
BATCHES, ROWS = 4, 8
"""Batches, and pairs in each, by which what was learned is judged."""


class Together(nn.Module):
    """CPFS's kernel target alignment (`methods.cpfs`) for any encoder, and a frozen copy that it may not leave far.

    The embeddings that shall be as alike as their flow are a linear reading of the encoder's map, so that what moves is told
    from what does not by a linear model, as `appearance` is one. Read so, the map need not give up what else it tells: the
    kernel of the embeddings themselves, without the reading, made the parts of things alike, and matches were lost.
    """

    def __init__(self, encoder: nn.Module, channels: int, weight: float = ANCHOR) -> None:
        super().__init__()
        self.reading = nn.Linear(channels, NUMBERS)
        self.alignment = MoveTogether(NUMBERS, loss="kta", pixels=256, centred=True)
        self.frozen = copy.deepcopy(encoder).eval().requires_grad_(False)
        self.weight = weight

    def train(self, mode: bool = True) -> Together:
        """The frozen copy stays as it was."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """``kta``, and ``anchor``: ``weight`` times the squared distance of unit features, over each clip's first frame."""
        view = tracker.bottleneck.view(batch.clip[:, 0])  # type: ignore[operator]
        now = tracker.encoder(view).float()
        with torch.no_grad():
            before = F.normalize(self.frozen(view).float(), dim=1)
        anchor = (F.normalize(now, dim=1) - before).square().sum(1).mean()
        xy, flow = draw_pixels(batch, self.alignment.pixels)
        with torch.autocast(now.device.type, enabled=False):  # places in bfloat16 would be off by pixels
            found = sample(now, xy.unsqueeze(-1) / tracker.stride, padding="border").squeeze(-1)
            found = self.reading(found.transpose(1, 2)).transpose(1, 2)
        return {**self.alignment.terms(found, flow), "anchor": self.weight * anchor}


@torch.inference_mode()
def found(tracker: Tracker, sampler: Sampler) -> float:
    """The mean alignment, at most 1, of what ``tracker``, whose objective is a `Together`, makes of ``BATCHES`` batches of
    pairs with their flow."""
    total = 0.0
    for step in range(BATCHES):
        clip, flow = (torch.from_numpy(a).to(tracker.device) for a in sampler.batch(step, range(ROWS)))
        random = torch.Generator().manual_seed(step)
        batch = Batch(clip.movedim(-1, 2).float() / 255, random, flow=flow.movedim(-1, 1))
        total += 1 - float(tracker.objective(tracker, batch)["kta"])
    return round(total / BATCHES, 6)
