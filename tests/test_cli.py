"""The commands as a user types them: what they print, what they leave behind, and how they are stopped."""

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
from pathlib import Path

import pytest
import torch

import commands
from commands import FRAMES, SIZE, TRACK, Run
from pixeltrail import demo, weights
from pixeltrail.cli.shared import Published, Quality
from pixeltrail.data.davis import read_ids
from pixeltrail.nets.colour import RawColour
from pixeltrail.protocols import PRESETS, QUALITIES

made = commands.made
PIXELTRAIL = [sys.executable, "-c", "import sys; from pixeltrail.cli import main; sys.exit(main())"]


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
