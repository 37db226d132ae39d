"""The command line: parse, call one library function, print. Nothing heavy is imported before the arguments are read."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitSubcommandPrefixes, PositionalMetavarFromFieldName, subcommand

from pixeltrail.cli.adapt import Adapt
from pixeltrail.cli.app import App
from pixeltrail.cli.batch import Batch
from pixeltrail.cli.colours import Colours
from pixeltrail.cli.convert import Convert
from pixeltrail.cli.evaluate import Evaluate
from pixeltrail.cli.export import Export
from pixeltrail.cli.flow import Flow
from pixeltrail.cli.motion import Count, Motion, SlowMotion, Stabilise
from pixeltrail.cli.report import Report
from pixeltrail.cli.segment import Segment
from pixeltrail.cli.show import Demo, Features, Models, Render
from pixeltrail.cli.track import Track
from pixeltrail.cli.train import Train
from pixeltrail.errors import DiskError, PixeltrailError

Command = (
    Annotated[Track, subcommand("track")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Batch, subcommand("batch")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Adapt, subcommand("adapt")]
    | Annotated[Colours, subcommand("colours")]
    | Annotated[Features, subcommand("features")]
    | Annotated[Render, subcommand("render")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[App, subcommand("app")]
    | Annotated[Flow, subcommand("flow")]
    | Annotated[SlowMotion, subcommand("slowmo")]
    | Annotated[Stabilise, subcommand("stabilise")]
    | Annotated[Motion, subcommand("motion")]
    | Annotated[Count, subcommand("count")]
    | Annotated[Segment, subcommand("segment")]
    | Annotated[Models, subcommand("models")]
)


def main(argv: list[str] | None = None) -> int:
    """The console script. Returns 0; 2 for bad input or usage, 3 for a full disk, 4 for an input that could be used in
    part, 130 and 143 when stopped by Ctrl-C and SIGTERM. What went wrong is said in one line on stderr."""
    argv = sys.argv[1:] if argv is None else argv
    command = None
    try:
        command = parse(argv)
        with _notes(), _stopped_by_sigterm():
            return int(command.run())
    except KeyboardInterrupt as stop:
        code = 128 + (stop.args[0] if stop.args else signal.SIGINT)
        return _fail("interrupted" + _how_to_go_on(command, argv), code)
    except DiskError as error:
        return _fail(str(error) + _how_to_go_on(command, argv), error.exit_code)
    except PixeltrailError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("out of memory; try --quality fast or smaller frames", 2)
    except OSError as error:
        from pixeltrail.data.files import explain

        told = explain(error, Path(error.filename or "output"))
        if isinstance(told, DiskError):
            return _fail(str(told) + _how_to_go_on(command, argv), told.exit_code)
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}; check the path and its permissions", 2)
    except RuntimeError as error:  # how torch says it
        if not any(words in str(error).lower() for words in ("out of memory", "can't allocate memory")):
            raise
        return _fail("out of memory; try --quality fast or smaller frames", 2)


def parse(argv: list[str]) -> Any:
    """The command that the arguments name; exits with 2 and the usage where they name none."""
    return tyro.cli(
        OmitSubcommandPrefixes[Command],
        prog="pixeltrail", description="Follow every pixel of a video, without labels.", args=argv,
        config=(FlagCreatePairsOff, PositionalMetavarFromFieldName),
    )  # fmt: skip


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"note: {record.getMessage()}", file=sys.stderr)


@contextmanager
def _notes() -> Iterator[None]:
    """What the library logs is said in one line on stderr."""
    logger, handler = logging.getLogger("pixeltrail"), _Notes()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM stops the work as Ctrl-C does, so that nothing is left half-written."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: signals belong to somebody else
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _how_to_go_on(command: Any, argv: list[str]) -> str:
    if not getattr(command, "resumable", False):
        return ""
    again = argv if "--resume" in argv else [*argv, "--resume"]
    return f"; go on with: {shlex.join(['pixeltrail', *again])}"


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
