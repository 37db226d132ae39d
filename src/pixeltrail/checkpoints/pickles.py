"""Pickles, read but never executed: a stack machine of our own that builds containers, numbers, texts and tensors.

A pickle is a program; Python's own reader lets it call any function. Here the few functions that PyTorch uses to
describe a tensor are recognised by name, and whatever else is named becomes an `Opaque`, which does nothing: optimizers
and argument lists of a training run may stand beside the weights without harm.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from io import BytesIO
from math import prod
from typing import Any

import torch

MAX_STEPS = 400_000
"""Instructions and copied items of one pickle; those of a ResNet-50 with its optimizer are about 30 000."""

DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "QInt8": torch.int8,
    "QUInt8": torch.uint8, "QInt32": torch.int32,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that is not read: ``name`` is what the pickle calls it, ``"module name"``."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """``numel`` numbers of one type, kept elsewhere in the file under ``key``."""

    dtype: torch.dtype
    key: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that has not been read yet; it lies within its storage and is no larger."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def interpret(file: BytesIO, storages: dict[str, Storage] | None = None) -> object:
    """The object that the pickle at the file's position describes; the position moves behind it.

    ``storages`` receives every storage that the pickle names, by key. Raises ValueError, IndexError, KeyError or
    TypeError for what is no sound pickle.
    """
    machine = _Machine({} if storages is None else storages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about the escapes in a hostile text
        for op, arg, _ in pickletools.genops(file):
            machine.step(op.name, arg)
    return machine.stack.pop()


class _Machine:
    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.left = MAX_STEPS

    def step(self, op: str, arg: Any) -> None:
        self._spend(1)
        stack = self.stack
        match op:
            case "PROTO" | "FRAME" | "STOP" | "READONLY_BUFFER":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._cut()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[arg] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[arg])
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[op])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[op]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-int(op[-1]) :] = [tuple(stack[-int(op[-1]) :])]
            case "TUPLE":
                stack.append(tuple(self._cut()))
            case "LIST":
                stack.append(self._cut())
            case "DICT":
                items = self._cut()
                stack.append({})
                _fill(stack[-1], items)
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "APPENDS":
                items = self._cut()
                _extend(stack[-1], items)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                _fill(stack[-1], items)
            case "SETITEMS":
                items = self._cut()
                _fill(stack[-1], items)
            case "GLOBAL":
                stack.append(Opaque(str(arg)))
            case "STACK_GLOBAL":
                stack[-2:] = [Opaque(f"{stack[-2]:.200} {stack[-1]:.200}")]
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(self._call(stack.pop(), arguments))
            case "BUILD" | "ADDITEMS":  # the state of an object, the members of a set: not read
                self._cut() if op == "ADDITEMS" else stack.pop()
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "EMPTY_SET" | "PERSID" | "EXT1" | "EXT2" | "EXT4" | "NEXT_BUFFER":
                stack.append(Opaque(op.lower()))
            case "NEWOBJ_EX":
                stack[-3:] = [stack[-3] if isinstance(stack[-3], Opaque) else Opaque("object")]
            case "FROZENSET" | "OBJ" | "INST":
                self._cut()
                stack.append(Opaque(str(arg) if op == "INST" else op.lower()))
            case _:  # the rest are numbers, texts and bytes
                stack.append(arg)

    def _spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError(f"the pickle takes more than {MAX_STEPS} steps")

    def _cut(self) -> list[Any]:
        depth = self.marks.pop()
        items = self.stack[depth:]
        del self.stack[depth:]
        return items

    def _call(self, function: object, args: object) -> object:
        """What the named function would make; it is never called."""
        if not isinstance(function, Opaque) or not isinstance(args, tuple):
            return Opaque("object")
        match function.name, args:
            case "collections OrderedDict", ():
                return {}
            case "collections OrderedDict", (list() as pairs,):  # Python 2 wrote it like this
                self._spend(len(pairs))
                made: dict[Any, Any] = {}
                for key, value in pairs:
                    _fill(made, [key, value])
                return made
            case "torch Size", (tuple() as sizes,):
                return sizes
            case "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2", (Storage(), *_):
                return _stored(*args[:4])
            case "torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state", (data, *_):
                return data
        return function

    def _storage(self, description: object) -> Storage | Opaque:
        """("storage", type, key, device, numel), and in old files a sixth entry, for a part of another storage."""
        match description:
            case ("storage", Opaque(name), str() as key, _, int() as numel, *part):
                module, _, kind = name.rpartition(" ")
                dtype = DTYPES.get(kind.removesuffix("Storage"))
                if module in ("torch", "torch.cuda") and kind.endswith("Storage") and dtype and numel >= 0:
                    whole = self.storages.setdefault(key, Storage(dtype, key, numel))
                    if whole != Storage(dtype, key, numel):
                        raise ValueError("a storage is declared twice, differently")
                    return whole if part in ([], [None]) else Opaque("part of a storage")
                return Opaque(name)
        return Opaque("persistent object")


def _extend(target: object, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise TypeError("a list was expected")


def _fill(target: object, items: list[Any]) -> None:
    """Keys and values in turn. Only texts and numbers are keys: a hostile tuple may take for ever to hash."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 60):
                target[key] = value
    elif not isinstance(target, Opaque):
        raise TypeError("a dictionary was expected")


def _stored(storage: Storage, offset: object, shape: object, stride: object) -> Stored | Opaque:
    numbers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
    if len(numbers) > 17 or not all(isinstance(n, int) and 0 <= n <= 1 << 40 for n in numbers):
        raise ValueError("a tensor's shape is no list of sizes")
    found = Stored(storage, offset, shape, stride)  # type: ignore[arg-type]
    if len(found.shape) != len(found.stride):
        raise ValueError("a tensor has a shape and strides of different length")
    last = found.offset + sum((n - 1) * step for n, step in zip(found.shape, found.stride, strict=True))
    if 0 not in found.shape and last >= storage.numel:
        raise ValueError(f"a tensor of shape {found.shape} reaches beyond its storage of {storage.numel}")
    return found if prod(found.shape) <= storage.numel else Opaque("tensor that repeats its numbers")
