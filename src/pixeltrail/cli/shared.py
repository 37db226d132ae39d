"""What several commands need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

from tyro.conf import UseAppendAction, arg

from pixeltrail.errors import InputError


class Show(Protocol):
    """Says how far a stage has come."""

    def __call__(self, stage: str, done: int, total: int | None, note: str = "", /) -> None: ...


# Types of arguments as the help names them. An empty text means: as the method or the data set has it.
File = Annotated[Path, arg(metavar="FILE")]
Folder = Annotated[Path, arg(metavar="FOLDER")]
Method = Annotated[str, arg(metavar="METHOD")]
Published = Annotated[
    str,
    arg(
        metavar="{corrflow,mast,timecycle,uvc,uvc-boxes,crw,vfs,dino,dinov3,dift,dift-adm}",
        help_behavior_hint="(default: the method's own)",
    ),
]
Encoder = Annotated[str, arg(metavar="FILE.py:NAME", help_behavior_hint="")]
Quality = Annotated[str, arg(metavar="{fast,balanced,best}", help_behavior_hint="(default: the method's own)")]
Device = Annotated[str, arg(metavar="DEVICE")]
Threads = Annotated[int, arg(metavar="N", help_behavior_hint="(default: one for each core)")]
OptionalFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Settings = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE", help_behavior_hint="")]
OptionalFolder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]


def prepared(device: str, threads: int) -> str:
    """Set the number of threads and check the device."""
    import torch

    if threads < 0:
        raise InputError(f"--threads {threads}: expected a number of 1 or more")
    if threads:
        torch.set_num_threads(threads)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {device}: not available here; try cpu") from error
    return device


@contextmanager
def progress_bar() -> Iterator[Show]:
    """Show progress on the error stream if that is a terminal: ``show(stage, done, of how many)``, with rate and time left.
    A fourth argument stands in the stage's place."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int | None, note: str = "", /) -> None:
            if stage not in tasks:  # what an earlier run has done counts as done, but not as quick
                tasks[stage] = bar.add_task(stage, total=total, completed=done - 1)
            bar.update(tasks[stage], completed=done, total=total and max(total, done), description=note or stage)

        yield show
