"""MOTS: gt/gt.txt with a mask a line and instances/*.png in 16 bits; frames count from 1 as in MOTSChallenge (KITTI: 0).

A line is frame, object, class, height, width and COCO's compressed run lengths, between spaces. An object is
1000 · class + number; in the PNG so is a pixel's value. Class 10 is what is not to be scored, here void.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image

from pixeltrail.data import rle
from pixeltrail.data.annotations import LABEL, MAX_FRAMES, Annotations, Renumber, Row, Shape, Size, encode, label_map
from pixeltrail.data.interchange.mot import SeqInfo, assemble, plain, seqinfo, write_seqinfo
from pixeltrail.data.interchange.shared import lines, peek, refusing, table, whole_folder
from pixeltrail.errors import InputError

TITLE, SUFFIX = "MOTS", ""
LOSES = {
    "boxes": "left out", "points": "left out", "occlusion": "left out", "confidence": "left out",
    "gaps": "frames without annotation become empty", "frame names": "frames are numbered", "fractional rate": "rounded",
    "overlaps": "the later object covers the earlier", "large ids": "ids above 999 are renumbered",
    "opacity": "masks are hard",
}  # fmt: skip
IGNORED = 10


def detect(path: Path) -> bool:
    file = _file(path)
    first = peek(file).split("\n")[0].split(" ")
    return file.is_file() and len(first) == 6 and all(cell.isdecimal() for cell in first[:5])


def read(path: Path, size: Size | None = None) -> Annotations:
    """A sequence's folder, or its text file alone."""
    file = _file(path)
    with refusing(file, "MOTS file"):
        about = seqinfo(file)
        labels = [line.strip()[:200] for line in peek(file.parent / "labels.txt", 1 << 20).splitlines()]
        entries: list[tuple[int, Shape]] = []
        found: list[tuple[int, str, int | None]] = []
        crowds: dict[int, str | None] = {}
        for count, text in lines(file):
            try:
                frame, own, kind, height, width = (int(cell) for cell in text.split(" ")[:5])
                if not 0 <= frame <= MAX_FRAMES or own < 0:
                    raise ValueError
                about.size = about.size or (height, width)
                if about.size != (height, width):
                    raise ValueError
                counts = encode(rle.decode({"size": [height, width], "counts": text.split(" ")[5]}))
            except (ValueError, IndexError, InputError) as error:
                why = f" ({error})" if isinstance(error, InputError) else ""
                raise InputError(
                    f"{file}: line {count}: is no frame object class height width rle: {text[:40]!r}{why}"
                ) from None
            if kind == IGNORED:
                crowds[frame] = counts
            elif counts is not None:
                entries.append((frame, Shape(1, counts)))
                label = labels[kind - 1] if 0 < kind <= len(labels) else LABEL
                found.append((frame, label, own - 1000 * kind if own // 1000 == kind else own))
        if about.size is None:
            raise InputError(f"{file}: holds no masks")
        return _with_void(entries, found, crowds, about.size, about)


def _with_void(
    entries: list[tuple[int, Shape]], found: list[tuple[int, str, int | None]], crowds: dict[int, str | None], size: Size,
    about: SeqInfo,
) -> Annotations:  # fmt: skip
    first = 0 if any(frame == 0 for frame in [*(f for f, _ in entries), *crowds]) else 1
    about.count = max([about.count, *(frame + 1 - first for frame in [*crowds, *(f for f, _ in entries)])])
    plain_rows = assemble([(f + 1 - first, s) for f, s in entries], found, size, about)
    rows = tuple(Row(r.frame, r.shapes, (), crowds.get(r.frame + first)) for r in plain_rows.rows)
    return Annotations(about.name, size, plain_rows.frames, rows, plain_rows.labels, (), about.fps)


def write(annotations: Annotations, path: Path) -> set[str]:
    """gt/gt.txt, instances/000001.png ..., a labels.txt beside each, and seqinfo.ini."""
    labels: dict[str, int] = {}
    number, lost = Renumber(999), set()
    size = list(annotations.size)

    def value(i: int) -> int:
        name = plain(annotations.label(i))
        if name not in labels:
            kind = len(labels) + 1
            labels[name] = kind + (kind >= IGNORED)
        if labels[name] > 64:
            raise InputError("MOTS in 16 bits goes to 64 classes; use another format")
        return 1000 * labels[name] + number(i)

    def masks(folder: Path) -> Iterator[str]:
        for row in annotations.rows:
            ids, overlap = label_map(row, annotations.size, value)
            if overlap:
                lost.add("overlaps")
            if row.void is not None:
                ids[rle.decode({"size": size, "counts": row.void}) & (ids == 0)] = 1000 * IGNORED
            PIL.Image.fromarray(ids).save(folder / f"{row.frame + 1:06d}.png", "PNG")
            for pixel in np.unique(ids[ids > 0]).tolist():
                yield f"{row.frame + 1} {pixel} {pixel // 1000} {size[0]} {size[1]} {encode(ids == pixel)}"

    with whole_folder(path) as folder:
        (folder / "gt").mkdir()
        (folder / "instances").mkdir()
        table(folder / "gt" / "gt.txt", masks(folder / "instances"))
        names = list(labels)
        for place in ("gt", "instances"):
            table(
                folder / place / "labels.txt", [*names[: IGNORED - 1], *(["ignored"] if names[9:] else []), *names[9:]]
            )
        write_seqinfo(annotations, folder)
    return lost | ({"large ids"} if number.changed else set())


def _file(path: Path) -> Path:
    return path / "gt" / "gt.txt" if path.is_dir() else path
