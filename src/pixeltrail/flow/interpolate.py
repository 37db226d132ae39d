"""Frames between frames, and slow motion made of them.

Baker et al., *A Database and Evaluation Methodology for Optical Flow*, IJCV 2011, section 3.3.2: the flow is carried to
the moment in between, its holes are filled, and both frames are looked up along it, each only where it saw the place.
Where several things come to lie on one pixel, the one that both frames agree on wins, by the weights of Niklaus & Liu,
*Softmax Splatting for Video Frame Interpolation*, CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.flow.algebra import occlusion, splat
from pixeltrail.flow.classical import Flow
from pixeltrail.geometry import pixel_grid, sample, warp
from pixeltrail.types import Image

SHARPNESS = 20.0
"""How strongly a difference of colours, in [0, 1], counts against a pixel."""
MOST_HIDDEN = 0.6
"""If the frames disagree on more than this share of them, they are of two scenes."""


class Between:
    """What lies between two frames (H, W, 3) uint8 RGB, from the flow (H, W, 2) both ways. Raises ShapeError."""

    def __init__(self, first: Image, second: Image, forward: Flow, backward: Flow) -> None:
        if not first.shape == second.shape == (*forward.shape[:2], 3) or forward.shape != backward.shape:
            shapes = [a.shape for a in (first, second, forward, backward)]
            raise ShapeError(f"interpolate: expected two frames (H, W, 3) and two flows (H, W, 2), got {shapes}")
        self.frames = first, second
        self._rgb = tuple(_tensor(image) / 255 for image in self.frames)
        flows = _tensor(forward), _tensor(backward)
        self._hidden = occlusion(*flows).float(), occlusion(*flows[::-1]).float()
        self._flow = tuple(torch.nan_to_num(flow, 0, 0, 0) for flow in flows)
        self._weight = tuple(self._agreement(i) for i in (0, 1))
        self.cut = min(float(hidden.mean()) for hidden in self._hidden) > MOST_HIDDEN

    def _agreement(self, i: int) -> Tensor:
        """How well each pixel of frame ``i`` is found again in the other one, (1, 1, H, W): 1 to exp(-20), which still
        counts where nothing else lands."""
        found = warp(self._rgb[1 - i], self._flow[i], padding="border")
        off = (self._rgb[i] - found).abs().mean(1, keepdim=True) + self._hidden[i]
        return torch.exp(-SHARPNESS * off.clamp_max(1))

    def at(self, t: float) -> Image:
        """The frame at time ``t``, 0 being the first and 1 the second, which come back as they are.

        Between the scenes of a cut it is the nearer of the two. Raises InputError for another ``t``.
        """
        if not 0 <= t <= 1:
            raise InputError(f"interpolate: time {t} is not between the frames, which are at 0 and 1")
        if t in (0, 1) or self.cut:
            return self.frames[round(t)]
        motion = self._motion(t)
        weights, colours = [], []
        for i, far in ((0, t), (1, 1 - t)):
            there = pixel_grid(*motion.shape[-2:]) + motion * (-t if i == 0 else 1 - t)
            colours.append(sample(self._rgb[i], there, padding="border"))
            weights.append((1 - far, sample(self._hidden[i], there, padding="border")))
        (near0, hidden0), (near1, hidden1) = weights
        # What one frame shows and the other hides is taken from the one; what both hide, or none, from both.
        w0, w1 = near0 * (1 - hidden1 + 1e-3), near1 * (1 - hidden0 + 1e-3)
        mixed = (w0 * colours[0] + w1 * colours[1]) / (w0 + w1)
        return (mixed[0] * 255).round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()

    def _motion(self, t: float) -> Tensor:
        """The flow of the whole step, first to second, at the pixels of time ``t``: (1, 2, H, W)."""
        total, count = torch.zeros(()), torch.zeros(())
        for i, way in ((0, t), (1, 1 - t)):
            motion = self._flow[i] if i == 0 else -self._flow[i]
            weight = self._weight[i] * (1 - way)
            landed = splat(torch.cat((motion * weight, weight), 1), self._flow[i] * way)
            total, count = total + landed[:, :2], count + landed[:, 2:]
        return filled(total, count)


def filled(total: Tensor, weight: Tensor) -> Tensor:
    """``total / weight``, (B, K, H, W) by (B, 1, H, W); where there is no weight, what is around, from as near as can be.

    From a pyramid of sums over 2x2 pixels: each empty pixel takes the value of the finest level that has one there.
    """
    known = weight > 1e-12
    values = torch.where(known, total / weight.clamp_min(1e-12), 0)
    height, width = weight.shape[-2:]
    if bool(known.all()) or height * width == 1:
        return values
    count = known.to(values.dtype)
    coarse = filled(*(F.avg_pool2d(x, 2, ceil_mode=True, divisor_override=1) for x in (values * count, count)))
    around = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    return torch.where(known, values, around)


def interpolate(first: Image, second: Image, t: float, flow: Callable[[Image, Image], Flow]) -> Image:
    """The frame at time ``t`` in [0, 1] between two of one size, (H, W, 3) uint8 RGB. Raises InputError."""
    return Between(first, second, flow(first, second), flow(second, first)).at(t)


def slow_motion(
    frames: Iterable[Image], factor: float | Fraction, flow: Callable[[Image, Image], Flow]
) -> Iterator[Image]:
    """``factor`` times as many frames a second: those at the times 0, 1/factor, 2/factor ... up to the last frame's.

    Whole times give the frames themselves, so a ``factor`` of 1 gives the video as it was; 2.5 makes 60 frames a second
    of 24, and 0.5 leaves every other one out. Flow is estimated both ways, once for each pair that something is asked of.
    Two frames are held at a time. Raises InputError for a factor outside 1/1000 to 1000.
    """
    if not 0.001 <= factor <= 1000:
        raise InputError(f"slow motion: the factor is {factor}; it lies in 0.001 to 1000")
    step = 1 / Fraction(factor).limit_denominator(1000)
    time = Fraction(0)
    before: Image | None = None
    for index, image in enumerate(frames):
        between: Between | None = None
        while time <= index:
            if time == index or before is None:
                yield image
            else:
                between = between or Between(before, image, flow(before, image), flow(image, before))
                yield between.at(float(time - index + 1))
            time += step
        before = image


def _tensor(array: Image | Flow) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1).unsqueeze(0)
