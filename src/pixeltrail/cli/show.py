"""``pixeltrail render``, ``demo``, ``features`` and ``models``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from pixeltrail.cli.shared import Device, File, Folder, OptionalFile, Quality, Threads, prepared, progress_bar
from pixeltrail.errors import InputError


@dataclass(frozen=True)
class Render:
    """Render a clip with moving, turning, deforming, occluding objects, and its exact masks, flow and point tracks."""

    out: Folder
    """Folder for video.mp4, masks/, flow.npz and tracks.csv."""
    seed: int = 0
    """Another number makes another clip."""
    frames: int = 48
    """How long it is."""
    height: int = 240
    """Pixels from top to bottom."""
    width: int = 426
    """Pixels from left to right."""
    objects: int = 3
    """How many objects move."""

    def run(self) -> int:
        from pixeltrail.demo import write_rendered

        write_rendered(self.out, self.seed, self.frames, (self.height, self.width), self.objects)
        print(f"{self.frames} frames -> {self.out}")
        return 0


@dataclass(frozen=True)
class Demo:
    """Render a clip, track it from its first mask, and score the result; or track your own video."""

    out: Folder = Path("demo")
    """Folder for everything that is made."""
    video: OptionalFile = None
    """Your own video instead of a rendered clip."""
    labels: OptionalFile = None
    """Its first labels."""

    def run(self) -> int:
        from pixeltrail.demo import run_demo

        with progress_bar() as show:
            run_demo(self.out, self.video, self.labels, on_frame=show)
        return 0


@dataclass(frozen=True)
class Features:
    """Show what trackers tell apart: frames of a video, and below them their features as colours, on one sheet.

    Colours are the three strongest principal components of a tracker's features over the frames shown.
    """

    video: Positional[Path]
    """A video file, a folder of frames, a glob ("frames/*.jpg") or a GIF."""
    out: File
    """The sheet, .png or .jpg."""
    method: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="METHOD", help_behavior_hint="(default: default)")
    ] = ()
    """default, a .safetensors file, a method's name (then untrained), or your own Python file; each time it is given adds a
    row."""
    frames: int = 6
    """How many frames, evenly spread over the video."""
    quality: Quality = ""
    """Speed preset."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def run(self) -> int:
        from pixeltrail.data.images import write_image
        from pixeltrail.data.video import open_frames
        from pixeltrail.predictors import load_tracker
        from pixeltrail.training.look import feature_sheet, spread

        if self.frames < 1:
            raise InputError(f"--frames {self.frames}: expected a number of 1 or more")
        device = prepared(self.device, self.threads)
        source = open_frames(self.video)
        wanted = spread(source.count or sum(1 for _ in source), self.frames)
        chosen = [frame for frame in source if frame.index in wanted]
        methods = self.method or ("default",)
        short = [Path(m).name.removesuffix(".safetensors") for m in methods]
        titles = short if len(set(short)) == len(set(methods)) else methods  # runs all end in last.safetensors
        trackers = {
            t: load_tracker(m, quality=self.quality, device=device) for t, m in zip(titles, methods, strict=True)
        }
        names = [f"frame {frame.index}" for frame in chosen]
        write_image(self.out, feature_sheet(trackers, [frame.image for frame in chosen], names))
        print(f"{len(chosen)} frames -> {self.out}")
        return 0


@dataclass(frozen=True)
class Models:
    """List methods, protocols and the embedded weights."""

    def run(self) -> int:
        from pixeltrail import catalogue, weights
        from pixeltrail.protocols import PRESETS, QUALITIES

        print("methods")
        for name in catalogue.names():
            print(f"  {name:14}{(catalogue.module(name).__doc__ or '').splitlines()[0]}")
        print(f"\nprotocols\n  {', '.join(PRESETS)}")
        print("\nqualities")
        for name, (size, recent, stride, components) in QUALITIES.items():
            compared = f"{components} components" if components else "all channels"
            print(
                f"  {name:12}short side {size} pixels, {recent} recent frames remembered, {stride} apart; {compared} compared"
            )
        file = weights.path_of("default")
        assert file is not None
        print(f"\ndefault weights {weights.digest(file)}, {file.stat().st_size / 1e6:.1f} MB")
        for key, value in weights.read_card(file).items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            print(f"  {key:12}{text if len(text) <= 100 else text[:99] + '…'}")
        return 0
