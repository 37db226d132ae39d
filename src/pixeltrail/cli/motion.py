"""``pixeltrail slowmo``, ``stabilise``, ``motion`` and ``count``: what people do with optical flow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import Device, File, Folder, Threads, prepared, progress_bar
from pixeltrail.errors import InputError

if TYPE_CHECKING:
    from pixeltrail.data.video import FrameSource
    from pixeltrail.flow_methods import FlowMethod
    from pixeltrail.jobs.track import Summary

FlowName = Annotated[str, arg(metavar="FLOW")]
Clip = Annotated[Positional[Path], arg(metavar="VIDEO")]


@dataclass(frozen=True, kw_only=True)
class Use:
    """A video, the flow of its frames, and what is made of them."""

    video: Clip
    """A video file, a folder of frames, a glob ("frames/*.jpg") or a GIF."""
    out: Path
    method: FlowName = "dis"
    """The flow: dis, farneback, tvl1, default, a .safetensors file, or a tracker's name."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def opened(self) -> tuple[FrameSource, FlowMethod]:
        from pixeltrail.data.video import open_frames
        from pixeltrail.flow_methods import flow_method

        return open_frames(self.video), flow_method(self.method, device=prepared(self.device, self.threads))

    def told(self, done: Summary, found: str = "") -> int:
        print(f"{done.frames} frames{found} -> {self.out}")
        if done.problem:
            raise done.problem
        return 0


@dataclass(frozen=True, kw_only=True)
class SlowMotion(Use):
    """Slow a video down, with frames made between its frames. The sound is left out."""

    out: File
    """The video to write: .mp4, .webm or .gif."""
    factor: float | None = None
    """How many times as slow (default: 4); any number, such as 2.5."""
    fps: Annotated[float | None, arg(metavar="FPS", help_behavior_hint="")] = None
    """Instead keep the speed, and give the video so many frames a second."""

    def run(self) -> int:
        from pixeltrail.jobs.motion import slow_motion_video

        if self.factor is not None and self.fps is not None:
            raise InputError("slowmo: give --factor, or --fps to keep the speed, not both")
        source, flow = self.opened()
        with progress_bar() as show:
            done = slow_motion_video(
                source, self.out, flow, factor=4 if self.factor is None else self.factor, fps=self.fps, on_frame=show
            )
        return self.told(done)


@dataclass(frozen=True, kw_only=True)
class Stabilise(Use):
    """Take the shake out of a video. The sound is left out."""

    out: File
    """The video to write: .mp4, .webm or .gif."""
    smooth: float = 1.0
    """Motion of the camera slower than so many seconds is meant, and kept."""
    zoom: float = 1.1
    """How much to enlarge the picture to hide its border; 1 keeps all of it and repeats the border's pixels."""

    def run(self) -> int:
        from pixeltrail.jobs.motion import steady_video

        source, flow = self.opened()
        with progress_bar() as show:
            done = steady_video(source, self.out, flow, smooth=self.smooth, zoom=self.zoom, on_frame=show)
        return self.told(done)


@dataclass(frozen=True, kw_only=True)
class Motion(Use):
    """Find what moves by itself, whatever the camera does: OUT/masks/*.png, OUT/tracks.json and OUT/overlay.mp4."""

    out: Folder
    """Folder for the results."""
    threshold: float = 0.8
    """The speed from which something moves, in pixels a frame relative to the background."""
    smallest: float = 0.001
    """The smallest thing, as a share of the frame's area."""

    def run(self) -> int:
        from pixeltrail.jobs.motion import motion_video

        source, flow = self.opened()
        settings = {"method": self.method, "threshold": self.threshold, "smallest": self.smallest}
        with progress_bar() as show:
            done = motion_video(
                source, self.out, flow, settings=settings, threshold=self.threshold, smallest=self.smallest,
                on_frame=show,
            )  # fmt: skip
        return self.told(done)


@dataclass(frozen=True, kw_only=True)
class Count(Use):
    """Count what crosses a line, such as cars on a road: OUT/crossings.csv, OUT/counts.json and OUT/overlay.mp4."""

    line: Annotated[str, arg(metavar="X1,Y1,X2,Y2")]
    """From one point to another, in pixels of the frame."""
    out: Folder
    """Folder for the results."""
    threshold: float = 0.8
    """The speed from which something moves, in pixels a frame relative to the background."""
    smallest: float = 0.003
    """The smallest thing that counts, as a share of the frame's area."""

    def run(self) -> int:
        from pixeltrail.jobs.motion import count_video

        line = self._line()
        source, flow = self.opened()
        with progress_bar() as show:
            done, counts = count_video(
                source, self.out, flow, line, threshold=self.threshold, smallest=self.smallest, on_frame=show
            )
        said = ", ".join(f"{n} {way}" for way, n in sorted(counts.items())) or "nothing crossed the line"
        return self.told(done, f": {said}")

    def _line(self) -> tuple[float, float, float, float]:
        try:
            x1, y1, x2, y2 = (float(n) for n in self.line.split(","))
        except ValueError:
            raise InputError(f"--line {self.line}: expected four numbers X1,Y1,X2,Y2, such as 0,200,640,200") from None
        return x1, y1, x2, y2
