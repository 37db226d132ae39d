"""Features from flow: what a batch holds, and a run that resumes."""

import copy
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from pixeltrail import weights
from pixeltrail.data.clips import CachedVideo, Cut, build_cache
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.flow.camera import camera_flow
from pixeltrail.flow.classical import dis, farneback
from pixeltrail.nets.hypercolumns import Hypercolumns
from pixeltrail.training.data import sampler_for
from pixeltrail.training.look import Watcher
from pixeltrail.training.loop import train
from pixeltrail.training.pairs import TRIES, FlowPairs, contrast
from pixeltrail.training.run import Run

SETTINGS = {"width": 6, "fc": 16, "hidden": 16, "dim": 4, "pixels": 64}
RUN = Run(
    method="cpfs", settings=SETTINGS, steps=4, batch_size=2, frames=2, size=64, span=(0.1, 0.2), warmup=1, save_every=2,
    lr=1e-3, precision="fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Three scenes that move and one that stands still."""
    folder = tmp_path_factory.mktemp("frames")
    entries = []
    for k in range(4):
        frames = render(k, frames=8, size=(96, 128), objects=2, speed=3.0).frames
        np.save(folder / f"{k}.npy", np.repeat(frames[:1], 8, 0) if k == 3 else frames)
        entries.append(asdict(CachedVideo(f"scene{k}", f"{k}.npy", 8, 15.0)))
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


class TestBatches:
    def test_rows_are_clips_with_their_flow_whoever_makes_them(self, cache):
        made, sources, bad = sampler_for(RUN, cache, cache)
        assert isinstance(made, FlowPairs)
        assert (len(sources), bad) == (4, [])
        clips, flow = made.batch(3)
        assert clips.shape == (2, 2, 64, 64, 3)
        cut = next(d.cut(3, 1) for d in made.draws if np.array_equal(d.cut(3, 1).clip(), clips[1]))
        assert np.array_equal(flow[1], cut.of_flow(farneback(*cut.whole())))
        again = copy.deepcopy(made).batch(3, range(1, 2))  # as a loader process has it
        assert np.array_equal(again[0][0], clips[1])
        assert np.array_equal(again[1][0], flow[1])

    def test_pairs_that_stand_still_are_drawn_anew(self, cache):
        eager, _, _ = sampler_for(RUN, cache, cache)
        plain = eager.draws[0]
        still = [(s, r) for s in range(12) for r in range(2) if plain.names(s)[r] == "scene3"]
        assert still
        moved = 0
        for step, row in still:
            flow = eager.batch(step, range(row, row + 1))[1][0]
            moved += contrast(flow) >= eager.wanted.motion
            chosen = eager.draws[eager._row(step, row)[2]]
            assert eager.names(step)[row] == chosen.names(step)[row]
        assert moved >= len(still) - 1
        assert len(eager.draws) == TRIES
        zero = np.zeros((20, 20, 2), np.float32)
        assert contrast(zero + 5) == 0  # all moves alike: nothing to learn
        zero[:3, :, 0] = 4
        assert contrast(zero) == 4
        zero[:] = np.nan
        assert contrast(zero) == 0

    @pytest.mark.parametrize("mirrored", [False, True])
    def test_flow_is_cut_out_as_the_frames_are(self, cache, mirrored):
        """What lies at a place of the second frame's cut is what the first one's flow leads to."""
        (video, *_), _ = build_cache(cache, cache)
        cut = Cut(video, (0, 1), (20, 10, 68, 58), 96, mirrored)
        y, x = np.mgrid[:96, :128].astype(np.float32)
        flow = np.stack((0.05 * x + 2, 0.1 * y - 1), -1)  # in the frame's pixels: 20.. and 10.. are the cut's corner
        left, top = (np.arange(96) + 0.5) / 2 - 0.5 + 20, (np.arange(96) + 0.5) / 2 - 0.5 + 10
        u, v = np.broadcast_to(2 * (0.05 * left + 2), (96, 96)), np.broadcast_to(2 * (0.1 * top - 1)[:, None], (96, 96))
        expected = np.stack((-u[:, ::-1], v[:, ::-1]) if mirrored else (u, v), -1)
        inside = slice(2, -2)
        assert np.allclose(cut.of_flow(flow)[inside, inside], expected[inside, inside], atol=1e-3)

    def test_the_camera_is_taken_off_and_any_estimator_serves(self, cache):
        run = Run(**{**asdict(RUN), "settings": {**SETTINGS, "camera": True, "flow": "dis", "motion": 0.0}})
        made = sampler_for(run, cache, cache)[0]
        cut = made.draws[0].cut(1, 0)
        whole = dis(*cut.whole())
        camera = camera_flow(whole)
        assert camera is not None
        assert np.allclose(made.batch(1)[1][0], cut.of_flow(whole - camera), atol=1e-5)
        with pytest.raises(UnknownNameError, match="farneback"):
            sampler_for(Run(**{**asdict(RUN), "settings": {"flow": "farnback"}}), cache, cache)
        with pytest.raises(InputError, match="frames"):
            sampler_for(Run(**{**asdict(RUN), "frames": 1}), cache, cache)

    def test_flow_is_kept_for_the_next_run(self, cache, tmp_path, monkeypatch):
        run = Run(**{**asdict(RUN), "rendered": 0.5, "settings": {**SETTINGS, "keep": True}})
        made = sampler_for(run, cache, tmp_path)[0]
        clips, flow = made.batch(2)
        plain = sampler_for(Run(**{**asdict(run), "settings": SETTINGS}), cache, tmp_path)[0].batch(2)
        assert np.array_equal(clips, plain[0])
        assert np.allclose(flow, plain[1], atol=0.02)  # half precision
        assert not list(tmp_path.rglob("*.part"))

        def none(first, second):
            assert first.shape == (64, 64, 3), "only what is rendered is estimated again"
            return farneback(first, second)

        monkeypatch.setattr("pixeltrail.training.pairs._method", lambda name: none)
        again = sampler_for(run, cache, tmp_path)[0].batch(2)
        assert np.array_equal(flow, again[1])


def test_a_run_resumes_to_the_same_bits_and_says_how_far_it_is(cache, tmp_path):
    def go(out, *, until=4, resume=False):
        sampler = sampler_for(RUN, cache, cache)[0]

        def stop(step, losses):
            if step == until < 4:
                raise KeyboardInterrupt

        watch = Watcher(out, sampler, None)
        return train(RUN, sampler, out, sources=["x"], resume=resume, on_step=stop, on_save=watch)

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", until=3)
    parts = go(tmp_path / "parts", resume=True)
    for one, two in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    last = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"kta", "alignment", "progress", "alike", "together", "sigma"} <= last.keys()
    assert (tmp_path / "whole" / "pictures" / "000004.png").is_file()
    tracker = weights.load(tmp_path / "whole" / "last.safetensors")
    assert isinstance(tracker.encoder, Hypercolumns)
