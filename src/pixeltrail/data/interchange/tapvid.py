"""TAP-Vid: an .npz with `points` (N, T, 2) float32 and `occluded` (N, T) bool, for one video.

Coordinates run from 0 at the left and upper edge of the picture to 1 at the right and lower edge, so that a point in
the middle of the first pixel has x = 0.5 / width. `size`, `names`, `frames` and `fps` are additions of ours.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pixeltrail.data.annotations import MAX_FRAMES, Annotations, Dot, Row, Size, checked_size, numbered, unique
from pixeltrail.data.files import atomic
from pixeltrail.data.interchange.npz import _names, _opened, _save, load, shape_of
from pixeltrail.data.interchange.shared import MAX_BYTES, peek, refusing
from pixeltrail.errors import InputError

TITLE, SUFFIX = "TAP-Vid", ".npz"
LOSES = {
    "masks": "left out", "boxes": "left out", "void": "left out", "labels": "left out", "occlusion": "left out",
    "confidence": "left out", "point confidence": "left out", "gaps": "points count as hidden there",
    "missing points": "hidden, where they were last seen", "opacity": "left out",
}  # fmt: skip


def detect(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and peek(path, 2) == "PK" and "occluded.npy" in _names(path)


def read(path: Path, size: Size | None = None) -> Annotations:
    """An .npz of one video; the frame's size is that of `video` (T, H, W, 3) or `size` in it, or must be given."""
    with refusing(path, "TAP-Vid file"), _opened(path) as archive:
        there = {name.removesuffix(".npy") for name in archive.namelist()}
        points, occluded = load(archive, "points", MAX_BYTES), load(archive, "occluded", MAX_BYTES)
        if points.ndim != 3 or points.shape[2] != 2 or points.dtype.kind != "f" or occluded.shape != points.shape[:2]:
            raise InputError(f"points {points.shape} and occluded {occluded.shape}: expected (N, T, 2) and (N, T)")
        if "size" in there:
            size = checked_size(tuple(load(archive, "size", 64).tolist()))
        elif "video" in there:
            size = checked_size(shape_of(archive, "video")[1:3])
        if size is None:
            raise InputError("says no frame size; name the video (--video)")
        count, length = occluded.shape
        frames, names = numbered(length), [str(i) for i in range(count)]
        if "frames" in there:
            frames = [str(name) for name in load(archive, "frames", 800 * MAX_FRAMES).tolist()]
        if "names" in there:
            names = [str(name) for name in load(archive, "names", MAX_BYTES).tolist()]
        fps = float(load(archive, "fps", 8)) if "fps" in there else 0.0
        if len(frames) != length or len(names) != count or not np.isfinite(points[~occluded.astype(bool)]).all():
            raise InputError("names, frames and points do not fit each other")
    pixels = np.nan_to_num(points.astype(np.float64)) * (size[1], size[0]) - 0.5
    rows = tuple(
        Row(t, (), tuple(Dot(float(x), float(y), not hidden) for (x, y), hidden in zip(*there, strict=True)))
        for t, there in enumerate(zip(pixels.swapaxes(0, 1), occluded.T, strict=True))
    )
    return Annotations(path.stem, size, frames, rows, {}, unique(names), fps or None)


def write(annotations: Annotations, path: Path) -> set[str]:
    """All points on all frames; hidden where they are not given, and there at the place where they were last seen."""
    count, length = len(annotations.points), len(annotations.frames)
    places = np.zeros((count, length, 2), np.float32)
    hidden = np.ones((count, length), np.bool_)
    last: dict[int, tuple[float, float]] = {}
    missing = False
    rows = {}
    for row in annotations.rows:
        if row.dots:
            rows[row.frame] = row.dots
    height, width = annotations.size
    for t in range(length):
        dots = rows.get(t, (None,) * count)
        for n, dot in enumerate(dots):
            if dot is not None:
                last[n] = (dot.x + 0.5) / width, (dot.y + 0.5) / height
                hidden[n, t] = not dot.visible
            missing = missing or dot is None
            places[n, t] = last.get(n, (0.0, 0.0))
    with atomic(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        _save(archive, "points", places)
        _save(archive, "occluded", hidden)
        _save(archive, "size", np.array(annotations.size))
        _save(archive, "names", np.array(annotations.points, np.str_))
        _save(archive, "frames", np.array(list(annotations.frames), np.str_))
        _save(archive, "fps", np.array(annotations.fps or 0.0))
    return {"missing points"} if missing else set()
