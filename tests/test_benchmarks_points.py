"""Benchmarks of joints: JHMDB and its MATLAB files, BADJA. Definitions, edges, hostile files."""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from followers import save_image, staying
from pixeltrail.data.badja import Badja
from pixeltrail.data.jhmdb import Jhmdb
from pixeltrail.data.matlab import parse_mat, read_mat
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.evaluation.badja import evaluate_badja
from pixeltrail.evaluation.jhmdb import evaluate_jhmdb, normalised_distances, pck_by_joint

RANDOM = np.random.default_rng(0)


# MATLAB files


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def matrix(name: str, values: np.ndarray, order: str = "<", cls: int = 6, stored: int = 9, flags: int = 0) -> bytes:
    small = name.encode()
    tag = struct.pack(f"{order}I", (len(small) << 16) | 1) if len(small) <= 4 else b""
    named = tag + small + b"\0" * (4 - len(small)) if tag else element(1, small, order)
    numbers = values.astype(np.dtype(f"{order}{'f8' if stored == 9 else 'u1'}")).tobytes("F")
    body = element(6, struct.pack(f"{order}II", cls | flags, 0), order)
    body += element(5, struct.pack(f"{order}{values.ndim}i", *values.shape), order) + named
    return element(14, body + element(stored, numbers, order), order)


def mat_file(*parts: bytes, order: str = "<", version: int = 0x0100) -> bytes:
    mark = struct.pack(f"{order}H", (ord("M") << 8) | ord("I"))
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{order}H", version) + mark + b"".join(parts)


def packed(part: bytes, order: str = "<") -> bytes:
    data = zlib.compress(part)
    return struct.pack(f"{order}II", 15, len(data)) + data


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_mat_arrays_are_read(order, compressed):
    values, bytes_ = RANDOM.random((2, 15, 7)), np.arange(6.0).reshape(2, 3)
    parts = [matrix("pos_img", values, order), matrix("b", bytes_, order, stored=2)]
    parts.append(matrix("text", bytes_, order, cls=4))  # characters: no numbers
    found = parse_mat(mat_file(*([packed(p, order) for p in parts] if compressed else parts), order=order))
    assert set(found) == {"pos_img", "b"}
    np.testing.assert_array_equal(found["pos_img"], values)
    np.testing.assert_array_equal(found["b"], bytes_)  # stored as bytes, still doubles
    assert found["b"].dtype == np.float64


def test_mat_equals_scipy(tmp_path):
    io_ = pytest.importorskip("scipy.io")
    for compressed in (False, True):
        io_.savemat(
            tmp_path / "x.mat", {"pos_img": RANDOM.random((2, 15, 9)), "s": {"a": 1}}, do_compression=compressed
        )
        np.testing.assert_array_equal(
            read_mat(tmp_path / "x.mat")["pos_img"], io_.loadmat(tmp_path / "x.mat")["pos_img"]
        )


def test_mat_lies_are_refused():
    good = matrix("pos_img", RANDOM.random((2, 3)))
    whole = mat_file(good)
    for cut in (*range(0, 128, 9), *range(129, len(whole))):
        with pytest.raises(ValueError, match=r"."):
            parse_mat(whole[:cut])
    sizes = whole.index(struct.pack("<ii", 2, 3))
    for lie in ((-2, -3), (2**31 - 1, 2**31 - 1), (2, 4), (0, 3)):
        with pytest.raises(ValueError, match=r"size|numbers"):
            parse_mat(whole[:sizes] + struct.pack("<ii", *lie) + whole[sizes + 8 :])
    with pytest.raises(ValueError, match=r"7\.3"):
        parse_mat(mat_file(good, version=0x0200))
    with pytest.raises(ValueError, match="level-5"):
        parse_mat(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(ValueError, match="damaged"):
        parse_mat(mat_file(struct.pack("<II", 15, 8) + b"nonsense"))


def test_mat_bombs_are_not_inflated(monkeypatch):
    monkeypatch.setattr("pixeltrail.data.matlab.MAX_BYTES", 1 << 20)
    bomb = packed(element(14, bytes(8 << 20)))
    with pytest.raises(ValueError, match="hold more than"):
        parse_mat(mat_file(bomb))
    with pytest.raises(ValueError, match="hold more than"):  # together, not each
        parse_mat(mat_file(*[packed(matrix("a", np.zeros((300, 300))))] * 3))


def test_mat_damage_raises_one_kind():
    whole = bytearray(mat_file(packed(matrix("a", RANDOM.random((3, 4)))), matrix("b", RANDOM.random((3, 4)))))
    for _ in range(3000):
        bad = bytearray(whole)
        for at in RANDOM.integers(0, len(bad), 3):
            bad[at] = RANDOM.integers(0, 256)
        try:
            parse_mat(bytes(bad))
        except ValueError:
            continue


# JHMDB


@pytest.fixture
def jhmdb(tmp_path) -> Path:
    """Two test clips of three frames of 32 x 24, and one for training."""
    for name, use in (("a", 2), ("b", 2), ("c", 1)):
        joints = np.full((2, 15, 3), 9.0) + np.arange(15)[None, :, None]
        joints[0] += np.arange(3)  # one pixel to the right each frame
        folder = tmp_path / "joint_positions/run" / name
        folder.mkdir(parents=True)
        (folder / "joint_positions.mat").write_bytes(mat_file(packed(matrix("pos_img", joints))))
        for t in range(1, 5):  # one frame more than joints
            save_image(tmp_path / f"Rename_Images/run/{name}/{t:05d}.png")
        (tmp_path / "splits").mkdir(exist_ok=True)
        with (tmp_path / "splits/run_test_split1.txt").open("a") as file:
            file.write(f"{name}.avi {use}\n")
    return tmp_path


def test_jhmdb_reads_test_clips_from_zero(jhmdb):
    clips = list(Jhmdb(jhmdb))
    assert [clip.name for clip in clips] == ["run/a", "run/b"]
    assert clips[0].joints.shape == (3, 15, 2)
    assert clips[0].joints[1, 0].tolist() == [9, 8]  # x moved on, both counted from 0
    assert len(list(clips[0].images())) == 3


def test_jhmdb_scores(jhmdb):
    report = evaluate_jhmdb(staying, Jhmdb(jhmdb))
    # Joints stand on a diagonal of 14 pixels: sizes 0.6 * 14 * sqrt(2) = 11.88 and 14; errors of 1 and 2 pixels.
    assert report.overall["PCK_instance_0.1"] == report.overall["PCK_max_0.1"] == 0.5
    assert report.overall["PCK_instance_0.2"] == report.overall["PCK_max_0.2"] == 1
    assert len(report.objects) == 15
    assert json.loads(json.dumps(report.json()))["sequences"][0]["frames"] == 3


def test_pck_is_inclusive_and_skips_frame_0_and_lost_joints():
    truth = np.zeros((3, 3, 2))
    truth[:, 1], truth[:, 2] = (30, 0), (0, 40)  # a box of 30 x 40, a diagonal of 50
    predicted = truth.copy()
    predicted[0] += 1000
    predicted[1, 0, 0] += 3  # 3 / (0.6 * 50): exactly 0.1
    predicted[2, 0] = math.nan
    instance, longest = (normalised_distances(predicted, truth, kind) for kind in ("instance", "max"))
    assert instance.shape == (2, 3)
    assert instance[0, 0] == pytest.approx(0.1)
    assert longest[0, 0] == pytest.approx(3 / 40)
    assert math.isnan(instance[1, 0])
    assert pck_by_joint([np.array([[0.1, 0.11], [math.nan, 0.0]])], 0.1).tolist() == [1, 0.5]
    # With one joint left its box has no size, and nothing is right.
    predicted[2, 1] = math.nan
    assert normalised_distances(predicted, truth)[1].tolist()[2] == math.inf


def test_joints_outside_the_frame_are_not_followed(jhmdb):
    clip = next(iter(Jhmdb(jhmdb)))
    joints = clip.joints.copy()
    joints[0, 0] = (60, 5)
    seen: list[int] = []

    def follow(frames, points):
        seen.append(len(points.xy))
        return staying(frames, points)

    evaluate_jhmdb(follow, [type(clip)(clip.name, clip.frames, joints)])
    assert seen == [14]


def test_jhmdb_says_what_is_wrong(jhmdb):
    with pytest.raises(InputError, match="no list"):
        Jhmdb(jhmdb, split=3)
    (jhmdb / "joint_positions/run/a/joint_positions.mat").write_bytes(mat_file(matrix("pos_img", np.zeros((2, 14, 3)))))
    with pytest.raises(InputError, match=r"joint_positions.mat: expected finite joints .* got \(2, 14, 3\)"):
        list(Jhmdb(jhmdb))
    (jhmdb / "splits/run_test_split1.txt").write_text("../../a.avi 2\n")
    with pytest.raises(InputError, match="lines like CLIP"):
        Jhmdb(jhmdb)


# BADJA


def badja_entry(frame: str, joints: list, visible: list) -> dict:
    return {
        "image_path": f"DAVIS/JPEGImages/Full-Resolution/dog/{frame}.jpg",
        "segmentation_path": f"DAVIS/Annotations/Full-Resolution/dog/{frame}.png",
        "joints": joints, "visibility": visible,
    }  # fmt: skip


@pytest.fixture
def badja(tmp_path) -> Path:
    """A dog of 100 pixels in frames of 54 rows, a twentieth of the annotated 1080."""
    davis = tmp_path / "davis"
    mask = np.zeros((54, 96), np.uint8)
    mask[10:20, 10:20] = 255
    for t in range(5):
        save_image(davis / f"JPEGImages/480p/dog/{t:05d}.jpg", (54, 96))
        path = davis / f"Annotations/480p/dog/{t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    entries = [
        badja_entry("00001", [[200, 400], [300, 500], [0, 0]], [True, True, False]),
        badja_entry("00003", [[200, 440], [300, 541], [100, 100]], [True, True, True]),
    ]
    (tmp_path / "dog.json").write_text(json.dumps(entries))
    return tmp_path


def test_badja_from_the_first_annotated_frame(badja):
    (video,) = Badja(badja, frames=badja / "davis")
    assert [path.stem for path in video.frames] == ["00001", "00002", "00003"]
    assert video.joints[0, 0].tolist() == [20, 10]  # (row, column) at 1080 rows -> (x, y)
    drawn = []

    def draw(image, xy, right):
        drawn.append((xy.tolist(), right.tolist()))
        return image

    report = evaluate_badja(staying, [video], draw=draw)
    # 0.2 * sqrt(100) = 2 pixels: errors are 2 and 2.05; the third joint was not there to be followed.
    assert report.overall["PCK_0.2"] == 0.5
    assert (report.overall["PCK_1px"], report.overall["PCK_2px"], report.overall["PCK_3px"]) == (0, 0.5, 1)
    assert report.sequences[0]["joints"] == 2
    assert report.curves == [{"sequence": "dog", "object": "joints", "t": [2], "PCK_0.2": [0.5]}]
    assert drawn == [([[20, 10], [25, 15]], [True, False]), ([[22, 10], [27.05, 15]], [True, True])]
    (picture,) = report.pictures
    assert (picture["frame"], picture["PCK_0.2"]) == (2, 0.5)


def test_badja_without_a_visible_joint_has_no_score(badja):
    entries = json.loads((badja / "dog.json").read_text())
    entries[1]["visibility"] = [False, False, True]  # the third was not there to be followed
    (badja / "dog.json").write_text(json.dumps(entries))
    report = evaluate_badja(
        staying, Badja(badja, frames=badja / "davis"), draw=lambda *_: pytest.fail("nothing to draw")
    )
    assert math.isnan(report.overall["PCK_0.2"])
    assert (report.sequences[0]["joints"], report.curves[0]["t"], report.pictures) == (0, [], [])
    assert report.json()["overall"]["PCK_0.2"] is None


def test_badja_says_what_is_wrong(badja):
    with pytest.raises(InputError, match="frames of none of dog"):
        Badja(badja)
    with pytest.raises(InputError, match=r"frames are missing"):
        Badja(badja, ["dog"])
    with pytest.raises(UnknownNameError, match="there are dog"):
        Badja(badja, ["cat"])
    entry = badja_entry("00001", [[1, 2]], [True]) | {"image_path": "../../secret.jpg"}
    (badja / "dog.json").write_text(json.dumps([entry]))
    with pytest.raises(InputError, match="no path inside the data set"):
        Badja(badja)
    (badja / "dog.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not annotations of BADJA"):
        Badja(badja)


def test_badja_on_davis(real_data):
    videos = list(Badja(real_data / "points/badja", frames=real_data / "davis-dev"))
    assert [video.name for video in videos] == ["bear", "dog-agility", "horsejump-low"]
    for video in videos:
        on_animal = 0
        for joints, visible, mask in zip(video.joints, video.visible, video.masks, strict=True):
            ids = np.asarray(Image.open(mask).convert("L"))
            x, y = joints[visible].round().astype(int).T
            on_animal += (ids[y.clip(0, 479), x.clip(0, 853)] > 0).sum()
        assert on_animal > 0.75 * video.visible.sum()  # some lie on its outline
    report = evaluate_badja(staying, videos)
    assert 0 < report.overall["PCK_0.2"] < 0.5
