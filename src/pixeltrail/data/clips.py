"""Unlabelled videos for training: decoded once into a cache of small frames, then sampled at random.

The cache is a folder with one ``.npy`` per video (T, H, W, 3) uint8, read by memory map, and ``index.json``. It can be
copied to a machine that cannot decode video, and given there as the data itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pixeltrail.data.files import atomic, write_text
from pixeltrail.errors import DamagedInputError, InputError, PixeltrailError
from pixeltrail.types import Image

SHORT_SIDE = 240
FPS = 15.0
MAX_FRAMES = 3000
VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m4v", ".gif", ".ogv", ".ts", ".flv", ".wmv"}
PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True, slots=True)
class CachedVideo:
    """One decoded video: its ``name``, the array's ``path``, how many ``frames`` a second of it has (``fps``)."""

    name: str
    path: str
    frames: int
    fps: float


def find_videos(folder: str | Path) -> list[Path]:
    """Every video file and every folder of pictures below ``folder``, sorted."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with videos or folders of frames below it")
    files = [p for p in folder.rglob("*") if p.is_file()]
    videos = {p for p in files if p.suffix.lower() in VIDEOS}
    return sorted(videos | {p.parent for p in files if p.suffix.lower() in PICTURES})


def build_cache(
    folder: str | Path,
    cache: str | Path,
    *,
    only: Iterable[str] | None = None,
    on_video: Callable[[int, int, str], None] | None = None,
) -> tuple[list[CachedVideo], list[str]]:
    """Decode what is below ``folder`` into ``cache``; what is there already is kept.

    Frames are thinned to at most 15 a second and scaled to a short side of at most 240 pixels; of a long video, so many
    evenly spread stretches are kept that 3,000 frames remain. ``only``: names (without suffix) to take.
    Returns the videos and one line for each that could not be read. ``on_video(done, total, name)`` reports progress.
    """
    from pixeltrail.data.video import open_frames  # a machine that reads a finished cache needs no decoder

    folder, cache = Path(folder), Path(cache)
    if (folder / "index.json").is_file():
        return read_cache(folder, only=only), []
    names = set(only) if only is not None else None
    sources = [p for p in find_videos(folder) if names is None or p.stem in names]
    cache.mkdir(parents=True, exist_ok=True)
    found: list[CachedVideo] = []
    bad: list[str] = []
    for i, source in enumerate(sources):
        if on_video:
            on_video(i, len(sources), source.name)
        key = hashlib.sha256(f"{source.resolve()}:{_stamp(source)}".encode()).hexdigest()[:16]
        meta, array = cache / f"{key}.json", cache / f"{key}.npy"
        if not (meta.is_file() and array.is_file()):
            try:
                frames, fps = _decode(open_frames(source))
            except PixeltrailError as error:
                bad.append(str(error))
                continue
            with atomic(array) as part, open(part, "wb") as file:
                np.save(file, frames)
            write_text(meta, json.dumps(asdict(CachedVideo(source.stem, array.name, len(frames), fps))))
        found.append(CachedVideo(**json.loads(meta.read_text())))
    if not found:
        raise InputError(f"{folder}: no readable video below it" + (f"; the first problem: {bad[0]}" if bad else ""))
    write_text(cache / "index.json", json.dumps([asdict(v) for v in found], indent=1))
    return read_cache(cache), bad


def read_cache(cache: str | Path, *, only: Iterable[str] | None = None) -> list[CachedVideo]:
    """The videos of a finished cache, with absolute paths."""
    cache = Path(cache)
    try:
        entries = json.loads((cache / "index.json").read_text())
        videos = [CachedVideo(**entry) for entry in entries]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{cache}: not a cache of frames: {error}") from error
    names = set(only) if only is not None else None
    return [
        CachedVideo(v.name, str(cache / Path(v.path).name), v.frames, v.fps)
        for v in videos
        if names is None or v.name in names
    ]


def _stamp(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _decode(source: Any) -> tuple[NDArray[np.uint8], float]:
    fps = float(source.fps or FPS)
    step = max(1, round(fps / FPS))
    total = source.count or 0
    stretch = max(1, math.ceil(total / step / MAX_FRAMES))  # keep one stretch of 150 frames in so many
    frames: list[NDArray[np.uint8]] = []
    try:
        for frame in source.frames():
            kept, odd = divmod(frame.index, step)
            if odd or (kept // 150) % stretch or len(frames) >= MAX_FRAMES:
                continue
            frames.append(_small(frame.image))
    except DamagedInputError:
        if not frames:
            raise
    return np.stack(frames), fps / step


def _small(image: Image) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    if scale >= 1:
        return image
    size = (round(width * scale), round(height * scale))
    return np.asarray(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BOX))


class ClipSampler:
    """Random clips: batch number ``step`` depends on the seed and on ``step`` alone, whoever asks and in what order.

    Each clip comes from another video (drawn in proportion to the square root of its length); all its frames are cut
    by one square and mirrored alike. ``span`` in seconds, ``crop`` as shares of the short side, ``size`` in pixels.
    """

    def __init__(
        self,
        videos: list[CachedVideo],
        *,
        batch_size: int,
        frames: int,
        size: int,
        span: tuple[float, float],
        crop: tuple[float, float],
        seed: int,
    ) -> None:
        videos = [v for v in videos if v.frames >= 2]
        if not videos:
            raise InputError("training data: every video is a single frame; give videos")
        self.videos = videos
        self.arrays = [np.load(v.path, mmap_mode="r") for v in videos]
        share = np.sqrt([v.frames for v in videos])
        self.share = share / share.sum()
        self.batch_size, self.frames, self.size = batch_size, frames, size
        self.span, self.crop, self.seed = span, crop, seed

    def batch(self, step: int, count: int | None = None) -> NDArray[np.uint8]:
        """(count, T, size, size, 3) uint8 RGB; ``count`` defaults to the batch size."""
        random = np.random.default_rng((self.seed, step))
        count = self.batch_size if count is None else count
        chosen = random.choice(len(self.videos), count, replace=count > len(self.videos), p=self.share)
        return np.stack([self._clip(int(k), random) for k in chosen])

    def _clip(self, k: int, random: np.random.Generator) -> NDArray[np.uint8]:
        array, fps = self.arrays[k], self.videos[k].fps
        length, height, width = array.shape[:3]
        span = min(max(self.frames - 1, round(random.uniform(*self.span) * fps)), length - 1)
        first = int(random.integers(0, length - span))
        times = np.sort(np.r_[first, first + span, random.integers(first, first + span + 1, max(0, self.frames - 2))])
        side = max(8, min(height, width, round(random.uniform(*self.crop) * min(height, width))))
        y, x = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
        flip = random.random() < 0.5
        box = (x, y, x + side, y + side)
        size = (self.size, self.size)
        frames = [
            np.asarray(PIL.Image.fromarray(array[t]).resize(size, PIL.Image.Resampling.BILINEAR, box=box))
            for t in times[: self.frames]
        ]
        clip = np.stack(frames)
        return clip[:, :, ::-1] if flip else clip
