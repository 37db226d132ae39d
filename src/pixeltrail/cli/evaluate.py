"""``pixeltrail evaluate DATASET``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from pixeltrail.cli.shared import (
    Device,
    Method,
    OptionalFile,
    OptionalFolder,
    Published,
    Quality,
    Threads,
    prepared,
    progress_bar,
)  # fmt: skip
from pixeltrail.errors import InputError


@dataclass(frozen=True)
class DavisTask:
    """DAVIS 2016 and 2017: J and F by object, by sequence and overall, by the official definition."""

    root: Positional[Path]
    """The data set's folder, with JPEGImages/, Annotations/ and ImageSets/."""
    sequences: Annotated[str, arg(metavar="LIST", help_behavior_hint="(default: all of the split)")] = ""
    """Names separated by commas, or a file with one name a line."""
    split: Annotated[str, arg(metavar="SPLIT", help_behavior_hint="(default: 2017/val, 2016/val or the only one)")] = ""
    """A list in ImageSets, such as 2017/val."""
    method: Method = "default"
    """default, a .safetensors file, a method's name, your own Python file, or a baseline: identity, farneback, dis,
    colour."""
    results: OptionalFolder = None
    """Score the masks in this folder (SEQUENCE/00000.png ...) instead of running a method."""
    protocol: Published = ""
    """Run as published."""
    quality: Quality = ""
    """Speed preset."""
    out: OptionalFile = None
    """Write the report as JSON."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def run(self) -> int:
        import json

        from rich.console import Console

        from pixeltrail.data.davis import Davis
        from pixeltrail.data.files import require_writable_folder, write_text
        from pixeltrail.evaluation.report import evaluate_masks, evaluate_results

        if self.out is not None:
            if self.out.is_dir():
                raise InputError(f"{self.out}: is a folder; name a file for the report, such as report.json")
            require_writable_folder(self.out.absolute().parent)
        dataset = Davis(self.root, self._names(), split=self.split or None)
        with progress_bar() as show:
            if self.results is not None:
                report = evaluate_results(self.results, dataset, on_frame=show, settings={"results": str(self.results)})
            else:
                from pixeltrail.predictors import predictor

                device = prepared(self.device, self.threads)
                predict, settings = predictor(self.method, protocol=self.protocol, quality=self.quality, device=device)
                report = evaluate_masks(predict, dataset, on_frame=show, settings=settings)
        Console().print(report.table())
        if self.out is not None:
            write_text(self.out, json.dumps(report.json(), indent=1) + "\n")
        return 0

    def _names(self) -> list[str] | None:
        if not self.sequences:
            return None
        text = self.sequences.replace(",", "\n")
        if os.path.isfile(self.sequences):
            try:
                text = Path(self.sequences).read_text("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{self.sequences}: is no text ({error}); write one sequence name a line") from None
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise InputError(f"--sequences {self.sequences}: names no sequence; separate names by commas")
        return names


@dataclass(frozen=True)
class ListTask:
    """Name the data sets."""

    def run(self) -> int:
        print("davis")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Score a method, or masks on the disk, by a data set's official metrics."""

    dataset: OmitSubcommandPrefixes[Annotated[DavisTask, subcommand("davis")] | Annotated[ListTask, subcommand("list")]]

    def run(self) -> int:
        code: int = self.dataset.run()
        return code
