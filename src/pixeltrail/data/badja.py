"""BADJA: joints of animals in videos, mostly of DAVIS (Biggs et al., *Creatures Great and SMAL*, ACCV 2018).

One JSON file per video, in the root or in ``joint_annotations/``: a list of annotated frames with ``image_path``,
``segmentation_path``, ``joints`` as (row, column) in the pixels of those files, and ``visibility``. The paths are
relative to the root; where frames of DAVIS are not there in full resolution, those of any DAVIS folder stand in, and the
joints are scaled from its 1080 rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import one_line
from pixeltrail.data.images import IMAGE_SUFFIXES, image_size, natural_key, read_image
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.types import Image

FULL_HEIGHT = 1080
MAX_JSON = 64 << 20


@dataclass(frozen=True)
class BadjaVideo:
    """One video from its first annotated frame to its last. ``at`` (A,) are the annotated ones, counted from the first of
    ``frames``; ``joints`` (A, P, 2) are (x, y) in pixels of the frames, ``visible`` (A, P) says which of them count."""

    name: str
    frames: list[Path]
    at: NDArray[np.int64]
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]
    masks: list[Path]

    def images(self) -> Iterator[Image]:
        """The frames, (H, W, 3) uint8 RGB, read one at a time."""
        return map(read_image, self.frames)

    def areas(self) -> NDArray[np.float64]:
        """(A,) how many pixels the animal has in each annotated frame, on the scale of the frames."""
        height, width = image_size(self.frames[0])
        shares = [float((read_ids(mask, binary=True) > 0).mean()) for mask in self.masks]
        return np.array(shares) * height * width


class Badja:
    """The videos of a BADJA folder whose frames can be found, in order of their names; ``skipped`` names the others.

    ``frames`` is a DAVIS folder (with JPEGImages and Annotations); default: ``root/DAVIS``, else ``root``.
    Raises InputError for missing or damaged files, UnknownNameError for ``names`` that are not there.
    """

    def __init__(
        self, root: str | Path, names: Sequence[str] | None = None, *, frames: str | Path | None = None
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder; a BADJA folder holds one JSON file per video")
        folder = self.root / "joint_annotations"
        files = {p.stem: p for p in sorted((folder if folder.is_dir() else self.root).glob("*.json"))}
        if not files:
            raise InputError(f"{self.root}: no *.json; a BADJA folder holds one JSON file per video")
        for name in names or ():
            if name not in files:
                raise UnknownNameError(f"{self.root}: no video {name!r}; there are {', '.join(list(files)[:10])}")
        inside = self.root / "DAVIS"
        self.davis = Path(frames) if frames is not None else inside if inside.is_dir() else self.root
        self.skipped: list[str] = []
        self._videos: list[BadjaVideo] = []
        for name in names or files:
            video = self._video(files[name])
            if isinstance(video, BadjaVideo):
                self._videos.append(video)
            elif names:
                raise InputError(f"{files[name]}: the frames are missing; name the DAVIS folder that has {video}")
            else:
                self.skipped.append(name)
        if not self._videos:
            raise InputError(
                f"{self.davis}: holds frames of none of {', '.join(files)}; name the DAVIS folder with them"
            )

    def __len__(self) -> int:
        return len(self._videos)

    def __iter__(self) -> Iterator[BadjaVideo]:
        return iter(self._videos)

    def _video(self, file: Path) -> BadjaVideo | str:
        """The video, or a frame of it that cannot be found."""
        entries = _entries(file)
        images: list[tuple[Path, bool]] = []
        masks: list[tuple[Path, bool]] = []
        for entry in entries:
            for key, found in (("image_path", images), ("segmentation_path", masks)):
                path = self._found(entry[key])
                if path is None:
                    return str(entry[key])
                found.append(path)
        folder = images[0][0].parent
        frames = sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
        at = np.array([frames.index(path) for path, _ in images])
        if (np.diff(at) <= 0).any() or any(path.parent != folder for path, _ in images):
            raise InputError(f"{file}: the frames are out of order or in several folders; get the file again")
        scale = image_size(images[0][0])[0] / FULL_HEIGHT if images[0][1] else 1.0
        joints = np.array([entry["joints"] for entry in entries], np.float64)[..., ::-1] * scale
        visible = np.array([entry["visibility"] for entry in entries], bool)
        if not visible[0].any():
            raise InputError(f"{file}: no joint is visible in the first annotated frame; get the file again")
        kept = frames[at[0] : at[-1] + 1]
        return BadjaVideo(file.stem, kept, at - at[0], joints, visible, [path for path, _ in masks])

    def _found(self, name: str) -> tuple[Path, bool] | None:
        """Where a file is, and whether it is one of DAVIS at another size than annotated."""
        if (self.root / name).is_file():
            return self.root / name, False
        *_, kind, _, video, frame = ("", "", "", *PurePosixPath(name).parts)
        for path in (
            sorted(self.davis.glob(f"{kind}/*/{video}/{frame}")) if kind in ("JPEGImages", "Annotations") else ()
        ):
            return path, path.parent.parent.name != "Full-Resolution"
        return None


def _entries(file: Path) -> list[dict[str, Any]]:
    try:
        if file.stat().st_size > MAX_JSON:
            raise ValueError(f"it has more than {MAX_JSON >> 20} MiB")
        entries = json.loads(file.read_text("utf-8"))
        if not isinstance(entries, list) or not entries:
            raise ValueError("a list of frames is expected")
        count = len(entries[0]["joints"])
        for entry in entries:
            joints, visible = np.asarray(entry["joints"], np.float64), np.asarray(entry["visibility"])
            if joints.shape != (count, 2) or visible.shape != (count,) or not np.isfinite(joints).all():
                raise ValueError("joints (P, 2) and visibility (P,) are expected")
            for key in ("image_path", "segmentation_path"):
                parts = PurePosixPath(entry[key]).parts
                if len(parts) < 2 or ".." in parts or parts[0] == "/" or any(c in entry[key] for c in "*?["):
                    raise ValueError(f"{key} is no path inside the data set")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: not annotations of BADJA ({one_line(error)}); get the file again") from error
    return entries
