"""What can be reckoned with flow: looking up, carrying along, chaining, turning round, and where not to trust it.

Every function takes NumPy arrays, flow (H, W, 2), values (H, W, K) or (H, W), or tensors, flow (B, 2, H, W), values
(B, K, H, W), and answers in kind; with tensors it differentiates and runs on any device. Conventions of `geometry`:
``first(x) ~ second(x + flow(x))``, in pixels. Unknown flow is not a number: nothing is carried along it, and what is
computed from it is unknown. Answers of one value a pixel are (H, W), or (B, 1, H, W).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail import geometry
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.types import Image

Field = TypeVar("Field", NDArray[Any], Tensor)


def warp(values: Field, flow: Field, *, padding: str = "border") -> Field:
    """Look values up where the flow points, bilinearly: ``values(x + flow(x))``, the second frame brought onto the first.

    ``padding``: outside, the nearest pixel of the border counts, or with "zeros" nothing. Raises ShapeError.
    """
    if isinstance(values, np.ndarray):
        return _array(warp(_tensor(values), _tensor(flow), padding=padding))
    _check("warp", values, flow)
    found = geometry.warp(values, torch.nan_to_num(flow, 0.0, 0.0, 0.0), padding=padding)
    return torch.where(_known(flow), found, torch.nan)


def splat(values: Field, flow: Field) -> Field:
    """Carry values to where the flow points and add them up there: each goes to the four pixels around, by nearness.

    Nothing gets lost but beyond the frame: the sum of the answer is that of the values. Forward, as against `warp`.
    Raises ShapeError.
    """
    if isinstance(values, np.ndarray):
        return _array(splat(_tensor(values), _tensor(flow)))
    _check("splat", values, flow)
    batch, channels, height, width = values.shape
    known = _known(flow)
    size = flow.new_tensor([width, height]).view(2, 1, 1)
    place = geometry.pixel_grid(height, width, device=flow.device) + torch.where(known, flow, 0.0)
    place = torch.minimum(place.clamp(min=-2.0), size + 1)  # beyond the frame is beyond, and fits an integer
    corner = place.floor().detach()
    part = place - corner
    out = values.new_zeros(batch, channels, height * width)
    for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = corner[:, 0] + right, corner[:, 1] + down
        share = (part[:, 0] if right else 1 - part[:, 0]) * (part[:, 1] if down else 1 - part[:, 1])
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & known[:, 0]
        index = torch.where(inside, y * width + x, 0).long().flatten(1)
        carried = torch.where(inside.unsqueeze(1), values * share.unsqueeze(1), 0.0).to(values.dtype)
        out = out.scatter_add(2, index.unsqueeze(1).expand(-1, channels, -1), carried.flatten(2))
    return out.view(batch, channels, height, width)


def splat_mean(values: Field, flow: Field, importance: Field | None = None) -> tuple[Field, Field]:
    """The mean of what is carried to each pixel, and how much that was: 0 is a hole, above 1 things lie on one another.

    ``importance``: one number a pixel, such as minus a distance or minus a matching error; each pixel weighs
    exp(importance), so that of several on one place the most important shows (Niklaus & Liu, *Softmax Splatting for
    Video Frame Interpolation*, CVPR 2020). Without it all weigh the same. Holes have value 0. Raises ShapeError.
    """
    if isinstance(values, np.ndarray):
        chosen = None if importance is None else _tensor(importance)
        mean, amount = splat_mean(_tensor(values), _tensor(flow), chosen)
        return _array(mean), _array(amount)
    ones = torch.ones_like(values[:, :1])
    if importance is None:
        weight = ones
    else:
        _check("importance", importance, flow)
        weight = (importance - importance.amax((1, 2, 3), keepdim=True)).exp().clamp_min(1e-12).to(values.dtype)
    landed = splat(torch.cat((values * weight, weight, ones), 1), flow)
    total, mass, amount = landed[:, :-2], landed[:, -2:-1], landed[:, -1:]
    return torch.where(amount > 1e-6, total / mass.clamp_min(1e-30), 0.0), amount


def compose(first: Field, second: Field) -> Field:
    """One flow for two steps, ``first`` and after it ``second``: x goes to x + first(x), and on from there.

    What leaves the frame goes on like the border where it left: `inside` tells. Raises ShapeError.
    """
    both: Field = first + warp(second, first)
    return both


def accumulate(flows: Iterable[Field]) -> Iterator[Field]:
    """From the flows of consecutive frames, those from the first frame to each later one: as many, one at a time.

    Errors add up, and what was hidden once is lost from then on. Raises ShapeError.
    """
    total: Field | None = None
    for flow in flows:
        total = flow if total is None else compose(total, flow)
        yield total


def invert(flow: Field, importance: Field | None = None, *, rounds: int = 5) -> Field:
    """The flow from the second frame back to the first: x + flow(x) goes to x. Not a number where nothing arrives.

    Minus the flow is carried along it (`splat_mean`, which has ``importance``: what lies in front), and then made exact by
    ``rounds`` of ``back(y) = -flow(y + back(y))``, which converges where the flow is smooth. Raises ShapeError.
    """
    if isinstance(flow, np.ndarray):
        chosen = None if importance is None else _tensor(importance)
        return _array(invert(_tensor(flow), chosen, rounds=rounds))
    start, amount = splat_mean(-torch.nan_to_num(flow, 0.0, 0.0, 0.0), flow, importance)
    back = start
    for _ in range(rounds):
        better = -warp(flow, back)
        near = (better - start).square().sum(1, keepdim=True) < 1  # else it fell over an edge, onto something else
        back = torch.where(near, better, back)
    return torch.where(amount > 1e-3, back, torch.nan)


def inside(flow: Field) -> Field:
    """Where the flow points to a place in the frame: bool. False where it is unknown."""
    if isinstance(flow, np.ndarray):
        return _array(inside(_tensor(flow)))
    _check("inside", flow, flow)
    height, width = flow.shape[-2:]
    x, y = (geometry.pixel_grid(height, width, device=flow.device) + flow).unbind(1)
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)).unsqueeze(1)


def round_trip(forward: Field, backward: Field) -> Field:
    """How far from its start a pixel ends that goes forward and back: |f(x) + b(x + f(x))| in pixels. Raises ShapeError."""
    if isinstance(forward, np.ndarray):
        return _array(round_trip(_tensor(forward), _tensor(backward)))
    return compose(forward, backward).square().sum(1, keepdim=True).sqrt()


def occlusion(forward: Field, backward: Field, *, share: float = 0.01, least: float = 0.5) -> Field:
    """Which pixels the second frame does not show: bool.

    Those that going forward and back do not end where they began, |f + b(x + f)|² > share · (|f|² + |b(x + f)|²) + least
    (Sundaram et al., *Dense Point Trajectories by GPU-accelerated Large Displacement Optical Flow*, ECCV 2010), that
    leave the frame, or whose flow is unknown. Raises ShapeError.
    """
    if isinstance(forward, np.ndarray):
        return _array(occlusion(_tensor(forward), _tensor(backward), share=share, least=least))
    back = warp(backward, forward)
    off, size = ((forward + back).square().sum(1, True), (forward.square() + back.square()).sum(1, True))
    return ~((off <= share * size + least) & inside(forward))


def confidence(forward: Field, backward: Field, *, scale: float = 1.0) -> Field:
    """How much to trust ``forward``, from 0 to 1: exp(-r² / 2 scale²) of the `round_trip` r; 0 where it leaves the frame.

    Raises ShapeError.
    """
    if isinstance(forward, np.ndarray):
        return _array(confidence(_tensor(forward), _tensor(backward), scale=scale))
    off = compose(forward, backward).square().sum(1, keepdim=True)
    return torch.where(inside(forward), torch.exp(-torch.nan_to_num(off, torch.inf) / (2 * scale * scale)), 0.0)


def hold_still(
    flow: NDArray[np.float32], first: Image, second: Image, *, noise: float = 1.0, window: int | None = 31
) -> NDArray[np.float32]:
    """``flow`` (H, W, 2), zero where nothing moves: an estimator finds motion even in the noise of a still camera.

    Still is a place about which the frames (H, W, 3) uint8 differ by less than ``noise`` grey levels in the mean over
    ``window`` x ``window`` pixels (odd), or over the whole frame without a window. Raises ShapeError, InputError.
    """
    if first.shape != second.shape or flow.shape != (*first.shape[:2], 2):
        got = f"{flow.shape}, {first.shape} and {second.shape}"
        raise ShapeError(f"hold_still: expected flow (H, W, 2) and two frames (H, W, 3), got {got}")
    if noise < 0 or (window is not None and (window < 1 or window % 2 == 0)):
        raise InputError(f"hold_still: expected noise >= 0 and an odd window, got {noise} and {window}")
    change = np.abs(first.astype(np.float32) - second).mean(2)
    if window is None:
        return np.zeros_like(flow) if change.mean() <= noise else flow.copy()
    mean = F.avg_pool2d(torch.from_numpy(change)[None, None], window, 1, window // 2, count_include_pad=False)
    return np.where(mean[0, 0, :, :, None].numpy() <= noise, np.float32(0), flow)


def _known(flow: Tensor) -> Tensor:
    return flow.isfinite().all(1, keepdim=True)


def _check(what: str, values: Tensor, flow: Tensor) -> None:
    if flow.ndim != 4 or flow.shape[1] != 2 or values.ndim != 4 or values.shape[2:] != flow.shape[2:]:
        shapes = f"{tuple(values.shape)} and {tuple(flow.shape)}"
        raise ShapeError(f"{what}: expected values (B, K, H, W) or (H, W, K) and flow of their size, got {shapes}")


def _tensor(array: NDArray[Any]) -> Tensor:
    """(H, W) or (H, W, K) -> (1, K, H, W) float32, or float64 if it is."""
    if array.ndim not in (2, 3):
        raise ShapeError(f"flow algebra: expected arrays (H, W, K) or (H, W), got {array.shape}")
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    values = torch.from_numpy(np.array(array, dtype))
    return (values if values.ndim == 3 else values.unsqueeze(-1)).permute(2, 0, 1).unsqueeze(0)


def _array(tensor: Tensor) -> NDArray[Any]:
    """(1, K, H, W) -> (H, W, K), or (H, W) for one channel."""
    array: NDArray[Any] = tensor[0].permute(1, 2, 0).contiguous().numpy()
    return array[..., 0] if array.shape[2] == 1 else array
