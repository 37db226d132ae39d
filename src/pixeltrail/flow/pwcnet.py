"""PWC-Net (Sun et al., *PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume*, CVPR 2018).

Both frames become a pyramid of features. From the coarsest level to 1/4 of the resolution, the second frame's features
are warped by the flow found so far, compared with the first's in a small window (`correlation`), and a stack of
convolutions reads the flow of the level from that. A context network of dilated convolutions refines the last flow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.affinity import correlation
from pixeltrail.errors import InputError
from pixeltrail.geometry import pixel_grid, sample

SCALE = 20.0
"""Pixels of the full resolution in one unit of the flow inside the network."""
FINEST = 2
"""The last level, 1/4 of the resolution: finer ones cost much and gained the authors nothing."""
DILATIONS = (1, 2, 4, 8, 16, 1)
"""Of the context network."""


def _convolution(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation), nn.LeakyReLU(0.1, inplace=True)
    )  # fmt: skip


class Decoder(nn.Module):
    """Convolutions over what a level knows, the flow they show, and both enlarged for the next level."""

    def __init__(self, inputs: int, widths: Sequence[int], *, dense: bool, last: bool) -> None:
        super().__init__()
        self.dense = dense
        self.convolutions = nn.ModuleList()
        for width in widths:
            self.convolutions.append(_convolution(inputs, width))
            inputs = inputs + width if dense else width
        self.flow = nn.Conv2d(inputs, 2, 3, padding=1)
        self.up_flow = None if last else nn.ConvTranspose2d(2, 2, 4, 2, 1)
        self.up_features = None if last else nn.ConvTranspose2d(inputs, 2, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, n, h, w): all of it if dense, else what the last convolution gave."""
        for convolution in self.convolutions:
            y = convolution(x)
            x = torch.cat((y, x), 1) if self.dense else y
        return x

    def read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The flow (B, 2, h, w) that such features show, and flow and features (B, 2, 2h, 2w) for the next level.

        In float32 whatever surrounds it: bfloat16 knows a flow of 30 pixels to a quarter of a pixel.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            flow: Tensor = self.flow(x)
            if self.up_flow is None or self.up_features is None:
                return flow, flow, x
            return flow, self.up_flow(flow), self.up_features(x)


class PWCNet(nn.Module):
    """The published network by default: 9,374,274 parameters; every size can be set smaller.

    Args:
        channels: of the pyramid's levels, 1/2, 1/4, 1/8, ... of the resolution; at least three.
        decoder: of the convolutions that read a level's flow.
        context: of the six convolutions of the context network; () leaves it out.
        radius: of the cost volume, in cells of its level.
        dense: each convolution of a decoder sees the outputs of all before it; False: of the last one (much smaller).
        convolutions: in one level of the pyramid; 3, and 2 in the network of the paper.
        bgr: the first layer expects the colours in this order, as the published weights do.
        normalise: features are compared freed of their mean and deviation, of each channel over both frames (after
            UFlow, Jonschkowski et al. 2020): without it a small network may never begin to learn.
        inside: warped features count where this share of their four pixels lies in the frame (NVlabs 0.9999,
            sniklaus 0.999); elsewhere they are 0.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 32, 64, 96, 128, 196),
        decoder: Sequence[int] = (128, 128, 96, 64, 32),
        context: Sequence[int] = (128, 128, 128, 96, 64, 32),
        radius: int = 4,
        dense: bool = True,
        convolutions: int = 3,
        bgr: bool = True,
        normalise: bool = False,
        inside: float = 0.9999,
    ) -> None:
        super().__init__()
        if len(channels) <= FINEST or len(context) not in (0, len(DILATIONS)) or min(radius, convolutions) < 1:
            raise InputError(
                f"pwcnet: expected at least 3 channels, 0 or 6 context, radius and convolutions >= 1, "
                f"got {len(channels)}, {len(context)}, {radius} and {convolutions}"
            )
        self.stride, self.radius, self.bgr, self.inside = 2 ** len(channels), radius, bgr, inside
        self.normalise = normalise
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                _convolution(before, width, stride=2), *(_convolution(width, width) for _ in range(convolutions - 1))
            )
            for before, width in zip((3, *channels), channels, strict=False)
        )
        volume, seen = (2 * radius + 1) ** 2, 0
        self.decoders = nn.ModuleList()  # coarse to fine
        for level in range(len(channels), FINEST - 1, -1):
            known = volume if level == len(channels) else volume + channels[level - 1] + 4
            self.decoders.append(Decoder(known, decoder, dense=dense, last=level == FINEST))
            seen = known + sum(decoder) if dense else decoder[-1]
        self.context = nn.Sequential()
        if context:
            for before, width, dilation in zip((seen, *context), context, DILATIONS, strict=False):
                self.context.append(_convolution(before, width, dilation=dilation))
            self.context.append(nn.Conv2d(context[-1], 2, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Flows from coarse to fine, the last at 1/4 of the resolution, all in pixels of the full resolution.

        Args:
            first, second: (B, 3, H, W) RGB in [0, 1]; H and W multiples of ``stride``.

        Returns:
            (B, 2, h, w) float32 for every level; a cell's flow is the mean over its square of pixels.
        """
        x = torch.cat((first, second))
        x = x.flip(1) if self.bgr else x
        levels = []
        for stage in self.pyramid:
            x = stage(x)
            levels.append(x)
        flows: list[Tensor] = []
        up_flow = up_features = x
        for level, decoder in zip(range(len(levels), FINEST - 1, -1), self.decoders, strict=True):
            one, two = levels[level - 1].chunk(2)
            compared, two = _normalised(one, two) if self.normalise else (one, two)
            if level < len(levels):
                two = _warp(two, up_flow * (SCALE / 2**level), self.inside)
            volume = F.leaky_relu(correlation(compared, two, radius=self.radius), 0.1)
            x = decoder(volume if level == len(levels) else torch.cat((volume, one, up_flow, up_features), 1))
            flow, up_flow, up_features = decoder.read(x)  # type: ignore[operator]
            flows.append(flow)
        if self.context:
            y = self.context[:-1](x)
            with torch.autocast(x.device.type, enabled=False):
                flows[-1] = flows[-1] + self.context[-1](y.float())
        return [flow * SCALE for flow in flows]


def _normalised(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    both = torch.stack((one, two), 2).float()
    both = both - both.mean((2, 3, 4), keepdim=True)
    both = both / (both.square().mean((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    return both[:, :, 0], both[:, :, 1]


def _warp(second: Tensor, flow: Tensor, inside: float) -> Tensor:
    """second(x + flow(x)), 0 where less than the share ``inside`` of what is read lies in the frame."""
    height, width = flow.shape[-2:]
    xy = pixel_grid(height, width, device=flow.device) + flow
    last = xy.new_tensor([width - 1, height - 1]).view(2, 1, 1)
    share = (1 - (xy - xy.clamp(torch.zeros_like(last), last)).abs()).clamp_min(0).prod(1, keepdim=True)
    # Positions need float32 also where the features are bfloat16.
    return sample(second.float(), xy) * (share > inside)
