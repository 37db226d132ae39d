"""SpyNet (Ranjan and Black, *Optical Flow Estimation using a Spatial Pyramid Network*, CVPR 2017).

The classical pyramid with a small network on each level: warp the second frame by the flow found so far, and let five
convolutions find what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.errors import InputError
from pixeltrail.geometry import warp

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTHS = (8, 32, 64, 32, 16, 2)
SMALLEST = 32
"""The pyramid ends where neither side has more pixels: the first level was trained on frames of 24 x 32."""


class SpyNet(nn.Module):
    """240,050 parameters per level: 1,440,300 for the six that were published, 1,200,250 for the paper's five.

    Args:
        levels: networks, coarse to fine.
        depth: how many of them to use at most, from the first on; None: all. Five suit what six were trained for, too.
        mean, deviation: of red, green and blue, that colours in [0, 1] are freed of.
    """

    def __init__(
        self,
        *,
        levels: int = 6,
        depth: int | None = None,
        mean: Sequence[float] = MEAN,
        deviation: Sequence[float] = DEVIATION,
    ) -> None:
        super().__init__()
        depth = levels if depth is None else depth
        if not 1 <= depth <= levels <= 10:
            raise InputError(f"spynet: expected 1 to 10 levels and a depth up to that, got {levels} and {depth}")
        self.depth, self.stride, self.mean, self.deviation = depth, 2 ** (depth - 1), mean, deviation
        self.levels = nn.ModuleList(_level() for _ in range(levels))

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Flows of all levels, coarse to fine, the last at the full resolution, all in pixels of the full resolution.

        Args:
            first, second: (B, 3, H, W) RGB in [0, 1]; H and W multiples of ``stride``.

        Returns:
            (B, 2, h, w) float32 for every level that is used: small frames take fewer, see `SMALLEST`.
        """
        mean, deviation = (first.new_tensor(x).view(3, 1, 1) for x in (self.mean, self.deviation))
        pyramid = [((first - mean) / deviation, (second - mean) / deviation)]
        while len(pyramid) < self.depth and max(pyramid[-1][0].shape[-2:]) > SMALLEST:
            one, two = pyramid[-1]
            pyramid.append((F.avg_pool2d(one, 2), F.avg_pool2d(two, 2)))
        flows: list[Tensor] = []
        flow = None
        for level, (one, two) in zip(self.levels, reversed(pyramid), strict=False):
            if flow is None:
                up, warped = one.new_zeros(len(one), 2, *one.shape[-2:]), two
            else:  # the authors' own alignment here, though halving took means of squares
                up = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
                warped = warp(two, up, padding="border")
            flow = level(torch.cat((one, warped, up), 1)).float() + up
            flows.append(flow)
        return [flow * (first.shape[-1] / flow.shape[-1]) for flow in flows]


def _level() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Conv2d(inputs, outputs, 7, padding=3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
