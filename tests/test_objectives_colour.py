"""CorrFlow and MAST: their formulas, cycles, scheduled sampling and the ablation's switches; colour classes of one's own data."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixeltrail import catalogue, weights
from pixeltrail.bottleneck import normalised_lab
from pixeltrail.cli import main
from pixeltrail.colour import COLOURS, class_table, nearest_colour, rgb_to_lab
from pixeltrail.data.clips import CachedVideo, read_cache
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError
from pixeltrail.training.colours import colours_of
from pixeltrail.training.run import Run, changed, parse_set, read_recipe, to_toml
from pixeltrail.types import Batch

SIZE = {"width": 8, "channels": 8}


def _clip(seed: int, frames: int, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    clip = render(seed, frames=frames, size=size, objects=1, speed=3.0).frames
    return torch.from_numpy(clip).movedim(-1, 1)[None].float() / 255


def _random(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tracker(method: str = "corrflow", **settings):
    torch.manual_seed(0)
    return catalogue.build(method, **SIZE, **settings).eval()


class Plain:
    """CorrFlow by its words: a window of cells around each cell, a softmax, a copy, bilinear to pixels, a log."""

    def __init__(self, tracker, x: torch.Tensor, radius: int | None) -> None:
        self.random = _random()
        self.f = tracker.embed_clip(tracker.bottleneck(x, self.random).view)[0].detach()  # (T, C, h, w)
        self.classes = nearest_colour(rgb_to_lab(x)[:, :, 1:], torch.tensor(COLOURS))[0]
        self.true = F.one_hot(self.classes[:, ::4, ::4], 16).movedim(-1, 1).float()
        h, w = self.f.shape[2:]
        y, x_ = (g.flatten() for g in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        far = torch.maximum((y[:, None] - y).abs(), (x_[:, None] - x_).abs())
        self.outside = far > (999 if radius is None else radius)

    def copy(self, source: int, target: int, colours: torch.Tensor) -> torch.Tensor:
        scores = self.f[target].flatten(1).T @ self.f[source].flatten(1)
        weight = scores.masked_fill(self.outside, -torch.inf).softmax(1)
        return (colours.flatten(1) @ weight.T).view_as(colours)

    def mismatch(self, colours: torch.Tensor, frame: int) -> float:
        wide = F.interpolate(colours[None], (29, 37), mode="bilinear", align_corners=True)
        wide = F.pad(wide, (0, 3, 0, 3), mode="replicate")[0]
        likely = wide.gather(0, self.classes[frame][None])
        return -float((likely + 1e-8).log().mean())


@pytest.mark.parametrize("radius", [6, 2, 0])
def test_the_cycle_copies_there_and_back_on_its_own_predictions(radius):
    x = _clip(2, 3)
    tracker = _tracker(radius=radius, sampling=(1.0, 1.0))
    term = tracker.objective(tracker, Batch(x, _random()))["cycle"]
    plain = Plain(tracker, x, radius or None)
    once = plain.copy(1, 0, plain.copy(0, 1, plain.true[0]))
    twice = plain.copy(1, 0, plain.copy(2, 1, plain.copy(1, 2, plain.copy(0, 1, plain.true[0]))))
    expected = 0.1 * (plain.mismatch(once, 0) + plain.mismatch(twice, 0))
    assert float(term.detach()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_scheduled_sampling_trusts_its_own_colours_more_and_more(progress):
    x, trust = _clip(3, 5), 0.9 + (0.6 - 0.9) * progress
    tracker = _tracker(cycle=0.0)
    term = tracker.objective(tracker, Batch(x, _random(), progress))["forward"]
    plain = Plain(tracker, x, 6)
    colours, expected = plain.true[0], 0.0
    for t in range(1, 5):
        if t > 1 and float(torch.rand((), generator=plain.random)) < trust:
            colours = plain.true[t - 1]
        colours = plain.copy(t - 1, t, colours)
        expected += plain.mismatch(colours, t)
    assert float(term.detach()) == pytest.approx(expected, rel=1e-3)


def test_never_true_colours_is_one_long_copy():
    x = _clip(3, 3)
    terms = [
        float(t.objective(t, Batch(x, _random()))["forward"].detach())
        for t in (_tracker(cycle=0.0, sampling=(p, p)) for p in (0.0, 1.0))
    ]
    assert terms[0] != pytest.approx(terms[1], rel=1e-3)
    tracker = _tracker(cycle=0.0)
    plain = Plain(tracker, x, 6)
    once = plain.copy(0, 1, plain.true[0])
    assert terms[0] == pytest.approx(plain.mismatch(once, 1) + plain.mismatch(plain.copy(1, 2, once), 2), rel=1e-3)


def test_each_part_of_the_ablation_is_a_set_of_train():
    run = read_recipe(Path(__file__).parents[1] / "recipes" / "corrflow.toml")

    def built(*pairs: str):
        return catalogue.build("corrflow", **changed(run, parse_set(list(pairs)), source="--set").settings, **SIZE)

    x = _clip(4, 3)
    whole, open_, blind = built(), built("settings.keep=1.0", "settings.jitter=0.0"), built("settings.keep=0.0")
    assert all(torch.equal(open_.bottleneck(x, _random(s)).view, x) for s in range(20))
    assert all(blind.bottleneck(x, _random(s)).hidden for s in range(20))
    assert (whole.bottleneck.keep, whole.bottleneck.jitter) == (0.3, 0.1)
    assert built("settings.radius=0").objective.radius == 0
    assert list(built("settings.sampling=[1,1]").objective.sampling) == [1, 1]
    assert built("settings.cycle=0.0").objective.cycle == 0
    assert (whole.objective.radius, whole.objective.cycle, whole.objective.sampling) == (6, 0.1, (0.9, 0.6))
    said = (Path(__file__).parents[1] / "recipes" / "corrflow.toml").read_text()
    for switch in ("keep=1.0", "jitter=0.0", "radius=0", "sampling=[1,1]", "cycle=0.0"):
        assert f"settings.{switch}" in said


def test_true_colours_alone_are_cross_entropy_and_the_cycle_can_be_switched_off():
    x = _clip(2, 3)
    for cycle, parts in ((0.1, {"forward", "cycle"}), (0.0, {"forward"})):
        tracker = _tracker(cycle=cycle, sampling=(1.0, 1.0))
        terms = tracker.objective(tracker, Batch(x, _random()))
        assert set(terms) == parts
        plain = Plain(tracker, x, 6)
        expected = sum(plain.mismatch(plain.copy(t - 1, t, plain.true[t - 1]), t) for t in (1, 2))
        assert float(terms["forward"].detach()) == pytest.approx(expected, rel=1e-4)


def test_mast_is_huber_on_the_channel_that_was_hidden():
    tracker, x = _tracker("mast"), _clip(1, 3)
    term = tracker.objective(tracker, Batch(x, _random()))["colour"]
    seen = tracker.bottleneck(x, _random())
    features = tracker.embed_clip(seen.view)
    truth = normalised_lab(x)[:, :, list(seen.hidden)]
    affinity = replace(tracker.protocol.affinity, radius=6)
    copied = affinity(features[:, 2], features[:, :2]).copy(truth[:, :2, :, ::4, ::4])
    wide = F.interpolate(copied, (29, 37), mode="bilinear", align_corners=True)
    wide = F.pad(wide, (0, 3, 0, 3), mode="replicate")
    error = 20 * (wide - truth[:, 2])
    expected = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
    assert float(term.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_mast_sees_the_whole_frame_at_radius_0():
    x = _clip(1, 3)
    terms = []
    for radius in (0, 40, 1):  # 40 cells reach everywhere in 8 x 10
        tracker = _tracker("mast", radius=radius)
        terms.append(float(tracker.objective(tracker, Batch(x, _random()))["colour"].detach()))
    assert terms[0] == pytest.approx(terms[1], rel=1e-4)
    assert terms[0] != pytest.approx(terms[2], rel=1e-3)


class TestColourClasses:
    def test_a_recipe_names_them_by_list_or_by_file(self, tmp_path):
        own = [[-20.0, 10.0], [0.0, 0.0], [30.0, 20.5]]
        file = tmp_path / "own.json"
        file.write_text(json.dumps(own))
        assert torch.equal(class_table(), torch.tensor(COLOURS))
        for classes in (own, str(file)):
            run = changed(Run(method="corrflow"), {"settings": {"classes": classes}}, source="test")
            (tmp_path / "r.toml").write_text(to_toml(run))
            again = read_recipe(tmp_path / "r.toml")
            for method in ("corrflow", "colorization"):
                tracker = _tracker(method, **again.settings)
                assert torch.equal(tracker.objective.centroids, torch.tensor(own))
                terms = tracker.objective(tracker, Batch(_clip(1, 3), _random()))
                assert all(bool(torch.isfinite(v)) for v in terms.values())

    def test_fewer_classes_are_easier(self):
        x = _clip(1, 4)
        losses = []
        for classes in ((), [[-0.1, 0.0], [0.1, 0.0]], [[0.0, 0.0], [300.0, 300.0]]):
            tracker = _tracker("colorization", classes=classes)
            losses.append(float(tracker.objective(tracker, Batch(x, _random()))["colour"].detach()))
        assert losses[0] > losses[2]
        assert losses[2] == pytest.approx(0, abs=1e-5)  # all one class

    def test_trained_weights_need_no_file_but_training_does(self, tmp_path):
        file, trained = tmp_path / "own.json", tmp_path / "w.safetensors"
        file.write_text("[[0, 0], [10, 10]]")
        settings = {"classes": str(file), **SIZE}
        weights.save(
            catalogue.build("colorization", **settings), trained, {"method": "colorization", "settings": settings}
        )
        file.unlink()
        tracker = weights.load(trained)
        assert tracker.embed(torch.rand(1, 3, 32, 32)).shape[1] == 8
        with pytest.raises(InputError, match=r"own\.json: no such file of colour classes"):
            tracker.objective(tracker, Batch(_clip(1, 3)))

    @pytest.mark.parametrize("text", ["[[0, 0]]", "{}", "nothing", "[[0, 1, 2], [1, 2, 3]]", '[["a", 1], [0, 0]]', "7"])
    def test_what_is_no_table_is_refused(self, tmp_path, text):
        file = tmp_path / "own.json"
        file.write_text(text)
        with pytest.raises(InputError, match=r"own\.json"):
            class_table(str(file))

    def test_k_means_finds_the_colours_that_there_are(self, tmp_path):
        painted = np.array([[200, 30, 30], [30, 180, 40], [40, 60, 220]], np.uint8)
        videos = []
        for i in range(2):
            frames = painted[np.random.default_rng(i).integers(0, 3, (12, 20, 24))]
            np.save(tmp_path / f"{i}.npy", frames)
            videos.append(CachedVideo(str(i), str(tmp_path / f"{i}.npy"), 12, 10.0))
        seen = []
        found = colours_of(videos, 3, on_video=lambda done, total, name: seen.append((done, total, name)))
        true = rgb_to_lab(torch.from_numpy(painted).float().T[..., None] / 255)[1:, :, 0].T
        true = true[true[:, 0].argsort()]
        assert np.allclose(found, true.numpy(), atol=0.01)
        assert seen == [(0, 2, "0"), (1, 2, "1"), (2, 2, "")]
        for count in (1, 4, 257):
            with pytest.raises(InputError, match="colours"):
                colours_of(videos, count)

    def test_the_command_on_real_clips(self, real_data, tmp_path, capsys):
        clip = sorted(p for p in (real_data / "clips").rglob("*") if p.suffix in (".mp4", ".webm", ".mkv"))[0]
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / clip.name).symlink_to(clip)
        (tmp_path / "data" / "broken.mp4").write_bytes(b"not a video")
        out, cache = tmp_path / "own.json", tmp_path / "cache"
        command = ["colours", str(tmp_path / "data"), "--count", "8", "--cache", str(cache)]
        assert main([*command, "--out", str(out)]) == 0
        said = capsys.readouterr()
        assert "8 classes of 1 videos" in said.out
        assert "broken.mp4" in said.err
        own = json.loads(out.read_text())
        assert len(own) == 8
        assert own == sorted(own)
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out) == own  # the same again, printed
        other = colours_of(read_cache(cache), 8, seed=1)
        assert other != own
        assert torch.equal(class_table(str(out)), torch.tensor(own))
        # Every pixel is nearer to its class than to grey, on the whole: the classes are of this video.
        frame = np.load(read_cache(cache)[0].path)[0]
        ab = rgb_to_lab(torch.from_numpy(frame).movedim(-1, 0).float() / 255)[1:]
        table = torch.tensor(own)
        error = (ab - table[nearest_colour(ab, table)].movedim(-1, 0)).square().sum(0).mean()
        assert error < 0.3 * (ab - ab.mean((1, 2), keepdim=True)).square().sum(0).mean()
