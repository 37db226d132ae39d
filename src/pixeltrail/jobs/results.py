"""What a job leaves behind: ``tracks.json`` or ``points.csv``, and ``overlay.mp4``."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import atomic
from pixeltrail.data.video import Frame
from pixeltrail.types import Image
from pixeltrail.visual.overlay import draw_points, overlay

Row = Mapping[str, Any]
POINTS_HEAD = "frame,name,point,x,y,confidence\n"
TRACKS_HEAD = '{\n "video": '
"""How the files begin; what does not was made by another program."""


def write_confidence(path: Path, confidence: NDArray[np.float32]) -> None:
    """A map (H, W) in [0, 1] as a grey PNG, 255 for certain. Written whole, or not at all."""
    with atomic(path) as part:
        PIL.Image.fromarray(np.rint(confidence * 255).astype(np.uint8)).save(part, "PNG", compress_level=1)


def row(frame: Frame, **found: Any) -> dict[str, Any]:
    """One entry of the journal and of ``tracks.json``."""
    time = {} if frame.time is None else {"time": round(frame.time, 6)}
    return {"frame": frame.index, "name": frame.name, **time, **found}


def shape(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """``area`` in pixels, ``box`` [left, top, right, bottom] (right and bottom exclusive) and ``centroid`` [x, y] of a
    mask (H, W); box and centroid are None where it is empty."""
    columns, rows = mask.sum(0), mask.sum(1)
    area = int(columns.sum())
    if not area:
        return {"area": 0, "box": None, "centroid": None}
    x, y = np.flatnonzero(columns), np.flatnonzero(rows)
    centroid = [round(float(n @ np.arange(len(n)) / area), 2) for n in (columns, rows)]
    return {"area": area, "box": [int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1], "centroid": centroid}


def write_tracks(path: Path, video: str, head: Row, rows: Iterable[Row]) -> None:
    """JSON: the video's name, ``head``, and one line for each row under ``frames``."""
    with atomic(path) as part, open(part, "w") as file:
        file.write(TRACKS_HEAD + json.dumps(video))
        for key, value in head.items():
            file.write(f",\n {json.dumps(key)}: {json.dumps(value)}")
        file.write(',\n "frames": [')
        for i, entry in enumerate(rows):
            file.write((",\n  " if i else "\n  ") + json.dumps(entry))
        file.write("\n ]\n}\n")


def write_points(path: Path, names: Sequence[str], rows: Iterable[Row]) -> None:
    """CSV: one line for each frame and point that is there."""
    with atomic(path) as part, open(part, "w", newline="") as file:
        file.write(POINTS_HEAD)
        table = csv.writer(file, lineterminator="\n")
        for entry in rows:
            for name, point in zip(names, entry["points"], strict=True):
                if point is not None:
                    table.writerow([entry["frame"], entry["name"], name, *point])


def pictures(frames: Iterable[Frame], rows: Iterator[Row], masks: Path) -> Iterator[Image]:
    """Each frame with the masks or points of its row drawn over it; a frame without a row as it is."""
    entry = next(rows, None)
    for frame in frames:
        if entry is None or entry["frame"] != frame.index:
            yield frame.image
            continue
        if "points" in entry:
            xy = np.array([point[:2] if point else (np.nan, np.nan) for point in entry["points"]], np.float32)
            yield draw_points(frame.image, xy, ~np.isnan(xy[:, 0]))
        else:
            yield overlay(frame.image, read_ids(masks / f"{frame.name}.png"))
        entry = next(rows, None)
