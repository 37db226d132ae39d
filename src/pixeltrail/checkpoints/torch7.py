"""Torch7's binary files (``torch.save`` of Lua): networks as objects with tables of fields. Read, never executed.

Everything is little-endian. An object is a 32-bit type and its value: nil, a number (float64), a text (length, bytes), a
boolean, a table, a function, or an object of a class. What can be referred to twice carries a number: the second time
only the number stands there. A tensor is its sizes, strides and first place (from 1) in a storage, a storage its length
and its numbers; every other class of ``nn`` is one table of its fields.
"""

from __future__ import annotations

import struct
from typing import Protocol

from pixeltrail.checkpoints.pickles import DTYPES, Storage, Stored, stored
from pixeltrail.pickles import Opaque

TABLE, OBJECT = 3, 4
STARTS = tuple(struct.pack("<i", kind) for kind in (TABLE, OBJECT))
"""What a file begins with, for all that can hold weights."""
MAX_OBJECTS = 200_000
MAX_DEPTH = 60
MAX_TEXT = 1 << 20
WANTED = {"weight", "bias", "running_mean", "running_var"}
"""Fields of a layer that are kept: beside them stand gradients and the outputs of the last batch."""


class Source(Protocol):
    """A file that gives so many bytes, or raises ValueError if it has them not."""

    size: int

    def exactly(self, size: int) -> bytes: ...
    def tell(self) -> int: ...
    def seek(self, offset: int, /) -> int: ...


def interpret(file: Source) -> dict[str, Stored]:
    """The tensors of the network at the file's position, by names such as ``"0.weight"``: of a container the number of
    the part, from 0, of a layer the name of the field. Each storage's ``key`` is its place in the file.

    Raises ValueError, KeyError, TypeError or struct.error for what is no sound file.
    """
    found: dict[str, Stored] = {}
    _collect(_Reader(file).value(0), "", found, set())
    return found


class _Reader:
    def __init__(self, file: Source) -> None:
        self.file = file
        self.memo: dict[int, object] = {}
        self.left = MAX_OBJECTS

    def value(self, depth: int) -> object:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            raise ValueError(f"it holds more than {MAX_OBJECTS} objects, or deeper than {MAX_DEPTH} in each other")
        kind = self.integer()
        match kind:
            case 0:  # nil
                return None
            case 1:  # number
                return struct.unpack("<d", self.file.exactly(8))[0]
            case 2:  # text
                return self.text()
            case 5:  # boolean
                return self.integer() != 0
            case 3 | 4 | 7 | 8:  # table, object of a class, functions
                number = self.integer()
                if number in self.memo:
                    return self.memo[number]
                return {TABLE: self.table, OBJECT: self.instance}.get(kind, self.function)(number, depth)
            case 6:  # function without a number, of old files
                return self.function(None, depth)
        raise ValueError(f"it has an object of the unknown type {kind}")

    def table(self, number: int | None, depth: int) -> dict[object, object]:
        made: dict[object, object] = {}
        if number is not None:
            self.memo[number] = made
        for _ in range(self.length(self.integer())):
            key, value = self.value(depth + 1), self.value(depth + 1)
            if isinstance(key, str | float):
                made[key] = value
        return made

    def instance(self, number: int, depth: int) -> object:
        name = self.text()
        if name.startswith("V "):  # the version comes first, where there is one
            name = self.text()
        module, _, kind = name.partition(".")
        if module != "torch":
            self.memo[number] = fields = {}
            inside = self.value(depth + 1)
            if not isinstance(inside, dict):
                raise TypeError("the fields of an object are no table")
            fields.update(inside)
            return fields
        if kind.endswith("Storage"):
            self.memo[number] = made = self.storage(kind.removesuffix("Storage"))
            return made
        if kind.endswith("Tensor"):
            return self.tensor(number, depth)
        raise ValueError(f"it holds a {name}, which is not read")

    def storage(self, kind: str) -> Storage:
        dtype = DTYPES.get(kind.removeprefix("Cuda") or "Float")
        numel = self.long_integer()
        if dtype is None or not 0 <= numel <= (self.file.size - self.file.tell()) // dtype.itemsize:
            raise ValueError("it has a storage of an unknown type, or one that is longer than the file")
        made = Storage(dtype, str(self.file.tell()), numel)
        self.file.seek(self.file.tell() + made.nbytes)
        return made

    def tensor(self, number: int, depth: int) -> object:
        count = self.integer()
        if not 0 <= count <= 8:
            raise ValueError(f"it has a tensor of {count} axes")
        sizes, strides = (tuple(self.long_integer() for _ in range(count)) for _ in range(2))
        first = self.long_integer() - 1
        storage = self.value(depth + 1)
        made: object = Opaque("empty tensor")
        if isinstance(storage, Storage) and count:
            made = stored(storage, first, sizes, strides)
        self.memo[number] = made
        return made

    def function(self, number: int | None, depth: int) -> Opaque:
        made = Opaque("function of Lua")
        if number is not None:
            self.memo[number] = made
        self.file.exactly(self.length(self.integer()))
        self.value(depth + 1)
        return made

    def integer(self) -> int:
        number: int = struct.unpack("<i", self.file.exactly(4))[0]
        return number

    def long_integer(self) -> int:
        number: int = struct.unpack("<q", self.file.exactly(8))[0]
        return number

    def text(self) -> str:
        return self.file.exactly(self.length(self.integer())).decode("latin-1")

    def length(self, declared: int) -> int:
        if not 0 <= declared <= MAX_TEXT:
            raise ValueError(f"it has a text or table of {declared} parts")
        self.left -= (
            declared >> 8
        )  # long texts count as several objects: memory stays bounded, whatever the file's size
        return declared


def _collect(value: object, name: str, found: dict[str, Stored], seen: set[int]) -> None:
    """Each table once, however often it is referred to."""
    if not isinstance(value, dict) or id(value) in seen:
        return
    seen.add(id(value))
    parts = value["modules"] if isinstance(value.get("modules"), dict) else value
    for key, part in parts.items():
        inside = f"{name}{int(key) - 1 if isinstance(key, float) and abs(key) < 1 << 53 else key}"
        if isinstance(part, Stored) and key in WANTED:
            found[inside] = part
        elif isinstance(part, dict):
            _collect(part, f"{inside}.", found, seen)
