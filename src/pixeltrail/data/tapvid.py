"""TAP-Vid: points tracked through videos (Doersch et al., *TAP-Vid*, NeurIPS 2022).

As published, a pickle: a dictionary of videos (DAVIS), or a list (RGB-Stacking, a shard of Kinetics), each with ``video``
(T, H, W, 3) uint8 or T encoded images, ``points`` (P, T, 2) as (x, y) in 0 … 1, and ``occluded`` (P, T). The pickle is
not executed: its arrays are found in the file and mapped. Or ``.npz`` files with the same three arrays, one per video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pixeltrail.data.arrays import Pickled, PickleFile, Span, blaming, read_npz
from pixeltrail.data.images import MAX_PIXELS, natural_key
from pixeltrail.errors import InputError
from pixeltrail.types import Image

SUFFIXES = (".pkl", ".pickle", ".npz")


@dataclass(frozen=True)
class TapVideo:
    """One video. ``points`` (P, T, 2) float64 in 0 … 1: (0, 0) is the top left corner of the image, (1, 1) the bottom
    right one; ``occluded`` (P, T) bool. ``frame(t)`` gives (H, W, 3) uint8 RGB."""

    name: str
    points: NDArray[np.float64]
    occluded: NDArray[np.bool_]
    frame: Callable[[int], Image]

    @property
    def length(self) -> int:
        return int(self.occluded.shape[1])


class TapVid:
    """The videos of a file, or of all such files in a folder. Raises InputError, also while it is iterated over."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = [self.path]
        if self.path.is_dir():
            self.files = sorted((p for p in self.path.iterdir() if p.suffix in SUFFIXES), key=natural_key)
        if not self.files or any(p.suffix not in SUFFIXES or not p.is_file() for p in self.files):
            raise InputError(f"{self.path}: no TAP-Vid file; a .pkl or .npz, or a folder of them, is expected")

    def __iter__(self) -> Iterator[TapVideo]:
        for file in self.files:
            if file.suffix == ".npz":
                arrays = read_npz(file, "video", "points", "occluded")
                yield _video(file, file.stem, arrays["points"], arrays["occluded"], _mapped(file, arrays["video"]))
            else:
                yield from _pickled(file)


def _pickled(path: Path) -> Iterator[TapVideo]:
    content = PickleFile(path)
    root = content.root
    named = root.items() if isinstance(root, dict) else enumerate(root) if isinstance(root, list) else ()
    if not named:
        raise InputError(f"{path}: holds no videos; a dictionary or a list of them is expected")
    for key, entry in named:
        name = str(key) if isinstance(key, str) else f"{path.stem}-{int(key):05d}"
        match entry:
            case {"points": Pickled() as points, "occluded": Pickled() as occluded, "video": video}:
                frames = _frames(content, video)
                yield _video(path, name, content.array(points), content.array(occluded), frames)
            case _:
                raise InputError(f"{path}: {name[:80]!r}: video, points and occluded are expected")


def _video(path: Path, name: str, points: NDArray[Any], hidden: NDArray[Any], frames: _Frames) -> TapVideo:
    name = "".join(c if c.isprintable() else "?" for c in name[:80])
    ok = points.ndim == 3 and points.shape == (*hidden.shape, 2) and 0 not in hidden.shape and points.dtype.kind == "f"
    if not ok or hidden.shape[1] != frames.length or hidden.dtype.kind not in "biu":
        raise InputError(
            f"{path}: {name}: expected points (P, T, 2), occluded (P, T) and T frames, "
            f"got {points.shape}, {hidden.shape} and {frames.length}"
        )
    occluded = hidden.astype(bool)
    if not np.isfinite(points[~occluded]).all():
        raise InputError(f"{path}: {name}: a visible point is not finite; get the file again")
    return TapVideo(name, points.astype(np.float64), occluded, frames.frame)


@dataclass(frozen=True)
class _Frames:
    length: int
    frame: Callable[[int], Image]


def _mapped(path: Path, video: NDArray[Any]) -> _Frames:
    if video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8 or 0 in video.shape:
        raise InputError(f"{path}: expected a video (T, H, W, 3) uint8, got {video.dtype} {video.shape}")
    return _Frames(len(video), lambda t: np.array(video[t]))


def _frames(content: PickleFile, video: object) -> _Frames:
    if isinstance(video, Pickled) and not video.items:
        return _mapped(content.path, content.array(video))
    return _encoded(content, video.items if isinstance(video, Pickled) else video)


def _encoded(content: PickleFile, images: object) -> _Frames:
    if not isinstance(images, list) or not all(isinstance(image, bytes | Span) for image in images):
        raise InputError(f"{content.path}: frames that are neither an array nor encoded images; get the file again")

    def frame(t: int) -> Image:
        data = BytesIO(content.bytes(images[t]))
        with blaming(content.path, "frame of TAP-Vid"), PIL.Image.open(data, formats=("JPEG", "PNG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"frame {t} has {image.width}x{image.height} pixels")
            return np.array(image.convert("RGB"))

    return _Frames(len(images), frame)
