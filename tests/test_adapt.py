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
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.errors import InputError
from pixeltrail.flow_methods import flow_method
from pixeltrail.nets.colour import RawColour
from pixeltrail.predictors import load_tracker, raw_colour
from pixeltrail.training import adapt as module
from pixeltrail.training.adapt import ROUND, adapt, adapt_file, with_statistics
from pixeltrail.training.footage import Crops, Footage, Neighbours, read_footage
from pixeltrail.training.guard import Guard, guard
from pixeltrail.training.together import Together, found
from pixeltrail.types import Batch, LabelMap

SIZE = (64, 80)
module_train = module.train
TINY = replace(ROUND, batch_size=2, steps=3, save_every=3, size=48, precision="fp32", warmup=1)


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
    monkeypatch.setattr(module, "READING", replace(TINY, lr=1e-3))


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


def test_little_of_either_share_may_be_lost():
    before = Guard(0.5, 0.5)
    assert Guard(0.6, 0.5).improves(before)
    assert Guard(0.6, 0.46).improves(before)
    assert Guard(0.46, 0.46).holds(before)
    assert not Guard(0.46, 0.46).improves(before)
    for bad in (Guard(0.9, 0.44), Guard(0.44, 0.9)):
        assert not bad.holds(before)
        assert not bad.improves(before)
    assert not before.improves(before)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_what_harms_leaves_the_original_bit_for_bit(video, made, tmp_path, monkeypatch):
    def harmed(function):
        def harmful(*given, **options):
            found = function(*given, **options)
            found.encoder.layer3[1].bn2.running_mean.fill_(1e6)  # all cells alike
            return found

        return harmful

    monkeypatch.setattr(module, "with_statistics", harmed(with_statistics))
    monkeypatch.setattr(module, "train", harmed(module_train))
    out = tmp_path / "out.safetensors"
    adapted = adapt_file(str(made), [video], out, protocol="crw", rounds=2, run=TINY)
    assert adapted.kept == "original"
    assert adapted.after == adapted.before
    before, after = weights.read_tensors(made), weights.read_tensors(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name


def test_no_round_moves_statistics_alone_and_the_tracker_given_is_never_changed(video, monkeypatch):
    model = tracker()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    footage = [read_footage(video, model)]
    scores = iter([Guard(0.5, 0.5), Guard(0.6, 0.5)])
    monkeypatch.setattr(module, "guard", lambda *_: next(scores))
    statistics = adapt(model, footage, minutes=0)
    assert (statistics.kept, statistics.steps, statistics.together) == ("statistics", 0, None)
    assert same(statistics.tracker.encoder, with_statistics(model, footage).encoder)
    monkeypatch.setattr(module, "guard", lambda *_: Guard(0.5, 0.5))  # nothing is better
    assert adapt(model, footage, rounds=0).tracker is model
    adapt(model, footage, rounds=1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_training_ends_when_it_finds_nothing_better(video, monkeypatch):
    model = tracker()
    footage = [read_footage(video, model)]
    monkeypatch.setattr(module, "guard", lambda *_: Guard(0.5, 0.5))
    for values, rounds, kept in (((0.2, 0.3, 0.1, 0.2), 3, "adapted"), ((0.2, 0.1, 0.2), 2, "original")):
        scores = iter(values)
        monkeypatch.setattr(module, "found", lambda *_, scores=scores: next(scores))
        adapted = adapt(model, footage, rounds=9, run=TINY)
        assert (adapted.kept, adapted.steps) == (kept, (1 + rounds) * TINY.steps)
        assert adapted.together == (0.2, max(values[:2]))
    scores, guards = iter((0.2, 0.3, 0.4)), iter([Guard(0.5, 0.5)] * 2 + [Guard(0.9, 0.1)] * 2)
    monkeypatch.setattr(module, "found", lambda *_: next(scores))
    monkeypatch.setattr(module, "guard", lambda *_: next(guards))
    adapted = adapt(model, footage, rounds=9, run=TINY)
    assert (adapted.kept, adapted.together) == ("original", (0.2, 0.2))  # the guard forbids what was found
    assert adapted.tracker is model


def test_the_better_weights_are_kept_with_their_card(video, made, tmp_path, monkeypatch):
    scores, alike = iter([Guard(x, 0.5) for x in (0.5, 0.55, 0.6, 0.7)]), iter((0.1, 0.3, 0.2))
    monkeypatch.setattr(module, "guard", lambda *_: next(scores))
    monkeypatch.setattr(module, "found", lambda *_: next(alike))
    out = tmp_path / "out.safetensors"
    adapted = adapt_file(str(made), [video], out, protocol="crw", rounds=2, run=TINY)
    assert adapted.kept == "adapted"
    assert adapted.after == Guard(0.6, 0.5)
    assert adapted.steps == 3 * TINY.steps  # the reading's is one
    card = weights.read_card(out)
    assert card["method"] == "dul"
    assert card["trained_on"] == ["clips"]
    told = card["adapted"]
    assert told["digest"] == weights.digest(made)
    assert told["from"] == "made"
    assert told["videos"] == ["mine"]
    assert told["together"] == [0.1, 0.3]
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


class Rgb(nn.Module):
    """Colours themselves, at every second pixel."""

    stride = 2

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * x[:, :, ::2, ::2]


def test_what_moves_together_by_the_plain_formulas():
    torch.manual_seed(0)
    model = tracker()
    model.encoder, model.bottleneck = Rgb(), Identity()
    clip, flow = torch.rand(2, 1, 3, 12, 16), torch.randn(2, 2, 12, 16)
    flow[:, :, 1::2] = torch.nan  # known where the map has a cell: nothing to interpolate
    flow[:, :, :, 1::2] = torch.nan
    learned = Together(model.encoder, 3, weight=2.0)
    with torch.no_grad():
        model.encoder.gain.mul_(1.5)
        terms = learned(model, Batch(clip, torch.Generator().manual_seed(0), flow=flow))
        assert float(terms["anchor"]) == pytest.approx(0.0, abs=1e-6)  # directions have not changed
        parts = []
        for image, motion in zip(clip[:, 0], flow, strict=True):
            colours = image[:, ::2, ::2].flatten(1).T
            x = F.normalize(learned.reading(1.5 * colours), dim=1)
            f = motion[:, ::2, ::2].flatten(1).T
            f = f.sign() * (1 + f.abs()).log() / torch.tensor(51.0).log()
            one, two = x @ x.T, (-torch.cdist(f, f).square() / (2 * 0.06**2)).exp()
            centre = torch.eye(len(x)) - 1 / len(x)
            one, two = centre @ one @ centre, centre @ two @ centre
            parts.append(1 - (one * two).sum() / (one.norm() * two.norm()))
    assert float(terms["kta"]) == pytest.approx(float(torch.stack(parts).mean()), abs=1e-5)
    old = model.encoder.gain.detach() * clip[:, 0, :, ::2, ::2]
    model.encoder.forward = lambda x: old + torch.tensor([0.5, 0, 0]).view(1, 3, 1, 1)
    terms = learned(model, Batch(clip, torch.Generator().manual_seed(0), flow=flow))
    new = model.encoder.forward(clip)
    expected = 2.0 * (2 - 2 * torch.cosine_similarity(old, new, dim=1)).mean()
    assert float(terms["anchor"].detach()) == pytest.approx(float(expected), rel=1e-4)


class Fixed:
    """A sampler that has one batch only."""

    def __init__(self, clip, flow) -> None:
        self.rows = clip, flow

    def batch(self, step, rows):
        return self.rows


def test_steps_on_a_batch_lower_its_loss(video):
    pytest.importorskip("cv2")
    model = tracker()
    clip, flow = Crops(Neighbours([read_footage(video, model)], flow_method("dis")), TINY).batch(0, range(2))
    learned = Together(model.encoder, model.encoder.channels)
    optimizer = torch.optim.AdamW([*model.encoder.parameters(), *learned.parameters()], lr=1e-3)
    losses = []
    for _ in range(12):
        x, motion = torch.from_numpy(clip).movedim(-1, 2).float() / 255, torch.from_numpy(flow).movedim(-1, 1)
        terms = learned(model, Batch(x, torch.Generator().manual_seed(0), flow=motion))
        losses.append({k: float(v.detach()) for k, v in terms.items()})
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert losses[-1]["kta"] < losses[0]["kta"] - 0.05
    model.objective = learned
    assert 1 - losses[0]["kta"] < found(model, Fixed(clip, flow)) <= 1
    assert sum(losses[-1].values()) < sum(losses[0].values())
    assert losses[0]["anchor"] < 1e-9 < losses[-1]["anchor"]


def still(first, second):
    return np.zeros((*first.shape[:2], 2), np.float32)


@pytest.mark.parametrize("installed", [True, False])
def test_flow_comes_from_what_is_installed(installed, video, monkeypatch):
    if installed:
        pytest.importorskip("cv2")
    asked = []
    monkeypatch.setattr(module, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(module, "flow_method", lambda name, **_: asked.append(name) or still)
    model = tracker()
    assert adapt(model, [read_footage(video, model)], rounds=1, run=TINY).steps == 2 * TINY.steps
    assert asked == ["dis" if installed else "default"]


@pytest.mark.parametrize(
    ("method", "settings"), [("mast", {"channels": 8}), ("corrflow", {"channels": 8}), ("crw", {})]
)
def test_other_methods_adapt_in_the_same_way(method, settings, video):
    model = tracker(method, **settings)
    adapted = adapt(model, [read_footage(video, model)], rounds=1, run=replace(TINY, steps=2))
    assert adapted.steps == 3 + 2  # the reading is fitted first
    assert adapted.after.holds(adapted.before)
    assert adapted.tracker.objective is model.objective


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
