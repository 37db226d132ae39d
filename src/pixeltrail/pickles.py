"""Pickles, read but never executed: a stack machine of our own that builds containers, numbers, texts and bytes.

A pickle is a program; Python's own reader lets it call any function. Here whatever function or class is named becomes
an `Opaque`, which does nothing. Who knows what a name stands for (a tensor, an array) says so in a subclass.
"""

from __future__ import annotations

import pickletools
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_STEPS = 400_000
"""Instructions and copied items of one pickle; those of a ResNet-50 with its optimizer are about 30 000."""

OPERATIONS = {op.code: op for op in pickletools.opcodes}
BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
"""Instructions that hold bytes, and the size of the number before them that says how many."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something that is not read: ``name`` is what the pickle calls it, ``"module name"``."""

    name: str


class Machine:
    """Follows a pickle's instructions. What is more than containers, numbers, texts and bytes is up to a subclass:
    `call`, `build` and `persistent` say what stands for it, and do nothing here."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.left = MAX_STEPS

    def run(self, file: BinaryIO) -> object:
        """The object that the pickle at the file's position describes; the position moves behind it.

        Raises ValueError, IndexError, KeyError or TypeError for what is no sound pickle.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about the escapes in a hostile text
            while True:
                op = OPERATIONS.get(file.read(1).decode("latin-1"))
                if op is None:
                    raise ValueError("it ends too early, or is no pickle")
                width = BYTES.get(op.name)
                if width:
                    arg: Any = self.content(file, int.from_bytes(file.read(width), "little"))
                else:
                    arg = op.arg.reader(file) if op.arg else None
                if op.name == "STOP":
                    return self.stack.pop()
                self._step(op.name, arg)

    def call(self, function: object, args: object) -> object:
        """What stands for the result of a named function, which is never called."""
        return function if isinstance(function, Opaque) and isinstance(args, tuple) else Opaque("object")

    def build(self, made: object, state: object) -> None:
        """Take note of the state that an object would be given."""

    def persistent(self, description: object) -> object:
        """What stands for something outside the pickle."""
        return Opaque("persistent object")

    def content(self, file: BinaryIO, size: int) -> object:
        """The ``size`` bytes at the file's position; the position moves behind them."""
        data = file.read(size)
        if len(data) != size:
            raise ValueError("it ends too early")
        return data

    def _step(self, op: str, arg: Any) -> None:
        self.spend(1)
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
                fill(stack[-1], items)
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "APPENDS":
                items = self._cut()
                _extend(stack[-1], items)
            case "SETITEM":
                items = stack[-2:]
                del stack[-2:]
                fill(stack[-1], items)
            case "SETITEMS":
                items = self._cut()
                fill(stack[-1], items)
            case "GLOBAL":
                stack.append(Opaque(str(arg)))
            case "STACK_GLOBAL":
                stack[-2:] = [Opaque(f"{stack[-2]:.200} {stack[-1]:.200}")]
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(self.call(stack.pop(), arguments))
            case "BUILD":
                state = stack.pop()
                self.build(stack[-1], state)
            case "ADDITEMS":  # the members of a set: not read
                self._cut()
            case "BINPERSID":
                stack.append(self.persistent(stack.pop()))
            case "EMPTY_SET" | "PERSID" | "EXT1" | "EXT2" | "EXT4" | "NEXT_BUFFER":
                stack.append(Opaque(op.lower()))
            case "NEWOBJ_EX":
                stack[-3:] = [stack[-3] if isinstance(stack[-3], Opaque) else Opaque("object")]
            case "FROZENSET" | "OBJ" | "INST":
                self._cut()
                stack.append(Opaque(str(arg) if op == "INST" else op.lower()))
            case _:  # the rest are numbers, texts and bytes
                stack.append(arg)

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise ValueError(f"the pickle takes more than {MAX_STEPS} steps")

    def _cut(self) -> list[Any]:
        depth = self.marks.pop()
        items = self.stack[depth:]
        del self.stack[depth:]
        return items


def _extend(target: object, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise TypeError("a list was expected")


def fill(target: object, items: list[Any]) -> None:
    """Keys and values in turn. Only texts and numbers are keys: a hostile tuple may take for ever to hash."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 60):
                target[key] = value
    elif not isinstance(target, Opaque):
        raise TypeError("a dictionary was expected")
