"""Writing files so that nobody ever sees half of one, and turning the system's refusals into one line."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pixeltrail.errors import DiskError, InputError, PixeltrailError

PART = ".part"
"""What a file is called while it is being written: NAME.part, in the same folder."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; rename it to ``path`` if the block succeeds, else remove it.

    The temporary name ends in ``.part``, so tell the encoder its format instead of letting it look at the suffix.
    Raises DiskError where the disk is full, InputError where the folder cannot be written to.
    """
    part = path.with_name(path.name + PART)
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(part.name):
            raise  # the block's own trouble with another file
        raise explain(error, path) from error
    finally:
        _discard(part)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing. Raises as `atomic`."""
    with atomic(path) as part:
        part.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole UTF-8 file, or nothing. Raises as `atomic`."""
    write_bytes(path, content.encode())


def write_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write several files by name, whole: first all under temporary names, then each put in its place, in their order.

    A reader who finds the last one has all of them, but a kill between two renames leaves some old beside some new: let
    the last one hold the digests of the others. Raises as `atomic`.
    """
    with ExitStack() as stack:
        # What was entered last is left first, and so is renamed first.
        parts = {name: stack.enter_context(atomic(folder / name)) for name in reversed(list(files))}
        for name, content in files.items():
            parts[name].write_bytes(content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """As `require_writable_folder`; what had to be made for it is removed again if the block fails and left it empty."""
    missing = [folder for folder in (path.absolute(), *path.absolute().parents) if not folder.exists()]
    require_writable_folder(path)
    try:
        yield path
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def require_writable_folder(path: Path) -> Path:
    """Make the folder if it is missing, and make sure that a file can be written there. Raises as `atomic`."""
    probe = path / f".pixeltrail-{os.getpid()}{PART}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise explain(error, path) from error
    return path


def remove_leftovers(folder: Path) -> int:
    """Delete what a killed run left half-written (``*.part``) directly in ``folder``; say how many there were."""
    leftovers = list(folder.glob(f"*{PART}"))
    for leftover in leftovers:
        _discard(leftover)
    return len(leftovers)


def fingerprint(files: Sequence[Path]) -> str:
    """Twelve hexadecimal digits that tell one input from another, quickly and wherever it lies: the files' names and
    sizes, and of a single file also its first and last megabyte."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
    if len(files) == 1:
        with open(files[0], "rb") as content:
            digest.update(content.read(1 << 20))
            content.seek(max(0, files[0].stat().st_size - (1 << 20)))
            digest.update(content.read(1 << 20))
    return digest.hexdigest()[:12]


def explain(error: OSError, path: Path) -> PixeltrailError:
    """The system's refusal to write ``path`` in one line: DiskError if there is no room, else InputError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskError(f"{path}: {_why(error)}{_free(path)}; free some space or write to another disk")
    return InputError(f"{path}: cannot be written ({_why(error)}); choose a folder that you may write to")


def _why(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else one_line(error)


def _free(path: Path) -> str:
    try:
        return f" ({shutil.disk_usage(path.parent).free / 1e6:.1f} MB free)"
    except OSError:
        return ""


def _discard(path: Path) -> None:
    # Cleaning up must not hide the error that led here.
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def one_line(error: BaseException | str, limit: int = 160) -> str:
    """A message, or that of any exception, on one line of at most ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
