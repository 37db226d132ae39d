"""Videos made for tests, and what is read of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pixeltrail.data.video import open_frames
from pixeltrail.errors import InputError

SHORT = "davis-train-tennis.mp4"  # 70 frames with B-frames


def pattern(index: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A smooth picture of its own for each index, whose brightness tells the index."""
    y, x = np.mgrid[:height, :width]
    red = 40 + 120 * x / width
    return np.stack([red, 60 + 120 * y / height, np.full_like(red, 20 + 8 * index)], -1).round().astype(np.uint8)


def encode(
    path: Path,
    codec: str,
    pixels: str,
    frames: list[NDArray[np.uint8]],
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose bytes do not depend on the number of cores: x264 writes others for one thread than for more."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 2
        if options is None:
            stream.bit_rate = 4_000_000
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (times[i] if times else i), Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def images(path: Path | str, start: int = 0) -> list[NDArray[np.uint8]]:
    return [frame.image for frame in open_frames(path).frames(start)]


def refused(path: Path | str, *words: str) -> None:
    """Opening and reading raise InputError in one line that names the file."""
    with pytest.raises(InputError) as caught:
        list(open_frames(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert all(word in message for word in words), message
