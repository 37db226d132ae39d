"""The command line: parse, call one library function, print. Nothing heavy is imported before the arguments are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitSubcommandPrefixes, Positional, UseAppendAction, subcommand

from pixeltrail.errors import DamagedInputError, DiskError, InputError, PixeltrailError

if TYPE_CHECKING:
    from pixeltrail.data.video import FrameSource
    from pixeltrail.types import LabelMap, Points


@dataclass(frozen=True)
class Track:
    """Follow masks, boxes or points from one frame through a video.

    Writes OUT/masks/*.png, OUT/tracks.json (for points OUT/points.csv) and OUT/overlay.mp4.
    """

    video: Positional[Path]
    """A video file, a folder of frames, a glob ("frames/*.jpg") or a GIF."""
    out: Path
    """Folder for the results."""
    labels: UseAppendAction[tuple[str, ...]] = ()
    """First labels: an indexed, grey or coloured PNG, a folder with one PNG per object, or JSON (COCO RLE, polygons).
    FILE@N labels frame N; may be given several times."""
    points: Path | None = None
    """Points to follow instead: CSV or JSON with x, y and optionally frame and name."""
    box: UseAppendAction[tuple[str, ...]] = ()
    """A box to follow instead: X1,Y1,X2,Y2 in pixels of the first frame, or X1,Y1,X2,Y2@N; may be repeated."""
    method: str = "default"
    """"default", a .safetensors file, a method's name, or your own Python file."""
    protocol: str = ""
    """Run as published: corrflow, mast, crw, vfs or dino."""
    quality: Literal["", "fast", "balanced", "best"] = ""
    """Speed preset: the size at which frames are embedded and how many are remembered."""
    direction: Literal["forward", "backward", "both"] = "forward"
    """From the labelled frame to the end, back to the start, or both."""
    resume: bool = False
    """Go on with an interrupted job."""
    overlay: bool = True
    """Write OUT/overlay.mp4."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """Processor threads; 0: as many as there are cores."""

    def run(self) -> int:
        from pixeltrail.data.video import open_frames

        given_kinds = [bool(self.labels), self.points is not None, bool(self.box)]
        if sum(given_kinds) != 1:
            raise InputError("track: give one of --labels FILE, --points FILE or --box X1,Y1,X2,Y2")
        source = open_frames(self.video)
        given = self._given(source)

        from pixeltrail.jobs import track_video
        from pixeltrail.predictors import describe, load_tracker

        device = _prepared(self.device, self.threads)
        tracker = load_tracker(self.method, protocol=self.protocol, quality=self.quality, device=device)
        settings = {"source": _identity(self.video), "given": self._digest(), "method": self.method}
        settings |= describe(tracker, self.method)
        with _progress() as progress:
            tasks: dict[str, Any] = {}

            def on_frame(stage: str, done: int) -> None:
                if stage not in tasks:
                    tasks[stage] = progress.add_task(stage, total=source.count)
                progress.update(tasks[stage], completed=done)

            try:
                summary = track_video(
                    tracker, source, self.out, given, settings=settings, direction=self.direction,
                    resume=self.resume, with_overlay=self.overlay, on_frame=on_frame,
                )  # fmt: skip
            except KeyboardInterrupt:
                progress.stop()
                print("interrupted; go on with the same command and --resume", file=sys.stderr)
                return 130
        print(f"{summary.frames} frames -> {self.out}")
        if summary.damage:
            raise DamagedInputError(summary.damage)
        return 0

    def _given(self, source: FrameSource) -> dict[int, LabelMap] | Points:
        from pixeltrail.data import labels

        if self.points is not None:
            points = labels.read_points(self.points)
            height, width = source.size
            inside = (points.xy >= -0.5).all(1) & (points.xy[:, 0] < width) & (points.xy[:, 1] < height)
            if not inside.all():
                wrong = int((~inside).argmax())
                x, y = points.xy[wrong]
                raise InputError(
                    f"{self.points}: point {points.names[wrong]} at {x:g}, {y:g} lies outside the {width}x{height} video"
                )
            return points
        given: dict[int, LabelMap] = {}
        for text in self.labels:
            name, frame = _at(text)
            if frame in given:
                raise InputError(f"--labels {text}: frame {frame} has labels already; put all its objects into one file")
            given[frame] = labels.read_labels(Path(name), source.size)
        if self.box:
            by_frame: dict[int, list[str]] = {}
            for text in self.box:
                name, frame = _at(text)
                by_frame.setdefault(frame, []).append(name)
            first_id = 1
            for frame, boxes in sorted(by_frame.items()):
                given[frame] = labels.boxes_to_labels(labels.parse_box(boxes, first_id=first_id), source.size)
                first_id += len(boxes)
        return given

    def _digest(self) -> list[str]:
        files = [_at(text)[0] for text in self.labels] + ([str(self.points)] if self.points else [])
        return [*self.labels, *self.box, *(_identity(Path(f)) for f in files)]


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
        with _progress() as progress:
            tasks: dict[str, Any] = {}

            def on_frame(sequence: str, done: int, total: int) -> None:
                if sequence not in tasks:
                    tasks[sequence] = progress.add_task(sequence, total=total)
                progress.update(tasks[sequence], completed=done)

            if self.results is not None:
                report = evaluate_results(self.results, dataset, on_frame=on_frame, settings={"results": str(self.results)})
            else:
                from pixeltrail.predictors import predictor

                device = _prepared(self.device, self.threads)
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
            raise InputError(f"{self.sequences}: names no sequence; give names separated by commas, or a file with them")
        return names


@dataclass(frozen=True)
class Evaluate:
    """Score a method, or masks on the disk, by a data set's official metrics."""

    dataset: OmitSubcommandPrefixes[Annotated[DavisTask, subcommand("davis")] | Annotated[None, subcommand("list")]]

    def run(self) -> int:
        if self.dataset is None:
            print("davis")
            return 0
        return self.dataset.run()


@dataclass(frozen=True)
class Train:
    """Train a tracker on a folder of unlabelled videos.

    RUN receives last.safetensors, state.safetensors, metrics.jsonl and recipe.toml.
    """

    data: Path
    """Folder with videos or folders of frames, at any depth."""
    out: Path
    """The run's folder."""
    method: str = ""
    """dul, mast, corrflow, or your own Python file; default: the recipe's, else dul."""
    recipe: Path | None = None
    """A TOML file; see recipes/."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE changes one setting of the recipe (steps, batch_size, size, frames, lr, seed, save_every, ...)."""
    only: str = ""
    """Take these videos only: a file with one name (without suffix) a line."""
    cache: Path | None = None
    """Where decoded frames are kept; default: OUT/frames."""
    resume: bool = False
    """Go on with an interrupted run."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """Processor threads; 0: as many as there are cores."""

    def run(self) -> int:
        from pixeltrail.training.run import Run, changed, parse_set, read_recipe

        run = read_recipe(self.recipe) if self.recipe else Run()
        if self.resume and not self.recipe and (self.out / "recipe.toml").is_file():
            run = read_recipe(self.out / "recipe.toml")
        if self.method:
            run = changed(run, {"method": self.method}, source="--method")
        run = changed(run, parse_set(list(self.set)), source="--set")

        from pixeltrail.training.data import sampler_for
        from pixeltrail.training.loop import train

        device = _prepared(self.device, self.threads)
        only = None
        if self.only:
            only = [line.strip() for line in Path(self.only).read_text().splitlines() if line.strip()]
        with _progress() as progress:
            indexing = progress.add_task("reading videos", total=None)
            sampler, sources, bad = sampler_for(
                run, self.data, self.cache or self.out / "frames", only=only,
                on_video=lambda done, total, name: progress.update(indexing, completed=done, total=total),
            )  # fmt: skip
            progress.update(indexing, visible=False)
            for line in bad:
                print(f"skipped: {line}", file=sys.stderr)
            task = progress.add_task("training", total=run.steps)

            def on_step(step: int, losses: dict[str, float]) -> None:
                progress.update(task, completed=step, description=f"loss {losses['loss']:.3f}")

            try:
                train(run, sampler, self.out, sources=sources, resume=self.resume, device=device, on_step=on_step)
            except KeyboardInterrupt:
                progress.stop()
                print(f"interrupted; go on with: pixeltrail train --data {self.data} --out {self.out} --resume", file=sys.stderr)
                return 130
        print(f"{run.steps} steps -> {self.out / 'last.safetensors'}")
        return 0


@dataclass(frozen=True)
class Render:
    """Render a clip with moving, turning, deforming, occluding objects, and its exact masks, flow and point tracks."""

    out: Path
    """Folder for video.mp4, masks/, flow.npz and points.csv."""
    seed: int = 0
    frames: int = 48
    height: int = 240
    width: int = 426
    objects: int = 3

    def run(self) -> int:
        from pixeltrail.demo import write_rendered

        write_rendered(self.out, self.seed, self.frames, (self.height, self.width), self.objects)
        print(f"{self.frames} frames -> {self.out}")
        return 0


@dataclass(frozen=True)
class Demo:
    """Render a clip, track it from its first mask, and score the result; or track your own video."""

    out: Path = Path("demo")
    """Folder for everything that is made."""
    video: Path | None = None
    """Your own video instead of a rendered clip."""
    labels: Path | None = None
    """Its first labels."""

    def run(self) -> int:
        from pixeltrail.demo import run_demo

        run_demo(self.out, self.video, self.labels)
        return 0


@dataclass(frozen=True)
class Models:
    """List methods, protocols and the embedded weights."""

    def run(self) -> int:
        import json

        from pixeltrail import catalogue, weights
        from pixeltrail.protocols import PRESETS

        for name in catalogue.names():
            module = catalogue.module(name)
            print(f"{name:12}{(module.__doc__ or '').splitlines()[0]}")
        print(f"\nprotocols: {', '.join(PRESETS)}\n\ndefault weights:")
        print(json.dumps(weights.read_card(weights.path_of("default") or ""), indent=1))
        return 0


Command = (
    Annotated[Track, subcommand("track")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Render, subcommand("render")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Models, subcommand("models")]
)


def main(argv: list[str] | None = None) -> int:
    """The console script: returns 0, 2 (input), 3 (disk full), 4 (damaged in part) or 130 (interrupted)."""
    command: Any = tyro.cli(
        OmitSubcommandPrefixes[Command],  # type: ignore[valid-type]
        prog="pixeltrail", description="Follow every pixel of a video, without labels.", args=argv,
    )  # fmt: skip
    try:
        return int(command.run())
    except PixeltrailError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except MemoryError:
        return _fail("out of memory; try --quality fast or smaller frames", 2)
    except OSError as error:
        from pixeltrail.data.files import explain

        told = explain(error, Path(error.filename or "output"))
        return _fail(str(told), DiskError.exit_code if isinstance(told, DiskError) else 2)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _at(text: str) -> tuple[str, int]:
    """"first.png@12" -> ("first.png", 12); without @ the frame is 0."""
    name, at, frame = text.rpartition("@")
    return (name, int(frame)) if at and frame.isdigit() else (text, 0)


def _identity(path: Path) -> str:
    """What tells one input from another: its name, size and time of change."""
    if not path.exists():
        return str(path)
    stat = path.stat()
    return f"{path.resolve()}:{stat.st_size if path.is_file() else 0}:{stat.st_mtime_ns}"


def _prepared(device: str, threads: int) -> str:
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
def _progress() -> Iterator[Any]:
    """A progress bar on the terminal's error stream, with rate and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    console = Console(stderr=True, force_terminal=None if "NO_COLOR" not in os.environ else False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress


if __name__ == "__main__":
    sys.exit(main())
