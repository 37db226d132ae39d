"""What benchmarks run: own encoders, baselines that learn nothing, presets; and the commands themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixeltrail import cli
from pixeltrail.backbone import Backbone, own_tracker
from pixeltrail.errors import InputError, ShapeError, UnknownNameError
from pixeltrail.flow.propagate import identity, propagate_labels, propagate_points, stay
from pixeltrail.memory import MemoryPolicy
from pixeltrail.predictors import contender, dense_sift, load_tracker
from pixeltrail.protocols import PRESETS, QUALITIES, adjusted, at_quality, preset
from pixeltrail.types import LabelMap, Points

EXAMPLE = str(Path(__file__).parents[1] / "examples" / "own_backbone.py") + ":features"
STEP = (4, 2)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """Four views of 64 x 96 of a texture that moves by STEP."""
    coarse = np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8)
    texture = np.asarray(Image.fromarray(coarse).resize((256, 192), Image.Resampling.BICUBIC))
    return [texture[40 - STEP[1] * t :][:64, 60 - STEP[0] * t :][:, :96].copy() for t in range(4)]


def block(x: int, y: int, number: int = 1) -> LabelMap:
    ids = np.zeros((64, 96), np.uint8)
    ids[y : y + 20, x : x + 24] = number
    return LabelMap(ids)


def constant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The true flow, forwards; back it is its negative."""
    forwards = np.abs(first[: -STEP[1], : -STEP[0]].astype(int) - second[STEP[1] :, STEP[0] :]).mean() < 2
    return np.full((*first.shape[:2], 2), STEP, np.float32) * (1 if forwards else -1)


# Your own backbone


def test_the_example_follows_a_shift(frames):
    assert load_tracker("default", encoder=EXAMPLE, protocol="crw").protocol == preset("crw")
    tracker = load_tracker("default", encoder=EXAMPLE)
    assert tracker.protocol == preset("dino")
    *_, last = tracker.track(frames, block(24, 16))
    true = block(24 + 3 * STEP[0], 16 + 3 * STEP[1]).ids == 1
    assert ((last.ids == 1) & true).sum() / ((last.ids == 1) | true).sum() > 0.6


def test_a_backbone_may_have_an_offset_and_any_size():
    """Patches of 16 pixels, each described by its mean: cell i must describe what lies around pixel 16 i."""
    seen = []

    def patches(rgb):
        seen.append(rgb.shape[2:])
        return torch.nn.functional.avg_pool2d(rgb, 16)

    picture = torch.arange(50.0).expand(1, 3, 40, 50)
    got = Backbone(patches, 16, 7.5)(picture)
    assert seen == [(48, 64)]
    assert got.shape == (1, 3, 3, 4)
    np.testing.assert_allclose(got[0, 0, 0, 1:3], [15.5, 31.5])  # half a pixel from 16 and 32


def test_what_is_no_backbone_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import torch\ndef bare(x): return x\ndef wrong(x): return x\nwrong.stride = 8\nnumber = 3\n"
                    "class Made:\n stride = 4\n def __call__(self, x): return x[:, :, ::4, ::4]\n")  # fmt: skip
    for name, words in (
        (f"{file}:bare", "attribute stride"), (f"{file}:number", "attribute stride"), (f"{file}:none", "has no none"),
        (f"{tmp_path}/no.py:x", "no such file"), ("no.such.module:x", "cannot be imported"), ("nothing", "expected FILE"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            own_tracker(name, preset("dino"))
    with pytest.raises(ShapeError, match=r"expected \(1, C, 4, 4\)"):
        own_tracker(f"{file}:wrong", preset("dino")).embed(torch.zeros(1, 3, 32, 32))
    assert own_tracker(f"{file}:Made", preset("dino")).embed(torch.zeros(1, 3, 30, 32)).shape == (1, 3, 8, 8)
    with pytest.raises(InputError, match="give one of them"):
        load_tracker("mast", encoder=EXAMPLE)


# Presets


def test_new_presets_are_as_published():
    v3, sd, adm = (preset(name) for name in ("dinov3", "dift", "dift-adm"))
    assert (v3.size, v3.policy.recent, v3.affinity.temperature, v3.affinity.circle) == (960, 7, 0.2, True)
    assert (sd.policy.recent, sd.affinity.radius, sd.affinity.topk, sd.affinity.temperature) == (28, 15, 15, 0.2)
    assert (adm.affinity.topk, adm.affinity.temperature, adm.policy) == (10, 0.1, sd.policy)


def test_a_preset_can_be_adjusted():
    made = adjusted(preset("crw"), recent=7, radius=5, topk=3, temperature=0.1)
    assert (made.policy.recent, made.affinity.radius, made.affinity.topk) == (7, 5, 3)
    whole = adjusted(preset("crw"), radius=0, topk=0).affinity
    assert (whole.radius, whole.circle, whole.topk) == (None, False, None)
    assert adjusted(preset("mast")) == preset("mast")
    with pytest.raises(InputError):
        adjusted(preset("mast"), temperature=0.0)


@pytest.mark.parametrize("name", ["fast", "balanced", "best"])
def test_a_quality_sets_the_size_and_the_memory_of_those_that_remember_as_the_default_does(name):
    size, recent, stride, components = QUALITIES[name]
    remembered = {"default": True, "dul": True, "crw": True, "mast": False, "corrflow": False, "colorization": False}
    for method, by_quality in remembered.items():
        own = load_tracker(method).protocol
        policy = MemoryPolicy(anchors=(0,), recent=recent, stride=stride) if by_quality else own.policy
        compared = (
            components if own.affinity.normalize else None
        )  # raw products may be large, and so may be what is left out
        assert at_quality(own, name) == replace(own, size=size, policy=policy, components=compared), method
    with pytest.raises(UnknownNameError, match="did you mean best"):
        at_quality(own, "bets")


def test_any_encoder_runs_under_any_preset(frames):
    for name in PRESETS:
        made = contender("default", encoder=EXAMPLE, protocol=name, own_size=True)
        assert len(list(made.masks(frames[:2], block(24, 16)))) == 2


# Baselines


def test_flow_carries_labels_that_appear_later(frames):
    given = {1: block(10, 10), 2: block(50, 30, 2)}
    none, first, second, third = propagate_labels(frames, given, constant)
    assert not none.any()
    np.testing.assert_array_equal(first, block(10, 10).ids)
    moved = np.maximum(block(10 + 2 * STEP[0], 10 + 2 * STEP[1]).ids, block(50 + STEP[0], 30 + STEP[1], 2).ids)
    np.testing.assert_array_equal(third, moved)
    assert set(np.unique(second)) == {0, 1, 2}
    assert [set(np.unique(ids)) for ids in identity(frames, given)] == [{0}, {0, 1}, {0, 1, 2}, {0, 1, 2}]


def test_flow_carries_points(frames):
    points = Points(np.array([[10.5, 12], [94, 30], [20, 20]]), np.array([0, 0, 2]))
    found = list(propagate_points(frames, points, constant))
    np.testing.assert_allclose(found[3].xy[0], [10.5 + 12, 12 + 6])
    assert [f.confidence[1] for f in found] == [1, 0, 0, 0]  # it left the picture
    assert np.isnan(found[1].xy[2]).all()
    np.testing.assert_allclose(found[3].xy[2], [24, 22])
    assert [f.xy[0].tolist() for f in stay(frames, points)] == [[10.5, 12]] * 4
    undefined = list(propagate_points(frames, points, lambda a, b: np.full((*a.shape[:2], 2), np.nan, np.float32)))
    np.testing.assert_allclose(undefined[3].xy[0], [10.5, 12])


def test_sift_describes_the_same_place_alike(frames):
    pytest.importorskip("cv2")
    tracker = dense_sift()
    maps = tracker.embed(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 255.0)
    assert maps.shape == (4, 128, 8, 12)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(4, 8, 12))
    same = (maps[0] * maps[2]).sum(0)[2:6, 2:9]  # frame 2 is 8 pixels to the right, 4 down
    moved = (maps[0, :, 2:6, 2:9] * maps[2, :, 2:6, 3:10]).sum(0)
    assert moved.mean() > same.mean()
    assert not tracker.embed(torch.zeros(1, 3, 64, 96)).any()  # a flat picture has no gradients


def test_untrained_is_the_same_every_time():
    state = torch.random.get_rng_state()
    first, second = (contender("untrained") for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.settings == second.settings
    one, two = (load_tracker("untrained").encoder.state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    trained = load_tracker("default").encoder.state_dict()
    assert one.keys() == trained.keys()
    assert any(not torch.equal(one[key], trained[key]) for key in one)


def test_a_baseline_has_no_protocol():
    for kwargs in ({"protocol": "crw"}, {"recent": 3}):
        with pytest.raises(InputError, match="has no protocol"):
            contender("identity", **kwargs)


def test_the_benchmark_decides_the_size():
    assert load_tracker("default", protocol="dino").protocol.size == 480
    assert contender("colour", protocol="dino", own_size=True).settings["protocol"]["size"] is None
    assert contender("colour", quality="fast", own_size=True).settings["protocol"]["size"] == 240


# Commands


@pytest.fixture
def sequences(tmp_path, frames) -> Path:
    """A box sequence, a BADJA folder and an .npz of TAP-Vid that show the moving texture."""
    boxes, badja = tmp_path / "boxes/clip", tmp_path / "badja"
    for folder in (boxes, badja / "video"):
        folder.mkdir(parents=True)
        for t, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{t:05d}.png")
    (boxes / "gt.txt").write_text("".join(f"{20 + 4 * t},{10 + 2 * t},{50 + 4 * t},{40 + 2 * t}\n" for t in range(4)))
    (badja / "mask").mkdir()
    entries = []
    for t in (0, 3):
        Image.fromarray(np.full((64, 96), 255, np.uint8)).save(badja / f"mask/{t:05d}.png")
        joints = [[20 + 2 * t, 30 + 4 * t], [30 + 2 * t, 50 + 4 * t]]
        entries.append({"image_path": f"video/{t:05d}.png", "segmentation_path": f"mask/{t:05d}.png", "joints": joints,
                        "visibility": [True, True]})  # fmt: skip
    (badja / "clip.json").write_text(json.dumps(entries))
    at = np.array([[[30 + 4 * t, 20 + 2 * t] for t in range(4)]], np.float32) + 0.5
    np.savez(tmp_path / "tap.npz", video=np.stack(frames), points=at / [96, 64], occluded=np.zeros((1, 4), bool))
    return tmp_path


def scores(capsys, *args: object) -> dict:
    out = Path(str(args[1])).parent / "report.json"
    code = cli.main(["evaluate", *map(str, args), "--out", str(out)])
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    return json.loads(out.read_text())["overall"]


def test_commands_score_what_is_known(sequences, capsys):
    still = scores(capsys, "boxes", sequences / "boxes", "--method", "identity")
    true = np.array([[20 + 4 * t, 10 + 2 * t, 50 + 4 * t, 40 + 2 * t] for t in range(4)])
    from pixeltrail.evaluation.boxes import success_and_precision

    assert still["success_AUC"] == pytest.approx(success_and_precision(true[[0] * 4], true)[0].mean())
    assert (still["failures"], still["accuracy"]) == (0, None)  # all four frames burn in
    pytest.importorskip("cv2")
    moved = scores(capsys, "badja", sequences / "badja", "--method", "dis")
    assert moved["PCK_0.2"] == moved["PCK_8px"] == 1
    assert scores(capsys, "badja", sequences / "badja", "--method", "identity")["PCK_4px"] == 0
    tap = scores(capsys, "tapvid", sequences / "tap.npz", "--method", "flow:dis")
    assert tap["delta_avg"] == tap["AJ"] == 1
    own = scores(capsys, "boxes", sequences / "boxes", "--encoder", EXAMPLE, "--recent", 2, "--no-restarts")
    assert own["success_AUC"] > still["success_AUC"] / 2
    sift = scores(capsys, "badja", sequences / "badja", "--method", "sift")
    assert sift["PCK_16px"] >= 0.5


@pytest.mark.parametrize("name", ["youtube-vos", "vip", "jhmdb", "badja", "tapvid", "boxes"])
def test_a_missing_folder_is_one_line(name, tmp_path, capsys):
    assert cli.main(["evaluate", name, str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_track_with_an_own_encoder(tmp_path, frames, capsys):
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frames/{t:05d}.png")
    Image.fromarray(block(24, 16).ids).save(tmp_path / "first.png")
    line = [str(tmp_path / "frames"), "--labels", str(tmp_path / "first.png"), "--out", str(tmp_path / "out")]
    assert cli.main(["track", *line, "--no-overlay", "--encoder", EXAMPLE]) == 0, capsys.readouterr().err
    last = np.asarray(Image.open(tmp_path / "out/masks/00003.png")) == 1
    true = block(24 + 3 * STEP[0], 16 + 3 * STEP[1]).ids == 1
    assert (last & true).sum() / (last | true).sum() > 0.6
    assert cli.main(["track", *line, "--encoder", EXAMPLE, "--adapt", "1"]) == 2
    assert "give one of them" in capsys.readouterr().err
