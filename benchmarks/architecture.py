"""What the encoder's shape is worth, as Markdown: depth, width, stride, and a loss on an intermediate layer.

``python benchmarks/architecture.py CLIPS DAVIS --steps N`` trains variants of DUL's encoder by recipes/small/dul.toml (a run
that was stopped goes on) and tracks with each under DUL's own protocol, frames at 240 pixels.

The file is itself a method: ``pixeltrail train --method benchmarks/architecture.py --set settings.depth=34 ...``.
"""

from __future__ import annotations

import statistics
import time

import torch
from measure import ROOT, arguments, heading, line, own, scores_for, setting, trained
from torch import Tensor, nn

from pixeltrail import weights
from pixeltrail.methods import dul
from pixeltrail.nets.resnet import ResNet
from pixeltrail.tracker import Tracker
from pixeltrail.types import Batch

BASE = "ResNet-18, width 32, stride 8"
VARIANTS = {
    BASE: (),
    "depth: ResNet-10": ("settings.depth=10",),
    "depth: ResNet-34": ("settings.depth=34",),
    "width 16": ("settings.width=16",),
    "width 64": ("settings.width=64",),
    "stride 4": ("settings.stride=4",),
    "stride 16": ("settings.stride=16",),
    "loss on stage 2 as well": ("settings.intermediate=0.5",),
}


class Cut(nn.Module):
    """The first ``stages`` stages of a ResNet, sharing its weights."""

    def __init__(self, encoder: ResNet, stages: int, stride: int) -> None:
        super().__init__()
        self.encoder, self.stages, self.stride = encoder, encoder.stages[:stages], stride

    def forward(self, x: Tensor) -> Tensor:
        net = self.encoder
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for stage in self.stages:
            x = getattr(net, stage)(x)
        return x


class AtTwoDepths(nn.Module):
    """``last`` on the encoder's output, and ``weight`` times ``early`` on what its second stage puts out."""

    def __init__(self, last: nn.Module, early: nn.Module, weight: float, stride: int) -> None:
        super().__init__()
        self.last, self.early, self.weight, self.stride = last, early, weight, stride

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        terms = self.last(tracker, batch)
        cut = Tracker(
            encoder=Cut(tracker.encoder, 2, self.stride), bottleneck=tracker.bottleneck, protocol=tracker.protocol,
            objective=self.early,
        )  # fmt: skip
        early = self.early(cut, batch)  # looks at views of its own: the lower stages are run twice
        return terms | {f"early_{name}": self.weight * term for name, term in early.items()}


def build(*, width: int = 32, stride: int = 8, intermediate: float = 0.0, **settings: float) -> Tracker:
    """DUL; ``intermediate`` is the weight of its loss on the second stage. Other settings are those of DUL."""
    tracker = dul.build(width=width, stride=stride, **settings)
    if intermediate:
        own = {k: v for k, v in settings.items() if k != "depth"}
        early = dul.AnchorSelfTraining(2 * width, **own)
        tracker.objective = AtTwoDepths(tracker.objective, early, intermediate, min(stride, 8))
    return tracker


@torch.inference_mode()
def milliseconds(tracker: Tracker) -> float:
    """Median time to embed a frame of 240 × 428."""
    frame, times = torch.rand(1, 3, 240, 428, device=tracker.device), []
    for _ in range(12):
        start = time.perf_counter()
        tracker.embed(frame).sum().item()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def main() -> None:
    args = arguments(__doc__, "data").parse_args()
    scores = scores_for(args)
    recipe = ROOT / "recipes" / "small" / "dul.toml"
    print(f"{setting(scores)}; recipes/small/dul.toml, {args.steps or 'its own'} steps {' '.join(args.set)}\n")
    heading(
        "240 pixels",
        "million parameters",
        "ms to embed a frame",
        "ms to track one",
        "J&F",
        "J",
        "F",
        "against the first",
    )
    base = None
    for title, settings in VARIANTS.items():
        if args.only in title:
            out = args.out / title.replace(": ", "-").replace(", ", "-").replace(" ", "-")
            file = trained(out, args, *args.set, *settings, recipe=recipe, method=__file__)
            tracker = build(**weights.read_card(file)["settings"])
            weights.load_into(tracker, file)
            tracker.eval().to(args.device)
            found = scores(title, own(tracker))
            base = found["J&F"] if title == BASE else base
            size = sum(p.numel() for p in tracker.encoder.parameters()) / 1e6
            gain = None if base is None or title == BASE else found["J&F"] - base
            cost = f"{milliseconds(tracker):.0f}", f"{1000 / found.rate:.0f}"
            line(title, f"{size:.2f}", *cost, found["J&F"], found["J"], found["F"], gain)
    scores.note()


if __name__ == "__main__":
    main()
