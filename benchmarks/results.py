"""The tables of the README: ``python benchmarks/results.py DAVIS [--squeezenet FILE]`` prints them as Markdown.

J&F of the default weights at each quality, of the baselines, and of untrained and supervised features under the same
protocol; frames per second, and how well confidence predicts the true overlap.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

from pixeltrail.data.davis import Davis
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.evaluation.report import evaluate_masks
from pixeltrail.predictors import BASELINES, load_tracker, predictor
from pixeltrail.protocols import QUALITIES
from pixeltrail.weights import digest, path_of

ROOT = Path(__file__).parents[1]


def rank(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def confidence(dataset: Davis) -> float:
    """Spearman's correlation between an object's confidence and its true overlap, over all frames and sequences."""
    tracker, said, true = load_tracker("default", quality="fast"), [], []
    for sequence in dataset:
        for tracked, truth in zip(tracker.track(sequence.images(), sequence.first()), sequence.truth(), strict=True):
            if tracked.index:
                for number, value in tracked.objects.items():
                    said.append(value)
                    true.append(jaccard(tracked.ids == number, truth == number))
    return float(np.corrcoef(rank(said), rank(true))[0, 1])


def speed(dataset: Davis, quality: str) -> float:
    """Frames per second of a quality from frame 9 to 25 of the first sequence, when its memory is full."""
    sequence = next(iter(dataset))
    frames = [image for image, _ in zip(sequence.images(), range(26), strict=False)]
    results = load_tracker("default", quality=quality).track(frames, sequence.first())
    for _ in range(9):
        next(results)
    start = time.perf_counter()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("davis", type=Path, nargs="?", default=ROOT.parent / "shared" / "data" / "davis-dev")
    parser.add_argument("--squeezenet", type=Path, help="weights for examples/imagenet_features.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="only rows whose title holds this")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dataset = Davis(args.davis)
    rows = [(f"default, {name}", "default", {"quality": name}) for name in reversed(QUALITIES)]
    if args.squeezenet:
        os.environ["SQUEEZENET"] = str(args.squeezenet)
        rows.append(("SqueezeNet, ImageNet *labels*", str(ROOT / "examples" / "imagenet_features.py"), {}))
    rows += [("untrained encoder", "dul", {}), ("raw colour", "colour", {})]
    rows += [(name, name, {}) for name in reversed(BASELINES)]
    rows = [row for row in rows if args.only in row[0]]
    print(
        f"{time.strftime('%Y-%m-%d')}, {args.threads} threads of {platform.machine()}, torch {torch.__version__}, ",
        end="",
    )
    print(f"{len(dataset)} sequences, default weights {digest(path_of('default'))}\n")
    print("| | J&F | J | F | J recall | frames/s |\n|---|---|---|---|---|---|")
    for title, method, options in rows:
        torch.manual_seed(0)
        predict, _ = predictor(method, **options)
        report = evaluate_masks(predict, dataset)
        frames = sum(row["frames"] for row in report.sequences)
        seconds = sum(row["frames"] * row["seconds_per_frame"] for row in report.sequences)
        o = report.overall
        scores = " | ".join(f"{o[k]:.3f}" for k in ("J&F", "J_mean", "F_mean", "J_recall"))
        print(f"| {title} | {scores} | {frames / seconds:.1f} |", flush=True)
    if args.only in ("", "speed"):
        print(
            "\nframes/s on the first sequence: "
            + ", ".join(f"{q} {speed(dataset, q):.1f}" for q in reversed(QUALITIES))
        )
    if args.only in ("", "confidence"):
        print(f"\nrank correlation of an object's confidence with its true J, fast: {confidence(dataset):.2f}")


if __name__ == "__main__":
    main()
