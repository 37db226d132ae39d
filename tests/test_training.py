"""The loop: one seed decides everything, an interrupted run resumes bit for bit, and each objective is its formula."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixeltrail import weights
from pixeltrail.data.clips import ClipSampler, build_cache, read_cache
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.errors import InputError, PixeltrailError, UnknownNameError
from pixeltrail.methods.dul import AnchorSelfTraining, _view, _zoom_and_flip
from pixeltrail.training.data import Mixed
from pixeltrail.training.loop import train
from pixeltrail.training.run import Run, changed, parse_set, read_recipe, to_toml
from pixeltrail.types import Batch

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


def sampler(videos, run=RUN) -> Mixed:
    return Mixed(
        ClipSampler(
            videos, batch_size=run.batch_size, frames=run.frames, size=run.size, span=run.span, crop=run.crop,
            seed=run.seed,
        ),
        run,
    )  # fmt: skip


def losses(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_batches_depend_on_seed_and_number_alone(videos):
    a, b = sampler(videos), sampler(videos)
    b.batch(0)
    assert np.array_equal(a.batch(3), b.batch(3))
    assert not np.array_equal(a.batch(3), a.batch(4))
    assert a.batch(0).shape == (2, 3, 48, 48, 3)
    mixed = sampler(videos, changed(RUN, {"rendered": 0.5}, source="test"))
    assert mixed.batch(0).shape == (2, 3, 48, 48, 3)
    assert np.array_equal(mixed.batch(1), mixed.batch(1))


def test_a_cache_is_data_itself(videos, folder, tmp_path):
    from pathlib import Path

    cache = Path(videos[0].path).parent
    again, bad = build_cache(cache, tmp_path)  # a machine without a decoder is given the cache as its folder
    assert again == read_cache(cache)
    assert not bad
    assert [v.name for v in read_cache(cache, only=["clip1"])] == ["clip1"]
    with pytest.raises(InputError, match="no readable video"):
        build_cache(tmp_path, tmp_path / "none")


def test_two_runs_are_equal_and_an_interrupted_one_resumes_bit_for_bit(videos, tmp_path):
    whole = train(RUN, sampler(videos), tmp_path / "whole", sources=["test"])

    def stop(step, _):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(RUN, sampler(videos), tmp_path / "cut", sources=["test"], on_step=stop)
    resumed = train(RUN, sampler(videos), tmp_path / "cut", sources=["test"], resume=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert len(losses(tmp_path / "whole")) == RUN.steps
    card = weights.read_card(tmp_path / "cut" / "last.safetensors")
    assert card["steps"] == RUN.steps
    assert card["trained_on"] == ["test"]
    assert weights.load(tmp_path / "cut" / "last.safetensors").stride == 8
    assert read_recipe(tmp_path / "cut" / "recipe.toml") == RUN
    with pytest.raises(InputError, match="lr"):
        train(changed(RUN, {"lr": 1.0}, source=""), sampler(videos), tmp_path / "cut", sources=[], resume=True)


def test_a_loss_that_is_not_finite_stops_before_the_step(videos, tmp_path):
    class Broken:
        def batch(self, step):
            return sampler(videos).batch(step)

    run = changed(RUN, {"lr": 1e30, "steps": 50, "save_every": 1}, source="test")
    with pytest.raises(PixeltrailError, match="not finite"):
        train(run, Broken(), tmp_path, sources=[])
    for tensor in weights.read_tensors(tmp_path / "last.safetensors").values():
        assert torch.isfinite(tensor.float()).all()


def test_recipes_are_checked(tmp_path):
    assert changed(Run(), parse_set(["lr=1e-4", "steps=5", "settings.width=16", "method=mast"]), source="--set") == Run(
        lr=1e-4, steps=5, settings={"width": 16}, method="mast"
    )
    with pytest.raises(UnknownNameError, match="did you mean batch_size"):
        changed(Run(), {"batchsize": 3}, source="r.toml")
    for values in ({"steps": 0}, {"lr": 0.0}, {"precision": "fp8"}, {"span": [2, 1]}, {"steps": "many"}, {"crop": 3}):
        with pytest.raises(InputError):
            changed(Run(), values, source="r.toml")
    file = tmp_path / "r.toml"
    file.write_text(to_toml(RUN))
    assert read_recipe(file) == RUN
    file.write_text("steps = = 3")
    with pytest.raises(InputError, match="not TOML"):
        read_recipe(file)


def test_the_recipes_that_we_ship_can_be_read():
    from pathlib import Path

    files = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
    assert {f.stem for f in files} >= {"dul", "mast", "corrflow"}
    for file in files:
        assert read_recipe(file).method == file.stem


class TestDul:
    def test_the_second_view_is_the_map_that_it_says(self):
        g = torch.Generator().manual_seed(2)
        clip = F.interpolate(torch.rand(3, 3, 8, 8, generator=g), 48, mode="bicubic")[:, None]
        scale, shift = _zoom_and_flip(3, (48, 48), 0.5, g)
        other = _view(clip, scale, shift)
        for b in range(3):
            for x, y in ((5, 7), (20, 40)):
                p = scale[b, :, 0, 0] * torch.tensor([x, y]) + shift[b, :, 0, 0]
                assert (p >= -1e-4).all()
                assert (p <= 47 + 1e-4).all()
                x0, y0 = (int(v.clamp(0, 46)) for v in p)
                around = clip[b, 0, :, y0 : y0 + 2, x0 : x0 + 2]
                low, high = around.amin((1, 2)) - 1e-4, around.amax((1, 2)) + 1e-4
                assert ((other[b, 0, :, y, x] >= low) & (other[b, 0, :, y, x] <= high)).all()

    def test_self_training_is_cross_entropy_with_the_teachers_choice_of_own_anchors(self):
        torch.manual_seed(0)
        objective = AnchorSelfTraining(8, grid=2)
        b, t, d, h, w, a = 2, 2, 5, 3, 4, 3
        keys, teacher = (F.normalize(torch.randn(b, t, d, h, w), dim=2) for _ in range(2))
        anchors = F.normalize(torch.randn(b, a, d), dim=2)
        source = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")).float()
        source = torch.stack((source, w - 1 - source * torch.tensor([1.0, 0]).view(2, 1, 1)))
        source[1, 1] = torch.arange(h).float().view(h, 1)
        total = 0.0
        for i in range(b):
            for s in range(t):
                for y in range(h):
                    for x in range(w):
                        own = [float(teacher[i, s, :, y, x] @ anchors[i, k]) for k in range(a)]
                        label = i * a + int(np.argmax(own))
                        px, py = (int(v) for v in source[i, :, y, x])
                        logits = keys[i, s, :, py, px] @ anchors.flatten(0, 1).T / objective.temperature
                        total += float(torch.logsumexp(logits, 0) - logits[label])
        ours = objective._self_training(keys, teacher, anchors, source)
        assert float(ours) == pytest.approx(total / (b * t * h * w), rel=1e-4)

    def test_no_gradient_reaches_the_teacher(self):
        objective = AnchorSelfTraining(8)
        keys, teacher, anchors = (torch.randn(1, 1, 4, 2, 2, requires_grad=True), torch.randn(1, 1, 4, 2, 2, requires_grad=True),
                                  torch.randn(1, 3, 4, requires_grad=True))  # fmt: skip
        source = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="xy")).float()[None]
        objective._self_training(keys, teacher, anchors, source).backward()
        assert keys.grad is not None
        assert anchors.grad is not None
        assert teacher.grad is None


def _clip(seed: int, frames: int) -> torch.Tensor:
    clip = render(seed, frames=frames, size=(32, 40), objects=1).frames
    return torch.from_numpy(clip).movedim(-1, 1)[None].float() / 255


def test_mast_is_huber_on_the_channel_that_was_hidden():
    from dataclasses import replace

    from pixeltrail import catalogue
    from pixeltrail.bottleneck import normalised_lab

    torch.manual_seed(0)
    tracker = catalogue.build("mast", width=8, channels=8).eval()
    x = _clip(1, 3)
    term = tracker.objective(tracker, Batch(x, torch.Generator().manual_seed(4)))["colour"]
    seen = tracker.bottleneck(x, torch.Generator().manual_seed(4))
    features = tracker.embed_clip(seen.view)
    truth = normalised_lab(x)[:, :, list(seen.hidden)]
    affinity = replace(tracker.protocol.affinity, radius=6)
    copied = affinity(features[:, 2], features[:, :2]).copy(truth[:, :2, :, ::4, ::4])
    wide = F.interpolate(copied, (29, 37), mode="bilinear", align_corners=True)
    wide = F.pad(wide, (0, 3, 0, 3), mode="replicate")
    error = 20 * (wide - truth[:, 2])
    expected = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
    assert float(term.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_corrflow_is_cross_entropy_on_copied_classes_and_its_parts_can_be_switched_off():
    from dataclasses import replace

    from pixeltrail import catalogue
    from pixeltrail.colour import nearest_colour, rgb_to_lab

    torch.manual_seed(0)
    x = _clip(2, 3)
    terms = {}
    for name, cycle in (("both", 0.1), ("forward", 0.0)):
        torch.manual_seed(0)
        tracker = catalogue.build("corrflow", width=8, channels=8, cycle=cycle, sampling=(1.0, 1.0)).eval()
        terms[name] = tracker.objective(tracker, Batch(x, torch.Generator().manual_seed(7)))
    assert set(terms["forward"]) == {"forward"}
    assert set(terms["both"]) == {"forward", "cycle"}
    assert float(terms["both"]["cycle"].detach()) > 0

    # With sampling (1, 1) every step starts from true colours.
    random = torch.Generator().manual_seed(7)
    features = tracker.embed_clip(tracker.bottleneck(x, random).view)
    centroids = tracker.objective.centroids
    classes = nearest_colour(rgb_to_lab(x)[:, :, 1:], centroids)
    affinity = replace(tracker.protocol.affinity, radius=6)
    expected = 0.0
    for t in (1, 2):
        colours = F.one_hot(classes[:, t - 1, ::4, ::4], 16).movedim(-1, 1).float()
        copied = affinity(features[:, t], features[:, t - 1 : t]).copy(colours[:, None])
        wide = F.pad(
            F.interpolate(copied, (29, 37), mode="bilinear", align_corners=True), (0, 3, 0, 3), mode="replicate"
        )
        likely = wide.gather(1, classes[:, t][:, None]) + 1e-8
        expected -= float(likely.log().mean().detach())
    assert float(terms["forward"]["forward"].detach()) == pytest.approx(expected, rel=1e-4)
