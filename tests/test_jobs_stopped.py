"""Jobs that are stopped, killed, or meet a full disk go on with identical results, and long ones need no more memory."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import jobbing
from jobbing import FRAMES, contents, job, refused
from pixeltrail.data.synthetic import Rendered, render
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.errors import DiskError, InputError
from pixeltrail.jobs import Summary, resumable, track_video
from pixeltrail.tracker import Tracker
from pixeltrail.types import LabelMap, Points

tracker, clip, video, folder, first = jobbing.tracker, jobbing.clip, jobbing.video, jobbing.folder, jobbing.first


@pytest.fixture(scope="module")
def whole(tracker: Tracker, clip: Rendered, video: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted job leaves, forward and back from frame 5."""
    out = tmp_path_factory.mktemp("whole") / "out"
    job(tracker, video, out, {5: LabelMap(clip.labels[5])}, direction="both")
    return contents(out)


def go(tracker: Tracker, clip: Rendered, video: Path, out: Path, **how: object) -> Summary:
    return job(tracker, video, out, {5: LabelMap(clip.labels[5])}, direction="both", save_every=3, **how)


def stop_at(n: int) -> Callable[..., None]:
    """A progress callback that acts as Ctrl-C the n-th time that it is called."""
    calls = iter(range(1, n + 1))

    def on_frame(*_: object) -> None:
        if next(calls) == n:
            raise KeyboardInterrupt

    return on_frame


# Six frames back, seven forth, twelve of the overlay.
@pytest.mark.parametrize(
    ("stops", "left"), [((1,), 13), ((4,), 10), ((4, 1, 4), 7), ((9,), 4), ((13, 3), 0), ((25,), 0)]
)
def test_a_job_stopped_anywhere_goes_on_with_identical_results(
    tracker: Tracker, clip: Rendered, video: Path, tmp_path: Path, whole: dict[str, bytes],
    stops: tuple[int, ...], left: int,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    for i, n in enumerate(stops):
        with pytest.raises(KeyboardInterrupt):
            go(tracker, clip, video, out, on_frame=stop_at(n), resume=i > 0)
        assert resumable(out)
        assert not list(out.rglob("*.part"))
    assert go(tracker, clip, video, out, resume=True).frames == left
    assert contents(out) == whole


def test_a_job_begun_anew_forgets_the_interrupted_one(
    tracker: Tracker, clip: Rendered, video: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        job(tracker, video, tmp_path / "out", {0: LabelMap(clip.labels[0])}, save_every=1, on_frame=stop_at(9))
    assert go(tracker, clip, video, tmp_path / "out").frames == FRAMES + 1
    assert contents(tmp_path / "out") == whole


def break_journal(work: Path) -> None:
    journal = work / "forward.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])


def lose_journal(work: Path) -> None:
    (work / "forward.jsonl").unlink()


def break_state(work: Path) -> None:
    (work / "forward.safetensors").write_bytes(b"nonsense")


def empty_mask(work: Path) -> None:
    (work.parent / "masks" / "00006.png").write_bytes(b"")


def lose_mask(work: Path) -> None:
    (work.parent / "masks" / "00006.png").unlink()


@pytest.mark.parametrize("harm", [break_journal, lose_journal, break_state, empty_mask, lose_mask])
def test_what_a_power_cut_took_is_done_again(
    tracker: Tracker, clip: Rendered, video: Path, tmp_path: Path, whole: dict[str, bytes], harm: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        go(tracker, clip, video, out, on_frame=stop_at(20))  # in the overlay: everything is tracked and saved
    harm(out / ".job")
    assert go(tracker, clip, video, out, resume=True).frames == 7  # all of the way forth
    assert contents(out) == whole


def test_only_the_same_job_goes_on(
    tracker: Tracker, clip: Rendered, video: Path, folder: Path, first: dict[int, LabelMap], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refused(tracker, video, out, first, "nothing to resume", resume=True)
    with pytest.raises(KeyboardInterrupt):
        job(tracker, video, out, first, on_frame=stop_at(3))
    how = {"settings": {"method": "colour"}, "resume": True}
    for source, given, more, words in (
        (folder, first, {}, "another video"),
        (video, {0: LabelMap(clip.labels[1])}, {}, "other labels"),
        (video, {1: first[0]}, {}, "other labels"),
        (video, Points(np.ones((1, 2))), {}, "other labels"),
        (video, first, {"direction": "both"}, "direction forward, now both"),
        (video, first, {"settings": {"method": "dul"}}, "method colour, now dul"),
        (video, first, {"settings": {"method": "colour", "protocol": {"size": 240}}}, "protocol.size None, now 240"),
    ):
        with pytest.raises(InputError, match=words):
            track_video(tracker, open_frames(source), out, given, **{**how, **more})
    shutil.copytree(out, tmp_path / "moved")  # neither the video's place nor the folder's counts
    shutil.copy(video, tmp_path / "video.mp4")
    assert job(tracker, tmp_path / "video.mp4", tmp_path / "moved", first, resume=True).frames == FRAMES
    refused(tracker, video, tmp_path / "moved", first, "is finished", resume=True)
    (out / ".job" / "settings.json").write_text("{")
    refused(tracker, video, out, first, "damaged", resume=True)


KILLED = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # no pool of threads: this process will be forked
from pixeltrail.data.labels import read_labels
from pixeltrail.data.video import open_frames
from pixeltrail.jobs import track_video
from pixeltrail.predictors import load_tracker

video, labels, folder = map(Path, sys.argv[1:4])
step = int(sys.argv[4])
tracker = load_tracker("colour")
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def run(out, kill_at=None, resume=False):
    # Fork; in the child, kill at the n-th time that it touches the results. Returns the exit status.
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    count = 0

    def watch(event, args):
        nonlocal count
        if event in EVENTS and args and str(args[0]).startswith((str(out), f"file:{out}")):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), 9)

    sys.addaudithook(watch)
    given = {2: read_labels(labels)}
    how = dict(settings={}, direction="both", save_every=2, resume=resume)
    track_video(tracker, open_frames(video), out, given, **how)
    os._exit(0)


def contents(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def check_whole(out, truth):
    # Whatever has its final name is whole, at any moment.
    for name, content in contents(out).items():
        if not name.startswith(".job") and not name.endswith(".part"):
            assert truth[name] == content, name


assert run(folder / "truth") == 0
truth = contents(folder / "truth")
kills = 0
for n in range(1, 1000, step):
    out = folder / f"killed-{n}"
    if run(out, kill_at=n) == 0:
        break
    kills += 1
    check_whole(out, truth)
    begun = (out / ".job" / "settings.json").is_file()
    if begun and n % 2:
        run(out, kill_at=1 + n % 23, resume=True)
        check_whole(out, truth)
        begun = (out / ".job" / "settings.json").is_file()
    assert run(out, resume=begun) == 0 or contents(out) == truth, n
    assert contents(out) == truth, n
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_touch_of_the_disk_a_job_goes_on_with_identical_results(tmp_path: Path, step: int) -> None:
    clip = render(4, frames=5, size=(32, 48), objects=1, points=2)
    with VideoWriter(tmp_path / "video.mp4", 24, (32, 48)) as writer:
        for image in clip.frames:
            writer.write(image)
    PIL.Image.fromarray(clip.labels[2]).save(tmp_path / "first.png")
    (tmp_path / "out").mkdir()
    arguments = [*(str(tmp_path / name) for name in ("video.mp4", "first.png", "out")), str(step)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 70 // step
    assert not list(tmp_path.rglob("*.part"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond ``size`` fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [60, 600, 1500, 6000, 20_000])
def test_a_full_disk_is_one_line_and_the_job_goes_on_when_there_is_room(
    tracker: Tracker, clip: Rendered, video: Path, tmp_path: Path, whole: dict[str, bytes], limit: int
) -> None:
    out = tmp_path / "out"
    with files_of_at_most(limit), pytest.raises(DiskError) as caught:
        go(tracker, clip, video, out)
    assert str(caught.value).startswith(str(out))
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*.part"))
    go(tracker, clip, video, out, resume=resumable(out))
    assert contents(out) == whole


# Memory

LONG = """
import resource, sys
from pathlib import Path
import numpy as np
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.jobs import track_video
from pixeltrail.predictors import load_tracker
from pixeltrail.types import LabelMap

folder, frames = Path(sys.argv[1]), int(sys.argv[2])
size = (64, 96)
noise = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
with VideoWriter(folder / "long.mp4", 25, size) as video:
    for t in range(frames):
        video.write(np.roll(noise, t // 4, 1))
ids = np.zeros(size, np.uint8)
ids[20:40, 20:40], ids[5:15, 50:70], ids[45:60, 5:30], ids[45:60, 60:90] = 1, 2, 3, 4


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


seen = {}


def on_frame(stage, done, total):
    if done % 100 == 0:
        seen[stage, done] = resident()


source = open_frames(folder / "long.mp4")
track_video(load_tracker("colour"), source, folder / "out", {0: LabelMap(ids)}, settings={}, on_frame=on_frame)
print(max(seen.values()) - seen["tracking", 100])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LONG, str(tmp_path), "10000"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert int(done.stdout) < 50e6
