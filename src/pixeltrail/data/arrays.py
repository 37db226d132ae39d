"""NumPy arrays inside pickles and ``.npz`` files, read without executing anything and only when they are asked for.

What a file declares is compared with what it holds before memory is taken.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pixeltrail.data.files import one_line
from pixeltrail.errors import InputError
from pixeltrail.pickles import Machine, Opaque

MAX_ARRAY = 4 << 30
"""Bytes of one array of an .npz file; what a pickle holds is mapped, not read."""
MAX_TEXT = 16 << 20

_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_CODE = re.compile(r"[<>|=]?([biufSU?])([0-9]{0,3})")


@dataclass(frozen=True, slots=True)
class Span:
    """``size`` bytes of the file that begin at ``offset``, not read yet."""

    offset: int
    size: int


@dataclass(slots=True)
class Kind:
    """A NumPy type; filled in as the pickle goes on. ``code`` O: any objects, which stand in a list."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass(slots=True, eq=False)
class Pickled:
    """An array of a pickle; ``items`` instead of ``data`` where its type is O."""

    kind: Kind | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: Span | bytes = b""
    items: list[Any] = field(default_factory=list)


class ArrayMachine(Machine):
    """Builds `Pickled` for arrays, `Span` for bytes longer than ``long``, and numbers for NumPy's numbers."""

    long = 4096

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def content(self, file: BinaryIO, size: int) -> Span | bytes:
        """Long bytes are skipped, if they are there."""
        if size <= self.long:
            return super().content(file, size)  # type: ignore[return-value]
        at = file.tell()
        if size > self.size - at:
            raise ValueError("it ends too early")
        file.seek(at + size)
        return Span(at, size)

    def call(self, function: object, args: object) -> object:
        """What the named function would make; it is never called."""
        if not isinstance(function, Opaque) or not isinstance(args, tuple):
            return Opaque("object")
        module, _, name = function.name.partition(" ")
        match name, args:
            case "dtype", (str() as code, *_) if module == "numpy":
                return Kind(code) if code.startswith("O") or _CODE.fullmatch(code) else Opaque(function.name)
            case "_reconstruct", _ if module in _MODULES:
                return Pickled()
            case "_frombuffer", (Span() | bytes() as data, Kind() as kind, tuple() as shape, order) if (
                module in _MODULES
            ):
                return _checked(Pickled(kind, shape, order == "F", data))
            case "scalar", (Kind() as kind, bytes() as data) if module in _MODULES and len(data) == kind.dtype.itemsize:
                return np.frombuffer(data, kind.dtype)[0].item()
            case "encode", (str() as text, "latin1") if module == "_codecs":  # how Python 2's format 2 writes bytes
                return text.encode("latin-1")
        return function

    def build(self, made: object, state: object) -> None:
        """The byte order of a type; shape and contents of an array."""
        match made, state:
            case Kind(), (int(), str() as order, *_) if order in ("<", ">", "|", "="):
                made.order = order
            case Pickled(), (int(), tuple() as shape, Kind() as kind, bool() | int() as fortran, list() as items):
                made.kind, made.shape, made.fortran, made.items = kind, shape, bool(fortran), items
                _checked(made)
            case Pickled(), (
                int(),
                tuple() as shape,
                Kind() as kind,
                bool() | int() as fortran,
                Span() | bytes() as data,
            ):
                made.kind, made.shape, made.fortran, made.data = kind, shape, bool(fortran), data
                _checked(made)


class PickleFile:
    """A pickle of dictionaries, lists and arrays. ``root`` holds `Pickled` and `Span` where arrays and bytes are; see
    `array` and `bytes`. Raises InputError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with blaming(path, "pickle of arrays"), _Careful(path) as file:
            self.root = ArrayMachine(os.fstat(file.fileno()).st_size).run(file)

    def array(self, pickled: Pickled) -> NDArray[Any]:
        """The array, mapped from the file where it is long."""
        with blaming(self.path, "pickle of arrays"):
            if pickled.kind is None or pickled.kind.code.startswith("O"):
                raise ValueError("an array of numbers was expected")
            order, dtype = "F" if pickled.fortran else "C", pickled.kind.dtype
            if isinstance(pickled.data, bytes):
                return np.frombuffer(pickled.data, dtype).reshape(pickled.shape, order=order)  # type: ignore[call-overload,no-any-return]
            return np.memmap(self.path, dtype, "r", pickled.data.offset, pickled.shape, order)  # type: ignore[call-overload,no-any-return]

    def bytes(self, data: Span | bytes) -> bytes:
        """Bytes of the pickle, read from the file where they are long."""
        if not isinstance(data, Span):
            return data
        with open(self.path, "rb") as file:
            file.seek(data.offset)
            return file.read(data.size)


def read_npz(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """The named arrays of an ``.npz`` file. Raises InputError, also for one that is not there."""
    with blaming(path, ".npz file"), zipfile.ZipFile(path) as archive:
        there = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for name in names:
            if name not in there:
                raise ValueError(f"it has no array {name!r}; there are {', '.join(sorted(there)[:8]) or 'none'}")
        return {name: _npy(archive, there[name]) for name in names}


def _npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.file_size > MAX_ARRAY:
        raise ValueError(f"its array {info.filename} has more than {MAX_ARRAY >> 30} GiB")
    with archive.open(info) as file:
        start = file.read(1 << 16)
    head = BytesIO(start)
    version = npy.read_magic(head)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(head)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or size != info.file_size - head.tell():
        raise ValueError(f"its array {info.filename} does not hold what its header says")
    data = archive.read(info)[head.tell() :]
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


@contextmanager
def blaming(path: Path, what: str) -> Iterator[None]:
    """Whatever breaks in here, the file is to blame."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a {what} is expected")
    try:
        yield
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, EOFError, OSError, MemoryError,
            NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:  # fmt: skip
        why = (
            one_line(error, 100)
            if isinstance(error, ValueError | OSError | zipfile.BadZipFile)
            else "contents do not fit"
        )
        raise InputError(f"{path}: not a readable {what} ({why}); get the file again") from error


class _Careful(FileIO):
    """A file that gives no more than `MAX_TEXT` bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_TEXT:
            raise ValueError(f"it declares a text of {size} bytes")
        return super().read(size) or b""

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(1 << 12)


def _checked(array: Pickled) -> Pickled:
    """The array, if its contents have the size that its shape and type say."""
    sizes = array.shape
    if len(sizes) > 8 or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in sizes) or array.kind is None:
        raise ValueError("an array's shape is no list of sizes")
    if array.kind.code.startswith("O"):
        fits = math.prod(sizes) == len(array.items)
    else:
        held = array.data.size if isinstance(array.data, Span) else len(array.data)
        fits = math.prod(sizes) * array.kind.dtype.itemsize == held
    if not fits:
        raise ValueError(f"an array of shape {sizes} does not have the size of its contents")
    return array
