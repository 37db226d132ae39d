"""``pixeltrail evaluate flow ROOT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.scoring import require_place, tell
from pixeltrail.cli.shared import (
    Device,
    Method,
    OptionalFile,
    OptionalFolder,
    Settings,
    Threads,
    prepared,
    progress_bar,
)


@dataclass(frozen=True)
class FlowTask:
    """Optical flow on Sintel, KITTI, Middlebury, Flying Chairs, Spring, FlyingThings3D, HD1K or a folder of your own: EPE,
    outliers, Fl-all, angular error, by speed and by occlusion."""

    root: Positional[Path]
    """The data set's folder, as it is published."""
    dataset: Annotated[str, arg(metavar="{sintel,kitti,middlebury,chairs,spring,things,hd1k,folder}")]
    """Which one it is; folder: frames and flow files named like the first frames, in one folder."""
    split: Annotated[str, arg(metavar="SPLIT", help_behavior_hint="(default: clean; val where chairs has a list)")] = ""
    """clean or final of sintel and things; train, val or all of chairs."""
    method: Method = "default"
    """default, a .safetensors file, farneback, dis, tvl1, tracker, or a tracker's name."""
    set: Settings = ()
    """Change one setting of the method (winsize=21, preset=fast, ...); may be given several times."""
    predictions: OptionalFolder = None
    """Score the flow files in this folder, named like the pairs (SCENE/frame_0001.flo ...), instead of running a method."""
    out: OptionalFile = None
    """Write the report as JSON."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def run(self) -> int:
        from pixeltrail.data.flowsets import flow_set
        from pixeltrail.evaluation.flow import evaluate_flow, evaluate_predictions

        require_place(self.out)
        pairs = flow_set(self.dataset, self.root, self.split)
        settings = {"dataset": self.dataset, "split": self.split}
        with progress_bar() as show:

            def on_pair(name: str, done: int, total: int) -> None:
                show(self.dataset, done, total, name)

            if self.predictions is not None:
                settings["predictions"] = str(self.predictions)
                report = evaluate_predictions(self.predictions, pairs, on_pair=on_pair, settings=settings)
            else:
                from pixeltrail.flow_methods import flow_method
                from pixeltrail.training.run import parse_set

                chosen = parse_set(self.set)
                settings |= {"method": self.method, **{key: str(value) for key, value in chosen.items()}}
                method = flow_method(self.method, device=prepared(self.device, self.threads), **chosen)
                report = evaluate_flow(method, pairs, on_pair=on_pair, settings=settings)
        tell(report, self.out)
        return 0
