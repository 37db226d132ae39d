"""``slowmo``, ``stabilise``, ``motion``, ``count`` and ``track --method`` with a flow, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pixeltrail.data.davis import read_ids
from pixeltrail.data.images import write_image
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.types import LabelMap

SIZE, FRAMES = (48, 64), 6
Run = Callable[[str], tuple[int, str, str]]

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    clip = render(3, frames=FRAMES, size=SIZE, objects=1, points=2)
    with VideoWriter(root / "video.mp4", 24, SIZE) as writer:
        for image in clip.frames:
            writer.write(image)
    write_labels(root / "first.png", LabelMap(clip.labels[0]))
    (root / "points.csv").write_text("x,y,frame,name\n10,12,0,nose\n30.5,20,2,tail\n")
    (root / "one").mkdir()
    write_image(root / "one" / "0.png", clip.frames[0])
    (root / "small").mkdir()
    for t in range(2):
        write_image(root / "small" / f"{t}.png", clip.frames[t, :16, :16])
    content = (root / "video.mp4").read_bytes()
    (root / "noise.mp4").write_bytes(content[:200])
    return root


def test_slowmo(run: Run) -> None:
    code, out, err = run("slowmo video.mp4 --out slow.mp4 --factor 2.5 --threads 1")
    assert (code, err) == (0, "")
    assert out == "13 frames -> slow.mp4\n"
    slow = open_frames("slow.mp4")
    assert (slow.count, slow.fps, slow.size) == (13, 24, SIZE)
    assert run("slowmo video.mp4 --out quick.mp4 --fps 48 --threads 1")[1] == "11 frames -> quick.mp4\n"
    assert open_frames("quick.mp4").fps == 48
    assert run("slowmo one --out one.mp4 --threads 1")[:2] == (0, "1 frames -> one.mp4\n")


def test_stabilise(run: Run) -> None:
    assert run("stabilise video.mp4 --out steady.mp4 --threads 1") == (0, f"{FRAMES} frames -> steady.mp4\n", "")
    steady = open_frames("steady.mp4")
    assert (steady.count, steady.fps, steady.size) == (FRAMES, 24, SIZE)


def test_motion(run: Run) -> None:
    assert run("motion video.mp4 --out moves --threads 1")[0] == 0
    told = json.loads(Path("moves/tracks.json").read_text())
    assert len(told["frames"]) == FRAMES
    assert told["method"] == "dis"
    for entry in told["frames"]:
        ids = read_ids(Path("moves/masks") / f"{entry['name']}.png")
        assert ids.shape == SIZE
        assert {o["id"]: o["area"] for o in entry["objects"]} == {
            int(i): int((ids == i).sum()) for i in np.unique(ids) if i
        }
    assert open_frames("moves/overlay.mp4").count == FRAMES
    assert not Path("moves/.job").exists()
    assert run("motion video.mp4 --out moves --threads 1")[0] == 0  # over its own results


def test_count(run: Run) -> None:
    code, out, _ = run("count video.mp4 --line 32,0,32,47 --out counted --threads 1")
    assert code == 0
    told = json.loads(Path("counted/counts.json").read_text())
    rows = Path("counted/crossings.csv").read_text().splitlines()
    assert rows[0] == "frame,time,thing,direction,x,y"
    assert len(rows) - 1 == sum(told["counts"].values())
    assert told["frames"] == FRAMES
    assert "6 frames" in out
    assert open_frames("counted/overlay.mp4").count == FRAMES
    Path("other").mkdir()
    Path("other/overlay.mp4").write_text("theirs")
    code, _, err = run("count video.mp4 --line 32,0,32,47 --out other --threads 1")
    assert code == 2
    assert "was not made by pixeltrail count" in err
    assert Path("other/overlay.mp4").read_text() == "theirs"


@pytest.mark.parametrize("method", ["dis", "farneback", "flow:farneback"])
def test_track_by_flow(run: Run, method: str) -> None:
    assert run(f"track video.mp4 --labels first.png --out masks --method {method} --threads 1")[0] == 0
    first = read_ids(Path("masks/masks/00000.png"))
    np.testing.assert_array_equal(first, read_ids(Path("first.png")))
    assert read_ids(Path("masks/masks/00005.png")).any()
    assert json.loads(Path("masks/tracks.json").read_text())["method"] == method
    if method == "dis":
        assert run("track video.mp4 --points points.csv --out points --method dis --threads 1")[0] == 0
        lines = Path("points/points.csv").read_text().splitlines()
        assert len(lines) == 1 + FRAMES + FRAMES - 2
        assert run("track video.mp4 --box 10,10,30,30 --out box --method dis --direction both --threads 1")[0] == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("slowmo video.mp4 --out slow.mp4 --factor 2 --fps 60", "not both"),
        ("slowmo one --out slow.mp4 --fps 60", "has no frame rate"),
        ("slowmo video.mp4 --out video.mp4", "is the video itself"),
        ("slowmo video.mp4 --out slow.avi", "videos are written as"),
        ("slowmo video.mp4 --out slow.mp4 --method farnback", "did you mean farneback"),
        ("slowmo small --out new/slow.mp4", "too small"),
        ("slowmo video.mp4 --out new/slow.mp4 --factor 0", "factor is 0"),
        ("stabilise video.mp4 --out new/steady.mp4 --zoom 0.5", "zoom in 1 to 4"),
        ("stabilise noise.mp4 --out steady.mp4", "convert it to MP4"),
        ("motion video.mp4 --out moves --threshold 0", "threshold is 0"),
        ("motion video.mp4 --out moves --smallest 1", "smallest 1"),
        ("motion small --out moves", "too small"),
        ("count video.mp4 --line 1,2,3 --out counted", "expected four numbers"),
        ("count video.mp4 --line 1,2,1,2 --out counted", "has no length"),
        ("count video.mp4 --line 32,0,32,47 --out counted --threshold 0", "threshold is 0"),
        ("count video.mp4 --line 32,0,32,47 --out counted --smallest -0.1", "smallest -0.1"),
        ("count video.mp4 --line 100,0,100,40 --out counted", "outside the 64x48 frame"),
        ("count small --line 0,8,15,8 --out counted", "too small"),
        ("track video.mp4 --labels first.png --out masks --method dis --quality fast", "has no protocol"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(fails: Callable[..., None], line: str, words: str) -> None:
    fails(f"{line} --threads 1", words)


def test_a_damaged_video_is_done_up_to_the_damage(run: Run, made: Path, tmp_path: Path) -> None:
    frames = tmp_path / "damaged"
    frames.mkdir()
    for frame in open_frames(made / "video.mp4"):
        write_image(frames / f"{frame.name}.png", frame.image)
    broken = (frames / "00003.png").read_bytes()
    (frames / "00003.png").write_bytes(broken[: len(broken) // 2])
    code, out, err = run("slowmo damaged --out slow.mp4 --factor 2 --threads 1")
    assert code == 4
    assert out == "5 frames -> slow.mp4\n"
    assert "frame 3" in err
    assert open_frames("slow.mp4").count == 5
