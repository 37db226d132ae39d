"""The results of `pixeltrail track`: tracks.json with masks/*.png (and confidence/*.png), or points.csv."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.annotations import Annotations, Lazy, Row, Shape, Size, checked_size, encode, numbered
from pixeltrail.data.davis import read_ids
from pixeltrail.data.interchange import table
from pixeltrail.data.interchange.shared import lines, peek, refusing, stem, whole
from pixeltrail.errors import InputError
from pixeltrail.types import VOID

TITLE, SUFFIX = "pixeltrail", ""


def detect(path: Path) -> bool:
    return path.is_dir() and (
        (peek(path / "tracks.json").startswith('{\n "video": ') and (path / "masks").is_dir())
        or (not (path / "tracks.json").exists() and table.detect(path / "points.csv"))
    )


def read(path: Path, size: Size | None = None) -> Annotations:
    """A folder of results; points need ``size``. The masks are read while the rows are iterated over."""
    if not (path / "tracks.json").exists():
        return table.read(path / "points.csv", size)
    file = path / "tracks.json"
    with refusing(file, "tracks.json"):
        head: list[str] = []
        for _, text in lines(file):
            head.append(text)
            if text.endswith('"frames": ['):
                break
        about = json.loads(" ".join(head) + "]}")
        found = checked_size((whole(about["height"]), whole(about["width"])))
        places = {entry["frame"]: stem(entry["name"]) for entry in _entries(file)}
        frames = numbered(max(places, default=-1) + 1)
        for t, name in places.items():
            frames[t] = name
        fps = about.get("fps")
        rows = Lazy(lambda: _rows(path, found))
        return Annotations(
            Path(stem(about["video"])).stem, found, frames, rows, {}, (), None if fps is None else float(fps)
        )


def _entries(file: Path) -> Iterator[dict[str, Any]]:
    """The frames' lines, one at a time."""
    for _, text in lines(file):
        if text.startswith('{"frame"'):
            entry = json.loads(text.removesuffix(","))
            if whole(entry["frame"]) < 0:
                raise InputError(f"frame {entry['frame']}: frames count from 0")
            yield entry


def _rows(path: Path, size: Size) -> Iterator[Row]:
    with refusing(path / "tracks.json", "tracks.json"):
        for entry in _entries(path / "tracks.json"):
            name = stem(entry["name"])
            ids = read_ids(path / "masks" / f"{name}.png")
            if ids.shape != size:
                raise InputError(
                    f"{path / 'masks' / name}.png: is {ids.shape[1]}x{ids.shape[0]}, not {size[1]}x{size[0]}"
                )
            known = {o["id"]: float(o["confidence"]) for o in entry["objects"]}
            shapes = tuple(
                Shape(int(i), encode(ids == i), None, False, known.get(int(i)))
                for i in np.unique(ids) if i not in (0, VOID)
            )  # fmt: skip
            yield Row(
                entry["frame"], shapes, (), encode(ids == VOID), _opacity(path / "confidence" / f"{name}.png", ids)
            )


def _opacity(file: Path, ids: NDArray[np.uint8]) -> Any:
    """An object's soft mask: half to wholly opaque, as its pixels are certain, and clear elsewhere."""
    if not file.is_file():
        return None
    return lambda i: np.where(ids == i, 128 + read_ids(file) // 2, 0).astype(np.uint8)
