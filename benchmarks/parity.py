"""Our metrics against other people's, on random data: ``python benchmarks/parity.py``.

Prints the largest difference of each. Needs scikit-learn and got10k; what is not installed is passed over. J and F are held
against DAVIS's own tables in tests/test_evaluation.py, run-length codes against pycocotools in
tests/test_interchange_tools.py.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator

import numpy as np

from pixeltrail.evaluation.boxes import overlaps, success_and_precision
from pixeltrail.evaluation.flow import score_flow
from pixeltrail.evaluation.jhmdb import normalised_distances, pck_by_joint
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.evaluation.parsing import class_iou, confusion
from pixeltrail.evaluation.points import badja_threshold, pck
from pixeltrail.evaluation.tapvid import THRESHOLDS, tapvid_metrics

Both = Iterator[tuple[np.ndarray | float, np.ndarray | float]]
"""What we measure beside what they do."""


def boxes(random: np.random.Generator) -> Both:
    """OTB's two curves, and overlaps (VOT's accuracy is their mean)."""
    from got10k.experiments.otb import ExperimentOTB
    from got10k.utils.metrics import rect_iou

    theirs = ExperimentOTB.__new__(ExperimentOTB)  # its initialiser would fetch the data set
    theirs.nbins_iou, theirs.nbins_ce = 21, 51
    t = np.hstack((random.uniform(0, 300, (60, 2)), random.uniform(1, 90, (60, 2))))
    p = np.maximum(t + random.normal(0, random.uniform(0.1, 40), t.shape), 1)
    edges = [np.hstack((b[:, :2], b[:, :2] + b[:, 2:])) for b in (p, t)]
    yield overlaps(*edges), rect_iou(p, t)
    yield from zip(success_and_precision(*edges), theirs._calc_curves(*theirs._calc_metrics(p, t)), strict=True)


def masks(random: np.random.Generator) -> Both:
    """J of two masks, and VIP's intersection over union of each class."""
    from sklearn.metrics import jaccard_score

    t, p = random.integers(0, 6, (2, 40, 50)).astype(np.uint8)
    p = np.where(random.random(t.shape) < 0.6, t, p)
    yield jaccard(p == 2, t == 2), jaccard_score((t == 2).ravel(), (p == 2).ravel())
    yield class_iou(confusion(p, t, 6)), jaccard_score(t.ravel(), p.ravel(), labels=range(6), average=None)


def points(random: np.random.Generator) -> Both:
    """PCK of BADJA and JHMDB, from scikit-learn's distances; TAP-Vid's OA and AJ from its counts."""
    from sklearn.metrics import accuracy_score, confusion_matrix
    from sklearn.metrics.pairwise import paired_distances

    t = random.uniform(0, 250, (30, 12, 2))
    p = t + random.normal(0, random.uniform(1, 30), t.shape)
    apart = paired_distances(p.reshape(-1, 2), t.reshape(-1, 2)).reshape(30, 12)
    seen, area = random.random((30, 12)) < 0.7, random.uniform(500, 9000, 30)
    right = apart <= 0.2 * area[:, None] ** 0.5
    yield pck(p, t, seen, badja_threshold(area)), accuracy_score(seen[seen], right[seen])
    corners = np.stack((t[1:].min(1), t[1:].max(1)))
    size = 0.6 * paired_distances(*corners)
    shares = [accuracy_score(np.ones(29), near) for near in (apart[1:] <= 0.2 * size[:, None]).T]
    yield pck_by_joint([normalised_distances(p, t)], 0.2), np.array(shares)

    first = random.integers(0, 6, 30)
    said = seen ^ (random.random(seen.shape) < 0.2)
    found = tapvid_metrics(first, t, ~seen, p, ~said, "first")
    later = np.arange(12) > first[:, None]
    yield found["OA"], accuracy_score(seen[later], said[later])
    for limit in THRESHOLDS:
        near = (apart < limit)[later]
        good, claimed = seen[later] & near, said[later]
        true = confusion_matrix(good, claimed, labels=[False, True])[1, 1]
        false = confusion_matrix(~good, claimed, labels=[False, True])[1, 1]
        yield found[f"jaccard_{limit}"], true / (seen[later].sum() + false)
        yield found[f"pts_within_{limit}"], accuracy_score(seen[later][seen[later]], near[seen[later]])


def flow(random: np.random.Generator) -> Both:
    """End-point error and Fl from scikit-learn's distances."""
    from sklearn.metrics.pairwise import paired_distances

    t = random.normal(0, 30, (20, 30, 2)).astype(np.float32)
    p = (t + random.normal(0, 3, t.shape)).astype(np.float32)
    known = random.random(t.shape[:2]) < 0.8
    apart = paired_distances(p[known].astype(float), t[known].astype(float))
    length = paired_distances(t[known].astype(float), np.zeros_like(t[known], float))
    found = score_flow(p, t, known)
    yield found["EPE"], apart.mean()
    yield found["Fl"], 100 * np.mean((apart > 3) & (apart > 0.05 * length))


ORACLES: dict[str, Callable[[np.random.Generator], Both]] = {
    "boxes (OTB, VOT), got10k": boxes,
    "masks (J, VIP), scikit-learn": masks,
    "points (BADJA, JHMDB, TAP-Vid), scikit-learn": points,
    "flow (EPE, Fl), scikit-learn": flow,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=300)
    args = parser.parse_args()
    for name, both in ORACLES.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trials = [pair for seed in range(args.trials) for pair in both(np.random.default_rng(seed))]
        except ImportError as error:
            print(f"{name}: passed over ({error})")
            continue
        print(f"{name}: {len(trials)} comparisons, {max(np.abs(np.subtract(a, b)).max() for a, b in trials):.1e} apart")


if __name__ == "__main__":
    main()
