"""AlexNet (Krizhevsky et al., NIPS 2012) with batch normalisation, fully convolutional, every layer's map by name.

Convolutions have torchvision's names (``features.0.weight``, ``features.3.weight``, ..., ``classifier.4.weight``); the
normalisation that CPFS adds stands beside them (``norms.conv1.weight``, ...).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.errors import InputError

LAYERS = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7")
_FEATURES = {"conv1": "0", "conv2": "3", "conv3": "6", "conv4": "8", "conv5": "10"}
_CLASSIFIER = {"fc6": "1", "fc7": "4"}


class AlexNet(nn.Module):
    """``maps(x, layers)``: the outputs of named layers, after normalisation and ReLU.

    ``widths``: channels of the five convolutions (96, 256, 384, 384, 256, ungrouped), ``fc`` those of the two last layers.
    ``border``: zeros tell the network where the border is, and "replicate" too, as stripes; "reflect" and "circular" show it
    more of the picture. Cell i of a map lies on pixel i · ``strides[layer]``.
    """

    # Departures: convolutions and pools pad by half their kernel, so that no map is shifted against the picture; fc6 is
    # 3 x 3 cells wide, not 6 x 6 (a quarter of the weights, and it works on small crops); no dropout beside the norms.

    columns = ("conv1", "pool1", "conv3", "pool5", "fc7")
    probed = ("conv1", "conv2", "conv3", "conv4", "conv5")

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (96, 256, 384, 384, 256),
        fc: int = 4096,
        border: Literal["zeros", "replicate", "reflect", "circular"] = "zeros",
    ) -> None:
        super().__init__()
        one, two, three, four, five = widths
        self.least = 33 if border in ("reflect", "circular") else 1
        self.features = nn.ModuleDict({
            "0": nn.Conv2d(3, one, 11, 4, 5, bias=False, padding_mode=border),
            "3": nn.Conv2d(one, two, 5, 1, 2, bias=False, padding_mode=border),
            "6": nn.Conv2d(two, three, 3, 1, 1, bias=False, padding_mode=border),
            "8": nn.Conv2d(three, four, 3, 1, 1, bias=False, padding_mode=border),
            "10": nn.Conv2d(four, five, 3, 1, 1, bias=False, padding_mode=border),
        })  # fmt: skip
        self.classifier = nn.ModuleDict({
            "1": nn.Conv2d(five, fc, 3, 1, 1, bias=False, padding_mode=border),
            "4": nn.Conv2d(fc, fc, 1, bias=False),
        })  # fmt: skip
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.widths: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        norms, width, stride = {}, 0, 4
        for name in LAYERS:
            if name.startswith("pool"):
                stride *= 2
            else:
                width = self._convolution(name).out_channels
                norms[name] = nn.BatchNorm2d(width)
            self.widths[name], self.strides[name] = width, stride
        self.norms = nn.ModuleDict(norms)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {layer: (B, widths[layer], ceil(H / stride), ceil(W / stride))}; no layer is computed beyond
        the last one of ``layers``. Raises InputError for pictures that a border cannot be made of."""
        if min(x.shape[-2:]) < self.least:
            height, width = x.shape[-2:]
            raise InputError(
                f"alexnet: {width} x {height} pixels are too few for this border; sides of {self.least} or more work"
            )
        found = {}
        for name in LAYERS[: 1 + max(map(LAYERS.index, layers))]:
            pooled = name.startswith("pool")
            x = self.pool(x) if pooled else F.relu(self.norms[name](self._convolution(name)(x)))
            if name in layers:
                found[name] = x
        return found

    def _convolution(self, name: str) -> nn.Conv2d:
        found = self.features[_FEATURES[name]] if name in _FEATURES else self.classifier[_CLASSIFIER[name]]
        assert isinstance(found, nn.Conv2d)
        return found
