"""A video into a folder of results: in every direction, from every kind of label; what is refused or damaged."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import jobbing
from jobbing import FRAMES, SIZE, contents, job, masks, refused, rows
from pixeltrail.data.images import write_image
from pixeltrail.data.synthetic import Rendered
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.errors import DamagedInputError
from pixeltrail.jobs import Summary, boxes_to_labels, resumable, track
from pixeltrail.tracker import Tracker
from pixeltrail.types import Boxes, LabelMap, Points

tracker, clip, video, folder, first = jobbing.tracker, jobbing.clip, jobbing.video, jobbing.folder, jobbing.first


# What comes out


def test_confidence_is_written_when_asked_for(
    tracker: Tracker, video: Path, first: dict[int, LabelMap], tmp_path: Path
) -> None:
    job(tracker, video, tmp_path / "out", first, with_confidence=True, with_overlay=False)
    results = list(tracker.track((frame.image for frame in open_frames(video)), first[0]))
    for tracked in results:
        with PIL.Image.open(tmp_path / "out" / "confidence" / f"{tracked.index:05d}.png") as image:
            assert np.abs(np.asarray(image) / 255 - tracked.confidence).max() < 0.005
    job(tracker, video, tmp_path / "out", first, with_overlay=False)
    assert not list((tmp_path / "out" / "confidence").iterdir())  # nothing old is left beside the new


def test_the_folder_holds_what_the_tracker_says(
    tracker: Tracker, clip: Rendered, video: Path, first: dict[int, LabelMap], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    summary = job(tracker, video, tmp_path / "out", first, on_frame=lambda *a: seen.append(a))
    assert summary == Summary(FRAMES)
    assert seen == [(stage, n, FRAMES) for stage in ("tracking", "overlay") for n in range(1, FRAMES + 1)]
    expected = list(tracker.track((frame.image for frame in open_frames(video)), first[0]))
    names = [f"{t:05d}" for t in range(FRAMES)]
    assert sorted(contents(tmp_path / "out")) == sorted(
        ["overlay.mp4", "tracks.json", *(f"masks/{name}.png" for name in names)]
    )
    written = masks(tmp_path / "out")
    tracks = json.loads((tmp_path / "out" / "tracks.json").read_text())
    assert (tracks["video"], tracks["width"], tracks["height"], tracks["fps"]) == ("video.mp4", 64, 48, 24)
    for t, (name, one, row) in enumerate(zip(names, expected, tracks["frames"], strict=True)):
        assert (written[name] == one.ids).all()
        assert (row["frame"], row["name"], row["time"]) == (t, name, pytest.approx(t / 24, abs=1e-5))
        assert [o["id"] for o in row["objects"]] == [1, 2]
        for entry in row["objects"]:
            y, x = np.nonzero(one.ids == entry["id"])
            assert entry["area"] == len(x)
            assert entry["confidence"] == pytest.approx(one.objects[entry["id"]], abs=1e-4)
            assert entry["box"] == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else None)
            assert entry["centroid"] == (pytest.approx([x.mean(), y.mean()], abs=0.01) if len(x) else None)
    pictures = [frame.image for frame in open_frames(tmp_path / "out" / "overlay.mp4")]
    assert len(pictures) == FRAMES
    tinted = written["00006"] > 0
    change = np.abs(pictures[6].astype(int) - clip.frames[6]).mean(-1)
    assert change[tinted].mean() > 5 * change[~tinted].mean()


def test_masks_are_indexed_pngs_under_the_names_of_the_frames_in_natural_order(
    tracker: Tracker, folder: Path, first: dict[int, LabelMap], tmp_path: Path
) -> None:
    job(tracker, folder, tmp_path / "out", first, with_overlay=False)
    assert not (tmp_path / "out" / "overlay.mp4").exists()
    assert [(row["frame"], row["name"]) for row in rows(tmp_path / "out")] == [(t, str(5 * t)) for t in range(FRAMES)]
    with PIL.Image.open(tmp_path / "out" / "masks" / "55.png") as image:
        assert (image.mode, image.size) == ("P", (64, 48))
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]


def test_a_gif_is_a_video(tracker: Tracker, clip: Rendered, first: dict[int, LabelMap], tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.gif", 10, SIZE) as writer:
        for image in clip.frames:
            writer.write(image)
    job(tracker, tmp_path / "clip.gif", tmp_path / "out", first)
    assert len(masks(tmp_path / "out")) == FRAMES


def test_objects_may_appear_later_and_be_corrected(
    tracker: Tracker, clip: Rendered, folder: Path, tmp_path: Path
) -> None:
    given = {
        2: LabelMap(np.where(clip.labels[2] == 1, 1, 0).astype(np.uint8)),
        6: LabelMap(clip.labels[6]),
        9: LabelMap(np.where(clip.labels[9] == 2, 2, 0).astype(np.uint8)),
    }
    job(tracker, folder, tmp_path / "out", given)
    assert [[o["id"] for o in row["objects"]] for row in rows(tmp_path / "out")] == [[1]] * 4 + [[1, 2]] * 6
    written = masks(tmp_path / "out")
    assert list(written) == sorted(str(5 * t) for t in range(2, FRAMES))
    assert (written["30"] == clip.labels[6]).all()
    assert ((written["45"] == 2) == (clip.labels[9] == 2)).all()
    assert len(list(open_frames(tmp_path / "out" / "overlay.mp4"))) == FRAMES  # unlabelled frames are shown too


# Directions


@pytest.fixture
def reversed_folder(clip: Rendered, tmp_path: Path) -> Path:
    path = tmp_path / "reversed"
    path.mkdir()
    for t, image in enumerate(clip.frames[::-1]):
        write_image(path / f"{5 * (FRAMES - 1 - t)}.png", image)
        (path / f"{5 * (FRAMES - 1 - t)}.png").rename(path / f"{t:02d}.png")
    return path


def mirrored(frame: int) -> int:
    return FRAMES - 1 - frame


@pytest.mark.parametrize("labelled", [[11], [7], [9, 4]])
def test_backward_is_forward_on_the_reversed_video(
    tracker: Tracker, clip: Rendered, folder: Path, reversed_folder: Path, tmp_path: Path,
    labelled: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(track, "CHUNK_BYTES", 1)  # the smallest chunks, of eight frames
    there = {t: LabelMap(clip.labels[t]) for t in labelled}
    job(tracker, folder, tmp_path / "back", there, direction="backward")
    job(tracker, reversed_folder, tmp_path / "forth", {mirrored(t): labels for t, labels in there.items()})
    back, forth = masks(tmp_path / "back"), masks(tmp_path / "forth")
    assert len(back) == max(labelled) + 1
    for name, ids in back.items():
        assert (ids == forth[f"{mirrored(int(name) // 5):02d}"]).all()
    assert [row["frame"] for row in rows(tmp_path / "back")] == list(range(max(labelled) + 1))


def test_both_ways_is_one_way_and_the_other(tracker: Tracker, clip: Rendered, folder: Path, tmp_path: Path) -> None:
    given = {5: LabelMap(clip.labels[5])}
    for way in ("forward", "backward", "both"):
        job(tracker, folder, tmp_path / way, given, direction=way)
    forth, back, both = rows(tmp_path / "forward"), rows(tmp_path / "backward"), rows(tmp_path / "both")
    assert [row["frame"] for row in both] == list(range(FRAMES))
    assert both == back[:-1] + forth
    pictures = {**masks(tmp_path / "backward"), **masks(tmp_path / "forward")}
    assert all((ids == pictures[name]).all() for name, ids in masks(tmp_path / "both").items())
    job(tracker, folder, tmp_path / "start", {0: LabelMap(clip.labels[0])}, direction="both")
    assert len(masks(tmp_path / "start")) == FRAMES


# Boxes and points


def test_boxes_become_labels() -> None:
    boxes = Boxes(np.array([[-4, -2, 3, 2], [2.4, 0.6, 5.6, 9]]), np.array([4, 9]))
    wanted = np.zeros((6, 8), np.uint8)
    wanted[:2, :3] = 4
    wanted[1:, 2:6] = 9
    assert (boxes_to_labels(boxes, (6, 8)).ids == wanted).all()


def read_csv(out: Path) -> dict[tuple[str, int], list[float]]:
    with open(out / "points.csv", newline="") as file:
        return {(r["point"], int(r["frame"])): [float(r[k]) for k in ("x", "y", "confidence")]
                for r in csv.DictReader(file)}  # fmt: skip


def test_points_go_each_from_its_own_frame(tracker: Tracker, clip: Rendered, folder: Path, tmp_path: Path) -> None:
    born = np.array([4, 4, 7])
    points = Points(clip.tracks.xy[born, [0, 1, 2]], born, ('a,"b', "c", "d"))
    job(tracker, folder, tmp_path / "forward", points)
    assert sorted(contents(tmp_path / "forward")) == ["overlay.mp4", "points.csv"]
    found = read_csv(tmp_path / "forward")
    assert found.keys() == {(n, t) for n, b in zip(points.names, born, strict=True) for t in range(b, FRAMES)}
    for followed in tracker.follow(clip.frames, points):
        for name, xy, c in zip(points.names, followed.xy, followed.confidence, strict=True):
            if (name, followed.index) in found:
                assert found[name, followed.index] == pytest.approx([*xy, c], abs=1e-3)
    job(tracker, folder, tmp_path / "backward", points, direction="backward")
    back = read_csv(tmp_path / "backward")
    assert back.keys() == {(n, t) for n, b in zip(points.names, born, strict=True) for t in range(b + 1)}
    job(tracker, folder, tmp_path / "both", points, direction="both")
    assert read_csv(tmp_path / "both") == {**back, **found}


# What is refused, and leaves nothing behind


def test_labels_that_do_not_fit_are_refused_before_anything_is_written(
    tracker: Tracker, video: Path, folder: Path, clip: Rendered, tmp_path: Path
) -> None:
    some, out = LabelMap(clip.labels[0]), tmp_path / "out"
    for source in (video, folder):
        refused(tracker, source, out, {0: some, FRAMES: some}, f"frame {FRAMES}", "beyond")
        refused(tracker, source, out, {FRAMES: some}, f"frame {FRAMES}", "beyond", direction="both")
        refused(tracker, source, out, Points(np.ones((1, 2)), np.array([40])), "frame 40")
        refused(tracker, source, out, {}, "nothing is given")
        refused(tracker, source, out, {3: LabelMap(clip.labels[0][1:])}, "frame 3", "64x47", "64x48")
        refused(tracker, source, out, Points(np.ones((5000, 2))), "5000 points")
    assert not out.exists()


def test_frames_too_wide_for_a_video_are_refused_at_once(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    write_image(tmp_path / "wide" / "0.png", np.zeros((8, 16400, 3), np.uint8))
    given = {0: LabelMap(np.ones((8, 16400), np.uint8))}
    refused(tracker, tmp_path / "wide", tmp_path / "out", given, "16400x8", "--no-overlay")
    assert not (tmp_path / "out").exists()


def test_nothing_of_others_is_overwritten(
    tracker: Tracker, video: Path, first: dict[int, LabelMap], tmp_path: Path
) -> None:
    for name in ("masks/mine.png", "points.csv", "tracks.json", "overlay.mp4"):
        out = tmp_path / name.replace("/", "-")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_bytes(b"mine")
        refused(tracker, video, out, first, str(out), "another --out")
    inside = tmp_path / "out" / "masks" / "film.mp4"
    inside.parent.mkdir(parents=True)
    shutil.copy(video, inside)
    refused(tracker, inside, tmp_path / "out", first, "another folder")
    job(tracker, video, tmp_path / "ours", first)
    (tmp_path / "ours" / "masks" / "notes.txt").write_text("kept")
    (tmp_path / "ours" / "masks" / "00099.png").write_bytes(b"of an older, longer run")
    job(tracker, video, tmp_path / "ours", first)
    assert (tmp_path / "ours" / "masks" / "notes.txt").read_text() == "kept"
    assert len(list((tmp_path / "ours" / "masks").glob("*.png"))) == FRAMES


# Damage


@pytest.fixture
def cut(clip: Rendered, tmp_path: Path) -> Path:
    """A video that ends in the middle of its data."""
    path = tmp_path / "cut.mp4"
    with VideoWriter(path, 24, SIZE) as writer:
        for image in clip.frames:
            writer.write(image)
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    return path


def test_a_damaged_video_is_tracked_up_to_the_damage(
    tracker: Tracker, cut: Path, first: dict[int, LabelMap], tmp_path: Path
) -> None:
    summary = job(tracker, cut, tmp_path / "out", first)
    assert isinstance(summary.problem, DamagedInputError)
    assert f"frame {summary.frames}: damaged" in str(summary.problem)
    assert 1 < summary.frames < FRAMES
    assert len(masks(tmp_path / "out")) == len(rows(tmp_path / "out")) == summary.frames
    assert len(list(open_frames(tmp_path / "out" / "overlay.mp4"))) == summary.frames
    assert not resumable(tmp_path / "out")
    refused(tracker, cut, tmp_path / "none", {FRAMES - 1: first[0]}, "damaged", f"instead of frame {FRAMES - 1}")


def test_a_frame_that_cannot_be_read_ends_the_track(
    tracker: Tracker, folder: Path, first: dict[int, LabelMap], tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "frames")
    bad = tmp_path / "frames" / "35.png"
    bad.write_bytes(bad.read_bytes()[:-200])
    summary = job(tracker, tmp_path / "frames", tmp_path / "out", first)
    assert summary.frames == 7
    assert "frame 7" in str(summary.problem)
    assert "35.png" in str(summary.problem)
