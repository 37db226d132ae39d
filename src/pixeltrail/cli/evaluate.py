"""``pixeltrail evaluate DATASET``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand

from pixeltrail.cli.shared import prepared, progress_bar
from pixeltrail.errors import InputError


@dataclass(frozen=True)
class DavisTask:
    """DAVIS 2016 and 2017: J and F by object, by sequence and overall, by the official definition."""

    root: Positional[Path]
    """The data set's folder, with JPEGImages/, Annotations/ and ImageSets/."""
    sequences: str = ""
    """Names separated by commas, or a file with one name a line; all of the split otherwise."""
    split: str = ""
    """A list in ImageSets, such as 2017/val."""
    method: str = "default"
    """"default", a .safetensors file, a method's name, or a baseline: identity, farneback, dis, colour."""
    results: Path | None = None
    """Score the masks in this folder (SEQUENCE/00000.png ...) instead of running a method."""
    protocol: str = ""
    """Run as published: corrflow, mast, crw, vfs or dino."""
    quality: Literal["", "fast", "balanced", "best"] = ""
    """Speed preset."""
    out: Path | None = None
    """Write the report as JSON."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """Processor threads; 0: as many as there are cores."""

    def run(self) -> int:
        import json

        from rich.console import Console

        from pixeltrail.data.davis import Davis
        from pixeltrail.data.files import require_writable_folder, write_text
        from pixeltrail.evaluation.report import evaluate_masks, evaluate_results

        if self.out is not None:
            require_writable_folder(self.out.absolute().parent)
        dataset = Davis(self.root, self._names(), split=self.split or None)
        with progress_bar() as progress:
            tasks: dict[str, Any] = {}

            def on_frame(sequence: str, done: int, total: int) -> None:
                if sequence not in tasks:
                    tasks[sequence] = progress.add_task(sequence, total=total)
                progress.update(tasks[sequence], completed=done)

            if self.results is not None:
                report = evaluate_results(
                    self.results, dataset, on_frame=on_frame, settings={"results": str(self.results)}
                )
            else:
                from pixeltrail.predictors import predictor

                device = prepared(self.device, self.threads)
                predict, settings = predictor(self.method, protocol=self.protocol, quality=self.quality, device=device)
                report = evaluate_masks(predict, dataset, on_frame=on_frame, settings=settings)
        Console().print(report.table())
        if self.out is not None:
            write_text(self.out, json.dumps(report.json(), indent=1) + "\n")
        return 0

    def _names(self) -> list[str] | None:
        if not self.sequences:
            return None
        path = Path(self.sequences)
        text = path.read_text() if path.is_file() else self.sequences.replace(",", "\n")
        names = [line.strip() for line in text.splitlines() if line.strip()]
        if not names:
            raise InputError(
                f"{self.sequences}: names no sequence; give names separated by commas, or a file with them"
            )
        return names


@dataclass(frozen=True)
class Evaluate:
    """Score a method, or masks on the disk, by a data set's official metrics."""

    dataset: OmitSubcommandPrefixes[Annotated[DavisTask, subcommand("davis")] | Annotated[None, subcommand("list")]]

    def run(self) -> int:
        if self.dataset is None:
            print("davis")
            return 0
        code: int = self.dataset.run()
        return code
