"""``pixeltrail segment``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import Device, Folder, Threads, prepared, progress_bar


@dataclass(frozen=True)
class Segment:
    """Cut a picture or a video into things that would move together: clusters of an embedding (CPFS).

    OUT receives clusters/NAME.png, label maps of cluster numbers that last through a video, and pictures/NAME.jpg, the
    frame under its clusters beside the embedding in colours.
    """

    source: Positional[Path]
    """A picture, a video file, a folder of frames, a glob ("frames/*.jpg") or a GIF."""
    out: Folder
    """Folder for the results."""
    weights: Annotated[str, arg(name="with", metavar="METHOD")]
    """Weights of method cpfs (pixeltrail train --method cpfs); any other tracker's file or name works too."""
    clusters: int = 4
    """How many."""
    size: int = 240
    """Short side in pixels at which frames are embedded."""
    seed: int = 0
    """Of the clusters' first centres."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def run(self) -> int:
        from pixeltrail.jobs.segment import segment_file
        from pixeltrail.predictors import load_tracker

        tracker = load_tracker(self.weights, device=prepared(self.device, self.threads))
        with progress_bar() as show:
            done = segment_file(
                self.source, self.out, tracker, clusters=self.clusters, size=self.size, seed=self.seed, on_frame=show
            )
        print(f"{done.frames} frame{'s' * (done.frames != 1)} -> {self.out}")
        if done.problem:
            raise done.problem
        return 0
