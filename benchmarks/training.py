"""Throughput of training: ``python benchmarks/training.py [--data FOLDER] [--methods dul mast] [--device cuda]``.

Samples (clips) a second, the share of the time that is spent waiting for data, and how much longer a step takes than the
same encoder's bare forward and backward pass over the same frames, once each. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from pixeltrail import catalogue, weights
from pixeltrail.data.clips import CachedVideo
from pixeltrail.data.synthetic import render
from pixeltrail.training.data import Mixed, sampler_for
from pixeltrail.training.loop import settled, train
from pixeltrail.training.run import Run, changed, parse_set, read_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
WARM = 3  # steps that are not counted


def rendered_cache(folder: Path, videos: int = 12) -> Path:
    """A cache of frames like that of real video, without decoding any."""
    folder.mkdir()
    entries = []
    for k in range(videos):
        np.save(folder / f"{k}.npy", render(k, frames=30, size=(240, 426)).frames)
        entries.append(asdict(CachedVideo(f"scene{k}", f"{k}.npy", 30, 15.0)))
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


def loop_seconds(run: Run, sampler: Mixed, device: str, out: Path) -> tuple[float, float]:
    """Seconds a step, and the share of them spent waiting for data."""
    ends: list[float] = []
    train(run, sampler, out, sources=[], device=device, on_step=lambda *_: ends.append(time.perf_counter()))
    return (ends[-2] - ends[WARM - 1]) / (len(ends) - 1 - WARM), weights.read_card(out / "last.safetensors")["waited"]


def bare_seconds(run: Run, sampler: Mixed, device: str) -> float:
    """Seconds that one batch takes through the encoder and back, in the same precision and layout."""
    tracker = catalogue.build(run.method, **run.settings).to(device, memory_format=torch.channels_last).train()
    clip = torch.from_numpy(sampler.batch(0)).to(device).movedim(-1, 2).float() / 255
    frames = tracker.bottleneck(clip, torch.Generator().manual_seed(0))
    view = frames.view.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    began = 0.0
    for step in range(run.steps):
        if step == WARM:
            _wait(device)
            began = time.perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=run.precision == "bf16"):
            loss = tracker.encoder(view).float().square().mean()
        loss.backward()
        tracker.zero_grad(set_to_none=True)
    _wait(device)
    return (time.perf_counter() - began) / (run.steps - WARM)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with videos (default: rendered clips)")
    parser.add_argument("--methods", nargs="+", default=["dul", "mast"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", nargs="*", default=["batch_size=8", "frames=3", "size=128", "settings.width=32"])
    args = parser.parse_args()
    print(f"{args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.steps} steps; "
          f"{' '.join(args.set)}\n")  # fmt: skip
    print("| method | precision | workers | samples/s | waiting for data | step, ms | encoder alone, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = args.data or rendered_cache(folder / "rendered")
        for method in args.methods:
            run = changed(read_recipe(RECIPES / f"{method}.toml"), parse_set(args.set), source="--set")
            run = settled(replace(run, steps=args.steps + WARM, save_every=10**9), args.device)
            sampler, _, _ = sampler_for(run, data, folder / "frames")
            step, waited = loop_seconds(run, sampler, args.device, folder / method)
            bare = bare_seconds(run, sampler, args.device)
            print(
                f"| {method} | {run.precision} | {run.workers} | {run.batch_size / step:.1f} | {waited:.1%} | "
                f"{1000 * step:.0f} | {1000 * bare:.0f} | {step / bare:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
