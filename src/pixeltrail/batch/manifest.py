"""Which videos a batch is made of: a folder of them, or a list."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pixeltrail.data.images import IMAGE_SUFFIXES, natural_key
from pixeltrail.errors import InputError

VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv",
    ".3gp", ".gif",
}  # fmt: skip
COLUMNS = ("video", "name", "labels", "points")
GIVEN = (".png", ".json", "", ".csv")
"""What labels of a video may be called, behind its name: a PNG, JSON, a folder of PNGs, or a CSV of points."""


@dataclass(frozen=True, slots=True)
class Video:
    """One video of a batch: the ``name`` of its results, its ``path``, and labels or points of its first frame."""

    name: str
    path: str
    labels: str = ""
    points: str = ""


def read_videos(source: Path, labels: Path | None = None) -> list[Video]:
    """The videos of a folder, or of a list of them; not one is opened here.

    A folder: every video file in it, and every folder in it that holds images. Their labels lie beside them, or in the
    folder ``labels``, under the video's name: NAME.png, NAME.json or NAME/ (masks), NAME.csv (points). A list: a CSV with
    a column ``video`` and, if need be, ``name``, ``labels``, ``points``; or a text with one path a line. Paths in it count
    from the list's own folder. Raises InputError for an empty or unreadable list, and names that are used twice.
    """
    if labels is not None and not labels.is_dir():
        raise InputError(f"--labels {labels}: no such folder")
    if source.is_dir():
        found = list(_in_folder(source, labels))
        if not found:
            raise InputError(f"{source}: holds no video; video files, or folders of images, are expected")
    else:
        found = list(_in_list(source, labels))
        if not found:
            raise InputError(f"{source}: names no video; write one path a line, or a CSV with a column video")
    seen: dict[str, str] = {}
    for video in found:
        lower = video.name.casefold()  # some file systems see no difference
        if lower in seen:
            raise InputError(
                f"{video.path}: would have the results' name of {seen[lower]}: {video.name}; "
                "give each its own in a CSV with the columns video,name"
            )
        seen[lower] = video.path
    return found


def _in_folder(source: Path, labels: Path | None) -> Iterator[Video]:
    files = sorted((p for p in source.iterdir() if not p.name.startswith(".")), key=natural_key)
    masks = {p.stem for p in files if p.suffix.lower() in VIDEO_SUFFIXES} if labels is None else set()
    for path in files:
        if path.is_dir():
            if path.name in masks or not any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir()):
                continue
        elif path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        yield _video(path, labels)


def _in_list(source: Path, labels: Path | None) -> Iterator[Video]:
    try:
        text = source.read_text("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{source}: does not exist; give a folder of videos or a list of them") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: is no readable list ({error}); write one path a line, or a CSV") from None
    head = text.split("\n", 1)[0]
    if source.suffix.lower() != ".csv" and "video" not in [h.strip() for h in head.split(",")]:
        for line in text.splitlines():
            if line.strip():
                yield _video(source.parent / line.strip(), labels)
        return
    table = csv.DictReader(text.splitlines(), strict=True)
    fields = [f.strip() for f in table.fieldnames or ()]
    if "video" not in fields or not set(fields) <= set(COLUMNS):
        raise InputError(f"{source}: has the columns {', '.join(fields)}; there are {', '.join(COLUMNS)}")
    table.fieldnames = fields
    try:
        for number, row in enumerate(table, 2):
            cells = {k: (row.get(k) or "").strip() for k in COLUMNS}
            if None in row or not cells["video"]:
                raise InputError(f"{source}: line {number}: expected {', '.join(fields)}")
            yield _row(source.parent, cells, labels)
    except csv.Error as error:
        raise InputError(f"{source}: line {table.line_num}: is no CSV ({error})") from None


def _row(base: Path, cells: dict[str, str], labels: Path | None) -> Video:
    path = base / cells["video"]
    name = cells["name"] or _name(path)
    if not re.fullmatch(r"[^\x00-\x1f/\\:.][^\x00-\x1f/\\:]*", name):
        raise InputError(f"name {name!r}: cannot be that of a folder; leave out / \\ : and a dot at its beginning")
    if cells["labels"] or cells["points"]:
        given = {k: str(base / cells[k]) if cells[k] else "" for k in ("labels", "points")}
        return Video(name, str(path.absolute()), **given)
    beside = _video(path, labels)
    return Video(name, beside.path, beside.labels, beside.points)


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _video(path: Path, labels: Path | None) -> Video:
    name = _name(path)
    for suffix in GIVEN:
        file = ((labels or path.parent) / f"{name}{suffix}").absolute()
        if file.exists() and file != path.absolute():
            kind = {"points": str(file)} if suffix == ".csv" else {"labels": str(file)}
            return Video(name, str(path.absolute()), **kind)
    return Video(name, str(path.absolute()))
