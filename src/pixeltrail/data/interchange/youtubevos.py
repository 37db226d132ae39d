"""YouTube-VOS: Annotations/VIDEO/*.png for the annotated frames, and meta.json with each object's category and frames."""

from __future__ import annotations

import json
from pathlib import Path

from pixeltrail.data.annotations import LABEL, Annotations, Lazy, Renumber, Size, checked_size, place
from pixeltrail.data.images import IMAGE_SUFFIXES, image_size
from pixeltrail.data.interchange import davis
from pixeltrail.data.interchange.shared import files, load_json, refusing, whole_folder
from pixeltrail.data.labels import MAX_OBJECTS
from pixeltrail.errors import InputError

TITLE, SUFFIX = "YouTube-VOS", ""
LOSES = {kind: what for kind, what in davis.LOSES.items() if kind != "labels"}


def detect(path: Path) -> bool:
    return path.is_dir() and (path / "meta.json").is_file() and (path / "Annotations").is_dir()


def read(path: Path, size: Size | None = None) -> Annotations:
    """A root with one video. Names of frames between the annotated ones come from JPEGImages if that is there."""
    meta = path / "meta.json"
    with refusing(meta, "YouTube-VOS meta.json"):
        videos = load_json(meta)["videos"]
        there = [name for name in videos if isinstance(name, str) and (path / "Annotations" / Path(name).name).is_dir()]
        if len(there) != 1 or Path(there[0]).name != there[0]:
            raise InputError(
                f"{meta}: {len(there)} of its videos have annotations; a folder with one video is expected"
            )
        name = there[0]
        objects = videos[name]["objects"]
        labels = {int(i): str(about.get("category", LABEL))[:200] for i, about in objects.items()}
        labels = {i: label for i, label in labels.items() if label != LABEL}
    pictures = files(path / "Annotations" / name, ".png")
    if not pictures:
        raise InputError(f"{path / 'Annotations' / name}: no masks; PNG files such as 00000.png are expected")
    found = checked_size(image_size(pictures[0]))
    images = path / "JPEGImages" / name
    frames = [p.stem for p in files(images, *IMAGE_SUFFIXES)] if images.is_dir() else []
    order = {stem: i for i, stem in enumerate(frames)}
    places = [order.get(p.stem, -1) for p in pictures]
    if -1 in places:
        frames, places = place([p.stem for p in pictures])
    return Annotations(name, found, frames, Lazy(lambda: davis.rows(pictures, places, found)), labels)


def write(annotations: Annotations, path: Path) -> set[str]:
    """The masks of annotated frames, and meta.json. The pictures are not copied."""
    number, lost = Renumber(MAX_OBJECTS), set()
    seen: dict[int, list[str]] = {}
    labels: dict[int, str] = {}
    with whole_folder(path) as root:
        folder = root / "Annotations" / annotations.name
        folder.mkdir(parents=True)
        for row in annotations.rows:
            if davis.write_row(annotations, row, folder, number):
                lost.add("overlaps")
            for shape in row.shapes:
                if shape.counts is not None:
                    seen.setdefault(number(shape.id), []).append(annotations.frames[row.frame])
                    labels[number(shape.id)] = annotations.label(shape.id)
        objects = {str(i): {"category": labels[i], "frames": seen[i]} for i in sorted(seen)}
        (root / "meta.json").write_text(json.dumps({"videos": {annotations.name: {"objects": objects}}}, indent=1))
    return lost | ({"large ids"} if number.changed else set())
