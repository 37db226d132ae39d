"""The results folder while work goes on: settings, journals and states in ``.job``. Knows nothing of tracking."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pixeltrail.data.files import PART, explain, require_writable_folder, write_text
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.jobs.results import POINTS_HEAD, TRACKS_HEAD
from pixeltrail.weights import read_card, read_tensors, save_tensors

RESULTS = ("tracks.json", "points.csv", "overlay.mp4")


def resumable(out: Path) -> bool:
    """Whether ``out`` holds a job that ``resume`` would go on with."""
    return (out / ".job" / "settings.json").is_file()


def require_apart(out: Path, files: Iterable[Path]) -> None:
    """Raise ``InputError`` if a job in ``out`` would overwrite one of the ``files`` that it reads."""
    masks, results = (out / "masks").resolve(), {(out / name).resolve() for name in RESULTS}
    for file in files:
        if masks in (file.resolve(), *file.resolve().parents) or file.resolve() in results:
            raise InputError(f"{file}: lies where the results will be written; choose another folder than {out}")


class JobFolder:
    """A folder of results in the making. A *leg* is one direction of tracking, and has a journal and a state."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.masks, self.work = out, out / "masks", out / ".job"
        self.confidence = out / "confidence"
        self.settings = json.loads(json.dumps(dict(settings)))

    def begin(self, *, resume: bool, masks: bool) -> None:
        """Make the folder ready: empty, or as an interrupted job with the same settings left it. Raises InputError."""
        results = [self.out / name for name in RESULTS]
        if resume:
            self._require_same()
        else:
            self._require_ours()
        require_writable_folder(self.work)
        if not resume:
            (self.work / "settings.json").unlink(missing_ok=True)  # from here on there is nothing to resume
            for old in (*results, *self.work.iterdir(), *self.masks.glob("*.png"), *self.confidence.glob("*.png")):
                old.unlink(missing_ok=True)
        if masks:
            require_writable_folder(self.masks)
        half_written = (result.with_name(result.name + PART) for result in results)
        for part in (
            *half_written,
            *self.work.glob(f"*{PART}"),
            *self.masks.glob(f"*{PART}"),
            *self.confidence.glob(f"*{PART}"),
        ):
            part.unlink(missing_ok=True)
        write_text(self.work / "settings.json", json.dumps(self.settings, indent=1))

    def _require_ours(self) -> None:
        """Refuse to overwrite what another program made."""
        tracks, points, _ = results = [self.out / name for name in RESULTS]
        ours = self.work.exists() or _begins(tracks, TRACKS_HEAD) or _begins(points, POINTS_HEAD)
        foreign = [p for p in (self.masks, *results) if p.is_file() or (p.is_dir() and any(p.iterdir()))]
        if foreign and not ours:
            raise InputError(f"{foreign[0]}: was not made by pixeltrail track; choose another --out")

    def _require_same(self) -> None:
        file = self.work / "settings.json"
        if not file.is_file():
            finished = any((self.out / name).is_file() for name in RESULTS)
            raise InputError(f"{self.out}: {'is finished' if finished else 'nothing to resume'}; leave --resume out")
        try:
            theirs, ours = _flat(json.loads(file.read_text())), _flat(self.settings)
        except (ValueError, AttributeError):
            raise InputError(f"{file}: is damaged; leave --resume out to begin anew") from None
        for key in ours | theirs:
            if theirs.get(key) != ours.get(key):
                what = {"video": "another video", "given": "other labels, boxes or points"}
                other = what.get(key, f"{key} {theirs.get(key)}, now {ours.get(key)}")
                raise InputError(
                    f"{self.out}: was begun with {other}; resume with the same, or leave --resume out to begin anew"
                )

    def restore(self, leg: str) -> tuple[Mapping[str, Tensor] | None, int]:
        """The last saved state of a leg and how many of its frames are done; its journal is cut to these.

        What is not all there (a machine that lost power) is done again from the leg's beginning.
        """
        tensors, done, end = None, 0, 0
        if self._state(leg).is_file():
            try:
                done = int(read_card(self._state(leg))["done"])
                end = self._end_of(leg, done)
                tensors = read_tensors(self._state(leg))
            except (PixeltrailError, OSError, KeyError, ValueError, TypeError):
                done, end = 0, 0
        with open(self._journal(leg), "ab") as file:
            file.truncate(end)
        return tensors, done

    def _end_of(self, leg: str, done: int) -> int:
        """Where the first ``done`` lines end. Raises ValueError or OSError if one of them, or its mask, is missing."""
        with open(self._journal(leg), "rb") as file:
            for _ in range(done):
                row = json.loads(file.readline())
                if "objects" in row and (self.masks / f"{row['name']}.png").stat().st_size == 0:
                    raise ValueError("the mask is empty")
            return file.tell()

    @contextmanager
    def journal(self, leg: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
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

    def save(self, leg: str, state: Mapping[str, Tensor], done: int) -> None:
        """Save the state of a leg, after what it counts on: the journal's lines reach the disk first."""
        with open(self._journal(leg), "rb") as file:
            os.fsync(file.fileno())
        save_tensors(state, self._state(leg), {"done": done})

    def rows(self) -> Iterator[dict[str, Any]]:
        """All entries in the order of the frames; a frame that was met both ways counts once."""
        forward, backward = _lines(self._journal("forward")), _reversed_lines(self._journal("backward"))
        for _, same in groupby(merge(backward, forward, key=_frame), _frame):
            row, *others = same
            for other in others:
                if "points" in row:  # each point has its own way back and its own way forth
                    row["points"] = [a or b for a, b in zip(row["points"], other["points"], strict=True)]
            yield row

    def end(self) -> None:
        """Remove what only an unfinished job needs, the settings first: from then on it counts as finished."""
        for file in sorted(self.work.iterdir(), reverse=True):
            file.unlink()
        self.work.rmdir()

    def _state(self, leg: str) -> Path:
        return self.work / f"{leg}.safetensors"

    def _journal(self, leg: str) -> Path:
        return self.work / f"{leg}.jsonl"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with open(path, "rb") as file:
            yield from map(json.loads, file)


def _reversed_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines from the last to the first; only their places are held in memory."""
    if path.is_file():
        with open(path, "rb") as file:
            lengths = np.array([len(line) for line in file], np.int64)
            for start in (np.cumsum(lengths) - lengths)[::-1]:
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
