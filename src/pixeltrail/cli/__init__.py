"""The command line: parse, call one library function, print. Nothing heavy is imported before the arguments are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitSubcommandPrefixes, subcommand

from pixeltrail.cli.evaluate import Evaluate
from pixeltrail.cli.show import Demo, Models, Render
from pixeltrail.cli.track import Track
from pixeltrail.cli.train import Train
from pixeltrail.errors import DiskError, PixeltrailError

Command = (
    Annotated[Track, subcommand("track")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Render, subcommand("render")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Models, subcommand("models")]
)


def main(argv: list[str] | None = None) -> int:
    """The console script: returns 0, 2 (input), 3 (disk full), 4 (damaged in part) or 130 (interrupted)."""
    command: Any = tyro.cli(
        OmitSubcommandPrefixes[Command],
        prog="pixeltrail", description="Follow every pixel of a video, without labels.", args=argv,
    )  # fmt: skip
    try:
        return int(command.run())
    except PixeltrailError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except MemoryError:
        return _fail("out of memory; try --quality fast or smaller frames", 2)
    except OSError as error:
        from pixeltrail.data.files import explain

        told = explain(error, Path(error.filename or "output"))
        return _fail(str(told), DiskError.exit_code if isinstance(told, DiskError) else 2)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
