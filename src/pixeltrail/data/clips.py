"""Unlabelled videos for training: decoded once into a cache of small frames, then sampled at random.

The cache is a folder with one ``.npy`` per video (T, H, W, 3) uint8, read by memory map, and ``index.json``. It can be
copied to a machine that cannot decode video, and given there as the data itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from pixeltrail.data.files import atomic, remove_leftovers, write_text
from pixeltrail.errors import DamagedInputError, InputError, PixeltrailError
from pixeltrail.types import Image

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Sources = str | Path | Sequence[str | Path]
"""What training reads: a folder tree, a video, a finished cache, or several of them."""

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


def find_videos(path: str | Path) -> list[Path]:
    """Every video file and every folder of pictures below ``path``, sorted; ``path`` may also be one video itself."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give a video, or a folder with videos or frames below it")
    files = [p for p in path.rglob("*") if p.is_file()]
    videos = {p for p in files if p.suffix.lower() in VIDEOS}
    return sorted(videos | {p.parent for p in files if p.suffix.lower() in PICTURES})


def build_cache(
    data: Sources,
    cache: str | Path,
    *,
    only: Iterable[str] | None = None,
    on_video: Callable[[int, int, str], None] | None = None,
) -> tuple[list[CachedVideo], list[str]]:
    """Decode ``data`` into ``cache``; what is there already is kept.

    ``data``: a folder tree, a video file, a finished cache, or a list of such. Frames are thinned to at most 15 a second
    and scaled to a short side of at most 240 pixels; of a long video, so many evenly spread stretches are kept that
    3,000 frames remain. ``only``: names (without suffix) to take. Returns the videos and one line for each that could
    not be read. ``on_video(done, total, name)`` reports progress. Processes that share a cache wait for each other.
    """
    paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(p) for p in data]
    names = set(only) if only is not None else None
    caches = [p for p in paths if (p / "index.json").is_file()]
    sources = [s for p in paths if p not in caches for s in find_videos(p) if names is None or s.stem in names]
    found = [video for p in caches for video in read_cache(p, only=names)]
    bad: list[str] = []
    if sources:
        cache = Path(cache)
        cache.mkdir(parents=True, exist_ok=True)
        with _alone_in(cache):
            made, bad = _decode_all(sources, cache, on_video)
        found += made
    if not found:
        where = ", ".join(map(str, paths))
        raise InputError(f"{where}: no readable video below it" + (f"; the first problem: {bad[0]}" if bad else ""))
    return found, bad


def _decode_all(
    sources: list[Path], cache: Path, on_video: Callable[[int, int, str], None] | None
) -> tuple[list[CachedVideo], list[str]]:
    from pixeltrail.data.video import open_frames  # a machine that reads a finished cache needs no decoder

    remove_leftovers(cache)
    made: list[CachedVideo] = []
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
        made.append(CachedVideo(**json.loads(meta.read_text())))
    if on_video:
        on_video(len(sources), len(sources), "")
    if made:
        write_text(cache / "index.json", json.dumps([asdict(v) for v in made], indent=1))
    return [replace(v, path=str(cache / v.path)) for v in made], bad


@contextmanager
def _alone_in(cache: Path) -> Iterator[None]:
    """Wait until no other process fills ``cache``, where the system has such locks; its file stays empty."""
    if fcntl is None:
        yield
        return
    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


@dataclass(frozen=True, slots=True)
class Cut:
    """Frames ``times`` of a video, cut out by the square ``box`` (left, top, right, bottom), scaled to ``size`` pixels a
    side, and ``mirrored`` or not."""

    video: CachedVideo
    times: tuple[int, ...]
    box: tuple[int, int, int, int]
    size: int
    mirrored: bool

    def clip(self) -> NDArray[np.uint8]:
        """(T, size, size, 3) uint8 RGB."""
        clip = np.stack([self._scaled(PIL.Image.fromarray(image)) for image in self.whole()])
        return clip[:, :, ::-1] if self.mirrored else clip

    def whole(self) -> list[Image]:
        """The same frames as the video has them, (H, W, 3) uint8 RGB."""
        frames = _opened(self.video)
        return [frames[t] for t in self.times]

    def of_flow(self, flow: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the cut makes of a field of vectors over the whole frame, (H, W, 2) in its pixels: (size, size, 2)."""
        parts = [self._scaled(PIL.Image.fromarray(np.ascontiguousarray(flow[..., c]))) for c in (0, 1)]
        cut = np.stack(parts, -1) * np.float32(self.size / (self.box[2] - self.box[0]))
        return cut[:, ::-1] * np.array([-1, 1], np.float32) if self.mirrored else cut

    def _scaled(self, picture: PIL.Image.Image) -> NDArray[Any]:
        return np.asarray(picture.resize((self.size, self.size), PIL.Image.Resampling.BILINEAR, box=self.box))


class ClipSampler:
    """Random clips. Which videos batch number ``step`` shows depends on (seed, step) alone, how each of its rows is cut
    out on (seed, step, row), whoever asks and in what order.

    Each clip comes from another video, while there are enough (drawn in proportion to the square root of its length);
    all its frames are cut by one square and mirrored alike. ``span`` in seconds, ``crop`` as shares of the short side,
    ``size`` in pixels. The first and the last frame lie one span apart, the others anywhere between them, or ``even``ly.
    A shorter video gives all that it has. Videos of one frame are left out.
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
        even: bool = False,
    ) -> None:
        self.videos = [v for v in videos if v.frames >= 2]
        if not self.videos:
            raise InputError("training data: every video is a single frame; give videos")
        share = np.sqrt([v.frames for v in self.videos])
        self.share = share / share.sum()
        self.batch_size, self.frames, self.size = batch_size, frames, size
        self.span, self.crop, self.seed, self.even = span, crop, seed, even

    def batch(self, step: int, rows: range | None = None) -> NDArray[np.uint8]:
        """(len(rows), T, size, size, 3) uint8 RGB; all rows by default."""
        return np.stack([self.row(step, row) for row in rows or range(self.batch_size)])

    def names(self, step: int) -> list[str]:
        """The video of each row."""
        return [self.videos[k].name for k in self._chosen(step)]

    def row(self, step: int, row: int) -> NDArray[np.uint8]:
        """One clip, (T, size, size, 3) uint8 RGB."""
        return self.cut(step, row).clip()

    def cut(self, step: int, row: int) -> Cut:
        """Where that clip is taken from."""
        video = self.videos[self._chosen(step)[row]]
        random = np.random.default_rng((self.seed, step, row, 0))
        length, height, width = _opened(video).shape[:3]
        span = min(max(self.frames - 1, round(random.uniform(*self.span) * video.fps)), length - 1)
        first = int(random.integers(0, length - span))
        side = max(8, min(height, width, round(random.uniform(*self.crop) * min(height, width))))
        y, x = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
        mirrored = random.random() < 0.5
        return Cut(video, tuple(self._times(first, span, random)), (x, y, x + side, y + side), self.size, mirrored)

    def _times(self, first: int, span: int, random: np.random.Generator) -> list[int]:
        if self.even:
            return [first + round(i * span / max(1, self.frames - 1)) for i in range(self.frames)]
        between = random.integers(first, first + span + 1, max(0, self.frames - 2))
        return sorted([first, first + span, *map(int, between)])[: self.frames]

    def _chosen(self, step: int) -> list[int]:
        random = np.random.default_rng((self.seed, step))
        again = self.batch_size > len(self.videos)
        return [int(k) for k in random.choice(len(self.videos), self.batch_size, replace=again, p=self.share)]


class Frames(Sequence[Image]):
    """All frames of decoded videos as one sequence of (H, W, 3) uint8 images, each read when it is asked for."""

    def __init__(self, videos: list[CachedVideo]) -> None:
        self.videos = videos
        self.ends = np.cumsum([v.frames for v in videos])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        k = int(np.searchsorted(self.ends, index, "right"))
        video = self.videos[k]
        frame: Image = _opened(video)[index - int(self.ends[k]) + video.frames]
        return frame


def _opened(video: CachedVideo) -> NDArray[np.uint8]:
    """Mapped anew for each clip: that takes a tenth of a millisecond, and thousands of videos need no open files."""
    try:
        array: NDArray[np.uint8] = np.load(video.path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"{video.path}: frames of {video.name} cannot be read ({error}); remove the cache") from error
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 or len(array) < 2:
        raise InputError(
            f"{video.path}: is {array.dtype} {array.shape}, expected frames (T, H, W, 3); remove the cache"
        )
    return array
