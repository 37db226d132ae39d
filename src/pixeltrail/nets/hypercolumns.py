"""Embeddings of single pixels from all depths of a network: hypercolumns (Hariharan et al., CVPR 2015), sampled sparsely
(PixelNet, Bansal et al., 2017)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.errors import InputError
from pixeltrail.geometry import cells, pixel_grid, sample
from pixeltrail.nets.resnet import BasicBlock, Bottleneck, ResNet

CHUNK = 1 << 13
"""Pixels of a dense embedding that are computed at once."""


class Trunk(Protocol):
    """A network whose layers have names: cell i of a layer's map lies on pixel i · ``strides[layer]``.

    ``columns``: the layers of its hypercolumn. ``probed``: those that linear probes look at."""

    columns: tuple[str, ...]
    probed: tuple[str, ...]
    widths: dict[str, int]
    strides: dict[str, int]

    def maps(self, x: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {layer: (B, widths[layer], h, w)}."""


class ResNetTrunk(ResNet):
    """ResNet-18 or -50 with all four stages, every stage's map by name; torchvision's keys."""

    columns = ("conv1", "layer1", "layer2", "layer3", "layer4")
    probed = columns

    def __init__(self, *, depth: int = 18, width: int = 64) -> None:
        if depth not in (18, 50):
            raise InputError(f"encoder: depth {depth}; there are 18, 50")
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth == 18 else Bottleneck
        widths = (width, 2 * width, 4 * width, 8 * width)
        super().__init__(block, (2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3), widths=widths, strides=(1, 2, 2, 2))
        outputs = (width, *(block.expansion * w for w in widths))
        self.widths = dict(zip(self.columns, outputs, strict=True))
        self.strides = dict(zip(self.columns, (2, 4, 8, 16, 32), strict=True))

    def maps(self, x: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """As `Trunk`; the stages after the last one of ``layers`` are not computed."""
        found = {}
        for name in self.columns[: 1 + max(map(self.columns.index, layers))]:
            if name == "conv1":
                x = self.relu(self.bn1(self.conv1(x)))
            else:
                x = getattr(self, name)(self.maxpool(x) if name == "layer1" else x)
            if name in layers:
                found[name] = x
        return found


class Hypercolumns(nn.Module):
    """(B, 3, H, W) -> unit vectors (B, ``channels``, ceil(H / stride), ceil(W / stride)); ``at``: at any pixels.

    A pixel's hypercolumn is what bilinear interpolation finds at its place in each of the trunk's ``columns`` maps; a
    perceptron of one ``hidden`` layer makes ``dim`` numbers of it, brought to length 1. Cell i lies on pixel i · stride.
    """

    # The perceptron's first layer is linear and so is interpolation, so either may come first, and the sum over all maps is
    # the same number as that of the whole column, whose 4,928 channels are never put together. First comes what leaves
    # less to interpolate: maps of more than ``hidden`` channels are projected, narrow ones are read as they are.

    trunk: Any  # a module that is a `Trunk`
    mlp: Any

    def __init__(self, trunk: nn.Module, *, hidden: int = 256, dim: int = 16, stride: int = 8) -> None:
        super().__init__()
        if stride < 1:
            raise InputError(f"encoder: stride {stride}; expected 1 or more")
        self.trunk, self.stride, self.channels = trunk, stride, dim
        self.layers: tuple[str, ...] = self.trunk.columns
        self.widths: list[int] = [self.trunk.widths[name] for name in self.layers]
        self.mlp = nn.Sequential(nn.Linear(sum(self.widths), hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))

    def at(self, x: Tensor, xy: Tensor) -> Tensor:
        """Embeddings (B, D, N), float32, at the pixels ``xy`` (B, 2, N) of pictures (B, 3, H, W); (x, y) may be fractions."""
        return self._read(self._projected(x), xy)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x, self.stride)

    def dense(self, x: Tensor, stride: int) -> Tensor:
        """Embeddings (B, D, h, w), float32, at every ``stride``-th pixel; ``CHUNK`` pixels at a time."""
        h, w = cells((x.shape[-2], x.shape[-1]), stride)
        places = (pixel_grid(h, w, device=x.device) * stride).flatten(1).expand(len(x), -1, -1)
        maps = self._projected(x)
        found = torch.cat([self._read(maps, part) for part in places.split(CHUNK, -1)], -1)
        return found.unflatten(-1, (h, w))  # type: ignore[no-any-return]

    def _projected(self, x: Tensor) -> dict[str, Tensor]:
        """The maps, those that are wide as their share of the perceptron's hidden values, (B, hidden, h, w)."""
        maps = self.trunk.maps(x, self.layers)
        return {
            name: F.conv2d(maps[name], share[..., None, None]) if self._wide(share) else maps[name]
            for name, share in self._shares().items()
        }

    def _read(self, maps: dict[str, Tensor], xy: Tensor) -> Tensor:
        strides = self.trunk.strides
        with torch.autocast(xy.device.type, enabled=False):  # places in bfloat16 would be off by pixels
            hidden = self.mlp[0].bias
            for name, share in self._shares().items():
                place = xy.unsqueeze(-1) / strides[name]
                found = sample(maps[name].float(), place, padding="border").squeeze(-1).movedim(1, -1)
                hidden = hidden + (found if self._wide(share) else F.linear(found, share))
            return F.normalize(self.mlp[2](self.mlp[1](hidden)), dim=-1).movedim(-1, 1)

    def _shares(self) -> dict[str, Tensor]:
        """Each layer's columns of the perceptron's first weight, (hidden, width)."""
        return dict(zip(self.layers, self.mlp[0].weight.split(self.widths, 1), strict=True))

    @staticmethod
    def _wide(share: Tensor) -> bool:
        return share.shape[1] > share.shape[0]
