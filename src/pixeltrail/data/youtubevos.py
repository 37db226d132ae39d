"""YouTube-VOS: several objects that may appear late, annotated in some of the frames (Xu et al., ECCV 2018).

Layout as published, for each split: ``JPEGImages/VIDEO/00000.jpg``, ``Annotations/VIDEO/00000.png`` (every fifth frame;
in splits whose masks are kept back only the frames in which an object appears first) and ``meta.json``:
``{"videos": {VIDEO: {"objects": {"1": {"category": "ape", "frames": ["00000", ...]}}}}}``.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import atomic, one_line
from pixeltrail.data.images import IMAGE_SUFFIXES, natural_key, read_image
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.types import VOID, Image, LabelMap, davis_palette

MAX_JSON = 256 << 20


@dataclass(frozen=True)
class YouTubeObject:
    """One object: its ``id`` in the masks, its ``category``, the frame (as an index) in which it appears first, and the
    names of those in which it is expected."""

    id: int
    category: str
    first: int
    frames: tuple[str, ...]


@dataclass(frozen=True)
class YouTubeVideo:
    """One video; ``annotations`` maps frame indices to the masks that there are."""

    name: str
    frames: list[Path]
    annotations: dict[int, Path]
    objects: list[YouTubeObject]

    def images(self) -> Iterator[Image]:
        """The frames, (H, W, 3) uint8 RGB, read one at a time."""
        return map(read_image, self.frames)

    def truth(self, t: int) -> NDArray[np.uint8]:
        """The true ids of an annotated frame, (H, W) uint8. Raises InputError naming the file."""
        return read_ids(self.annotations[t])

    def given(self) -> dict[int, LabelMap]:
        """What a tracker may see: in the frame where objects appear first, those objects. Raises InputError for one that
        is not in its mask."""
        given: dict[int, NDArray[np.uint8]] = {}
        for thing in self.objects:
            mask = self.truth(thing.first)
            if not (mask == thing.id).any():
                where = self.annotations[thing.first]
                raise InputError(
                    f"{where}: object {thing.id} is not in the mask of its first frame; get the file again"
                )
            ids = given.setdefault(thing.first, np.where(mask == VOID, mask, 0).astype(np.uint8))
            ids[mask == thing.id] = thing.id
        return {t: LabelMap(ids) for t, ids in sorted(given.items())}

    def expected(self) -> list[int]:
        """The frames, as indices, whose masks a submission holds: those that any object is expected in."""
        stems = {path.stem: t for t, path in enumerate(self.frames)}
        return sorted({stems[name] for thing in self.objects for name in thing.frames if name in stems})


class YouTubeVos:
    """The videos of a split's folder, in order of their names, or those named; each is opened when its turn comes.

    Raises InputError for missing folders and a damaged meta.json, UnknownNameError for names that are not there.
    """

    def __init__(self, root: str | Path, names: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        for name in ("JPEGImages", "Annotations"):
            if not (self.root / name).is_dir():
                raise InputError(
                    f"{self.root / name}: no such folder; a split has JPEGImages, Annotations and meta.json"
                )
        self.meta = read_meta(self.root / "meta.json")
        for name in names or ():
            if name not in self.meta:
                raise UnknownNameError(f"{self.root}: meta.json has no video {name!r}; check the name")
        self.names = list(names) if names else sorted(self.meta)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[YouTubeVideo]:
        return map(self._video, self.names)

    def _video(self, name: str) -> YouTubeVideo:
        folder, masks = self.root / "JPEGImages" / name, self.root / "Annotations" / name
        if not folder.is_dir() or not masks.is_dir():
            raise InputError(f"{folder}: no such folder, or none of masks; meta.json names the video")
        frames = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
        stems = {path.stem: t for t, path in enumerate(frames)}
        annotations = {stems[p.stem]: p for p in sorted(masks.glob("*.png")) if p.stem in stems}
        objects = []
        for number, entry in sorted(self.meta[name].items(), key=lambda item: int(item[0])):
            names = tuple(entry["frames"])
            first = next((stems[f] for f in sorted(names) if f in stems and stems[f] in annotations), None)
            if first is None:
                raise InputError(f"{masks}: no mask of a frame in which object {number} is; get the folder again")
            objects.append(YouTubeObject(int(number), str(entry.get("category", "")), first, names))
        return YouTubeVideo(name, frames, annotations, objects)


def read_meta(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Video -> object id -> {"category", "frames"}, as meta.json says. Raises InputError."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it has more than {MAX_JSON >> 20} MiB")
        videos = json.loads(path.read_text("utf-8"))["videos"]
        meta = {name: video["objects"] for name, video in videos.items()}
        for name, objects in meta.items():
            if name in ("", ".", "..") or "/" in name or "\\" in name or not objects:
                raise ValueError(f"{name[:40]!r} is no name of a video, or has no objects")
            for number, thing in objects.items():
                if not 0 < int(number) < VOID or not all(isinstance(f, str) for f in thing["frames"]):
                    raise ValueError(f"{name}: object {number[:10]!r} has no number from 1 to 254, or no frames")
                if not isinstance(thing.get("category", ""), str):
                    raise ValueError(f"{name}: object {number}: the category is no text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: no meta.json of YouTube-VOS ({one_line(error)}); get it again") from error
    return meta


class Submission:
    """The zip file that the evaluation server takes: ``Annotations/VIDEO/00000.png``, indexed PNGs. See `submission`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def add(self, video: str, frame: str, ids: NDArray[np.uint8]) -> None:
        """The (H, W) uint8 ids of one frame."""
        image = PIL.Image.fromarray(ids)
        image.putpalette(davis_palette().tobytes())
        data = io.BytesIO()
        image.save(data, "PNG")
        # Without the time of writing, the same masks make the same file.
        self._archive.writestr(zipfile.ZipInfo(f"Annotations/{video}/{frame}.png"), data.getvalue())


@contextmanager
def submission(path: Path) -> Iterator[Submission]:
    """A `Submission` that appears at ``path`` when the block succeeds. Raises as `files.atomic`."""
    with atomic(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        yield Submission(archive)


def read_categories(path: Path) -> set[str]:
    """Categories from another split's meta.json, or a text file with one a line. Raises InputError."""
    if path.suffix == ".json":
        things = (thing for video in read_meta(path).values() for thing in video.values())
        return {thing["category"] for thing in things if "category" in thing}
    try:
        found: Iterable[str] = (line.strip() for line in path.read_text("utf-8-sig").splitlines())
        return {name for name in found if name}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list ({error}); one category a line is expected") from None
