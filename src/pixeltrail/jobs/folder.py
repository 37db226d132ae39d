"""The results folder while work goes on: settings, journals and states in ``.job``. Knows nothing of tracking."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pixeltrail.data.files import PART, explain, require_writable_folder, write_text
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.weights import read_card, read_tensors, save_tensors

POINTS_HEAD = "frame,name,point,x,y,confidence\n"
TRACKS_HEAD = '{\n "video": '


class JobFolder:
    """The results folder while work goes on: settings, journals and states in ``.job``."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.masks, self.work = out, out / "masks", out / ".job"
        self.results = out / "tracks.json", out / "points.csv", out / "overlay.mp4"
        self.settings = json.loads(json.dumps(dict(settings)))

    def begin(self, *, resume: bool, masks: bool) -> None:
        """Make the folder ready: empty, or as an interrupted job with the same settings left it."""
        if resume:
            self._require_same()
        else:
            self._require_ours()
        require_writable_folder(self.out)
        require_writable_folder(self.work)
        if not resume:
            (self.work / "settings.json").unlink(missing_ok=True)  # from here on there is nothing to resume
            for old in (*self.results, *self.work.iterdir(), *self.masks.glob("*.png")):
                old.unlink(missing_ok=True)
        if masks:
            require_writable_folder(self.masks)
        parts = (file.with_name(file.name + PART) for file in self.results)
        for killed in (*parts, *self.work.glob(f"*{PART}"), *self.masks.glob(f"*{PART}")):
            killed.unlink(missing_ok=True)
        write_text(self.work / "settings.json", json.dumps(self.settings, indent=1))

    def _require_ours(self) -> None:
        """Refuse to overwrite what another program made."""
        ours = self.work.exists() or _begins(self.results[0], TRACKS_HEAD) or _begins(self.results[1], POINTS_HEAD)
        foreign = [p for p in (self.masks, *self.results) if p.is_file() or (p.is_dir() and any(p.iterdir()))]
        if foreign and not ours:
            raise InputError(f"{foreign[0]}: was not made by pixeltrail track; choose another --out")

    def _require_same(self) -> None:
        file = self.work / "settings.json"
        if not file.is_file():
            finished = any(result.is_file() for result in self.results)
            raise InputError(f"{self.out}: {'is finished' if finished else 'nothing to resume'}; leave --resume out")
        try:
            theirs, ours = _flat(json.loads(file.read_text())), _flat(self.settings)
        except (ValueError, AttributeError, OSError):
            raise InputError(f"{file}: is damaged; leave --resume out to begin anew") from None
        for key in ours | theirs:
            if theirs.get(key) != ours.get(key):
                was = f"{key} {theirs.get(key)}, now {ours.get(key)}"
                what = {"video": "another video", "given": "other labels, boxes or points"}.get(key, was)
                raise InputError(
                    f"{self.out}: was begun with {what}; resume with the same, or leave --resume out to begin anew"
                )

    def restore(self, leg: Leg, tracker: Tracker) -> tuple[Live | PointSession, int]:
        """The session of a leg as it was last saved, how many of its frames are done, and its journal cut to these.

        What is not all there (a machine that lost power) is done again from the leg's beginning.
        """
        state, journal = self._state(leg), self._journal(leg)
        session, done, end = leg.session(tracker), 0, 0
        if state.is_file():
            try:
                done = int(read_card(state)["done"])
                end = self._end_of(journal, done)
                session.load_state(read_tensors(state))
            except (PixeltrailError, OSError, KeyError, ValueError, TypeError):
                session, done, end = leg.session(tracker), 0, 0
        with open(journal, "ab") as file:
            file.truncate(end)
        return session, done

    def _end_of(self, journal: Path, done: int) -> int:
        """Where the first ``done`` lines end. Raises ValueError or OSError if one of them, or its mask, is missing."""
        with open(journal, "rb") as file:
            for _ in range(done):
                row = json.loads(file.readline())
                if "objects" in row and (self.masks / f"{row['name']}.png").stat().st_size == 0:
                    raise ValueError("the mask is empty")
            return file.tell()

    @contextmanager
    def journal(self, leg: Leg) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A function that appends one line, unbuffered: a full disk is met here, and not when the file is closed."""
        path = self._journal(leg)
        with open(path, "ab", buffering=0) as file:

            def write(row: Mapping[str, Any]) -> None:
                line = json.dumps(row).encode() + b"\n"
                try:
                    if file.write(line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError as error:
                    raise explain(error, path) from error

            yield write

    def save(self, leg: Leg, session: Live | PointSession) -> None:
        """Save the state, after what it counts on: the journal's lines reach the disk first."""
        with open(self._journal(leg), "rb") as file:
            os.fsync(file.fileno())
        save_tensors(session.state(), self._state(leg), {"done": session.index + 1})

    def rows(self) -> Iterator[dict[str, Any]]:
        """All entries in the order of the frames; a frame that was met both ways counts once."""
        both = merge(_backward_lines(self.work / "backward.jsonl"), _lines(self.work / "forward.jsonl"), key=_frame)
        for _, same in groupby(both, _frame):
            row = next(same)
            for other in same:
                if "points" in row:  # each point has its own way back and its own way forth
                    row["points"] = [a or b for a, b in zip(row["points"], other["points"], strict=True)]
            yield row

    def end(self) -> None:
        """Remove what only an unfinished job needs."""
        for file in sorted(self.work.iterdir(), reverse=True):  # the settings before the journals
            file.unlink()
        self.work.rmdir()

    def _state(self, leg: Leg) -> Path:
        return self.work / f"{leg.name}.safetensors"

    def _journal(self, leg: Leg) -> Path:
        return self.work / f"{leg.name}.jsonl"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with open(path, "rb") as file:
            yield from map(json.loads, file)


def _backward_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file from the last to the first, of which only the places are held in memory."""
    if path.is_file():
        with open(path, "rb") as file:
            ends = np.cumsum([len(line) for line in file], dtype=np.int64)
            for start in np.concatenate(([0], ends[:-1]))[::-1] if len(ends) else ():
                file.seek(int(start))
                yield json.loads(file.readline())


def _frame(row: Mapping[str, Any]) -> int:
    return int(row["frame"])


def _begins(path: Path, head: str) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(head)) == head.encode()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
