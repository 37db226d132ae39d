"""Benchmarks of masks and boxes: YouTube-VOS, VIP, OTB and VOT. Definitions, edges, and what is wrong with a folder."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixeltrail.data.boxes import BoxSequences, read_boxes
from pixeltrail.data.vip import CLASSES, Vip
from pixeltrail.data.youtubevos import YouTubeVos, read_categories, submission
from pixeltrail.errors import DiskError, InputError, ShapeError, UnknownNameError
from pixeltrail.evaluation.boxes import (
    box_of,
    by_masks,
    evaluate_boxes,
    overlaps,
    restarted,
    success_and_precision,
)
from pixeltrail.evaluation.parsing import class_iou, confusion, evaluate_parsing, nearest
from pixeltrail.evaluation.youtubevos import evaluate_youtubevos
from pixeltrail.flow.propagate import identity

H, W = 20, 30


def save_frame(path: Path, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 80, np.uint8)).save(path)


def save_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


# YouTube-VOS


def truth(t: int) -> np.ndarray:
    """Object 1 stays; object 2 appears in frame 5 and moves by a pixel a frame."""
    ids = np.zeros((H, W), np.uint8)
    ids[2:8, 2:10] = 1
    if t >= 5:
        ids[10:16, t : t + 6] = 2
    return ids


@pytest.fixture
def split(tmp_path) -> Path:
    """A video of 11 frames, annotated in 0, 5 and 10."""
    for t in range(11):
        save_frame(tmp_path / f"JPEGImages/clip/{t:05d}.jpg")
        if t % 5 == 0:
            save_ids(tmp_path / f"Annotations/clip/{t:05d}.png", truth(t))
    objects = {
        "1": {"category": "ape", "frames": ["00000", "00005", "00010"]},
        "2": {"category": "yak", "frames": ["00005", "00010"]},
    }
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"clip": {"objects": objects}}}))
    return tmp_path


def test_objects_are_given_when_they_appear(split):
    (video,) = YouTubeVos(split)
    given = video.given()
    assert {t: labels.objects for t, labels in given.items()} == {0: (1,), 5: (2,)}  # not object 1 again
    assert sorted(video.annotations) == [0, 5, 10]
    assert video.expected() == [0, 5, 10]


def test_youtube_scores_seen_and_unseen(split):
    report = evaluate_youtubevos(identity, YouTubeVos(split), seen={"ape"})
    # Object 2 overlaps itself by one column of six in frame 10: J = 6 / (2 * 36 - 6).
    assert (report.overall["J_seen"], report.overall["F_seen"]) == (1, 1)
    assert report.overall["J_unseen"] == pytest.approx(6 / 66)
    expected = (2 + report.overall["J_unseen"] + report.overall["F_unseen"]) / 4
    assert report.overall["G"] == pytest.approx(expected)
    assert [row["frames"] for row in report.objects] == [2, 1]  # the first frame of each is not scored
    everything_seen = evaluate_youtubevos(identity, YouTubeVos(split)).overall
    assert math.isnan(everything_seen["J_unseen"])
    assert everything_seen["J_seen"] == pytest.approx((1 + 6 / 66) / 2)
    assert everything_seen["G"] == pytest.approx((everything_seen["J_seen"] + everything_seen["F_seen"]) / 2)


def test_an_object_that_is_gone_must_not_be_predicted(split):
    save_ids(split / "Annotations/clip/00010.png", np.where(truth(10) == 1, 0, truth(10)).astype(np.uint8))

    def forgets(frames, labels):
        return (np.where((ids == 1) & (t >= 10), 0, ids) for t, ids in enumerate(identity(frames, labels)))

    stays, goes = (evaluate_youtubevos(masks, YouTubeVos(split)).objects[0] for masks in (identity, forgets))
    assert (stays["J"], stays["F"]) == (0.5, 0.5)  # right in frame 5, wrong in frame 10
    assert (goes["J"], goes["F"]) == (1, 1)  # neither shown nor predicted


def test_a_split_without_later_masks_has_no_scores_but_a_submission(split, tmp_path):
    (split / "Annotations/clip/00010.png").unlink()
    save_ids(split / "Annotations/clip/00005.png", np.where(truth(5) == 2, truth(5), 255).astype(np.uint8))
    out = tmp_path / "out.zip"
    with submission(out) as file:
        evaluate_youtubevos(identity, YouTubeVos(split), write=file.add)
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        image = Image.open(archive.open("Annotations/clip/00010.png"))
        image.load()
    assert names == [f"Annotations/clip/{t:05d}.png" for t in (0, 5, 10)]
    assert image.mode == "P"
    assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert np.unique(np.asarray(image)).tolist() == [0, 1, 2]
    first = out.read_bytes()
    with submission(out) as file:
        evaluate_youtubevos(identity, YouTubeVos(split), write=file.add)
    assert out.read_bytes() == first


def test_a_submission_appears_whole_or_not_at_all(tmp_path):
    def write():
        with submission(tmp_path / "out.zip") as file:
            file.add("clip", "00000", truth(0))
            raise DiskError("full")

    with pytest.raises(DiskError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_youtube_says_what_is_wrong(split):
    with pytest.raises(UnknownNameError, match="no video 'clop'"):
        YouTubeVos(split, ["clop"])
    (video,) = YouTubeVos(split)
    save_ids(split / "Annotations/clip/00005.png", truth(0))
    with pytest.raises(InputError, match="object 2 is not in the mask of its first frame"):
        video.given()
    (split / "list.txt").write_text("ape\n\nyak\n")
    assert read_categories(split / "list.txt") == {"ape", "yak"} == read_categories(split / "meta.json")
    for meta in (
        "{}", '{"videos": {"../x": {"objects": {"1": {"frames": []}}}}}', '{"videos": {"a": {"objects": {}}}}',
        '{"videos": {"a": {"objects": {"300": {"frames": []}}}}}', '{"videos": {"a": {"objects": {"x": {"frames": []}}}}}',
        "[" * 100_000,
    ):  # fmt: skip
        (split / "meta.json").write_text(meta)
        with pytest.raises(InputError, match=r"no meta\.json of YouTube-VOS"):
            YouTubeVos(split)


# VIP


def test_confusion_and_iou():
    true = np.array([[0, 0, 1, 1], [2, 2, 255, 3]], np.uint8)
    said = np.array([[0, 1, 1, 1], [2, 0, 1, 9]], np.uint8)  # 9 is no class: background
    counts = confusion(said, true, 5)
    assert counts.sum() == 7  # void is left out
    iou = class_iou(counts)
    np.testing.assert_allclose(iou[:4], [1 / 4, 2 / 3, 1 / 2, 0])
    assert math.isnan(iou[4])
    with pytest.raises(ShapeError):
        confusion(said[:1], true, 5)


def test_nearest_takes_centres():
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert nearest(nearest(ids, (8, 12)), (2, 3)).tolist() == ids.tolist()
    assert nearest(ids, (1, 1)).tolist() == [[4]]


@pytest.fixture
def vip(tmp_path) -> Path:
    """A video of three frames; the hair (2) moves by half its width, then is not annotated. The middle is void."""
    for t in range(3):
        save_frame(tmp_path / f"VIP_Fine/Images/videos1/{t + 1:012d}.jpg", (28, 28))
    for t in range(2):
        ids = np.zeros((28, 28), np.uint8)
        ids[4:12, 4 + 4 * t : 12 + 4 * t] = 2
        save_ids(tmp_path / f"VIP_Fine/Annotations/Category_ids/videos1/{t + 1:012d}.png", ids)
    (tmp_path / "VIP_Fine/lists").mkdir()
    (tmp_path / "VIP_Fine/lists/val_videos.txt").write_text("videos1\n")
    return tmp_path


def test_vip_scores_all_frames_together(vip):
    for size in (0, 560):
        seen = []

        def masks(frames, labels, seen=seen):
            frames = list(frames)
            seen.append(frames[0].shape[:2])
            return identity(frames, labels)

        report = evaluate_parsing(masks, Vip(vip), CLASSES, size=size)
        assert seen == [(size, size) if size else (28, 28)]
        hair = (64 + 32) / (64 + 96)  # frame 0, which is given, counts
        background = (2 * 784 - 160) / (2 * 784 - 96)
        assert report.overall["mIoU"] == pytest.approx((hair + background) / 2)
        assert {row["object"]: row["IoU"] for row in report.objects}["hair"] == pytest.approx(hair)


def test_vip_says_what_is_wrong(vip):
    with pytest.raises(UnknownNameError, match="videos9"):
        Vip(vip, ["videos9"])
    (vip / "VIP_Fine/Annotations/Category_ids/videos1/000000000001.png").unlink()
    with pytest.raises(InputError, match="no annotation of the first"):
        list(Vip(vip))


# Boxes


def test_overlaps():
    a = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 4, 4], [math.nan] * 4, [3, 3, 3, 3]]
    b = [[0, 0, 10, 10], [5, 0, 15, 10], [4, 0, 8, 4], [0, 0, 1, 1], [3, 3, 3, 3]]
    np.testing.assert_allclose(overlaps(a, b), [1, 1 / 3, 0, 0, 0])


def test_success_and_precision_by_hand():
    true = np.array([[0, 0, 10, 10]] * 4 + [[math.nan] * 4])
    said = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10], [math.nan] * 4, [0, 0, 1, 1]])
    success, precision = success_and_precision(said, true)
    assert success[0] == 0.5  # strictly above 0; the absent frame is left out, the missing box is not
    assert success[-1] == 0  # nothing is above 1
    assert success.mean() == pytest.approx((20 / 4 + 7 / 4) / 21)  # 1/3 is above 0, 0.05, ... 0.3
    assert precision[[4, 5, 19, 20, 50]].tolist() == [0.25, 0.5, 0.5, 0.75, 0.75]
    assert np.isnan(success_and_precision([[0, 0, 1, 1]], [[math.nan] * 4])[0]).all()


class Moving:
    """A box that stands still for 30 frames, and nothing to see."""

    name = "still"
    boxes = np.array([[2.0, 2, 12, 12]] * 30)

    def images(self, start=0):
        return (np.zeros((H, W, 3), np.uint8) for _ in range(start, len(self.boxes)))


def lost_after(frames_before: int, times: int = 10**9):
    """A tracker that loses the object so many frames after each of its first ``times`` beginnings."""
    begun = []

    def track(frames, box):
        begun.append(1)
        for t, _ in enumerate(frames):
            yield box if t < frames_before or len(begun) > times else box + 100

    return track


def test_vot_restarts_five_frames_after_a_failure():
    counted, failures = restarted(lost_after(1000), Moving())
    assert (failures, np.isnan(counted).sum()) == (0, 10)  # the first ten burn in
    assert np.nanmean(counted) == 1
    counted, failures = restarted(lost_after(12, times=1), Moving())
    assert failures == 1  # in frame 12; begun again in 17, counting from 27 on
    assert np.flatnonzero(~np.isnan(counted)).tolist() == [10, 11, 27, 28, 29]
    assert restarted(lost_after(1), Moving())[1] == 5  # fails in 1, 7, 13, 19, 25


def test_vot_begins_where_there_is_a_box():
    absent = Moving()
    absent.boxes = absent.boxes.copy()
    absent.boxes[[6, 7, 12]] = math.nan
    counted, failures = restarted(lost_after(1, times=1), absent)
    assert failures == 1  # in frame 1; 6 and 7 have no box: begun again in 8
    assert np.flatnonzero(~np.isnan(counted)).tolist() == list(range(18, 30))


def test_vot_counts_what_lies_inside_the_frame():
    outside = Moving()
    outside.boxes = outside.boxes - [6, 0, 6, 0]  # from -4 to 6: six of ten columns are in the picture

    def track(frames, box):
        return (np.array([0.0, 2, 6, 12]) for _ in frames)

    counted, failures = restarted(track, outside)
    assert (failures, np.nanmin(counted)) == (0, 1)
    assert overlaps([[0, 2, 6, 12]], outside.boxes[:1])[0] == pytest.approx(0.6)  # OTB takes boxes as they are


def test_box_report():
    drawn = []

    def draw(image, boxes, ids):
        drawn.append((boxes[0].tolist(), ids.tolist()))
        return image

    report = evaluate_boxes(lost_after(15), [Moving(), Moving()], draw=draw)
    assert report.curves[0]["t"] == list(range(1, 30))  # the first box is given
    assert report.curves[0]["overlap"] == [1] * 14 + [0] * 15
    assert [(p["frame"], p["overlap"]) for p in report.pictures] == [(15, 0), (15, 0)]
    assert drawn[:2] == [([102, 102, 112, 112], [1]), ([2, 2, 12, 12], [1])]
    assert report.overall["failures"] == 2
    assert report.overall["robustness"] == pytest.approx(math.exp(-30 * 2 / 60))
    assert report.sequences[0]["precision_20px"] == 0.5
    one_pass = evaluate_boxes(lost_after(15), [Moving()], restarts=False)
    assert set(one_pass.overall) == {"success_AUC", "precision_20px"}
    assert "failures" not in one_pass.measures


def test_boxes_by_masks_round_trip():
    track = by_masks(identity)
    frames = [np.zeros((H, W, 3), np.uint8)] * 3
    for box in track(frames, np.array([3.0, 4, 9, 11])):
        assert box.tolist() == [3, 4, 9, 11]
    assert np.isnan(box_of(np.zeros((3, 3), bool))).all()
    with pytest.raises(InputError, match="outside the 30x20 frame"):
        list(track(frames, np.array([100.0, 4, 120, 11])))


def test_layouts(tmp_path):
    for name, file, folder, text, expected in (
        ("otb", "groundtruth_rect.txt", "img", "11,21,5,6\n12\t21\t5\t6", [[10, 20, 15, 26], [11, 20, 16, 26]]),
        ("vot", "groundtruth.txt", "color", "1,2,5,2,6,9,1,8\nnan,nan,nan,nan", [[1, 2, 6, 9], [math.nan] * 4]),
        ("vot-rect", "groundtruth.txt", ".", "10,20,5,6\n0,0,0,0", [[10, 20, 15, 26], [math.nan] * 4]),
        ("tld", "gt.txt", ".", "1.5,2,9,8\nNaN,NaN,NaN,NaN\n", [[1.5, 2, 9, 8], [math.nan] * 4]),
    ):
        for t in range(2):
            save_frame(tmp_path / name / folder / f"{t:04d}.png")
        (tmp_path / name / file).write_text(text)
        np.testing.assert_array_equal(read_boxes(tmp_path / name / file), expected)
    assert [sequence.name for sequence in BoxSequences(tmp_path)] == ["otb", "tld", "vot", "vot-rect"]
    (sequence,) = BoxSequences(tmp_path / "otb")
    assert len(list(sequence.images(1))) == 1


def test_boxes_say_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no sequence"):
        BoxSequences(tmp_path)
    for text, words in (
        ("", "is empty"), ("1,2,3\n", "line 1: 3 numbers"), ("1,2,3,4\na,b,c,d\n", "line 2: 'a,b,c,d' are no numbers"),
        ("nan,nan,nan,nan\n", "the first frame needs a box"),
    ):  # fmt: skip
        (tmp_path / "groundtruth_rect.txt").write_text(text)
        with pytest.raises(InputError, match=words):
            list(BoxSequences(tmp_path))
    (tmp_path / "groundtruth_rect.txt").write_text("1,1,5,5\n1,1,5,5\n")
    with pytest.raises(InputError, match="0 videos and no frames"):
        list(BoxSequences(tmp_path))
    save_frame(tmp_path / "img/0001.png")
    with pytest.raises(InputError, match="1 boxes for 2 true ones"):
        evaluate_boxes(by_masks(identity), BoxSequences(tmp_path), restarts=False)


def test_real_boxes(real_data):
    jumping, pedestrian = BoxSequences(real_data / "boxes")
    assert (len(jumping.boxes), len(pedestrian.boxes)) == (313, 140)
    assert jumping.boxes[0].tolist() == [147, 110, 180, 142]
    assert len(list(pedestrian.images(130))) == 10
    report = evaluate_boxes(by_masks(identity), [pedestrian], restarts=False)
    assert 0 < report.overall["success_AUC"] < 0.1  # the camera moves
