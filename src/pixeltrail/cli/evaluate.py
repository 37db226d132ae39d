"""``pixeltrail evaluate DATASET``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitSubcommandPrefixes, Positional, arg, subcommand

from pixeltrail.cli.benchmarks import BadjaTask, BoxesTask, JhmdbTask, TapVidTask, VipTask, YouTubeVosTask
from pixeltrail.cli.evaluate_flow import FlowTask
from pixeltrail.cli.evaluate_probe import ProbeTask
from pixeltrail.cli.scoring import Scoring, names
from pixeltrail.cli.shared import OptionalFolder, progress_bar

if TYPE_CHECKING:
    from pixeltrail.evaluation.report import Draw


@dataclass(frozen=True)
class DavisTask(Scoring):
    """DAVIS 2016 and 2017: J and F by object, by sequence and overall, by the official definition."""

    root: Positional[Path]
    """The data set's folder, with JPEGImages/, Annotations/ and ImageSets/."""
    sequences: Annotated[str, arg(metavar="LIST", help_behavior_hint="(default: all of the split)")] = ""
    """Names separated by commas, or a file with one name a line."""
    split: Annotated[str, arg(metavar="SPLIT", help_behavior_hint="(default: 2017/val, 2016/val or the only one)")] = ""
    """A list in ImageSets, such as 2017/val."""
    results: OptionalFolder = None
    """Score the masks in this folder (SEQUENCE/00000.png ...) instead of running a method."""

    def run(self) -> int:
        from pixeltrail.data.davis import Davis
        from pixeltrail.evaluation.report import evaluate_masks, evaluate_results

        self.check()
        draw = self._draw()
        dataset = Davis(self.root, names(self.sequences), split=self.split or None)
        with progress_bar() as show:
            if self.results is not None:
                settings = {"results": str(self.results)}
                report = evaluate_results(self.results, dataset, on_frame=show, settings=settings, draw=draw)
            else:
                made = self.contender()
                report = evaluate_masks(made.masks, dataset, on_frame=show, settings=made.settings, draw=draw)
        return self.finish(report)

    def _draw(self) -> Draw | None:
        """How the worst frames are drawn, if a report is to show them."""
        from pixeltrail.visual.overlay import overlay

        return overlay if self.shown else None


@dataclass(frozen=True)
class ListTask:
    """Name the data sets."""

    def run(self) -> int:
        print("davis youtube-vos vip jhmdb badja tapvid boxes flow probe".replace(" ", "\n"))
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Score a method, or masks on the disk, by a data set's official metrics."""

    dataset: OmitSubcommandPrefixes[
        Annotated[DavisTask, subcommand("davis")]
        | Annotated[YouTubeVosTask, subcommand("youtube-vos")]
        | Annotated[VipTask, subcommand("vip")]
        | Annotated[JhmdbTask, subcommand("jhmdb")]
        | Annotated[BadjaTask, subcommand("badja")]
        | Annotated[TapVidTask, subcommand("tapvid")]
        | Annotated[BoxesTask, subcommand("boxes")]
        | Annotated[FlowTask, subcommand("flow")]
        | Annotated[ProbeTask, subcommand("probe")]
        | Annotated[ListTask, subcommand("list")]
    ]

    def run(self) -> int:
        code: int = self.dataset.run()
        return code
