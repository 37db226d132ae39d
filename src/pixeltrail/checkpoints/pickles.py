"""PyTorch's pickles, read but never executed: see `pixeltrail.pickles`.

The few functions that PyTorch uses to describe a tensor are recognised by name, and whatever else is named becomes an
`Opaque`, which does nothing: optimizers and argument lists of a training run may stand beside the weights without harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from math import prod
from typing import Any

import torch

from pixeltrail.pickles import Machine, Opaque, fill

DTYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "QInt8": torch.int8,
    "QUInt8": torch.uint8, "QInt32": torch.int32,
}  # fmt: skip


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
    return TensorMachine({} if storages is None else storages).run(file)


class TensorMachine(Machine):
    def __init__(self, storages: dict[str, Storage]) -> None:
        super().__init__()
        self.storages = storages

    def call(self, function: object, args: object) -> object:
        """What the named function would make; it is never called."""
        if not isinstance(function, Opaque) or not isinstance(args, tuple):
            return Opaque("object")
        match function.name, args:
            case "collections OrderedDict", ():
                return {}
            case "collections OrderedDict", (list() as pairs,):  # Python 2 wrote it like this
                self.spend(len(pairs))
                made: dict[Any, Any] = {}
                for key, value in pairs:
                    fill(made, [key, value])
                return made
            case "torch Size", (tuple() as sizes,):
                return sizes
            case "torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2", (Storage(), *_):
                return stored(*args[:4])
            case "torch._utils _rebuild_parameter" | "torch._utils _rebuild_parameter_with_state", (data, *_):
                return data
        return function

    def persistent(self, description: object) -> Storage | Opaque:
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


def stored(storage: Storage, offset: object, shape: object, stride: object) -> Stored | Opaque:
    """A part of a storage, if it lies within it. Raises ValueError."""
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
