"""UVC: first find the region, then match inside it, and copy colours.

Li, Liu, De Mello, Wang, Kautz & Yang, "Joint-task Self-supervised Learning for Temporal Correspondence", NeurIPS 2019.
The encoder sees lightness only. A crop of one frame is located in another, as the mean of the places that its cells find
there; a second affinity, between the crop and the box that was found, copies colours in the feature space of a colour
auto-encoder. The matching should be one to one (what is copied there and back is unchanged) and hold together
(neighbours come from neighbours).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Lightness, normalised_lab
from pixeltrail.errors import InputError
from pixeltrail.geometry import pixel_grid, sample
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.autoencoder import AutoEncoder, read_autoencoder
from pixeltrail.nets.resnet import BasicBlock, ResNet
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/1909.11895"
EPOCH = 1 / 30  # of the paper's training, as a share of it
Box = Literal["fixed", "measured"]


class CopyInRegion(nn.Module):
    """L = colour + ``reverse`` · colour back + ``concentration`` · L_c + ``coordinates`` · L_o (paper, sec. 3).

    ``region``: side of the reference crop as a share of the frame's (released code: 256 of 640 pixels). ``box``: as
    large as the crop (released code), or ``"measured"`` from the spread of what was found (paper). ``warmup``: share of
    training with random boxes, before those that are found are trusted. ``limit``: pairs of larger colour error are
    left out. ``coordinates``: 0 in the released run.

    The auto-encoder comes from the file ``autoencoder`` and is frozen. Departure, for want of such a file: without one it
    learns beside the matching, from a term ``reconstruction`` that alone changes its weights; the matching sees them as
    constants. ``matching=False`` learns it alone; the file that this leaves is what ``autoencoder`` takes.
    """

    frozen: Tensor

    def __init__(
        self,
        *,
        autoencoder: str = "",
        matching: bool = True,
        code_width: int = 64,
        code: int = 256,
        region: float = 0.4,
        box: Box = "fixed",
        warmup: float = 1 / 3,
        limit: float = 2.5,
        reverse: float = 0.1,
        concentration: float = 0.3,
        coordinates: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < region <= 1 or box not in ("fixed", "measured"):
            raise InputError(f"uvc: region is {region!r}, box {box!r}; expected 0 < region <= 1, box fixed or measured")
        if autoencoder and not matching:
            raise InputError("uvc: matching is false and autoencoder given: nothing is left to learn; give one of them")
        self.region, self.box, self.warmup, self.limit, self.matching = region, box, warmup, limit, matching
        self.reverse, self.concentration, self.coordinates = reverse, concentration, coordinates
        self.autoencoder = AutoEncoder(width=code_width, channels=code)
        self.register_buffer("frozen", torch.zeros((), dtype=torch.uint8))
        self.file = autoencoder
        if Path(autoencoder).is_file():  # a trained tracker is also loaded where this file is not
            read_autoencoder(self.autoencoder, autoencoder)
            self.autoencoder.requires_grad_(False)
            self.frozen.fill_(1)

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """Terms ``colour``, ``reverse``, ``concentration``, and by settings ``coordinates`` and ``reconstruction``, from
        the first and the last frame of each clip."""
        if self.file and not self.frozen:
            raise InputError(f"{self.file}: no such auto-encoder; train one with matching = false, or give none")
        random, stride, clip = batch.generator, tracker.stride, batch.clip[:, [0, -1]]
        b, size = len(clip), clip.shape[-2:]
        n = max(2, min(round(self.region * min(size) / stride), min(size) // stride))  # cells along the crop
        one = clip.new_ones(b, 2)
        room = one * clip.new_tensor([size[1] - n * stride, size[0] - n * stride])
        corner = (torch.rand(b, 2, generator=random).to(clip) * (room + 1)).floor()
        lab = normalised_lab(clip)
        source = cut(lab[:, 0], corner, one, n * stride)
        if not self.matching:
            return {"reconstruction": self._reconstruction(source)}

        view = tracker.bottleneck(clip, random).view
        reference = tracker.encoder(cut(view[:, 0], corner, one, n * stride)).float()
        frame = tracker.encoder(view[:, 1]).float()
        affinity = replace(tracker.protocol.affinity, topk=None)
        located = batch.progress >= self.warmup
        if located:
            centre, half = locate(affinity, reference, frame, self.box)
        else:
            half = one * (n - 1) / 2
            centre = half + torch.rand(b, 2, generator=random).to(half) * room / stride
        corner, step = boxed(centre, half, frame, n)
        target = cut(frame, corner, step, n)
        truth = cut(lab[:, 1], corner * stride, step, n * stride)

        match = affinity(target, reference.unsqueeze(1))  # the crop's cells for each of the box's
        back = match.dense().float().transpose(1, 2)  # not renormalised: where it sums to one, the match is one to one
        copied = match.copy(self._encode(source).unsqueeze(1))
        forward = colour_error(self._decode(copied), truth)
        returned = colour_error(self._decode(along(back, self._encode(truth))), source)
        # Every pair counts in the first two of thirty epochs of either stage (released code: one in the first stage).
        settled = batch.progress - located * self.warmup >= 2 * EPOCH
        kept = (forward.detach() <= self.limit) if settled else torch.ones_like(forward)
        terms = {"colour": (kept * forward).mean(), "reverse": self.reverse * (kept * returned).mean()}

        grid = (pixel_grid(n, n, device=clip.device) / (n - 1) * 2 - 1).expand(b, 1, 2, n, n)
        moved = match.copy(grid).float()
        if batch.progress >= EPOCH:
            others = affinity(reference, target.unsqueeze(1)).copy(grid).float()
            terms["concentration"] = self.concentration * (scatter(moved) + scatter(others))
        if self.coordinates:
            terms["coordinates"] = self.coordinates * (along(back, moved) - grid[:, 0]).square().sum(1).mean()
        if not self.frozen:
            terms["reconstruction"] = self._reconstruction(torch.cat((source, truth.detach())))
        return terms

    def _reconstruction(self, lab: Tensor) -> Tensor:
        return colour_error(self.autoencoder(lab).float(), lab).mean()

    def _encode(self, lab: Tensor) -> Tensor:
        return _as_constant(self.autoencoder.encoder, lab)

    def _decode(self, codes: Tensor) -> Tensor:
        return _as_constant(self.autoencoder.decoder, codes)


def _as_constant(module: nn.Module, x: Tensor) -> Tensor:
    """The module with a gradient for ``x`` but none for its parameters."""
    fixed = {name: parameter.detach() for name, parameter in module.named_parameters()}
    result: Tensor = functional_call(module, fixed, (x,))
    return result.float()


def cut(values: Tensor, corner: Tensor, step: Tensor, n: int) -> Tensor:
    """n × n samples from ``corner`` (B, 2) on, ``step`` (B, 2) apart: (B, K, h, w) -> (B, K, n, n)."""
    grid = pixel_grid(n, n, device=values.device)
    return sample(values, corner[..., None, None] + step[..., None, None] * grid, padding="border")


def locate(affinity: Affinity, reference: Tensor, frame: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Where the cells of ``reference`` (B, C, n, n) lie in ``frame`` (B, C, h, w): the box's centre and half-size (B, 2).

    Each cell's place is a soft-argmax, a copy of coordinates; the centre is their mean. The measured half-size is
    (2 / N) Σ |x − centre| (paper, sec. 3): exact for places spread evenly over the box.
    """
    n, (h, w) = reference.shape[-1], frame.shape[-2:]
    grid = pixel_grid(h, w, device=frame.device).expand(len(frame), 1, 2, h, w)
    with torch.autocast(frame.device.type, enabled=False):  # bfloat16 would round coordinates to half a cell
        place = affinity.propagate(reference, frame.unsqueeze(1), grid.contiguous()).flatten(2)
    centre = place.mean(2)
    if box == "fixed":
        return centre, torch.full_like(centre, (n - 1) / 2)
    return centre, 2 * (place - centre.unsqueeze(2)).abs().mean(2)


def boxed(centre: Tensor, half: Tensor, frame: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The box of n × n samples, moved inside the frame: its corner and step (B, 2) in cells; a cell wide at least."""
    most = (centre.new_tensor([frame.shape[-1], frame.shape[-2]]) - 1) / 2
    half = torch.minimum(half.clamp_min(0.5), most)
    centre = torch.maximum(torch.minimum(centre, 2 * most - half), half)
    return centre - half, 2 * half / (n - 1)


def along(weight: Tensor, values: Tensor) -> Tensor:
    """Copy values (B, K, n, n) along a matrix (B, n², n²), rows receive: (B, K, n, n)."""
    return (values.flatten(2) @ weight.transpose(1, 2)).view(values.shape).float()


def colour_error(lab: Tensor, truth: Tensor) -> Tensor:
    """|ΔL| + 10 |Δa| + 10 |Δb|, each the mean over a picture of normalised Lab: (B, 3, H, W) -> (B,)."""
    lightness, a, b = (lab - truth).abs().mean((2, 3)).unbind(1)
    return lightness + 10 * a + 10 * b


def scatter(place: Tensor, window: int = 8) -> Tensor:
    """Mean squared distance of places (B, 2, n, n) from the mean of their window of 8 × 8 cells (or all, if fewer).

    The released code's concentration term; the paper's lets places move freely inside a box before it counts them.
    """
    side = min(window, place.shape[-1])
    parts = F.unfold(place, side, stride=side).unflatten(1, (2, -1))
    variance: Tensor = (parts - parts.mean(2, keepdim=True)).square().sum(1).mean()
    return variance


def build(*, width: int = 64, temperature: float = 1.0, **objective: object) -> Tracker:
    """``width`` of the ResNet-18's first stage (paper: 64, so 512 channels); ``temperature`` of the raw dot products."""
    return Tracker(
        encoder=ResNet(BasicBlock, (2, 2, 2, 2), widths=(width, 2 * width, 4 * width, 8 * width), strides=(1, 2, 1, 1)),
        bottleneck=Lightness(),
        protocol=Protocol(
            affinity=Affinity(temperature=temperature, topk=5, renormalize=False, joint=False),
            policy=MemoryPolicy(anchors=(0,), recent=7),
            stretch=True,
        ),
        objective=CopyInRegion(**objective),  # type: ignore[arg-type]
    )
