"""Several processes give the losses of one: the file is both the test and what ``torchrun`` starts."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pixeltrail import catalogue, weights
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError
from pixeltrail.training.loop import _seed, train
from pixeltrail.training.run import Run
from pixeltrail.types import Batch

SMALL = {"steps": 6, "batch_size": 4, "size": 48, "save_every": 3, "warmup": 2, "lr": 2e-5, "precision": "fp32"}
# (lr is small because Adam's first updates are signs: rounding that flips the sign of a gradient near 0 counts in full.)
RUNS = {
    "dul": Run(method="dul", settings={"width": 8, "grid": 2, "cells": 2}, frames=3, shards=2, **SMALL),
    # Two shards a process: the first one's gradients wait for the second's before they are exchanged.
    "mast": Run(method="mast", settings={"width": 8, "channels": 8}, frames=2, shards=4, clip_gradient=1.0, **SMALL),
}


class Scenes:
    """Row ``row`` of any batch is a rendered scene, moved on by ``step``."""

    def __init__(self, run: Run) -> None:
        size = (run.size, run.size)
        self.clips = [render(row, frames=run.frames + run.steps, size=size).frames for row in range(run.batch_size)]
        self.run = run

    def batch(self, step, rows):
        return np.stack([self.clips[row][step : step + self.run.frames] for row in rows])

    def names(self, step):
        return [f"scene {row}" for row in range(self.run.batch_size)]


def train_all(out: Path) -> None:
    torch.set_num_threads(1)  # as in each process of torchrun: another number of threads sums in another order
    for name, run in RUNS.items():
        train(run, Scenes(run), out / name, sources=["scenes"])


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def torchrun(processes: int, out: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), __file__, out],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_two_processes_give_the_losses_of_one(tmp_path):
    done = torchrun(2, tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    threads = torch.get_num_threads()
    train_all(tmp_path / "one")
    torch.set_num_threads(threads)
    for name, run in RUNS.items():
        one, two = metrics(tmp_path / "one" / name), metrics(tmp_path / "two" / name)
        assert len(one) == len(two) == run.steps  # and the second process wrote nothing
        for ours, theirs in zip(one, two, strict=True):
            assert ours.pop("gradient") == pytest.approx(theirs.pop("gradient"), rel=1e-3), name
            assert ours == pytest.approx(theirs, rel=1e-5), name
        assert one[0]["loss"] != one[1]["loss"]
        ours, theirs = (weights.read_tensors(tmp_path / n / name / "last.safetensors") for n in ("one", "two"))
        for key, value in ours.items():  # running statistics of the normalisation among them
            torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    assert json.loads((tmp_path / "two" / "dul" / "environment.json").read_text())["processes"] == 2


def test_each_shard_is_a_batch_of_its_own(tmp_path):
    """The loss is the mean over shards that start from the same tracker; so are normalisation statistics."""
    run = replace(RUNS["dul"], steps=1)
    train(run, Scenes(run), tmp_path, sources=[])
    torch.manual_seed(run.seed)
    tracker = catalogue.build(run.method, **run.settings).train()
    losses, statistics = [], []
    for shard in range(2):
        own = copy.deepcopy(tracker)
        clip = torch.from_numpy(Scenes(run).batch(0, range(2 * shard, 2 * shard + 2))).movedim(-1, 2).float() / 255
        random = torch.Generator().manual_seed(_seed(run.seed, 0, shard))
        losses.append(float(sum(own.objective(own, Batch(clip, random)).values()).detach()))
        statistics.append(dict(own.named_buffers()))
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    state = weights.read_tensors(tmp_path / "state.safetensors")
    for name, first in statistics[0].items():
        expected = (first + statistics[1][name]) / 2 if first.is_floating_point() else first
        torch.testing.assert_close(state[f"model.{name}"], expected, msg=name)


def test_what_does_not_divide_is_said():
    with pytest.raises(InputError, match="multiple of 3"):
        Run(batch_size=8, shards=3)
    run = Run(batch_size=8, shards=1)
    with pytest.raises(InputError, match="take shards = 2"):
        train(run, Scenes(RUNS["dul"]), "never-made", sources=[], devices=2)


if __name__ == "__main__":
    train_all(Path(sys.argv[1]))
