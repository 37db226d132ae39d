"""``pixeltrail flow`` as a user types it: two images, a video, a file of flow, and everything that it must refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from pixeltrail.data.flowfile import read_flow, write_flow
from pixeltrail.data.images import read_image, write_image
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import Frame, VideoWriter, open_frames
from pixeltrail.errors import DiskError
from pixeltrail.evaluation.flow import score_flow
from pixeltrail.flow.classical import dis, farneback, refine
from pixeltrail.flow.sparse import corners, lucas_kanade
from pixeltrail.jobs.flow import flow_of_video
from pixeltrail.jobs.flow_pair import round_scale
from pixeltrail.visual.flow import error_map, flow_to_colour, warped

pytest.importorskip("cv2")
SIZE, FRAMES = (48, 64), 7
ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., tuple[int, str, str]]
Fails = Callable[..., None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """frames/00000.png ..., video.mp4 of them, one.mp4 of the first, a.png and b.png, a small and a tiny pair."""
    root = tmp_path_factory.mktemp("made")
    clip = render(3, frames=FRAMES, size=SIZE, objects=2)
    (root / "frames").mkdir()
    for name, images in (("video.mp4", clip.frames), ("one.mp4", clip.frames[:1])):
        with VideoWriter(root / name, 24, SIZE) as writer:
            for image in images:
                writer.write(image)
    for t, image in enumerate(clip.frames):
        write_image(root / "frames" / f"{t:05d}.png", image)
    write_image(root / "a.png", clip.frames[0])
    write_image(root / "b.png", clip.frames[1])
    write_image(root / "small.png", clip.frames[1][:40, :60])
    write_image(root / "tiny.png", clip.frames[0][:20])
    write_image(root / "tiny2.png", clip.frames[1][:20])
    write_flow(root / "true.flo", clip.flow[0])
    (root / "wrong.flo").write_bytes(b"PIEX" + bytes(200))
    (root / "cut.flo").write_bytes((root / "true.flo").read_bytes()[:-9])
    (root / "text.png").write_text("not an image")
    return root


class Stopping:
    """Estimates flow so many times and then fails."""

    def __init__(self, times: int, error: BaseException | None = None) -> None:
        self.times, self.error, self.calls = times, error or KeyboardInterrupt(), 0

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if self.calls == self.times:
            raise self.error
        self.calls += 1
        return dis(first, second)


# Two images


def test_a_pair(run: Run, tmp_path: Path) -> None:
    line = "flow a.png b.png --method dis --out new/flow.flo --picture flow.png"
    assert run(line) == (0, "flow -> new/flow.flo, flow.png\n", "")
    images = read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png")
    np.testing.assert_array_equal(read_flow(tmp_path / "new/flow.flo").flow, dis(*images))
    assert read_image(tmp_path / "flow.png").shape == (*SIZE, 3)
    assert run("flow a.png b.png --method farneback --refine --out flow.npz")[0] == 0
    np.testing.assert_array_equal(read_flow(tmp_path / "flow.npz").flow, refine(farneback(*images), *images))
    assert run("flow a.png a.png --method dis --still 1 --out zero.pfm")[0] == 0
    assert not read_flow(tmp_path / "zero.pfm").flow.any()
    pictures = set()
    for options in ("--colour hsv", "--colour arrows", "--colour wheel", "--scale 40"):
        assert run(f"flow a.png b.png --method dis --picture p.png {options}")[0] == 0
        pictures.add((tmp_path / "p.png").read_bytes())
    assert len(pictures) == 4
    assert run("flow a.png b.png --method dis --beside --picture p.png")[0] == 0
    np.testing.assert_array_equal(read_image(tmp_path / "p.png")[:, : SIZE[1]], images[0])


def test_a_file_of_flow(run: Run, tmp_path: Path) -> None:
    assert run("flow true.flo --out kitti.png --picture p.png") == (0, "flow -> kitti.png, p.png\n", "")
    truth, kitti = read_flow(tmp_path / "true.flo"), read_flow(tmp_path / "kitti.png")
    assert np.abs(truth.flow - kitti.flow).max() <= 1 / 128
    assert run("flow kitti.png --out back.flo --colour arrows --picture p.png")[0] == 0
    np.testing.assert_array_equal(read_flow(tmp_path / "back.flo").flow, kitti.flow)


def test_against_the_true_flow(run: Run, fails: Fails, tmp_path: Path) -> None:
    """--truth prints the error and draws flow, truth and error side by side, of two images and of a file of flow."""
    images, truth = [read_image(tmp_path / f"{n}.png") for n in "ab"], read_flow(tmp_path / "true.flo")
    score = score_flow(dis(*images), truth.flow, truth.valid)
    said = f"EPE {score['EPE']:.3f} px, off by more than 1 px: {score['1px']:.1f} %, 3 px: {score['3px']:.1f} %\n"
    assert run("flow a.png b.png --method dis --truth true.flo") == (0, said, "")
    line = "flow a.png b.png --method dis --truth true.flo --scale 4 --out f.flo --picture p.png"
    assert run(line) == (0, f"{said}flow -> f.flo, p.png\n", "")
    picture, width = read_image(tmp_path / "p.png"), SIZE[1]
    assert picture.shape == (SIZE[0], 3 * width + 8, 3)
    np.testing.assert_array_equal(picture[:, :width], flow_to_colour(dis(*images), 4))  # too small for legends
    np.testing.assert_array_equal(picture[:, width + 4 : 2 * width + 4], flow_to_colour(truth.flow, 4))
    np.testing.assert_array_equal(picture[:, 2 * width + 8 :], error_map(dis(*images), truth.flow))
    assert run("flow f.flo --truth true.flo --scale 4 --picture q.png") == (0, f"{said}flow -> q.png\n", "")
    np.testing.assert_array_equal(read_image(tmp_path / "q.png"), picture)
    fails("flow frames --method dis --out out --truth true.flo", "--truth: is for two images")
    fails("flow tiny.png tiny2.png --method farneback --truth true.flo", "true.flo: is 64x48 but the flow is 64x20")
    fails("flow a.png b.png --method dis --truth true.flo --out true.flo", "true.flo: is an input")
    fails("flow a.png b.png --method dis --truth cut.flo", "cut.flo: is cut off")
    write_flow(tmp_path / "empty.flo", truth.flow, np.zeros(SIZE, bool))
    fails("flow a.png b.png --method dis --truth empty.flo", "knows the flow of no pixel")


def test_the_second_frame_brought_onto_the_first(run: Run, fails: Fails, tmp_path: Path) -> None:
    images = [read_image(tmp_path / f"{n}.png") for n in "ab"]
    assert run("flow a.png b.png --method dis --colour warped --picture p.png")[0] == 0
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), warped(images[1], dis(*images)))
    assert run("flow frames --method dis --colour warped --beside --out out")[0] == 0
    assert [f.image.shape for f in open_frames(tmp_path / "out/flow.mp4")] == [(48, 132, 3)] * (FRAMES - 1)
    fails("flow true.flo --colour warped --picture q.png", "a file of flow alone has no images")


def test_corners_by_lucas_and_kanade(run: Run, fails: Fails, tmp_path: Path) -> None:
    images = [read_image(tmp_path / f"{n}.png") for n in "ab"]
    places = corners(images[0], count=30)
    there, found = lucas_kanade(*images, places, window=15)
    line = "flow a.png b.png --method lk --set count=30 --set window=15 --out new/p.csv --picture p.png"
    assert run(line) == (0, f"{found.sum()} of {len(found)} corners found again -> new/p.csv, p.png\n", "")
    rows = (tmp_path / "new/p.csv").read_text().splitlines()
    assert rows[0] == "x,y,to_x,to_y"
    expected = np.concatenate((places, there), 1)[found]
    np.testing.assert_allclose([[float(n) for n in row.split(",")] for row in rows[1:]], expected, atol=6e-4)
    assert (read_image(tmp_path / "p.png") != images[0]).any()
    fails("flow a.png b.png --method lk --out q.flo", "q.flo: cannot be written as '.flo'", ".csv")
    fails("flow a.png b.png --method lk --out q.csv --set windw=9", "lk: has no setting 'windw'", "window")
    fails("flow a.png b.png --method lk --out q.csv --set quality=2", "quality in 0 to 1")
    fails("flow a.png small.png --method lk --out q.csv", "one size")
    fails("flow a.png b.png --method lk --out q.csv --truth true.flo", "need dense flow")
    fails("flow frames --method lk --out out", "lk: follows corners of two images")


def test_settings_of_a_method(run: Run, fails: Fails, tmp_path: Path) -> None:
    images = [read_image(tmp_path / f"{n}.png") for n in "ab"]
    every = {
        "pyr_scale": 0.4,
        "levels": 2,
        "winsize": 9,
        "iterations": 2,
        "poly_n": 7,
        "poly_sigma": 1.5,
        "gaussian": True,
    }
    chosen = " ".join(f"--set {key}={str(value).lower()}" for key, value in every.items())
    assert run(f"flow a.png b.png --method farneback {chosen} --out f.flo")[0] == 0
    np.testing.assert_array_equal(read_flow(tmp_path / "f.flo").flow, farneback(*images, **every))  # type: ignore[arg-type]
    assert run("flow frames --method dis --set preset=fast --out out --no-video")[0] == 0
    np.testing.assert_array_equal(read_flow(tmp_path / "out/flow/00000.flo").flow, dis(*images, preset="fast"))
    assert json.loads((tmp_path / "out/flow.json").read_text())["settings"] == {"preset": "fast"}
    fails("flow a.png b.png --method farneback --set winsze=9 --out g.flo", "has no setting 'winsze'", "winsize")
    fails("flow a.png b.png --method farneback --set winsize=big --out g.flo", "winsize: expected int, got 'big'")
    fails("flow a.png b.png --method farneback --set start=1 --out g.flo", "start: expected an array")
    fails("flow a.png b.png --method dis --set preset=slow --out g.flo", "unknown preset 'slow'")
    fails("flow a.png b.png --set pyramid=-1 --out g.flo", "pyramid: expected a number of pixels")
    fails("flow a.png b.png --set pyramid --out g.flo", "expected KEY=VALUE")


# A video


def test_a_video(run: Run, tmp_path: Path) -> None:
    assert run("flow frames --method dis --out out") == (0, f"{FRAMES - 1} pairs -> out\n", "")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["flow", "flow.json", "flow.mp4"]
    images = [read_image(p) for p in sorted((tmp_path / "frames").iterdir())]
    files = sorted((tmp_path / "out/flow").iterdir())
    assert [f.name for f in files] == [f"{t:05d}.flo" for t in range(FRAMES - 1)]
    for file, pair in zip(files, pairwise(images), strict=True):
        np.testing.assert_array_equal(read_flow(file).flow, dis(*pair))
    report = json.loads((tmp_path / "out/flow.json").read_text())
    assert (report["method"], report["width"], report["format"]) == ("dis", SIZE[1], "flo")
    assert [r["to"] for r in report["frames"]] == list(range(1, FRAMES))
    lengths = np.hypot(*dis(*images[:2]).transpose(2, 0, 1))
    assert report["frames"][0]["longest"] == pytest.approx(lengths.max(), abs=1e-3)
    assert report["frames"][0]["mean"] == pytest.approx(lengths.mean(), abs=1e-3)
    film = list(open_frames(tmp_path / "out/flow.mp4"))
    assert len(film) == FRAMES - 1
    assert film[0].image.shape == (*SIZE, 3)
    assert run("flow frames --method dis --out out")[0] == 0  # its own results may be overwritten


def test_stride_format_and_beside(run: Run, tmp_path: Path) -> None:
    line = "flow frames --method dis --out out --stride 3 --format npz --colour hsv --scale 5 --beside"
    assert run(line)[:2] == (0, "2 pairs -> out\n")
    assert sorted(p.name for p in (tmp_path / "out/flow").iterdir()) == ["00000.npz", "00003.npz"]
    images = [read_image(tmp_path / f"frames/0000{t}.png") for t in (3, 6)]
    np.testing.assert_array_equal(read_flow(tmp_path / "out/flow/00003.npz").flow, dis(*images))
    assert [frame.image.shape for frame in open_frames(tmp_path / "out/flow.mp4")] == [(48, 132, 3)] * 2
    assert run("flow frames --method dis --out out --no-video")[0] == 0
    assert not (tmp_path / "out/flow.mp4").exists()  # of another flow
    assert len(list((tmp_path / "out/flow").iterdir())) == FRAMES - 1


def test_interrupted_and_taken_up_again(made: Path, tmp_path: Path) -> None:
    """Whenever it stops, what --resume makes is what an uninterrupted run makes, and nothing saved is done twice."""
    source = open_frames(made / "frames")
    settings = {"method": "dis"}
    whole = tmp_path / "whole"
    flow_of_video(dis, source, whole, settings=settings)
    for stop in (1, 2, 5):
        out = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            flow_of_video(Stopping(stop), source, out, settings=settings, save_every=2)
        assert not list(out.rglob("*.part"))
        assert not (out / "flow.json").exists()
        method = Stopping(99)
        summary = flow_of_video(method, source, out, settings=settings, save_every=2, resume=True)
        assert method.calls == summary.frames == FRAMES - 1 - stop // 2 * 2  # saved every two
        for file in whole.rglob("*"):
            if file.is_file():
                assert (out / file.relative_to(whole)).read_bytes() == file.read_bytes(), file
        assert not (out / ".flow-job").exists()


def test_resuming_counts_on_saved_files_only(made: Path, tmp_path: Path) -> None:
    source = open_frames(made / "frames")
    with pytest.raises(DiskError):
        flow_of_video(Stopping(4, DiskError("full")), source, tmp_path / "out", settings={}, save_every=2)
    assert (tmp_path / "out/.flow-job/settings.json").is_file()
    (tmp_path / "out/flow/00001.flo").write_bytes(b"")  # a power cut
    assert flow_of_video(dis, source, tmp_path / "out", settings={}, resume=True).frames == FRAMES - 1
    assert read_flow(tmp_path / "out/flow/00001.flo").size == SIZE


def test_another_job_is_not_resumed(run: Run, fails: Fails, tmp_path: Path) -> None:
    fails("flow frames --method dis --out out --resume", "nothing to resume")
    with pytest.raises(KeyboardInterrupt):
        flow_of_video(Stopping(1), open_frames("frames"), "out", settings={"method": "dis"})
    fails("flow frames --method farneback --out out --resume", "was begun with method dis, now farneback")
    fails("flow video.mp4 --method dis --out out --resume", "another video")
    fails("flow frames --method dis --stride 2 --out out --resume", "stride 1, now 2")


def test_frames_are_read_as_they_are_needed(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the length: reading is never more than a few frames ahead of the flow."""
    source = open_frames(made / "frames")
    plain, read, most = source.frames, [], []

    def counted(start: int = 0) -> Iterator[Frame]:
        for frame in plain(start):
            read.append(frame.index)
            yield frame

    def method(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        most.append(len(read))
        return np.zeros((*SIZE, 2), np.float32)

    monkeypatch.setattr(source, "frames", counted)
    flow_of_video(method, source, tmp_path / "out", settings={}, with_video=False)
    tried = 2
    assert most[0] == tried
    assert all(count <= tried + k + 2 + 3 for k, count in enumerate(most))


# What is refused


def test_bad_input(fails: Fails) -> None:
    fails("flow a.png small.png --method dis --out f.flo", "small.png: is 60x40 but a.png is 64x48", "one size")
    fails("flow a.png missing.png --method dis --out f.flo", "missing.png: does not exist")
    fails("flow a.png text.png --method dis --out f.flo", "text.png")
    fails("flow tiny.png tiny2.png --method dis --out new/f.flo --picture p.png", "64x20", "too small", "at least 32")
    fails("flow one.mp4 --method dis --out out", "has one frame; flow needs two")
    fails("flow frames --method dis --stride 9 --out out", "fewer than 10 frames")
    fails("flow a.png --method dis --out out", "a.png: is one image; name the second one")
    fails("flow wrong.flo --out f.pfm", "wrong.flo: does not begin with PIEH")
    fails("flow cut.flo --out f.pfm", "cut.flo: is cut off")
    fails("flow nothing.mp4 --method dis --out out", "nothing.mp4: does not exist")


def test_bad_settings(fails: Fails) -> None:
    pair = "flow a.png b.png --method dis"
    fails("flow a.png b.png --method farnback --out f.flo", "unknown flow method 'farnback'; did you mean farneback")
    fails("flow a.png b.png --method pwcnet --out f.flo", "pwcnet is a network and comes without weights")
    fails("flow a.png b.png --method nothing.safetensors --out f.flo", "no such weights file")
    fails(pair, "give --out FILE")
    fails(f"{pair} --out f.txt", "cannot be written as '.txt'", ".flo")
    fails(f"{pair} --out f", "a file without suffix")
    fails(f"{pair} --out f.flo --picture p.flo", "p.flo: cannot be written as '.flo'")
    fails(f"{pair} --out a.png", "a.png: is an input")
    fails(f"{pair} --out c.png --picture c.png", "both --out and --picture")
    fails(f"{pair} --out frames", "frames: is a folder")
    fails(f"{pair} --out f.flo --scale 0", "--scale 0.0: expected a number of pixels above 0")
    fails(f"{pair} --out f.flo --still -1", "--still -1.0")
    fails(f"{pair} --out f.flo --device gpu9", "--device gpu9: not available")
    fails("flow video.mp4 --method dis", "give --out FOLDER")
    fails("flow video.mp4 --method dis --out out --picture p.png", "--picture")
    fails("flow video.mp4 --method dis --out true.flo", "true.flo: is a file")
    fails("flow video.mp4 --method dis --out out --stride 0", "--stride 0")


def test_other_peoples_files_are_left_alone(run: Run, fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "out/flow").mkdir(parents=True)
    (tmp_path / "out/flow/mine.flo").write_text("precious")
    fails("flow frames --method dis --out out", "mine.flo: was not made by pixeltrail flow")
    (tmp_path / "in/flow").mkdir(parents=True)
    for image in (tmp_path / "frames").iterdir():
        (tmp_path / "in/flow" / image.name).write_bytes(image.read_bytes())
    fails("flow in/flow --method dis --out in", "lies where the results will be written")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/flow.part").write_text("precious")
    (tmp_path / "other/masks").mkdir()
    (tmp_path / "other/masks/00000.png").write_text("precious")
    assert run("flow frames --method dis --out other")[0] == 0
    assert (tmp_path / "other/flow.part").exists()
    assert (tmp_path / "other/masks/00000.png").exists()


def test_a_damaged_video_is_done_up_to_there(run: Run, tmp_path: Path, made: Path) -> None:
    for image in islice(sorted((made / "frames").iterdir()), 5):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / image.name).write_bytes(image.read_bytes())
    damaged = tmp_path / "broken/00003.png"
    damaged.write_bytes(damaged.read_bytes()[:-400])
    code, out, err = run("flow broken --method dis --out out")
    assert (code, out) == (4, "2 pairs -> out\n")
    assert "frame 3: damaged" in err
    assert len(list(open_frames(tmp_path / "out/flow.mp4"))) == 2


def test_scales_are_round() -> None:
    for length, wanted in ((0, 1), (0.3, 1), (1, 1), (1.01, 1.1), (7.63, 7.7), (9.96, 10), (58.2, 59), (1234, 1300)):
        assert round_scale(length) == pytest.approx(wanted)


def test_the_source_documents_example(tmp_path: Path, made: Path) -> None:
    """examples/farneback_video.py: a video in, an HSV video of its flow out."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples/farneback_video.py", made / "video.mp4", tmp_path / "flow.mp4"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    film = open_frames(tmp_path / "flow.mp4")
    assert (film.fps, film.size, len(list(film))) == (20, SIZE, FRAMES - 1)
