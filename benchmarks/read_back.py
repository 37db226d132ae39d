"""What other people's tools read of the files that ``pixeltrail track --format`` writes.

    pixeltrail track video.mp4 --labels first.png --out tracked --format coco --format cvat --format mot --format mots \\
        --format labelme --format labelstudio --format youtubevos --format yolo
    python benchmarks/read_back.py tracked

Compares every mask and box with the PNGs in ``tracked/masks``. Needs datumaro, motmetrics, labelme, label-studio-sdk and
supervision, best in an environment of their own: this file does not use pixeltrail. What is not installed is passed over.
"""

import argparse
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Pairs = Iterator[tuple[np.ndarray, np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tracked", type=Path, help="what pixeltrail track --out wrote")
    root = parser.parse_args().tracked
    truth = {t: np.asarray(Image.open(p)) for t, p in enumerate(sorted((root / "masks").glob("*.png")))}
    for name, read in READERS.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                equal = [np.array_equal(theirs, ours) for theirs, ours in read(root, truth)]
            print(f"{name}: {sum(equal)} of {len(equal)} are equal")
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}: passed over ({error})")


def box(mask: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom by pixel edges."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)


def coco(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    from pycocotools.coco import COCO

    data = COCO(str(root / "coco.json"))
    for entry in data.loadAnns(data.getAnnIds()):
        t = data.loadImgs(entry["image_id"])[0]["frame_id"]
        yield data.annToMask(entry) > 0, truth[t] == entry["track_id"]


def cvat(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    """Polygons, filled by pycocotools; those of objects that have left are there, marked as outside."""
    import datumaro
    from pycocotools import mask

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(root / "cvat.xml", Path(folder) / "annotations.xml")
        for item in datumaro.Dataset.import_from(folder, "cvat"):
            ids = truth[item.attributes["frame"]]
            for shape in item.annotations:
                if not shape.attributes["outside"]:
                    drawn = mask.decode(mask.merge(mask.frPyObjects([shape.points], *ids.shape)))
                    yield drawn > 0, ids == shape.attributes["track_id"] + 1


def mot(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    import motmetrics

    table = motmetrics.io.loadtxt(str(root / "mot/gt/gt.txt"), fmt="mot16")
    for (frame, number), row in table.iterrows():
        found = np.array([row.X, row.Y, row.X + row.Width, row.Y + row.Height])
        yield found, box(truth[frame - 1] == number)


def mots(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    import datumaro

    for item in datumaro.Dataset.import_from(str(root / "mots"), "mots"):
        for shape in item.annotations:
            yield shape.image > 0, truth[int(item.id) - 1] == shape.attributes["track_id"]


def labelme(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    """It wants the pictures: black ones will do."""
    from labelme._label_file import LabelFile

    with tempfile.TemporaryDirectory() as folder:
        for t, path in enumerate(sorted((root / "labelme").glob("*.json"))):
            content = json.loads(path.read_text()) | {"imagePath": "black.png"}
            Image.new("RGB", truth[t].shape[::-1]).save(Path(folder) / "black.png")
            (Path(folder) / path.name).write_text(json.dumps(content))
            for shape in LabelFile(str(Path(folder) / path.name)).shapes:
                (left, top), (right, bottom) = np.array(shape["points"]).astype(int)
                drawn = np.zeros(truth[t].shape, bool)
                drawn[top : bottom + 1, left : right + 1] = shape["mask"]
                yield drawn, truth[t] == shape["group_id"]


def labelstudio(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    from label_studio_sdk.converter import Converter

    scheme = (
        '<View><Labels name="label" toName="video"><Label value="object"/></Labels>'
        '<Video name="video" value="$video"/><VideoRectangle name="box" toName="video"/></View>'
    )
    with tempfile.TemporaryDirectory() as folder:
        converter = Converter(scheme, folder, download_resources=False)
        converter.convert_to_json_min(str(root / "labelstudio.json"), f"{folder}/out", is_dir=False)
        regions = json.loads(Path(folder, "out", "result.json").read_text())[0]["box"]
    own = [
        region["id"] for region in json.loads((root / "labelstudio.json").read_text())[0]["annotations"][0]["result"]
    ]
    height, width = truth[0].shape
    for number, region in zip(own, regions, strict=True):
        for key in region["sequence"]:
            mask = truth[key["frame"] - 1] == int(number)
            if mask.any():
                sides = np.array([key["x"], key["y"], key["x"] + key["width"], key["y"] + key["height"]])
                yield (sides / 100 * (width, height, width, height)).round(6), box(mask)


def youtubevos(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    """The published layout, read with Pillow: of every object the frames that meta.json says."""
    meta = json.loads((root / "youtubevos/meta.json").read_text())
    for name, video in meta["videos"].items():
        for number, thing in video["objects"].items():
            for frame in thing["frames"]:
                ids = np.asarray(Image.open(root / "youtubevos/Annotations" / name / f"{frame}.png"))
                yield ids == int(number), truth[int(frame)] == int(number)


def yolo(root: Path, truth: dict[int, np.ndarray]) -> Pairs:
    """Boxes, and whether the object is inside the mask; it draws the polygon's outline too, so the mask is a pixel wider."""
    import supervision

    with tempfile.TemporaryDirectory() as folder:
        for t, path in enumerate(sorted((root / "yolo/labels").glob("*.txt"))):
            Image.new("RGB", truth[t].shape[::-1]).save(Path(folder) / f"{t:05d}.png")
            shutil.copy(path, Path(folder) / f"{t:05d}.txt")
        read = supervision.DetectionDataset.from_yolo(folder, folder, str(root / "yolo/data.yaml"), force_masks=True)
        for path, _, found in read:
            ids = truth[int(Path(path).stem)]
            for number, sides, drawn in zip(np.unique(ids[ids > 0]), found.xyxy, found.mask, strict=True):
                ours = ids == number
                yield np.append(sides.round(3), drawn[ours].all()), np.append(box(ours), True)


READERS: dict[str, Callable[[Path, dict[int, np.ndarray]], Pairs]] = {
    "COCO, pycocotools": coco, "CVAT, datumaro": cvat, "MOT, motmetrics": mot, "MOTS, datumaro": mots,
    "LabelMe, labelme": labelme, "Label Studio, label-studio-sdk": labelstudio, "YouTube-VOS, Pillow": youtubevos,
    "YOLO, supervision": yolo,
}  # fmt: skip


if __name__ == "__main__":
    main()
