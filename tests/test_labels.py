"""Labels keep their ids through every format, and what cannot be read says why in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pixeltrail.data import rle
from pixeltrail.data.labels import parse_box, read_labels, read_points, write_labels
from pixeltrail.errors import InputError
from pixeltrail.types import LabelMap, davis_palette


def squares(*ids: int, size: tuple[int, int] = (40, 60)) -> NDArray[np.uint8]:
    """Background with one 8x8 square for each id."""
    labels = np.zeros(size, np.uint8)
    for k, number in enumerate(ids):
        labels[4:12, 1 + 10 * k : 9 + 10 * k] = number
    return labels


def save(path: Path, array: NDArray[np.generic], mode: str | None = None) -> Path:
    image = PIL.Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def refused(path: Path, *words: str, size: tuple[int, int] | None = None) -> None:
    with pytest.raises(InputError) as caught:
        read_labels(path, size)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert all(word in message for word in words), message


# Images


def test_palette() -> None:
    palette = davis_palette()
    assert palette.shape == (256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 255: (224, 224, 192)}
    assert {i: tuple(int(v) for v in palette[i]) for i in known} == known
    assert len(np.unique(palette, axis=0)) == 256


def test_palette_is_that_of_published_masks(real_data: Path) -> None:
    path = next(iter(sorted((real_data / "multi-object").rglob("*.png"))))
    with PIL.Image.open(path) as image:
        published = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        ids = np.asarray(image)
    assert (published[: ids.max() + 1] == davis_palette()[: ids.max() + 1]).all()
    assert (read_labels(path).ids == ids).all()


@given(
    ids=hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 1, 2, 7, 254, 255]),
    )
)
def test_written_labels_read_back(tmp_path_factory: pytest.TempPathFactory, ids: NDArray[np.uint8]) -> None:
    path = tmp_path_factory.mktemp("labels") / "mask.png"
    write_labels(path, LabelMap(ids))
    with PIL.Image.open(path) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == ids).all()
    if LabelMap(ids).objects:
        assert (read_labels(path, ids.shape).ids == ids).all()


@pytest.mark.parametrize(("mode", "value"), [
    *((mode, value) for mode in ("L", "LA", "RGB", "RGBA") for value in (1, 3, 128, 255)),
    ("P", 255), ("1", 255), ("I;16", 1), ("I;16", 200),
])  # fmt: skip
def test_one_value_is_object_one(tmp_path: Path, mode: str, value: int) -> None:
    mask = squares(value)
    if mode == "P":
        write_labels(tmp_path / "mask.png", LabelMap(mask))
        path = tmp_path / "mask.png"
    elif mode == "I;16":
        path = save(tmp_path / "mask.png", mask.astype(np.uint16))
    else:
        path = save(tmp_path / "mask.png", mask, mode)
    assert (read_labels(path).ids == (mask > 0)).all()


def test_real_binary_masks_are_object_one(real_data: Path) -> None:
    folder = real_data / "davis-dev" / "Annotations" / "480p" / "bear"
    for name in ("00000.png", "00077.png"):  # 00077 has mode LA
        labels = read_labels(folder / name, (480, 854))
        assert labels.objects == (1,)
        with PIL.Image.open(folder / name) as image:
            mask = np.asarray(image)
        assert (labels.ids == (mask.reshape(480, 854, -1)[..., 0] > 0)).all()


def test_grey_values_are_ids(tmp_path: Path) -> None:
    labels = squares(1, 2, 9, 255)
    assert (read_labels(save(tmp_path / "ids.png", labels)).ids == labels).all()
    assert (read_labels(save(tmp_path / "deep.png", squares(1, 2, 9).astype(np.uint16))).ids == squares(1, 2, 9)).all()
    soft = squares(255, 255)
    soft[12, 1:9], soft[3, 1:9] = 40, 200  # soft edges
    assert (read_labels(save(tmp_path / "soft.png", soft)).ids == (soft >= 128)).all()


def test_colours_are_objects(tmp_path: Path) -> None:
    labels = squares(2, 5, 1, 254)
    assert (read_labels(save(tmp_path / "davis.png", davis_palette()[labels])).ids == labels).all()
    pure = np.zeros((40, 60, 3), np.uint8)
    pure[labels == 2], pure[labels == 5], pure[labels == 1] = (255, 0, 0), (0, 0, 255), (0, 255, 0)
    wanted = np.select([labels == 2, labels == 5, labels == 1], [3, 1, 2])  # blue < green < red
    assert (read_labels(save(tmp_path / "pure.png", pure)).ids == wanted).all()
    clear = np.dstack([pure, np.where(labels == 5, 0, 255).astype(np.uint8)])
    assert read_labels(save(tmp_path / "clear.png", clear)).objects == (1, 2)


def test_a_folder_has_one_object_in_each_file(tmp_path: Path) -> None:
    save(tmp_path / "object10.png", squares(0, 0, 255))
    save(tmp_path / "object2.png", squares(0, 255, 255))
    save(tmp_path / "object1.png", squares(255))
    assert (read_labels(tmp_path, (40, 60)).ids == squares(1, 2, 3)).all()  # the later covers the earlier
    save(tmp_path / "object3.png", squares(255, size=(30, 60)))
    with pytest.raises(InputError, match=r"object3\.png: is 60x30 but object1\.png is 60x40"):
        read_labels(tmp_path)


def test_bad_masks_are_refused(tmp_path: Path, real_data: Path) -> None:
    refused(save(tmp_path / "empty.png", squares()), "no object")
    refused(save(tmp_path / "size.png", squares(255)), "60x40", "854x480", "nearest", size=(480, 854))
    refused(save(tmp_path / "deep.png", squares(1).astype(np.uint16) * 300), "16-bit", "300")
    refused(tmp_path / "missing.png", "does not exist")
    refused(real_data / "davis-dev" / "JPEGImages" / "480p" / "bear" / "00000.jpg", "photograph")
    (tmp_path / "text.png").write_text("no image")
    refused(tmp_path / "text.png")
    whole = (tmp_path / "size.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:60])
    refused(tmp_path / "cut.png")
    (tmp_path / "nothing").mkdir()
    refused(tmp_path / "nothing", "no masks")
    grey = np.random.default_rng(0).integers(0, 250, (40, 60), np.uint8)
    refused(save(tmp_path / "grey.png", grey), "photograph")


# JSON


def test_run_length_codes(tmp_path: Path) -> None:
    masks = [squares(1) > 0, squares(0, 1) > 0]
    codes = [rle.encode(mask) for mask in masks]
    listed = [{"category_id": 7, "segmentation": codes[0]}, {"category_id": 3, "segmentation": codes[1]}]
    assert (read_labels(write_json(tmp_path / "a.json", listed), (40, 60)).ids == squares(7, 3)).all()
    listed[1]["category_id"] = 7  # two of one kind are still two objects
    assert (read_labels(write_json(tmp_path / "a.json", listed)).ids == squares(1, 2)).all()
    assert (read_labels(write_json(tmp_path / "b.json", codes[0])).ids == squares(1)).all()
    plain = {"segmentation": {"size": [2, 3], "counts": [2, 2, 2]}}
    assert read_labels(write_json(tmp_path / "c.json", plain)).ids.tolist() == [[0, 1, 0], [0, 1, 0]]


def test_polygons(tmp_path: Path) -> None:
    square = [1, 4, 9, 4, 9, 12, 1, 12]
    coco = {
        "images": [{"id": 3, "height": 40, "width": 60}, {"id": 4, "height": 9, "width": 9}],
        "annotations": [
            {"id": 11, "image_id": 3, "segmentation": [square]},
            {"id": 12, "image_id": 4, "segmentation": [[0, 0, 5, 0, 5, 5]]},
            {"id": 13, "image_id": 3, "segmentation": [[v + 10 * (i % 2 == 0) for i, v in enumerate(square)]]},
        ],
    }
    got = read_labels(write_json(tmp_path / "coco.json", coco), (40, 60)).ids
    inside = squares(11, 13)[5:11]
    assert got[5:11, 2:8].tolist() == inside[:, 2:8].tolist()
    assert (got != squares(11, 13)).sum() <= 2 * 34  # at most one pixel more around each
    shapes = [
        {"label": "dog", "points": [[1, 4], [9, 12]], "shape_type": "rectangle"},
        {"label": "cat", "points": [[15, 8], [18, 8]], "shape_type": "circle"},
        {"label": "dog", "points": [[40, 20], [50, 20], [50, 30]], "shape_type": "polygon"},
    ]
    labelme = {"imageHeight": 40, "imageWidth": 60, "shapes": shapes}
    got = read_labels(write_json(tmp_path / "labelme.json", labelme)).ids
    assert (got[8, 5], got[8, 15], got[22, 48], got[35, 5]) == (1, 2, 1, 0)
    assert (got == 2).sum() == pytest.approx(np.pi * 9, abs=12)


@pytest.mark.parametrize("content", [
    [], {}, 5, "text", None, [5], [{}], [{"segmentation": 5}], [{"segmentation": [[1, 2]]}],
    {"segmentation": [[0, 0, 1e300, 0, 5, 5]]}, {"segmentation": [[0, 0, float("nan"), 0, 5, 5]]},
    {"segmentation": {"size": [10**9, 10**9], "counts": "00"}}, {"segmentation": {"size": [4, 4], "counts": [10**12]}},
    {"segmentation": {"size": [4, 4], "counts": [-1, 17]}}, {"segmentation": {"size": [4, 4], "counts": "\u00e9"}},
    {"segmentation": {"size": [4], "counts": [16]}}, {"segmentation": {"size": [4, 4], "counts": [[16]]}},
    {"shapes": [{"label": "a", "points": [[1, 2]], "shape_type": "point"}], "imageHeight": 9, "imageWidth": 9},
    {"shapes": 3}, {"annotations": [1], "images": [{"height": -3, "width": 4}]},
    {"annotations": [], "images": []}, {"segmentation": [[10**400, 1, 2, 3, 4, 5]]},
])  # fmt: skip
def test_bad_json_is_refused(tmp_path: Path, content: object) -> None:
    refused(write_json(tmp_path / "mask.json", content), size=(40, 60))


def test_text_that_is_no_json(tmp_path: Path) -> None:
    for content in (b"{", b"[" * 100_000, b"\xff\xfe", b""):
        (tmp_path / "mask.json").write_bytes(content)
        refused(tmp_path / "mask.json")


# Run-length codes


@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_rle_round_trip(mask: NDArray[np.bool_]) -> None:
    code = json.loads(json.dumps(rle.encode(mask)))
    assert (rle.decode(code) == mask).all()


@given(counts=st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_rle_of_long_runs(counts: list[int]) -> None:
    total = max(sum(counts), 1)
    mask = rle.decode({"size": [1, total], "counts": counts if sum(counts) else [1]})
    code = rle.encode(mask)
    assert (rle.decode(code) == mask).all()
    assert mask.sum() == sum(counts[1::2])


def test_rle_strings_are_those_of_coco() -> None:
    """Worked out by hand from COCO's format: 40 = 8 + 1·32 is "X1"; 57 - 19 = 38 = 6 + 1·32 is "V1"."""
    mask = np.zeros((4, 3), bool)
    mask[2:4, 1] = True
    assert rle.encode(mask) == {"size": [4, 3], "counts": "624"}  # 6, 2, 4
    flat = np.zeros(120, bool)
    flat[40:41] = flat[60:63] = True  # 40, 1, 19, 3, 57: written 40, 1, 19, 3 - 1, 57 - 19
    assert rle.encode(flat.reshape((10, 12), order="F"))["counts"] == "X11c02V1"


@given(text=st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=40), side=st.integers(1, 30))
def test_hostile_rle_is_refused_or_decoded(text: str, side: int) -> None:
    try:
        mask = rle.decode({"size": [side, side], "counts": text})
    except InputError:
        return
    assert mask.shape == (side, side)


# Points and boxes


def test_points(tmp_path: Path) -> None:
    table, nested = tmp_path / "points.csv", tmp_path / "points.json"
    table.write_text("1.5,2\n3,4,7,nose\n\n# a comment\n5,6,,\n")
    points = read_points(table, (10, 10))
    assert points.xy.tolist() == [[1.5, 2], [3, 4], [5, 6]]
    assert points.t.tolist() == [0, 7, 0]
    assert points.names == ("0", "nose", "2")
    table.write_text("\ufeffname;Frame;Y;X\nleft paw;2;30;40\n", "utf-8")
    points = read_points(table)
    assert (points.xy.tolist(), points.t.tolist(), points.names) == ([[40, 30]], [2], ("left paw",))
    for content in ([[1, 2], [3, 4, 5]], {"points": [{"x": 1, "y": 2}, {"x": 3, "y": 4, "frame": 5}]}):
        points = read_points(write_json(nested, content))
        assert (points.xy.tolist(), points.t.tolist()) == ([[1, 2], [3, 4]], [0, 5])


@pytest.mark.parametrize(("content", "words"), [
    ("", "no points"), ("x,y\n", "no points"), ("1\n", "line 1"), ("1,2\nx\n", "line 2"), ("1,nan\n", "line 1"),
    ("1,2,-1\n", "line 1"), ("1,2,0.5\n", "line 1"), ("1,2\n\n200,3\n", "line 3"), ("1,2,1e400", "line 1"),
])  # fmt: skip
def test_bad_points_are_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        read_points(path, (100, 100))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_bad_json_points_are_refused(tmp_path: Path) -> None:
    for content in (
        5,
        {},
        {"points": 3},
        [5],
        [[1]],
        [["a", "b"]],
        [[1, None]],
        [{"x": 1}],
        [[[1], 2]],
        [[10**400, 2]],
    ):
        with pytest.raises(InputError, match="point"):
            read_points(write_json(tmp_path / "points.json", content))


def test_boxes() -> None:
    boxes = parse_box("1, 2, 3.5, 4", "10,20,30,40")
    assert boxes.xyxy.tolist() == [[1, 2, 3.5, 4], [10, 20, 30, 40]]
    assert boxes.ids.tolist() == [1, 2]
    for bad in ("", "1,2,3", "1,2,3,x", "3,2,1,4", "1,2,3,inf", "1,2,3,4,5"):
        with pytest.raises(InputError, match="left,top,right,bottom"):
            parse_box(bad)
    with pytest.raises(InputError, match="0 boxes"):
        parse_box()
