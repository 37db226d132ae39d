"""Features as colours: what an encoder tells apart has another colour, what it takes for the same has the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import ShapeError

OUTLIERS = 1.0
"""Per cent of the cells at either end of a component that may be clipped."""


@dataclass(frozen=True, slots=True, eq=False)
class Colours:
    """Which colours features get: ``Colours.of(features)`` learns it, and a call paints those or others in the same way.

    The three strongest principal components are red, green and blue. Each runs from its 1st percentile (0) to its 99th
    (255), and has the sign that makes its largest entry positive: the same features always give the same picture. A
    component that does not vary, or that C < 3 leaves out, is a flat 128.
    """

    mean: NDArray[np.float64]
    basis: NDArray[np.float64]
    low: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Colours:
        """Of (T, C, h, w) or (C, h, w). Raises ShapeError for other shapes and for values that are not finite."""
        table = _table(features)
        mean = table.mean(0)
        table -= mean
        basis = np.linalg.eigh(table.T @ table)[1][:, :-4:-1]  # (C, at most 3), strongest first
        basis *= np.sign(np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0))
        low, high = np.percentile(table @ basis, (OUTLIERS, 100 - OUTLIERS), axis=0)
        flat = high - low <= 1e-9 * max(float(np.abs(table).max()), 1e-30)
        return cls(mean, basis, low, np.where(flat, np.inf, high - low))

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.uint8]:
        """(T, C, h, w) -> (T, h, w, 3) uint8, or (C, h, w) -> (h, w, 3). Raises ShapeError as `of`."""
        table = _table(features)
        places = (table - self.mean) @ self.basis
        shares = np.where(np.isinf(self.spread), 0.5, (places - self.low) / self.spread)
        colours = np.full((len(table), 3), 128, np.uint8)
        colours[:, : self.basis.shape[1]] = np.rint(255 * np.clip(shares, 0, 1))
        return colours.reshape(*features.shape[:-3], *features.shape[-2:], 3)


def pca_colours(features: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Features in their own `Colours`: (T, C, h, w) -> (T, h, w, 3) uint8, or (C, h, w) -> (h, w, 3).

    One basis and one scale for all frames, so that colours can be compared between them. Raises ShapeError.
    """
    return Colours.of(features)(features)


def _table(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """One row of C numbers for each cell."""
    if features.ndim not in (3, 4) or 0 in features.shape:
        raise ShapeError(f"pca_colours: expected (T, C, h, w) or (C, h, w), got {features.shape}")
    table = np.moveaxis(features.reshape(-1, *features.shape[-3:]), 1, -1).reshape(-1, features.shape[-3])
    if not np.isfinite(table).all():
        raise ShapeError("pca_colours: expected finite features, got NaN or infinity")
    return table.astype(np.float64)


def enlarged(cells: NDArray[np.uint8], size: tuple[int, int], stride: float) -> NDArray[np.uint8]:
    """Colours of cells (..., h, w, 3), where cell i sits on pixel i · ``stride`` -> pictures (..., H, W, 3) of ``size``.

    Bilinear between cells; pixels beyond the last cell take its colour. Raises ShapeError.
    """
    if cells.ndim < 3 or cells.shape[-1] != 3 or min(size) < 1 or stride <= 0:
        raise ShapeError(f"enlarged: expected (..., h, w, 3), a size and a stride, got {cells.shape}, {size}, {stride}")
    pictures = cells.astype(np.float64)
    for axis, length in ((-3, size[0]), (-2, size[1])):
        place = np.minimum(np.arange(length) / stride, cells.shape[axis] - 1)
        first = np.minimum(place.astype(np.intp), max(cells.shape[axis] - 2, 0))
        second = np.minimum(first + 1, cells.shape[axis] - 1)
        part = (place - first).reshape((-1,) + (1,) * (-axis - 1))
        pictures = np.take(pictures, first, axis) * (1 - part) + np.take(pictures, second, axis) * part
    return np.rint(pictures).astype(np.uint8)
