"""Rendered videos, and a short run on them."""

import json

import pytest

from pixeltrail.data.clips import ClipSampler, build_cache
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.training.data import Mixed
from pixeltrail.training.run import Run, changed

RUN = Run(
    method="dul", settings={"width": 8, "grid": 2, "cells": 2}, steps=6, batch_size=2, frames=3, size=48, save_every=2,
    warmup=2, precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for seed in range(3):
        clip = render(seed, frames=12, size=(64, 96), objects=1, speed=3)
        with VideoWriter(root / f"clip{seed}.mp4", 12, (64, 96)) as video:
            for frame in clip.frames:
                video.write(frame)
    (root / "broken.mp4").write_text("this is not a video")
    return root


@pytest.fixture(scope="module")
def videos(folder, tmp_path_factory):
    found, bad = build_cache(folder, tmp_path_factory.mktemp("cache"))
    assert [v.name for v in found] == ["clip0", "clip1", "clip2"]
    assert len(bad) == 1
    assert "broken.mp4" in bad[0]
    return found


def sampler(videos, run=RUN, **changes) -> Mixed:
    run = changed(run, changes, source="test")
    return Mixed(
        ClipSampler(
            videos, batch_size=run.batch_size - round(run.rendered * run.batch_size), frames=run.frames, size=run.size,
            span=run.span, crop=run.crop, seed=run.seed, even=run.even,
        ),
        run,
    )  # fmt: skip


def losses(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
