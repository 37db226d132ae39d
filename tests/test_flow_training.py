"""Flow networks in the same loop: every recipe begins as it did, runs resume bit for bit, and networks learn.

``python tests/test_flow_training.py`` prints the golden numbers, for a recipe that is new or was changed on purpose.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pixeltrail import flow_networks, weights
from pixeltrail.cli import main
from pixeltrail.data.images import write_image
from pixeltrail.errors import InputError, WeightsError
from pixeltrail.flow.estimate import estimate
from pixeltrail.flow.losses import multiscale_robust
from pixeltrail.training.flow import FlowLearner, FlowWatcher, Photometric, new_learner, task_of, train_flow
from pixeltrail.training.flow_data import flow_sampler_for
from pixeltrail.training.loop import _schedule
from pixeltrail.training.run import Run, changed, read_recipe, to_toml
from pixeltrail.types import Batch
from shortflow import RUN, TINY, textured

FOLDER = Path(__file__).parents[1] / "recipes" / "flow"
RECIPES = sorted(file.stem for file in FOLDER.glob("*.toml"))

# The terms of the first step, seed 0, of two pairs with a known flow, in 32-bit floats.
GOLDEN: dict[str, dict[str, float]] = {
    "compact": {"flow": 0.952014},
    "compact_robust": {"flow": 1.87484},
    "compact_unsupervised": {"flow": 0.173542, "photometric": 0.765233, "smoothness": 0.00539698},
    "robust": {"flow": 1.53067},
    "s_fine": {"flow": 0.952014},
    "s_long": {"flow": 0.952014},
    "spynet": {"flow": 5.69183},
}


class Shifts:
    """Whole images that move by a few pixels: what a network learns first."""

    def __init__(self, run, most=6):
        self.run, self.most = run, most
        self.images = [textured(seed, 96, 96) for seed in range(6)]

    def row(self, step, row):
        rng = np.random.default_rng((step, row))
        image = self.images[rng.integers(len(self.images))]
        dx, dy = rng.integers(-self.most, self.most + 1, 2)
        h, w = self.run.size, self.run.width or self.run.size
        y, x = (rng.integers(self.most, 96 - n - self.most + 1) for n in (h, w))
        frames = np.stack([image[y : y + h, x : x + w], image[y - dy : y - dy + h, x - dx : x - dx + w]])
        return frames, np.broadcast_to(np.float32([dx, dy]), (h, w, 2))

    def batch(self, step, rows):
        frames, flows = zip(*(self.row(step, row) for row in rows), strict=True)
        return np.stack(frames), np.stack(flows)

    def names(self, step):
        return ["shifts"] * self.run.batch_size


class Videos(Shifts):
    """The same without the truth."""

    def batch(self, step, rows):
        return super().batch(step, rows)[0]


def shrunk(name):
    run = read_recipe(FOLDER / f"{name}.toml")
    settings = {
        k: v for k, v in run.settings.items() if k in ("objective", "motion", "normalise", "smooth", "edge", "exact")
    }
    if run.method == "pwcnet":
        settings = {**TINY, **settings}
    size = 128 if run.method == "spynet" else 64
    return replace(run, start="", settings=settings, batch_size=2, size=size, width=0, precision="fp32")


def first_terms(run, learner, progress=0.0):
    frames, flow = Shifts(replace(run, size=64)).batch(0, range(2))
    clip = torch.from_numpy(frames).movedim(-1, 2).float() / 255
    known = torch.from_numpy(flow.copy()).movedim(-1, 1)
    if run.rendered:
        known[0] = torch.nan  # a row of a video
    if run.size != 64:
        clip = clip.repeat(1, 1, 1, 2, 2)
        known = known.repeat(1, 1, 2, 2)
    return learner.objective(learner, Batch(clip, torch.Generator().manual_seed(0), progress, flow=known))


@pytest.mark.parametrize("name", GOLDEN)
def test_first_losses_are_what_they_were_and_a_step_lowers_them(name, monkeypatch):
    run = shrunk(name)
    learner = new_learner(run)
    terms = first_terms(run, learner)
    assert {k: float(v.detach()) for k, v in terms.items()} == pytest.approx(GOLDEN[name], rel=1e-3, abs=1e-7)
    # What is hidden has no gradient, and jumps.
    monkeypatch.setattr("pixeltrail.training.flow.occlusion", lambda a, _: torch.zeros_like(a[:, :1], dtype=torch.bool))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-5)
    before = sum(first_terms(run, learner).values())
    before.backward()
    optimizer.step()
    assert float(sum(first_terms(run, learner).values()).detach()) < float(before.detach())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_departs_from_and_survives_being_resolved(name, tmp_path):
    run = read_recipe(FOLDER / f"{name}.toml")
    assert (FOLDER / f"{name}.toml").read_text().startswith("# ")
    assert (name in GOLDEN) != run.method.startswith("flownet")  # 39 million parameters, and the others' loss
    (tmp_path / "recipe.toml").write_text(to_toml(run))
    assert read_recipe(tmp_path / "recipe.toml") == run
    with torch.device("meta"):
        network = new_learner(replace(run, start="")).encoder
    assert run.size % network.stride == 0
    assert run.width % network.stride == 0


def test_schedules_are_the_published_ones():
    def rate(name, step):
        run = read_recipe(FOLDER / f"{name}.toml")
        return run.lr * _schedule(step, run)

    for name, first, halvings, steps in (
        ("s_short", 1e-4, (300, 400, 500), 600), ("s_long", 1e-4, (400, 600, 800, 1000), 1200),
        ("s_fine", 1e-5, (200, 300, 400), 500),
    ):  # fmt: skip
        assert read_recipe(FOLDER / f"{name}.toml").steps == steps * 1000
        assert rate(name, 0) == pytest.approx(first)
        for i, at in enumerate(halvings):
            assert rate(name, at * 1000 - 1) == pytest.approx(first / 2**i)
            assert rate(name, at * 1000) == pytest.approx(first / 2 ** (i + 1))


def test_the_unsupervised_recipe_goes_on_with_the_network_of_the_supervised_one():
    first, second = read_recipe(FOLDER / "compact.toml"), read_recipe(FOLDER / "compact_unsupervised.toml")
    network = {k: v for k, v in first.settings.items() if k not in ("motion", "pyramid")}
    assert second.settings.items() > network.items()
    assert second.settings["objective"] == "photometric"
    assert second.start
    made = flow_networks.build("pwcnet", **network)
    assert 1e6 < sum(p.numel() for p in made.parameters()) < 2e6


@pytest.mark.parametrize("objective", ["epe", "photometric"])
def test_an_interrupted_run_resumes_bit_for_bit(tmp_path, objective):
    run = changed(RUN, {"settings": {"objective": objective, "pyramid": 64}, "width": 0}, source="test")
    rows = (Shifts if objective == "epe" else Videos)(run)
    whole = train_flow(run, rows, tmp_path / "whole", sources=["shifts"])

    def stop(step, _):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_flow(run, rows, tmp_path / "cut", sources=["shifts"], on_step=stop)
    resumed = train_flow(run, rows, tmp_path / "cut", sources=["shifts"], resume=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "cut" / "metrics.jsonl").read_text()
    card = weights.read_card(tmp_path / "cut" / "last.safetensors")
    assert card["network"] == "pwcnet"
    assert card["settings"] == TINY
    assert card["pyramid"] == 64
    assert card["labels"] == ("exact flow" if objective == "epe" else "none")
    loaded = flow_networks.load(tmp_path / "cut" / "last.safetensors")
    for (name, a), b in zip(loaded.state_dict().items(), whole.encoder.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_shards_of_a_batch_take_their_own_rows_of_flow(tmp_path):
    """Two halves, one after the other, make the gradient of the whole."""
    one = train_flow(replace(RUN, steps=1), Shifts(RUN), tmp_path / "one", sources=[])
    two = train_flow(replace(RUN, steps=1, shards=2), Shifts(RUN), tmp_path / "two", sources=[])
    a, b = (json.loads((tmp_path / n / "metrics.jsonl").read_text()) for n in ("one", "two"))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert a["gradient"] == pytest.approx(b["gradient"], rel=1e-4)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-4)


def end_point_error(learner, run):
    frames, flow = Shifts(run).batch(10**6, range(16))
    first, second = (torch.from_numpy(frames[:, t]).movedim(-1, 1).float() / 255 for t in (0, 1))
    truth = torch.from_numpy(flow.copy()).movedim(-1, 1)
    with torch.no_grad():
        found = estimate(learner.encoder, first, second)
    return float((found - truth).norm(dim=1).mean()), float(truth.norm(dim=1).mean())


def test_a_tiny_network_learns_translations(tmp_path):
    settings = {**TINY, "channels": [8, 16, 16], "decoder": [24], "convolutions": 2}
    run = replace(
        RUN, settings=settings, steps=160, batch_size=4, size=48, width=48, lr=5e-3, ema=0.95, save_every=200,
        weight_decay=0.0,
    )  # fmt: skip
    error, nothing = end_point_error(train_flow(run, Shifts(run), tmp_path, sources=[]), run)
    assert error < 0.75 * nothing


class FreeFlow(torch.nn.Module):
    """No network: the flows of one pair, forward and back, as parameters."""

    def __init__(self, height, width):
        super().__init__()
        self.flow = torch.nn.Parameter(torch.zeros(2, 2, height // 4, width // 4))

    def forward(self, first, second):
        return [self.flow]


@pytest.mark.parametrize("difference", ["census", "charbonnier"])
def test_without_labels_the_pictures_alone_lead_to_the_flow(difference):
    run = replace(RUN, settings={"objective": "photometric", "difference": difference, "smooth": 0.02})
    image = textured(3, 60, 80)
    frames = np.stack([image[4:52, 4:68], image[5:53, 2:66]])  # first(x) = second(x + (2, -1))
    clip = torch.from_numpy(frames).movedim(-1, 1)[None].float() / 255
    learner = FlowLearner(FreeFlow(48, 64), Photometric(task_of(run)[0]))
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        torch.stack(list(learner.objective(learner, Batch(clip)).values())).sum().backward()
        optimizer.step()
    found = learner.encoder.flow.detach()[:, :, 2:-2, 2:-2].mean((2, 3))
    assert found[0].tolist() == pytest.approx([2, -1], abs=0.25)
    assert found[1].tolist() == pytest.approx([-2, 1], abs=0.25)


def test_rows_whose_flow_is_known_are_learned_from_as_such():
    """The terms of a mixed batch are those of its two parts."""
    run = replace(RUN, width=0, settings={**TINY, "objective": "photometric", "exact": 0.3})
    learner = new_learner(run)
    frames, flow = Shifts(run).batch(0, range(5))
    clip, flow = torch.from_numpy(frames).movedim(-1, 2).float() / 255, torch.from_numpy(flow.copy()).movedim(-1, 1)
    known = torch.tensor([False, True, True, False, True])
    flow[~known] = torch.nan

    def terms(rows, given):
        made = learner.objective(learner, Batch(clip[rows], torch.Generator().manual_seed(3), flow=given))
        return {k: float(v.detach()) for k, v in made.items()}

    exact = 0.3 * float(multiscale_robust(learner.encoder(clip[known, 0], clip[known, 1]), flow[known]).detach())
    plain = terms(~known, None)
    assert plain.keys() == {"photometric", "smoothness"}
    assert terms(known, flow[known]) == pytest.approx({"flow": exact})
    assert terms(slice(None), flow) == pytest.approx({"flow": exact, **plain}, rel=1e-5)


def test_spynet_trains_the_level_whose_turn_it_is():
    run = Run(method="spynet", settings={"levels": 3}, size=128, batch_size=2, frames=2)
    learner = new_learner(run)
    for progress, turn in ((0.0, 0), (0.34, 1), (0.99, 2), (1.0, 2)):
        learner.zero_grad(set_to_none=True)
        terms = first_terms(run, learner, progress)
        terms["flow"].backward()
        has = [any(p.grad is not None for p in level.parameters()) for level in learner.encoder.levels]
        assert has == [i == turn for i in range(3)]
        assert learner.encoder.depth == 3
    deep = replace(run, settings={"levels": 6})
    learner = new_learner(deep)
    with pytest.raises(InputError, match="too small for a SpyNet of 6 levels"):
        first_terms(deep, learner, 1.0)


def test_what_is_best_is_told_by_held_out_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr("pixeltrail.training.flow.HELD_OUT", 1)
    run = replace(RUN, size=16, width=16)

    class Zero(torch.nn.Module):
        stride = 8

        def forward(self, first, second):
            return [self.flow.expand(len(first), 2, 4, 4)]

    network = Zero()
    network.flow = torch.nn.Parameter(torch.zeros(1, 2, 1, 1))
    watcher = FlowWatcher(run)
    found = watcher(1, FlowLearner(network, None))
    assert found["EPE"] == pytest.approx(float(watcher.flow.norm(dim=1).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"objective": "epee"}}, "settings.objective is 'epee'; there are epe, robust, photometric"),
        ({"settings": {"chanels": 3}}, "chanels"),
        ({"size": 36}, "size is 36, expected a multiple of 8"),
        ({"halve": [0]}, "halve is"),
        ({"settings": {"objective": "photometric"}}, "frames = 2 and square crops"),
        ({"settings": {"objective": "photometric"}, "width": 0}, "needs videos"),
        ({"start": "nothing.safetensors"}, "no such"),
    ],
)
def test_bad_recipes_say_what_is_wrong(changes, message, tmp_path):
    def begin():
        run = changed(RUN, changes, source="test")
        new_learner(run)
        flow_sampler_for(run, None, tmp_path)

    with pytest.raises(InputError, match=message):
        begin()


def test_weights_of_another_network_are_refused(tmp_path):
    train_flow(replace(RUN, steps=1), Shifts(RUN), tmp_path, sources=[])
    with pytest.raises(WeightsError, match="lacks"):
        new_learner(replace(RUN, method="spynet", settings={"levels": 2}, start=str(tmp_path / "last.safetensors")))


def test_the_command(tmp_path, capsys):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(to_toml(replace(RUN, steps=1)))
    assert main(["train", "--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["EPE"] > 0
    flow_networks.load(tmp_path / "run" / "best.safetensors")
    capsys.readouterr()
    for arguments, message in (
        (["--recipe", str(recipe), "--masks", str(tmp_path)], "--masks"),
        (["--method", "dul"], "give their folder as --data"),
    ):
        assert main(["train", "--out", str(tmp_path / "other"), *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_mean_of_before_and_after_is_published(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER.parents[1] / "benchmarks"))
    from publish import publish

    sources, out = tmp_path / "clips.tsv", tmp_path / "mean.safetensors"
    sources.write_text("name\tsource\tclass\nshifts\there\tpermissive\n")
    files = [tmp_path / name / "last.safetensors" for name in ("before", "after")]
    before = replace(RUN, steps=1, seed=1)
    train_flow(before, Shifts(before), files[0].parent, sources=["shifts"])
    after = replace(RUN, steps=3, lr=1e-2, start=str(files[0]))
    train_flow(after, Shifts(after), files[1].parent, sources=["shifts"])
    publish(files[1], out, sources, "", mean=files[0])
    a, b, mean = (weights.read_tensors(file) for file in (*files, out))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    for key, value in mean.items():
        assert torch.equal(value, ((a[key] + b[key]) / 2).half()), key
    assert weights.read_card(out)["mean_with"] == weights.digest(files[0])
    train_flow(replace(RUN, steps=1, settings={**TINY, "decoder": [8]}), Shifts(RUN), tmp_path / "other", sources=[])
    with pytest.raises(InputError, match="--mean takes weights of the run's own network"):
        publish(files[1], out, sources, "", mean=tmp_path / "other" / "last.safetensors")


def test_weights_to_go_on_from_are_looked_at_before_the_videos_are(tmp_path, capsys):
    (tmp_path / "videos" / "a").mkdir(parents=True)
    for t in range(4):
        write_image(tmp_path / "videos" / "a" / f"{t}.png", textured(t, 40, 60))
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    where = ["--data", str(tmp_path / "videos"), "--out", str(tmp_path / "run")]
    for method in ("dul", "pwcnet"):
        for name in ("bad", "nothing"):
            file = tmp_path / f"{name}.safetensors"
            assert main(["train", "--method", method, *where, "--set", f"start={file}"]) == 2
            assert str(file) in capsys.readouterr().err
            assert not (tmp_path / "run").exists()


if __name__ == "__main__":
    for recipe in (name for name in RECIPES if not read_recipe(FOLDER / f"{name}.toml").method.startswith("flownet")):
        run = shrunk(recipe)
        golden = {k: float(f"{float(v.detach()):.6g}") for k, v in first_terms(run, new_learner(run)).items()}
        print(f'    "{recipe}": {golden},'.replace("'", '"'))
