"""The loop: one seed decides everything, an interrupted run resumes bit for bit, and each objective is its formula."""

import copy
import json
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pixeltrail import catalogue, weights
from pixeltrail.data.clips import CachedVideo, ClipSampler, build_cache, read_cache
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.errors import DiskError, InputError, PixeltrailError, UnknownNameError, WeightsError
from pixeltrail.methods.dul import AnchorSelfTraining, _view, _zoom_and_flip
from pixeltrail.training.data import RENDERED, Mixed, sampler_for
from pixeltrail.training.feed import feed
from pixeltrail.training.loop import _follow, train
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


def test_batches_depend_on_seed_and_number_alone(videos):
    a, b = sampler(videos), sampler(videos)
    b.batch(0)
    assert np.array_equal(a.batch(3), b.batch(3))
    assert not np.array_equal(a.batch(3), a.batch(4))
    assert a.batch(0).shape == (2, 3, 48, 48, 3)
    assert np.array_equal(a.batch(4, range(1, 2)), a.batch(4)[1:])  # any row alone
    assert not np.array_equal(a.batch(0), sampler(videos, seed=1).batch(0))


def test_rendered_rows_are_spread_over_the_batch(videos):
    mixed = sampler(videos, batch_size=8, rendered=0.25)
    names = mixed.names(5)
    assert [n == RENDERED for n in names] == [False, False, False, True] * 2  # each shard gets its share
    assert {n for n in names if n != RENDERED} <= {"clip0", "clip1", "clip2"}
    whole = mixed.batch(5)
    assert whole.shape == (8, 3, 48, 48, 3)
    assert np.array_equal(mixed.batch(5, range(2, 5)), whole[2:5])
    assert not np.array_equal(whole[3], whole[7])


def test_names_say_which_video_a_row_shows(tmp_path):
    videos = []
    for k in range(5):
        np.save(tmp_path / f"{k}.npy", np.full((4, 20, 30, 3), 40 * k, np.uint8))
        videos.append(CachedVideo(f"video{k}", str(tmp_path / f"{k}.npy"), 4, 10.0))
    clips = ClipSampler(videos, batch_size=4, frames=2, size=16, span=(0.1, 0.3), crop=(0.5, 1), seed=3)
    for step in range(4):
        shown = [f"video{clip.mean() / 40:.0f}" for clip in clips.batch(step)]
        assert shown == clips.names(step)
        assert len(set(shown)) == 4  # while there are enough, each comes from another


@pytest.mark.parametrize("fps", [5.0, 15.0])
def test_frames_are_drawn_by_the_clock(tmp_path, fps):
    times = np.arange(40, dtype=np.uint8)
    np.save(tmp_path / "v.npy", np.broadcast_to(times[:, None, None, None], (40, 16, 16, 3)))
    video = CachedVideo("v", str(tmp_path / "v.npy"), 40, fps)

    def seen(even: bool, frames: int = 4, span=(0.6, 2.0)) -> np.ndarray:
        clips = ClipSampler([video], batch_size=60, frames=frames, size=16, span=span, crop=(1, 1), seed=0, even=even)
        return clips.batch(0)[:, :, 0, 0, 0].astype(int)

    for even in (True, False):
        shown = seen(even)
        seconds = (shown[:, -1] - shown[:, 0]) / fps
        assert seconds.min() >= 0.6 - 0.5 / fps
        assert seconds.max() <= 2.0 + 0.5 / fps
        assert np.ptp(seconds) > 0.8
        assert (np.diff(shown) >= 0).all()
        gaps = np.diff(shown)
        assert (np.ptp(gaps, axis=1) <= 1).all() == even  # as equal as whole frames allow
    assert (np.ptp(seen(True, frames=2, span=(60, 60)), axis=1) == 39).all()  # a shorter video gives all that it has
    assert seen(True, frames=50).shape == (60, 50)
    assert (seen(True, frames=1) >= 0).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(videos, tmp_path, workers):
    run = changed(RUN, {"steps": 3, "workers": workers, "rendered": 0.5}, source="test")
    train(run, sampler(videos, run), tmp_path / "processes", sources=[])
    train(changed(run, {"workers": 0}, source="test"), sampler(videos, run), tmp_path / "thread", sources=[])
    assert losses(tmp_path / "processes") == losses(tmp_path / "thread")


def test_a_loader_process_says_what_is_wrong_in_one_line(videos):
    gone = [replace(v, path=v.path + ".gone") for v in videos]
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"^[^\n]*clip\d cannot be read[^\n]*remove the cache$"):
            next(feed(sampler(gone), range(3), range(2), workers))


WITH_A_LOADER_PROCESS = """
import multiprocessing, sys, time
import numpy as np
from pixeltrail.training.feed import feed

class Frames:
    def batch(self, step, rows):
        return np.zeros((len(rows), 2, 8, 8, 3), np.uint8)

if __name__ == "__main__":
    batches = feed(Frames(), range(100), range(2), 1)
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    if "wait" in sys.argv:
        time.sleep(100)
"""


@pytest.mark.parametrize("end", ["left", "killed"])
def test_loader_processes_end_with_the_first_one(tmp_path, end):
    """Whether it leaves with batches still coming, or is killed with -9: nothing waits, nothing stays."""
    script = tmp_path / "loads.py"
    script.write_text(WITH_A_LOADER_PROCESS)
    how = ["wait"] if end == "killed" else []
    main = subprocess.Popen([sys.executable, script, *how], stdout=subprocess.PIPE, text=True)
    worker = int(main.stdout.readline())
    if end == "killed":
        main.kill()
    assert main.wait(timeout=60) == (-signal.SIGKILL if end == "killed" else 0)
    main.stdout.close()
    until = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


def test_a_loader_process_that_dies_is_said(videos):
    batches = feed(sampler(videos), range(50), range(2), 1)
    next(batches)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(PixeltrailError, match="a loader process died"):
        list(batches)


def test_data_may_be_one_video_or_several(folder, tmp_path):
    one, _ = build_cache(folder / "clip1.mp4", tmp_path / "one")
    assert [v.name for v in one] == ["clip1"]
    several, bad = build_cache(
        [folder / "clip0.mp4", folder / "clip2.mp4", folder / "broken.mp4"], tmp_path / "several"
    )
    assert [v.name for v in several] == ["clip0", "clip2"]
    assert len(bad) == 1
    both, _ = build_cache([tmp_path / "one", folder / "clip2.mp4"], tmp_path / "both")  # a finished cache among them
    assert [(v.name, v.frames) for v in both] == [("clip1", 12), ("clip2", 12)]
    with pytest.raises(InputError, match="no such file or folder"):
        build_cache([folder / "clip0.mp4", folder / "clip9.mp4"], tmp_path / "none")


def test_what_training_cannot_use_is_named(folder, tmp_path):
    still = tmp_path / "data" / "still"
    still.mkdir(parents=True)
    PIL.Image.new("RGB", (40, 30)).save(still / "0.png")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "killed.npy.part").write_bytes(b"half")
    mixed, sources, bad = sampler_for(RUN, [tmp_path / "data", folder], tmp_path / "frames")
    assert sources == ["clip0", "clip1", "clip2"]
    assert sorted("broken.mp4" in line or line.startswith("still: a single frame") for line in bad) == [True, True]
    assert mixed.batch(0).shape == (2, 3, 48, 48, 3)
    assert not list((tmp_path / "frames").glob("*.part"))
    with pytest.raises(InputError, match="single frame"):
        sampler_for(RUN, still, tmp_path / "frames")


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

    tracker = catalogue.build("mast", width=4, channels=4)
    tracker.objective = Root()
    before = copy.deepcopy(tracker.state_dict())
    with pytest.raises(PixeltrailError, match=r"step 1: the gradient is not finite .*root 0.* on clip\d, clip\d"):
        train(changed(RUN, {"method": "mast"}, source=""), sampler(videos), tmp_path, sources=[], tracker=tracker)
    for name, parameter in tracker.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_objective_gets_every_pixel_as_it_is(videos, tmp_path, capfd, precision):
    given = []

    class Look(torch.nn.Module):
        def forward(self, tracker, batch):
            given.append(batch.clip)
            features = tracker.embed(batch.clip[:, 0])
            assert (features.dtype == torch.bfloat16) == (precision == "bf16")
            return {"size": features.float().square().mean()}

    tracker = catalogue.build("mast", width=4, channels=4)
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


def test_recipes_are_checked(tmp_path):
    assert changed(Run(), parse_set(["lr=1e-4", "steps=5", "settings.width=16", "method=mast"]), source="--set") == Run(
        lr=1e-4, steps=5, settings={"width": 16}, method="mast"
    )
    assert parse_set(["compile=true", "even=false"]) == {"compile": True, "even": False}  # an "e" alone makes no number
    with pytest.raises(UnknownNameError, match="did you mean batch_size"):
        changed(Run(), {"batchsize": 3}, source="r.toml")
    for values in (
        {"steps": 0},
        {"lr": 0.0},
        {"precision": "fp8"},
        {"span": [2, 1]},
        {"steps": "many"},
        {"crop": 3},
        {"shards": 3},
        {"seed": -1},
        {"rendered": 2.0},
        {"clip_gradient": -1.0},
    ):
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
        assert read_recipe(file).method == file.stem.split("_")[0]  # mast_memory: a later stage of mast


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
