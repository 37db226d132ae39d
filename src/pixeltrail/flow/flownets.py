"""FlowNetS (Dosovitskiy et al., *FlowNet: Learning Optical Flow with Convolutional Networks*, ICCV 2015).

Both frames, one behind the other, go through an encoder down to 1/64 of the resolution; a decoder comes back up to 1/4,
and shows a flow at every level. `FlowNetC` differs in its first layers only: `Trunk` is what both share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SCALE = 20.0
"""Pixels of the full resolution in one unit of the flow inside the network."""
MEAN = (0.45, 0.432, 0.411)
"""Of red, green and blue, which FlowNetPytorch subtracts."""


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, norm: bool = False) -> nn.Sequential:
    """Convolution, batch normalisation in place of the bias if ``norm``, leaky ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)
    middle = [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(layer, *middle, nn.LeakyReLU(0.1, inplace=True))


class Trunk(nn.Module):
    """From the features at 1/8 to the flows: the part that FlowNetS and FlowNetC share.

    Args:
        inputs: channels at 1/8.
        norm: batch normalisation in the encoder.
        deconv_bias, flow_bias, up_bias: which layers of the decoder have one. In FlowNetPytorch none; in NVIDIA's
            FlowNetS the first two, in its FlowNetC and in mmflow all.
    """

    def __init__(self, inputs: int, *, norm: bool, deconv_bias: bool, flow_bias: bool, up_bias: bool) -> None:
        super().__init__()
        self.conv3_1 = convolution(inputs, 256, norm=norm)
        self.conv4 = convolution(256, 512, stride=2, norm=norm)
        self.conv4_1 = convolution(512, 512, norm=norm)
        self.conv5 = convolution(512, 512, stride=2, norm=norm)
        self.conv5_1 = convolution(512, 512, norm=norm)
        self.conv6 = convolution(512, 1024, stride=2, norm=norm)
        self.conv6_1 = convolution(1024, 1024, norm=norm)
        self.flows, self.ups, self.deconvs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()  # coarse to fine
        width = 1024
        self.flows.append(nn.Conv2d(width, 2, 3, padding=1, bias=flow_bias))
        for skip, outputs in ((512, 512), (512, 256), (256, 128), (128, 64)):
            deconv = nn.ConvTranspose2d(width, outputs, 4, 2, 1, bias=deconv_bias)
            self.deconvs.append(nn.Sequential(deconv, nn.LeakyReLU(0.1, inplace=True)))
            self.ups.append(nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=up_bias))
            width = skip + outputs + 2
            self.flows.append(nn.Conv2d(width, 2, 3, padding=1, bias=flow_bias))

    def forward(self, x: Tensor, quarter: Tensor) -> list[Tensor]:
        """Features at 1/8 (B, inputs, H/8, W/8) and at 1/4 (B, 128, H/4, W/4) -> flows at 1/64 ... 1/4."""
        third = self.conv3_1(x)
        fourth = self.conv4_1(self.conv4(third))
        fifth = self.conv5_1(self.conv5(fourth))
        x = self.conv6_1(self.conv6(fifth))
        flows = [_exact(self.flows[0], x)]
        steps = zip((fifth, fourth, third, quarter), self.deconvs, self.ups, self.flows[1:], strict=True)
        for skip, deconv, up, flow in steps:
            x = torch.cat((skip, deconv(x), _exact(up, flows[-1])), 1)
            flows.append(_exact(flow, x))
        return [flow * SCALE for flow in flows]


class FlowNetS(nn.Module):
    """38,675,536 parameters; 38,676,506 with the biases of NVIDIA's.

    Args:
        norm, deconv_bias, flow_bias, up_bias: see `Trunk`.
        mean: of red, green and blue, to subtract from colours in [0, 1]; None: the mean of each pair (NVIDIA).
        bgr: the first layer expects the colours in this order, as weights that come from Caffe do.
    """

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
        self.conv1 = convolution(6, 64, 7, 2, norm=norm)
        self.conv2 = convolution(64, 128, 5, 2, norm=norm)
        self.conv3 = convolution(128, 256, 5, 2, norm=norm)
        self.trunk = Trunk(256, norm=norm, deconv_bias=deconv_bias, flow_bias=flow_bias, up_bias=up_bias)
        initialise(self)

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Flows at 1/64, 1/32, 1/16, 1/8 and 1/4 of the resolution, all in pixels of the full resolution.

        Args:
            first, second: (B, 3, H, W) RGB in [0, 1]; H and W multiples of 64.

        Returns:
            (B, 2, h, w) float32 for every level; a cell's flow is the mean over its square of pixels.
        """
        quarter = self.conv2(self.conv1(torch.cat(centred(first, second, self.mean, bgr=self.bgr), 1)))
        flows: list[Tensor] = self.trunk(self.conv3(quarter), quarter)
        return flows


def centred(first: Tensor, second: Tensor, mean: Sequence[float] | None, *, bgr: bool) -> tuple[Tensor, Tensor]:
    """Both frames without their mean, see `FlowNetS`."""
    both = torch.stack((first, second))
    if mean is None:
        both = both - both.mean((0, 3, 4), keepdim=True)
    else:
        both = both - both.new_tensor(mean).view(3, 1, 1)
    both = both.flip(2) if bgr else both
    return both[0], both[1]


def initialise(network: nn.Module) -> None:
    """Kaiming's weights for a slope of 0.1, no bias: FlowNetPytorch's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _exact(layer: nn.Module, x: Tensor) -> Tensor:
    """In float32 whatever surrounds it: bfloat16 knows a flow of 30 pixels to a quarter of a pixel."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = layer(x.float())
    return out
