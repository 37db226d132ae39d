"""Cross pixel optical-flow similarity: pixels of one frame that move together are embedded together.

Mahendran, Thewlis & Vedaldi, "Cross Pixel Optical Flow Similarity for Self-Supervised Learning", ACCV 2018. The affinity
of a single frame with itself is to be the affinity of its optical flow with itself: which pixels move alike, never how.
The flow is an estimate that needed no label, and only training needs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Everything
from pixeltrail.errors import InputError
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.alexnet import AlexNet
from pixeltrail.nets.hypercolumns import Hypercolumns, ResNetTrunk
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/1807.05636"
LOSSES = ("kta", "ce", "ce-rev", "direct")
FASTEST = 50.0
"""Pixels of motion at which the logarithm of flow reaches 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """The flow that a run learns from. ``flow``: a name of `flow_methods.flow_method`; ``camera``: what the camera does is
    taken off; ``motion``: pairs are drawn anew, a few times, until a tenth of their pixels moves by so many pixels more or
    less than their median; ``keep``: flow lies beside the cache of frames for runs that draw the same pairs again."""

    flow: str = "farneback"
    camera: bool = False
    motion: float = 1.0
    keep: bool = False

    def __post_init__(self) -> None:
        switches = isinstance(self.camera, bool) and isinstance(self.keep, bool)
        if not (isinstance(self.flow, str) and switches and 0 <= self.motion < math.inf):
            raise InputError(
                f"cpfs: flow {self.flow!r}, camera {self.camera!r}, keep {self.keep!r}, motion {self.motion!r}; expected a "
                "method's name, true or false twice, and pixels"
            )


def flows(
    *, flow: str = "farneback", camera: bool = False, motion: float = 1.0, keep: bool = False, **_: object
) -> Flows:
    """The flow that these settings of `build` ask for: by this function the training loop knows to provide it."""
    return Flows(flow=flow, camera=camera, motion=motion, keep=keep)


def embedding_kernel(x: Tensor, scale: float = 0.25) -> Tensor:
    """``scale`` times the cosine: (B, D, N) -> (B, N, N). The paper's quarter: values in [-1/4, 1/4]."""
    unit = F.normalize(x, dim=1)
    return scale * unit.transpose(1, 2) @ unit


def log_flow(flow: Tensor) -> Tensor:
    """Pixels to [-1, 1], each component by its sign and log(1 + |component|) / log(1 + ``FASTEST``)."""
    return flow.sign() * (flow.abs().log1p() / math.log1p(FASTEST)).clamp_max(1)


def flow_kernel(flow: Tensor, sigma: Tensor | float) -> Tensor:
    """The exponent of the Gaussian kernel, -|f_p - f_q|² / 2σ²: (B, 2, N) -> (B, N, N)."""
    gap = flow.unsqueeze(3) - flow.unsqueeze(2)  # not by products, whose cancellation moves exponents by whole numbers
    return -gap.square().sum(1) / (2 * sigma**2)


def alignment(one: Tensor, two: Tensor, *, centred: bool = False) -> Tensor:
    """Kernel target alignment of (B, N, N) with (B, N, N): (B,), their cosine as vectors; 1 for proportional kernels.

    ``centred``: rows and columns are first brought to mean 0 (centred alignment, Cortes et al., JMLR 2012)."""
    if centred:
        one, two = (
            k - k.mean(1, keepdim=True) - k.mean(2, keepdim=True) + k.mean((1, 2), keepdim=True) for k in (one, two)
        )
    return F.cosine_similarity(one.flatten(1), two.flatten(1), dim=1)


def columns(exponents: Tensor) -> Tensor:
    """The logarithm of each column's distribution over all other pixels: (B, N, N), minus infinity on the diagonal.

    A pixel is always most like itself, which says nothing and would reward a σ of zero: p = q is left out."""
    return exponents.masked_fill(_self(exponents), -torch.inf).log_softmax(1)


def cross_entropy(target: Tensor, found: Tensor) -> Tensor:
    """The mean over columns q of -Σ_p exp(target) · found, both as `columns` gives them: (B,)."""
    return -(target.exp() * found.masked_fill(_self(found), 0)).sum(1).mean(1)


def least_cross_entropy(target: Tensor, scale: float = 0.25) -> Tensor:
    """The smallest `cross_entropy` with ``target`` of any kernel with values in [-``scale``, ``scale``]: (B,).

    Such a column is log target + c, cut off at both ends, with c the logarithm of its own sum; c is found by bisection.
    Embeddings may not reach it, having to serve all columns at once, but nothing gets below."""
    others = ~_self(target)
    n = target.shape[1] - 1
    low = target.new_full((len(target), 1, n + 1), math.log(n) - scale)
    high = low + 2 * scale
    for _ in range(30):
        c = (low + high) / 2
        total = ((target + c).clamp(-scale, scale).exp() * others).sum(1, keepdim=True).log()
        low, high = torch.where(total > c, c, low), torch.where(total > c, high, c)
    return cross_entropy(target, columns((target + low).clamp(-scale, scale)))


def _self(kernel: Tensor) -> Tensor:
    return torch.eye(kernel.shape[-1], dtype=torch.bool, device=kernel.device)


def draw_pixels(batch: Batch, count: int) -> tuple[Tensor, Tensor]:
    """At most ``count`` random pixels of each clip's first frame whose flow is known: (x, y), (B, 2, N), and their `log_flow`.

    Raises InputError for a batch without flow, or a pair without two such pixels."""
    if batch.flow is None:
        raise InputError("cpfs: learns from optical flow, and this batch has none; train it by pixeltrail train")
    known = batch.flow.isfinite().all(1).flatten(1)
    n = min(count, int(known.sum(1).min()))
    if n < 2:
        raise InputError("cpfs: a pair of frames has no known flow")
    draw = torch.rand(known.shape, generator=batch.generator).to(known.device)
    place = draw.masked_fill(~known, -1).topk(n, 1).indices  # (B, N)
    flow = log_flow(batch.flow.float().flatten(2).gather(2, place.unsqueeze(1).expand(-1, 2, -1)))
    width = batch.flow.shape[-1]
    return torch.stack((place % width, place // width), 1).float(), flow


class MoveTogether(nn.Module):
    """The paper's losses on ``pixels`` random pixels of each clip's first frame.

    ``loss``: "kta", one minus the alignment of both kernels; "ce", the cross-entropy of columns with those of the flow as
    target; "ce-rev", with those of the embedding as target; "direct", the control: classify each pixel's own flow, among
    ``bins`` x ``bins`` classes. ``sigma`` of the Gaussian, in units of `log_flow`, is learnt within a factor ``free`` of
    its start, 1 for not at all: without bounds kta would make it infinite (all pixels move alike) and ce zero.
    ``scale`` of the embeddings' kernel: at the paper's quarter a column cannot be sharp, and what the cross-entropies then
    reward is any coarse pattern; ``centred`` as `alignment` has it.
    """

    def __init__(
        self,
        dim: int,
        *,
        loss: Literal["kta", "ce", "ce-rev", "direct"] = "kta",
        pixels: int = 512,
        sigma: float = 0.06,
        free: float = 4.0,
        scale: float = 0.25,
        centred: bool = False,
        bins: int = 7,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise InputError(f"cpfs: loss is {loss!r}; there are {', '.join(LOSSES)}")
        if not (pixels > 1 and sigma > 0 and free >= 1 and scale > 0 and bins > 1):
            raise InputError("cpfs: expected pixels and bins of 2 or more, sigma and scale above 0, free of 1 or more")
        self.loss, self.pixels, self.start, self.free = loss, pixels, sigma, free
        self.scale, self.centred, self.bins = scale, centred, bins
        if loss == "direct":
            self.classify = nn.Linear(dim, bins * bins)
        elif free > 1:
            self.width = nn.Parameter(torch.zeros(()))

    @property
    def sigma(self) -> Tensor:
        """The Gaussian's σ: a tanh keeps it within its bounds, and weight decay draws it to where it began."""
        bend = self.width.tanh() if hasattr(self, "width") else torch.zeros(())
        return self.start * (math.log(self.free) * bend).exp()

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """One term, named like the loss. Raises InputError for a batch without flow."""
        return self.terms(*self._sampled(tracker, batch))

    def terms(self, x: Tensor, flow: Tensor) -> dict[str, Tensor]:
        """The same of embeddings (B, D, N) and the `log_flow` (B, 2, N) of their pixels."""
        with torch.autocast(x.device.type, enabled=False):
            if self.loss == "direct":
                return {"direct": F.cross_entropy(self.classify(x.transpose(1, 2)).flatten(0, 1), self._classes(flow))}
            exponents = flow_kernel(flow, self.sigma.to(flow))
            kernel = embedding_kernel(x, self.scale)
            if self.loss == "kta":
                return {"kta": 1 - alignment(kernel, exponents.exp(), centred=self.centred).mean()}
            target, found = columns(exponents), columns(kernel)
            pair = (target, found) if self.loss == "ce" else (found, target)
            return {self.loss: cross_entropy(*pair).mean()}

    @torch.no_grad()
    def measures(self, tracker: Tracker, batch: Batch) -> dict[str, float]:
        """How far learning has come, whatever the loss: ``alignment``; ``progress``, 0 where the cross-entropy is that of
        embeddings that are all alike, 1 at its least value; the mean of both kernels off the diagonal, ``alike`` (the
        cosine, 1: embeddings have collapsed) and ``together``; and ``sigma``."""
        x, flow = self._sampled(tracker, batch)
        exponents = flow_kernel(flow, self.sigma.to(flow))
        kernel = embedding_kernel(x, self.scale)
        target = columns(exponents)
        most, least = math.log(kernel.shape[1] - 1), float(least_cross_entropy(target, self.scale).mean())
        found = float(cross_entropy(target, columns(kernel)).mean())
        others = ~_self(kernel)
        return {
            "alignment": float(alignment(kernel, exponents.exp(), centred=self.centred).mean()),
            "progress": (most - found) / max(most - least, 1e-9),
            "alike": float(kernel[:, others].mean()) / self.scale,
            "together": float(exponents.exp()[:, others].mean()),
            "sigma": float(self.sigma),
        }

    def _sampled(self, tracker: Tracker, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embeddings (B, D, N) and the logarithm of flow (B, 2, N) at random pixels whose flow is known."""
        xy, flow = draw_pixels(batch, self.pixels)
        view = tracker.bottleneck(batch.clip[:, :1], batch.generator).view[:, 0]
        return tracker.encoder.at(view, xy), flow  # type: ignore[operator]

    def _classes(self, flow: Tensor) -> Tensor:
        """Which of bins x bins squares of [-1, 1]² the flow (B, 2, N) falls into: (B · N,)."""
        dx, dy = ((flow + 1) / 2 * self.bins).long().clamp(0, self.bins - 1).unbind(1)
        return (dy * self.bins + dx).flatten()


def build(
    *,
    trunk: Literal["alexnet", "resnet18", "resnet50"] = "alexnet",
    width: int = 0,
    fc: int = 4096,
    border: Literal["zeros", "replicate", "reflect", "circular"] = "zeros",
    hidden: int = 256,
    dim: int = 16,
    stride: int = 8,
    flow: str = "farneback",
    camera: bool = False,
    motion: float = 1.0,
    keep: bool = False,
    **objective: float,
) -> Tracker:
    """``trunk``: alexnet (paper), resnet18 or resnet50; ``width`` of its first layer (alexnet: 96, resnets: 64), and for
    alexnet ``fc`` channels of the last two, and ``border``, what convolutions see beyond it. ``hidden`` and ``dim`` of the
    embedding (paper: ?, 16); ``stride`` in pixels when tracking. ``flow``, ``camera``, ``motion`` and ``keep`` as `Flows`.
    Other settings go to ``MoveTogether``."""
    Flows(flow=flow, camera=camera, motion=motion, keep=keep)
    if trunk == "alexnet":
        if border not in ("zeros", "replicate", "reflect", "circular"):
            raise InputError(f"cpfs: border is {border!r}; there are zeros, replicate, reflect, circular")
        width = width or 96
        network: nn.Module = AlexNet(
            widths=tuple(round(width * w / 3) for w in (3, 8, 12, 12, 8)), fc=fc, border=border
        )
    elif trunk in ("resnet18", "resnet50"):
        network = ResNetTrunk(depth=int(trunk[6:]), width=width or 64)
    else:
        raise InputError(f"cpfs: trunk is {trunk!r}; there are alexnet, resnet18, resnet50")
    return Tracker(
        encoder=Hypercolumns(network, hidden=hidden, dim=dim, stride=stride),
        bottleneck=Everything(),
        protocol=Protocol(
            affinity=Affinity(radius=12, temperature=0.05, normalize=True, topk=10),
            policy=MemoryPolicy(anchors=(0,), recent=7),
            size=480,
            guided=True,
        ),
        objective=MoveTogether(dim, **objective),  # type: ignore[arg-type]
    )
