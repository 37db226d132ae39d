"""What the formats share: hostile files in, whole files and folders out."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

from pixeltrail.data.files import PART, explain, one_line, require_writable_folder
from pixeltrail.data.images import IMAGE_SUFFIXES, natural_key
from pixeltrail.errors import InputError

MAX_BYTES = 256_000_000
_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, StopIteration)


@contextmanager
def refusing(path: Path, what: str) -> Iterator[None]:
    """What goes wrong with somebody's file, as InputError with the file's name and what it should be."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text in UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error.strerror or error)})") from None
    except _DAMAGE as error:
        raise InputError(
            f"{path}: is no {what} ({type(error).__name__}: {one_line(error, 80)}); export it again"
        ) from None


def load_json(path: Path) -> Any:
    """The content of a JSON file of bounded size. Raises InputError; call it within `refusing`."""
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES / 1e6:.0f} MB; split it")
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({one_line(error, 80)}); export it again") from None


def peek(path: Path, count: int = 4096) -> str:
    """The beginning of a file as text, to tell formats apart; empty for anything that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(min(count, path.stat().st_size)).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def stem(name: object) -> str:
    """The plain name of a frame that a file names, without folder and suffix. Raises InputError for ``..`` and the like."""
    if not isinstance(name, str) or ".." in PureWindowsPath(name).parts:
        raise InputError(f"frame {str(name)[:60]!r}: expected the name of a picture")
    path = PureWindowsPath(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def number(value: object) -> float:
    """A finite number of a JSON file. Raises ValueError."""
    if type(value) not in (int, float) or not abs(float(value)) < 1e12:  # type: ignore[arg-type]
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return float(value)  # type: ignore[arg-type]


def whole(value: object) -> int:
    """A whole number of a JSON file. Raises ValueError."""
    if type(value) is not int or abs(value) >= 2**53:
        raise ValueError(f"{str(value)[:40]!r} is no whole number")
    return value


def identities(found: Sequence[tuple[int, str, int | None]]) -> list[int]:
    """Ids for (frame, label, id that the file gives or None): the file's own, counted up if they begin at 0.

    Where they are missing, the label tells objects apart if no frame has it twice; else each has a number of its own.
    """
    given = [own for _, _, own in found]
    if found and all(own is not None for own in given):
        shift = int(min(own for own in given if own is not None) == 0)
        return [own + shift for own in given if own is not None]
    if len({(frame, label) for frame, label, _ in found}) == len(found):
        order = {label: i for i, label in enumerate(dict.fromkeys(label for _, label, _ in found), 1)}
        return [order[label] for _, label, _ in found]
    return list(range(1, len(found) + 1))


def files(folder: Path, *suffixes: str) -> list[Path]:
    """The files of a folder with one of the suffixes, in natural order, hidden ones left out."""
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file()),
        key=natural_key,
    )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``path`` if the block succeeds, and else vanishes.

    Raises InputError if there is something in ``path`` already; DiskError where the disk is full.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path}: exists already; choose another name or remove it first")
    part = path.with_name(path.name + PART)
    require_writable_folder(path.absolute().parent)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        if path.exists():
            path.rmdir()
        os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EISDIR) and error.filename and PART not in str(error.filename):
            raise
        raise explain(error, path) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers, empty ones left out; a line is bounded in length. Raises InputError."""
    with open(path, encoding="utf-8-sig") as file:
        for count, line in enumerate(iter(lambda: file.readline(MAX_BYTES // 4), ""), 1):
            if line.strip():
                yield count, line.strip()


def table(path: Path, rows: Iterable[str]) -> None:
    """Write lines of text."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{row}\n" for row in rows)
