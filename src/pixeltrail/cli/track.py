"""``pixeltrail track``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from pixeltrail.cli.shared import (
    Device,
    Encoder,
    Method,
    OptionalFile,
    OptionalFolder,
    Published,
    Quality,
    Show,
    Threads,
    prepared,
    progress_bar,
)  # fmt: skip
from pixeltrail.errors import InputError

if TYPE_CHECKING:
    from pixeltrail.data.video import FrameSource
    from pixeltrail.flow.chain import FlowTracker
    from pixeltrail.tracker import Tracker
    from pixeltrail.types import LabelMap, Points


@dataclass(frozen=True)
class Track:
    """Follow masks, boxes or points from one frame through a video.

    Writes OUT/masks/*.png, OUT/tracks.json (for points OUT/points.csv) and OUT/overlay.mp4.
    """

    video: Positional[Path]
    """A video file, a folder of frames, a glob ("frames/*.jpg") or a GIF."""
    out: OptionalFolder = None
    """Folder for the results."""
    workspace: OptionalFolder = None
    """Instead of --out, the workspace of pixeltrail app: tracks the masks and points that were set on the page, and those
    given here, and writes the results where the page shows them."""
    labels: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE[@N]", help_behavior_hint="")] = ()
    """First labels: an indexed, grey or coloured PNG, a folder with one PNG per object, or JSON (COCO RLE, polygons).
    FILE@N labels frame N; may be given several times."""
    points: OptionalFile = None
    """Points to follow instead: CSV or JSON with x, y and optionally frame and name."""
    box: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="X1,Y1,X2,Y2[@N]", help_behavior_hint="")] = ()
    """A box to follow instead: left, top, right, bottom in pixels of frame 0, or of frame N; may be given several
    times."""
    method: Method = "default"
    """default, a .safetensors file, a method's name (then untrained), or your own Python file."""
    encoder: Encoder = ""
    """Your own features instead: FILE.py:FUNCTION or MODULE:FUNCTION, with an attribute stride."""
    protocol: Published = ""
    """Run as published."""
    quality: Quality = ""
    """Speed preset: the size at which frames are embedded and how many are remembered."""
    adapt: Annotated[float | None, arg(metavar="MINUTES", help_behavior_hint="")] = None
    """First train on this video for so many minutes, without labels; what gains nothing is not used."""
    direction: Literal["forward", "backward", "both"] = "forward"
    """From the first labelled frame to the end, from the last one back to the start, or both ways from the first."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with an interrupted job."""
    confidence: Annotated[bool, arg(help_behavior_hint="")] = False
    """Also write each pixel's confidence, OUT/confidence/*.png."""
    overlay: Annotated[bool, arg(help_behavior_hint="")] = True
    """Write no OUT/overlay.mp4."""
    format: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(
            metavar="{coco,mot,mots,cvat,youtubevos,labelstudio,labelme,tapvid,csv,yolo,npz,...}", help_behavior_hint=""
        ),
    ] = ()
    """Also write the results in the format of another program, as OUT/coco.json, OUT/mot and so on; may be given
    several times."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    @property
    def resumable(self) -> bool:
        return self.out is not None and (self.out / ".job" / "settings.json").is_file()

    def run(self) -> int:
        from pixeltrail.data.video import open_frames

        if (self.out is None) == (self.workspace is None):
            raise InputError("track: give --out FOLDER, or --workspace FOLDER of pixeltrail app")
        given = sum(map(bool, (self.labels, self.points, self.box)))
        if given > 1 or (not given and self.out):
            raise InputError("track: give one of --labels FILE, --points FILE or --box X1,Y1,X2,Y2")
        if self.encoder and self.adapt is not None:
            raise InputError("--adapt trains a method; --encoder is used as it is: give one of them")
        source = open_frames(self.video)
        if self.out is None:
            return self._in_workspace(self._given(source) if given else {})
        return self._to_folder(source, self.out)

    def _to_folder(self, source: FrameSource, out: Path) -> int:
        given = self._given(source)

        from pixeltrail.jobs import require_apart, track_video

        for format in self.format:
            self._require_free(out, format)
        require_apart(out, [Path(_at(text)[0]) for text in self.labels] + ([self.points] if self.points else []))
        device = prepared(self.device, self.threads)
        with progress_bar() as show:
            method = self.method if self.adapt is None else self._adapted(out, self.adapt, device, show)
            tracker, settings = self._tracker(method, device)
            summary = track_video(
                tracker, source, out, given, settings=settings, direction=self.direction,
                resume=self.resume, with_overlay=self.overlay, with_confidence=self.confidence, on_frame=show,
            )  # fmt: skip
        if self.format:
            from pixeltrail.exchange import write_beside

            for note in write_beside(out, self.format, source):
                print(note, file=sys.stderr)
        print(f"{summary.frames} frames -> {out}")
        if summary.problem:
            raise summary.problem
        return 0

    def _in_workspace(self, given: dict[int, LabelMap] | Points) -> int:
        for name in ("resume", "confidence", "format"):
            if getattr(self, name):
                raise InputError(f"--{name}: is for --out; pixeltrail convert reads what --workspace holds")
        from pixeltrail.app.offline import adapt_project, give, track_project
        from pixeltrail.app.workspace import Workspace
        from pixeltrail.tracker import Tracker

        assert self.workspace is not None
        device = prepared(self.device, self.threads)
        workspace = Workspace(self.workspace)
        with workspace.reserved(), progress_bar() as show:
            project = workspace.add(self.video)
            give(project, given)
            method = self.method
            if self.adapt is not None:
                method = adapt_project(project, self.method, self.quality, self.adapt, device, show)
            tracker, _ = self._tracker(method, device)
            if not isinstance(tracker, Tracker):
                raise InputError(f"--method {method}: is a flow, which a workspace is not tracked with; use --out")
            frames = track_project(project, tracker, self.direction, show)
        print(f"{frames} frames -> {project.folder}")
        return 0

    def _tracker(self, method: str, device: str) -> tuple[Tracker | FlowTracker, dict[str, Any]]:
        """What is to track, and what results depend on besides the video."""
        from pixeltrail.jobs.motion import flow_tracker
        from pixeltrail.predictors import describe, load_tracker

        flow = None if self.encoder else flow_tracker(method, device=device)
        if flow is not None:
            if self.protocol or self.quality:
                raise InputError(
                    f"--method {method}: is a flow and has no protocol; leave --protocol and --quality out"
                )
            return flow, {"method": self.method, **flow.settings}
        tracker = load_tracker(
            method, protocol=self.protocol, quality=self.quality, encoder=self.encoder, device=device
        )
        return tracker, {"method": self.encoder or self.method, **describe(tracker, self.encoder or method)}

    def _require_free(self, out: Path, format: str) -> None:
        """Refuse, before the work begins, a format that is unknown or cannot hold the results, and to write over what
        another program made."""
        from pixeltrail.exchange import WRITERS, beside

        path = beside(out, format)
        ours = self.resumable or any((out / name).is_file() for name in ("tracks.json", "points.csv"))
        if path.exists() and not ours:
            raise InputError(f"{path}: was not made by pixeltrail track; choose another --out")
        kind = "points" if self.points else "masks"
        if WRITERS[format].LOSES.get(kind) == "left out":
            raise InputError(f"--format {format}: holds no {kind}; choose another format")

    def _adapted(self, out: Path, minutes: float, device: str, show: Show) -> str:
        """The weights adapted to the video, OUT/adapted.safetensors; a resumed job goes on with those it has."""
        from pixeltrail.cli.adapt import summary
        from pixeltrail.training.adapt import adapt_file

        file = out / "adapted.safetensors"
        if not (self.resume and file.is_file()):
            adapted = adapt_file(
                self.method, [self.video], file, protocol=self.protocol, quality=self.quality, minutes=minutes,
                device=device, on_progress=show,
            )  # fmt: skip
            print(f"{summary(adapted)} -> {file}")
        code, colon, _ = self.method.partition(".py:")
        return f"{code}{colon}{file}" if colon else str(file)

    def _given(self, source: FrameSource) -> dict[int, LabelMap] | Points:
        from pixeltrail.data import labels

        if self.points is not None:
            return labels.read_points(self.points, source.size)
        if self.box:
            return self._boxes(source.size)
        given: dict[int, LabelMap] = {}
        for text in self.labels:
            name, frame = _at(text)
            if frame in given:
                raise InputError(f"--labels {text}: frame {frame} has labels already; put all objects into one file")
            given[frame] = labels.read_labels(Path(name), source.size)
        return given

    def _boxes(self, size: tuple[int, int]) -> dict[int, LabelMap]:
        """The boxes of each frame as labels, numbered in the order in which they were given."""
        import numpy as np

        from pixeltrail.data.labels import MAX_OBJECTS, parse_box
        from pixeltrail.jobs import boxes_to_labels
        from pixeltrail.types import Boxes

        if len(self.box) > MAX_OBJECTS:
            raise InputError(f"--box: {len(self.box)} boxes given; give 1 to {MAX_OBJECTS}")
        ids: dict[int, list[int]] = {}
        for number, text in enumerate(self.box, 1):
            ids.setdefault(_at(text)[1], []).append(number)
        given = {}
        for frame, numbers in ids.items():
            boxes = Boxes(parse_box(*(_at(self.box[n - 1])[0] for n in numbers)).xyxy, np.array(numbers, np.uint8))
            given[frame] = boxes_to_labels(boxes, size)
            for number in numbers:
                if number not in given[frame].objects:
                    where = f"the {size[1]}x{size[0]} frame or under another box"
                    raise InputError(f"--box {self.box[number - 1]}: lies outside {where}; move it")
        return given


def _at(text: str) -> tuple[str, int]:
    """ "first.png@12" -> ("first.png", 12); without @, or if a file has the whole name, the frame is 0."""
    name, at, frame = text.rpartition("@")
    return (name, int(frame)) if at and frame.isdecimal() and not Path(text).exists() else (text, 0)
