"""Videos with the true box of one object in every frame, in three published layouts, told apart by their files.

- OTB (Wu et al., CVPR 2013): ``NAME/groundtruth_rect.txt`` with left, top, width, height, counted from 1, and frames in
  ``NAME/img/``;
- VOT (Kristan et al.): ``NAME/groundtruth.txt`` with such a rectangle, or the corners of a polygon, whose upright
  bounding box counts, and frames in ``NAME/color/`` or ``NAME/``;
- TLD (Kalal et al., TPAMI 2012): ``NAME/gt.txt`` with left, top, right, bottom, and a video or frames in ``NAME/``.

Numbers are separated by commas, tabs or spaces; NaN, or a box without an area, marks a frame where the object is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.images import IMAGE_SUFFIXES
from pixeltrail.data.video import FrameSource, open_frames
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.types import Image

LISTS = ("groundtruth_rect.txt", "groundtruth.txt", "gt.txt")
MAX_BYTES = 64 << 20
_VIDEOS = (".mpg", ".mpeg", ".avi", ".mp4", ".mkv", ".webm", ".mov")


@dataclass(frozen=True)
class BoxSequence:
    """One video. ``boxes`` (T, 4) float64: left, top, right, bottom in pixels, NaN where the object is absent."""

    name: str
    source: FrameSource
    boxes: NDArray[np.float64]

    def images(self, start: int = 0) -> Iterator[Image]:
        """The frames from ``start`` on that have a box or are marked as absent, (H, W, 3) uint8 RGB, one at a time."""
        frames = self.source.frames(start)
        return (frame.image for _, frame in zip(range(start, len(self.boxes)), frames, strict=False))


class BoxSequences:
    """The sequences in the folders of ``root``, or the one that ``root`` is. Raises InputError for a sequence that cannot
    be read, UnknownNameError for ``names`` that are not there."""

    def __init__(self, root: str | Path, names: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(
                f"{self.root}: no such folder; folders with a groundtruth_rect.txt and frames are expected"
            )
        own = [self.root] if _list(self.root) else sorted(p for p in self.root.iterdir() if p.is_dir() and _list(p))
        there = {p.name: p for p in own}
        if not there:
            raise InputError(
                f"{self.root}: no sequence; folders with one of {', '.join(LISTS)} and frames are expected"
            )
        for name in names or ():
            if name not in there:
                raise UnknownNameError(f"{self.root}: no sequence {name!r}; there are {', '.join(list(there)[:10])}")
        self.folders = [there[name] for name in names or there]

    def __len__(self) -> int:
        return len(self.folders)

    def __iter__(self) -> Iterator[BoxSequence]:
        return map(read_sequence, self.folders)


def read_sequence(folder: Path) -> BoxSequence:
    """One sequence in any of the three layouts. Raises InputError."""
    path = _list(folder)
    if path is None:
        raise InputError(f"{folder}: no {', '.join(LISTS)}; one of them is expected")
    boxes = read_boxes(path)
    if np.isnan(boxes[0]).any():
        raise InputError(f"{path}: line 1: the first frame needs a box to begin with")
    return BoxSequence(folder.name, open_frames(_frames(folder)), boxes)


def read_boxes(path: Path) -> NDArray[np.float64]:
    """(T, 4) left, top, right, bottom in pixels counted from 0, by the layout that the file's name belongs to.

    Raises InputError for a missing file and for lines of another form.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable list of boxes ({error}); one box a line is expected") from None
    if not lines:
        raise InputError(f"{path}: is empty; one box a line is expected")
    return np.array([_box(path, number, line) for number, line in enumerate(lines, 1)])


def _box(path: Path, number: int, line: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(word) for word in re.split(r"[,;\s]+", line.strip().strip(",;"))])
    except ValueError:
        raise InputError(f"{path}: line {number}: {line.strip()[:60]!r} are no numbers; get the file again") from None
    corners = path.name == "groundtruth.txt" and len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not corners:
        raise InputError(f"{path}: line {number}: {len(values)} numbers; four of a box are expected")
    if corners:
        points = values.reshape(-1, 2)
        box = np.concatenate((points.min(0), points.max(0)))
    elif path.name == "gt.txt":
        box = values
    else:
        box = np.concatenate((values[:2], values[:2] + values[2:]))
    if path.name == "groundtruth_rect.txt":
        box = box - 1
    there = np.isfinite(box).all() and (box[2:] > box[:2]).all()
    return box if there else np.full(4, np.nan)


def _list(folder: Path) -> Path | None:
    return next((folder / name for name in LISTS if (folder / name).is_file()), None)


def _frames(folder: Path) -> Path:
    for name in ("img", "color"):
        if (folder / name).is_dir():
            return folder / name
    videos = sorted(p for p in folder.iterdir() if p.suffix.lower() in _VIDEOS)
    if any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir()):
        return folder
    if len(videos) != 1:
        raise InputError(f"{folder}: {len(videos)} videos and no frames; frames in img/, or one video, are expected")
    return videos[0]
