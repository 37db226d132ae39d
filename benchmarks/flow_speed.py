"""PWC-Net's cost volume and whole forward against the same network built on ``F.unfold``: ``python benchmarks/flow_speed.py``.

For frames of 448 x 1024, in one process and taking turns, so that whatever else the machine does hits all alike:

- `correlation` (pixeltrail's cost volume),
- *unfold*: the second map unfolded to (C, (2R+1)², h, w), multiplied by the first, averaged over C: the usual substitute
  where the CUDA extension of the field does not build,
- *slices*: one product and mean for each of the (2R+1)² displacements.

Times are the best of several turns, in ms, with the ratio to pixeltrail's; with ``--processor`` of all threads together,
for a machine that is busy with other things. All ways are checked to give the same numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from pixeltrail.affinity import correlation
from pixeltrail.flow import pwcnet

Volume = Callable[..., Tensor]


def unfold(first: Tensor, second: Tensor, *, radius: int) -> Tensor:
    windows = F.unfold(second, 2 * radius + 1, padding=radius)
    return (first[:, :, None] * windows.view(*first.shape[:2], -1, *first.shape[2:])).mean(1)


def slices(first: Tensor, second: Tensor, *, radius: int) -> Tensor:
    (h, w), padded = first.shape[-2:], F.pad(second, [radius] * 4)
    side = range(2 * radius + 1)
    return torch.stack([(first * padded[..., i : i + h, j : j + w]).mean(1) for i in side for j in side], 1)


WAYS: dict[str, Volume] = {"pixeltrail": correlation, "unfold": unfold, "slices": slices}


def turns(runs: dict[str, Callable[[], Tensor]], count: int, clock: Callable[[], float]) -> dict[str, float]:
    """The best time of each, in ms. The first turn warms up, and compares what they give."""
    expected = next(iter(runs.values()))()
    for name, run in runs.items():
        error = float((run() - expected).abs().max() / expected.abs().max())
        assert error < 1e-3, f"{name} gives something else: {error:.1e}"
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(count):
        for name, run in runs.items():
            start = clock()
            run()
            best[name] = min(best[name], 1e3 * (clock() - start))
    return best


def show(what: str, best: dict[str, float]) -> None:
    cells = "  ".join(f"{name} {ms:8.1f} ({ms / best['pixeltrail']:5.1f}x)" for name, ms in best.items())
    print(f"{what:34} {cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(448, 1024), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--processor", action="store_true", help="processor time instead of time")
    args = parser.parse_args()
    clock = time.process_time if args.processor else time.perf_counter
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    height, width = args.size
    network = pwcnet.PWCNet().eval()
    print(f"{width}x{height}, {args.threads} threads, torch {torch.__version__}; ms, and times pixeltrail's")
    total = dict.fromkeys(WAYS, 0.0)
    with torch.inference_mode():
        for level, channels in zip(range(6, 1, -1), (196, 128, 96, 64, 32), strict=True):
            first, second = torch.randn(2, 1, channels, height >> level, width >> level)
            runs = {name: partial(way, first, second, radius=4) for name, way in WAYS.items()}
            best = turns(runs, args.turns, clock)
            total = {name: ms + best[name] for name, ms in total.items()}
            show(f"cost volume, level {level}: {channels}x{height >> level}x{width >> level}", best)
        show("cost volumes of a forward", total)

        first, second = torch.rand(2, 1, 3, height, width)

        def forward(way: Volume) -> Tensor:
            with patch.object(pwcnet, "correlation", way):
                flow: Tensor = network(first, second)[-1]
            return flow

        runs = {name: partial(forward, way) for name, way in WAYS.items()}
        show("whole forward", turns(runs, args.turns, clock))


if __name__ == "__main__":
    main()
