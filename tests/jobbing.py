"""A rendered video, jobs that track it by colour into a folder of results, and what is read of that folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.images import write_image
from pixeltrail.data.synthetic import Rendered, render
from pixeltrail.data.video import FrameSource, VideoWriter, open_frames
from pixeltrail.errors import InputError
from pixeltrail.jobs import Summary, track_video
from pixeltrail.predictors import load_tracker
from pixeltrail.tracker import Tracker
from pixeltrail.types import LabelMap

SIZE, FRAMES = (48, 64), 12


@pytest.fixture(scope="module")
def tracker() -> Tracker:
    return load_tracker("colour")


@pytest.fixture(scope="module")
def clip() -> Rendered:
    return render(3, frames=FRAMES, size=SIZE, objects=2, points=6)


@pytest.fixture(scope="module")
def video(clip: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with VideoWriter(path, 24, SIZE) as writer:
        for image in clip.frames:
            writer.write(image)
    return path


@pytest.fixture(scope="module")
def folder(clip: Rendered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames without loss, numbered as in YouTube-VOS: every fifth."""
    path = tmp_path_factory.mktemp("frames")
    for t, image in enumerate(clip.frames):
        write_image(path / f"{5 * t}.png", image)
    return path


@pytest.fixture
def first(clip: Rendered) -> dict[int, LabelMap]:
    return {0: LabelMap(clip.labels[0])}


def job(tracker: Tracker, source: Path | FrameSource, out: Path, given: object, **how: object) -> Summary:
    source = open_frames(source) if isinstance(source, Path) else source
    return track_video(tracker, source, out, given, settings={"method": "colour"}, **how)  # type: ignore[arg-type]


def contents(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def masks(out: Path) -> dict[str, NDArray[np.uint8]]:
    return {p.stem: read_ids(p) for p in sorted((out / "masks").iterdir())}


def rows(out: Path) -> list[dict]:
    return json.loads((out / "tracks.json").read_text())["frames"]


def refused(tracker: Tracker, source: Path, out: Path, given: object, *words: str, **how: object) -> None:
    before = contents(out)
    with pytest.raises(InputError) as caught:
        job(tracker, source, out, given, **how)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert contents(out) == before
