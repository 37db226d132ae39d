"""``pixeltrail batch``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import Device, Folder, Method, OptionalFolder, Published, Quality, prepared, progress_bar
from pixeltrail.errors import DamagedInputError, DiskError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pixeltrail.batch import Job, Result


@dataclass(frozen=True)
class Batch:
    """Track, or compute the flow of, many videos: one folder of results OUT/NAME for each, whole or not there.

    Run again after whatever stopped it, it goes on; what is done is left alone. Videos that fail are listed in
    OUT/failed.csv, do not stop the others, and make the exit code 4.
    """

    source: Annotated[Positional[Path], arg(metavar="FOLDER|LIST")]
    """A folder of videos, or of folders of frames; or a list: a path a line, or a CSV with the columns video and, if
    need be, name, labels, points."""
    out: Folder
    """Folder for the results."""
    job: Literal["track", "flow"] = "track"
    """What is to be done."""
    labels: OptionalFolder = None
    """Where labels of the first frames are: NAME.png, NAME.json or NAME/ (masks), NAME.csv (points); if they do not lie
    beside the videos."""
    method: Annotated[Method, arg(help_behavior_hint="(default: default; for flow dis)")] = ""
    """As for track, or for flow: dis, farneback, tvl1, default, a .safetensors file, a tracker's name."""
    protocol: Published = ""
    """Run as published."""
    quality: Quality = ""
    """Speed preset."""
    overlay: Annotated[bool, arg(help_behavior_hint="")] = True
    """Write no overlay.mp4, or flow.mp4."""
    shard: Annotated[str, arg(metavar="I/N", help_behavior_hint="(default: 0/1)")] = "0/1"
    """Do every N-th video from number I, which counts from 0: for array jobs on several machines."""
    executor: Literal["local", "ray"] = "local"
    """Processes of this machine, or Ray."""
    workers: Annotated[int, arg(metavar="N", help_behavior_hint="(default: as many as the cores or GPUs carry)")] = 0
    """Processes at a time."""
    device: Device = "cpu"
    """cpu, cuda (every GPU), cuda:1, mps."""
    threads: int = 1
    """Processor threads of each process."""

    def run(self) -> int:
        from pixeltrail import batch

        videos = batch.share(batch.read_videos(self.source, self.labels), self.shard)
        if self.workers < 0 or self.threads < 1:
            raise InputError(f"--workers {self.workers} --threads {self.threads}: expected 0 or more, and 1 or more")
        method = self.method or ("dis" if self.job == "flow" else "default")
        if self.job == "flow" and (self.protocol or self.quality):
            raise InputError("--protocol and --quality are for --job track; leave them out")
        options = {"protocol": self.protocol, "quality": self.quality} if self.job == "track" else {}
        settings = batch.settings_of(self.job, method, overlay=self.overlay, **options)
        batch.begin(self.out, settings)
        jobs = [
            batch.Job(self.job, video, str(self.out.absolute()), settings, self.device, self.threads)
            for video in videos
        ]
        results: list[Result] = []
        with progress_bar() as show:
            for result in self._results(jobs):
                results.append(result)
                show("videos", len(results), len(jobs))
                if result.state == "full":
                    raise DiskError(f"{result.why}; the same command goes on")
                if result.state not in ("done", "there"):
                    print(f"{result.name}: {result.why}", file=sys.stderr)
        failures = self.out / f"failed{'' if self.shard == '0/1' else '-' + self.shard.replace('/', '-of-')}.csv"
        batch.report_failures(failures, results)
        return self._said(results, failures)

    def _results(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """Of the jobs that were done before, and of the others as they are done."""
        from pixeltrail import batch
        from pixeltrail.batch.executors import devices, machine, worker_count

        todo = []
        for job in jobs:
            there = _finished(job)
            if there is None:
                todo.append(job)
            else:
                yield there
        if not todo:
            return
        if self.executor == "ray":
            yield from batch.run_ray(todo, workers=self.workers, on_gpus=self.device.startswith("cuda"))
            return
        prepared(self.device, 0)
        on_devices = devices(self.device)
        fitting = worker_count(machine()[0], self.threads, machine()[1]) if self.device == "cpu" else len(on_devices)
        yield from batch.run_local(todo, workers=self.workers or fitting, on_devices=on_devices)

    def _said(self, results: Sequence[Result], failures: Path) -> int:
        counts = {
            state: sum(r.state == state for r in results) for state in ("done", "there", "part", "failed", "busy")
        }
        words = {
            "done": "done", "there": "there already", "part": "damaged, done in part", "failed": "failed",
            "busy": "left to another process",
        }  # fmt: skip
        said = ", ".join(f"{n} {words[state]}" for state, n in counts.items() if n)
        print(f"{len(results)} videos: {said or 'none in this shard'} -> {self.out}")
        bad = counts["part"] + counts["failed"] + counts["busy"]
        if bad:
            raise DamagedInputError(f"{bad} of {len(results)} videos could not be finished; see {failures}")
        return 0


def _finished(job: Job) -> Result | None:
    from pixeltrail.batch import finished

    try:
        return finished(Path(job.out), job.video)
    except (InputError, OSError):  # will be said when its turn comes
        return None
