"""What flow networks learn by: from exact flow, or from the pictures alone.

Conventions of `geometry.py`; flows (B, 2, H, W) in pixels of the full resolution at every level. Sources: FlowNet
(Dosovitskiy et al. 2015) and PWC-Net (Sun et al. 2018) for the supervised losses; UnFlow (Meister et al. 2018), UFlow
(Jonschkowski et al. 2020) and ARFlow (Liu et al. 2020) for those without labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pixeltrail.geometry import warp

LEVELS: Mapping[int, float] = {2: 0.005, 3: 0.01, 4: 0.02, 5: 0.08, 6: 0.32}
"""Weights of the levels at 1/4, 1/8, ... 1/64 of the resolution, as in the authors' solvers."""
DIV_FLOW = 20.0
"""The supervised losses are in units of so many pixels, as the networks are inside."""


def downsampled(target: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Flow (B, 2, H, W), NaN where unknown -> its mean over the known pixels of each cell, (B, 2, h, w), still in pixels of
    the full resolution (0 where nothing is known), and (B, 1, h, w) bool, where something is."""
    known = target.isfinite().all(1, keepdim=True)
    total = F.adaptive_avg_pool2d(torch.where(known, target, 0.0), size)
    share = F.adaptive_avg_pool2d(known.to(target.dtype), size)
    return total / share.clamp_min(1e-6), share > 0


def epe(flow: Tensor, target: Tensor) -> Tensor:
    """Mean distance in pixels of the full resolution from ``target`` (NaN where unknown), over the cells of ``flow``."""
    wanted, known = downsampled(target, (flow.shape[-2], flow.shape[-1]))
    distance = (flow.float() - wanted).square().sum(1).add(1e-12).sqrt()
    return (distance * known[:, 0]).sum() / known.sum().clamp_min(1)


def multiscale_epe(flows: Sequence[Tensor], target: Tensor, levels: Mapping[int, float] = LEVELS) -> Tensor:
    """Sum over levels of weight · sum over cells of the distance from ``target`` (NaN where unknown), mean over the batch.

    A level is known by its resolution: (B, 2, H / 2^l, W / 2^l) has ``levels[l]``, the next one's weight beyond them.
    """
    return _over_levels(flows, target, levels, lambda d: d.square().sum(1).add(1e-12).sqrt())


def multiscale_robust(
    flows: Sequence[Tensor], target: Tensor, levels: Mapping[int, float] = LEVELS, *, q: float = 0.4, eps: float = 0.01
) -> Tensor:
    """The loss of fine-tuning, (|d|₁ + eps)^q in place of the distance: outliers weigh less."""
    return _over_levels(flows, target, levels, lambda d: (d.abs().sum(1) + eps).pow(q))


def _over_levels(
    flows: Sequence[Tensor], target: Tensor, levels: Mapping[int, float], distance: Callable[[Tensor], Tensor]
) -> Tensor:
    total = target.new_zeros(())
    for flow in flows:
        height, width = flow.shape[-2:]
        level = round(math.log2(target.shape[-1] / width))
        weight = levels[min(max(level, min(levels)), max(levels))]
        wanted, known = downsampled(target, (height, width))
        cells = distance((flow.float() - wanted) / DIV_FLOW)
        total = total + weight * torch.where(known[:, 0], cells, 0.0).sum() / len(flow)
    return total


def census(first: Tensor, second: Tensor, *, radius: int = 3) -> Tensor:
    """Soft distance of ternary census transforms: (B, 3, H, W) RGB in [0, 1] twice -> (B, 1, H, W) in [0, 1).

    The grey value (0–255) of each neighbour within ``radius`` is compared with the pixel's own, d / sqrt(0.81 + d²), and
    the comparisons of both images with each other, e² / (0.1 + e²); the mean over the window (UnFlow's constants). A
    change of brightness or contrast leaves it nearly as it was.
    """
    side, (height, width) = 2 * radius + 1, first.shape[-2:]
    grey = [
        255 * (x * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True) for x in (first, second)
    ]
    padded = [F.pad(x, (radius,) * 4, mode="replicate") for x in grey]
    total = torch.zeros_like(grey[0])
    for i in range(side):  # one neighbour after the other: that stays in the processor's cache
        for j in range(side):
            a, b = (p[..., i : i + height, j : j + width] - g for p, g in zip(padded, grey, strict=True))
            squared = (a * (0.81 + a * a).rsqrt() - b * (0.81 + b * b).rsqrt()).square()
            total = total + squared / (0.1 + squared)
    return total / side**2


def charbonnier(difference: Tensor, *, power: float = 0.45, eps: float = 1e-3) -> Tensor:
    """(d² + eps²)^power of each value."""
    return (difference.square() + eps * eps) ** power


def photometric(first: Tensor, second: Tensor, flow: Tensor, hidden: Tensor, *, kind: str = "census") -> Tensor:
    """Mean difference between ``first`` and ``second`` brought onto it, over what is not ``hidden`` (B, 1, H, W bool, such as
    `algebra.occlusion`).

    ``kind``: "census" (`census`, then (d + 0.01)^0.4 as UFlow) or "charbonnier" of the colours.
    """
    brought = warp(second, flow, padding="border")
    if kind == "census":
        difference = (census(first, brought) + 0.01) ** 0.4
    else:
        difference = charbonnier(first - brought).mean(1, keepdim=True)
    seen = (~hidden).to(difference.dtype)
    return (difference * seen).sum() / seen.sum().clamp_min(1)


def smoothness(flow: Tensor, image: Tensor, *, order: int = 1, edge: float = 10.0) -> Tensor:
    """Mean Charbonnier of the flow's differences of first or second ``order``, each weighed by exp(-edge · |∇ image|).

    ``image`` (B, 3, H, W) in [0, 1], of the flow's size; |∇ image| is the mean over the colours.
    """
    total = flow.new_zeros(())
    for axis in (-1, -2):
        change = flow.diff(n=order, dim=axis)
        slope = _slope(image, axis, order)
        total = total + (charbonnier(change, power=0.5) * torch.exp(-edge * slope)).mean()
    return total / 2


def _slope(image: Tensor, axis: int, order: int) -> Tensor:
    """Of second order: over the two steps that a second difference spans."""
    if order == 1:
        return image.diff(dim=axis).abs().mean(1, keepdim=True)
    n = image.shape[axis]
    return (image.narrow(axis, 2, n - 2) - image.narrow(axis, 0, n - 2)).abs().mean(1, keepdim=True) / 2
