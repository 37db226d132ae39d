"""Networks of published trackers that differ from ours: what `pixeltrail convert` fills with their weights.

CorrFlow's and MAST's are those of the methods of the same name. UVC's differs in the size at which it was run, CRW's and
TimeCycle's saw colours under ImageNet's mean and deviation, and VFS (Xu & Wang, "Rethinking Self-supervised
Correspondence Learning", ICCV 2021) is a plain ResNet, padded with zeros, of which tracking uses three stages; so is any
ResNet of torchvision.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Seen
from pixeltrail.errors import InputError
from pixeltrail.memory import MemoryPolicy
from pixeltrail.methods import crw, cycletime, uvc
from pixeltrail.methods.dul import AnchorSelfTraining
from pixeltrail.nets.resnet import resnet18, resnet50
from pixeltrail.tracker import Protocol, Tracker

PAPER = "https://arxiv.org/abs/2103.17263"


class ImageNetColours(nn.Module):
    """RGB under the mean and deviation of ImageNet's pictures."""

    def view(self, rgb: Tensor) -> Tensor:
        """(..., 3, H, W) in [0, 1] -> the same shape, each channel about zero."""
        mean, deviation = rgb.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
        return (rgb - mean) / deviation  # type: ignore[no-any-return]

    def forward(self, clip: Tensor, generator: torch.Generator | None = None) -> Seen:
        return Seen(self.view(clip))


def build(*, family: str = "vfs", depth: int = 18, width: int = 64) -> Tracker:
    """``family``: vfs (also for any ResNet of torchvision), crw, cycletime or uvc. ``depth`` of vfs: 18 or 50. ``width``
    of the first stage (all papers: 64). Training goes on with the family's objective, for vfs with DUL's."""
    if family not in ("vfs", "crw", "cycletime", "uvc") or depth not in (18, 50):
        raise InputError(f"published: {family!r}, depth {depth!r}; expected vfs (18 or 50), crw, cycletime or uvc")
    if family == "crw":
        return _as_published(crw.build(width=width), bottleneck=ImageNetColours())
    if family == "cycletime":
        return _as_published(cycletime.build(width=width), bottleneck=ImageNetColours(), size=480)
    if family == "uvc":
        return _as_published(uvc.build(width=width), size=480)
    encoder = resnet18(width=width) if depth == 18 else resnet50(width=width)
    protocol = Protocol(
        affinity=Affinity(radius=12, circle=True, temperature=0.07, normalize=True, topk=10),
        policy=MemoryPolicy(anchors=(0,), recent=20),
        stretch=True,
        size=480,
    )
    if depth == 50:  # the released configurations look farther with the deeper network
        protocol = replace(protocol, affinity=replace(protocol.affinity, radius=18))
    return Tracker(
        encoder=encoder,
        bottleneck=ImageNetColours(),
        protocol=protocol,
        objective=AnchorSelfTraining(encoder.channels),
    )


def _as_published(tracker: Tracker, *, bottleneck: nn.Module | None = None, size: int | None = None) -> Tracker:
    return Tracker(
        encoder=tracker.encoder,
        bottleneck=bottleneck or tracker.bottleneck,
        protocol=replace(tracker.protocol, size=size),
        objective=tracker.objective,
    )
