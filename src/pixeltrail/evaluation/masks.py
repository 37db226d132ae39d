"""J and F of the DAVIS benchmark, by the official definition to the letter, in NumPy alone.

Perazzi et al., *A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation*, CVPR 2016 (J, F, recall,
decay), and Pont-Tuset et al., *The 2017 DAVIS Challenge*, 2017 (several objects). The semi-supervised task: the objects
are the ids 1..N, N the largest id of the first true mask; void (255) counts as background; the first frame, which is
given, and the last are not scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.types import VOID

Mask = NDArray[np.bool_]
Ids = NDArray[np.uint8]

TOLERANCE = 0.008
"""How far apart two boundary pixels may lie and still match, as a fraction of the image diagonal (rounded up)."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one measure of one object over its frames. NaN throughout when there is no frame."""

    mean: float
    recall: float  # share of frames strictly above 0.5
    decay: float  # mean of the first quarter of the frames minus mean of the last: what is lost over time


def jaccard(predicted: Mask, truth: Mask) -> float:
    """Region similarity J: intersection over union of two (H, W) bool masks, in [0, 1]; 1 where both are empty."""
    _same_size(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return float(np.count_nonzero(predicted & truth) / union) if union else 1.0


def boundary(mask: Mask) -> Mask:
    """(H, W) bool: the pixels of a (H, W) bool mask that differ from their east, south or south-east neighbour.

    What lies beyond the image equals its edge: the last row looks east only, the last column south only.
    """
    edge = np.zeros_like(mask)
    edge[:, :-1] = mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def boundary_f(predicted: Mask, truth: Mask, tolerance: float = TOLERANCE) -> float:
    """Contour accuracy F of two (H, W) bool masks, in [0, 1]: harmonic mean of precision and recall of boundary pixels.

    A boundary pixel is matched if one of the other mask lies within ``ceil(tolerance * diagonal)`` pixels (Euclidean).
    Both boundaries empty: 1; one of them: 0.
    """
    _same_size(predicted, truth)
    radius = math.ceil(tolerance * float(np.linalg.norm(predicted.shape)))
    box = _bounding_box(predicted | truth)  # all boundary pixels lie in it, so nothing outside can matter
    if box is None:
        return 1.0
    ours, theirs = boundary(predicted[box]), boundary(truth[box])
    n_ours, n_theirs = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not n_ours or not n_theirs:
        return float(n_ours == n_theirs)
    precision = np.count_nonzero(ours & dilate(theirs, radius)) / n_ours
    recall = np.count_nonzero(theirs & dilate(ours, radius)) / n_theirs
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def dilate(mask: Mask, radius: int) -> Mask:
    """(H, W) bool: the pixels at Euclidean distance <= ``radius`` from a true pixel of the (H, W) bool mask.

    The disk is a stack of row segments that lengthen towards its middle, so one row-wise dilation is grown pixel by
    pixel and added at the two heights where it has the right length: about 4 x radius OR operations over the array.
    """
    height, width = mask.shape
    out, rows, reach = np.zeros_like(mask), mask.copy(), 0
    for dy in range(radius, -1, -1):
        while reach < math.isqrt(radius * radius - dy * dy):
            reach += 1
            kept = max(width - reach, 0)
            rows[:, reach:] |= mask[:, :kept]
            rows[:, :kept] |= mask[:, reach:]
        kept = max(height - dy, 0)
        out[dy:] |= rows[:kept]
        out[:kept] |= rows[dy:]
    return out


def statistics(values: Sequence[float] | NDArray[np.float64]) -> Statistics:
    """Mean, recall and decay of the (n,) values of one object, one per scored frame; NaN values are left out of means.

    Decay compares quarters that share their end frames, as the official code does. That code keeps the frame numbers
    in uint8, which wraps beyond 256 frames; here they do not wrap, and the result is equal up to 256.
    """
    v = np.asarray(values, np.float64)
    if not v.size:
        return Statistics(math.nan, math.nan, math.nan)
    ends = np.round(np.linspace(1, len(v), 5) + 1e-10).astype(np.int64) - 1
    decay = _mean(v[: ends[1] + 1]) - _mean(v[ends[3] :])
    return Statistics(_mean(v), float(np.mean(v > 0.5)), decay)


class SequenceScore:
    """J and F of every object of one sequence, fed frame by frame; keeps two numbers per object and frame, no masks.

    ``name`` appears in error messages: the sequence, or the folder of its results.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.frames = 0
        self.objects = 0  # known after the first frame
        self._scores: list[list[tuple[float, float]]] = []  # [frame - 1][object - 1]

    def add(self, predicted: Ids, truth: Ids) -> None:
        """Score the next frame. Both (H, W) uint8 ids; the first call fixes the objects, and its prediction is unused.

        Raises ShapeError when the sizes differ, InputError for an id that the first true mask does not reach (the
        official code stops there too) and for a first true mask without objects.
        """
        where = f"{self.name}: frame {self.frames}"
        if predicted.shape != truth.shape:
            raise ShapeError(f"{where}: the mask is {_size(predicted)}, the truth {_size(truth)}; sizes must be equal")
        if self.frames == 0:
            self.objects = int(truth.max(where=truth != VOID, initial=0))
            if not self.objects:
                raise InputError(f"{where}: the true mask has no object; a mask with an id from 1 to 254 is needed")
        else:
            if (highest := int(predicted.max())) > self.objects:
                raise InputError(f"{where}: id {highest}, but the first true mask has {self.objects} object(s) only")
            pairs = ((predicted == k, truth == k) for k in range(1, self.objects + 1))
            self._scores.append([(jaccard(p, t), boundary_f(p, t)) for p, t in pairs])
        self.frames += 1

    @property
    def latest(self) -> list[tuple[float, float]]:
        """J and F of each object in the frame that was added last; none after the first frame."""
        return self._scores[-1] if self._scores else []

    @property
    def values(self) -> NDArray[np.float64]:
        """(n, N, 2): J and F of the n scored frames (second to last but one) and N objects."""
        return np.asarray(self._scores[:-1], np.float64).reshape(-1, self.objects, 2)

    def statistics(self) -> list[tuple[Statistics, Statistics]]:
        """Of J and of F, one pair per object."""
        j, f = np.moveaxis(self.values, 2, 0)
        return [(statistics(j[:, k]), statistics(f[:, k])) for k in range(self.objects)]


def _same_size(first: Mask, second: Mask) -> None:
    if first.shape != second.shape or first.ndim != 2:
        raise ShapeError(f"masks: expected two of one size (H, W), got {first.shape} and {second.shape}")


def _size(ids: Ids) -> str:
    return "x".join(str(n) for n in reversed(ids.shape))


def _bounding_box(mask: Mask) -> tuple[slice, slice] | None:
    """Of the true pixels, one pixel wider on each side where the image goes on; None if there are none."""
    y = np.flatnonzero(mask.any(axis=1))
    if not y.size:
        return None
    x = np.flatnonzero(mask[y[0] : y[-1] + 1].any(axis=0))
    return slice(max(y[0] - 1, 0), y[-1] + 2), slice(max(x[0] - 1, 0), x[-1] + 2)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
