"""What a user has in a folder when commands are typed there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pixeltrail.data.images import write_image
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.types import LabelMap

SIZE, FRAMES = (48, 64), 8
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered clip as a video and as frames, its first mask, points, and a DAVIS folder of it."""
    root = tmp_path_factory.mktemp("made")
    clip = render(3, frames=FRAMES, size=SIZE, objects=2, points=4)
    with VideoWriter(root / "video.mp4", 24, SIZE) as writer:
        for image in clip.frames:
            writer.write(image)
    for kind in ("frames", "DAVIS/JPEGImages/480p/clip", "DAVIS/Annotations/480p/clip", "DAVIS/ImageSets/2017"):
        (root / kind).mkdir(parents=True)
    for t, (image, ids) in enumerate(zip(clip.frames, clip.labels, strict=True)):
        write_image(root / "frames" / f"{t:05d}.png", image)
        write_image(root / "DAVIS/JPEGImages/480p/clip" / f"{t:05d}.jpg", image)
        write_labels(root / "DAVIS/Annotations/480p/clip" / f"{t:05d}.png", LabelMap(ids))
    (root / "DAVIS/ImageSets/2017/val.txt").write_text("clip\n")
    write_labels(root / "first.png", LabelMap(clip.labels[0]))
    write_labels(root / "fourth.png", LabelMap(clip.labels[4]))
    (root / "points.csv").write_text("x,y,frame,name\n10,12,0,nose\n30.5,20,2,tail\n")
    return root


TRACK = "track video.mp4 --labels first.png --out out --method colour"
