"""VIP: parts of people, 19 classes and the background, in videos (Zhou et al., *Adaptive Temporal Encoding Network for
Video Instance-level Human Parsing*, ACM MM 2018).

Layout as published: ``Images/VIDEO/000000000001.jpg``, ``Annotations/Category_ids/VIDEO/000000000001.png`` (class ids)
and ``lists/val_videos.txt`` (one video a line), in the root or in its folder ``VIP_Fine``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.images import IMAGE_SUFFIXES, natural_key, read_image
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.types import Image

CLASSES = (
    "background", "hat", "hair", "sun-glasses", "upper-clothes", "dress", "coat", "socks", "pants", "gloves", "scarf",
    "skirt", "torso-skin", "face", "right-arm", "left-arm", "right-leg", "left-leg", "right-shoe", "left-shoe",
)  # fmt: skip


@dataclass(frozen=True)
class VipVideo:
    """One video. ``annotations`` holds None for a frame without one; the first frame has one."""

    name: str
    frames: list[Path]
    annotations: list[Path | None]

    def images(self) -> Iterator[Image]:
        """The frames, (H, W, 3) uint8 RGB, read one at a time."""
        return map(read_image, self.frames)

    def truth(self, t: int) -> NDArray[np.uint8] | None:
        """The class of every pixel of frame t, (H, W) uint8, where that is known. Raises InputError naming the file."""
        path = self.annotations[t]
        return None if path is None else read_ids(path)


class Vip:
    """The videos of the list ``lists/val_videos.txt``, or those named. Raises InputError for missing folders and files,
    UnknownNameError for videos that are not there."""

    def __init__(self, root: str | Path, names: Sequence[str] | None = None) -> None:
        root = Path(root)
        self.root = root / "VIP_Fine" if (root / "VIP_Fine").is_dir() else root
        self.images, self.annotations = self.root / "Images", self.root / "Annotations" / "Category_ids"
        for folder in (self.images, self.annotations):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; VIP has Images/ and Annotations/Category_ids/")
        self.names = list(names) if names is not None else self._listed()
        for name in self.names:
            if not (self.images / name).is_dir() or not (self.annotations / name).is_dir() or ".." in name:
                raise UnknownNameError(f"{self.root}: no video {name!r} with images and annotations; check the list")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[VipVideo]:
        return map(self._video, self.names)

    def _listed(self) -> list[str]:
        path = self.root / "lists" / "val_videos.txt"
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a readable list ({error}); one video a line is expected") from None
        names = [line.strip().rstrip("/").split("/")[-1] for line in lines if line.strip()]
        if not names:
            raise InputError(f"{path}: names no video; one a line is expected")
        return names

    def _video(self, name: str) -> VipVideo:
        folder = self.images / name
        frames = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
        masks = {p.stem: p for p in (self.annotations / name).glob("*.png")}
        found = [masks.get(p.stem) for p in frames]
        if not found or found[0] is None:
            raise InputError(f"{folder}: no frames, or no annotation of the first, in {self.annotations / name}")
        return VipVideo(name, frames, found)
