"""The commands as a user types them: what they print, what they leave behind, and how they refuse."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from pixeltrail import cli, demo, weights
from pixeltrail.cli.shared import Published, Quality
from pixeltrail.data.davis import read_ids
from pixeltrail.data.images import write_image
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.nets.colour import RawColour
from pixeltrail.protocols import PRESETS, QUALITIES
from pixeltrail.types import LabelMap

SIZE, FRAMES = (48, 64), 8
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered clip as a video and as frames, its first mask, points, and a DAVIS folder of it."""
    root = tmp_path_factory.mktemp("made")
    clip = render(3, frames=FRAMES, size=SIZE, objects=2, points=4)
    with VideoWriter(root / "video.mp4", 24, SIZE) as writer:
        for image in clip.frames:
            writer.write(image)
    for kind in ("frames", "DAVIS/JPEGImages/480p/clip", "DAVIS/Annotations/480p/clip", "DAVIS/ImageSets/2017"):
        (root / kind).mkdir(parents=True)
    for t, (image, ids) in enumerate(zip(clip.frames, clip.labels, strict=True)):
        write_image(root / "frames" / f"{t:05d}.png", image)
        write_image(root / "DAVIS/JPEGImages/480p/clip" / f"{t:05d}.jpg", image)
        write_labels(root / "DAVIS/Annotations/480p/clip" / f"{t:05d}.png", LabelMap(ids))
    (root / "DAVIS/ImageSets/2017/val.txt").write_text("clip\n")
    write_labels(root / "first.png", LabelMap(clip.labels[0]))
    write_labels(root / "fourth.png", LabelMap(clip.labels[4]))
    (root / "points.csv").write_text("x,y,frame,name\n10,12,0,nose\n30.5,20,2,tail\n")
    return root


PIXELTRAIL = [sys.executable, "-c", "import sys; from pixeltrail.cli import main; sys.exit(main())"]
TRACK = "track video.mp4 --labels first.png --out out --method colour"


# What works


def test_track_writes_masks_tracks_and_overlay(run: Run, tmp_path: Path) -> None:
    assert run(TRACK) == (0, f"{FRAMES} frames -> out\n", "")  # no bar: stderr is no terminal
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["masks", "overlay.mp4", "tracks.json"]
    assert (read_ids(tmp_path / "out/masks/00000.png") == read_ids(tmp_path / "first.png")).all()
    tracks = json.loads((tmp_path / "out/tracks.json").read_text())
    assert tracks["method"] == "colour"
    assert tracks["protocol"]["affinity"]["radius"] == 12
    assert len(tracks["frames"]) == FRAMES
    assert run(TRACK)[0] == 0  # a second time: its own results may be overwritten


@pytest.mark.parametrize(("given", "frames", "objects"), [
    ("--labels first.png --labels fourth.png@4", FRAMES, [1, 2]),
    ("--labels fourth.png@4 --direction both --no-overlay", FRAMES, [1, 2]),
    ("--labels fourth.png@4 --direction backward", 5, [1, 2]),
    ("--box 10,10,30,30", FRAMES, [1]),
    ("--box -5,10,30,30 --box 40,20,60,40@3", FRAMES, [1]),
])  # fmt: skip
def test_labels_and_boxes_of_any_frame(run: Run, tmp_path: Path, given: str, frames: int, objects: list[int]) -> None:
    assert run(f"track 'frames/*.png' {given} --out out --method colour")[0] == 0
    tracks = json.loads((tmp_path / "out/tracks.json").read_text())["frames"]
    assert len(tracks) == frames
    assert [o["id"] for o in tracks[0]["objects"]] == objects
    assert (tmp_path / "out/overlay.mp4").exists() != ("--no-overlay" in given)
    if "@3" in given:
        assert read_ids(tmp_path / "out/masks/00003.png")[20:40, 40:60].min() == 2


def test_points_are_followed(run: Run, tmp_path: Path) -> None:
    assert run("track frames --points points.csv --out out --method colour")[0] == 0
    table = (tmp_path / "out/points.csv").read_text().splitlines()
    assert table[:2] == ["frame,name,point,x,y,confidence", "0,00000,nose,10.0,12.0,1.0"]
    assert len(table) == 1 + FRAMES + FRAMES - 2


def test_a_name_with_an_at_sign_is_a_name(run: Run, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "first.png", tmp_path / "me@2")
    assert run("track frames --labels me@2 --out out --method colour")[0] == 0
    assert len(list((tmp_path / "out/masks").iterdir())) == FRAMES


def test_the_default_weights_and_every_preset_track(run: Run, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for name in ("00000.png", "00001.png"):
        shutil.copy(tmp_path / "frames" / name, tmp_path / "two" / name)
    for more in ("", "--quality fast", "--protocol crw"):
        assert run(f"track two --labels first.png --out out {more}")[::2] == (0, ""), more
    tracks = json.loads((tmp_path / "out/tracks.json").read_text())
    assert tracks["weights"] == weights.digest(weights.ASSETS / "default.safetensors")


@pytest.mark.parametrize("line", [
    "track two --labels first.png --out out --method crw",
    "flow two/0.png two/1.png --out out.flo --method crw",
    "features two --out out.png --method crw",
    "segment two --out out --with crw",
    "stabilise two --out out.mp4 --method crw",
])  # fmt: skip
def test_a_method_by_its_name_is_said_to_be_untrained(run: Run, tmp_path: Path, line: str) -> None:
    (tmp_path / "two").mkdir()
    for t in range(2):
        shutil.copy(tmp_path / "frames" / f"{t:05d}.png", tmp_path / "two" / f"{t}.png")
    how = "or train one (pixeltrail train --method crw)"
    said = "note: crw by its name has random weights; give a .safetensors file of it"
    assert run(line)[::2] == (0, f"{said}, {how}\n")
    (tmp_path / "checkpoints").mkdir()  # as in the project's own folder
    (tmp_path / "checkpoints/crw.safetensors").touch()
    assert run(line)[::2] == (0, f"{said}, such as checkpoints/crw.safetensors, {how}\n")


def test_evaluate_prints_a_table_and_writes_the_report(run: Run, tmp_path: Path) -> None:
    code, out, err = run("evaluate davis DAVIS --method colour --out report.json")
    assert (code, err) == (0, "")
    assert "clip" in out
    assert "…" not in out  # nothing is cut off at 80 columns
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(o["sequence"], o["object"]) for o in report["objects"]] == [("clip", 1), ("clip", 2)]
    assert 0 < report["overall"]["J&F"] <= 1
    shutil.copytree(tmp_path / "DAVIS/Annotations/480p", tmp_path / "results")
    assert run("evaluate davis DAVIS --results results --out report.json --sequences clip")[0] == 0
    assert json.loads((tmp_path / "report.json").read_text())["overall"]["J&F"] == 1
    (tmp_path / "list.txt").write_text("clip\n")
    assert run("evaluate davis DAVIS --results results --sequences list.txt")[0] == 0
    assert run("evaluate list")[1].split()[:3] == ["davis", "youtube-vos", "vip"]


def test_render_makes_inputs_that_track_takes(run: Run, tmp_path: Path) -> None:
    code, out, err = run("render --out r --frames 3 --height 48 --width 64 --objects 1")
    assert (code, out, err) == (0, "3 frames -> r\n", "")
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["flow.npz", "masks", "tracks.csv", "video.mp4"]
    assert run("track r/video.mp4 --labels r/masks/00000.png --out out --method colour")[0] == 0


def test_demo_tells_the_true_score(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "FRAMES", 3)
    monkeypatch.setattr(demo, "SIZE", SIZE)
    code, out, _ = run("demo")
    assert code == 0
    assert re.search(r"J&F +0\.\d{3}  \(J 0\.\d{3}, F 0\.\d{3}\)", out)
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"rendered", "result", "sheet.png"}
    assert run("demo --video frames --labels first.png --out mine")[0] == 0
    assert (tmp_path / "mine/sheet.png").is_file()


def test_models_names_everything_there_is(run: Run) -> None:
    code, out, _ = run("models")
    assert code == 0
    for name in (
        "corrflow",
        "mast",
        "dul",
        *PRESETS,
        *QUALITIES,
        weights.digest(weights.ASSETS / "default.safetensors"),
    ):
        assert name in out
    assert all(name in Published.__metadata__[0].metavar for name in PRESETS)  # the help names what there is
    assert all(name in Quality.__metadata__[0].metavar for name in QUALITIES)


# What is refused


def test_bad_videos(fails: Run, tmp_path: Path) -> None:
    def track(video: str) -> str:
        return f"track '{video}' --labels first.png --out out --method colour"

    fails(track("none.mp4"), "none.mp4: does not exist")
    (tmp_path / "empty.mp4").write_bytes(b"")
    fails(track("empty.mp4"), "empty.mp4: is empty")
    (tmp_path / "noise.mp4").write_bytes(b"no video at all" * 99)
    fails(track("noise.mp4"), "noise.mp4: is not a video")
    whole = (tmp_path / "video.mp4").read_bytes()
    (tmp_path / "stub.mp4").write_bytes(whole[:300])
    fails(track("stub.mp4"), "stub.mp4: ")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path}/video.mp4\n")
    fails(track("list.mp4"), "list.mp4: is not a video")
    (tmp_path / "nothing").mkdir()
    fails(track("nothing"), "nothing: no frames found")
    fails(track("nothing/*.png"), "no frames found")
    fails(track("x" * 300), "x" * 20)  # longer than a name may be
    shutil.copytree(tmp_path / "frames", tmp_path / "sizes")
    PIL.Image.new("RGB", (64, 47)).save(tmp_path / "sizes/00003.png")
    fails(track("sizes"), "sizes/00003.png: is 64x47 but the first frame is 64x48")
    (tmp_path / "huge").mkdir()
    PIL.Image.new("1", (60_000, 2_000)).save(tmp_path / "huge/0.png")
    fails(track("huge"), "huge/0.png: is larger than 64 megapixels")
    fails(track("/dev/null"), "/dev/null: is no regular file")


def test_bad_labels(fails: Run, tmp_path: Path) -> None:
    def track(labels: str) -> str:
        return f"track video.mp4 {labels} --out out --method colour"

    ids = np.zeros(SIZE, np.uint8)
    ids[10:20, 10:20] = 1
    PIL.Image.fromarray(ids[:-1]).save(tmp_path / "wrong.png")
    fails(track("--labels wrong.png"), "wrong.png: is 64x47, the frames are 64x48", "nearest")
    PIL.Image.fromarray(0 * ids).save(tmp_path / "empty.png")
    fails(track("--labels empty.png"), "empty.png: marks no object")
    PIL.Image.fromarray(ids.astype(np.uint16) * 700).save(tmp_path / "deep.png")
    fails(track("--labels deep.png"), "deep.png: 16-bit values up to 700", "8-bit")
    (tmp_path / "broken.png").write_bytes((tmp_path / "first.png").read_bytes()[:120])
    fails(track("--labels broken.png"), "broken.png: ")
    fails(track("--labels none.png"), "none.png: does not exist")
    fails(track("--labels frames/00000.png"), "00000.png: ", "photograph")
    for name, content in (("a.json", "{"), ("b.json", '{"annotations": 3}'), ("c.json", "[]"), ("d.json", "3")):
        (tmp_path / name).write_text(content)
        fails(track(f"--labels {name}"), f"{name}: ")
    fails(track(f"--labels first.png@{FRAMES}"), f"frame {FRAMES}", "beyond")
    fails(track("--labels first.png --labels fourth.png@0"), "frame 0 has labels already")
    fails(track(""), "give one of --labels")
    fails(track("--labels first.png --box 1,2,3,4"), "give one of --labels")
    fails(track("--box 1,2,3"), "'1,2,3': is no box")
    fails(track("--box 30,2,3,9"), "is no box")
    fails(track("--box 90,2,99,9"), "--box 90,2,99,9", "64x48")
    fails(track("--box 5,5,9,9 --box 1,1,20,20"), "--box 5,5,9,9", "under another")
    fails(track("--box 5,5,9,9@50"), "frame 50", "beyond")


def test_sixteen_bit_masks_with_small_ids_are_fine(run: Run, tmp_path: Path) -> None:
    PIL.Image.fromarray(read_ids(tmp_path / "first.png").astype(np.uint16)).save(tmp_path / "deep.png")
    assert run("track frames --labels deep.png --out out --method colour --no-overlay")[0] == 0
    assert (read_ids(tmp_path / "out/masks/00000.png") == read_ids(tmp_path / "first.png")).all()


@pytest.mark.parametrize(("name", "content", "words"), [
    ("p.csv", "x,y\n", ["no points"]),
    ("p.csv", "x,y\n3,4\nfive,6\n", ["line 3", "is no point"]),
    ("p.csv", "x,y\n3,400\n", ["line 2", "outside the 64x48 frame"]),
    ("p.csv", "x,y,frame\n3,4,77\n", ["frame 77", "beyond"]),
    ("p.csv", "x,y,frame\n3,4,-1\n", ["line 2"]),
    ("p.json", "[[1, 2", ["is not JSON"]),
    ("p.json", '{"points": {"x": 1}}', ["no list of points"]),
    ("p.json", "[[1]]", ["point 0"]),
    ("p.csv", "x,y\n" + "3,4\n" * 3000, ["3000 points"]),
])  # fmt: skip
def test_bad_points(fails: Run, tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    (tmp_path / name).write_text(content)
    fails(f"track video.mp4 --points {name} --out out --method colour", *words)


def test_unknown_names_name_the_nearest(fails: Run) -> None:
    start = "track video.mp4 --labels first.png --out out"
    fails(f"{start} --method corflow", "'corflow'", "did you mean corrflow?")
    fails(f"{start} --method colour --protocol crv", "'crv'", "did you mean crw?")
    fails(f"{start} --method colour --quality fst", "'fst'", "did you mean fast?")
    fails(f"{start} --method colour --device cuda:77", "--device cuda:77")
    fails(f"{start} --method colour --device nonsense", "--device nonsense")
    fails(f"{start} --method colour --device meta", "--device meta")
    fails(f"{start} --method colour --threads -1", "--threads -1")
    fails(f"{start} --method nowhere.py", "nowhere.py")


def hostile(tmp_path: Path, name: str) -> str:
    path = tmp_path / f"{name}.safetensors"
    good = weights.ASSETS / "default.safetensors"
    card = weights.read_card(good)
    if name == "truncated":
        path.write_bytes(good.read_bytes()[:5000])
    elif name == "text":
        path.write_text("these are no weights")
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "header":
        path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    elif name == "cardless":
        save_file({"encoder.x": torch.zeros(3)}, path)
    elif name == "lacking":
        save_file({"encoder.x": torch.zeros(3)}, path, {"card": json.dumps(card)})
    elif name == "shapes":
        save_file({k: torch.zeros(3) for k in weights.read_tensors(good)}, path, {"card": json.dumps(card)})
    elif name == "nan":
        tensors = {k: v * torch.nan if v.is_floating_point() else v for k, v in weights.read_tensors(good).items()}
        save_file(tensors, path, {"card": json.dumps(card)})
    else:
        content = {
            "card-text": "{", "card-list": "[]", "card-method": '{"method": "nonsense"}', "card-number": '{"method": 3}',
            "card-settings": '{"method": "dul", "settings": "wide"}',
            "card-keyword": '{"method": "dul", "settings": {"colour": 3}}',
            "card-kind": '{"method": "dul", "settings": {"width": "wide"}}',
            "card-size": '{"method": "dul", "settings": {"width": -3}}',
            "card-huge": '{"method": "dul", "settings": {"width": 100000000}}',
        }[name]  # fmt: skip
        save_file({"encoder.x": torch.zeros(3)}, path, {"card": content})
    return path.name


@pytest.mark.parametrize("name", [
    "truncated", "text", "empty", "header", "cardless", "lacking", "shapes", "nan", "card-text", "card-list",
    "card-method", "card-number", "card-settings", "card-keyword", "card-kind", "card-size", "card-huge",
])  # fmt: skip
def test_bad_weights(fails: Run, tmp_path: Path, name: str) -> None:
    fails(f"track video.mp4 --labels first.png --out out --method {hostile(tmp_path, name)}", f"{name}.safetensors: ")


def test_missing_weights(fails: Run) -> None:
    fails("track video.mp4 --labels first.png --out out --method none.safetensors", "none.safetensors: no such")
    fails("track video.mp4 --labels first.png --out out --method none.pth", "none.pth: ")


def test_bad_places(fails: Run, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    fails("track video.mp4 --labels first.png --method colour --out file", "file", "choose a folder")
    fails("track video.mp4 --labels first.png --method colour --out file/deeper", "file", "choose a folder")
    fails(
        "track video.mp4 --labels first.png --method colour --out /proc/nowhere", "/proc/nowhere", "cannot be written"
    )
    fails("track video.mp4 --labels first.png --method colour --out out --resume", "nothing to resume")
    fails("demo --video video.mp4", "give both")
    fails("render --out file", "file", "cannot be written")
    fails("render --out r --frames 0", "frames")
    fails("render --out r --height -4", "height", "-4")
    fails("render --out r --objects 99", "objects")
    shutil.copytree(tmp_path / "frames", tmp_path / "in/masks")
    fails("track in/masks --labels first.png --out in --method colour", "in/masks/00000.png: lies where")
    shutil.copytree(tmp_path / "DAVIS/Annotations/480p/clip", tmp_path / "old/masks", dirs_exist_ok=True)
    fails("track video.mp4 --labels old/masks/00000.png --out old --method colour", "old/masks/00000.png: lies where")
    shutil.copy(tmp_path / "points.csv", tmp_path / "old")
    fails("track video.mp4 --points old/points.csv --out old --method colour", "old/points.csv: lies where")
    assert run(TRACK)[0] == 0
    before = (tmp_path / "out/tracks.json").read_bytes()
    fails(f"{TRACK} --resume", "out: is finished")
    fails(f"{TRACK} --labels first.png@{FRAMES}", "beyond")
    assert (tmp_path / "out/tracks.json").read_bytes() == before  # what cannot work destroys nothing


def test_bad_evaluations(fails: Run, tmp_path: Path) -> None:
    fails("evaluate davis nowhere", "nowhere: no such folder")
    fails("evaluate davis frames", "JPEGImages: no such folder")
    fails("evaluate davis DAVIS --sequences clop", "'clop'", "did you mean 'clip'?")
    fails(f"evaluate davis DAVIS --sequences {'clip,' * 99}clop", "'clop'")
    fails("evaluate davis DAVIS --sequences ,", "names no sequence")
    fails("evaluate davis DAVIS --sequences video.mp4", "video.mp4: is no text")
    fails("evaluate davis DAVIS --split 2017/vel", "'2017/vel'", "did you mean '2017/val'?")
    fails("evaluate davis DAVIS --method identical", "'identical'")
    fails("evaluate davis DAVIS --method colour --protocol nonsense", "'nonsense'")
    fails("evaluate davis DAVIS --method identity --out DAVIS", "DAVIS: is a folder")
    fails("evaluate davis DAVIS --method identity --out first.png/report.json", "first.png", "cannot be written")
    fails("evaluate davis DAVIS --results nowhere", "nowhere/clip: no such folder")
    shutil.copytree(tmp_path / "DAVIS/Annotations/480p", tmp_path / "results")
    (tmp_path / "results/clip/00004.png").unlink()
    fails("evaluate davis DAVIS --results results", "results/clip/00004.png: frame 4: the mask is missing")
    (tmp_path / "results/clip/00004.png").write_bytes(b"")
    fails("evaluate davis DAVIS --results results", "results/clip/00004.png: ")
    shutil.copytree(tmp_path / "DAVIS", tmp_path / "less")
    (tmp_path / "less/Annotations/480p/clip/00002.png").unlink()
    fails("evaluate davis less --method identity", "00002.png: the annotation is missing")


def test_where_to_write_must_be_said(fails: Run) -> None:
    for line in ("track video.mp4", "track video.mp4 --labels first.png", "track video.mp4 --out o --workspace w"):
        fails(line, "track: give --out FOLDER, or --workspace FOLDER of pixeltrail app")


@pytest.mark.parametrize("line", [
    "", "trck", "track", "track video.mp4 --out", "track video.mp4 --out o --direction up",
    "track video.mp4 --out o --threads many", "track video.mp4 --out o --nonsense", "evaluate", "evaluate kitti x",
    "render", "models more",
])  # fmt: skip
def test_usage_errors(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(shlex.split(line))
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_damage_in_the_middle_keeps_what_was_read(run: Run, tmp_path: Path) -> None:
    whole = (tmp_path / "video.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(0.7 * len(whole))])
    code, out, err = run("track cut.mp4 --labels first.png --out out --method colour")
    assert code == 4
    assert re.fullmatch(r"error: cut\.mp4: frame (\d+): damaged .*\n", err)
    frames = int(re.findall(r"frame (\d+)", err)[0])
    assert out == f"{frames} frames -> out\n"
    assert len(json.loads((tmp_path / "out/tracks.json").read_text())["frames"]) == frames > 1
    assert len(list(open_frames(tmp_path / "out/overlay.mp4"))) == frames
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["masks", "overlay.mp4", "tracks.json"]


@pytest.mark.parametrize(("error", "code", "words"), [
    (MemoryError(), 2, "out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), 2, "out of memory"),
    (OSError(28, "No space left on device", "out/masks/00000.png.part"), 3, "no space left"),
    (PermissionError(13, "Permission denied", "/mine"), 2, "/mine"),
])  # fmt: skip
def test_what_the_system_refuses_is_one_line(
    fails: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, words: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(RawColour, "forward", refuse)
    go_on = [f"go on with: pixeltrail {TRACK} --resume"] if code == 3 else []
    fails(TRACK, words, *go_on, code=code, leaves="out")  # an unfinished job, to go on with


# Stopping


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_resume_goes_on(
    run: Run, tmp_path: Path, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(TRACK.replace("--out out", "--out whole"))[0] == 0
    forward, count = RawColour.forward, iter(range(FRAMES))

    def stopped(self: RawColour, view: torch.Tensor) -> torch.Tensor:
        if next(count) == 5:
            os.kill(os.getpid(), number)
        return forward(self, view)

    monkeypatch.setattr(RawColour, "forward", stopped)
    got, out, err = run(f"{TRACK} --threads 1")
    monkeypatch.undo()
    assert (got, out) == (code, "")
    again = f"{TRACK} --threads 1 --resume"
    assert err == f"error: interrupted; go on with: pixeltrail {again}\n"
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.chdir(tmp_path)
    assert run(again)[0] == 0
    for path in (tmp_path / "whole").rglob("*"):
        assert (
            path.is_dir() or path.read_bytes() == (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes()
        )


def test_ctrl_c_in_a_real_process_is_quick_and_quiet(made: Path, tmp_path: Path) -> None:
    line = f"track {made}/frames --labels {made}/first.png --out {tmp_path}/out --quality best --threads 1"
    process = subprocess.Popen(
        [*PIXELTRAIL, *shlex.split(line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    masks = tmp_path / "out/masks"
    while process.poll() is None and not (masks.is_dir() and any(masks.glob("*.png"))):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("error: interrupted; go on with: pixeltrail track ")
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("line", ["models", "--help"])
def test_a_reader_that_leaves_is_no_error(line: str) -> None:
    done = subprocess.run(["sh", "-c", f"{shlex.join([*PIXELTRAIL, line])} | true"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
