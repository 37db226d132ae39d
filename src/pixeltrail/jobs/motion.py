"""Whole videos through the uses of flow: slow motion, a steady camera, what moves, and what crosses a line.

All stream, and whatever stops them leaves no half file. A video that is damaged in its middle is done up to there.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from pixeltrail import weights
from pixeltrail.data.files import atomic, fingerprint, require_writable_folder
from pixeltrail.data.labels import write_labels
from pixeltrail.data.video import Frame, FrameSource, VideoWriter
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.flow.chain import Flows, FlowTracker
from pixeltrail.flow.count import Line, count_crossings
from pixeltrail.flow.interpolate import slow_motion
from pixeltrail.flow.segment import segment_motion
from pixeltrail.flow.stabilise import stabilise
from pixeltrail.flow_methods import CLASSICAL, flow_method
from pixeltrail.jobs.folder import JobFolder, require_apart
from pixeltrail.jobs.results import row, shape, write_tracks
from pixeltrail.jobs.track import FPS, OnFrame, Summary, ahead, until_problem
from pixeltrail.types import Image, LabelMap
from pixeltrail.visual.line import draw_line
from pixeltrail.visual.overlay import overlay

CROSSINGS_HEAD = "frame,time,thing,direction,x,y\n"
FLOW = "flow:"
Result = TypeVar("Result")


def flow_tracker(method: str, *, device: str = "cpu") -> FlowTracker | None:
    """The tracker by chained flow that ``method`` names: a classical flow, a file of a flow network, or ``flow:`` and
    any method of `flow_method`. None for the name of a tracker proper."""
    name = method.removeprefix(FLOW)
    file = name.endswith(".safetensors") and ".py:" not in name and Path(name).is_file()
    if name == method and method not in CLASSICAL and not (file and "network" in weights.read_card(method)):
        return None
    return FlowTracker(flow_method(name, device=device), {"weights": weights.digest(name)} if file else {})


def slow_motion_video(
    source: FrameSource,
    out: str | Path,
    flow: Flows,
    *,
    factor: float = 4.0,
    fps: float | None = None,
    on_frame: OnFrame | None = None,
) -> Summary:
    """Write ``source`` ``factor`` times as slow to the video ``out``, at its own rate of frames; or, with ``fps``, as
    quick as it was with so many frames a second. The sound is left out. Raises InputError, DiskError."""
    own = _fps(source)
    if fps is not None:
        if source.fps is None:
            raise InputError(f"{source.path}: has no frame rate, so --fps cannot be met; give --factor instead")
        if not 0.01 <= fps <= 1000:
            raise InputError(f"--fps {fps}: choose 0.01 to 1000")
        factor = fps / own
    total = None if source.count is None else int((source.count - 1) * Fraction(factor).limit_denominator(1000)) + 1
    make = partial(slow_motion, factor=factor, flow=flow)
    return _film(source, out, own if fps is None else fps, make, "slow motion", total, on_frame)


def steady_video(
    source: FrameSource,
    out: str | Path,
    flow: Flows,
    *,
    smooth: float = 1.0,
    zoom: float = 1.1,
    on_frame: OnFrame | None = None,
) -> Summary:
    """Write ``source`` without the camera's shake to the video ``out``. ``smooth`` is in seconds; see `stabilise`.

    The sound is left out. Raises InputError, DiskError.
    """
    own = _fps(source)
    make = partial(stabilise, flow=flow, smooth=smooth * own, zoom=zoom)
    return _film(source, out, own, make, "stabilising", source.count, on_frame)


def motion_video(
    source: FrameSource,
    out: str | Path,
    flow: Flows,
    *,
    settings: dict[str, Any],
    threshold: float = 0.8,
    smallest: float = 0.001,
    on_frame: OnFrame | None = None,
) -> Summary:
    """Write what moves by itself to ``out``: masks/NAME.png, tracks.json and overlay.mp4, as a tracking job's.

    A mask's ids are the things' numbers, from 1 to 254, after which they begin anew. ``settings`` go into tracks.json.
    Raises InputError, DiskError.
    """
    out = Path(out)
    require_apart(out, source.files)
    film = VideoWriter(out / "overlay.mp4", _fps(source), source.size)
    problems: list[PixeltrailError] = []
    frames = ahead(until_problem(source.frames(), problems))
    make = partial(segment_motion, flow=flow, threshold=threshold, smallest=smallest)
    results = _begun(_beside(frames, make))
    job = JobFolder(out, {"video": fingerprint(source.files), **settings})
    job.begin(resume=False, masks=True)
    done = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal done
        for done, (frame, moving) in enumerate(results, 1):
            ids = moving.ids
            write_labels(job.masks / f"{frame.name}.png", LabelMap(ids))
            film.write(overlay(frame.image, ids))
            yield row(frame, objects=[{"id": i, **shape(ids == i)} for i in LabelMap(ids).objects])
            if on_frame:
                on_frame("motion", done, source.count)

    with film:
        head = {"width": source.size[1], "height": source.size[0], "fps": source.fps, **settings}
        write_tracks(out / "tracks.json", source.path.name, head, rows())
    job.end()
    return Summary(done, problems[0] if problems else None)


def count_video(
    source: FrameSource, out: str | Path, flow: Flows, line: Line, *,
    threshold: float = 0.8, smallest: float = 0.003, on_frame: OnFrame | None = None,
) -> tuple[Summary, Counter[str]]:  # fmt: skip
    """Count what crosses ``line``, (x1, y1, x2, y2) in pixels: crossings.csv, counts.json and overlay.mp4 in ``out``.

    Returns also how many went which way. Raises InputError, DiskError.
    """
    out = Path(out)
    table, total, film = out / "crossings.csv", out / "counts.json", out / "overlay.mp4"
    for file in source.files:
        if file.resolve() in (table.resolve(), total.resolve(), film.resolve()):
            raise InputError(f"{file}: lies where the results will be written; choose another folder than {out}")
    _require_ours(table, total, film)
    height, width = source.size
    (left, right), (top, bottom) = sorted(line[::2]), sorted(line[1::2])
    if right < 0 or left >= width or bottom < 0 or top >= height:
        raise InputError(f"--line {','.join(f'{n:g}' for n in line)}: lies outside the {width}x{height} frame; move it")
    video = VideoWriter(film, _fps(source), source.size)
    problems: list[PixeltrailError] = []
    frames = ahead(until_problem(source.frames(), problems))
    make = partial(count_crossings, line=line, flow=flow, threshold=threshold, smallest=smallest)
    results = _begun(_beside(frames, make))
    require_writable_folder(out)
    counts: Counter[str] = Counter()
    done = lit = 0
    with video, atomic(total) as part, atomic(table) as rows, open(rows, "w", newline="") as text:
        text.write(CROSSINGS_HEAD)
        write = csv.writer(text, lineterminator="\n").writerow
        for done, (frame, (moving, crossings)) in enumerate(results, 1):
            for c in crossings:
                counts[c.direction] += 1
                time = "" if frame.time is None else round(frame.time, 6)
                write([frame.index, time, c.number, c.direction, c.x, c.y])
            lit = 6 if crossings else max(0, lit - 1)
            video.write(draw_line(overlay(frame.image, moving.ids), line, counts, lit=lit > 0))
            if on_frame:
                on_frame("counting", done, source.count)
        said = {"video": source.path.name, "line": line, "frames": done, "counts": dict(sorted(counts.items()))}
        part.write_text(json.dumps(said, indent=1) + "\n")
    return Summary(done, problems[0] if problems else None), counts


def _film(
    source: FrameSource, out: str | Path, fps: float, make: Callable[[Iterator[Image]], Iterable[Image]], stage: str,
    total: int | None, on_frame: OnFrame | None,
) -> Summary:  # fmt: skip
    """Write the frames that ``make`` makes of those of ``source``."""
    out = Path(out)
    if out.resolve() in {file.resolve() for file in source.files}:
        raise InputError(f"{out}: is the video itself; choose another --out")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a video, such as {out / 'video.mp4'}")
    writer = VideoWriter(out, fps, source.size)
    problems: list[PixeltrailError] = []
    made = _begun(make(frame.image for frame in ahead(until_problem(source.frames(), problems))))
    require_writable_folder(out.absolute().parent)
    done = 0
    with writer as video:
        for done, image in enumerate(made, 1):
            video.write(image)
            if on_frame:
                on_frame(stage, done, total)
    return Summary(done, problems[0] if problems else None)


def _begun(results: Iterable[Result]) -> Iterator[Result]:
    """``results``, the first two of them (which have a flow) made now: what cannot be done is refused before anything is
    written."""
    coming = iter(results)
    return chain(list(islice(coming, 2)), coming)


def _beside(
    frames: Iterable[Frame], make: Callable[[Iterator[Image]], Iterable[Result]]
) -> Iterator[tuple[Frame, Result]]:
    """Each frame with what ``make`` makes of it, which may look ahead."""
    held: deque[Frame] = deque()

    def images() -> Iterator[Image]:
        for frame in frames:
            held.append(frame)
            yield frame.image

    for result in make(images()):
        yield held.popleft(), result


def _fps(source: FrameSource) -> float:
    return source.fps if source.fps and source.fps >= 0.01 else FPS


def _require_ours(table: Path, *others: Path) -> None:
    """Refuse to overwrite what another program made."""
    ours = False
    if table.is_file():
        with open(table, "rb") as file:
            ours = file.read(len(CROSSINGS_HEAD)) == CROSSINGS_HEAD.encode()
    for path in (table, *others):
        if path.exists() and not ours:
            raise InputError(f"{path}: was not made by pixeltrail count; choose another --out")
