"""What all benchmarks of trackers have in common: what is run, and where the report goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from pixeltrail.cli.shared import Device, Encoder, Method, OptionalFile, Published, Quality, Threads, prepared
from pixeltrail.errors import InputError

if TYPE_CHECKING:
    from pixeltrail.predictors import Contender

Names = Annotated[str, arg(metavar="LIST", help_behavior_hint="(default: all)")]
Changed = Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: the protocol's)")]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Options of every benchmark."""

    method: Method = "default"
    """default, a .safetensors file, a method's name (then untrained), your own Python file, or a baseline: identity,
    farneback, dis, flow:NAME, sift, colour, untrained."""
    encoder: Encoder = ""
    """Your own features instead: FILE.py:FUNCTION or MODULE:FUNCTION, with an attribute stride."""
    protocol: Published = ""
    """Run as published."""
    quality: Quality = ""
    """Speed preset."""
    recent: Changed = None
    """How many of the last frames are remembered."""
    radius: Changed = None
    """How far to look, in cells; 0: everywhere."""
    topk: Changed = None
    """How many candidates count; 0: all."""
    temperature: Annotated[float | None, arg(metavar="T", help_behavior_hint="(default: the protocol's)")] = None
    """Of the softmax over candidates."""
    appearance: Annotated[float | None, arg(metavar="G", help_behavior_hint="(default: the protocol's)")] = None
    """How much it counts what things look like, wherever they were; 0: not at all."""
    out: OptionalFile = None
    """Write the report as JSON."""
    report: OptionalFile = None
    """Write the report as a page of HTML that needs nothing else."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def check(self) -> None:
        """See that the report can be written, before hours are spent on it."""
        require_place(self.out)
        require_place(self.report, "report.html")

    @property
    def shown(self) -> bool:
        """Whether there is to be a report, which holds pictures."""
        return self.report is not None or self.out is not None

    def contender(self, *, own_size: bool = False) -> Contender:
        """What is to be evaluated; see `predictors.contender`."""
        from pixeltrail.predictors import contender

        return contender(
            self.method, protocol=self.protocol, quality=self.quality, encoder=self.encoder,
            device=prepared(self.device, self.threads), own_size=own_size, recent=self.recent, radius=self.radius,
            topk=self.topk, temperature=self.temperature, appearance=self.appearance,
        )  # fmt: skip

    def finish(self, report: Any) -> int:
        """Print the table, write the report and its page."""
        content = tell(report, self.out, made=self._made())
        if self.report is not None:
            from pixeltrail.data.files import write_text
            from pixeltrail.evaluation.page import page

            settings = content["settings"]
            write_text(self.report, page([content], [str(settings.get("method") or settings.get("results", "report"))]))
        return 0

    def _made(self) -> dict[str, Any]:
        """On what the report was made: speed and memory depend on it."""
        import torch

        import pixeltrail

        made: dict[str, Any] = {"pixeltrail": pixeltrail.__version__, "torch": torch.__version__, "device": self.device}
        return made | {"threads": torch.get_num_threads(), "peak_memory_mb": peak_memory_mb()}


def require_place(path: Path | None, such: str = "report.json") -> None:
    """See that a report, if there is to be one, can be written to ``path``. Raises InputError."""
    if path is not None:
        from pixeltrail.data.files import require_writable_folder

        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file for the report, such as {such}")
        require_writable_folder(path.absolute().parent)


def tell(report: Any, out: Path | None, **more: Any) -> dict[str, Any]:
    """Print a report's table, write the report, with what ``more`` there is to say, as JSON to ``out``, and return it."""
    import json

    from rich.console import Console

    from pixeltrail.data.files import write_text

    Console(width=max(Console().width, 120)).print(report.table())  # numbers are never cut
    content: dict[str, Any] = report.json() | more
    if out is not None:
        write_text(out, json.dumps(content, indent=1) + "\n")
    return content


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, in 10⁶ bytes; None where the system does not say."""
    import sys

    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def names(text: str, option: str = "--sequences") -> list[str] | None:
    """What a list of names names: separated by commas, or a file with one a line. None for an empty text."""
    if not text:
        return None
    content = text.replace(",", "\n")
    if os.path.isfile(text):
        try:
            content = Path(text).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{text}: is no text ({error}); write one sequence name a line") from None
    found = [line.strip() for line in content.splitlines() if line.strip()]
    if not found:
        raise InputError(f"{option} {text}: names no sequence; separate names by commas")
    return found
