"""The folders of the DAVIS benchmark: frames, annotations, lists of sequences and results to be scored.

Both years' layout: ``JPEGImages/480p/NAME/00000.jpg``, ``Annotations/480p/NAME/00000.png``, ``ImageSets/**/LIST.txt``
(optional). Annotations are indexed PNGs of object ids (DAVIS-2017), or binary masks of 0 and 255 (DAVIS-2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.files import one_line
from pixeltrail.data.images import IMAGE_SUFFIXES, natural_key, open_image, read_image
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.types import VOID, Image, LabelMap

Ids = NDArray[np.uint8]

_RESOLUTIONS = ("480p", "Full-Resolution")
_LISTS = ("2017/val", "2016/val", "480p/val", "val")  # of several lists, the first of these is the one to evaluate on


@dataclass(frozen=True)
class DavisSequence:
    """One video with the true mask of every frame. ``binary``: every non-zero pixel is object 1, nothing is void."""

    name: str
    frames: list[Path]
    annotations: list[Path]
    binary: bool

    @property
    def frame_names(self) -> list[str]:
        return [path.stem for path in self.annotations]

    def images(self) -> Iterator[Image]:
        """The frames, (H, W, 3) uint8 RGB, read one at a time. Raises InputError naming the file."""
        return map(read_image, self.frames)

    def truth(self) -> Iterator[Ids]:
        """The true ids of every frame, (H, W) uint8 with void as 255. Raises InputError naming the file."""
        return (read_ids(path, binary=self.binary) for path in self.annotations)

    def first(self) -> LabelMap:
        """The true mask of the first frame, which a tracker may see."""
        return LabelMap(read_ids(self.annotations[0], binary=self.binary))

    def results(self, folder: str | Path) -> Iterator[Ids]:
        """Masks that some program wrote to ``folder/NAME/00000.png`` ..., under the annotations' names.

        One (H, W) uint8 map per frame. As by the official evaluator, the files of the first and the last frame are not
        opened (empty masks stand for them) and need not exist. Raises InputError for a missing or unreadable file or
        one of another size than its annotation.
        """
        folder = Path(folder) / self.name
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; the results of a sequence stand in a folder of its name")
        height, width = self.first().size
        for t, name in enumerate(self.frame_names):
            if t in (0, len(self.annotations) - 1):
                yield np.zeros((height, width), np.uint8)
                continue
            path = folder / f"{name}.png"
            if not path.is_file():
                raise InputError(
                    f"{path}: frame {t}: the mask is missing; one PNG per frame is needed, empty if need be"
                )
            ids = read_ids(path, binary=self.binary)
            if ids.shape != (height, width):
                got = f"{ids.shape[1]}x{ids.shape[0]}"
                raise InputError(f"{path}: frame {t}: the mask is {got}, the annotation {width}x{height}; use its size")
            yield ids


class Davis:
    """The sequences of a DAVIS folder, in the order of their list.

    ``sequences`` names those wanted; else ``split`` names a list in ``ImageSets`` ("2016/val", "2017/train", ...); else
    the list is 2017/val, 2016/val, val or the only one there is, and without any list all folders are taken.
    A sequence is binary if a list of 2016 named it, or if its first annotation holds 255 and nothing else but 0.
    ``resolution`` is a folder of ``JPEGImages`` and ``Annotations``
    (480p if it is there, then Full-Resolution, then the only one).
    Raises InputError for missing folders and files, UnknownNameError with the nearest name for unknown sequences.
    """

    def __init__(
        self,
        root: str | Path,
        sequences: Sequence[str] | None = None,
        *,
        split: str | None = None,
        resolution: str | None = None,
    ) -> None:
        self.root = Path(root)
        frames, annotations = self._folders(resolution)
        there = sorted(p.name for p in annotations.iterdir() if p.is_dir() and (frames / p.name).is_dir())
        if not there:
            raise InputError(f"{annotations}: no sequence has frames and annotations; folders like bear/ are expected")
        listed = None if sequences is not None else self._list(split)
        names = sequences if sequences is not None else _names(listed) if listed else there
        if not names:
            raise InputError(f"{listed or self.root}: names no sequence; there are {len(there)}, such as {there[0]!r}")
        for name in names:
            if name not in there:
                raise UnknownNameError(f"{annotations}: no sequence {name!r}; {_nearest(name, there)}")
        of_2016 = listed is not None and "2016" in listed.relative_to(self.root).parts
        self._sequences = [_sequence(frames / name, annotations / name, of_2016) for name in names]

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[DavisSequence]:
        return iter(self._sequences)

    def _folders(self, resolution: str | None) -> tuple[Path, Path]:
        kinds = [self.root / "JPEGImages", self.root / "Annotations"]
        for folder in [self.root, *kinds]:
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; a DAVIS root holds JPEGImages/480p and Annotations/480p")
        both = sorted(p.name for p in kinds[1].iterdir() if p.is_dir() and (kinds[0] / p.name).is_dir())
        if resolution is not None and resolution not in both:
            raise UnknownNameError(f"{self.root}: no resolution {resolution!r}; {_nearest(resolution, both)}")
        wanted = [resolution] if resolution is not None else [r for r in _RESOLUTIONS if r in both] or both
        if not wanted or (len(wanted) > 1 and wanted[0] not in _RESOLUTIONS):
            raise InputError(f"{self.root}: expected JPEGImages/480p and Annotations/480p; {_nearest('480p', both)}")
        return kinds[0] / wanted[0], kinds[1] / wanted[0]

    def _list(self, split: str | None) -> Path | None:
        folder = self.root / "ImageSets"
        lists = {p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.rglob("*.txt"))}
        if split is not None:
            if split not in lists:
                raise UnknownNameError(f"{folder}: no list {split!r}; {_nearest(split, list(lists))}")
            return lists[split]
        known = [name for name in _LISTS if name in lists]
        if not known and len(lists) > 1:
            raise InputError(f"{folder}: several lists; choose the split: {', '.join(lists)}")
        return lists[known[0]] if known else next(iter(lists.values()), None)


def read_ids(path: str | Path, *, binary: bool = False) -> Ids:
    """(H, W) uint8 object ids of an indexed or grey 8-bit PNG; with ``binary`` every non-zero pixel becomes 1.

    Colour files are taken if they are grey in fact (equal channels); alpha is ignored.
    Raises InputError for a file that cannot be read, has another depth, or holds colours.
    """
    path = Path(path)
    with open_image(path) as image:
        mode = image.mode
        if mode not in ("P", "L", "LA", "1", "RGB", "RGBA"):
            raise InputError(f"{path}: the mask has mode {mode}; an 8-bit indexed or grey PNG of object ids is needed")
        try:
            pixels = np.atleast_3d(np.asarray(image, np.uint8))
        except Exception as error:  # Pillow's readers raise ten kinds on damaged files
            raise InputError(f"{path}: is damaged ({one_line(error)}); copy it again from its source") from error
    if mode in ("RGB", "RGBA") and (pixels[..., :3] != pixels[..., :1]).any():
        raise InputError(f"{path}: the mask is in colour; an indexed or grey PNG of object ids is needed")
    ids = pixels[..., 0]
    return (ids > 0).astype(np.uint8) if binary else ids.copy()


def _sequence(frames: Path, annotations: Path, binary: bool) -> DavisSequence:
    found = sorted(frames.iterdir(), key=natural_key)
    images = {p.stem: p for p in found if p.suffix.lower() in IMAGE_SUFFIXES}
    masks = {p.stem: p for p in annotations.glob("*.png")}
    if not images:
        raise InputError(f"{frames}: no frames; JPEG or PNG files like 00000.jpg are expected")
    for stem in images:
        if stem not in masks:
            raise InputError(f"{annotations / stem}.png: the annotation is missing; every frame needs one")
    kept = [masks[stem] for stem in images]
    return DavisSequence(frames.name, list(images.values()), kept, binary or _is_binary(kept[0]))


def _is_binary(path: Path) -> bool:
    ids = read_ids(path)
    return bool((ids == VOID).any() and ((ids == 0) | (ids == VOID)).all())


def _names(path: Path) -> list[str]:
    """Sequences named by a list: one name a line, or as in 2016 the files of each frame (…/NAME/00000.jpg …)."""
    try:
        words = [line.split()[0] for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list ({error}); one sequence name a line is expected") from None
    return list(dict.fromkeys(w.split("/")[-2] if "/" in w else w for w in words))


def _nearest(name: str, there: Sequence[str]) -> str:
    near = get_close_matches(name, there, 1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(there[:10]) or 'none'}"
