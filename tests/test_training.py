"""The loop: one seed decides everything, and an interrupted run resumes bit for bit."""

import copy
import signal
import threading

import pytest
import torch
from safetensors.torch import save_file

import shortrun
from pixeltrail import catalogue, weights
from pixeltrail.errors import DiskError, InputError, PixeltrailError, WeightsError
from pixeltrail.training.data import Mixed
from pixeltrail.training.loop import _follow, settled, train
from pixeltrail.training.run import changed, read_recipe
from shortrun import RUN, losses, sampler

folder, videos = shortrun.folder, shortrun.videos


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
        def batch(self, step, rows):
            return sampler(videos).batch(step, rows)

        def names(self, step):
            return sampler(videos).names(step)

    run = changed(RUN, {"lr": 1e30, "steps": 50, "save_every": 1}, source="test")
    with pytest.raises(PixeltrailError, match="not finite"):
        train(run, Broken(), tmp_path, sources=[])
    for tensor in weights.read_tensors(tmp_path / "last.safetensors").values():
        assert torch.isfinite(tensor.float()).all()


def test_a_gradient_that_is_not_finite_stops_before_the_step(videos, tmp_path):
    class Root(torch.nn.Module):  # its slope at zero is infinite, its value is not
        def forward(self, tracker, batch):
            return {"root": (tracker.embed(batch.clip[:, 0]) * 0).sum().sqrt()}

    tracker = catalogue.build("mast", width=8, channels=8)
    tracker.objective = Root()
    before = copy.deepcopy(tracker.state_dict())
    with pytest.raises(PixeltrailError, match=r"step 1: the gradient is not finite .*root 0.* on clip\d, clip\d"):
        train(changed(RUN, {"method": "mast"}, source=""), sampler(videos), tmp_path, sources=[], tracker=tracker)
    for name, parameter in tracker.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not list(tmp_path.glob("*.safetensors"))


def test_precision_is_settled_once_by_what_the_machine_computes_in(videos, tmp_path, monkeypatch):
    auto = changed(RUN, {"steps": 4, "save_every": 2, "precision": "auto"}, source="")
    for can, precision in (({"avx512_bf16": False}, "fp32"), ({"amx_bf16": True}, "bf16"), ({"bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda can=can: can, raising=False)
        assert settled(auto, "cpu").precision == precision
        assert settled(auto, "mps").precision == "fp32"
        assert settled(RUN, "cpu") == RUN
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    train(auto, sampler(videos), tmp_path, sources=[])
    assert read_recipe(tmp_path / "recipe.toml").precision == "fp32"
    with pytest.raises(InputError, match="precision"):
        changed(RUN, {"precision": "fp16"}, source="")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_objective_gets_every_pixel_as_it_is(videos, tmp_path, capfd, precision):
    given = []

    class Look(torch.nn.Module):
        def forward(self, tracker, batch):
            given.append(batch.clip)
            features = tracker.embed(batch.clip[:, 0])
            assert (features.dtype == torch.bfloat16) == (precision == "bf16")
            return {"size": features.float().square().mean()}

    tracker = catalogue.build("mast", width=8, channels=8)
    tracker.objective = Look()
    run = changed(RUN, {"steps": 1, "precision": precision}, source="")
    train(run, sampler(videos), tmp_path, sources=[], tracker=tracker)
    expected = torch.from_numpy(sampler(videos).batch(0)).movedim(-1, 2).float() / 255
    assert torch.equal(given[0], expected)
    assert capfd.readouterr() == ("", "")


def test_what_is_frozen_stays_as_it_is(videos, tmp_path):
    tracker = catalogue.build("dul", **RUN.settings)
    tracker.encoder.requires_grad_(False)
    before = copy.deepcopy(tracker.state_dict())
    train(changed(RUN, {"steps": 2}, source=""), sampler(videos), tmp_path, sources=[], tracker=tracker)
    moved = {name for name, value in tracker.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("objective.") for name in moved)
    assert "objective.project.1.running_mean" in moved
    slots = {key.split(".")[1] for key in weights.read_tensors(tmp_path / "state.safetensors") if "optimizer" in key}
    assert len(slots) == len(list(tracker.objective.parameters()))


def test_gradients_are_clipped_to_their_norm(videos, tmp_path):
    run = changed(RUN, {"steps": 2, "weight_decay": 0.0}, source="")
    for name, largest in (("off", 0.0), ("loose", 1e6), ("tight", 1e-9)):
        train(changed(run, {"clip_gradient": largest}, source=""), sampler(videos), tmp_path / name, sources=[])
    assert losses(tmp_path / "off") == losses(tmp_path / "loose")
    # AdamW divides by the gradient's size, but one far below its epsilon moves nothing.
    assert losses(tmp_path / "tight")[0] == losses(tmp_path / "off")[0]
    start = dict(catalogue_at_seed().named_parameters())
    for name, value in weights.read_tensors(tmp_path / "tight" / "last.safetensors").items():
        if name in start:
            torch.testing.assert_close(value, start[name].detach(), rtol=0, atol=2e-4, msg=name)


def catalogue_at_seed():
    torch.manual_seed(RUN.seed)
    return catalogue.build(RUN.method, **RUN.settings)


def test_the_best_is_kept_and_its_score_survives(videos, tmp_path):
    scores = {2: 0.4, 4: 0.7, 6: 0.5}
    kept = {}

    def judged(step, tracker):
        assert not tracker.training
        kept[step] = copy.deepcopy(tracker.encoder.state_dict())
        return {"J&F": scores[step]}

    def interrupted(step, losses):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(RUN, sampler(videos), tmp_path, sources=[], on_save=judged, on_step=interrupted)
    train(RUN, sampler(videos), tmp_path, sources=[], on_save=judged, resume=True)
    for name, step in (("best", 4), ("last", 6)):
        saved = weights.read_tensors(tmp_path / f"{name}.safetensors")
        assert all(torch.equal(saved[f"encoder.{k}"], v) for k, v in kept[step].items())
        assert weights.read_card(tmp_path / f"{name}.safetensors")["steps"] == step
    assert [line.get("J&F") for line in losses(tmp_path)] == [None, 0.4, None, 0.7, None, 0.5]


def test_without_masks_the_lowest_loss_is_best(videos, tmp_path):
    train(RUN, sampler(videos), tmp_path, sources=[])
    each = [line["loss"] for line in losses(tmp_path)]
    means = {step: (each[step - 2] + each[step - 1]) / 2 for step in (2, 4, 6)}
    assert weights.read_card(tmp_path / "best.safetensors")["steps"] == min(means, key=means.get)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_within_a_step(videos, tmp_path, number):
    class Interrupting(Mixed):
        def batch(self, step, rows=None):
            if step == 3:
                main = threading.main_thread().ident
                signal.pthread_kill(main, number)
            return super().batch(step, rows)

    whole = train(RUN, sampler(videos), tmp_path / "whole", sources=[])
    mixed = sampler(videos)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(RUN, Interrupting(mixed.clips, RUN), tmp_path / "cut", sources=[])
    assert stop.value.args == (number,)
    done = weights.read_card(tmp_path / "cut" / "state.safetensors")["progress"]["step"]
    assert 1 <= done <= 4
    assert weights.read_card(tmp_path / "cut" / "last.safetensors")["steps"] == done
    resumed = train(RUN, mixed, tmp_path / "cut", sources=[], resume=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize("file", ["state.safetensors", "last.safetensors", "metrics.jsonl"])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(videos, tmp_path, file, monkeypatch):
    run = changed(RUN, {"steps": 4}, source="")
    whole = train(run, sampler(videos), tmp_path / "whole", sources=[])
    out = tmp_path / "cut"
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step, tracker):  # after this step no file may be as large as this one is now
        if step == 4:
            size = (out / file).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size if file == "metrics.jsonl" else size - 1000, before[1]))
        return {}

    try:
        with pytest.raises(DiskError, match=rf"{file}: .*free some space") as full:
            train(run, sampler(videos), out, sources=[], on_save=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.value.exit_code == 3
    assert "\n" not in str(full.value)
    assert not list(out.glob("*.part"))
    assert weights.read_card(out / "state.safetensors")["progress"]["step"] == 2
    for name in ("best", "last", "state"):
        weights.read_tensors(out / f"{name}.safetensors")
    resumed = train(run, sampler(videos), out, sources=[], resume=True)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert losses(out) == losses(tmp_path / "whole")


def test_a_damaged_file_is_found_by_its_checksum(tmp_path):
    file = tmp_path / "w.safetensors"
    weights.save_tensors({"a": torch.arange(6.0), "b": torch.tensor(3), "c": torch.ones(2).bfloat16()}, file, {"x": 1})
    assert torch.equal(weights.read_tensors(file)["a"], torch.arange(6.0))
    assert weights.read_card(file) == {"x": 1}
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="checksum"):
        weights.read_tensors(file)
    save_file({"a": torch.arange(6.0)}, file)  # somebody else's file has none
    assert list(weights.read_tensors(file)) == ["a"]


def test_the_average_follows_the_weights_and_copies_counters():
    one, other = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    torch.nn.init.normal_(other.weight)
    other.num_batches_tracked.fill_(7)
    expected = 0.9 * one.weight + 0.1 * other.weight
    _follow(one, other, 0.9)
    torch.testing.assert_close(one.weight, expected)
    assert int(one.num_batches_tracked) == 7


def test_a_run_is_not_overwritten_by_another(videos, tmp_path):
    train(changed(RUN, {"steps": 1}, source=""), sampler(videos), tmp_path, sources=[])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with pytest.raises(InputError, match="holds a run already"):
        train(RUN, sampler(videos), tmp_path, sources=[])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
