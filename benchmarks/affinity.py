"""The hot path against the field's two ways and against the machine: ``python benchmarks/affinity.py``.

For each size, in one process and taking turns, so that whatever else the machine does hits all alike:

- `propagate` (pixeltrail's restricted attention),
- *unfold*: keys unfolded to (C, (2R+1)², N), an einsum with the query, a softmax, and the same for the values,
- *full*: the whole (N, S·N) affinity with everything outside the windows masked,
- *floor*: one large square matrix product with as many operations as the windows need, 2·N·S·(2R+1)²·(C+K).

Times are the best of several runs, in ms, with `propagate`'s median beside it; memory is the most that `propagate` held
beside its arguments, measured in a fresh process (Linux). ``--quick`` leaves out what takes more than seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pixeltrail.affinity import Affinity

Size = tuple[int, int, int, int]  # h, w, C, S
R, K = 12, 4
SIZES: list[Size] = [(60, 107, 256, 1), (60, 107, 256, 5), (120, 214, 64, 1), (120, 214, 64, 5)]
TRACKER: Size = (60, 107, 128, 4)
WINDOW = Affinity(radius=R, temperature=8.0)
TOPK = Affinity(radius=R, temperature=8.0, topk=10)
FULL_LIMIT = 4e9
"""Bytes of an (N, S·N) matrix above which the full affinity is not tried; it needs the double."""


def inputs(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    h, w, c, s = size
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=g) for shape in ((1, c, h, w), (1, s, c, h, w), (1, s, K, h, w)))  # type: ignore[return-value]


def unfold(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    (_, c, h, w), n = query.shape, query[0, 0].numel()

    def windows(maps: Tensor) -> Tensor:
        return F.unfold(maps, 2 * R + 1, padding=R).view(maps.shape[1], -1, n)

    outside = windows(torch.ones(1, 1, h, w))[0] == 0
    scores = [torch.einsum("cn,cln->ln", query.view(c, n), windows(k[None])) for k in keys[0]]
    weight = torch.stack([(s / WINDOW.temperature).masked_fill_(outside, -torch.inf) for s in scores])
    weight = weight.flatten(0, 1).softmax(0).view_as(weight)
    return sum(torch.einsum("ln,kln->kn", a, windows(v[None])) for a, v in zip(weight, values[0])).view(1, -1, h, w)  # type: ignore[union-attr]  # noqa: B905


def full(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    (_, _, h, w), s = query.shape, keys.shape[1]
    y, x = torch.arange(h), torch.arange(w)
    near_y, near_x = (y[:, None] - y).abs() <= R, (x[:, None] - x).abs() <= R
    seen = (near_y[:, None, :, None] & near_x[None, :, None, :]).reshape(h * w, h * w).repeat(1, s)
    scores = query[0].flatten(1).T @ keys[0].transpose(0, 1).flatten(1) / WINDOW.temperature
    weight = scores.masked_fill_(~seen, -torch.inf).softmax(-1)
    return (weight @ values[0].transpose(0, 1).flatten(1).T).T.view(1, -1, h, w)


def timed(
    ways: dict[str, Callable[[], Tensor]], repeats: dict[str, int]
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Milliseconds of each way, the ways taking turns, and what each gave."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, Tensor] = {}
    for turn in range(max(repeats.values())):
        for name, way in ways.items():
            if turn < repeats[name]:
                start = time.perf_counter()
                given[name] = way()
                times[name].append(1e3 * (time.perf_counter() - start))
    return times, given


def peak(size: Size, topk: bool) -> float:
    """MB that one call held beside its arguments and code, in a fresh process."""
    call = [sys.executable, __file__, "--peak", *map(str, size), *(["--topk"] if topk else [])]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def print_peak(size: Size, affinity: Affinity) -> None:
    query, keys, values = inputs(size)
    affinity.propagate(query[..., :9, :9], keys[..., :9, :9], values[..., :9, :9])  # loads code, starts threads
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew

    def status(name: str) -> int:
        return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

    before = status("VmRSS")
    affinity.propagate(query, keys, values)
    print((status("VmHWM") - before) / 1024)


def row(size: Size, affinity: Affinity, quick: bool) -> str:
    h, w, c, s = size
    args = inputs(size)
    flops = 2 * h * w * s * (2 * R + 1) ** 2 * (c + K)
    side = round((flops / 2) ** (1 / 3))
    a, b = torch.randn(side, side), torch.randn(side, side)
    ways: dict[str, Callable[[], Tensor]] = {"ours": lambda: affinity.propagate(*args), "floor": lambda: a @ b}
    repeats = {"ours": 15, "floor": 15}
    if affinity is WINDOW and not quick:
        ways["unfold"], repeats["unfold"] = lambda: unfold(*args), 1
        if 4 * s * (h * w) ** 2 <= FULL_LIMIT:
            ways["full"], repeats["full"] = lambda: full(*args), 3
    timed(ways, {name: 2 if n > 3 else 0 for name, n in repeats.items()})  # warm up
    times, given = timed(ways, repeats)
    for name in ways.keys() & {"unfold", "full"}:
        torch.testing.assert_close(given[name], given["ours"], rtol=1e-4, atol=1e-4)
    best = {name: min(t) for name, t in times.items()}
    ours = best["ours"]

    def against(name: str) -> str:
        return f"{best[name]:8.0f} {best[name] / ours:6.1f}x" if name in best else f"{'-':>8} {'':7}"

    memory = f"{peak(size, affinity is TOPK):5.0f}" if Path("/proc/self/clear_refs").exists() else "    -"
    return (
        f"{h:4}x{w:<4} {c:4} {s:3} {affinity.topk or '-':>5} {ours:8.1f} {statistics.median(times['ours']):8.1f}  "
        f"{against('unfold')} {against('full')} {best['floor']:8.1f} {ours / best['floor']:5.1f}x  {memory}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="propagate and the floor only")
    parser.add_argument("--peak", type=int, nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--topk", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    if args.peak:
        print_peak(tuple(args.peak), TOPK if args.topk else WINDOW)
        return
    print(f"radius {R}, K={K}, float32, {args.threads} of {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{'cells':>9} {'C':>4} {'S':>3} {'topk':>5} {'ours':>8} {'median':>8}  {'unfold':>8} {'':7} {'full':>8} {'':7} "
          f"{'floor':>8} {'':6} {'MB':>6}")  # fmt: skip
    for size in SIZES:
        print(row(size, WINDOW, args.quick), flush=True)
    print(row(TRACKER, TOPK, args.quick), flush=True)
    print("\ntime per cell, C=128, one reference:")
    for name, h, w in (("240p", 30, 54), ("360p", 45, 80), ("480p", 60, 107), ("720p", 90, 160), ("1080p", 135, 240)):
        query, keys, values = inputs((h, w, 128, 1))
        ways: dict[str, Callable[[], Tensor]] = {"ours": lambda a=(query, keys, values): WINDOW.propagate(*a)}  # type: ignore[misc]
        best = min(timed(ways, {"ours": 10})[0]["ours"])
        print(f"{name:>6} {h:4}x{w:<4} {best:8.1f} ms {1e3 * best / (h * w):6.2f} us/cell", flush=True)


if __name__ == "__main__":
    main()
