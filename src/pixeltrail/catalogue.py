"""Finding a method: a name is a file in ``methods/``, or the path of anybody's own file, with a function ``build``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pixeltrail.methods
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.tracker import Tracker


def names() -> list[str]:
    """The methods that come with the package."""
    return sorted(module.name for module in pkgutil.iter_modules(pixeltrail.methods.__path__))


def module(method: str) -> ModuleType:
    """The module of a method, by name (``"mast"``) or path (``"./mine.py"``)."""
    if method.endswith(".py"):
        path = Path(method)
        if not path.is_file():
            raise InputError(f"{method}: no such file; give a Python file with a function build() -> Tracker")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{method}: cannot be imported as Python")
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    else:
        if method not in names():
            raise UnknownNameError(unknown("method", method, names()))
        found = importlib.import_module(f"pixeltrail.methods.{method}")
    if not callable(getattr(found, "build", None)):
        raise InputError(f"{method}: has no function build(); it must return a pixeltrail.Tracker")
    return found


def build(method: str, **settings: object) -> Tracker:
    """An untrained tracker. ``settings`` are the arguments of the method's ``build``; a wrong one is an ``InputError``."""
    maker = module(method).build
    try:
        tracker = maker(**settings)
    except TypeError as error:
        raise InputError(f"{method}: {error}") from error
    if not isinstance(tracker, Tracker):
        raise InputError(f"{method}: build() returned {type(tracker).__name__}, expected a pixeltrail.Tracker")
    return tracker


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line that names the nearest thing which exists."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1, 0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return f"unknown {kind} {name!r}; {hint}"
