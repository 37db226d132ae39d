"""The folder of projects, one for each video."""

from __future__ import annotations

import json
import re
import secrets
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pixeltrail.app.project import Project
from pixeltrail.data.files import fingerprint, one_line, remove_leftovers, require_writable_folder
from pixeltrail.data.video import open_frames
from pixeltrail.errors import InputError, PixeltrailError


def told(error: BaseException, root: Path) -> str:
    """What an error says, in one line, without naming the place of the workspace to whoever is at the page."""
    text = str(error)
    for place in {str(root), str(root.resolve())}:
        text = text.replace(f"{place}/", "")
    return one_line(text, 300)


class Workspace:
    """The folder of projects. Ids are random, so that one project cannot be guessed from another."""

    def __init__(self, root: str | Path) -> None:
        self.root = require_writable_folder(Path(root))
        self.lock = threading.RLock()
        self._open: dict[str, Project] = {}
        remove_leftovers(self.root)

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Keep every other process from changing it meanwhile. Raises InputError where one does already."""
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            yield
            return
        with open(self.root / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{self.root}: is in use by another pixeltrail; end that one, or name another --workspace"
                ) from None
            yield

    def listing(self) -> list[dict[str, str]]:
        """Id and name of every project, those in use first."""
        found = {about["id"]: {"id": about["id"], "name": about["name"]} for _, about in self._abouts()}
        return [found[i] for i in self._open if i in found] + [a for i, a in found.items() if i not in self._open]

    def project(self, number: str) -> Project:
        """A project by its id, opened where it is not. Raises InputError."""
        with self.lock:
            if number in self._open:
                return self._open[number]
            for folder, about in self._abouts():
                if about["id"] == number:
                    source = open_frames(about["video"])
                    if fingerprint(source.files) != about["fingerprint"]:
                        raise InputError(f"{source.path}: is another video than {folder.name} was made with")
                    self._open[number] = Project(folder, source, about)
                    return self._open[number]
        raise InputError("no such project; reload the page")

    def add(self, video: str | Path, folder: Path | None = None) -> Project:
        """The project of a video: the one that there is, or a new one. Raises InputError for what is no video."""
        source = open_frames(video)
        with self.lock:
            print_, where = fingerprint(source.files), str(source.path.resolve())
            for _, about in self._abouts():
                if (about["fingerprint"], about["video"]) == (print_, where):
                    return self.project(about["id"])
            folder = folder or self.free_folder(source.path.stem)
            require_writable_folder(folder)
            project = Project(folder, source, {"id": secrets.token_hex(16), "name": source.path.name})
            project.save()
            self._open[project.id] = project
            return project

    def free_folder(self, stem: str) -> Path:
        """A folder that does not exist yet, named after ``stem``."""
        with self.lock:
            plain = re.sub(r"[^\w-]+", "-", stem)[:60].strip("-") or "video"
            number = 1
            while (folder := self.root / (plain if number == 1 else f"{plain}-{number}")).exists():
                number += 1
            folder.mkdir()
            return folder

    def close(self) -> None:
        with self.lock:
            for project in self._open.values():
                try:
                    project.close()
                except (
                    PixeltrailError
                ) as error:  # its folder is gone, the disk is full: the others are kept all the same
                    print(f"error: {error}", file=sys.stderr)
            self._open.clear()

    def _abouts(self) -> Iterable[tuple[Path, dict[str, Any]]]:
        for file in sorted(self.root.glob("*/project.json")):
            try:
                about = json.loads(file.read_text())
                if all(isinstance(about[key], str) for key in ("id", "name", "video", "fingerprint")):
                    yield file.parent, about
            except (ValueError, KeyError, TypeError, OSError, PixeltrailError):
                continue  # not ours, or damaged: the others can still be worked on
