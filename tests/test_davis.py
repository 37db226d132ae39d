"""Finding DAVIS folders and reading them: both years' layouts, results, and what is wrong with a folder in one line."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixeltrail.data.davis import Davis, read_ids
from pixeltrail.errors import InputError, UnknownNameError

PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[7] * 759]


def save_ids(path: Path, ids: np.ndarray, *, indexed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if indexed:
        image.putpalette(PALETTE)
    image.save(path)


def multi_object(t: int) -> np.ndarray:
    ids = np.zeros((20, 30), np.uint8)
    ids[2:8, 2 + t : 8 + t], ids[12:18, 5:11], ids[0] = 1, 2, 255
    return ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequences "cat" (binary) and "duo" (two objects and void) of four frames, and no list."""
    for t in range(4):
        binary = np.where(multi_object(t) == 1, 255, 0).astype(np.uint8)
        save_ids(tmp_path / f"Annotations/480p/cat/{t:05d}.png", binary, indexed=False)
        save_ids(tmp_path / f"Annotations/480p/duo/{t:05d}.png", multi_object(t))
        for name in ("cat", "duo"):
            path = tmp_path / f"JPEGImages/480p/{name}/{t:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 30, 3), (200, 40 * t, 0), np.uint8)).save(path)
    return tmp_path


def add_list(root: Path, name: str, *lines: str) -> None:
    path = root / "ImageSets" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n\n")


def names(davis: Davis) -> list[str]:
    return [sequence.name for sequence in davis]


def test_davis_dev(real_data):
    davis = Davis(real_data / "davis-dev")
    assert len(davis) == 10
    assert names(davis)[0] == "bear"
    assert all(sequence.binary for sequence in davis)
    bear = next(iter(davis))
    assert len(bear.frames) == len(bear.annotations) == 82
    assert bear.frame_names[77] == "00077"
    grey_alpha = read_ids(bear.annotations[77], binary=True)  # the one file of mode LA
    assert grey_alpha.shape == (480, 854)
    assert np.unique(grey_alpha).tolist() == [0, 1]
    frame = next(bear.images())
    assert frame.shape == (480, 854, 3)
    assert frame.dtype == np.uint8


def test_every_folder_without_a_list(root):
    cat, duo = Davis(root)
    assert (cat.name, duo.name) == ("cat", "duo")
    assert (cat.binary, duo.binary) == (True, False)
    assert cat.first().objects == (1,)
    assert duo.first().objects == (1, 2)
    for t, (ids, image) in enumerate(zip(duo.truth(), duo.images(), strict=True)):
        np.testing.assert_array_equal(ids, multi_object(t))
        assert abs(int(image[10, 10, 1]) - 40 * t) < 4


def test_lists(root):
    add_list(root, "dev", "duo")
    assert names(Davis(root)) == ["duo"]
    add_list(root, "2016/val", "/JPEGImages/480p/duo/00000.jpg /Annotations/480p/duo/00000.png",
             "/JPEGImages/480p/duo/00001.jpg /Annotations/480p/duo/00001.png")  # fmt: skip
    of_2016 = Davis(root)
    assert names(of_2016) == ["duo"]
    assert next(iter(of_2016)).binary
    assert next(iter(of_2016)).first().objects == (1,)
    add_list(root, "2017/val", "duo", "cat")
    assert names(Davis(root)) == ["duo", "cat"]
    assert not next(iter(Davis(root))).binary
    assert names(Davis(root, split="dev")) == ["duo"]
    assert names(Davis(root, ["cat"], split="dev")) == ["cat"]


def test_resolutions(root):
    (root / "JPEGImages/480p").rename(root / "JPEGImages/Full-Resolution")
    (root / "Annotations/480p").rename(root / "Annotations/Full-Resolution")
    assert len(Davis(root)) == 2
    with pytest.raises(UnknownNameError, match="did you mean 'Full-Resolution'"):
        Davis(root, resolution="full-resolution")


def test_numbers_with_gaps_and_without_zeros(root):
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        for t in range(4):
            folder = root / kind / "480p" / "duo"
            (folder / f"{t:05d}.{suffix}").rename(folder / f"{5 * t}.{suffix}")
    (duo,) = Davis(root, ["duo"])
    assert duo.frame_names == ["0", "5", "10", "15"]
    np.testing.assert_array_equal(list(duo.truth())[2], multi_object(2))


def refuses(message: str, *arguments, **settings) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Davis(*arguments, **settings)
    assert "\n" not in str(caught.value)


def test_bad_folders(root, tmp_path):
    refuses(r"nowhere: no such folder; a DAVIS root holds JPEGImages/480p", tmp_path / "nowhere")
    refuses(r"480p/JPEGImages: no such folder; a DAVIS root", root / "Annotations/480p")
    refuses(r"no sequence 'cap'; did you mean 'cat'\?", root, ["cap"])
    refuses(r"no sequence '\.\./cat'", root, ["../cat"])
    refuses(r"no list 'val'; there are none", root, split="val")
    add_list(root, "one", "cat")
    add_list(root, "two", "duo")
    refuses(r"several lists; choose the split: one, two", root)
    refuses(r"no list 'twoo'; did you mean 'two'\?", root, split="twoo")
    add_list(root, "empty", "")
    refuses(r"empty.txt: names no sequence", root, split="empty")
    (root / "ImageSets/one.txt").write_bytes(b"\xff\xfe\x00")
    refuses(r"one.txt: not a readable list", root, split="one")
    (root / "Annotations/480p/cat/00002.png").unlink()
    refuses(r"cat/00002.png: the annotation is missing", root, ["cat"])
    for frame in (root / "JPEGImages/480p/cat").iterdir():
        frame.unlink()
    refuses(r"JPEGImages/480p/cat: no frames", root, ["cat"])


def test_results(root, tmp_path):
    cat, duo = Davis(root)
    out = tmp_path / "out"
    for t, sequence in itertools.product((1, 2), (cat, duo)):
        ids = next(itertools.islice(sequence.truth(), t, None))
        save_ids(out / sequence.name / f"{t:05d}.png", ids * np.uint8(255) if sequence.binary else ids)
    for sequence in (cat, duo):
        ours, truth = list(sequence.results(out)), list(sequence.truth())
        assert len(ours) == 4
        np.testing.assert_array_equal(ours[1:3], truth[1:3])
        assert not ours[0].any()  # the ends are neither opened nor needed, as by the official evaluator

    save_ids(out / "cat/00001.png", np.zeros((20, 31), np.uint8))
    with pytest.raises(InputError, match=r"cat/00001.png: frame 1: the mask is 31x20, the annotation 30x20"):
        list(cat.results(out))
    (out / "duo/00002.png").unlink()
    with pytest.raises(InputError, match=r"duo/00002.png: frame 2: the mask is missing"):
        list(duo.results(out))
    with pytest.raises(InputError, match=r"elsewhere/duo: no such folder"):
        list(duo.results(tmp_path / "elsewhere"))


def test_kinds_of_mask_files(tmp_path):
    ids = multi_object(1)
    save_ids(tmp_path / "indexed.png", ids)
    save_ids(tmp_path / "grey.png", ids, indexed=False)
    Image.fromarray(np.stack([ids] * 3, -1)).save(tmp_path / "equal-channels.png")
    Image.fromarray(np.stack([ids, ids // 2], -1), "LA").save(tmp_path / "alpha.png")
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_ids(path), ids)
        np.testing.assert_array_equal(read_ids(path, binary=True), ids > 0)
    Image.fromarray(ids > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "bits.png"), ids > 0)


def test_bad_mask_files(tmp_path):
    ids = np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)
    Image.fromarray(np.stack([ids, ids, ids // 2], -1)).save(tmp_path / "colour.png")
    Image.fromarray(ids.astype(np.uint16)).save(tmp_path / "deep.png")
    save_ids(tmp_path / "whole.png", ids)
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-300])
    (tmp_path / "text.png").write_text("no image")
    for name, message in (
        ("colour", "in colour"), ("deep", "mode I;16"), ("cut", "damaged"), ("text", "image"), ("none", "exist")
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"{name}\.png: .*{message}") as caught:
            read_ids(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)
