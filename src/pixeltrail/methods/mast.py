"""MAST: rebuild a missing Lab channel from remembered frames.

Lai, Lu & Xie, "MAST: A Memory-Augmented Self-supervised Tracker", CVPR 2020. Lab goes in with a or b missing; the
affinity copies that channel from reference frames; Huber loss. When tracking, two early frames and three recent ones are
remembered, and old ones are searched twice: coarsely with a dilated window, then around what was found.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import DropLab, normalised_lab
from pixeltrail.geometry import cells_to_pixels
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.resnet import resnet18
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/2002.07793"


class RebuildColour(nn.Module):
    """Smooth L1 between ``scale`` × the copied and ``scale`` × the true missing channel of the last frame.

    All earlier frames of the clip are references under one softmax: clips of two frames are the paper's first stage,
    longer ones its second. ``radius``: the window while learning, 0 for the whole frame.
    """

    def __init__(self, *, radius: int = 6, scale: float = 20.0) -> None:
        super().__init__()
        self.radius, self.scale = radius, scale

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """Term ``colour`` from clips of two frames or more."""
        seen = tracker.bottleneck(batch.clip, batch.generator)
        x = tracker.embed_clip(seen.view).float()
        truth = normalised_lab(batch.clip)[:, :, list(seen.hidden)]
        stride = tracker.stride
        affinity = replace(tracker.protocol.affinity, radius=self.radius or None)
        copied = affinity.propagate(x[:, -1], x[:, :-1], truth[:, :-1, :, ::stride, ::stride].contiguous())
        size = (truth.shape[-2], truth.shape[-1])
        copied = cells_to_pixels(copied, size, stride)
        return {"colour": F.smooth_l1_loss(self.scale * copied, self.scale * truth[:, -1])}


def build(*, width: int = 64, channels: int = 64, **objective: float) -> Tracker:
    """``width`` of the first stage and ``channels`` of the embedding (paper: 64 and 64)."""
    return Tracker(
        encoder=resnet18(stride=4, width=width, head=channels),
        bottleneck=DropLab(),
        # Departure: the border is masked; the released code lets candidates outside the frame keep score and value
        # zero, so that label mass leaks (``mask_border=False`` brings that back).
        protocol=Protocol(
            affinity=Affinity(radius=12),
            policy=MemoryPolicy(anchors=(0, 5), recent=3, stride=2),
            keep="hard",
            distant=15,
        ),
        objective=RebuildColour(**objective),  # type: ignore[arg-type]
    )
