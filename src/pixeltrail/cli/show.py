"""``pixeltrail render``, ``demo`` and ``models``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pixeltrail.cli.shared import Folder, OptionalFile, progress_bar


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
class Models:
    """List methods, protocols and the embedded weights."""

    def run(self) -> int:
        from pixeltrail import catalogue, weights
        from pixeltrail.protocols import PRESETS, QUALITIES

        print("methods")
        for name in catalogue.names():
            print(f"  {name:12}{(catalogue.module(name).__doc__ or '').splitlines()[0]}")
        print(f"\nprotocols\n  {', '.join(PRESETS)}")
        print("\nqualities")
        for name, (size, recent) in QUALITIES.items():
            print(f"  {name:12}short side {size} pixels, {recent} recent frames remembered")
        file = weights.path_of("default")
        assert file is not None
        print(f"\ndefault weights {weights.digest(file)}, {file.stat().st_size / 1e6:.1f} MB")
        for key, value in weights.read_card(file).items():
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            print(f"  {key:12}{text if len(text) <= 100 else text[:99] + '…'}")
        return 0
