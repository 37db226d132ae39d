"""MOTChallenge: gt/gt.txt with a line for each box, seqinfo.ini beside gt/. Frames, ids, classes and pixels count from 1.

A line is frame, id, left, top, width, height, confidence, class, visibility. MOTS, with masks, is in `mots`.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

from pixeltrail.data.annotations import LABEL, MAX_FRAMES, Annotations, Row, Shape, Size, checked_size, numbered
from pixeltrail.data.interchange.shared import identities, lines, peek, refusing, table, whole_folder
from pixeltrail.errors import InputError

TITLE, SUFFIX = "MOT", ""
LOSES = {
    "masks": "their boxes are written", "points": "left out", "void": "left out",
    "gaps": "frames without annotation become empty",
    "frame names": "frames are numbered", "fractional rate": "rounded", "opacity": "left out",
}  # fmt: skip


def detect(path: Path) -> bool:
    file = _file(path)
    first = peek(file).split("\n")[0].split(",")
    return file.is_file() and file.suffix == ".txt" and len(first) in range(6, 11) and _is_number(first[0])


def read(path: Path, size: Size | None = None) -> Annotations:
    """A sequence's folder, or its gt.txt or det.txt alone, which needs ``size``. Frames may count from 0 too."""
    file = _file(path)
    labels = _labels(file.parent)
    with refusing(file, "MOT file"):
        about = seqinfo(file)
        found = about.size or size
        if found is None:
            raise InputError(f"{file}: says no frame size and has no seqinfo.ini; name the video (--video)")
        entries, names = [], []
        for count, text in lines(file):
            cells = [cell.strip() for cell in text.split(",")]
            try:
                frame, own = int(float(cells[0])), int(float(cells[1]))
                left, top, width, height = (float(c) for c in cells[2:6])
                if not (0 <= frame <= MAX_FRAMES and own >= -1):
                    raise ValueError
                kind = int(float(cells[7])) if len(cells) > 7 else -1
                confidence = None if len(cells) < 7 or cells[6] in ("1", "-1") else float(cells[6])
                hidden = len(cells) == 9 and float(cells[8]) == 0
                shape = Shape(1, None, (left - 1, top - 1, left - 1 + width, top - 1 + height), hidden, confidence)
            except (ValueError, IndexError, OverflowError, InputError):
                raise InputError(
                    f"{file}: line {count}: is no frame,id,left,top,width,height,...: {text[:60]!r}"
                ) from None
            entries.append((frame, shape))
            names.append((frame, labels[kind - 1] if 0 < kind <= len(labels) else LABEL, None if own < 0 else own))
        return assemble(entries, names, found, about)


def write(annotations: Annotations, path: Path) -> set[str]:
    """gt/gt.txt, gt/labels.txt and seqinfo.ini."""
    labels: dict[str, int] = {}

    def boxes() -> Iterator[str]:
        for row in annotations.rows:
            for shape in row.shapes:
                left, top, right, bottom = shape.bounds(annotations.size)
                kind = labels.setdefault(plain(annotations.label(shape.id)), len(labels) + 1)
                cells = (left + 1, top + 1, right - left, bottom - top)
                confidence = "1" if shape.confidence is None else repr(float(shape.confidence))
                yield ",".join(
                    [str(row.frame + 1), str(shape.id), *(f"{c!r}".removesuffix(".0") for c in cells), confidence,
                     str(kind), str(1 - shape.occluded)]
                )  # fmt: skip

    with whole_folder(path) as folder:
        (folder / "gt").mkdir()
        table(folder / "gt" / "gt.txt", boxes())
        table(folder / "gt" / "labels.txt", labels)
        write_seqinfo(annotations, folder)
    return set()


class SeqInfo:
    """What seqinfo.ini says of a video: name, size, number of frames and rate."""

    def __init__(self, name: str, size: Size | None = None, count: int = 0, fps: float | None = None) -> None:
        self.name, self.size, self.count, self.fps = name, size, count, fps


def seqinfo(file: Path) -> SeqInfo:
    """The seqinfo.ini beside gt/, or nothing but a name. Raises InputError if it is damaged."""
    ini = file.parent.parent / "seqinfo.ini"
    if file.parent.name not in ("gt", "det") or not ini.is_file():
        return SeqInfo(file.stem if file.parent.name not in ("gt", "det") else file.parent.parent.name)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(peek(ini, 65536))
        about = parser["Sequence"]
        size = checked_size((int(about["imheight"]), int(about["imwidth"])))
        count, fps = int(about.get("seqlength", "0")), float(about.get("framerate", "0"))
        if not 0 <= count <= MAX_FRAMES:
            raise ValueError(f"seqLength {count}")
        return SeqInfo(about.get("name", file.parent.parent.name), size, count, fps or None)
    except (configparser.Error, KeyError, ValueError) as error:
        raise InputError(f"{ini}: is no seqinfo.ini ({' '.join(str(error).split())[:80]})") from None


def write_seqinfo(annotations: Annotations, folder: Path) -> None:
    height, width = annotations.size
    entries = {
        "name": plain(annotations.name), "imDir": "img1", "frameRate": round(annotations.fps or 25),
        "seqLength": len(annotations.frames), "imWidth": width, "imHeight": height, "imExt": ".jpg",
    }  # fmt: skip
    table(folder / "seqinfo.ini", ["[Sequence]", *(f"{key}={value}" for key, value in entries.items())])


def assemble(
    entries: list[tuple[int, Shape]], found: list[tuple[int, str, int | None]], size: Size, about: SeqInfo
) -> Annotations:
    """Annotations from (frame, shape) and (frame, label, id); frames count from 1, or from 0 if one is 0."""
    first = 0 if any(frame == 0 for frame, _ in entries) else 1
    count = max([about.count, *(frame + 1 - first for frame, _ in entries)])
    shapes: dict[int, list[Shape]] = {}
    labels: dict[int, str] = {}
    for (frame, shape), (_, label, _), i in zip(entries, found, identities(found), strict=True):
        whose = Shape(i, shape.counts, shape.box, shape.occluded, shape.confidence)
        shapes.setdefault(frame - first, []).append(whose)
        if label != LABEL:
            labels[i] = label
    rows = tuple(Row(t, tuple(shapes.get(t, ()))) for t in range(count))
    return Annotations(about.name, size, numbered(count), rows, labels, (), about.fps)


def plain(text: str) -> str:
    """On one line."""
    return " ".join(text.split()) or "-"


def _labels(folder: Path) -> list[str]:
    file = folder / "labels.txt"
    return [line.strip()[:200] for line in peek(file, 1 << 20).splitlines()] if file.is_file() else []


def _file(path: Path) -> Path:
    there = [path / "gt" / "gt.txt", path / "det" / "det.txt", path / "gt.txt"] if path.is_dir() else [path]
    return next((p for p in there if p.is_file()), there[0])


def _is_number(text: str) -> bool:
    return text.strip().removesuffix(".0").isdecimal()
