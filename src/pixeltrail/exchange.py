"""Annotations in and out, whatever the format: `read`, `write`, and the table of formats.

``pixeltrail convert`` and ``pixeltrail track --format`` are made of these.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import numpy as np

from pixeltrail.data.annotations import MAX_FRAMES, Annotations, Lazy, Renumber, Row, Size, label_map, numbered
from pixeltrail.data.interchange import (
    coco,
    cutouts,
    cvat,
    davis,
    labelme,
    labelstudio,
    mot,
    mots,
    npz,
    table,
    tapvid,
    tracks,
    yolo,
    youtubevos,
)
from pixeltrail.data.interchange.shared import refusing
from pixeltrail.data.video import FrameSource, VideoWriter
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.types import Image
from pixeltrail.visual.overlay import draw_boxes, draw_points, overlay


class Reader(Protocol):
    """A module that reads a format; see `pixeltrail.data.interchange`."""

    TITLE: str

    def detect(self, path: Path, /) -> bool: ...
    def read(self, path: Path, size: Size | None = None, /) -> Annotations: ...


class Writer(Protocol):
    """What writes a format, and what that loses."""

    @property
    def TITLE(self) -> str: ...  # noqa: N802
    @property
    def SUFFIX(self) -> str: ...  # noqa: N802
    @property
    def LOSES(self) -> dict[str, str]: ...  # noqa: N802

    def write(self, annotations: Annotations, path: Path, /) -> set[str]: ...


@dataclass(frozen=True)
class _Overlay:
    """A video of the pictures with the annotations drawn over them; it cannot be read back."""

    SUFFIX: str
    TITLE: str = "a video"
    LOSES: dict[str, str] = field(default_factory=dict)

    def write(self, annotations: Annotations, path: Path) -> set[str]:
        if annotations.video is None:
            raise InputError("an overlay needs the pictures; name the video (--video)")
        fps = annotations.fps or annotations.video.fps or 25.0
        rows = iter(annotations.rows)
        row = next(rows, None)
        with VideoWriter(path, fps if fps >= 0.01 else 25.0, annotations.size) as video:
            for frame in annotations.video.frames():
                while row is not None and row.frame < frame.index:
                    row = next(rows, None)
                drawn = row is not None and row.frame == frame.index
                video.write(_draw(frame.image, annotations, row) if row is not None and drawn else frame.image)
        return set()


READERS: dict[str, Reader] = {
    "track": tracks, "youtubevos": youtubevos, "labelstudio": labelstudio, "labelme": labelme, "coco": coco,
    "cvat": cvat, "csv": table, "tapvid": tapvid, "npz": npz, "mots": mots, "mot": mot, "yolo": yolo, "davis": davis,
    "cutouts": cutouts,
}  # fmt: skip
"""In the order in which they are tried on a path of unknown format."""

WRITERS: dict[str, Writer] = {
    "davis": davis, "youtubevos": youtubevos, "coco": coco, "mot": mot, "mots": mots, "cvat": cvat,
    "labelstudio": labelstudio, "labelme": labelme, "tapvid": tapvid, "csv": table, "yolo": yolo, "npz": npz,
    "cutouts": cutouts, "mp4": _Overlay(".mp4"), "webm": _Overlay(".webm"), "gif": _Overlay(".gif"),
}  # fmt: skip


def read(path: str | Path, format: str = "", video: FrameSource | None = None) -> Annotations:
    """The annotations of one video in a file or folder, its format told by its looks if it is not named.

    ``video`` are the pictures: they give the size to formats that do not say it (MOT without seqinfo.ini, points.csv),
    and places to frames of the same names. Raises InputError for what cannot be read, in one line, and UnknownNameError.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: does not exist; check the path")
    if format:
        reader = READERS[_known(format, READERS)]
    else:
        found = next((r for r in READERS.values() if r.detect(path)), None)
        if found is None:
            raise InputError(f"{path}: looks like none of {', '.join(READERS)}; name its format (--from)")
        reader = found
    with refusing(path, f"{reader.TITLE} file or folder"):
        annotations = reader.read(path, video.size if video else None)
    return with_video(annotations, video, path) if video else annotations


def with_video(annotations: Annotations, video: FrameSource, path: Path) -> Annotations:
    """The same annotations over ``video``. Raises InputError if it has another size."""
    if video.size != annotations.size:
        (h, w), (height, width) = annotations.size, video.size
        raise InputError(f"{path}: annotates frames of {w}x{h}, {video.path} has {width}x{height}")
    fps = annotations.fps or video.fps
    if len(video.files) > 1 and video.count == len(video.files):  # a folder: its names say which frame is which
        stems = [file.stem for file in video.files]
        order = {stem: t for t, stem in enumerate(stems)}
        if all(name in order for name in annotations.frames):
            moved = [order[name] for name in annotations.frames]
            if moved == sorted(moved):
                source = annotations.rows
                rows = Lazy(lambda: (replace(row, frame=moved[row.frame]) for row in source))
                return replace(annotations, frames=stems, rows=rows, video=video, fps=fps)
    count = min(video.count or 0, MAX_FRAMES)
    frames = [*annotations.frames, *numbered(count)[len(annotations.frames) :]]
    return replace(
        annotations, video=video, fps=fps, frames=frames if len(set(frames)) == len(frames) else annotations.frames
    )


def write(annotations: Annotations, path: str | Path, format: str) -> list[str]:
    """Write a file or folder, whole or not at all, and return a line for each kind of thing that it cannot hold.

    Raises InputError if nothing would be left, if a folder exists already, or names cannot be those of files.
    """
    path, writer = Path(path), WRITERS[_known(format, WRITERS)]
    nothing = _left_out(annotations, writer.LOSES)
    if nothing:
        raise InputError(
            f"{path}: {writer.TITLE} holds no {' and no '.join(sorted(nothing))}, and there is nothing else"
        )
    seen = _Seen(annotations)
    lost = writer.write(replace(annotations, rows=seen), path) | (seen.kinds() & set(writer.LOSES))
    return [f"{writer.TITLE} holds no {kind}: {writer.LOSES[kind]}" for kind in sorted(lost)]


def beside(out: Path, format: str) -> Path:
    """Where ``track --format`` writes: OUT/coco.json, OUT/mot and the like."""
    return out / (format + WRITERS[_known(format, WRITERS)].SUFFIX)


def write_beside(out: Path, formats: Sequence[str], video: FrameSource) -> list[str]:
    """Write the results that ``pixeltrail track`` left in ``out`` in other formats too, over those of an earlier run."""
    notes = []
    for format in formats:
        path = beside(out, format)
        if path.is_dir():
            shutil.rmtree(path)
        notes += write(read(out, "track", video), path, format)
    return notes


def guess(path: Path) -> str:
    """The format that a path to write to has by its suffix. Raises InputError if the suffix does not say."""
    named = {"csv": "csv", "xml": "cvat", "mp4": "mp4", "webm": "webm", "gif": "gif"}
    found = named.get(path.suffix.lower().removeprefix("."))
    if found is None:
        raise InputError(f"{path}: name the format to write (--to): {', '.join(WRITERS)}")
    return found


def _draw(image: Image, annotations: Annotations, row: Row) -> Image:
    ids, _ = label_map(row, annotations.size, Renumber(254))
    picture = overlay(image, ids.astype(np.uint8))
    boxes = [(shape.box, (shape.id - 1) % 254 + 1) for shape in row.shapes if shape.box]
    if boxes:
        picture = draw_boxes(picture, np.array([b for b, _ in boxes]), np.array([i for _, i in boxes], np.uint8))
    if row.dots:
        xy = np.array([(dot.x, dot.y) if dot else (np.nan, np.nan) for dot in row.dots])
        picture = draw_points(picture, xy, np.array([bool(dot and dot.visible) for dot in row.dots]))
    return picture


class _Seen:
    """The same rows; which kinds of things went by is known afterwards."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations, self._kinds, self._frames = annotations, set[str](), 0

    def __iter__(self) -> Iterator[Row]:
        self._frames = 0
        for row in self._annotations.rows:
            self._frames += 1
            self._look(row)
            yield row

    def _look(self, row: Row) -> None:
        kinds, label = self._kinds, self._annotations.labels
        kinds |= _kinds(row)
        for shape in row.shapes:
            kinds |= {"labels"} if shape.id in label else set()
            kinds |= {"occlusion"} if shape.occluded else set()
            kinds |= {"confidence"} if shape.confidence is not None else set()
        kinds |= {"point confidence"} if any(dot and dot.confidence is not None for dot in row.dots) else set()
        kinds |= {"void"} if row.void is not None else set()
        kinds |= {"opacity"} if row.opacity is not None and row.shapes else set()

    def kinds(self) -> set[str]:
        about, kinds = self._annotations, set(self._kinds)
        kinds |= {"gaps"} if self._frames < len(about.frames) else set()
        kinds |= {"rate"} if about.fps else set()
        kinds |= {"fractional rate"} if about.fps and about.fps != round(about.fps) else set()
        kinds |= {"frame names"} if list(about.frames) != numbered(len(about.frames)) else set()
        return kinds


def _kinds(row: Row) -> set[str]:
    kinds = {"masks" if shape.counts is not None else "boxes" for shape in row.shapes}
    return kinds | ({"points"} if any(row.dots) else set())


def _left_out(annotations: Annotations, loses: dict[str, str]) -> set[str]:
    """The kinds of content that there are, if the format holds none of them."""
    found: set[str] = set()
    for row in annotations.rows:
        found |= _kinds(row)
        if any(loses.get(kind) != "left out" for kind in found):
            return set()
    return found


def _known(format: str, formats: dict[str, Reader] | dict[str, Writer]) -> str:
    if format not in formats:
        near = get_close_matches(format, formats, 1, cutoff=0.5)
        raise UnknownNameError(
            f"no format {format!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are {', '.join(formats)}")
        )
    return format
