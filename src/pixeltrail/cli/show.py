"""``pixeltrail render``, ``demo`` and ``models``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
