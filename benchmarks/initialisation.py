"""Does flow help a tracker to begin, as Markdown: DUL from random weights, and from a trunk that CPFS trained.

``python benchmarks/initialisation.py CLIPS DAVIS --steps N`` trains CPFS on a ResNet-18 of width 32 by
recipes/small/cpfs.toml, then DUL by recipes/small/dul.toml from either, both for N steps, and DUL for N / 4 too (a run that
was stopped goes on). It tracks under DUL's own protocol, frames at 240 pixels.

The file is itself a method: ``pixeltrail train --method benchmarks/initialisation.py --set settings.trunk=FILE ...``.
"""

from __future__ import annotations

import torch
from measure import ROOT, arguments, heading, line, own, scores_for, setting, trained

from pixeltrail import weights
from pixeltrail.methods import dul
from pixeltrail.tracker import Tracker
from pixeltrail.training.run import read_recipe

SMALL = ROOT / "recipes" / "small"


def build(*, trunk: str = "", width: int = 32, **settings: float) -> Tracker:
    """DUL; ``trunk``: weights of CPFS on a ResNet-18 of the same width, whose first three stages are taken over."""
    tracker = dul.build(width=width, **settings)
    if trunk:
        tensors = weights.read_tensors(trunk)
        tracker.encoder.load_state_dict({k: tensors[f"encoder.trunk.{k}"] for k in tracker.encoder.state_dict()})
    return tracker


def main() -> None:
    args = arguments(__doc__, "data").parse_args()
    scores = scores_for(args)
    full = args.steps or read_recipe(SMALL / "dul.toml").steps
    print(f"{setting(scores)}; recipes/small/dul.toml, {full} steps and a quarter of them {' '.join(args.set)}\n")
    trunk = trained(
        args.out / "cpfs", args, 'settings.trunk="resnet18"', "settings.width=32", 'settings.loss="kta"',
        recipe=SMALL / "cpfs.toml",
    )  # fmt: skip
    heading("240 pixels", "J&F", "J", "F")
    starts = {"random": "", "CPFS": str(trunk.resolve())}
    for title, file in starts.items():
        torch.manual_seed(0)
        row = scores(f"{title}, 0 steps", own(build(trunk=file).eval()))
        line(f"{title} weights, 0 steps", row["J&F"], row["J"], row["F"])
    for steps in (full // 4, full):
        for title, file in starts.items():
            args.steps = steps
            out = args.out / f"{title}-{steps}"
            settings = [f'settings.trunk="{file}"'] if file else []
            tracker = build()
            weights.load_into(
                tracker, trained(out, args, *args.set, *settings, recipe=SMALL / "dul.toml", method=__file__)
            )
            row = scores(f"{title}, {steps} steps", own(tracker.eval().to(args.device)))
            line(f"{title} weights, {steps} steps", row["J&F"], row["J"], row["F"])
    scores.note()


if __name__ == "__main__":
    main()
