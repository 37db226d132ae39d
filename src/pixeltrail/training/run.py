"""The settings of one training run: flat, frozen, readable from TOML, kept beside the weights that they made."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pixeltrail.catalogue import unknown
from pixeltrail.errors import InputError, UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """``method`` with its ``settings`` (arguments of the method's ``build``), and the plain numbers of the loop.

    ``size``: side of the square training crops, pixels; ``width``, where they are wider than high (flow alone).
    ``frames``: per clip, drawn from a ``span`` of (shortest, longest) seconds. ``crop``: (smallest, largest) side of the
    region that is cut out, as a share of the short side. ``rendered``: share of each batch that the project's own
    generator renders. ``ema``: decay of the averaged weights that are saved. ``precision``: "bf16" (autocast), "fp32",
    or "auto": bf16 where the device computes in it.
    ``even``: the frames of a clip are evenly spaced, instead of two ends and random middles. ``shards``: a batch is split
    in so many equal parts, each with its own normalisation statistics, negatives and random generator; processes share
    them out, and a process works through its own one after the other. ``lr`` falls along half a cosine after ``warmup``
    steps, or else by half at each step of ``halve``. ``clip_gradient``: largest norm of the gradient, 0 for none.
    ``workers``: loader processes, 0 for one background thread. ``compile``: the encoder goes through ``torch.compile``.
    ``start``: a weights file to go on from.
    """

    method: str = "dul"
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 10_000
    batch_size: int = 8
    frames: int = 3
    size: int = 128
    width: int = 0
    span: tuple[float, float] = (0.3, 1.6)
    crop: tuple[float, float] = (0.5, 0.9)
    even: bool = False
    rendered: float = 0.0
    shards: int = 1
    lr: float = 3e-4
    warmup: int = 200
    halve: tuple[int, ...] = ()
    weight_decay: float = 1e-4
    clip_gradient: float = 0.0
    ema: float = 0.998
    seed: int = 0
    workers: int = 0
    save_every: int = 500
    precision: str = "auto"
    compile: bool = False
    start: str = ""

    def __post_init__(self) -> None:
        at_least = dict.fromkeys(("steps", "batch_size", "frames", "size", "save_every", "shards"), 1)
        at_least |= dict.fromkeys(("seed", "workers", "warmup", "width"), 0)
        for name, low in at_least.items():
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= low):
                raise InputError(
                    f"recipe: {name} is {getattr(self, name)!r}, expected a whole number of at least {low}"
                )
        if not 0 < self.lr < math.inf:
            raise InputError(f"recipe: lr is {self.lr}, expected a number above 0")
        for name in ("rendered", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"recipe: {name} is {getattr(self, name)}, expected a number from 0 to 1")
        for name in ("weight_decay", "clip_gradient"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"recipe: {name} is {getattr(self, name)}, expected a number of at least 0")
        if self.batch_size % self.shards:
            raise InputError(
                f"recipe: batch_size {self.batch_size} does not divide into {self.shards} shards; "
                f"take a multiple of {self.shards}"
            )
        if self.precision not in ("auto", "bf16", "fp32"):
            raise InputError(f"recipe: precision is {self.precision!r}; there are auto, bf16, fp32")
        for name in ("span", "crop"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise InputError(f"recipe: {name} is {low}, {high}; expected 0 < low <= high")
            object.__setattr__(self, name, (float(low), float(high)))

    def table(self) -> dict[str, Any]:
        """Plain values, as stored in cards and resolved recipes."""
        return {**asdict(self), "settings": dict(self.settings)}


def read_recipe(path: str | Path) -> Run:
    """A recipe file: flat TOML, the fields of ``Run``, with a table ``[settings]`` for the method."""
    try:
        values = tomllib.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such recipe") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    return changed(Run(), values, source=str(path))


def changed(run: Run, values: Mapping[str, Any], *, source: str) -> Run:
    """``run`` with some fields replaced; an unknown field is an error that names the nearest one."""
    known = {f.name: f for f in fields(Run)}
    clean: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UnknownNameError(f"{source}: {unknown('setting', key, known)}")
        current = getattr(run, key)
        if key == "halve":
            if not (isinstance(value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in value)):
                raise InputError(f"{source}: halve is {value!r}, expected a list of steps")
            clean[key] = tuple(value)
        elif isinstance(current, tuple):
            if not (isinstance(value, (list, tuple)) and len(value) == 2):
                raise InputError(f"{source}: {key} is {value!r}, expected two numbers")
            clean[key] = tuple(value)
        elif isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
            clean[key] = float(value)
        elif key == "settings" and isinstance(value, Mapping):
            clean[key] = {**run.settings, **value}
        elif type(value) is type(current):
            clean[key] = value
        else:
            raise InputError(f"{source}: {key} is {value!r}, expected a {type(current).__name__}")
    return replace(run, **clean)


def parse_set(pairs: list[str]) -> dict[str, Any]:
    """``["lr=1e-4", "settings.width=48"]`` as given to ``--set``, each value read as TOML."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: expected KEY=VALUE")
        try:
            value = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            value = text
        if type(value) is int and "e" in text.lower() and "x" not in text.lower():
            value = float(value)
        group, dot, name = key.strip().partition(".")
        if dot:
            values.setdefault(group, {})[name] = value
        else:
            values[group] = value
    return values


def to_toml(run: Run) -> str:
    """The resolved recipe as TOML, which ``read_recipe`` reads back."""

    def text(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join(text(v) for v in value) + "]"
        return repr(value)

    table = run.table()
    settings = table.pop("settings")
    lines = [f"{key} = {text(value)}" for key, value in table.items()]
    return "\n".join([*lines, "", "[settings]", *(f"{k} = {text(v)}" for k, v in settings.items()), ""])
