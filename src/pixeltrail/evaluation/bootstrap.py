"""How sure a difference between two runs is: the paired bootstrap.

Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, ch. 13 (percentile intervals). What is drawn, with
replacement, are whole sequences: the objects of one video are no independent samples. Both runs get the same draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError

RESAMPLES = 10_000
CHUNK = 2**22
"""Numbers drawn at a time."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Second run minus first. ``mean`` over all objects; ``low``, ``high``: its interval; ``wins``: the share of draws in
    which the second is better, ties by half. Interval and share are NaN for fewer than two sequences."""

    mean: float
    low: float
    high: float
    wins: float
    sequences: int


def paired_bootstrap(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference of two runs' means over all objects, with its percentile interval.

    ``first`` and ``second`` map each sequence to its objects' values, in the same order. Sequences that only one run has
    are left out. An object that is NaN in either run counts in neither. InputError for numbers of objects that differ,
    or no sequence in common.
    """
    shared = [name for name in first if name in second]
    pairs = []
    for name in shared:
        if len(first[name]) != len(second[name]):
            raise InputError(
                f"{name}: one report has {len(first[name])} objects, the other {len(second[name])}; "
                "compare reports on the same data"
            )
        change = np.subtract(second[name], first[name], dtype=np.float64)
        known = change[~np.isnan(change)]
        if len(known):
            pairs.append((float(known.sum()), len(known)))
    if not pairs:
        raise InputError("reports: have no sequence in common; compare reports on the same data")
    sums, counts = np.array(pairs, np.float64).T
    mean = float(sums.sum() / counts.sum())
    if len(pairs) < 2:
        return Difference(mean, math.nan, math.nan, math.nan, len(pairs))
    drawn = _draws(sums, counts, resamples, seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    wins = np.mean(drawn > 0) + np.mean(drawn == 0) / 2
    return Difference(mean, float(low), float(high), float(wins), len(pairs))


def _draws(sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """The mean in each of the draws, (resamples,)."""
    random, n = np.random.default_rng(seed), len(sums)
    at_once = max(1, CHUNK // n)
    out = []
    for start in range(0, resamples, at_once):
        chosen = random.integers(n, size=(min(at_once, resamples - start), n))
        out.append(sums[chosen].sum(1) / counts[chosen].sum(1))
    return np.concatenate(out)
