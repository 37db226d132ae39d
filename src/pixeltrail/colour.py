"""Colour spaces and colour classes.

**Convention.** RGB is sRGB in [0, 1]; Lab is CIE L*a*b* under D65, L in [0, 100], a and b in about [-128, 127].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pixeltrail.errors import InputError

_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.950456, 1.0, 1.088754)
_EPSILON = (6 / 29) ** 3

COLOURS = (
    (-23.7, 46.1), (-21.0, -15.8), (-12.1, 23.5), (-9.4, 85.4), (-5.1, 1.9), (-3.2, -25.1), (0.4, -10.4), (0.6, -0.5),
    (1.0, 7.9), (1.5, 41.9), (6.8, 21.6), (16.2, -46.5), (18.2, 7.9), (22.9, 38.6), (38.9, -72.8), (48.3, 21.8),
)  # fmt: skip
"""Sixteen centres (a, b) that ``colour_classes`` found in 210,000 pixels of 42 ordinary videos, sorted by a."""

Classes = str | Sequence[Sequence[float]]
"""Colour classes as a recipe names them: a list of [a, b], or the JSON file that holds one; empty: ``COLOURS``."""


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(..., 3, H, W) sRGB in [0, 1] -> Lab of the same shape (CIE 1976, D65 white). Differentiable."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    matrix = linear.new_tensor(_RGB_TO_XYZ) / linear.new_tensor(_WHITE).unsqueeze(1)
    # Not a matrix product: autocast would round it to bfloat16, which moves a and b by up to 2.
    xyz = (linear.unsqueeze(-4) * matrix.view(3, 3, 1, 1)).sum(-3)
    f = torch.where(xyz > _EPSILON, xyz.clamp_min(_EPSILON) ** (1 / 3), xyz * (841 / 108) + 4 / 29)
    x, y, z = f.unbind(-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of ``rgb_to_lab``, clipped to [0, 1]."""
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), -3)
    xyz = torch.where(f > 6 / 29, f**3, (f - 4 / 29) * (108 / 841)) * f.new_tensor(_WHITE).view(3, 1, 1)
    linear = torch.einsum("ij,...jhw->...ihw", f.new_tensor(_RGB_TO_XYZ).inverse(), xyz)
    curved = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved).clamp(0, 1)


def nearest_colour(ab: Tensor, centroids: Tensor) -> Tensor:
    """Colour classes: ``ab`` (..., 2, H, W), ``centroids`` (M, 2) -> (..., H, W) int64, the nearest centroid's number."""
    distance = torch.cdist(ab.movedim(-3, -1).flatten(0, -2), centroids)
    return distance.argmin(1).view(*ab.shape[:-3], *ab.shape[-2:])


def colour_classes(ab: Tensor, classes: int = 16, *, iterations: int = 30, seed: int = 0) -> Tensor:
    """k-means with k-means++ seeding: samples ``ab`` (N, 2), N >= classes -> centroids (classes, 2), sorted."""
    generator = torch.Generator().manual_seed(seed)
    centroids = ab[torch.randint(len(ab), (1,), generator=generator)]
    while len(centroids) < classes:
        nearest = torch.cdist(ab, centroids).amin(1).square() + 1e-12
        centroids = torch.cat((centroids, ab[torch.multinomial(nearest, 1, generator=generator)]))
    for _ in range(iterations):
        assigned = torch.cdist(ab, centroids).argmin(1)
        sums = torch.zeros_like(centroids).index_add_(0, assigned, ab)
        count = torch.bincount(assigned, minlength=classes).unsqueeze(1)
        centroids = torch.where(count > 0, sums / count.clamp_min(1), centroids)
    return centroids[torch.argsort(centroids[:, 0])]


def class_table(classes: Classes = ()) -> Tensor:
    """The centres (M, 2) that a recipe names; none, (0, 2), where its file is missing (see ``require_classes``).

    Raises ``InputError`` for anything but at least two pairs of finite numbers.
    """
    centres, where = classes or COLOURS, "classes"
    if isinstance(centres, str):
        where = centres
        if not Path(centres).is_file():  # a trained tracker is also loaded where this file is not
            return torch.empty(0, 2)
        try:
            centres = json.loads(Path(centres).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{where}: not JSON ({error}); make it with pixeltrail colours") from None
    try:
        table = torch.tensor(centres, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        table = torch.empty(0)
    if table.ndim != 2 or table.shape[1] != 2 or len(table) < 2 or not bool(table.isfinite().all()):
        raise InputError(f"{where}: expected a list of at least two [a, b]; make it with pixeltrail colours")
    return table


def require_classes(table: Tensor, classes: Classes) -> None:
    """Raise ``InputError`` where the file that ``class_table`` was to read is missing."""
    if not len(table):
        raise InputError(f"{classes}: no such file of colour classes; make it with pixeltrail colours")
