"""Files that were damaged or made to do harm: one line of InputError, nothing left behind, and no memory spent on them."""

import base64
import io
import json
import random
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.lib import format as npy

from pixeltrail import cli, exchange
from pixeltrail.data import polygons
from pixeltrail.data.annotations import Annotations, Dot, Row, Shape, encode, numbered, require_plain
from pixeltrail.data.interchange.shared import whole_folder
from pixeltrail.errors import DiskError, InputError, UnknownNameError

SIZE = (6, 9)


def sample() -> Annotations:
    mask = np.zeros(SIZE, bool)
    mask[1:4, 2:6] = True
    mask[2, 3] = False
    shapes = (Shape(1, encode(mask), None, True), Shape(4, None, (0.5, 1.0, 3.0, 4.0)))
    rows = tuple(Row(t, shapes, (Dot(1.0, 2.0), None), encode(~mask)) for t in range(2))
    return Annotations("clip", SIZE, numbered(3), rows, {1: "cat"}, ("nose", "ear"), 25.0)


FORMATS = (
    "coco",
    "mot",
    "mots",
    "cvat",
    "labelstudio",
    "labelme",
    "tapvid",
    "csv",
    "yolo",
    "npz",
    "davis",
    "youtubevos",
)


def written(folder: Path, format: str) -> Path:
    path = folder / ("x" + exchange.WRITERS[format].SUFFIX)
    exchange.write(sample(), path, format)
    return path


def spent(path: Path, format: str = "") -> int:
    """The most memory, in bytes, that reading takes; the error must be InputError of one line that names the file."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as refused:
            list(exchange.read(path, format).rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 500
    assert str(path) in text
    return peak


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_refused_or_read(tmp_path: Path, format: str):
    """Cut short, with a byte changed, or with a piece of it repeated: nothing but InputError comes out."""
    whole = written(tmp_path, format)
    file = (
        max((p for p in whole.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size) if whole.is_dir() else whole
    )
    content = file.read_bytes()
    chance = random.Random(format)
    refused = []
    for step in range(60):
        place = chance.randrange(len(content))
        if step % 3 == 0:
            file.write_bytes(content[:place])
        elif step % 3 == 1:
            file.write_bytes(content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :])
        else:
            file.write_bytes(content[:place] + content[place // 2 : place] + content[place:])
        try:
            a = exchange.read(whole, format)
            for row in a.rows:
                for shape in row.shapes:
                    shape.bounds(a.size)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert all(str(tmp_path) in text and "\n" not in text for text in refused)


def coco(folder: Path, **changes: object) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 10}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "track_id": 1}],
    }
    (folder / "c.json").write_text(json.dumps(content | changes))
    return folder / "c.json"


def annotation(**changes: object) -> dict[str, object]:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "track_id": 1}
    return {"annotations": [entry | changes]}


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"id": 1, "file_name": "a.jpg", "height": 10**6, "width": 10**6}]},
        {"images": [{"id": 1, "file_name": "a.jpg", "height": True, "width": 10.5}]},
        {"images": [{"id": 1, "file_name": "../../etc/passwd", "height": 8, "width": 10}]},
        {"images": [{"id": 1, "file_name": "..\\..\\boot.ini", "height": 8, "width": 10}]},
        {"images": [{"id": 1, "file_name": "a\x00.jpg", "height": 8, "width": 10}]},
        {"images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 10, "frame_id": 999_999_999}] * 2},
        {"images": {"a": 1}},
        {"images": None},
        {"videos": [{"name": "../up"}, {"name": "b"}]},
        {"videos": [{"name": "a", "fps": -3}]},
        {"videos": [{"name": "a", "fps": "fast"}]},
        {"categories": 3},
        annotation(bbox=[0, 0, -1, 1]),
        annotation(bbox=[0, 0, float("nan"), 1]),
        annotation(bbox=["0", "0", "1", "1"]),
        annotation(track_id="one"),
        annotation(track_id=-4),
        annotation(track_id=2**40),
        annotation(score=float("inf")),
        annotation(image_id=7),
        annotation(segmentation={"size": [10**5, 10**5], "counts": "0"}),
        annotation(segmentation={"size": [8, 10], "counts": [0, 10**12]}),
        annotation(segmentation={"size": [8, 10], "counts": [-80, 160]}),
        annotation(segmentation={"size": [8, 10], "counts": "~~~~"}),
        annotation(segmentation={"size": [8, 10], "counts": "oooooooooooooooooooo"}),
        annotation(segmentation=[[0, 0, 1e9, 0, 0, 1e9]]),
        annotation(segmentation=[[0, 0, 1, 1]]),
        annotation(segmentation=[["a", 0, 1, 1, 2, 2]]),
        annotation(keypoints=[1, 2]),
        annotation(keypoints=[1, 2, 2, float("nan"), 2, 2]),
    ],
    ids=lambda c: json.dumps(c)[:60],
)
def test_coco_that_lies(tmp_path: Path, changes: dict[str, object]):
    assert spent(coco(tmp_path, **changes), "coco") < 1_000_000


XML = (
    "<annotations><meta><task><name>{name}</name><size>{count}</size><original_size><width>{width}</width>"
    "<height>8</height></original_size></task></meta><track id='{id}' label='cat'>{shape}</track></annotations>"
)
BOX = "<box frame='{frame}' outside='0' occluded='0' keyframe='1' xtl='0' ytl='0' xbr='{right}' ybr='2'/>"
MASK = "<mask frame='0' outside='0' occluded='0' keyframe='1' rle='{}' left='{}' top='0' width='{}' height='2'/>"


def xml(**changes: object) -> str:
    given = {"name": "a", "count": 3, "width": 10, "id": 0, "shape": BOX.format(frame=0, right=2)}
    return XML.format(**given | changes)


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "c">]>' + xml(name="&b;"),
        '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + xml(name="&f;"),
        "<!DOCTYPE annotations>" + xml(),
        xml(name="&unknown;"),
        xml(count=10**12),
        xml(count=-1),
        xml(width=10**9),
        xml(width="ten"),
        xml(id="x"),
        xml(id=-5),
        xml(id=10**20),
        xml(shape=BOX.format(frame=10**9, right=2)),
        xml(shape=BOX.format(frame=3, right=2)),
        xml(shape=BOX.format(frame=-1, right=2)),
        xml(shape=BOX.format(frame=0, right="nan")),
        xml(shape=BOX.format(frame=0, right=-2)),
        xml(shape=MASK.format("0,99999999999", 0, 3)),
        xml(shape=MASK.format("0,-6,12", 0, 3)),
        xml(shape=MASK.format("6", 9, 3)),
        xml(shape=MASK.format("", 0, 3)),
        xml(shape=MASK.format("1e9", 0, 3)),
        xml(shape="<cuboid frame='0' points='0,0'/>"),
        xml(shape="<points frame='0' points='nan,0'/>"),
        xml(shape="<points frame='0' points='0'/>"),
        xml(shape="<polygon frame='0' points='0,0;1e9,0;0,4'/>"),
        "<annotations><image id='0'/></annotations>",
        "<a>" * 5000,
        "<annotations></annotations>",
        "",
    ],
    ids=lambda t: t[:30] + str(len(t)),
)
def test_xml_that_lies(tmp_path: Path, text: str):
    (tmp_path / "a.xml").write_text(text)
    assert spent(tmp_path / "a.xml", "cvat") < 1_000_000


def test_entities_are_refused_in_any_encoding(tmp_path: Path):
    bomb = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(10))
    text = f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [{bomb}]>' + xml(name="&a9;")
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    assert spent(tmp_path / "a.xml", "cvat") < 1_000_000


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("mot", "1,1,0,0,5\n"),
        ("mot", "1,1,0,0,-5,5,1,1,1\n"),
        ("mot", "1e12,1,0,0,5,5,1,1,1\n"),
        ("mot", "1,-7,0,0,5,5,1,1,1\n"),
        ("mot", "1,1,nan,0,5,5,1,1,1\n"),
        ("mot", "inf,1,0,0,5,5,1,1,1\n"),
        ("mots", "1 1001 1 8 10 ~~~\n"),
        ("mots", "1 1001 1 100000 100000 0\n"),
        ("mots", "1 1001 1 8 10 0\n1 1002 1 9 10 0\n"),
        ("mots", "-1 1001 1 8 10 P2\n"),
        ("mots", "1 1001 1 8\n"),
    ],
)
def test_text_that_lies(tmp_path: Path, format: str, text: str):
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / "gt.txt").write_text(text)
    (tmp_path / "seqinfo.ini").write_text("[Sequence]\nname=a\nimWidth=10\nimHeight=8\nseqLength=3\nframeRate=25\n")
    assert spent(tmp_path, format) < 1_000_000


@pytest.mark.parametrize("line", ["seqLength=99999999999", "imWidth=-1", "imWidth=x", "[", "frameRate=nan"])
def test_seqinfo_that_lies(tmp_path: Path, line: str):
    path = written(tmp_path, "mot")
    ini = path / "seqinfo.ini"
    key = line.split("=")[0]
    ini.write_text("\n".join([x for x in ini.read_text().splitlines() if not x.startswith(key + "=")] + [line]))
    assert spent(path, "mot") < 1_000_000


def array(shape: tuple[int, ...], descr: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


@pytest.mark.parametrize(
    "points",
    [
        array((10**9, 10**3, 2), "<f4", b""),
        array((2**62, 2**62, 2), "<f4", b""),
        array((1, 2, 2), "|O", b"\x80\x04K\x01."),
        array((1, 2, 3), "<f4", bytes(24)),
        array((1, 2, 2), "<f4", np.full(4, np.nan, "<f4").tobytes()),
        array((1, 2, 2), "<U4", bytes(64)),
        b"\x93NUMPY\x09\x00",
        b"not an array",
        b"",
    ],
    ids=range(9),
)
def test_arrays_that_lie(tmp_path: Path, points: bytes):
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("points.npy", points)
        archive.writestr("occluded.npy", array((1, 2), "|b1", bytes(2)))
        archive.writestr("size.npy", array((2,), "<i8", np.array([8, 10], "<i8").tobytes()))
    assert spent(tmp_path / "t.npz") < 1_000_000


def test_labelme_masks_that_lie(tmp_path: Path):
    buffer = io.BytesIO()
    PIL.Image.new("1", (9000, 9000)).save(buffer, "PNG")
    for text, corners in (
        (base64.b64encode(buffer.getvalue()).decode(), [[0, 0], [3, 3]]),
        ("AAAA", [[0, 0], [3, 3]]),
        ("?", [[0, 0], [3, 3]]),
        ("AAAA", [[0, 0], [10**7, 10**7]]),
        ("AAAA", [[0, 0]]),
    ):
        shape = {"label": "a", "shape_type": "mask", "points": corners, "mask": text, "group_id": 1}
        (tmp_path / "0.json").write_text(json.dumps({"shapes": [shape], "imageHeight": 8, "imageWidth": 10}))
        assert spent(tmp_path / "0.json", "labelme") < 3_000_000


@pytest.mark.parametrize("name", ["../a", "a/b", "a\\b", "..", ".", ".hidden", "", "a\nb", "a\0b", "x" * 300, " a"])
def test_names_that_are_no_file_names(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="expected a plain file name"):
        require_plain(name)
    with pytest.raises(InputError):
        Annotations("a", SIZE, [name], ())
    a = Annotations(name, SIZE, ["0"], (Row(0, (Shape(1, encode(np.ones(SIZE, bool))),)),))
    exchange.write(a, tmp_path / "out", "youtubevos")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(list((tmp_path / "out" / "Annotations").glob("[!.]*/0.png"))) == 1


def test_youtubevos_meta_that_points_elsewhere(tmp_path: Path):
    path = written(tmp_path, "youtubevos")
    (tmp_path / "outside").mkdir()
    shutil.copytree(path / "Annotations" / "clip", tmp_path / "outside", dirs_exist_ok=True)
    (path / "meta.json").write_text(json.dumps({"videos": {"../../outside": {"objects": {}}}}))
    spent(path, "youtubevos")


def test_polygons_that_never_end():
    with pytest.raises(InputError):
        polygons.fill([np.array([[0, 0], [np.inf, 0], [0, 1]])], SIZE)
    with pytest.raises(InputError):
        polygons.fill([np.zeros((2, 2))], SIZE)


def test_folders_appear_whole_or_not_at_all(tmp_path: Path):
    def spoilt():
        yield Row(0, (Shape(1, encode(np.ones(SIZE, bool))),))
        raise InputError("frame 1: is damaged")

    class Rows:
        def __iter__(self):
            return spoilt()

    a = Annotations("a", SIZE, numbered(2), Rows())
    for format in ("davis", "coco", "mots", "cvat", "labelme", "yolo", "csv", "npz"):
        with pytest.raises(InputError, match="is damaged"):
            exchange.write(a, tmp_path / f"x{exchange.WRITERS[format].SUFFIX}", format)
        assert not list(tmp_path.iterdir()), format
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists already"):
        exchange.write(sample(), tmp_path / "mine", "davis")
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    with pytest.raises(DiskError), whole_folder(tmp_path / "new"):
        raise OSError(28, "No space left on device", str(tmp_path / "new.part" / "a.png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


def test_what_is_asked_for_but_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = written(tmp_path, "coco")
    with pytest.raises(UnknownNameError, match="did you mean 'coco'"):
        exchange.read(source, "cocoo")
    (tmp_path / "empty").mkdir()
    for words, text in (
        (f"{source} {tmp_path / 'y.xml'} --to cvta", "did you mean 'cvat'"),
        (f"{source} {tmp_path / 'y'}", "name the format to write (--to)"),
        (f"{source}", "give the file or folder to write"),
        (f"{tmp_path / 'none.json'} {tmp_path / 'y.xml'}", "does not exist"),
        (f"{tmp_path / 'empty'} {tmp_path / 'y.xml'}", "looks like none of"),
        (f"{source} {tmp_path / 'y.mp4'}", "name the video (--video)"),
        (f"{tmp_path / 'x.pth'}", "name the weights file"),
    ):
        assert cli.main(["convert", *words.split()]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "x.json"]


def test_command_converts_and_says_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = written(tmp_path, "coco")
    assert cli.main(["convert", str(source), str(tmp_path / "m"), "--to", "mot"]) == 0
    said = capsys.readouterr()
    assert said.out == f"mot -> {tmp_path / 'm'}\n"
    assert said.err.splitlines() == [
        "MOT holds no gaps: frames without annotation become empty",
        "MOT holds no masks: their boxes are written",
        "MOT holds no points: left out",
        "MOT holds no void: left out",
    ]
    assert cli.main(["convert", str(tmp_path / "m"), str(tmp_path / "m.xml"), "--from", "mot"]) == 0
    assert [len(row.shapes) for row in exchange.read(tmp_path / "m.xml").rows] == [2, 2, 0]
