"""``pixeltrail track``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional, UseAppendAction

from pixeltrail.cli.shared import prepared, progress_bar
from pixeltrail.errors import DamagedInputError, InputError

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

        device = prepared(self.device, self.threads)
        tracker = load_tracker(self.method, protocol=self.protocol, quality=self.quality, device=device)
        settings = {"source": _identity(self.video), "given": self._digest(), "method": self.method}
        settings |= describe(tracker, self.method)
        with progress_bar() as progress:
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
        import numpy as np

        from pixeltrail.data import labels
        from pixeltrail.jobs import boxes_to_labels
        from pixeltrail.types import Boxes

        if self.points is not None:
            return labels.read_points(self.points, source.size)
        given: dict[int, LabelMap] = {}
        for text in self.labels:
            name, frame = _at(text)
            if frame in given:
                raise InputError(
                    f"--labels {text}: frame {frame} has labels already; put all its objects into one file"
                )
            given[frame] = labels.read_labels(Path(name), source.size)
        if self.box:
            by_frame: dict[int, list[str]] = {}
            for text in self.box:
                name, frame = _at(text)
                by_frame.setdefault(frame, []).append(name)
            used = 0
            for frame, texts in sorted(by_frame.items()):
                boxes = labels.parse_box(*texts)
                boxes = Boxes(boxes.xyxy, boxes.ids + np.uint8(used))
                used += len(texts)
                given[frame] = boxes_to_labels(boxes, source.size)
                if len(given[frame].objects) < len(texts):
                    height, width = source.size
                    raise InputError(f"--box {texts[0]}: a box lies outside the {width}x{height} frame or under another")
        return given

    def _digest(self) -> list[str]:
        files = [_at(text)[0] for text in self.labels] + ([str(self.points)] if self.points else [])
        return [*self.labels, *self.box, *(_identity(Path(f)) for f in files)]


def _at(text: str) -> tuple[str, int]:
    """ "first.png@12" -> ("first.png", 12); without @ the frame is 0."""
    name, at, frame = text.rpartition("@")
    return (name, int(frame)) if at and frame.isdigit() else (text, 0)


def _identity(path: Path) -> str:
    """What tells one input from another: its name, size and time of change."""
    if not path.exists():
        return str(path)
    stat = path.stat()
    return f"{path.resolve()}:{stat.st_size if path.is_file() else 0}:{stat.st_mtime_ns}"
