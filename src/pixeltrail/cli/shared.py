"""What several commands need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pixeltrail.errors import InputError


def prepared(device: str, threads: int) -> str:
    """Set the number of threads and check the device."""
    import torch

    if threads:
        torch.set_num_threads(max(1, threads))
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: not available here; try cpu") from error
    return device


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A progress bar on the terminal's error stream, with rate and time left."""
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

    console = Console(stderr=True, force_terminal=None if "NO_COLOR" not in os.environ else False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield bar
