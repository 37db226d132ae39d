"""PCK: the percentage of correct keypoints, as a fraction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixeltrail.errors import ShapeError


def pck(predicted: ArrayLike, truth: ArrayLike, visible: ArrayLike, threshold: ArrayLike) -> float:
    """Fraction of the visible points whose prediction lies within ``threshold`` pixels of the truth; NaN without any.

    ``predicted``, ``truth`` (T, P, 2) as (x, y); ``visible`` (T, P) bool: false leaves a point out, and the frame that
    the points were given on should be false throughout; ``threshold`` in pixels, a scalar or (T,), inclusive.
    A prediction that is not finite is wrong. Raises ShapeError.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    v, limit = np.asarray(visible, bool), np.asarray(threshold, np.float64)
    if p.shape != t.shape or p.ndim != 3 or p.shape[-1] != 2 or v.shape != p.shape[:2]:
        raise ShapeError(
            f"pck: expected predicted and truth (T, P, 2), visible (T, P), got {p.shape}, {t.shape}, {v.shape}"
        )
    if limit.shape not in ((), (len(p),)):
        raise ShapeError(f"pck: expected a threshold that is a number or ({len(p)},), got {limit.shape}")
    p, t = p[v], t[v]
    near = np.linalg.norm(p - t, axis=-1) <= np.broadcast_to(limit.reshape(-1, 1), v.shape)[v]
    return float(near.mean()) if near.size else math.nan


def badja_threshold(area: ArrayLike, alpha: float = 0.2) -> NDArray[np.float64]:
    """Threshold in pixels for ``pck``, from the (T,) pixel counts of the animal's true masks: alpha * sqrt(area).

    Biggs et al., *Creatures Great and SMAL*, ACCV 2018 (BADJA), with its alpha of 0.2.
    """
    return alpha * np.sqrt(np.asarray(area, np.float64))
