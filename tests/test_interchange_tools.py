"""Real annotations through every format of masks, what other people's tools read of ours, and what theirs write."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pixeltrail import exchange
from pixeltrail.data.annotations import (
    Annotations,
    bounds,
    encode,
    label_map,
)
from pixeltrail.data.interchange import cvat, mots
from pixeltrail.data.video import open_frames
from pixeltrail.errors import InputError


@pytest.fixture
def girls(real_data: Path, tmp_path: Path) -> Annotations:
    """Seven objects on twelve frames."""
    folder = tmp_path / "girls"
    folder.mkdir()
    for source in sorted((real_data / "multi-object/schoolgirls").glob("*.png"))[:12]:
        (folder / source.name).write_bytes(source.read_bytes())
    return exchange.read(folder)


def ids_of(a: Annotations) -> list[np.ndarray]:
    return [label_map(row, a.size, lambda i: i)[0] for row in a.rows]


def test_seven_girls_through_every_mask_format(girls: Annotations, tmp_path: Path):
    wanted, current = ids_of(girls), girls
    for format in ("coco", "mots", "cvat", "labelme", "npz", "csv", "youtubevos", "davis"):  # one after the other
        path = tmp_path / ("x" + format + exchange.WRITERS[format].SUFFIX)
        exchange.write(current, path, format)
        current = exchange.read(path)
        assert all(np.array_equal(a, b) for a, b in zip(ids_of(current), wanted, strict=True)), format


def test_cutouts_and_overlays(real_data: Path, girls: Annotations, tmp_path: Path):
    video = open_frames(real_data / "multi-object/schoolgirls.mp4")
    a = exchange.with_video(girls, video, tmp_path)
    for format in ("cutouts", "mp4", "gif"):
        with pytest.raises(InputError, match="need"):
            exchange.write(girls, tmp_path / "none", format)
    short = replace(a, rows=tuple(girls.rows)[:3])
    exchange.write(short, tmp_path / "cut", "cutouts")
    found = exchange.read(tmp_path / "cut")
    assert all(np.array_equal(x, y) for x, y in zip(ids_of(found), ids_of(girls)[:3], strict=True))
    picture = PIL.Image.open(tmp_path / "cut/1/00000.png")
    assert np.array_equal(np.asarray(picture)[..., :3], next(video.frames()).image)
    folder = tmp_path / "frames"
    folder.mkdir()
    for frame, _ in zip(video.frames(), range(4), strict=False):
        PIL.Image.fromarray(frame.image).save(folder / f"{frame.index:05d}.png")
    few = replace(short, video=open_frames(folder))
    exchange.write(few, tmp_path / "o.gif", "gif")
    drawn = [frame.image.astype(int) for frame in open_frames(tmp_path / "o.gif").frames()]
    assert len(drawn) == 4
    changed = [np.abs(d - f.image).mean() for d, f in zip(drawn, video.frames(), strict=False)]
    assert min(changed[:3]) > 2 * changed[3]  # the fourth frame has nothing to be drawn on it


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pycocotools itself
def test_pycocotools_reads_it(girls: Annotations, tmp_path: Path):
    coco = pytest.importorskip("pycocotools.coco")
    mask = pytest.importorskip("pycocotools.mask")
    exchange.write(girls, tmp_path / "c.json", "coco")
    theirs = coco.COCO(str(tmp_path / "c.json"))
    wanted = ids_of(girls)
    for entry in theirs.dataset["annotations"]:
        decoded = theirs.annToMask(entry).astype(bool)
        assert np.array_equal(decoded, wanted[entry["image_id"] - 1] == entry["track_id"])
        assert entry["area"] == mask.area(entry["segmentation"])
        assert entry["bbox"] == mask.toBbox(entry["segmentation"]).tolist()
        assert (
            mask.encode(np.asfortranarray(decoded.astype(np.uint8)))["counts"].decode()
            == entry["segmentation"]["counts"]
        )


def test_labelme_finds_the_pictures_and_label_studio_its_numbers(real_data: Path, girls: Annotations, tmp_path: Path):
    """Their own readers refuse files without them."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in girls.frames:
        PIL.Image.new("RGB", girls.size[::-1]).save(frames / f"{name}.png")
    (tmp_path / "deep").mkdir()
    for video, found in ((open_frames(frames), True), (open_frames(real_data / "multi-object/schoolgirls.mp4"), False)):
        out = tmp_path / "deep" / str(found)
        exchange.write(replace(girls, video=video), out, "labelme")
        path = json.loads((out / "00003.json").read_text())["imagePath"]
        assert (out / path).is_file() == found
        assert Path(path).name == ("00003.png" if found else "00003.jpg")
    exchange.write(girls, tmp_path / "ls.json", "labelstudio")
    (task,) = json.loads((tmp_path / "ls.json").read_text())
    assert (task["id"], task["annotations"][0]["id"]) == (1, 1)


def test_mots_text_is_one_that_kitti_counts_from_zero(tmp_path: Path):
    mask = encode(np.ones((2, 3), bool))
    (tmp_path / "0002.txt").write_text(f"0 1003 1 2 3 {mask}\n1 10000 10 2 3 {mask}\n1 2001 2 2 3 {mask}\n")
    a = mots.read(tmp_path / "0002.txt")
    rows = list(a.rows)
    assert [[s.id for s in r.shapes] for r in rows] == [[3], [1]]
    assert [r.void for r in rows] == [None, mask]
    assert bounds(rows[0].shapes[0].mask((2, 3))) == (0, 0, 3, 2)


def test_cvat_masks_as_the_server_writes_them(tmp_path: Path):
    (tmp_path / "a.xml").write_text(
        "<annotations><meta><job><size>3</size><original_size><width>6</width><height>4</height></original_size></job></meta>"
        '<track id="0" label="cat"><mask frame="1" outside="0" occluded="0" keyframe="1" rle="1, 2, 1, 2" left="2" top="1" '
        'width="3" height="2"></mask><mask frame="2" outside="1" occluded="0" keyframe="1" rle="6" left="2" top="1" '
        'width="3" height="2"></mask></track></annotations>'
    )
    rows = list(cvat.read(tmp_path / "a.xml").rows)
    assert [len(r.shapes) for r in rows] == [0, 1, 0]
    wanted = np.zeros((4, 6), bool)
    wanted[1, 3:5] = wanted[2, 3:5] = True
    assert np.array_equal(rows[1].shapes[0].mask((4, 6)), wanted)
