"""PyTorch's files: the zip format (since 1.6) and the one before it (a few pickles, then the numbers), and Torch7's.

Nothing in a file is executed or extracted; see `pickles`. What a file declares is compared with its size before memory
is taken, and only the tensors that are asked for are read.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from pixeltrail.checkpoints import torch7
from pixeltrail.checkpoints.pickles import Storage, Stored, interpret
from pixeltrail.errors import InputError, WeightsError
from pixeltrail.pickles import Opaque

MAX_BYTES = 4 << 30
MAX_PICKLE = 64 << 20
MAX_DIRECTORY = 16 << 20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

Fetch = Callable[[Storage], bytes]
"""What reads the bytes of a storage."""


class Checkpoint:
    """An open checkpoint. ``root``: its dictionaries and lists, with `Stored` where tensors are and `Opaque` where
    something else is."""

    def __init__(self, path: Path, root: object, fetch: Fetch) -> None:
        self.path, self.root, self._fetch = path, root, fetch

    def load(self, stored: Stored) -> Tensor:
        """Read one tensor. WeightsError where the file does not hold it."""
        storage = stored.storage
        with _blaming(self.path):
            if 0 in stored.shape:
                return torch.empty(stored.shape, dtype=storage.dtype)
            data = bytearray(self._fetch(storage))
            if len(data) != storage.nbytes:
                raise ValueError(f"its storage {shown(storage.key)} is shorter than declared")
            numbers = torch.frombuffer(data, dtype=storage.dtype)
            return numbers.as_strided(stored.shape, stored.stride, stored.offset).clone(
                memory_format=torch.contiguous_format
            )

    def state_dict(self) -> dict[str, Stored | Opaque]:
        """The named tensors: of all dictionaries near the root the one with most of them, whatever it is called."""
        best: dict[str, Stored | Opaque] = {}
        most, level, seen = 0, [self.root], set()
        for _ in range(3):
            below: list[object] = []
            for part in level:
                if not isinstance(part, dict) or id(part) in seen:
                    continue
                seen.add(id(part))
                count = sum(isinstance(key, str) and isinstance(value, Stored) for key, value in part.items())
                if count > most:
                    most = count
                    best = {k: v for k, v in part.items() if isinstance(k, str) and isinstance(v, (Stored, Opaque))}
                below += part.values()
            level = below
        if not best:
            kind = shown(self.root.name) if isinstance(self.root, Opaque) else type(self.root).__name__
            raise WeightsError(f"{self.path}: holds a {kind} without named tensors; save the network's state_dict()")
        return best


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Open a file that ``torch.save`` wrote, PyTorch's or Torch7's. Raises ``InputError`` if there is none,
    ``WeightsError`` if it is damaged, hostile, or something else."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a PyTorch checkpoint (.pth, .pt, .tar)")
    try:
        file = _Wary(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check its permissions") from error
    with file:
        with _blaming(path):
            if file.size > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES >> 30} GiB, which no tracker is")
            start = file.exactly(min(512, file.size))
            file.seek(0)
            if start.startswith(b"PK\x03\x04"):
                root, fetch = _open_zip(file)
            elif start.startswith(b"\x80"):
                root, fetch = _open_legacy(file)
            elif start.startswith(torch7.STARTS):
                root, fetch = _open_torch7(file)
            elif start[257:262] == b"ustar":
                raise ValueError("it is a tar file of 2017; load it with PyTorch and save it again")
            else:
                raise ValueError("no file of torch.save begins like this")
        yield Checkpoint(path, root, fetch)


def fitting(checkpoint: Checkpoint, key: str, stored: Stored | Opaque, like: Tensor) -> Tensor:
    """A tensor of the file as the network wants it: convolutions over one frame (TimeCycle) lose their third axis.
    WeightsError, before anything is read, where it does not fit."""
    where = f"{checkpoint.path}: {shown(key)}"
    if isinstance(stored, Opaque):
        raise WeightsError(f"{where} is a {shown(stored.name)}, expected a tensor; save the network's state_dict()")
    if stored.storage.dtype.is_floating_point != like.dtype.is_floating_point or stored.storage.dtype.is_complex:
        raise WeightsError(f"{where} is {stored.storage.dtype}, the network expects {like.dtype}")
    shape = stored.shape[:2] + stored.shape[3:] if len(stored.shape) == 5 and stored.shape[2] == 1 else stored.shape
    if shape != like.shape:
        raise WeightsError(f"{where} is {stored.shape}, the network expects {tuple(like.shape)}")
    tensor = checkpoint.load(stored).reshape(shape).to(like.dtype)
    if not bool(torch.isfinite(tensor).all()):
        raise WeightsError(f"{where} holds NaN or infinity; the file is damaged or training diverged")
    return tensor


def shown(name: str) -> str:
    """A name from a file as it may be printed: one short line."""
    return "".join(c if c.isprintable() else "?" for c in name[:80])


class _Wary(io.FileIO):
    """A file that gives no more than ``most`` bytes at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size, self.most = os.fstat(self.fileno()).st_size, MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        size = self.size - self.tell() if size is None or size < 0 else size
        if size > self.most:
            raise ValueError(f"it declares a part of {size} bytes where at most {self.most} are expected")
        return super().read(size) or b""

    def exactly(self, size: int) -> bytes:
        """So many bytes, more than ``most`` too, but only if the file has them."""
        if size > self.size - self.tell():
            raise ValueError("it ends too early")
        self.most = max(self.most, size)
        return self.read(size)


def _open_zip(file: _Wary) -> tuple[object, Fetch]:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if name.endswith("data.pkl") and name.count("/") < 2]
    if len(names) != 1:
        raise ValueError("it is a zip file, but not one of torch.save")
    folder = names[0].removesuffix("data.pkl")

    def read(name: str, most: int) -> bytes:
        info = archive.getinfo(folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its part {shown(name)} is compressed, which torch.save never does")
        if info.file_size > most:
            raise ValueError(f"its part {shown(name)} is larger than declared")
        file.most = max(file.most, info.file_size)
        return archive.read(info)

    if folder + "byteorder" in archive.NameToInfo and read("byteorder", 16) != b"little":
        raise ValueError("it comes from a big-endian machine")
    root = interpret(io.BytesIO(read("data.pkl", MAX_PICKLE)))
    return root, lambda storage: read(f"data/{storage.key}", min(storage.nbytes, file.size))


def _open_legacy(file: _Wary) -> tuple[object, Fetch]:
    """Five pickles (magic number, version, machine, the object, keys of storages in order), then for each storage its
    length as int64 and its numbers."""
    head = io.BytesIO(file.exactly(min(MAX_PICKLE, file.size)))
    if interpret(head) != LEGACY_MAGIC:
        raise ValueError("it is a pickle, but not one of torch.save")
    interpret(head)
    machine = interpret(head)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise ValueError("it comes from a big-endian machine")
    storages: dict[str, Storage] = {}
    root = interpret(head, storages)
    keys = interpret(head)
    if not isinstance(keys, list) or len(set(map(str, keys))) != len(keys):
        raise ValueError("its list of storages is no list of names")
    places, position = {}, head.tell()
    for key in keys:
        if not isinstance(key, str) or key not in storages:
            raise ValueError(f"its storage {shown(str(key))} is of an unknown type")
        file.seek(position)
        (numel,) = struct.unpack("<q", file.exactly(8))
        if numel != storages[key].numel or position + 8 + storages[key].nbytes > file.size:
            raise ValueError(f"its storage {shown(key)} is shorter than declared")
        places[key] = position + 8
        position += 8 + storages[key].nbytes

    def fetch(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.exactly(storage.nbytes)

    return root, fetch


def _open_torch7(file: _Wary) -> tuple[object, Fetch]:
    root = torch7.interpret(file)

    def fetch(storage: Storage) -> bytes:
        file.seek(int(storage.key))
        return file.exactly(storage.nbytes)

    return root, fetch


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever breaks in here, the file is to blame."""
    try:
        yield
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, EOFError, OSError, RuntimeError,
            MemoryError, struct.error, zipfile.BadZipFile) as error:  # fmt: skip
        why = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else "its contents do not fit"
        raise WeightsError(f"{path}: not a readable PyTorch checkpoint: {shown(why)}; get the file again") from error
