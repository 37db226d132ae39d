"""What adaptation to one's own video gains: ``python benchmarks/adapt.py DAVIS`` prints a Markdown table.

Each sequence is adapted to by itself, from its frames alone; masks only judge. Before and after at equal settings.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch

from pixeltrail.data.davis import Davis
from pixeltrail.evaluation.report import evaluate_masks
from pixeltrail.predictors import load_tracker
from pixeltrail.protocols import QUALITIES
from pixeltrail.tracker import Tracker
from pixeltrail.training.adapt import adapt
from pixeltrail.training.footage import read_footage
from pixeltrail.weights import digest, path_of

ROOT = Path(__file__).parents[1]


def score(tracker: Tracker, dataset: Davis) -> float:
    """J&F."""
    return float(evaluate_masks(lambda f, first: (t.ids for t in tracker.track(f, first)), dataset).overall["J&F"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("davis", type=Path, nargs="?", default=ROOT.parent / "shared" / "data" / "davis-dev")
    parser.add_argument("--method", default="default", help="default or a .safetensors file")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--quality", choices=list(QUALITIES), default="fast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="sequences, with commas between them")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tracker = load_tracker(args.method, quality=args.quality)
    file = path_of(args.method)
    if file is None:
        parser.error(f"{args.method}: has no learned weights")
    print(
        f"{time.strftime('%Y-%m-%d')}, {args.threads} threads of {platform.machine()}, torch {torch.__version__}, ",
        end="",
    )
    print(f"weights {digest(file)}, quality {args.quality}, at most {args.minutes:g} minutes a sequence\n")
    print(
        "| sequence | before | after | gain | other view | home again | steps | weights |\n|---|---|---|---|---|---|---|---|"
    )
    scores = []
    for sequence in Davis(args.davis, args.only.split(",") if args.only else None):
        dataset = Davis(args.davis, [sequence.name])
        footage = read_footage(sequence.frames[0].parent, tracker)
        adapted = adapt(tracker, [footage], minutes=args.minutes)
        before = score(tracker, dataset)
        after = before if adapted.kept == "original" else score(adapted.tracker, dataset)
        scores.append((before, after))
        guards = [f"{getattr(adapted.before, k):.3f} → {getattr(adapted.after, k):.3f}" for k in ("view", "cycle")]
        row = (f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}", *guards, adapted.steps, adapted.kept)
        print(f"| {sequence.name} | {' | '.join(map(str, row))} |", flush=True)
    before, after = np.mean(scores, 0)
    print(f"| **mean** | **{before:.3f}** | **{after:.3f}** | **{after - before:+.3f}** | | | | |")


if __name__ == "__main__":
    main()
