"""What training sees: batches that seed and number decide, whoever makes them, and what is no data is named."""

import multiprocessing
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import shortrun
from pixeltrail.data.clips import CachedVideo, ClipSampler, build_cache, read_cache
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.training.data import RENDERED, sampler_for
from pixeltrail.training.feed import feed
from pixeltrail.training.loop import train
from pixeltrail.training.run import changed
from shortrun import RUN, losses, sampler

folder, videos = shortrun.folder, shortrun.videos


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
