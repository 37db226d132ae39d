"""Optical flow of a video into files: what is estimated, what is written, and how it is taken up again.

The folder of a video holds ``flow/NAME.flo`` (or another format), one for each frame that has a next one; ``flow.json``
with the lengths of its vectors; and ``flow.mp4``, the flow as pictures. While work goes on it also holds ``.flow-job/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pixeltrail.data.files import PART, fingerprint, remove_leftovers, require_writable_folder, write_text
from pixeltrail.data.flowfile import FLOW_SUFFIXES, read_flow, write_flow
from pixeltrail.data.video import Frame, FrameSource, VideoWriter
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.flow.classical import Flow
from pixeltrail.flow_methods import FlowMethod
from pixeltrail.jobs.flow_pair import WHEEL, Style, draw_flow, round_scale, unknown_as_nan
from pixeltrail.jobs.folder import JobFolder
from pixeltrail.jobs.results import TRACKS_HEAD, row, write_tracks
from pixeltrail.jobs.track import FPS, OnFrame, Summary, ahead, until_problem
from pixeltrail.visual.flow import typical_length

Format = Literal["flo", "png", "pfm", "npz", "flo5"]
SAVE_EVERY = 50
WORK = ".flow-job"


def flow_of_video(
    method: FlowMethod,
    source: FrameSource,
    out: str | Path,
    *,
    settings: Mapping[str, Any],
    format: Format = "flo",
    stride: int = 1,
    style: Style = WHEEL,
    with_video: bool = True,
    resume: bool = False,
    save_every: int = SAVE_EVERY,
    on_frame: OnFrame | None = None,
) -> Summary:
    """The flow from every ``stride``-th frame of ``source`` to the one ``stride`` later, into the folder ``out``.

    ``settings`` say how ``method`` was made: they go into flow.json, and a resumed job must have the same, as well as the
    same video, format and stride. The pictures of the whole video have one scale, by default from the lengths found.
    A video that is damaged in its middle is done up to there; the summary holds the error, and how many pairs were done.
    Raises InputError, before anything is written, for a video of one frame, frames that ``method`` cannot use, a folder
    that holds something else, or nothing to resume; DiskError for a full disk, after which ``resume`` goes on.
    """
    out = Path(out)
    if stride < 1:
        raise InputError(f"--stride {stride}: expected a number of 1 or more")
    film = _film(source, out, stride, style.beside) if with_video else None
    suffix = f".{format}"
    job = _Folder(out, {"video": fingerprint(source.files), "format": format, "stride": stride, **settings})
    job.require_apart(source.files)
    tried = None if resume else _first_flow(method, source, stride)
    job.begin_flow(resume=resume)
    _, start = job.restore("forward")
    total = None if source.count is None else max(source.count - 1, 0) // stride
    problems: list[PixeltrailError] = []
    done = 0
    with job.journal("forward") as write:
        frames = ahead(until_problem(_every(source, stride, start), problems))
        for k, (first, second) in enumerate(pairwise(frames), start):
            flow = method(first.image, second.image) if tried is None else tried
            tried = None
            write_flow(job.flows / f"{first.name}{suffix}", flow)
            lengths = np.hypot(*np.nan_to_num(flow).transpose(2, 0, 1))
            write(row(first, to=second.index, mean=_round(lengths.mean()), typical=_round(typical_length(flow)),
                      longest=_round(lengths.max())))  # fmt: skip
            done += 1
            if (k + 1) % save_every == 0:
                job.save("forward", {}, k + 1)
            if on_frame:
                on_frame("flow", k + 1, total)
        job.save("forward", {}, start + done)
    if not start + done:
        raise InputError(f"{problems[0] if problems else source.path}; no two frames could be read")
    if film is not None:
        scale = style.scale or round_scale(float(np.quantile([r["typical"] for r in job.rows()], 0.75)))
        style = replace(style, scale=scale)
        with film as video:
            frames = ahead(until_problem(_every(source, stride, 0), []))
            for number, (entry, pair) in enumerate(zip(job.rows(), pairwise(frames), strict=False), 1):
                flow = unknown_as_nan(read_flow(job.flows / f"{entry['name']}{suffix}"))
                video.write(draw_flow(flow, style, [frame.image for frame in pair]))
                if on_frame:
                    on_frame("video", number, start + done)
    head = {"width": source.size[1], "height": source.size[0], "fps": source.fps, "format": format, "stride": stride}
    write_tracks(out / "flow.json", source.path.name, {**head, **settings}, job.rows())
    job.end()
    return Summary(done, problems[0] if problems else None)


def _every(source: FrameSource, stride: int, pair: int) -> Iterator[Frame]:
    """Every ``stride``-th frame, from the first one of pair number ``pair`` on."""
    return islice(source.frames(pair * stride), 0, None, stride)


def _first_flow(method: FlowMethod, source: FrameSource, stride: int) -> Flow:
    """The flow of the first pair: what cannot be done is known before anything is written."""
    frames = [frame.image for frame in islice(_every(source, stride, 0), 2)]
    if len(frames) < 2:
        many = "one frame" if stride == 1 else f"fewer than {stride + 1} frames"
        raise InputError(f"{source.path}: has {many}; flow needs two, such as a longer video, or two images")
    return method(*frames)


def _film(source: FrameSource, out: Path, stride: int, beside: bool) -> VideoWriter:
    height, width = source.size
    fps = max((source.fps or FPS) / stride, 0.01)
    try:
        return VideoWriter(out / "flow.mp4", fps, (height, 2 * width + 4 if beside else width))
    except InputError as error:
        raise InputError(f"{error}, or leave the video out (--no-video)") from None


def _ours(table: Path) -> bool:
    if not table.is_file():
        return False
    with open(table, "rb") as file:
        return file.read(len(TRACKS_HEAD)) == TRACKS_HEAD.encode()


def _round(value: Any) -> float:
    return round(float(value), 3)


class _Folder(JobFolder):
    """A folder of flow: journal and settings as those of a tracking job, whose results it leaves alone."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(out, settings)
        self.work, self.flows = out / WORK, out / "flow"
        self.results = (out / "flow.json", out / "flow.mp4")

    def require_apart(self, files: Sequence[Path]) -> None:
        """Raise InputError if one of the ``files`` that are read lies where something will be written."""
        for file in files:
            if self.flows.resolve() in file.resolve().parents or file.resolve() in {r.resolve() for r in self.results}:
                raise InputError(
                    f"{file}: lies where the results will be written; choose another folder than {self.out}"
                )

    def begin_flow(self, *, resume: bool) -> None:
        """Make the folder ready: empty of flow, or as an interrupted job with the same settings left it."""
        old = [file for file in self.flows.glob("*") if file.suffix in FLOW_SUFFIXES]
        if resume:
            self._require_same()
        elif not (self.work.exists() or _ours(self.results[0])):
            for file in (*self.results, *old):
                if file.exists():
                    raise InputError(f"{file}: was not made by pixeltrail flow; choose another --out")
        require_writable_folder(self.work)
        if not resume:
            (self.work / "settings.json").unlink(missing_ok=True)  # from here on there is nothing to resume
            for file in (*self.results, *self.work.iterdir(), *old):
                file.unlink(missing_ok=True)
        require_writable_folder(self.flows)
        for folder in (self.flows, self.work):
            remove_leftovers(folder)
        for result in self.results:
            result.with_name(result.name + PART).unlink(missing_ok=True)
        write_text(self.work / "settings.json", json.dumps(self.settings, indent=1))

    def _end_of(self, leg: str, done: int) -> int:
        for entry in islice(self.rows(), done):
            if (self.flows / f"{entry['name']}.{self.settings['format']}").stat().st_size == 0:
                raise ValueError("a file of flow is empty")
        return super()._end_of(leg, done)
