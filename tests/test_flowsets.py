"""Readers of the benchmarks: the published layouts with their conventions, the real folders, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixeltrail.data.flowfile import FlowField, write_flow
from pixeltrail.data.flowsets import DATASETS, FlowSet, flow_set
from pixeltrail.errors import InputError, UnknownNameError

H, W = 6, 8


def picture(path: Path, value: int | np.ndarray = 7, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8) if isinstance(value, int) else value
    Image.fromarray(pixels).save(path)


def flow(path: Path, value: float = 1, valid: np.ndarray | None = None, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_flow(path, np.full((*size, 2), value, np.float32), valid)


def names(pairs: FlowSet) -> list[str]:
    return [pair.name for pair in pairs]


def mask(*at: tuple[int, int]) -> np.ndarray:
    found = np.zeros((H, W), bool)
    for y, x in at:
        found[y, x] = True
    return found


@pytest.mark.parametrize(
    ("name", "root", "pairs", "size"),
    [
        ("sintel", "sintel", ["alley_1/frame_0001", "alley_1/frame_0002", "cave_2/frame_0002"], (436, 1024)),
        ("kitti", "kitti", ["000000_10"], (375, 1242)),
        ("middlebury", "middlebury", ["RubberWhale/flow10"], (388, 584)),
        ("chairs", "chairs", [f"000000{i}" for i in range(6)], (384, 512)),
        ("folder", "pwcnet-reference", ["frame_0010"], (436, 1024)),
    ],
)
def test_real_folders(real_data: Path, name: str, root: str, pairs: list[str], size: tuple[int, int]):
    found = flow_set(name, real_data / "flow" / root)
    assert names(found) == pairs
    for pair in (found.pairs[0], found.pairs[-1]):
        first, second = pair.images()
        assert first.shape == second.shape == (*size, 3)
        assert (first != second).any()
        truth = pair.truth()
        assert truth.flow.shape == (*size, 2)
        assert truth.valid.any()


def test_real_sintel_masks(real_data: Path):
    """Frame 2 has masks, frame 1 has none; final shows other pictures with the same truth."""
    clean, final = (flow_set("sintel", real_data / "flow" / "sintel", split) for split in ("clean", "final"))
    assert names(clean) == names(final)
    first, second, cave = (pair.truth() for pair in clean)
    assert first.occluded is None
    assert 0.01 < second.occluded.mean() < 0.1
    assert 0.01 < cave.occluded.mean() < 0.2
    assert (clean.pairs[2].images()[0] != final.pairs[2].images()[0]).any()
    assert np.array_equal(final.pairs[2].truth().flow, cave.flow)
    again = flow_set("sintel", real_data / "flow" / "sintel" / "training")
    assert [p.first for p in again] == [p.first for p in clean]


def test_sintel(tmp_path: Path):
    base = tmp_path / "training"
    for t in (1, 2, 3):
        picture(base / "clean" / "b_1" / f"frame_000{t}.png", t)
    for t in (1, 2):
        flow(base / "flow" / "b_1" / f"frame_000{t}.flo", t)
    picture(base / "occlusions" / "b_1" / "frame_0001.png", 255 * mask((0, 1)).astype(np.uint8))
    picture(base / "invalid" / "b_1" / "frame_0001.png", 255 * mask((2, 3)).astype(np.uint8))
    found = flow_set("sintel", tmp_path)
    assert names(found) == ["b_1/frame_0001", "b_1/frame_0002"]
    assert found.averaging == "pixels"
    assert [p.second.name for p in found] == ["frame_0002.png", "frame_0003.png"]
    truth = found.pairs[0].truth()
    assert np.array_equal(truth.occluded, mask((0, 1)))
    assert np.array_equal(truth.valid, ~mask((2, 3)))
    assert (found.pairs[1].truth().flow == 2).all()
    with pytest.raises(InputError, match="training/final: no such folder; expected training/final/SCENE"):
        flow_set("sintel", tmp_path, "final")
    with pytest.raises(UnknownNameError, match="did you mean 'clean'"):
        flow_set("sintel", tmp_path, "claen")
    picture(base / "occlusions" / "b_1" / "frame_0001.png", size=(H, W + 1))
    with pytest.raises(InputError, match="the mask is 9x6, the flow 8x6"):
        found.pairs[0].truth()
    (base / "clean" / "b_1" / "frame_0003.png").unlink()
    with pytest.raises(InputError, match=r"frame_0003\.png: the frame is missing"):
        flow_set("sintel", tmp_path)


@pytest.mark.parametrize(("images", "averaging"), [("image_2", "pixels"), ("colored_0", "pairs"), ("image_0", "pairs")])
def test_kitti(tmp_path: Path, images: str, averaging: str):
    """Occluded is what flow_occ knows and flow_noc does not; each year has its own mean."""
    base = tmp_path / "training"
    for n in ("000007_10", "000007_11"):
        path = base / images / f"{n}.png"
        picture(path)
        if images == "image_0":
            Image.open(path).convert("L").save(path)
    flow(base / "flow_occ" / "000007_10.png", 2.5, mask((1, 1), (2, 2)))
    found = flow_set("kitti", tmp_path)
    assert names(found) == ["000007_10"]
    assert found.averaging == averaging
    truth = found.pairs[0].truth()
    assert truth.occluded is None
    assert truth.flow[1, 1].tolist() == [2.5, 2.5]
    assert np.array_equal(truth.valid, mask((1, 1), (2, 2)))
    assert found.pairs[0].images()[0].shape == (H, W, 3)
    flow(base / "flow_noc" / "000007_10.png", 2.5, mask((1, 1)))
    assert np.array_equal(found.pairs[0].truth().occluded, mask((2, 2)))
    flow(base / "flow_noc" / "000007_10.png", size=(H, W + 1))
    with pytest.raises(InputError, match="not of the size of flow_occ"):
        found.pairs[0].truth()
    with pytest.raises(UnknownNameError):
        flow_set("kitti", tmp_path, "clean")


def test_hd1k(tmp_path: Path):
    for t in (8, 9, 10):
        picture(tmp_path / "hd1k_input" / "image_2" / f"000003_{t:04}.png", t)
        flow(tmp_path / "hd1k_flow_gt" / "flow_occ" / f"000003_{t:04}.png", t)
    found = flow_set("hd1k", tmp_path)
    assert names(found) == ["000003_0008", "000003_0009"]
    assert found.pairs[1].second.name == "000003_0010.png"
    assert (found.pairs[1].truth().flow == 9).all()


def test_middlebury(tmp_path: Path):
    for n in (9, 10, 11):
        picture(tmp_path / "other-data" / "Dime" / f"frame{n:02}.png", n)
    flow(tmp_path / "other-gt-flow" / "Dime" / "flow10.flo", 3, ~mask((0, 0)))
    found = flow_set("middlebury", tmp_path)
    assert names(found) == ["Dime/flow10"]
    assert found.averaging == "pairs"
    assert [image[0, 0, 0] for image in found.pairs[0].images()] == [10, 11]
    assert np.array_equal(found.pairs[0].truth().valid, ~mask((0, 0)))


def test_chairs(tmp_path: Path):
    for i in (1, 2, 3):
        for n in (1, 2):
            picture(tmp_path / "data" / f"0000{i}_img{n}.ppm", 10 * i + n)
        flow(tmp_path / "data" / f"0000{i}_flow.flo", i)
    assert names(flow_set("chairs", tmp_path)) == ["00001", "00002", "00003"]
    with pytest.raises(InputError, match="the split 'val' stands in it"):
        flow_set("chairs", tmp_path, "val")
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n")
    assert names(flow_set("chairs", tmp_path, "train")) == ["00001", "00003"]
    assert names(flow_set("chairs", tmp_path)) == ["00002"]
    assert names(flow_set("chairs", tmp_path / "data")) == ["00002"]
    assert len(flow_set("chairs", tmp_path, "all")) == 3
    pair = flow_set("chairs", tmp_path).pairs[0]
    assert [image[0, 0, 0] for image in pair.images()] == [21, 22]
    assert (pair.truth().flow == 2).all()
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n")
    with pytest.raises(InputError, match="a 1 or a 2 for each of 3 pairs, got 2"):
        flow_set("chairs", tmp_path)


def test_things(tmp_path: Path):
    scene = Path("TRAIN") / "A" / "0000"
    for t in (6, 7):
        picture(tmp_path / "frames_finalpass" / scene / "right" / f"{t:04}.png", t)
        for way, word in (("into_future", "Future"), ("into_past", "Past")):
            file = f"OpticalFlowInto{word}_{t:04}_R.pfm"
            flow(tmp_path / "optical_flow" / scene / way / "right" / file, t)
    found = flow_set("things", tmp_path, "final")
    assert [(p.first.name, p.second.name) for p in found] == [("0006.png", "0007.png"), ("0007.png", "0006.png")]
    assert names(found)[1] == "TRAIN/A/0000/into_past/right/OpticalFlowIntoPast_0007_R"
    assert (found.pairs[1].truth().flow == 7).all()


def test_spring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Four true values a pixel; unknown if one of them is; backwards in time; the match map."""
    scene = tmp_path / "train" / "0002"
    for t in (1, 2):
        picture(scene / "frame_left" / f"frame_left_000{t}.png", t)
    stored: dict[str, FlowField] = {}
    monkeypatch.setattr("pixeltrail.data.flowsets.read_flow", lambda path: stored[path.name])  # h5py is an extra
    values = np.arange(4 * H * W * 2, dtype=np.float32).reshape(2 * H, 2 * W, 2)
    valid = np.ones((2 * H, 2 * W), bool)
    valid[3, 5] = False
    for part, t in (("FW", 1), ("BW", 2)):
        file = scene / f"flow_{part}_left" / f"flow_{part}_left_000{t}.flo5"
        file.parent.mkdir()
        file.touch()
        stored[file.name] = FlowField(values, valid)
    marks = np.zeros((H, W, 3), np.uint8)
    marks[0, 0, 0] = marks[1, 1, 1] = marks[2, 2, 2] = 255
    picture(scene / "maps" / "matchmap_flow_FW_left" / "matchmap_flow_FW_left_0001.png", marks)
    found = flow_set("spring", tmp_path)
    assert names(found) == ["0002/flow_BW_left/flow_BW_left_0002", "0002/flow_FW_left/flow_FW_left_0001"]
    back, ahead = found
    assert [back.first.name, back.second.name] == ["frame_left_0002.png", "frame_left_0001.png"]
    assert [ahead.first.name, ahead.second.name] == ["frame_left_0001.png", "frame_left_0002.png"]
    truth = ahead.truth()
    assert np.array_equal(truth.flow, values[::2, ::2])
    assert truth.samples.shape == (4, H, W, 2)
    assert sorted(truth.samples[:, 2, 1, 0]) == sorted(values[4:6, 2:4, 0].ravel())
    assert np.array_equal(truth.valid, ~mask((1, 2)))
    assert np.array_equal(truth.occluded, mask((0, 0), (1, 1)))
    assert back.truth().occluded is None
    stored["flow_FW_left_0001.flo5"] = FlowField(values[::2, ::2].copy(), valid[::2, ::2])
    assert ahead.truth().samples.shape == (1, H, W, 2)
    stored["flow_FW_left_0001.flo5"] = FlowField(values[1:], valid[1:])
    with pytest.raises(InputError, match="is 16x11, expected twice"):
        ahead.truth()


def test_spring_files(tmp_path: Path):
    pytest.importorskip("h5py")
    for t in (1, 2):
        picture(tmp_path / "0002" / "frame_left" / f"frame_left_000{t}.png", t)
    flow(tmp_path / "0002" / "flow_FW_left" / "flow_FW_left_0001.flo5", 3, size=(2 * H, 2 * W))
    (pair,) = flow_set("spring", tmp_path)
    assert (pair.truth().samples == 3).all()


def test_own_folder(tmp_path: Path):
    for t in (9, 10, 11):
        picture(tmp_path / f"im{t}.png", t)
    flow(tmp_path / "im9.flo", 9)
    flow(tmp_path / "truth_im10.npz", 10)
    found = flow_set("folder", tmp_path)
    assert names(found) == ["im9", "im10"]
    assert [p.second.name for p in found] == ["im10.png", "im11.png"]
    assert (found.pairs[1].truth().flow == 10).all()
    assert (found.pairs[0].prediction(tmp_path).flow == 9).all()
    flow(tmp_path / "im9.npz", 99)
    (tmp_path / "im9.flo").unlink()
    assert (found.pairs[0].prediction(tmp_path).flow == 99).all()  # not the picture of this name
    with pytest.raises(InputError, match=r"other/im10\.flo: the prediction is missing"):
        found.pairs[1].prediction(tmp_path / "other")
    flow(tmp_path / "im11.flo", 1)
    with pytest.raises(InputError, match=r"im11\.png is the last frame"):
        flow_set("folder", tmp_path)
    flow(tmp_path / "im11.flo", 1)
    (tmp_path / "im11.flo").rename(tmp_path / "other.flo")
    with pytest.raises(InputError, match=r"other\.flo: no frame beside it"):
        flow_set("folder", tmp_path)


def test_sizes_that_differ(tmp_path: Path):
    picture(tmp_path / "a1.png")
    picture(tmp_path / "a2.png", size=(H, W + 2))
    flow(tmp_path / "a1.flo", size=(H + 1, W))
    (pair,) = flow_set("folder", tmp_path)
    with pytest.raises(InputError, match=r"a2\.png: is 10x6, a1\.png is 8x6"):
        pair.images()
    with pytest.raises(InputError, match=r"a1\.png: is 8x6, its true flow 8x7"):
        pair.truth()


@pytest.mark.parametrize("name", DATASETS)
def test_wrong_folders(tmp_path: Path, name: str):
    """What was expected is said, whether nothing is there or only the folders."""
    with pytest.raises(InputError, match="expected"):
        flow_set(name, tmp_path / "missing")
    with pytest.raises(InputError, match="expected"):
        flow_set(name, tmp_path)
    for folder in ("training/clean", "training/flow", "training/image_2", "training/flow_occ", "other-data", "train",
                   "other-gt-flow", "frames_cleanpass", "optical_flow"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(InputError, match="expected"):
        flow_set(name, tmp_path)


def test_unknown_names(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="did you mean 'kitti'"):
        flow_set("kiti", tmp_path)
    with pytest.raises(UnknownNameError, match="there are sintel, kitti"):
        flow_set("zzz", tmp_path)
