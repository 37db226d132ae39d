"""Residual networks (He et al., CVPR 2016) as the trackers use them: cut early, strides chosen, no classifier.

State-dict keys are torchvision's (``conv1.weight``, ``layer2.0.downsample.1.running_mean``, ...), so public weights
load; the trackers' own last convolution is ``head``. Feature cell i sits on pixel i · stride: every convolution and
the pool pad by half their kernel, so nothing shifts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pixeltrail.errors import InputError

Padding = Literal["zeros", "reflect"]
"""Zeros at the border tell the network where it is; reflection does not."""


def _conv(inputs: int, outputs: int, kernel: int, stride: int, dilation: int, padding_mode: Padding) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(
        inputs, outputs, kernel, stride, padding, dilation, bias=False,
        padding_mode=padding_mode if padding else "zeros",
    )  # fmt: skip


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: ResNet-18 and -34."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, padding_mode: Padding) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, width, 3, stride, dilation, padding_mode)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, 1, dilation, padding_mode)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, width, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1×1, 3×3 (carries the stride, as torchvision's), 1×1 convolutions beside a shortcut: ResNet-50."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, padding_mode: Padding) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _conv(inputs, width, 1, 1, 1, padding_mode)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride, dilation, padding_mode)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outputs, 1, 1, 1, padding_mode)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 · width, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """(B, 3, H, W) -> (B, channels, ceil(H/stride), ceil(W/stride)).

    ``widths`` and ``strides`` have one entry per stage ``layer1``, ``layer2``, ...; leaving stages out cuts the network
    short. ``pool`` keeps the max-pool behind the first convolution. ``head`` > 0 adds a 3×3 convolution with bias to so
    many channels (CorrFlow, MAST). ``fused`` > 0 appends the output of the stage before the last, times ``fused``: finer,
    less invariant channels beside the others (hypercolumns, Hariharan et al., CVPR 2015).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        *,
        widths: tuple[int, ...],
        strides: tuple[int, ...],
        pool: bool = True,
        head: int = 0,
        fused: float = 0.0,
        padding_mode: Padding = "zeros",
    ) -> None:
        super().__init__()
        if not len(depths) >= len(widths) == len(strides):
            raise ValueError(f"expected one width and one stride a stage, got {widths} and {strides}")
        if fused and (len(widths) < 2 or strides[-1] != 1):
            raise InputError(f"encoder: stages of one size can be fused, but the last one's stride is {strides[-1]}")
        self.conv1 = _conv(3, widths[0], 7, 2, 1, padding_mode)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
        self.stride = 4 if pool else 2
        inputs, stages = widths[0], []
        for i, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=False)):
            blocks = []
            for j in range(depth):
                blocks.append(block(inputs, width, stride if j == 0 else 1, 1, padding_mode))
                inputs = width * block.expansion
            stages.append(f"layer{i + 1}")
            setattr(self, stages[-1], nn.Sequential(*blocks))
            self.stride *= stride
        self.stages = tuple(stages)
        self.head: nn.Module = nn.Conv2d(inputs, head, 3, 1, 1) if head else nn.Identity()
        self.fused = fused
        self.channels = (head or inputs) + (widths[-2] * block.expansion if fused else 0)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and name != "head":  # He would saturate the softmax over its dot products
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        before = x
        for stage in self.stages:
            before, x = x, getattr(self, stage)(x)
        x = self.head(x)
        return torch.cat((x, self.fused * before), 1) if self.fused else x


def resnet18(*, stride: int = 8, width: int = 64, head: int = 0, padding_mode: Padding = "zeros") -> ResNet:
    """The two ResNet-18 of the trackers.

    ``stride=8``: max-pool kept, stages 1–3 with stage 3 at stride 1, no stage 4 (CRW); 4 · ``width`` channels.
    ``stride=4``: no max-pool, all four stages, stage 4 as wide as stage 3 (CorrFlow, MAST); give ``head=64``.
    """
    if stride == 8:
        return ResNet(
            BasicBlock, (2, 2, 2), widths=(width, 2 * width, 4 * width), strides=(1, 2, 1),
            head=head, padding_mode=padding_mode,
        )  # fmt: skip
    if stride == 4:
        return ResNet(
            BasicBlock, (2, 2, 2, 2), widths=(width, 2 * width, 4 * width, 4 * width), strides=(1, 2, 1, 1),
            pool=False, head=head, padding_mode=padding_mode,
        )  # fmt: skip
    raise ValueError(f"ResNet-18 trackers have stride 4 or 8, got {stride}")


def trunk(
    *, depth: int = 18, stride: int = 8, width: int = 64, fused: float = 0.0, padding_mode: Padding = "zeros"
) -> ResNet:
    """The first three stages of a ResNet of ``depth`` 10, 18 or 34, max-pool kept: 4 · ``width`` channels at ``stride`` 4,
    8 or 16, and 2 · ``width`` more if ``fused``. InputError for others. The default is that of ``resnet18``."""
    blocks = {10: (1, 1, 1), 18: (2, 2, 2), 34: (3, 4, 6)}
    strides = {4: (1, 1, 1), 8: (1, 2, 1), 16: (1, 2, 2)}
    if depth not in blocks or stride not in strides:
        raise InputError(f"encoder: depth {depth}, stride {stride}; there are depths 10, 18, 34 and strides 4, 8, 16")
    return ResNet(
        BasicBlock, blocks[depth], widths=(width, 2 * width, 4 * width), strides=strides[stride],
        fused=fused, padding_mode=padding_mode,
    )  # fmt: skip


def resnet50(*, width: int = 64, head: int = 0, padding_mode: Padding = "zeros") -> ResNet:
    """ResNet-50 to stage 3 at stride 1: output stride 8, 16 · ``width`` channels (CycleTime)."""
    return ResNet(
        Bottleneck, (3, 4, 6), widths=(width, 2 * width, 4 * width), strides=(1, 2, 1),
        head=head, padding_mode=padding_mode,
    )  # fmt: skip
