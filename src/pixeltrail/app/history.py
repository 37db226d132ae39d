"""What a run of the tracker, or an import, has written over: kept so that it can be taken back, and done again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pixeltrail.data.files import PART

UNDO = ".undo"
"""The folder of a project that holds them. It is emptied when the project is opened or closed: so does the page's undo."""

Places = dict[int, tuple[float, float, float]]
"""(x, y, confidence): of a frame's points, by their ids, or of a point, by frame."""


class Frame(NamedTuple):
    """What a project knows of a frame besides its mask: its row of ``tracks.json``, and which objects had been erased
    on it where it is a key frame. None where there is no such thing."""

    row: dict[str, Any] | None
    key: list[int] | None


class Past:
    """Frames as they were before a run. A mask is kept as a second name of its file: files are never written to but
    replaced, so that this takes no time, and no room until the mask is another one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames: dict[int, Frame] = {}
        self.points: dict[int, Places] = {}

    def keep(self, index: int, frame: Frame, mask: Path) -> None:
        """Keep a frame, the first time that the run comes to it."""
        if index not in self.frames:
            self.folder.mkdir(parents=True, exist_ok=True)
            if mask.is_file():
                _second_name(mask, self.folder / mask.name)
            self.frames[index] = frame

    def keep_points(self, index: int, places: Places) -> None:
        self.points.setdefault(index, dict(places))

    def swap(self, index: int, frame: Frame, mask: Path) -> Frame:
        """Take the frame as it is now, and give it back as it was, its mask too. At no time is a mask on neither side."""
        kept, was = self.folder / mask.name, self.frames[index]
        now = kept.with_name(kept.name + PART)
        if mask.is_file():
            _second_name(mask, now)
        if kept.is_file():
            os.replace(kept, mask)
        else:
            mask.unlink(missing_ok=True)
        if now.is_file():
            os.replace(now, kept)
        self.frames[index] = frame
        return was

    def swap_points(self, index: int, places: Places) -> Places:
        was, self.points[index] = self.points[index], dict(places)
        return was


def _second_name(file: Path, name: Path) -> None:
    name.unlink(missing_ok=True)
    try:
        os.link(file, name)
    except OSError:  # a file system without links
        shutil.copyfile(file, name)
