"""TAP-Vid and its pickles. Definitions, edges, hostile files."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from followers import Found
from pixeltrail.data.arrays import PickleFile
from pixeltrail.data.tapvid import TapVid
from pixeltrail.errors import InputError
from pixeltrail.evaluation.tapvid import evaluate_tapvid, queries, tapvid_metrics
from torchfiles import Payload

RANDOM = np.random.default_rng(0)


def test_tapvid_metrics_by_hand():
    truth, hidden = np.zeros((1, 4, 2)), np.array([[False, False, True, False]])
    predicted = truth.copy()
    predicted[0, 1, 0] = 2.0  # exactly 2 is not within 2
    said = np.array([[True, False, False, True]])
    found = tapvid_metrics([0], truth, hidden, predicted, said, "first")
    # Frames 1 (visible, said so), 2 (occluded, said visible), 3 (visible, said occluded).
    assert found["OA"] == pytest.approx(1 / 3)
    assert (found["pts_within_2"], found["pts_within_4"]) == (0.5, 1)
    assert found["jaccard_2"] == 0  # no true positive
    assert found["jaccard_4"] == pytest.approx(1 / (2 + 1))
    assert found["AJ"] == pytest.approx(3 / 5 / 3)
    strided = tapvid_metrics([1], truth, hidden, predicted, said, "strided")  # frames 0, 2 and 3
    assert (strided["OA"], strided["delta_avg"], strided["AJ"]) == (0, 1, 0)
    perfect = tapvid_metrics([0], truth, hidden, truth, hidden, "first")
    assert (perfect["AJ"], perfect["OA"], perfect["delta_avg"]) == (1, 1, 1)
    assert math.isnan(tapvid_metrics([3], truth, hidden, truth, hidden, "first")["OA"])


def test_tapvid_metrics_equal_a_plain_loop():
    q, t = 6, 9
    truth, predicted = RANDOM.random((2, q, t, 2)) * 12
    hidden, said = RANDOM.random((2, q, t)) < 0.3
    asked = RANDOM.integers(0, t, q)
    for mode in ("first", "strided"):
        counts = [(i, j) for i in range(q) for j in range(t) if (j > asked[i] if mode == "first" else j != asked[i])]
        jaccards, within = [], []
        for limit in (1, 2, 4, 8, 16):
            near = {c: math.dist(truth[c], predicted[c]) < limit for c in counts}
            tp = sum(near[c] and not hidden[c] and not said[c] for c in counts)
            fp = sum((not said[c]) and (hidden[c] or not near[c]) for c in counts)
            visible = sum(not hidden[c] for c in counts)
            jaccards.append(tp / (visible + fp))
            within.append(sum(near[c] and not hidden[c] for c in counts) / visible)
        found = tapvid_metrics(asked, truth, hidden, predicted, said, mode)
        assert found["AJ"] == pytest.approx(np.mean(jaccards))
        assert found["delta_avg"] == pytest.approx(np.mean(within))
        assert found["OA"] == pytest.approx(np.mean([hidden[c] == said[c] for c in counts]))


def test_tapvid_queries():
    occluded = np.ones((3, 12), bool)
    occluded[0, [2, 5, 10]] = occluded[1, 0] = False  # the third is never seen
    which, asked = queries(occluded, "first")
    assert (which.tolist(), asked.tolist()) == ([0, 1], [2, 0])
    which, asked = queries(occluded, "strided")
    assert (which.tolist(), asked.tolist()) == ([1, 0, 0], [0, 5, 10])


def tap_video(shift: float = 0.0) -> dict:
    """A bright square that moves by two of 32 pixels a frame, and a point on it; a second point stays."""
    video = np.full((6, 32, 32, 3), 30, np.uint8)
    points, occluded = np.zeros((2, 6, 2), np.float32), np.zeros((2, 6), bool)
    for t in range(6):
        video[t, 10:16, 4 + 2 * t : 10 + 2 * t] = 200
        points[0, t] = (7 + 2 * t + shift) / 32, 13 / 32
    points[1], occluded[1, 3] = 0.9, True
    return {"video": video, "points": points, "occluded": occluded}


@pytest.mark.parametrize("protocol", range(1, 6))
def test_tapvid_pickles_of_every_format(tmp_path, protocol):
    one = tap_video()
    path = tmp_path / "davis.pkl"
    path.write_bytes(pickle.dumps({"goat": one, "cow": {**one, "video": np.asfortranarray(one["video"])}}, protocol))
    for video in TapVid(path):
        assert video.name in ("goat", "cow")
        np.testing.assert_array_equal(video.frame(3), one["video"][3])
        np.testing.assert_array_equal(video.points, one["points"])
        np.testing.assert_array_equal(video.occluded, one["occluded"])


def test_tapvid_shards_and_npz_hold_the_same(tmp_path):
    one = tap_video()
    images = []
    for frame in one["video"]:
        data = io.BytesIO()
        Image.fromarray(frame).save(data, "PNG")
        images.append(data.getvalue())
    encoded = np.empty(6, object)
    encoded[:] = images
    (tmp_path / "0000_of_0002.pkl").write_bytes(pickle.dumps([{**one, "video": images}, {**one, "video": encoded}], 4))
    np.savez_compressed(tmp_path / "0001_of_0002.npz", **one)
    videos = list(TapVid(tmp_path))
    assert [video.name for video in videos] == ["0000_of_0002-00000", "0000_of_0002-00001", "0001_of_0002"]
    for video in videos:
        np.testing.assert_array_equal(video.frame(5), one["video"][5])


def test_tapvid_pickles_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = tap_video()
    for content in (
        pickle.dumps(Payload()), pickle.dumps({"a": Payload()}), pickle.dumps({"a": {**one, "points": Payload()}}),
        pickle.dumps([1, 2]), pickle.dumps([{"video": None}]), b"", b"\x80\x04N.", pickle.dumps({"a": one})[:-9000],
        pickle.dumps({"a": {**one, "points": one["points"][:, :5]}}),
        pickle.dumps({"a": {**one, "points": one["points"] * np.float32(np.nan)}}),
        pickle.dumps({"a": {**one, "video": [b"no image"] * 6}}), b"\x80\x04\x8e" + b"\xff" * 8,
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a",
    ):  # fmt: skip
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(InputError):
            [video.frame(0) for video in TapVid(tmp_path / "x.pkl")]
    assert not (tmp_path / "executed").exists()


def test_tapvid_damage_raises_one_kind(tmp_path):
    whole = pickle.dumps({"a": tap_video()}, 4)
    path = tmp_path / "x.pkl"
    head = [i for i in range(len(whole)) if i < 250 or i > len(whole) - 500]  # the rest are pixels
    for _ in range(800):
        bad = bytearray(whole)
        for at in RANDOM.choice(head, 2):
            bad[at] = RANDOM.integers(0, 256)
        path.write_bytes(bad)
        try:
            [video.frame(0) for video in TapVid(path)]
        except InputError:
            continue


def test_a_pickled_array_is_mapped_not_read(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": np.zeros((1000, 1000), np.float32)}, 4))
    file = PickleFile(path)
    assert isinstance(file.array(file.root["a"]), np.memmap)


def test_npz_that_lies_is_refused(tmp_path):
    one = tap_video()
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 10, 1 << 10, 3)}
    )
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("video.npy", head.getvalue() + bytes(100))
        for name in ("points", "occluded"):
            data = io.BytesIO()
            np.save(data, one[name])
            archive.writestr(f"{name}.npy", data.getvalue())
    with pytest.raises(InputError, match="does not hold what its header says"):
        list(TapVid(path))
    np.savez(path, video=one["video"], points=one["points"])
    with pytest.raises(InputError, match="no array 'occluded'"):
        list(TapVid(path))
    np.savez(path, **{**one, "points": np.array([{}], object)})
    with pytest.raises(InputError, match="does not hold"):
        list(TapVid(path))


def test_tapvid_runs_forwards_and_back(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **tap_video())
    asked: list[tuple[int, int]] = []

    def follow(frames, points):
        """The truth, for whoever began at a frame 0 or 5 and goes either way."""
        images = [np.asarray(frame) for frame in frames]
        asked.append((len(images), len(points.xy)))
        for image in images:
            bright = np.argwhere(image[..., 0] > 110)
            xy = points.xy.copy()
            moving = np.abs(xy - 0.9 * 256).max(1) > 3
            xy[moving] = (bright[:, ::-1].min(0) + bright[:, ::-1].max(0)) / 2
            yield Found(xy, np.ones(len(xy)))

    first = evaluate_tapvid(follow, TapVid(path))
    assert asked == [(6, 2)]
    assert first.overall["delta_avg"] == pytest.approx(1, abs=0.11)  # the square's edge is blurred by a fraction
    assert first.overall["OA"] == pytest.approx(0.9)  # the occluded one is said to be visible
    asked.clear()
    strided = evaluate_tapvid(follow, TapVid(path), mode="strided")
    assert asked == [(6, 2), (1, 2), (1, 2), (6, 2)]
    assert strided.overall["delta_avg"] == pytest.approx(1, abs=0.11)
    lost = evaluate_tapvid(follow, TapVid(path), confident=1.1)  # all said to be occluded
    assert (lost.overall["AJ"], lost.overall["OA"]) == (0, pytest.approx(0.1))
