"""Flow networks on images of any size.

Images are resized bilinearly to the next multiple of the network's stride, and the flow back, its vectors with it: what
the authors of PWC-Net and SpyNet do, and published weights were measured with. Padding would spare the pixels the
interpolation, but it shows the network a border that moves with nothing, in up to a whole cell of the coarsest level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.flow.algebra import compose, warp
from pixeltrail.types import Image


def estimate(network: Any, first: Tensor, second: Tensor) -> Tensor:
    """Flow of the full resolution by any network of this folder: what ``network(first, second)`` finds at its last level.

    Here pixels are squares that meet at their edges (``align_corners=False``): a cell of a level is the square of its
    pixels and its flow their mean, so enlarging by squares moves nothing.

    Args:
        network: has ``stride`` and gives flows from coarse to fine, in pixels of the full resolution.
        first, second: (B, 3, H, W) RGB in [0, 1], of any size from ``stride`` on.

    Returns:
        (B, 2, H, W) float32 in pixels: dx to the right, dy down; first(x) ~ second(x + flow(x)).

    Raises:
        ShapeError, InputError: frames of different sizes, or smaller than the stride.
    """
    if first.ndim != 4 or first.shape != second.shape or first.shape[1] != 3 or not first.is_floating_point():
        got = f"{first.dtype} {tuple(first.shape)} and {second.dtype} {tuple(second.shape)}"
        raise ShapeError(f"flow: expected two batches of frames (B, 3, H, W) of floats, got {got}")
    stride = int(network.stride)
    height, width = first.shape[-2:]
    if min(height, width) < stride:
        raise InputError(
            f"flow: frames of {width}x{height} are too small for this network; sides of at least {stride} pixels work"
        )
    size = height + -height % stride, width + -width % stride
    if size != (height, width):
        first, second = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (first, second))
    flow: Tensor = network(first, second)[-1].float()
    if flow.shape[-2:] != (height, width):
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
    return flow * flow.new_tensor([width / size[1], height / size[0]]).view(2, 1, 1)


def coarse_to_fine(network: Any, first: Tensor, second: Tensor, *, width: int) -> Tensor:
    """Flow as `estimate`, by a network that looks several times, each time for what is still missing.

    First at frames halved until their longer side is about ``width`` pixels, the size of the crops that the network was
    trained on, so that no motion is longer than those it knows; then at each size up to the full one, the second frame
    brought onto the first by the flow so far: SpyNet's scheme (Ranjan & Black 2017) with the whole network as a level. A
    last look is at both frames mirrored, so that what it leans to one side cancels. It takes about three times as long as one
    look. Raises ShapeError, InputError.
    """
    sides = first.shape[-2], first.shape[-1]
    halvings = max(0, round(math.log2(max(*sides, 1) / width)))
    while halvings and min(sides) >> halvings < int(network.stride):
        halvings -= 1
    flow = None
    for k in range(halvings, -1, -1):
        size = (round(sides[0] / 2**k), round(sides[1] / 2**k))
        one, two = (_resized(x, size) for x in (first, second))
        flow = _look(network, one, two, None if flow is None else _enlarged(flow, size))
    assert flow is not None
    return _mirrored(_look(network, first.flip(-1), second.flip(-1), _mirrored(flow)))


def _look(network: Any, first: Tensor, second: Tensor, flow: Tensor | None) -> Tensor:
    """What the network finds beyond ``flow``, and this."""
    if flow is None:
        return estimate(network, first, second)
    return compose(estimate(network, first, warp(second, flow)), flow)


def _resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    if frames.shape[-2:] == size:
        return frames
    return F.interpolate(frames, size, mode="bilinear", align_corners=False, antialias=True)


def _enlarged(flow: Tensor, size: tuple[int, int]) -> Tensor:
    scale = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).view(2, 1, 1)
    return F.interpolate(flow, size, mode="bilinear", align_corners=False) * scale


def _mirrored(flow: Tensor) -> Tensor:
    return flow.flip(-1) * flow.new_tensor([-1, 1]).view(2, 1, 1)


def estimator(
    network: torch.nn.Module, device: str | torch.device = "cpu", *, pyramid: int = 0
) -> Callable[[Image, Image], NDArray[np.float32]]:
    """A function of two images as those of `pixeltrail.flow.classical`: (H, W, 3) uint8 RGB twice -> (H, W, 2) float32.

    Moves the network to ``device`` and sets it to evaluation. ``pyramid``: the width of `coarse_to_fine`; 0: the network
    looks once, at the full size. The function raises ShapeError for frames that are no two
    images of one size, and InputError for frames smaller than the network's stride.
    """
    network = network.eval().to(device)

    @torch.inference_mode()
    def flow(first: Image, second: Image) -> NDArray[np.float32]:
        for frame in (first, second):
            if frame.shape != first.shape or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                got = ", ".join(f"{f.dtype} {f.shape}" for f in (first, second))
                raise ShapeError(f"flow: expected two frames (H, W, 3) uint8 of one size, got {got}")
        both = torch.from_numpy(np.stack((first, second))).to(device).movedim(-1, 1).float() / 255
        one, two = both[:1], both[1:]
        found = coarse_to_fine(network, one, two, width=pyramid) if pyramid else estimate(network, one, two)
        return found[0].movedim(0, -1).cpu().contiguous().numpy()

    return flow
