"""``pixeltrail adapt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import Device, File, Method, Published, Quality, Threads, prepared, progress_bar
from pixeltrail.errors import InputError

if TYPE_CHECKING:
    from pixeltrail.training.adapt import Adapted


@dataclass(frozen=True)
class Adapt:
    """Go on training on your own videos, without labels, and keep the result where it is better.

    Judged on frames that are held out; where nothing was gained, OUT holds the weights as they were.
    """

    videos: Annotated[Positional[tuple[Path, ...]], arg(metavar="VIDEO...", help_behavior_hint="")]
    """Video files, folders of frames, globs ("frames/*.jpg") or GIFs."""
    out: File
    """The weights to write, a .safetensors file."""
    source: Annotated[Method, arg(name="from")] = "default"
    """The weights to begin with: default or a .safetensors file."""
    minutes: Annotated[float, arg(metavar="MINUTES")] = 3.0
    """How long to train; 0 moves normalisation statistics alone, which takes seconds."""
    protocol: Published = ""
    """The published protocol under which you will track."""
    quality: Quality = ""
    """The speed preset at which you will track: frames are seen at its size."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def run(self) -> int:
        if not self.videos:
            raise InputError("adapt: give one video or more")

        from pixeltrail.training.adapt import adapt_file

        device = prepared(self.device, self.threads)
        with progress_bar() as show:
            adapted = adapt_file(
                self.source, self.videos, self.out, protocol=self.protocol, quality=self.quality, minutes=self.minutes,
                device=device, on_progress=show,
            )  # fmt: skip
        print(f"{summary(adapted)} -> {self.out}")
        return 0


def summary(adapted: Adapted) -> str:
    """What adaptation changed, in one line."""
    before, after = adapted.before, adapted.after
    kept = {
        "original": "kept as they were",
        "adapted": "adapted",
        "statistics": "with its statistics",
    }[adapted.kept]
    views = f"found again in another view {before.view:.1%} -> {after.view:.1%}"
    cycles = f"home again through later frames {before.cycle:.1%} -> {after.cycle:.1%}"
    alike = "moving together {:.3f} -> {:.3f}, ".format(*adapted.together) if adapted.together else ""
    return f"{adapted.steps} steps: {alike}{views}, {cycles}; weights {kept}"
