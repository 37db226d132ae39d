"""Annotations through every format and back: what a format can hold is the same afterwards, and the rest is said."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pixeltrail import exchange
from pixeltrail.data import polygons, rle
from pixeltrail.data.annotations import (
    Annotations,
    Dot,
    Renumber,
    Row,
    Shape,
    encode,
    numbered,
    place,
)
from pixeltrail.data.davis import read_ids
from pixeltrail.errors import InputError

QUICK = settings(
    max_examples=25,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SIZE = (6, 9)
EIGHTHS = st.integers(-16, 100).map(lambda v: v / 8)
LABELS = ("object", "cat", 'a "dog" & <cow>', "zèbre, grand")


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows = draw(st.lists(st.integers(0, 2 ** size[1] - 1), min_size=size[0], max_size=size[0]))
    return np.array([[row >> x & 1 for x in range(size[1])] for row in rows], bool)


@st.composite
def annotated(draw: st.DrawFn, kinds: str = "mbp") -> Annotations:
    """A few frames with masks, boxes and points that come and go; masks of one frame do not overlap."""
    count = draw(st.integers(1, 5))
    ids = draw(st.lists(st.sampled_from((1, 2, 3, 7, 41, 254)), unique=True, max_size=4))
    boxed = {i for i in ids if "b" in kinds and ("m" not in kinds or draw(st.booleans()))}
    points = ("nose", "left eye")[: draw(st.integers(0, 2))] if "p" in kinds else ()
    confidence = st.none() | st.integers(0, 8).map(lambda v: v / 8)
    rows = []
    for t in range(count):
        if draw(st.integers(0, 4)) == 0:
            continue
        free, shapes = np.ones(SIZE, bool), []
        for i in ids:
            occluded, sure = draw(st.booleans()), draw(confidence)
            if i in boxed:
                left, top = draw(EIGHTHS), draw(EIGHTHS)
                w, h = draw(st.integers(1, 64)) / 8, draw(st.integers(1, 64)) / 8
                shapes.append(Shape(i, None, (left, top, left + w, top + h), occluded, sure))
            elif draw(st.booleans()):
                counts = encode(mask := draw(masks()) & free)
                free &= ~mask
                shapes += [Shape(i, counts, None, occluded, sure)] if counts else []
        dots = tuple(draw(st.none() | st.builds(Dot, EIGHTHS, EIGHTHS, st.booleans(), confidence)) for _ in points)
        rows.append(Row(t, tuple(shapes), dots if any(dots) else (), encode(draw(masks()) & free)))
    labels = {i: label for i in ids if (label := draw(st.sampled_from(LABELS))) != "object"}
    names = numbered(count) if draw(st.booleans()) else [f"frame_{t}b" for t in range(count)]
    return Annotations("clip", SIZE, names, tuple(rows), labels, points, draw(st.sampled_from((None, 12.5, 25.0))))


def kept(a: Annotations, format: str) -> Annotations:
    """What is left of annotations by the format's own table of losses."""
    loses = exchange.WRITERS[format].LOSES
    rows = []
    for row in a.rows:
        shapes = []
        for s in row.shapes:
            if s.counts and loses.get("masks") == "their boxes are written":
                s = Shape(s.id, None, s.bounds(a.size), s.occluded, s.confidence)
            if loses.get("masks" if s.counts else "boxes") == "left out":
                continue
            shapes.append(
                replace(
                    s, occluded=s.occluded and "occlusion" not in loses,
                    confidence=None if "confidence" in loses else s.confidence,
                )
            )  # fmt: skip
        dots = tuple(d and replace(d, confidence=None if {"confidence", "point confidence"} & set(loses) else d.confidence)
                     for d in row.dots)  # fmt: skip
        rows.append(
            Row(row.frame, tuple(shapes), () if "points" in loses else dots, None if "void" in loses else row.void)
        )
    if "gaps" in loses:
        there = {row.frame: row for row in rows}
        rows = [there.get(t, Row(t)) for t in range(len(a.frames))]
    seen = {s.id for row in rows for s in row.shapes}
    labels = {} if "labels" in loses else {i: label for i, label in a.labels.items() if i in seen}
    points = tuple(p for k, p in enumerate(a.points) if any(row.dots and row.dots[k] for row in rows))
    rows = [
        replace(r, dots=tuple(d for p, d in zip(a.points, r.dots, strict=True) if p in points) if r.dots else ())
        for r in rows
    ]
    frames = numbered(len(a.frames)) if "frame names" in loses else a.frames
    return replace(
        a, frames=frames, rows=tuple(rows), labels=labels, points=points, fps=None if "rate" in loses else a.fps
    )


def same(found: Annotations, wanted: Annotations, tolerance: float = 1e-9) -> None:
    """Equal but for the order of points and objects, and the last digits of coordinates."""
    assert found.size == wanted.size
    seen = {s.id for row in wanted.rows for s in row.shapes}
    assert {i: label for i, label in found.labels.items() if i in seen} == dict(wanted.labels)
    assert set(found.points) >= set(wanted.points)
    assert [found.frames[r.frame] for r in found.rows] == [wanted.frames[r.frame] for r in wanted.rows]
    for got, want in zip(found.rows, wanted.rows, strict=True):
        assert got.void == want.void
        ours, theirs = ({s.id: s for s in row.shapes} for row in (got, want))
        assert ours.keys() == theirs.keys()
        for i, s in theirs.items():
            assert (ours[i].counts, ours[i].occluded, ours[i].confidence) == (s.counts, s.occluded, s.confidence)
            assert s.box is None or ours[i].box == pytest.approx(s.box, abs=tolerance)
        dots = dict(zip(found.points, got.dots, strict=False))
        for name, dot in zip(wanted.points, want.dots, strict=False):
            assert (dots[name] is None) == (dot is None)
            if dot:
                assert (dots[name].visible, dots[name].confidence) == (dot.visible, dot.confidence)
                assert (dots[name].x, dots[name].y) == pytest.approx((dot.x, dot.y), abs=tolerance)


def through(a: Annotations, format: str, folder: Path) -> tuple[Annotations, list[str]]:
    path = folder / f"{len(list(folder.iterdir()))}{exchange.WRITERS[format].SUFFIX}"
    notes = exchange.write(a, path, format)
    detected = exchange.read(path)
    assert {type(r) for r in detected.rows} <= {Row}
    return detected, notes


WHOLE = {"coco": "mbp", "csv": "mbp", "cvat": "mbp", "labelme": "mbp", "mot": "mbp", "labelstudio": "mbp", "mots": "mb",
         "davis": "mb", "youtubevos": "mb", "npz": "mb"}  # fmt: skip


@pytest.mark.parametrize("format", WHOLE)
@QUICK
@given(data=st.data())
def test_round_trip_keeps_what_the_format_holds(tmp_path: Path, format: str, data: st.DataObject):
    a = data.draw(annotated(WHOLE[format]))
    if format == "mot" and a.fps is not None:
        a = replace(a, fps=25.0)
    left = kept(a, format)
    if not any(row.shapes or any(row.dots) for row in left.rows):
        if any(row.shapes or any(row.dots) for row in a.rows):
            with pytest.raises(InputError, match="there is nothing else"):
                through(a, format, tmp_path)
        return
    if format in ("davis", "youtubevos"):  # nothing but void would be a mask in black and white
        left = replace(left, rows=tuple(replace(r, void=r.void if r.shapes else None) for r in left.rows))
    content = {"masks" if s.counts else "boxes" for r in a.rows for s in r.shapes}
    loses = exchange.WRITERS[format].LOSES
    found, notes = through(a, format, tmp_path)
    same(found, left)
    for kind in ("masks", "boxes"):
        assert any(f"holds no {kind}:" in note for note in notes) == (kind in content and kind in loses)
    assert any("holds no void" in n for n in notes) == (any(r.void for r in a.rows) and "void" in loses)
    if format in ("coco", "npz", "cvat", "mot", "labelstudio"):
        assert found.fps == left.fps or left.fps is None
        assert len(found.frames) == len(left.frames)


@QUICK
@given(a=annotated("p"))
def test_tapvid_keeps_points(tmp_path: Path, a: Annotations):
    if not a.points or not any(row.dots for row in a.rows):
        return
    found, notes = through(a, "tapvid", tmp_path)
    assert found.points == a.points
    assert list(found.frames) == list(a.frames)
    there = {row.frame: row.dots for row in a.rows}
    absent = False
    for row in found.rows:
        for got, want in zip(row.dots, there.get(row.frame) or (None,) * len(a.points), strict=True):
            absent = absent or want is None
            assert got.visible == (want is not None and want.visible)
            if want:
                assert (got.x, got.y) == pytest.approx((want.x, want.y), abs=1e-4)
    assert any("missing points" in note for note in notes) == absent


@QUICK
@given(a=annotated("m"))
def test_yolo_keeps_masks_of_classes_exactly(tmp_path: Path, a: Annotations):
    a = replace(
        a, labels={i: f"class {i}" for i in (1, 2, 3, 7, 41, 254)}
    )  # a class each: then the class tells who it is
    if not any(row.shapes for row in a.rows):
        return
    found, notes = through(a, "yolo", tmp_path)
    for got, want in zip(found.rows, a.rows, strict=True):
        assert {found.label(s.id): s.counts for s in got.shapes} == {a.label(s.id): s.counts for s in want.shapes}
    assert not any("identities" in note for note in notes)


@QUICK
@given(mask=masks())
def test_outlines_fill_to_the_same_mask(mask: np.ndarray):
    loops = polygons.outlines(mask)
    assert np.array_equal(polygons.fill(loops, SIZE), mask)
    if loops:
        assert np.array_equal(polygons.fill([polygons.joined(loops)], SIZE), mask)
        # Clockwise outlines and anticlockwise holes: their signed areas add up to the mask's.
        area = sum(float(np.sum(p[:, 0] * np.roll(p[:, 1], -1) - np.roll(p[:, 0], -1) * p[:, 1])) / 2 for p in loops)
        assert area == mask.sum()
        for p in loops:  # corners only
            step, following = p - np.roll(p, 1, 0), np.roll(p, -1, 0) - p
            assert (step[:, 0] * following[:, 1] != step[:, 1] * following[:, 0]).all() or len(p) == 4


def test_polygon_of_a_known_mask():
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert sorted(len(loop) for loop in polygons.outlines(ring)) == [4, 4]
    half = polygons.fill([np.array([(0, 0), (4, 0), (0, 4)])], (4, 4))
    assert half.sum() == 6  # pixels whose centres lie inside; those on the diagonal count once only, left of the edge


def test_conventions_to_the_letter(tmp_path: Path):
    """The numbers that stand in the files, for a mask of columns 2-4 and rows 1-2 of 10x8, on the second frame."""
    mask = np.zeros((8, 10), bool)
    mask[1:3, 2:5] = True
    row = Row(1, (Shape(5, encode(mask)),), (Dot(0.0, 7.0, False),))
    a = Annotations("clip", (8, 10), numbered(3), (row,), {5: "cat"}, ("nose",), 25.0)
    for format in ("coco", "mot", "mots", "cvat", "labelstudio", "labelme", "tapvid", "yolo"):
        exchange.write(a, tmp_path / (format + exchange.WRITERS[format].SUFFIX), format)
    coco = json.loads((tmp_path / "coco.json").read_text())
    first, points = coco["annotations"]
    assert (first["bbox"], first["area"], first["track_id"], first["image_id"]) == ([2, 1, 3, 2], 6, 5, 2)
    assert points["keypoints"] == [0.0, 7.0, 1]
    assert (coco["images"][0]["frame_id"], coco["images"][0]["file_name"]) == (1, "00001.jpg")
    assert (tmp_path / "mot/gt/gt.txt").read_text() == "2,5,3,2,3,2,1,1,1\n"
    assert (tmp_path / "mot/gt/labels.txt").read_text() == "cat\n"
    assert (tmp_path / "mots/gt/gt.txt").read_text() == f"2 1005 1 8 10 {encode(mask)}\n"
    with PIL.Image.open(tmp_path / "mots/instances/000002.png") as picture:
        assert picture.mode.startswith("I")
        assert np.array_equal(np.asarray(picture), mask * 1005)
    xml = (tmp_path / "cvat.xml").read_text()
    assert '<track id="4" label="cat"' in xml
    assert 'frame="1" keyframe="1" outside="0" occluded="0" z_order="0" points="2,1;5,1;5,3;2,3"' in xml
    assert 'frame="2" keyframe="1" outside="1"' in xml
    assert 'occluded="1" z_order="0" points="0.5,7.5"' in xml
    region = json.loads((tmp_path / "labelstudio.json").read_text())[0]["annotations"][0]["result"][0]
    key = region["value"]["sequence"][0]
    assert (key["frame"], key["x"], key["y"], key["width"], key["height"]) == (2, 20, 12.5, 30, 25)
    assert not key["enabled"]
    shapes = json.loads((tmp_path / "labelme/00001.json").read_text())["shapes"]
    assert [s["points"] for s in shapes] == [[[2, 1], [4, 2]], [[0.5, 7.5]]]
    with np.load(tmp_path / "tapvid.npz") as tap:
        assert tap["points"].shape == (1, 3, 2)
        assert tap["points"][0, 1].tolist() == pytest.approx([0.05, 7.5 / 8])
        assert tap["occluded"].tolist() == [[True, True, True]]
    assert (tmp_path / "yolo/labels/00001.txt").read_text() == "0 0.2 0.125 0.5 0.125 0.5 0.375 0.2 0.375\n"


def test_void_overlaps_and_large_ids_are_said(tmp_path: Path):
    whole = np.ones(SIZE, bool)
    part = whole.copy()
    part[:, 3:] = False
    a = Annotations("clip", SIZE, ["a"], (Row(0, (Shape(300, encode(whole)), Shape(254, encode(part)))),))
    notes = exchange.write(a, tmp_path / "davis", "davis")
    assert [n.split(":")[0] for n in notes] == ["DAVIS holds no large ids", "DAVIS holds no overlaps"]  # fmt: skip
    ids = read_ids(tmp_path / "davis/a.png")
    assert (ids[:, :3] == 253).all()  # 254 came second, when 300 had taken its number
    assert (ids[:, 3:] == 254).all()
    many = Annotations("clip", SIZE, ["a"], (Row(0, tuple(Shape(i, encode(whole)) for i in range(1, 256))),))
    with pytest.raises(InputError, match="more than 254 objects"):
        exchange.write(many, tmp_path / "many", "davis")
    assert not list(tmp_path.glob("many*"))
    assert [Renumber(9)(n) for n in (3, 9)] == [3, 9]


def test_interpolation_between_key_frames(tmp_path: Path):
    """CVAT and Label Studio move boxes evenly between key frames and keep the last one to the end."""
    box = '<box frame="{}" keyframe="1" outside="{}" occluded="0" xtl="{}" ytl="0" xbr="{}" ybr="2"></box>'
    (tmp_path / "a.xml").write_text(
        "<annotations><meta><task><size>9</size><original_size><width>40</width><height>8</height></original_size></task>"
        f'</meta><track id="0" label="cat">{box.format(0, 0, 0, 4)}{box.format(4, 0, 8, 16)}{box.format(6, 1, 8, 16)}</track>'
        f'<track id="3" label="cat">{box.format(7, 0, 1, 2)}</track></annotations>'
    )
    rows = list(exchange.read(tmp_path / "a.xml").rows)
    assert [tuple(s.box for s in r.shapes) for r in rows[:7]] == [
        ((0, 0, 4, 2),), ((2, 0, 7, 2),), ((4, 0, 10, 2),), ((6, 0, 13, 2),), ((8, 0, 16, 2),), ((8, 0, 16, 2),), (),
    ]  # fmt: skip
    assert [[s.id for s in r.shapes] for r in rows[6:]] == [[], [4], [4]]
    given = ((1, True, 0), (3, False, 20), (5, True, 0))
    keys = [{"frame": f, "enabled": on, "x": x, "y": 0, "width": 10, "height": 50} for f, on, x in given]
    task = [{"data": {"video": "a.mp4"}, "annotations": [{"result": [
        {"id": "k3", "type": "videorectangle", "value": {"framesCount": 6, "labels": ["cat"], "sequence": keys}}
    ]}]}]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(task))
    with pytest.raises(InputError, match="says no frame size"):
        exchange.read(tmp_path / "a.json")
    from pixeltrail.data.interchange import labelstudio

    rows = list(labelstudio.read(tmp_path / "a.json", (8, 40)).rows)
    assert [[s.box[0] for s in r.shapes] for r in rows] == [[0], [4], [8], [], [0], [0]]


def test_identities_without_ids(tmp_path: Path):
    def coco(kinds: list[tuple[int, int]]) -> Path:
        content = {
            "images": [{"id": i, "file_name": f"a/{i}.jpg", "height": 8, "width": 10} for i in (1, 2)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": k, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for k, (i, c) in enumerate(kinds)
            ],
        }
        (tmp_path / "c.json").write_text(json.dumps(content))
        return tmp_path / "c.json"

    def ids(path: Path) -> list[list[int]]:
        return [[s.id for s in row.shapes] for row in exchange.read(path).rows]

    assert ids(coco([(1, 1), (1, 2), (2, 2)])) == [[1, 2], [2]]  # a class is a thing
    assert ids(coco([(1, 1), (1, 1), (2, 1)])) == [[1, 2], [3]]  # nobody knows who is who


def test_frames_find_their_places():
    assert place(["00000", "00005"]) == (numbered(6), [0, 5])
    assert place(["001", "002"]) == (["001", "002"], [0, 1])
    assert place(["0002", "0004"])[1] == [2, 4]
    assert place(["b", "a"]) == (["b", "a"], [0, 1])
    assert place(["1", "002"])[1] == [0, 1]
    assert place(["999999999"])[1] == [0]


@QUICK
@given(bitmap=masks())
def test_rle_is_that_of_pycocotools(bitmap: np.ndarray):
    mask = pytest.importorskip("pycocotools.mask")
    theirs = mask.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    assert rle.encode(bitmap)["counts"] == theirs["counts"].decode()
    assert np.array_equal(rle.decode({**theirs, "size": list(bitmap.shape)}), bitmap)
