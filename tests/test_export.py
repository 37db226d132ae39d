"""Trackers as ONNX: the step is the affinity, and ONNX Runtime tracks as torch does."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

import pixeltrail.export as module
from pixeltrail.affinity import Affinity
from pixeltrail.cli import main
from pixeltrail.data.davis import Davis
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError
from pixeltrail.export import CARD, ENCODER, STEP, OnnxTracker, Step, export
from pixeltrail.predictors import load_tracker
from pixeltrail.types import LabelMap, Points

AFFINITIES = [
    Affinity(radius=3, temperature=0.05, normalize=True, topk=10),
    Affinity(radius=3, circle=True, temperature=0.07, normalize=True, topk=5, renormalize=False),
    Affinity(radius=2, dilation=3, temperature=0.5),
    Affinity(radius=6, mask_border=False, joint=False),
    Affinity(temperature=0.1, normalize=True, topk=5, joint=False, renormalize=False),
    Affinity(normalize=True, temperature=0.05, topk=7),
]


@pytest.mark.parametrize("affinity", AFFINITIES)
@pytest.mark.parametrize(("h", "w", "s", "k"), [(9, 14, 3, 4), (5, 6, 1, 1)])
def test_the_step_is_the_affinity(affinity, h, w, s, k):
    random = torch.Generator().manual_seed(h)
    query, keys, values = (torch.randn(n, generator=random) for n in ((1, 8, h, w), (1, s, 8, h, w), (1, s, k, h, w)))
    step, expected = Step(affinity)(query, keys, values), affinity.propagate(query, keys, values)
    assert torch.allclose(step, expected, atol=1e-5)


def small(tracker):
    affinity = replace(tracker.protocol.affinity, radius=3)  # fewer rows of the window: a quicker export
    tracker.protocol = replace(tracker.protocol, affinity=affinity, size=None)
    return tracker


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    out = tmp_path_factory.mktemp("onnx")
    tracker = small(load_tracker("default", quality="fast"))  # which compares 96 of its 288 channels
    export(tracker, out)
    return tracker, OnnxTracker(out, threads=1)


@pytest.mark.filterwarnings("default")  # the exporter's own
def test_what_is_exported_is_what_runs(pair):
    tracker, onnx = pair
    assert onnx.protocol == tracker.protocol
    assert onnx.stride == tracker.stride
    random = torch.Generator().manual_seed(1)
    for height, width in ((64, 64), (97, 211), (130, 50)):
        rgb = torch.rand(1, 3, height, width, generator=random)
        with torch.inference_mode():
            key = tracker.embed(rgb)
        assert torch.allclose(onnx.embed(rgb), key, atol=1e-4)
    c = tracker.protocol.components
    for h, w, s, k in ((12, 19, 2, 3), (20, 9, 1, 1), (10, 10, 8, 30)):
        sizes = ((1, c, h, w), (1, s, c, h, w), (1, s, k, h, w))
        query, keys, values = (torch.randn(n, generator=random) for n in sizes)
        expected = tracker.propagate(query, [], keys, values, 1)
        assert torch.allclose(onnx.propagate(query, [], keys, values, 1), expected, atol=1e-4)


@pytest.mark.filterwarnings("default")
def test_a_whole_clip_is_tracked_alike(pair):
    tracker, onnx = pair
    clip = render(3, frames=12, size=(96, 128), objects=2, points=6)
    labels = LabelMap(clip.labels[0])
    compare(tracker, onnx, clip.frames, labels)
    points = Points(np.array([[30.5, 40.0], [90.0, 60.25]], np.float32))
    for ours, theirs in zip(tracker.follow(clip.frames, points), onnx.follow(clip.frames, points), strict=True):
        assert np.abs(ours.xy - theirs.xy).max() < 1e-2


@pytest.mark.filterwarnings("default")
def test_a_real_clip_is_tracked_alike(pair, real_data):
    tracker, onnx = pair
    (sequence,) = Davis(real_data / "davis-dev", ["dog-agility"])
    frames = [image[::2, ::2] for image in islice(sequence.images(), 8)]
    compare(tracker, onnx, frames, LabelMap(np.ascontiguousarray(sequence.first().ids[::2, ::2])))


def compare(tracker, onnx, frames, labels):
    """What is carried on, to 1e-4 in every frame, and the masks."""
    sessions = [tracker.live(), onnx.live()]
    for t, image in enumerate(frames):
        a, b = (session.step(image, None if t else labels) for session in sessions)
        (_, _, ours), (_, _, theirs) = (session.bank.read(t + 1) for session in sessions)
        assert torch.allclose(ours[:, -1], theirs[:, -1], atol=1e-4), t
        assert np.mean(a.ids != b.ids) < 1e-4


@pytest.fixture
def quick(monkeypatch):
    """Networks that take no time to write: their name and a number."""

    def number(n):
        monkeypatch.setattr(module, "_onnx", lambda name, *rest: f"{name} {n}".encode())

    return number


def refused(folder):
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError) as error:
        OnnxTracker(folder)
    return str(error.value)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_export_stopped_in_its_last_moment_is_refused(tmp_path, monkeypatch, quick, renames):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    tracker, out = small(load_tracker("default")), tmp_path / "out"

    def export_and_be_stopped():
        left, replace_file = iter(range(renames)), os.replace

        def stopping(*names):
            if next(left, None) is None:
                raise KeyboardInterrupt
            replace_file(*names)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping)
            with pytest.raises(KeyboardInterrupt):
                export(tracker, out)

    quick(1)
    export_and_be_stopped()
    assert "holds no tracker" in refused(out)
    export(tracker, out)
    assert "cannot be run" in refused(out)  # these are no networks, but they belong together
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(before) == {ENCODER, STEP, CARD}
    quick(2)
    export_and_be_stopped()
    if renames:
        assert f"{ENCODER} and {CARD} are not of one export" in refused(out)
    else:
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    export(tracker, out)
    assert "cannot be run" in refused(out)


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, RuntimeError])
def test_what_stops_an_export_leaves_nothing_new(tmp_path, monkeypatch, quick, trouble):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    tracker, out = small(load_tracker("default")), tmp_path / "new" / "out"
    quick(1)
    export(tracker, out)
    before = {file: file.read_bytes() for file in out.iterdir()}

    def stopped(name, *rest):
        if name == STEP:
            raise trouble
        return b"encoder"

    monkeypatch.setattr(module, "_onnx", stopped)
    for folder in (out, tmp_path / "another" / "out"):
        with pytest.raises(trouble):
            export(tracker, folder)
    assert {file: file.read_bytes() for file in out.iterdir()} == before
    assert [folder.name for folder in tmp_path.iterdir()] == ["new"]


def test_what_one_step_cannot_do_is_refused(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    for protocol, said in (("mast", "distant frames"), ("crw", "first frame"), ("uvc-boxes", "boxes")):
        with pytest.raises(InputError, match=said):
            export(load_tracker("colour", protocol=protocol), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_onnx_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "--out", str(tmp_path / "out")]) == 2
    assert "pixeltrail[export]" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(tmp_path):
    assert "holds no tracker" in refused(tmp_path)
    (tmp_path / CARD).write_text(json.dumps({"protocol": {"affinity": 3}}))
    assert "holds no tracker" in refused(tmp_path)
