"""CorrFlow: copy quantised colours from frame to frame, and home again.

Lai & Xie, "Self-supervised Learning for Video Correspondence Flow", BMVC 2019. The encoder sees RGB with one or two
channels missing; the affinity, restricted to a window, must bring the colour classes back. Over several frames the model
is fed its own predictions now and then (scheduled sampling), and a long cycle must return to the colours that it left.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import DropRGB
from pixeltrail.colour import Classes, class_table, nearest_colour, require_classes, rgb_to_lab
from pixeltrail.geometry import cells_to_pixels
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.resnet import resnet18
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/1905.00875"


class CopyColours(nn.Module):
    """L = Σ forward + ``cycle`` · Σ there-and-back (paper, sec. 3.3–3.4), cross-entropy on copied probabilities.

    ``radius``: the window while learning, 0 for the whole frame. ``sampling``: the probability of starting a later step
    from true colours rather than the model's own, at the beginning and the end of training. ``cycle=0`` switches the
    cycles off, ``sampling=(1, 1)`` the scheduled sampling. ``classes``: the colour classes, a list of
    [a, b] or a JSON file of ``pixeltrail colours``.
    """

    centroids: Tensor

    def __init__(
        self,
        *,
        radius: int = 6,
        cycle: float = 0.1,
        sampling: tuple[float, float] = (0.9, 0.6),
        classes: Classes = (),
    ) -> None:
        super().__init__()
        self.radius, self.cycle, self.sampling = radius, cycle, sampling
        self.classes = classes
        self.register_buffer("centroids", class_table(classes), persistent=False)

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """Terms ``forward`` and ``cycle`` from clips of three frames or more."""
        require_classes(self.centroids, self.classes)
        seen = tracker.bottleneck(batch.clip, batch.generator)
        x = tracker.embed_clip(seen.view).float()
        affinity = replace(tracker.protocol.affinity, radius=self.radius or None)
        stride, steps = tracker.stride, x.shape[1] - 1
        classes = nearest_colour(rgb_to_lab(batch.clip)[:, :, 1:], self.centroids)  # (B, T, H, W)
        # Departure: classes are read where the feature cells sit; the released code resizes class *numbers* bilinearly.
        true = F.one_hot(classes[..., ::stride, ::stride], len(self.centroids)).movedim(-1, 2).to(x)

        def copy(source: int, target: int, colours: Tensor) -> Tensor:
            return affinity.propagate(x[:, target], x[:, source : source + 1], colours.unsqueeze(1))

        def mismatch(colours: Tensor, frame: int) -> Tensor:
            size = (classes.shape[-2], classes.shape[-1])
            return F.nll_loss((cells_to_pixels(colours, size, stride) + 1e-8).log(), classes[:, frame])

        start, end = self.sampling
        trust = start + (end - start) * batch.progress
        colours, forward = true[:, 0], x.new_zeros(())
        for t in range(1, steps + 1):
            if t > 1 and float(torch.rand((), generator=batch.generator)) < trust:
                colours = true[:, t - 1]
            colours = copy(t - 1, t, colours)
            forward = forward + mismatch(colours, t)
        terms = {"forward": forward}
        if self.cycle:
            home = x.new_zeros(())
            for n in range(1, steps + 1):
                colours = true[:, 0]
                for t in range(1, n + 1):
                    colours = copy(t - 1, t, colours)
                for t in range(n - 1, -1, -1):
                    colours = copy(t + 1, t, colours)
                home = home + mismatch(colours, 0)
            terms["cycle"] = self.cycle * home
        return terms


def build(
    *, width: int = 64, channels: int = 64, keep: float = 0.3, jitter: float = 0.1, **objective: object
) -> Tracker:
    """``width`` of the first stage and ``channels`` of the embedding (paper: 64 and 64). ``keep``: how often no colour
    channel is dropped (1: never one), ``jitter``: how often colours are jittered. The rest goes to ``CopyColours``."""
    return Tracker(
        encoder=resnet18(stride=4, width=width, head=channels),
        bottleneck=DropRGB(keep=keep, jitter=jitter),
        protocol=Protocol(affinity=Affinity(radius=6), policy=MemoryPolicy(anchors=(), recent=1), keep="hard"),
        objective=CopyColours(**objective),  # type: ignore[arg-type]
    )
