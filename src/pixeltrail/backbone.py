"""Bring your own backbone: any function from pictures to feature maps becomes the encoder of a tracker.

``"FILE.py:NAME"`` or ``"package.module:NAME"`` names a function, a module of torch, or a class of either, that

- is called with (B, 3, H, W) RGB in [0, 1], H and W multiples of its stride, and gives (B, C, H / stride, W / stride);
- has an attribute ``stride``, in pixels;
- may have an attribute ``offset``: the pixel on which its first cell is centred. 0, the default, is that of convolutions
  with padding; (patch - 1) / 2 is that of patches (7.5 for 16 pixels). Frames are moved so that the cell sits on pixel 0.

It normalises colours itself. See ``examples/own_backbone.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.bottleneck import DropRGB
from pixeltrail.catalogue import own_file
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.tracker import Protocol, Tracker


class Backbone(nn.Module):
    """Somebody's ``features`` as an encoder, (B, 3, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, features: Callable[[Tensor], Tensor], stride: int, offset: float = 0.0) -> None:
        super().__init__()
        self.features, self.stride, self.margin = features, stride, round(offset)
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # says on which device a plain function works

    def forward(self, view: Tensor) -> Tensor:
        height, width = view.shape[-2:]
        h, w = -(-height // self.stride), -(-width // self.stride)
        fill = [-(self.margin + side) % self.stride for side in (width, height)]
        padded = F.pad(view, (self.margin, fill[0], self.margin, fill[1]), mode="replicate")
        maps = self.features(padded)
        expected = (len(view), padded.shape[-2] // self.stride, padded.shape[-1] // self.stride)
        if not isinstance(maps, Tensor) or maps.ndim != 4 or (len(maps), *maps.shape[2:]) != expected:
            got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            wanted = f"({expected[0]}, C, {expected[1]}, {expected[2]})"
            raise ShapeError(f"encoder: expected {wanted} for pictures {tuple(padded.shape)}, got {got}")
        return maps[..., :h, :w]


def own_tracker(name: str, protocol: Protocol) -> Tracker:
    """A tracker with the encoder of that name. Raises InputError for one that cannot be found or has no stride."""
    found = _found(name)
    made = found() if isinstance(found, type) else found
    stride, offset = getattr(made, "stride", None), getattr(made, "offset", 0.0)
    if not callable(made) or isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise InputError(
            f"--encoder {name}: expected a function with an attribute stride (pixels per cell), got {made!r:.80}"
        )
    if not isinstance(offset, int | float) or not 0 <= offset < stride:
        raise InputError(f"--encoder {name}: offset {offset!r}: expected a number of pixels from 0 to below the stride")
    return Tracker(
        encoder=Backbone(made, stride, offset),
        bottleneck=DropRGB(),
        protocol=protocol,
        objective=lambda tracker, batch: {},
    ).eval()


def _found(name: str) -> Any:
    where, colon, what = name.rpartition(":")
    if not colon or not what.isidentifier():
        raise InputError(f"--encoder {name}: expected FILE.py:FUNCTION or MODULE:FUNCTION")
    if where.endswith(".py"):
        module = own_file(Path(where), "the function in it")
    else:
        try:
            module = importlib.import_module(where)
        except (ImportError, ValueError, TypeError) as error:
            raise InputError(f"--encoder {name}: {where} cannot be imported ({error}); check name and path") from error
    if not hasattr(module, what):
        raise InputError(f"--encoder {name}: {where} has no {what}; name a function of it")
    return getattr(module, what)
