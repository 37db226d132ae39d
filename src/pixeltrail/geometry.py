"""Grids, sampling, resizing and padding.

**Convention.** Pixel centres lie at integers, (0, 0) is the centre of the top left pixel, the last is (W − 1, H − 1):
what torch calls ``align_corners=True``. Points are (x, y). Flow has two channels, dx to the right and dy down, in pixels
of the array that it belongs to, and ``first(x) ≈ second(x + flow(x))``. Feature cell i of an encoder with stride s sits
on pixel i · s; labels go down to the cells and come back up with exactly that alignment, so nothing drifts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_grid(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """(2, H, W) float32: channel 0 is x, channel 1 is y."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack((x, y))


def sample(values: Tensor, xy: Tensor, *, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Values at fractional positions: (B, K, H, W) at (B, 2, h, w) given as x, y in pixels -> (B, K, h, w).

    ``mode`` bilinear or nearest; ``padding`` zeros or border for what lies outside.
    """
    height, width = values.shape[-2:]
    size = xy.new_tensor([max(width - 1, 1), max(height - 1, 1)]).view(2, 1, 1)
    where = (xy / size * 2 - 1).movedim(1, -1).to(values.dtype)
    return F.grid_sample(values, where, mode=mode, padding_mode=padding, align_corners=True)


def warp(second: Tensor, flow: Tensor, *, padding: str = "zeros") -> Tensor:
    """Bring the second frame onto the first: (B, K, H, W), flow (B, 2, H, W) -> second(x + flow(x))."""
    grid = pixel_grid(*flow.shape[-2:], device=flow.device)
    return sample(second, grid + flow, padding=padding)


def cells(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """How many feature cells (h, w) an encoder of this stride makes of an image (H, W)."""
    return -(-size[0] // stride), -(-size[1] // stride)


def labels_to_cells(ids: Tensor, classes: int, stride: int) -> Tensor:
    """Share of each class around each cell: ids (H, W) int -> (classes, h, w) float, summing to one over classes.

    The share is a bilinear (triangle) average over the pixels nearer than one stride to pixel i · stride, so that the
    map is the adjoint of ``cells_to_pixels`` and carries no shift. Ids outside 0 … classes − 1 count as 0.
    """
    ids = torch.where(ids < classes, ids, 0).long()
    one_hot = F.one_hot(ids, classes).movedim(-1, 0).to(torch.float32)
    return down_to_cells(one_hot.unsqueeze(0), stride)[0]


def down_to_cells(values: Tensor, stride: int) -> Tensor:
    """(B, K, H, W) -> (B, K, h, w): triangle-weighted mean around pixel i · stride, cut and renormalised at the border."""
    if stride == 1:
        return values
    ramp = 1 - torch.arange(-(stride - 1), stride, device=values.device, dtype=values.dtype).abs() / stride
    h, w = cells((values.shape[-2], values.shape[-1]), stride)
    vertical = _ramp_matrix(ramp, h, values.shape[-2], stride)
    horizontal = _ramp_matrix(ramp, w, values.shape[-1], stride)
    return vertical @ values @ horizontal.T


def _ramp_matrix(ramp: Tensor, n: int, size: int, stride: int) -> Tensor:
    """(n, size): row i holds the ramp centred on pixel i · stride, normalised to sum one."""
    matrix = ramp.new_zeros(n, size + 2 * stride)
    for i in range(n):
        matrix[i, i * stride + 1 : i * stride + 2 * stride] = ramp
    matrix = matrix[:, stride : stride + size]
    return matrix / matrix.sum(1, keepdim=True)


def cells_to_pixels(values: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(B, K, h, w) -> (B, K, H, W), bilinear between cells; pixels beyond the last cell take its value."""
    height, width = size
    h, w = values.shape[-2:]
    full = ((h - 1) * stride + 1, (w - 1) * stride + 1)
    up = F.interpolate(values, full, mode="bilinear", align_corners=True) if stride > 1 else values
    missing = (0, max(0, width - full[1]), 0, max(0, height - full[0]))
    return F.pad(up, missing, mode="replicate")[..., :height, :width] if any(missing) else up[..., :height, :width]


def pad_to_multiple(image: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad (B, C, H, W) on the right and below by replication to a multiple; also returns the old (H, W) for ``unpad``."""
    height, width = image.shape[-2:]
    pad = (0, -width % multiple, 0, -height % multiple)
    return (F.pad(image, pad, mode="replicate") if any(pad) else image), (height, width)


def unpad(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo ``pad_to_multiple``."""
    return values[..., : size[0], : size[1]]
