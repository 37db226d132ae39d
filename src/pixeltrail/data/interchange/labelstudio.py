"""Label Studio's video tracks (VideoRectangle): boxes in per cent of the frame, frames from 1, boxes moving evenly between
key frames; a key frame with `enabled: false` is the last before a gap. Object ids are the regions' ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pixeltrail.data.annotations import (
    LABEL,
    MAX_FRAMES,
    MAX_ID,
    Annotations,
    Shape,
    Size,
    between,
    checked_size,
    gather,
    numbered,
)
from pixeltrail.data.files import atomic
from pixeltrail.data.interchange.shared import identities, load_json, number, peek, refusing, whole
from pixeltrail.errors import InputError

TITLE, SUFFIX = "Label Studio", ".json"
LOSES = {
    "masks": "their boxes are written", "points": "left out", "void": "left out", "occlusion": "left out",
    "confidence": "left out", "gaps": "frames without annotation become empty", "frame names": "frames are numbered",
    "opacity": "left out",
}  # fmt: skip


def detect(path: Path) -> bool:
    text = peek(path)
    return path.suffix.lower() == ".json" and text.lstrip().startswith("[") and '"data"' in text + peek(path, 1 << 20)


def read(path: Path, size: Size | None = None) -> Annotations:
    """An export with one task. The frame's size is not part of the format; ours is found beside each region."""
    with refusing(path, "Label Studio file"):
        tasks = load_json(path)
        if len(tasks) != 1:
            raise InputError(f"holds {len(tasks)} tasks; export one")
        task = tasks[0]
        results = [r for a in (task.get("annotations") or task["predictions"])[:1] for r in a["result"]]
        regions = [r for r in results if r.get("type") == "videorectangle"]
        if regions and "original_height" in regions[0]:
            size = checked_size((whole(regions[0]["original_height"]), whole(regions[0]["original_width"])))
        if size is None:
            raise InputError("says no frame size; name the video (--video)")
        tracks: dict[int, dict[int, Shape]] = {}
        labels: dict[int, str] = {}
        count, fps = 0, None
        own = [str(r.get("id")) for r in regions]
        known = all(i.isdecimal() and 0 <= int(i) <= MAX_ID for i in own) and len(set(own)) == len(own)
        ids = identities([(0, str(k), int(i) if known else None) for k, i in enumerate(own)])
        for i, region in zip(ids, regions, strict=True):
            value = region["value"]
            last = max((whole(key["frame"]) for key in value["sequence"]), default=0)
            total = max(whole(value.get("framesCount") or last), last)
            if total > MAX_FRAMES:
                raise InputError(f"{total} frames, but {MAX_FRAMES} are the most")
            count = max(count, total)
            if value.get("duration"):
                fps = round(total / number(value["duration"]), 6)
            tracks[i] = dict(_follow(value["sequence"], i, total, size))
            label = str((value.get("labels") or [LABEL])[0])[:200]
            labels |= {i: label} if label != LABEL else {}
        name = Path(str(task.get("data", {}).get("video") or path.name)).stem
        return Annotations(name, size, numbered(count), gather(tracks, (), count), labels, (), fps)


def _follow(sequence: list[dict[str, Any]], i: int, total: int, size: Size) -> Iterator[tuple[int, Shape]]:
    """A region's box on every frame that it is on."""
    height, width = size
    keys = sorted(sequence, key=lambda key: whole(key["frame"]))
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        here, there = key["frame"], following["frame"] if following else total + 1
        if here < 1 or key.get("rotation"):
            raise InputError(f"frame {here}: frames count from 1 and boxes are upright")
        if here == there:
            raise InputError(f"frame {here}: a region has two boxes on it")
        first, second = (_box(k, i, width, height) for k in (key, following or key))
        for t in range(here, there if key.get("enabled", True) else here + 1):
            shown = between(first, second, (t - here) / (there - here)) if t > here else first
            assert isinstance(shown, Shape)
            yield t - 1, shown


def _box(key: dict[str, Any], i: int, width: int, height: int) -> Shape:
    left, top, w, h = (number(key[k]) / 100 for k in ("x", "y", "width", "height"))
    return Shape(i, None, (left * width, top * height, (left + w) * width, (top + h) * height))


def write(annotations: Annotations, path: Path) -> set[str]:
    """One task with an annotation, numbered as in an export; the boxes of every frame are key frames."""
    tracks: dict[int, dict[int, Shape]] = {}
    for row in annotations.rows:
        for shape in row.shapes:
            box = Shape(shape.id, None, shape.bounds(annotations.size))
            tracks.setdefault(shape.id, {})[row.frame] = box
    (height, width), count = annotations.size, len(annotations.frames)
    fps = annotations.fps or 25.0
    with atomic(path) as part, open(part, "w", encoding="utf-8") as file:
        name = json.dumps(annotations.name)
        file.write(f'[{{"id": 1, "data": {{"video": {name}}}, "annotations": [{{"id": 1, "result": [')
        for place, (i, track) in enumerate(sorted(tracks.items())):
            sequence = [
                {
                    "frame": t + 1, "time": round(t / fps, 6), "enabled": t + 1 in track or t + 1 == count, "rotation": 0,
                    "x": 100 * box[0] / width, "y": 100 * box[1] / height,
                    "width": 100 * (box[2] - box[0]) / width, "height": 100 * (box[3] - box[1]) / height,
                }
                for t, box in ((t, shape.bounds(annotations.size)) for t, shape in track.items())
            ]  # fmt: skip
            region = {
                "id": str(i), "type": "videorectangle", "from_name": "box", "to_name": "video", "origin": "manual",
                "original_width": width, "original_height": height,
                "value": {
                    "framesCount": count, "duration": count / fps, "labels": [annotations.label(i)], "sequence": sequence,
                },
            }  # fmt: skip
            file.write((",\n" if place else "\n") + json.dumps(region))
        file.write("\n]}]}]\n")
    return set()
