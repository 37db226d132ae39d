"""Every flow estimator on every pair with true flow, as Markdown: ``benchmarks/flow_results.py FLOW [--weights FILE ...]``.

FLOW holds data sets in folders of their names (sintel, kitti, middlebury, chairs, ...), each as it is published. A cell says
EPE in pixels, seconds a pair, and the most memory of a process that does nothing else, in MB. Each estimator runs in a
process of its own: it reads a pair, estimates once unmeasured, then ``--repeats`` times, of which the quickest counts; the
memory is the process's high-water mark while it does so (Linux; elsewhere that of all pairs so far), Python and the
libraries included: the row of zero flow, which needs nothing, is the floor. Folders of flow that is not true, but some
program's, are named after it and stand below the means.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrail.data.flowsets import DATASETS, FlowSet, flow_set
from pixeltrail.errors import PixeltrailError
from pixeltrail.evaluation.flow import Estimate, score_flow
from pixeltrail.types import Image

Row = dict[str, Any]
SPLITS = {"sintel": ("clean", "final"), "things": ("clean", "final"), "chairs": ("all",)}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HIGH_WATER = Path("/proc/self/clear_refs")
ESTIMATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "zero flow": ("zero", {}),
    "farneback": ("farneback", {}),
    "dis ultrafast": ("dis", {"preset": "ultrafast"}),
    "dis fast": ("dis", {"preset": "fast"}),
    "dis medium": ("dis", {"preset": "medium"}),
    "tvl1": ("tvl1", {}),
    "learned, one look": ("default", {"pyramid": 0}),
    "learned": ("default", {}),
}


def sets(root: Path) -> Iterator[tuple[str, bool, FlowSet]]:
    """Title, whether its flow is true, and pairs of every data set in the folder."""
    for name in DATASETS:
        for split in SPLITS.get(name, ("",)) if (root / name).is_dir() else ():
            yield f"{name} {split}" if len(SPLITS.get(name, ())) > 1 else name, True, flow_set(name, root / name, split)
    for path in sorted(root.glob("*-reference")):
        yield path.name, False, flow_set("folder", path)


def zero(first: Image, second: Image) -> np.ndarray:
    return np.zeros((*first.shape[:2], 2), np.float32)


def estimator(name: str, settings: dict[str, Any], device: str) -> Estimate:
    if name == "zero":
        return zero
    from pixeltrail.flow_methods import flow_method

    return flow_method(name, device=device, **settings)


def use_threads(threads: int) -> None:
    """Of the libraries that an estimator has loaded, so that none is loaded for this."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(threads)


def most_memory() -> float:
    """MB, since the mark was last reset where that is possible."""
    if HIGH_WATER.exists():
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure(args: argparse.Namespace) -> None:
    """The child: print one JSON line for each pair."""
    estimate = estimator(*json.loads(args.measure), args.device)
    for title, true, pairs in sets(args.flow):
        for pair in pairs:
            images, seconds = pair.images(), []
            estimate(*images)  # loads what is loaded late
            use_threads(args.threads)
            if HIGH_WATER.exists():
                HIGH_WATER.write_text("5")  # the mark starts anew
            clock = CLOCKS[args.clock]
            for _ in range(args.repeats):
                start = clock()
                flow = estimate(*images)
                seconds.append(clock() - start)
            memory, truth = most_memory(), pair.truth()
            epe = score_flow(flow, truth.samples, truth.valid)["EPE"]
            row = {"set": title, "true": true, "pair": pair.name, "EPE": epe, "s": min(seconds), "MB": memory}
            print(json.dumps(row), flush=True)


def run(args: argparse.Namespace, name: str, settings: dict[str, Any]) -> list[Row] | str:
    """What a child measured, or the line that it failed with."""
    call = [sys.executable, __file__, str(args.flow), "--measure", json.dumps([name, settings]),
            "--repeats", str(args.repeats), "--threads", str(args.threads), "--device", args.device,
            "--clock", args.clock]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return [json.loads(line) for line in done.stdout.splitlines()]


def mean(rows: list[Row]) -> Row:
    return {key: sum(row[key] for row in rows) / len(rows) for key in ("EPE", "s")} | {
        "MB": max(row["MB"] for row in rows)
    }


def cell(row: Row) -> str:
    return f"{row['EPE']:.3f} / {row['s']:.3f} / {row['MB']:.0f}"


def print_table(found: dict[str, list[Row]]) -> None:
    """Pairs down, estimators across; below, the mean of each set and of all pairs."""
    first = next(iter(found.values()))
    print("| EPE px / s / MB | " + " | ".join(found) + " |")
    print("|---" * (1 + len(found)) + "|")
    for i, row in enumerate(first):
        if row["true"]:
            print(f"| {row['set']} {row['pair']} | " + " | ".join(cell(rows[i]) for rows in found.values()) + " |")
    titles = list(dict.fromkeys(row["set"] for row in first if row["true"]))
    means = [(f"mean of {title}", {title}) for title in titles] + [("**mean of all pairs**", set(titles))]
    means += [(row["set"], {row["set"]}) for row in first if not row["true"]]
    for title, wanted in means:
        kept = [mean([row for row in rows if row["set"] in wanted]) for rows in found.values()]
        print(f"| {title} | " + " | ".join(map(cell, kept)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flow", type=Path, metavar="FLOW")
    parser.add_argument("--weights", nargs="*", default=[], metavar="FILE", help="more estimators: weights or names")
    parser.add_argument("--only", default="", help="only estimators whose title holds this")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall",
        help="cpu: the processor's time, of all threads together, which other work on the machine leaves alone",
    )  # fmt: skip
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        if args.measure:
            measure(args)
            return
        list(sets(args.flow))
    except PixeltrailError as error:
        sys.exit(f"error: {error}")
    estimators = ESTIMATORS | {Path(file).stem: (file, {}) for file in args.weights}
    found: dict[str, list[Row]] = {}
    for title, (name, settings) in estimators.items():
        if args.only.lower() in title.lower():
            rows = run(args, name, settings)
            if isinstance(rows, str):
                print(f"{title}: {rows}", file=sys.stderr)
            elif rows:
                found[title] = rows
                print(f"{title}: {cell(mean([row for row in rows if row['true']]))}", file=sys.stderr)
    if not found:
        sys.exit(f"error: {args.flow}: nothing was measured; a folder with sintel/, kitti/, chairs/ ... is expected")
    print(f"{args.device}, {args.threads} threads, the best of {args.repeats} runs, s by the {args.clock} clock\n")
    print_table(found)


if __name__ == "__main__":
    main()
