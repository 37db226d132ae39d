"""The demonstration: render a clip, follow its objects from the first mask, and tell the truth about the result."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from pixeltrail.data.davis import read_ids
from pixeltrail.data.files import atomic, require_writable_folder
from pixeltrail.data.images import write_image
from pixeltrail.data.labels import read_labels, write_labels
from pixeltrail.data.synthetic import Rendered, render
from pixeltrail.data.video import Frame, VideoWriter, open_frames
from pixeltrail.errors import InputError
from pixeltrail.evaluation.masks import SequenceScore
from pixeltrail.jobs import OnFrame, track_video
from pixeltrail.types import LabelMap
from pixeltrail.visual.overlay import overlay
from pixeltrail.visual.sheet import contact_sheet
from pixeltrail.weights import DEFAULT, load

SEED = 15
FRAMES, SIZE, OBJECTS = 48, (240, 426), 3
SHEET_PICTURES = 8


def write_rendered(out: Path, seed: int, frames: int, size: tuple[int, int], objects: int) -> Rendered:
    """Render a clip into ``out``: video.mp4, masks/00000.png ..., flow.npz (flow, occluded), tracks.csv."""
    clip = render(seed, frames=frames, size=size, objects=objects)
    require_writable_folder(out)
    with VideoWriter(out / "video.mp4", 24, size) as video:
        for frame in clip.frames:
            video.write(frame)
    require_writable_folder(out / "masks")
    for t, ids in enumerate(clip.labels):
        write_labels(out / "masks" / f"{t:05d}.png", LabelMap(ids))
    with atomic(out / "flow.npz") as part, open(part, "wb") as file:
        np.savez_compressed(file, flow=clip.flow.astype(np.float16), occluded=clip.occluded)
    with atomic(out / "tracks.csv") as part, open(part, "w") as text:
        text.write("frame,point,x,y,visible\n")
        for t, (xy, visible) in enumerate(zip(clip.tracks.xy, clip.tracks.visible, strict=True)):
            for p, ((x, y), seen) in enumerate(zip(xy, visible, strict=True)):
                text.write(f"{t},{p},{x:.2f},{y:.2f},{int(seen)}\n")
    return clip


def run_demo(out: Path, video: Path | None, labels: Path | None, *, on_frame: OnFrame | None = None) -> None:
    """Track ``video`` from ``labels``, or a rendered clip when neither is given, and write everything to ``out``.

    Makes ``result/`` (masks, tracks.json, overlay.mp4) and ``sheet.png``; for the rendered clip prints its true J&F.
    Raises as ``track_video``, and ``DamagedInputError`` at the end if the video could be read only in part.
    """
    if (video is None) != (labels is None):
        raise InputError("demo: give both a video and its first labels, or neither for a rendered clip")
    truth = None
    if video is None or labels is None:
        print(f"rendering {FRAMES} frames with {OBJECTS} objects ...", file=sys.stderr)
        truth = write_rendered(out / "rendered", SEED, FRAMES, SIZE, OBJECTS).labels
        video, labels = out / "rendered" / "video.mp4", out / "rendered" / "masks" / "00000.png"
    source = open_frames(video)
    given = {0: read_labels(labels, source.size)}
    result, sheet = out / "result", out / "sheet.png"
    print("tracking ...", file=sys.stderr)
    summary = track_video(load(), source, result, given, settings={"method": DEFAULT}, on_frame=on_frame)
    _write_sheet(islice(source.frames(), summary.frames), summary.frames, result / "masks", sheet)
    print(f"overlay  {result / 'overlay.mp4'}\nmasks    {result / 'masks'}\npicture  {sheet}")
    if truth is not None:
        score = SequenceScore("demo")
        for t, ids in enumerate(truth):
            score.add(read_ids(result / "masks" / f"{t:05d}.png"), ids)
        statistics = score.statistics()
        j, f = (float(np.mean([s[k].mean for s in statistics])) for k in (0, 1))
        print(f"J&F      {(j + f) / 2:.3f}  (J {j:.3f}, F {f:.3f}) against the exact masks of the rendered clip")
    if summary.problem:
        raise summary.problem


def _write_sheet(frames: Iterable[Frame], count: int, masks: Path, path: Path) -> None:
    wanted = set(np.linspace(0, count - 1, min(count, SHEET_PICTURES)).round().astype(int).tolist())
    chosen = [frame for frame in frames if frame.index in wanted]
    pictures = [overlay(frame.image, read_ids(masks / f"{frame.name}.png")) for frame in chosen]
    write_image(path, contact_sheet(pictures, titles=[f"frame {frame.index}" for frame in chosen]))
