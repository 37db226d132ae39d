"""``pixeltrail export``."""

from __future__ import annotations

from dataclasses import dataclass

from pixeltrail.cli.shared import Folder, Method, Published, Quality


@dataclass(frozen=True)
class Export:
    """Write a tracker as ONNX: OUT/encoder.onnx, OUT/step.onnx and OUT/tracker.json, for frames of any size."""

    out: Folder
    """Folder for the three files."""
    method: Method = "default"
    """default, a .safetensors file, a method's name (then untrained), or your own Python file."""
    protocol: Published = ""
    """Run as published."""
    quality: Quality = ""
    """Speed preset: what tracker.json says of the size of frames and how many are remembered."""

    def run(self) -> int:
        from pixeltrail.export import export
        from pixeltrail.predictors import describe, load_tracker

        tracker = load_tracker(self.method, protocol=self.protocol, quality=self.quality)
        export(tracker, self.out, {"method": self.method, "weights": describe(tracker, self.method)["weights"]})
        print(f"encoder.onnx, step.onnx, tracker.json -> {self.out}")
        return 0
