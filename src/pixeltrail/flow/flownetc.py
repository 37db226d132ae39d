"""FlowNetC (Dosovitskiy et al., *FlowNet: Learning Optical Flow with Convolutional Networks*, ICCV 2015).

Both frames go through the same three convolutions by themselves; their features at 1/8 of the resolution are compared
(`correlation`: 21 x 21 displacements, two cells apart), and the rest is that of `FlowNetS`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pixeltrail.affinity import correlation
from pixeltrail.flow.flownets import MEAN, Trunk, centred, convolution, initialise

RADIUS, DILATION = 10, 2
"""Of the correlation: 20 cells of 1/8, 160 pixels, to each side."""


class FlowNetC(nn.Module):
    """39,174,320 parameters; 39,175,298 with the biases of NVIDIA's. The settings are those of `FlowNetS`."""

    stride = 64

    def __init__(
        self,
        *,
        norm: bool = False,
        deconv_bias: bool = False,
        flow_bias: bool = False,
        up_bias: bool = False,
        mean: Sequence[float] | None = MEAN,
        bgr: bool = False,
    ) -> None:
        super().__init__()
        self.mean, self.bgr = mean, bgr
        self.conv1 = convolution(3, 64, 7, 2, norm=norm)
        self.conv2 = convolution(64, 128, 5, 2, norm=norm)
        self.conv3 = convolution(128, 256, 5, 2, norm=norm)
        self.redirect = convolution(256, 32, 1, norm=norm)
        volume = (2 * RADIUS + 1) ** 2
        self.trunk = Trunk(32 + volume, norm=norm, deconv_bias=deconv_bias, flow_bias=flow_bias, up_bias=up_bias)
        initialise(self)

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Flows at 1/64, 1/32, 1/16, 1/8 and 1/4 of the resolution, as `FlowNetS.forward`."""
        quarter = self.conv2(self.conv1(torch.cat(centred(first, second, self.mean, bgr=self.bgr))))
        one, two = self.conv3(quarter).chunk(2)
        volume = nn.functional.leaky_relu(correlation(one, two, radius=RADIUS, dilation=DILATION), 0.1)
        flows: list[Tensor] = self.trunk(torch.cat((self.redirect(one), volume), 1), quarter.chunk(2)[0])
        return flows
