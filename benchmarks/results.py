"""The tables of results, as Markdown: ``python benchmarks/results.py DAVIS [--squeezenet FILE]``.

First the default weights at each quality, features learned from labels, raw colour and optical flow at 480p. Then every
file in checkpoints/ beside its own untrained encoder, once under its method's protocol and once under one that is the
same for all, frames at 240 pixels. Then speed, and how well confidence predicts the true overlap.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import CHECKPOINTS, ROOT, Scores, arguments, common, heading, line, own, scores_for, setting, untrained

from pixeltrail import weights
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.predictors import BASELINES, load_tracker
from pixeltrail.protocols import QUALITIES
from pixeltrail.tracker import Tracker

# J&F on DAVIS-2017 val, another and harder test, with the authors' encoders and training sets: Vondrick et al. 2018 and
# Wang et al. 2019 as MAST and CorrFlow cite and release them, Lai & Xie 2019 (OxUvA), Li et al. 2019 (with box tracking,
# their README), Lai et al. 2020 (YouTube-VOS), Jabri et al. 2020 (their README), Araslanov et al. 2021 (YouTube-VOS).
PUBLISHED = {
    "colorization": 0.340, "cycletime": 0.487, "corrflow": 0.503, "uvc": 0.595, "mast": 0.655, "crw": 0.676,
    "dul": 0.693,
}  # fmt: skip


def as_default(method: str, quality: str, device: str) -> Tracker:
    """Somebody else's features, run exactly as the default weights are."""
    tracker = load_tracker(method, device=device)
    tracker.protocol = load_tracker("default", quality=quality).protocol
    return tracker


def yardsticks(scores: Scores, supervised: str, wanted: Callable[[str], bool], device: str) -> None:
    """The default weights at 480p, and what they are measured against."""
    heading("480p", "J&F", "J", "F", "J recall", "frames/s")

    def row(title: str, make: Callable[[], Tracker | str]) -> None:
        if wanted(title):
            found = scores(title, make())
            line(title, *(found[k] for k in ("J&F", "J", "F", "J_recall")), f"{found.rate:.1f}")

    for quality in reversed(QUALITIES):
        row(f"default, {quality}", lambda quality=quality: load_tracker("default", quality=quality, device=device))
    row("default, common protocol", lambda: common(load_tracker("default", device=device), None))
    if supervised:
        row(
            "SqueezeNet (ImageNet labels), common protocol",
            lambda: common(load_tracker(supervised, device=device), None),
        )
        for quality in reversed(QUALITIES):
            title = f"SqueezeNet (ImageNet labels), as the default, {quality}"
            row(title, lambda quality=quality: as_default(supervised, quality, device))
    default = weights.ASSETS / "default.safetensors"
    row("untrained default, common protocol", lambda: common(untrained(default).to(device), None))
    row("raw colour", lambda: load_tracker("colour", device=device))
    for name in reversed(BASELINES):
        row(name, lambda name=name: name)


def methods(scores: Scores, folder: Path, supervised: str, wanted: Callable[[str], bool], device: str) -> None:
    """Every weights file beside its untrained encoder, frames at 240 pixels."""
    heading(
        "240 pixels", "J&F", "J", "F", "untrained J&F", "gain", "common protocol: J&F", "untrained", "gain", "frames/s",
        "published J&F, DAVIS-2017 val (another test)",
    )  # fmt: skip
    for path in [*sorted(folder.glob("*.safetensors")), weights.ASSETS / "default.safetensors"]:
        if not wanted(path.stem):
            continue
        tracker, before = weights.load(path, device=device), untrained(path).to(device)
        trained, start = scores(path.stem, own(tracker)), scores(f"{path.stem}, untrained", own(before))
        same = scores(f"{path.stem}, common", common(tracker))
        same_start = scores(f"{path.stem}, untrained, common", common(before))
        line(
            path.stem, trained["J&F"], trained["J"], trained["F"], start["J&F"], trained["J&F"] - start["J&F"],
            same["J&F"], same_start["J&F"], same["J&F"] - same_start["J&F"], f"{trained.rate:.1f}",
            PUBLISHED.get(str(weights.read_card(path)["method"])) if path.stem != "default" else None,
        )  # fmt: skip
    if supervised and wanted("SqueezeNet"):
        found = scores("SqueezeNet", common(load_tracker(supervised, device=device)))
        line("SqueezeNet (ImageNet labels)", *[None] * 5, found["J&F"], None, None, f"{found.rate:.1f}", None)


def rank(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def confidence(scores: Scores) -> float:
    """Spearman's correlation between an object's confidence and its true overlap, over all frames and sequences."""
    tracker, said, true = load_tracker("default", quality="fast"), [], []
    for sequence in scores.sequences:
        for tracked, truth in zip(tracker.track(sequence.images(), sequence.first()), sequence.truth(), strict=True):
            if tracked.index:
                for number, value in tracked.objects.items():
                    said.append(value)
                    true.append(jaccard(tracked.ids == number, truth == number))
    return float(np.corrcoef(rank(said), rank(true))[0, 1])


def speed(scores: Scores, quality: str) -> float:
    """Frames per second of a quality from frame 9 to 25 of the first sequence, when its memory is full."""
    sequence = scores.sequences[0]
    frames = [image for image, _ in zip(sequence.images(), range(26), strict=False)]
    results = load_tracker("default", quality=quality).track(frames, sequence.first())
    for _ in range(9):
        next(results)
    start = time.perf_counter()
    count = sum(1 for _ in results)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--squeezenet", type=Path, help="weights for examples/imagenet_features.py")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    parser.add_argument("--only", default="", help="only rows whose title holds this; also speed, confidence")
    args = parser.parse_args()
    scores = scores_for(args)
    supervised = ""
    if args.squeezenet:
        os.environ["SQUEEZENET"] = str(args.squeezenet)
        supervised = str(ROOT / "examples" / "imagenet_features.py")

    def wanted(title: str) -> bool:
        return args.only.lower() in title.lower()

    default = weights.digest(weights.ASSETS / "default.safetensors")
    print(f"{setting(scores)}, default weights {default}\n")
    if args.only not in ("speed", "confidence"):
        yardsticks(scores, supervised, wanted, args.device)
        print()
        methods(scores, args.checkpoints, supervised, wanted, args.device)
    if args.only in ("", "speed"):
        rates = ", ".join(f"{quality} {speed(scores, quality):.1f}" for quality in reversed(QUALITIES))
        print(f"\nframes/s on the first sequence: {rates}")
    if args.only in ("", "confidence"):
        print(f"\nrank correlation of an object's confidence with its true J, fast: {confidence(scores):.2f}")
    scores.note()


if __name__ == "__main__":
    main()
