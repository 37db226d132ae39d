"""Video Colorization: colour a grey frame by pointing into frames whose colours are known.

Vondrick, Shrivastava, Fathi, Guadarrama & Murphy, "Tracking Emerges by Colorizing Videos", ECCV 2018. The encoder sees
grey; every cell of the last frame points into all earlier frames of the clip at once, with one softmax, and what it
points to must have its colour class.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Grey
from pixeltrail.colour import Classes, class_table, nearest_colour, require_classes, rgb_to_lab
from pixeltrail.geometry import down_to_cells
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.resnet import BasicBlock, ResNet
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/1806.09594"


class PointToColours(nn.Module):
    """Cross-entropy of the copied colour distribution with the last frame's classes, at the cells (paper, eq. 1–3).

    The copy is a distribution already: its negative log-likelihood is taken. (A public re-implementation hands it to a
    softmax cross-entropy as if it were logits, which bounds the loss away from zero.) ``temperature`` while learning.
    ``classes``: the colour classes, a list of [a, b] or a JSON file of ``pixeltrail colours``.
    """

    centroids: Tensor

    def __init__(self, *, temperature: float = 1.0, classes: Classes = ()) -> None:
        super().__init__()
        self.temperature, self.classes = temperature, classes
        self.register_buffer("centroids", class_table(classes), persistent=False)

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """Term ``colour`` from clips of two frames or more (paper: three references and a target)."""
        require_classes(self.centroids, self.classes)
        x = tracker.embed_clip(tracker.bottleneck(batch.clip, batch.generator).view).float()
        affinity = replace(tracker.protocol.affinity, temperature=self.temperature)
        # As in the paper, frames shrink to the feature grid and get their classes there: each cell has one true class.
        small = down_to_cells(batch.clip.flatten(0, 1), tracker.stride).float().unflatten(0, batch.clip.shape[:2])
        classes = nearest_colour(rgb_to_lab(small)[:, :, 1:], self.centroids)  # (B, T, h, w)
        true = F.one_hot(classes, len(self.centroids)).movedim(-1, 2).to(x)
        copied = affinity.propagate(x[:, -1], x[:, :-1], true[:, :-1])
        return {"colour": F.nll_loss((copied + 1e-8).log(), classes[:, -1])}


def build(*, width: int = 64, channels: int = 64, **objective: object) -> Tracker:
    """``width`` of the first stage and ``channels`` of the embedding (paper: 64 and 64)."""
    # Departure: the paper mixes frames by 3D convolutions on top of its ResNet-18 and adds each cell's position. Here a
    # frame's embedding depends on that frame alone, so it is computed once and remembered, and is not told where it is.
    encoder = ResNet(
        BasicBlock, (2, 2, 2, 2), widths=(width, 2 * width, 4 * width, 4 * width), strides=(2, 2, 1, 1),
        pool=False, head=channels,
    )  # fmt: skip
    return Tracker(
        encoder=encoder,
        bottleneck=Grey(),
        # The whole frame, no window; the sharper temperature is the paper's for tracking, on its soft predictions.
        protocol=Protocol(affinity=Affinity(temperature=0.5), policy=MemoryPolicy(anchors=(), recent=3)),
        objective=PointToColours(**objective),  # type: ignore[arg-type]
    )
