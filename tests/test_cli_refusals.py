"""The commands as a user types them wrong, or with inputs of no use: one line says why, and nothing is left behind."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

import commands
from commands import FRAMES, SIZE, TRACK, Run
from pixeltrail import cli, weights
from pixeltrail.data.davis import read_ids
from pixeltrail.data.video import open_frames
from pixeltrail.nets.colour import RawColour

made = commands.made


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
