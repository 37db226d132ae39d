"""COCO JSON of a video: RLE masks, boxes and keypoints, with `track_id` for identity and `videos` as YouTube-VIS has it.

Pixels count from 0. A box is [left, top, width, height] by pixel edges; keypoints are pixel indices, that is, centres
at whole numbers, with v = 2 visible, 1 hidden, 0 absent. Void is a crowd region, which COCO's scores leave out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pixeltrail.data import polygons, rle
from pixeltrail.data.annotations import (
    LABEL,
    MAX_FRAMES,
    Annotations,
    Dot,
    Row,
    Shape,
    Size,
    bounds,
    checked_size,
    encode,
    numbered,
    unique,
)
from pixeltrail.data.files import atomic
from pixeltrail.data.images import natural_key
from pixeltrail.data.interchange.shared import identities, load_json, number, peek, refusing, stem, whole
from pixeltrail.errors import InputError

TITLE, SUFFIX = "COCO", ".json"
LOSES = {"opacity": "masks are hard"}
VOID, POINTS = "void", "points"


def detect(path: Path) -> bool:
    return path.suffix.lower() == ".json" and peek(path).lstrip().startswith("{") and '"shapes"' not in peek(path)


def read(path: Path, size: Size | None = None) -> Annotations:
    """A file with one video, or images that are its frames. Annotations without track_id: see `identities`."""
    with refusing(path, "COCO file"):
        content = load_json(path)
        videos = content.get("videos") or []
        if len(videos) > 1 or len({image.get("video_id") for image in content["images"]}) > 1:
            raise InputError("holds several videos; split it into a file for each")
        video = videos[0] if videos else {}
        images = sorted(content["images"], key=lambda image: natural_key(str(image["file_name"])))
        if not images:
            raise InputError("holds no images")
        found = checked_size((whole(images[0]["height"]), whole(images[0]["width"])))
        if any((image["height"], image["width"]) != found for image in images):
            raise InputError("its images have different sizes; frames of one video are expected")
        frames, places = _frames(images, video)
        categories = {whole(c["id"]): c for c in content.get("categories", [])}
        return _annotations(content, categories, found, frames, places, str(video.get("name") or path.stem), video)


def _frames(images: list[dict[str, Any]], video: Mapping[str, Any]) -> tuple[list[str], dict[int, int]]:
    """All frames' names and the place of each image."""
    own = [image.get("frame_id") for image in images]
    if any(type(i) is not int or not 0 <= i < MAX_FRAMES for i in own) or len(set(own)) < len(own):
        own = list(range(len(images)))
    places = {whole(image["id"]): int(i) for image, i in zip(images, own, strict=True) if i is not None}
    if len(places) < len(images):
        raise InputError("two images have the same id")
    names = [stem(name) for name in video.get("file_names") or []]
    if len(names) <= max(places.values()):
        names = numbered(max(places.values()) + 1)
        for image in images:
            names[places[image["id"]]] = stem(image["file_name"])
    return names, places


def _annotations(
    content: Any, categories: dict[int, Any], size: Size, frames: list[str], places: dict[int, int], name: str,
    video: Mapping[str, Any],
) -> Annotations:  # fmt: skip
    objects, crowds, keyed = [], {}, []
    for entry in content["annotations"]:
        label = str(categories.get(entry.get("category_id"), {}).get("name", LABEL))[:200]
        frame = places[entry["image_id"]]
        if "keypoints" in entry:
            keyed.append((entry, label, frame))
        elif entry.get("iscrowd") and label == VOID:
            crowds[frame] = encode(_mask(entry["segmentation"], size))
        else:
            own = entry.get("track_id", entry.get("instance_id", (entry.get("attributes") or {}).get("track_id")))
            objects.append((entry, label, frame, None if own is None else whole(own)))
    shapes: dict[int, list[Shape]] = {}
    labels: dict[int, str] = {}
    for (entry, label, frame, _), i in zip(objects, identities([(f, c, own) for _, c, f, own in objects]), strict=True):
        shape = _shape(entry, i, size)
        if shape is not None:
            shapes.setdefault(frame, []).append(shape)
            labels.setdefault(i, label)
    points, dots = _keypoints(keyed, categories)
    rows = tuple(
        Row(t, tuple(shapes.get(t, ())), tuple(dots[t].get(p) for p in points) if t in dots else (), crowds.get(t))
        for t in sorted(places.values())
    )
    fps = video.get("fps")
    names = {i: label for i, label in labels.items() if label != LABEL}
    return Annotations(name, size, frames, rows, names, points, None if fps is None else number(fps))


def _shape(entry: Mapping[str, Any], i: int, size: Size) -> Shape | None:
    score = entry.get("score")
    confidence = None if score is None else number(score)
    occluded = bool((entry.get("attributes") or {}).get("occluded", False))
    if entry.get("segmentation"):
        counts = encode(_mask(entry["segmentation"], size))
        return None if counts is None else Shape(i, counts, None, occluded, confidence)
    left, top, width, height = (number(v) for v in entry["bbox"])
    return Shape(i, None, (left, top, left + width, top + height), occluded, confidence)


def _mask(segmentation: Any, size: Size) -> Any:
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") != list(size):
            raise InputError(f"a mask of size {str(segmentation.get('size'))[:40]}, the image has {list(size)}")
        return rle.decode(segmentation)
    parts = [polygons.fill([np.asarray(part, np.float64).reshape(-1, 2)], size) for part in segmentation]
    return np.logical_or.reduce(parts)


def _keypoints(
    keyed: list[tuple[Any, str, int]], categories: dict[int, Any]
) -> tuple[tuple[str, ...], dict[int, dict[str, Dot | None]]]:
    """The points' names and frame -> name -> dot. Several skeletons: their label and number stand before the name."""
    ids = identities([(frame, label, entry.get("track_id")) for entry, label, frame in keyed])
    alone = len(set(ids)) <= 1
    dots: dict[int, dict[str, Dot | None]] = {}
    order: dict[str, None] = {}
    for (entry, label, frame), i in zip(keyed, ids, strict=True):
        values = [number(v) for v in entry["keypoints"]]
        names = categories[entry["category_id"]].get("keypoints") or [str(k) for k in range(len(values) // 3)]
        scores = entry.get("keypoint_scores") or [None] * len(names)
        for name, x, y, v, score in zip(
            unique(map(str, names)), values[::3], values[1::3], values[2::3], scores, strict=True
        ):
            key = name if alone else f"{label} {i} {name}"
            order[key] = None
            confidence = None if score is None else number(score)
            dots.setdefault(frame, {})[key] = Dot(x, y, v == 2, confidence) if v else None
    return tuple(order), dots


def write(annotations: Annotations, path: Path) -> set[str]:
    """One file, written as the rows are read."""
    categories: dict[str, int] = {}
    used: list[int] = []
    with atomic(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write('{"annotations": [')
        for count, entry in enumerate(_entries(annotations, categories, used), 1):
            file.write(("\n " if count == 1 else ",\n ") + json.dumps({"id": count, **entry}))
        height, width = annotations.size
        files = [f"{name}.jpg" for name in annotations.frames]
        for key, values in (
            ("images", [
                {"id": t + 1, "file_name": files[t], "width": width, "height": height, "video_id": 1, "frame_id": t}
                for t in used
            ]),
            ("videos", [{
                "id": 1, "name": annotations.name, "width": width, "height": height, "length": len(files),
                "fps": annotations.fps, "file_names": files,
            }]),
            ("categories", [
                {"id": i, "name": name, "supercategory": ""}
                | ({"keypoints": list(annotations.points), "skeleton": []} if name == POINTS else {})
                for name, i in categories.items()
            ]),
        ):  # fmt: skip
            file.write(f'\n],\n"{key}": [')
            file.write(",".join(f"\n {json.dumps(value)}" for value in values))
        file.write("\n]}\n")
    return set()


def _entries(annotations: Annotations, categories: dict[str, int], used: list[int]) -> Iterator[dict[str, Any]]:
    size = list(annotations.size)

    def category(name: str) -> int:
        return categories.setdefault(name, len(categories) + 1)

    for row in annotations.rows:
        used.append(row.frame)
        for shape in row.shapes:
            segmentation: Any = []
            if shape.counts is not None:
                mask = shape.mask(annotations.size)
                box, area = bounds(mask), float(mask.sum())
                segmentation = {"size": size, "counts": shape.counts}
            else:
                box = shape.bounds(annotations.size)
                area = (box[2] - box[0]) * (box[3] - box[1])
            yield {
                "image_id": row.frame + 1, "category_id": category(annotations.label(shape.id)), "track_id": shape.id,
                "iscrowd": 0, "area": area, "bbox": _xywh(box), "segmentation": segmentation,
                **({} if shape.confidence is None else {"score": shape.confidence}),
                "attributes": {"track_id": shape.id, "occluded": shape.occluded},
            }  # fmt: skip
        if row.void is not None:
            mask = rle.decode({"size": size, "counts": row.void})
            yield {
                "image_id": row.frame + 1, "category_id": category(VOID), "iscrowd": 1, "area": float(mask.sum()),
                "bbox": _xywh(bounds(mask)), "segmentation": {"size": size, "counts": row.void},
            }  # fmt: skip
        if row.dots:
            there = [dot for dot in row.dots if dot]
            x, y = [dot.x for dot in there] or [0.0], [dot.y for dot in there] or [0.0]
            box = (min(x), min(y), max(x) + 1, max(y) + 1)
            scores = [dot and dot.confidence for dot in row.dots]
            yield {
                "image_id": row.frame + 1, "category_id": category(POINTS), "iscrowd": 0,
                "area": (box[2] - box[0]) * (box[3] - box[1]), "bbox": _xywh(box), "num_keypoints": len(there),
                "keypoints": [v for dot in row.dots for v in ((dot.x, dot.y, 1 + dot.visible) if dot else (0, 0, 0))],
                **({} if not any(s is not None for s in scores) else {"keypoint_scores": scores}),
            }  # fmt: skip


def _xywh(box: tuple[float, float, float, float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
