"""What a job leaves behind: ``tracks.json`` or ``points.csv``, and ``overlay.mp4``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import atomic
from pixeltrail.data.video import Frame, VideoWriter
from pixeltrail.jobs.folder import POINTS_HEAD
from pixeltrail.visual.overlay import draw_points, overlay



def _write_tracks(job: _Job, head: Mapping[str, Any], path: Path) -> None:
    with atomic(path) as part, open(part, "w") as file:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "frames": [')
        for i, row in enumerate(job.rows()):
            file.write(("" if i == 0 else ",") + "\n  " + json.dumps(row))
        file.write("\n ]\n}\n")


def _write_points(job: _Job, points: Points, path: Path) -> None:
    with atomic(path) as part, open(part, "w", newline="") as file:
        file.write(POINTS_HEAD)
        table = csv.writer(file, lineterminator="\n")
        for row in job.rows():
            for name, point in zip(points.names, row["points"], strict=True):
                if point is not None:
                    table.writerow([row["frame"], row["name"], name, *point])


def _write_overlay(
    job: _Job,
    source: FrameSource,
    out: Path,
    given: Mapping[int, LabelMap] | Points,
    on_frame: OnFrame | None,
) -> None:
    """A second pass over the video, so that an interrupted job has lost nothing of its overlay."""
    rows = job.rows()
    row = next(rows, None)
    fps = source.fps if source.fps and 0.01 <= source.fps <= 1000 else FPS
    with VideoWriter(out / "overlay.mp4", fps, source.size) as video:
        # What keeps frames from being read has stopped the tracking already: the video shows those before it.
        for done, frame in enumerate(_until_problem(source.frames(), []), 1):
            picture = frame.image
            if row is not None and row["frame"] == frame.index:
                if isinstance(given, Points):
                    xy = np.array([p[:2] if p else (np.nan, np.nan) for p in row["points"]], np.float32)
                    picture = draw_points(picture, xy, ~np.isnan(xy[:, 0]))
                else:
                    picture = overlay(picture, read_ids(out / "masks" / f"{frame.name}.png"))
                row = next(rows, None)
            video.write(picture)
            if on_frame:
                on_frame("overlay", done, source.count)
