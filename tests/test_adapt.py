"""Adaptation: the guard knows good features from bad ones, and keeps the original weights bit for bit where nothing helps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixeltrail import catalogue, cli, weights
from pixeltrail.data.images import write_image
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.errors import InputError
from pixeltrail.methods.dul import AnchorSelfTraining
from pixeltrail.nets.colour import RawColour
from pixeltrail.predictors import load_tracker, raw_colour
from pixeltrail.training import adapt as module
from pixeltrail.training.adapt import ROUND, adapt, adapt_file, with_statistics
from pixeltrail.training.footage import STRETCH, Crops, Footage, read_footage
from pixeltrail.training.guard import Guard, guard
from pixeltrail.types import LabelMap

SIZE = (64, 80)
TINY = replace(ROUND, steps=3, save_every=3, size=48, precision="fp32", warmup=1)


def tracker(method: str = "dul", **settings: object):
    torch.manual_seed(1)
    made = catalogue.build(method, **({"width": 8} | settings))
    made.protocol = replace(made.protocol, size=64)
    return made.eval()


@pytest.fixture(scope="module")
def clip():
    return render(5, frames=24, size=SIZE, objects=2, speed=2)


@pytest.fixture(scope="module")
def video(clip, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "mine.mp4"
    with VideoWriter(path, 24, SIZE) as writer:
        for image in clip.frames:
            writer.write(image)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Weights without the objective's parameters, in half precision, as the default has them."""
    path = tmp_path_factory.mktemp("weights") / "made.safetensors"
    tensors = {f"encoder.{k}": v for k, v in tracker().encoder.state_dict().items()}
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    weights.save_tensors(tensors, path, {"method": "dul", "settings": {"width": 8}, "trained_on": ["clips"]})
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "ROUND", TINY)
    monkeypatch.setattr(module, "HEAD", replace(TINY, lr=1e-3))


class TestFootage:
    def test_the_end_of_each_stretch_is_held_out(self, tmp_path):
        frames = np.random.default_rng(0).integers(0, 256, (STRETCH + 15, 32, 40, 3), np.uint8)
        for t, frame in enumerate(frames):
            write_image(tmp_path / f"{t:03d}.png", frame)
        model = tracker()
        model.protocol = replace(model.protocol, size=None)
        footage = read_footage(tmp_path, model)
        assert [len(s) for s in footage.train] == [32, 12]
        assert [len(s) for s in footage.held] == [8, 3]
        whole = np.concatenate([footage.train[0], footage.held[0], footage.train[1], footage.held[1]])
        assert np.array_equal(whole, frames)

    def test_a_long_video_is_thinned_to_evenly_spread_stretches(self, tmp_path):
        for t in range(8 * STRETCH):
            write_image(tmp_path / f"{t:03d}.png", np.full((32, 32, 3), t // STRETCH, np.uint8))
        model = tracker()
        model.protocol = replace(model.protocol, size=None)
        footage = read_footage(tmp_path, model, max_bytes=4 * STRETCH * 32 * 32 * 3)
        assert [int(s[0, 0, 0, 0]) for s in footage.train] == [0, 2, 4, 6]
        assert all(len(s) == 32 for s in footage.train)

    def test_frames_have_the_size_at_which_they_are_tracked(self, video, clip):
        model = tracker()
        model.protocol = replace(model.protocol, size=48)
        assert read_footage(video, model).train[0].shape[1:3] == (48, 60)

    def test_clips_are_crops_of_training_frames_and_depend_on_seed_step_and_row_alone(self):
        frames = np.random.default_rng(0).integers(0, 256, (16, 50, 52, 3), np.uint8)
        crops = Crops([Footage("a", [frames], [])], TINY)
        batch = crops.batch(3, range(2))
        assert batch.shape == (2, 3, 48, 48, 3)
        assert np.array_equal(batch[1:], crops.batch(3, range(1, 2)))
        assert not np.array_equal(batch, crops.batch(4, range(2)))
        assert crops.names(3) == ["a", "a"]
        everywhere = np.lib.stride_tricks.sliding_window_view(frames, (48, 48), axis=(1, 2))  # (T, y, x, 3, 48, 48)
        for frame in batch[0]:
            either = [np.moveaxis(f, -1, 0) for f in (frame, frame[:, ::-1])]
            assert any((everywhere == f).all((3, 4, 5)).any() for f in either)

    def test_too_few_frames(self, tmp_path):
        for t in range(5):
            write_image(tmp_path / f"{t}.png", np.zeros((32, 32, 3), np.uint8))
        with pytest.raises(InputError, match="5 frames are too few"):
            read_footage(tmp_path, tracker())


class Encoder(nn.Module):
    """Features of a known kind."""

    stride = 8

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, _, height, width = x.shape
        h, w = -(-height // 8), -(-width // 8)
        if self.kind == "constant":
            return torch.ones(b, 4, h, w)
        return torch.eye(h * w).view(1, h * w, h, w).expand(b, -1, -1, -1)  # the place and nothing else


def test_the_guard_is_not_fooled_by_features_that_see_nothing(video):
    good = raw_colour()
    good.protocol = replace(good.protocol, size=64)
    footage = [read_footage(video, good)]
    colour = guard(good, footage)
    assert colour.view > 0.3
    assert colour.cycle > 0.3
    for kind in ("constant", "place"):
        blind = tracker()
        blind.encoder = Encoder(kind)
        found = guard(blind, footage)
        assert found.view < 0.25, kind
        assert found.score < 0.8 * colour.score, kind
    assert guard(blind, footage).cycle == 1.0  # the place comes home always: the view alone tells


def test_the_guard_counts_cells_within_one_cell():
    """A still video comes home everywhere; and the view's true places are those of the picture."""
    ramp = np.indices((64, 64)).transpose(1, 2, 0)[..., ::-1] * 4
    still = np.concatenate([ramp, np.zeros((64, 64, 1))], -1).astype(np.uint8)  # colour says x and y
    footage = [Footage("still", [], [np.stack([still] * 4)])]
    model = raw_colour()
    model.encoder, model.bottleneck = Pixels(), Identity()
    model.protocol = replace(model.protocol, affinity=replace(model.protocol.affinity, normalize=False))
    found = guard(model, footage)
    assert found.cycle == 1.0
    assert found.view > 0.98


class Pixels(nn.Module):
    """Every eighth pixel, as features whose dot product is largest for equal colours."""

    stride = 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, ::8, ::8]
        angle = torch.arange(1, 4).view(1, 3, 1, 1, 1) * x[:, None, :2] * 1.5
        return torch.cat((angle.sin(), angle.cos()), 1).flatten(1, 2)


class Identity(nn.Module):
    def view(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb


def test_what_is_better_may_give_little_of_the_one_for_the_other():
    before = Guard(0.5, 0.5)
    assert Guard(0.6, 0.5).improves(before, before)
    assert Guard(0.6, 0.46).improves(before, before)
    assert not Guard(0.9, 0.44).improves(before, before)
    assert not Guard(0.44, 0.9).improves(before, before)
    assert not Guard(0.55, 0.5).improves(Guard(0.6, 0.5), before)
    assert not before.improves(before, before)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_what_harms_leaves_the_original_bit_for_bit(video, made, tmp_path, monkeypatch):
    def harmful(*given):
        moved = with_statistics(*given)
        moved.encoder.layer3[1].bn2.running_mean.fill_(1e6)  # all cells alike
        return moved

    monkeypatch.setattr(module, "with_statistics", harmful)
    out = tmp_path / "out.safetensors"
    adapted = adapt_file(str(made), [video], out, protocol="crw", rounds=2, run=replace(TINY, lr=0.5))
    assert adapted.kept == "original"
    assert adapted.after == adapted.before
    before, after = weights.read_tensors(made), weights.read_tensors(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name


def test_no_round_changes_nothing_and_the_tracker_given_is_never_changed(video, monkeypatch):
    model = tracker()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    footage = [read_footage(video, model)]
    scores = iter([Guard(0.5, 0.5), Guard(0.6, 0.5)])
    monkeypatch.setattr(module, "guard", lambda *_: next(scores))
    statistics = adapt(model, footage, minutes=0, fit_objective=True)
    assert (statistics.kept, statistics.steps) == ("statistics", 0)
    assert same(statistics.tracker.encoder, with_statistics(model, footage).encoder)
    monkeypatch.setattr(module, "guard", lambda *_: Guard(0.5, 0.5))  # nothing is better
    assert adapt(model, footage, rounds=0).tracker is model
    adapt(model, footage, rounds=1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_better_weights_are_kept_with_their_card(video, made, tmp_path, monkeypatch):
    scores = iter([Guard(x, 0.5) for x in (0.5, 0.55, 0.6, 0.4, 0.3)])
    monkeypatch.setattr(module, "guard", lambda *_: next(scores))
    out = tmp_path / "out.safetensors"
    adapted = adapt_file(str(made), [video], out, protocol="crw", rounds=2, run=TINY)
    assert adapted.kept == "adapted"
    assert adapted.after == Guard(0.6, 0.5)
    assert adapted.steps == 3 * TINY.steps  # one round was the head's
    card = weights.read_card(out)
    assert card["method"] == "dul"
    assert card["trained_on"] == ["clips"]
    told = card["adapted"]
    assert told["digest"] == weights.digest(made)
    assert told["from"] == "made"
    assert told["videos"] == ["mine"]
    assert told["before"] == {"view": 0.5, "cycle": 0.5}
    assert told["after"] == {"view": 0.6, "cycle": 0.5}
    again = weights.load(out)
    assert same(again.encoder, adapted.tracker.encoder)
    assert not same(again.encoder, weights.load(made).encoder)
    old = weights.load(made)
    moved = with_statistics(old, [read_footage(video, load_tracker(str(made), protocol="crw"))])
    for name, tensor in moved.encoder.state_dict().items():  # statistics move once, affine parameters never
        if "bn" in name or "downsample.1" in name:
            assert torch.allclose(again.encoder.state_dict()[name], tensor, atol=1e-6), name
            assert ("running" in name) or ("num" in name) or torch.equal(tensor, old.encoder.state_dict()[name]), name


def test_statistics_are_a_mean_of_old_and_new(video):
    model = tracker()
    footage = [read_footage(video, model)]
    model.encoder.bn1.running_mean.fill_(0.25)
    whole, half = (with_statistics(model, footage, share).encoder.bn1 for share in (1.0, 0.5))
    step = max(1, len(footage[0].train[0]) // 16)
    seen = torch.from_numpy(footage[0].train[0][::step]).movedim(-1, 1).float() / 255
    mean = model.encoder.conv1(model.bottleneck.view(seen)).mean((0, 2, 3)).detach()
    assert torch.allclose(whole.running_mean, mean, atol=1e-5)
    assert torch.allclose(half.running_mean, (mean + 0.25) / 2, atol=1e-5)
    assert float(model.encoder.bn1.running_mean[0]) == 0.25
    assert whole.momentum == model.encoder.bn1.momentum


def test_half_the_way_is_the_mean(video, monkeypatch):
    scores = iter([Guard(x, 0.5) for x in (0.5, 0.6, 0.4, 0.7)])
    monkeypatch.setattr(module, "guard", lambda *_: next(scores))
    seen = []
    monkeypatch.setattr(module, "train", lambda *a, **k: seen.append(module_train(*a, **k)) or seen[-1])
    model = tracker()
    adapted = adapt(model, [read_footage(video, model)], rounds=1, run=TINY)
    assert adapted.kept == "halfway"
    trained = seen[0].encoder.conv1.weight
    assert torch.allclose(adapted.tracker.encoder.conv1.weight, (trained + model.encoder.conv1.weight) / 2, atol=1e-7)
    assert not torch.equal(trained, model.encoder.conv1.weight)


module_train = module.train


def test_the_anchor_is_the_squared_distance_of_unit_features(clip):
    from pixeltrail.training.adapt import Anchored
    from pixeltrail.types import Batch

    model = tracker("mast", channels=8)
    x = torch.from_numpy(clip.frames[:3]).movedim(-1, 1)[None].float() / 255
    anchored = Anchored(lambda tracker, batch: {"other": torch.tensor(2.0)}, model.encoder, 3.0)
    assert float(anchored(model, Batch(x))["anchor"].detach()) == 0.0
    old = model.embed(x[:, 0]).detach()
    with torch.no_grad():
        model.encoder.conv1.weight.add_(0.1)
    new = model.embed(x[:, 0]).detach()
    expected = 3 * (2 - 2 * torch.cosine_similarity(old, new, dim=1)).mean()
    terms = anchored(model, Batch(x))
    assert float(terms["anchor"].detach()) == pytest.approx(float(expected), rel=1e-4)
    assert float(terms["other"]) == 2.0


def test_own_anchors_only_is_the_mean_over_clips_seen_alone():
    torch.manual_seed(0)
    objective, alone = AnchorSelfTraining(8, own=True), AnchorSelfTraining(8)
    keys, teacher = (F.normalize(torch.randn(3, 2, 5, 4, 4), dim=2) for _ in range(2))
    anchors = F.normalize(torch.randn(3, 4, 5), dim=2)
    source = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy")).float().expand(3, -1, -1, -1)
    given = (keys, teacher, anchors, source)
    each = [alone._self_training(*(x[i : i + 1] for x in given)) for i in range(3)]
    assert float(objective._self_training(*given)) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)
    assert float(alone._self_training(*given)) > float(objective._self_training(*given))
    ours, theirs = (F.normalize(torch.randn(12, 5), dim=1) for _ in range(2))
    each = [alone._info_nce(ours[i : i + 4], theirs[i : i + 4], 1) for i in (0, 4, 8)]
    assert float(objective._info_nce(ours, theirs, 3)) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("method", "settings", "steps"),
    [("mast", {"channels": 8}, 2), ("corrflow", {"channels": 8}, 2), ("crw", {}, 2 + 3)],
)
def test_other_methods_adapt_by_their_own_objective(method, settings, steps, video):
    model = tracker(method, **settings)
    adapted = adapt(model, [read_footage(video, model)], rounds=1, run=replace(TINY, steps=2), fit_objective=True)
    assert adapted.steps == steps  # an objective with parameters of its own is fitted first
    assert adapted.after.score >= adapted.before.score


def test_the_commands(video, clip, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "first.png", LabelMap(clip.labels[0]))
    small = ["--protocol", "crw"]  # frames at their own size
    assert (
        cli.main(["adapt", str(video), "--minutes", "0.001", "--from", str(made), "--out", "mine.safetensors", *small])
        == 0
    )
    assert "-> mine.safetensors" in capsys.readouterr().out
    assert weights.load("mine.safetensors").stride == 8
    line = ["track", str(video), "--method", str(made), "--labels", "first.png", "--out", "out", "--adapt", "0.001"]
    line += small
    assert cli.main(line) == 0
    assert {"masks", "tracks.json", "adapted.safetensors"} <= {p.name for p in Path("out").iterdir()}
    assert json.loads(Path("out/tracks.json").read_text())["weights"] == weights.digest("out/adapted.safetensors")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("adapt VIDEO --from colour --out x.safetensors", "no learned weights"),
        ("adapt VIDEO --from dul --out x.safetensors", "no learned weights"),
        ("adapt VIDEO --from MADE --out x.pth", ".safetensors"),
        ("adapt VIDEO --from MADE --out x.safetensors --minutes -1", "0 or more"),
        ("adapt VIDEO --from MADE --out x.safetensors --minutes nan", "0 or more"),
        ("adapt missing.mp4 --from MADE --out new/x.safetensors", "missing.mp4"),
        ("adapt --from MADE --out x.safetensors", "one video"),
    ],
)
def test_refusals(line, words, video, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [{"VIDEO": str(video), "MADE": str(made)}.get(word, word) for word in line.split()]
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_has_nothing_to_train(video):
    model = raw_colour()
    assert isinstance(model.encoder, RawColour)
    with pytest.raises(InputError, match="nothing to train"):
        adapt(model, [read_footage(video, model)], rounds=1)
