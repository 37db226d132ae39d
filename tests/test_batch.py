"""Many videos: each whole or not there, whatever happens to the others or to the process."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pixeltrail import batch
from pixeltrail.batch.executors import worker_count
from pixeltrail.batch.job import WORK, _lock
from pixeltrail.cli import main
from pixeltrail.data.davis import read_ids
from pixeltrail.data.images import write_image
from pixeltrail.data.labels import write_labels
from pixeltrail.data.video import open_frames
from pixeltrail.errors import InputError
from pixeltrail.types import LabelMap

SIZE = (32, 48)


def make(folder: Path, count: int, frames: int = 4) -> Path:
    """Folders of frames, with the labels of each one's first beside it."""
    folder.mkdir()
    for n in range(count):
        noise = np.random.default_rng(n).integers(0, 256, (*SIZE, 3), np.uint8)
        for t in range(frames):
            (folder / f"v{n}").mkdir(exist_ok=True)
            write_image(folder / f"v{n}" / f"{t:03d}.png", np.roll(noise, t, 1))
        ids = np.zeros(SIZE, np.uint8)
        ids[8:20, 10:30] = 1 + n % 3
        write_labels(folder / f"v{n}.png", LabelMap(ids))
    return folder


def contents(out: Path) -> dict[str, bytes]:
    """All that a reader may see."""
    files = (p for p in out.rglob("*") if p.is_file() and p.relative_to(out).parts[0] != WORK)
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(files)}


def require_whole(out: Path) -> int:
    """Every visible file can be read to its end; how many there are."""
    count = 0
    for folder in out.iterdir() if out.is_dir() else ():
        if folder.name == WORK or not folder.is_dir():
            continue
        frames = json.loads((folder / "tracks.json").read_text())["frames"]
        assert json.loads((folder / "job.json").read_text())["problem"] is None
        assert [p.stem for p in sorted((folder / "masks").iterdir())] == [f["name"] for f in frames]
        for mask in (folder / "masks").iterdir():
            assert read_ids(mask).shape == SIZE
            count += 1
        if (folder / "overlay.mp4").exists():
            assert len(list(open_frames(folder / "overlay.mp4").frames())) == len(frames)
    return count


def run_here(source: Path, out: Path, kind="track", **options) -> list[batch.Result]:
    """The jobs one by one in this process."""
    method = "colour" if kind == "track" else "farneback"
    settings = batch.settings_of(kind, method, overlay=True, **options)
    batch.begin(out, settings)
    return [batch.run_job(batch.Job(kind, v, str(out), settings)) for v in batch.read_videos(source)]


TRACK = {"protocol": "", "quality": ""}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make(tmp_path_factory.mktemp("batch") / "videos", 3)


@pytest.fixture(scope="module")
def undisturbed(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("batch") / "whole"
    assert [r.state for r in run_here(videos, out, **TRACK)] == ["done"] * 3
    assert require_whole(out) == 12
    return contents(out)


def test_a_finished_batch_is_left_alone(videos, undisturbed, tmp_path, capsys):
    out = tmp_path / "out"
    run_here(videos, out, **TRACK)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert main(["batch", str(videos), "--out", str(out), "--method", "colour"]) == 0
    assert "3 there already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert contents(out) == undisturbed


def test_other_settings_are_refused_and_other_labels_done_again(videos, tmp_path, capsys):
    source, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos, source)
    run_here(source, out, **TRACK)
    assert main(["batch", str(source), "--out", str(out), "--method", "colour", "--quality", "fast"]) == 2
    assert "was begun with" in capsys.readouterr().err
    shutil.copy(source / "v0.png", source / "v1.png")
    assert [r.state for r in run_here(source, out, **TRACK)] == ["there", "done", "there"]
    assert json.loads((out / "v1" / "tracks.json").read_text())["frames"][0]["objects"][0]["id"] == 1
    assert list((out / WORK).iterdir()) == []


def test_bad_videos_stop_nobody(videos, undisturbed, tmp_path, capsys):
    source, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(videos, source)
    (source / "a.mp4").write_bytes(b"no video")
    shutil.copy(source / "v0.png", source / "a.png")
    (source / "unlabelled").mkdir()
    write_image(source / "unlabelled" / "0.png", np.zeros((*SIZE, 3), np.uint8))
    shutil.copytree(source / "v0", source / "broken")
    shutil.copy(source / "v0.png", source / "broken.png")
    (source / "broken" / "002.png").write_bytes((source / "broken" / "002.png").read_bytes()[:-1000])
    (source / "v1.png").write_bytes(b"")
    command = ["batch", str(source), "--out", str(out), "--method", "colour", "--workers", "1"]
    assert main(command) == 4
    said = capsys.readouterr()
    assert "2 done" in said.out
    assert said.err.splitlines()[-1].startswith("error: 4 of 6 videos could not be finished")
    with open(out / "failed.csv", newline="") as file:
        failed = {row["name"]: row for row in csv.DictReader(file)}
    assert {name: row["state"] for name, row in failed.items()} == {
        "a": "failed", "broken": "part", "unlabelled": "failed", "v1": "failed"
    }  # fmt: skip
    assert "a.mp4" in failed["a"]["why"]
    assert "002.png" in failed["broken"]["why"]
    assert "has no labels" in failed["unlabelled"]["why"]
    assert len(list((out / "broken" / "masks").iterdir())) == 2
    good = {k: v for k, v in contents(out).items() if k.split("/")[0] in ("v0", "v2")}
    assert good == {k: v for k, v in undisturbed.items() if k.split("/")[0] in ("v0", "v2")}
    shutil.copy(videos / "v1.png", source / "v1.png")  # mended: only this one is done
    stamp = (out / "v0" / "tracks.json").stat().st_mtime_ns
    assert [r.state for r in run_here(source, out, **TRACK)] == ["failed", "part", "failed", "there", "done", "there"]
    assert (out / "v0" / "tracks.json").stat().st_mtime_ns == stamp


def test_shards_are_a_partition(tmp_path):
    videos = batch.read_videos(make(tmp_path / "videos", 7, frames=1))
    parts = [batch.share(videos, f"{i}/3") for i in range(3)]
    assert sorted(v.name for part in parts for v in part) == sorted(v.name for v in videos)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for bad in ("3/3", "1", "-1/3", "a/b", "0/0"):
        with pytest.raises(InputError, match="--shard"):
            batch.share(videos, bad)


def test_flow_of_many(videos, tmp_path):
    pytest.importorskip("cv2")
    out = tmp_path / "out"
    assert [r.state for r in run_here(videos, out, "flow")] == ["done"] * 3
    assert len(list((out / "v0" / "flow").iterdir())) == 3
    assert (out / "v0" / "flow.mp4").exists()
    assert [r.state for r in run_here(videos, out, "flow")] == ["there"] * 3


def test_an_interrupted_job_goes_on_and_a_held_one_is_left(videos, undisturbed, tmp_path, monkeypatch):
    out, jobs = tmp_path / "out", []
    settings = batch.settings_of("track", "colour", overlay=True, **TRACK)
    batch.begin(out, settings)
    jobs = [batch.Job("track", v, str(out), settings) for v in batch.read_videos(videos)]
    renamed = []
    monkeypatch.setattr(os, "rename", lambda a, b: renamed.append(b) or (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        batch.run_job(jobs[0])
    monkeypatch.undo()
    assert not (out / "v0").exists()
    assert (out / WORK / "v0" / "tracks.json").exists()
    result = batch.run_job(jobs[0])
    assert (result.state, result.frames) == ("done", 0)  # all that was left was to show it
    monkeypatch.setattr("pixeltrail.batch.job.PATIENCE", 0.1)
    with _lock(out / WORK / "v1.lock") as held:
        assert held
        assert batch.run_job(jobs[1]).state == "busy"
    assert batch.run_job(jobs[1]).state == batch.run_job(jobs[2]).state == "done"
    assert contents(out) == undisturbed


def test_lists(tmp_path):
    source = make(tmp_path / "videos", 2, frames=1)
    (tmp_path / "plain.txt").write_text("videos/v0\n\nvideos/v1\n")
    plain = batch.read_videos(tmp_path / "plain.txt")
    assert [(v.name, Path(v.labels).name) for v in plain] == [("v0", "v0.png"), ("v1", "v1.png")]
    (tmp_path / "table.csv").write_text("video,name,labels\nvideos/v0,first,videos/v1.png\nvideos/v0,second,\n")
    table = batch.read_videos(tmp_path / "table.csv")
    assert [(v.name, Path(v.path).name, Path(v.labels).name) for v in table] == [
        ("first", "v0", "v1.png"), ("second", "v0", "v0.png")
    ]  # fmt: skip
    for text, said in (
        ("", "names no video"),
        ("video\n../a/x.mp4\nb/X.mp4\n", "would have the results' name"),
        ("video,nam\na.mp4,b\n", "has the columns"),
        ("video,name\na.mp4,../../up\n", "cannot be that of a folder"),
        ("video,name\na.mp4,.work\n", "cannot be that of a folder"),
        ("video,name\na.mp4,b,c\n", "line 2"),
        ("video\n\n ,\n", "line"),
    ):
        (tmp_path / "bad.csv").write_text(text or "video\n")
        with pytest.raises(InputError, match=said):
            batch.read_videos(tmp_path / "bad.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video"):
        batch.read_videos(tmp_path / "empty")
    (source / "v2.mkv").touch()
    shutil.copytree(source / "v0", source / "v2")  # masks of that video, one PNG an object
    assert [(v.name, Path(v.labels).name) for v in batch.read_videos(source)][2:] == [("v2", "v2")]
    with pytest.raises(InputError, match="does not exist"):
        batch.read_videos(source / "none.txt")


def test_as_many_processes_as_the_machine_carries():
    gigabyte = 10**9
    assert worker_count(16, 1, 100 * gigabyte) == 16
    assert worker_count(16, 4, 100 * gigabyte) == 4
    assert worker_count(16, 1, 6 * gigabyte) == 4
    assert worker_count(1, 4, 0) == 1
    assert worker_count(3, 1, None) == 3


def command(videos: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pixeltrail", "batch", str(videos), "--out", str(out), "--method", "colour", *more]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")


@unix
def test_a_process_that_dies_takes_only_its_job_along(videos, tmp_path):
    (tmp_path / "odd.py").write_text(
        "import os, signal\n"
        "from pixeltrail.predictors import raw_colour\n"
        "def build():\n"
        "    tracker = raw_colour()\n"
        "    embed = tracker.embed\n"
        "    def fatal(rgb):\n"
        "        if rgb.mean() > 0.99: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return embed(rgb)\n"
        "    tracker.embed = fatal\n"
        "    return tracker\n"
    )
    source, out = tmp_path / "videos", tmp_path / "out"
    source.mkdir()
    for name in ("v0", "v1"):
        shutil.copytree(videos / name, source / name)
        shutil.copy(videos / f"{name}.png", source)
    for frame in (source / "v0").iterdir():
        write_image(frame, np.full((*SIZE, 3), 255, np.uint8))
    settings = batch.settings_of("track", str(tmp_path / "odd.py"), overlay=False, **TRACK)
    batch.begin(out, settings)
    jobs = [batch.Job("track", v, str(out), settings) for v in batch.read_videos(source)]
    results = {r.name: r for r in batch.run_local(jobs, workers=1)}
    assert results["v1"].state == "done"
    assert results["v0"].state == "failed"
    assert "signal 9" in results["v0"].why


@unix
def test_killed_and_run_again_it_is_as_if_nothing_had_happened(videos, undisturbed, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(videos, out, "--workers", "1"), env=ENVIRONMENT)
    while not list(out.glob(f"{WORK}/*/masks/*.png")):  # in the middle of a video
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    require_whole(out)
    run_here(videos, out, **TRACK)  # at once: what the worker still holds is waited for
    assert contents(out) == undisturbed


@unix
@pytest.mark.slow
def test_thirty_kills_in_a_batch_of_forty(tmp_path):
    figures = torment(tmp_path, videos=40, kills=30, seed=5)
    print(figures)
    assert figures["kills"] == 30
    assert figures["looks"] > 1000  # files


def torment(folder: Path, *, videos: int, kills: int, seed: int) -> dict[str, int]:
    """Kill a batch so many times, looking at what a reader would see all the while; start anew whenever it is done."""
    source, choice = make(folder / "videos", videos, frames=6), random.Random(seed)
    subprocess.run(command(source, folder / "whole", "--workers", "2"), env=ENVIRONMENT, check=True)
    whole = contents(folder / "whole")
    figures = {"kills": 0, "looks": 0, "runs": 0}
    out = folder / "run0"
    while figures["kills"] < kills or out.exists():
        process = subprocess.Popen(command(source, out, "--workers", "2"), env=ENVIRONMENT)
        enough = done(out) + choice.randint(0, 4) if figures["kills"] < kills else videos + 1
        while process.poll() is None:
            figures["looks"] += require_whole(out)
            if done(out) >= enough and list(out.glob(f"{WORK}/v*")):
                time.sleep(choice.uniform(0, 0.3))
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        figures["kills"] += process.wait() == -signal.SIGKILL
        require_whole(out)
        if process.returncode == 0:
            assert contents(out) == whole
            figures["runs"] += 1
            shutil.rmtree(out)
            out = folder / f"run{figures['runs']}"
    return figures


def done(out: Path) -> int:
    return len(list(out.glob("v*")))


@pytest.mark.slow
def test_ray_does_the_same(videos, undisturbed, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    more = ("--executor", "ray", "--workers", "2")
    done = subprocess.run(command(videos, out, *more), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "3 done" in done.stdout
    assert contents(out) == undisturbed


def test_without_ray_it_says_so(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command(videos, tmp_path / "out", "--executor", "ray")[3:]) == 2
    assert "pixeltrail[ray]" in capsys.readouterr().err
