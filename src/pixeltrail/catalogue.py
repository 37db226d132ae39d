"""Finding a method: a name is a file in ``methods/``, or the path of anybody's own file, with a function ``build``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
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
        found = own_file(Path(method), "a function build() -> Tracker")
    else:
        if method not in names():
            raise UnknownNameError(unknown("method", method, names()))
        found = importlib.import_module(f"pixeltrail.methods.{method}")
    if not callable(getattr(found, "build", None)):
        raise InputError(f"{method}: has no function build(); it must return a pixeltrail.Tracker")
    return found


def own_file(path: Path, holding: str) -> ModuleType:
    """Somebody's own Python file as a module. As in a script, it can import what lies beside it.

    Raises InputError where there is no such file, for one that is not Python, and for imports that are not found.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: no such file; give a Python file with {holding}")
    found = importlib.util.module_from_spec(spec)
    beside = str(path.absolute().parent)
    if beside not in sys.path:
        sys.path.append(beside)  # last, so that nothing installed is hidden by it
    try:
        spec.loader.exec_module(found)
    except (ImportError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be imported ({type(error).__name__}: {error})") from error
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
