"""The published flow networks once more: their names, and plain functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
WORDS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")
FIRST, SECOND = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Weights:
    """Random weights in the published shapes; asking for a layer makes it, so a forward writes the file it reads."""

    def __init__(self, state: State | None = None) -> None:
        self.random = torch.Generator().manual_seed(1)
        self.state: State = {} if state is None else state

    def conv(self, name: str, x: Tensor, outputs: int, kernel: int = 3, stride: int = 1, *, bias: bool = True,
             dilation: int = 1) -> Tensor:  # fmt: skip
        b = self._pair(name, (outputs, x.shape[1], kernel, kernel), outputs, bias)
        return F.conv2d(x, self.state[f"{name}.weight"], b, stride, dilation * (kernel // 2), dilation)

    def up(self, name: str, x: Tensor, outputs: int, *, bias: bool = True) -> Tensor:
        b = self._pair(name, (x.shape[1], outputs, 4, 4), outputs, bias)
        return F.conv_transpose2d(x, self.state[f"{name}.weight"], b, 2, 1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        parts = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        for part in parts:
            self.state.setdefault(part, 0.5 + torch.rand(x.shape[1], generator=self.random))
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(3))
        return F.batch_norm(x, *(self.state[part] for part in parts))

    def _pair(self, name: str, shape: tuple[int, ...], outputs: int, bias: bool) -> Tensor | None:
        if f"{name}.weight" not in self.state:
            scale = (6 / (shape[1] * shape[2] * shape[3])) ** 0.5
            self.state[f"{name}.weight"] = (
                (torch.rand(shape, generator=self.random) - 0.5).mul_(2 * scale).half().float()
            )
            if bias:
                self.state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=self.random).half().float()
        return self.state[f"{name}.bias"] if bias else None


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def volume(first: Tensor, second: Tensor, radius: int, step: int = 1) -> Tensor:
    (h, w), padded = first.shape[-2:], F.pad(second, [radius * step] * 4)
    places = [range(0, 2 * radius * step + 1, step)] * 2
    return leaky(
        torch.cat([(first * padded[..., i : i + h, j : j + w]).mean(1, keepdim=True) for i in places[0] for j in places[1]], 1)
    )  # fmt: skip


def read_warp(second: Tensor, shift: Tensor, threshold: float) -> Tensor:
    h, w = shift.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    where = torch.stack((x + shift[:, 0] * 2 / max(w - 1, 1), y + shift[:, 1] * 2 / max(h - 1, 1)), -1)
    both = F.grid_sample(torch.cat((second, torch.ones_like(second[:, :1])), 1), where, align_corners=True)
    return both[:, :-1] * (both[:, -1:] > threshold)


def flownet(net: Weights, *, compare: bool, norm: bool, biases: tuple[bool, bool, bool], mean: Tensor | None) -> Tensor:
    both = torch.stack((FIRST, SECOND))
    both = both - (both.mean((0, 3, 4), keepdim=True) if mean is None else mean.view(3, 1, 1))

    def conv(name: str, x: Tensor, outputs: int, kernel: int = 3, stride: int = 1) -> Tensor:
        x = net.conv(f"{name}.0", x, outputs, kernel, stride, bias=not norm)
        return leaky(net.norm(f"{name}.1", x) if norm else x)

    def start(x: Tensor) -> tuple[Tensor, Tensor]:
        quarter = conv("conv2", conv("conv1", x, 64, 7, 2), 128, 5, 2)
        return quarter, conv("conv3", quarter, 256, 5, 2)

    if compare:
        (quarter, one), (_, two) = start(both[0]), start(both[1])
        x = torch.cat((conv("conv_redir", one, 32, 1), volume(one, two, 10, 2)), 1)
    else:
        quarter, x = start(torch.cat((both[0], both[1]), 1))
    skips = [quarter, conv("conv3_1", x, 256)]
    for level in (4, 5, 6):
        x = conv(f"conv{level}", skips[-1], 1024 if level == 6 else 512, stride=2)
        skips.append(conv(f"conv{level}_1", x, x.shape[1]))
    x = skips.pop()
    found = net.conv("predict_flow6", x, 2, bias=biases[1])
    for level in (5, 4, 3, 2):
        deep = leaky(net.up(f"deconv{level}.0", x, 2 ** (level + 4), bias=biases[0]))
        wider = net.up(f"upsampled_flow{level + 1}_to_{level}", found, 2, bias=biases[2])
        x = torch.cat((skips.pop(), deep, wider), 1)
        found = net.conv(f"predict_flow{level}", x, 2, bias=biases[1])
    return 20 * found


def pwcnet(net: Weights, name: Callable[..., str], threshold: float, letters: int = 3) -> Tensor:
    """``name(kind, level, i)`` is a layer's published name."""
    pyramids = []
    for x in (FIRST.flip(1), SECOND.flip(1)):
        levels = []
        for level, width in enumerate((16, 32, 64, 96, 128, 196), 1):
            for i in range(letters):
                x = leaky(net.conv(name("pyramid", level, i), x, width, stride=2 if i == 0 else 1))
            levels.append(x)
        pyramids.append(levels)
    known: list[Tensor] = []
    found = torch.zeros(0)
    for level in range(6, 1, -1):
        one, two = (levels[level - 1] for levels in pyramids)
        if known:
            up = net.up(name("up_flow", level + 1, 0), found, 2)
            known = [one, up, net.up(name("up_features", level + 1, 0), x, 2)]
            two = read_warp(two, up * 20 / 2**level, threshold)
        x = torch.cat((volume(one, two, 4), *known), 1)
        for i, width in enumerate((128, 128, 96, 64, 32)):
            x = torch.cat((leaky(net.conv(name("decoder", level, i), x, width)), x), 1)
        found = net.conv(name("flow", level, 0), x, 2)
        known = [one]
    for i, (width, dilation) in enumerate(((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))):
        x = leaky(net.conv(name("context", 0, i), x, width, dilation=dilation))
    return 20 * (found + net.conv(name("context", 0, 6), x, 2))


def nvlabs(kind: str, level: int, i: int) -> str:
    letters = ("aa", "a", "b") if level == 6 else ("a", "aa", "b")
    return {
        "pyramid": f"conv{level}{letters[i % 3]}.0", "decoder": f"conv{level}_{i}.0", "flow": f"predict_flow{level}",
        "up_flow": f"deconv{level}", "up_features": f"upfeat{level}",
        "context": "dc_conv7" if i == 6 else f"dc_conv{i + 1}.0",
    }[kind]  # fmt: skip


def nvlabs_old(kind: str, level: int, i: int) -> str:
    return f"conv{level}{'ab'[i]}.0" if kind == "pyramid" else nvlabs(kind, level, i)


def niklaus(kind: str, level: int, i: int) -> str:
    return {
        "pyramid": f"moduleExtractor.module{WORDS[level - 1]}.{2 * i}",
        "decoder": f"module{WORDS[level - 1]}.module{WORDS[i % 6]}.0", "flow": f"module{WORDS[level - 1]}.moduleSix.0",
        "up_flow": f"module{WORDS[level - 2]}.moduleUpflow", "up_features": f"module{WORDS[level - 2]}.moduleUpfeat",
        "context": f"moduleRefiner.moduleMain.{2 * i}",
    }[kind]  # fmt: skip


def spynet(net: Weights, levels: int, name: str = "moduleBasic.{}.moduleBasic.{}") -> Tensor:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pyramid = [[(x - mean.view(3, 1, 1)) / deviation.view(3, 1, 1) for x in (FIRST, SECOND)]]
    for _ in range(levels - 1):
        pyramid.insert(0, [F.avg_pool2d(x, 2) for x in pyramid[0]])
    found = torch.zeros(1, 2, *(side // 2 for side in pyramid[0][0].shape[-2:]))
    for level, (one, two) in enumerate(pyramid):
        up = 2 * F.interpolate(found, scale_factor=2, mode="bilinear", align_corners=True)
        h, w = up.shape[-2:]
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        where = torch.stack((x + up[:, 0] * 2 / (w - 1), y + up[:, 1] * 2 / (h - 1)), -1)
        z = torch.cat((one, F.grid_sample(two, where, padding_mode="border", align_corners=True), up), 1)
        for i, width in enumerate((32, 64, 32, 16, 2)):
            z = net.conv(name.format(level, 2 * i), F.relu(z) if i else z, width, 7)
        found = z + up
    return found
