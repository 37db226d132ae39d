"""JHMDB: 15 human joints in every frame of short clips (Jhuang et al., ICCV 2013).

Layout as published: ``Rename_Images/CLASS/CLIP/00001.png``, ``joint_positions/CLASS/CLIP/joint_positions.mat`` and
``splits/CLASS_test_split1.txt`` with lines ``CLIP.avi 2`` (1 for training, 2 for testing).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.images import IMAGE_SUFFIXES, natural_key, read_image
from pixeltrail.data.matlab import read_mat
from pixeltrail.errors import InputError
from pixeltrail.types import Image

JOINTS = 15


@dataclass(frozen=True)
class JhmdbClip:
    """One clip: ``name`` is CLASS/CLIP, ``frames`` those that have joints."""

    name: str
    frames: list[Path]
    joints: NDArray[np.float64]
    """(T, 15, 2) as (x, y) in pixels, counted from 0."""

    def images(self) -> Iterator[Image]:
        """The frames, (H, W, 3) uint8 RGB, read one at a time."""
        return map(read_image, self.frames)


class Jhmdb:
    """The test clips of a split (1, 2 or 3), in order of their names; each is opened when its turn comes.

    Raises InputError for missing folders, lists and files.
    """

    def __init__(self, root: str | Path, *, split: int = 1) -> None:
        self.root = Path(root)
        for name in ("Rename_Images", "joint_positions", "splits"):
            if not (self.root / name).is_dir():
                raise InputError(
                    f"{self.root / name}: no such folder; JHMDB has Rename_Images, joint_positions, splits"
                )
        lists = sorted((self.root / "splits").glob(f"*_test_split{split}.txt"))
        if not lists:
            raise InputError(f"{self.root / 'splits'}: no list *_test_split{split}.txt; there are splits 1, 2 and 3")
        self.names = [name for path in lists for name in _tested(path)]
        if not self.names:
            raise InputError(f"{self.root / 'splits'}: split {split} tests no clip; lines like CLIP.avi 2 are expected")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[JhmdbClip]:
        return map(self._clip, self.names)

    def _clip(self, name: str) -> JhmdbClip:
        path = self.root / "joint_positions" / name / "joint_positions.mat"
        found = read_mat(path).get("pos_img")
        if found is None or found.ndim != 3 or found.shape[:2] != (2, JOINTS) or not np.isfinite(found).all():
            got = "none" if found is None else str(found.shape)
            raise InputError(f"{path}: expected finite joints pos_img (2, {JOINTS}, T), got {got}")
        folder = self.root / "Rename_Images" / name
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; the frames of a clip stand in a folder of its name")
        frames = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
        length = found.shape[2]
        if not 0 < length <= len(frames):
            raise InputError(f"{folder}: {len(frames)} frames for {length} with joints; each needs one")
        return JhmdbClip(name, frames[:length], found.transpose(2, 1, 0).astype(np.float64) - 1)


def _tested(path: Path) -> list[str]:
    try:
        lines = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable list ({error}); lines like CLIP.avi 2 are expected") from None
    action = path.name.partition("_test_split")[0]
    clips = []
    for line in lines:
        if len(line) != 2 or line[1] not in ("0", "1", "2") or "/" in line[0] or line[0].startswith("."):
            raise InputError(f"{path}: {' '.join(line)[:80]!r}: lines like CLIP.avi 2 are expected")
        if line[1] == "2":
            clips.append(f"{action}/{line[0].removesuffix('.avi')}")
    return sorted(clips)
