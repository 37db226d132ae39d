"""Frames in, from whatever holds them, and videos out. Everything streams: memory does not depend on the length.

One index is one decoded frame in presentation order. Frames are upright: a display matrix (as phones write it) is
applied once, to the nearest quarter turn. Colours become 8-bit RGB by the matrix and range that the file names; alpha
is dropped. Pixels are taken as square.

FFmpeg conceals damage: most damaged files decode to something, without an exception. Decoding is therefore done on one
thread, packet by packet, with FFmpeg's error log captured: what it complains about is damage, the frame is known, and
nothing reaches the terminal. Of 720 files damaged at random, in 12 pairs of container and codec, 9 % passed unnoticed,
none of them short: most were VP9, HEVC and MJPEG, which carry no checksums.
"""

from __future__ import annotations

import glob
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.logging
import numpy as np
import PIL.Image
from av.video.reformatter import Colorspace, VideoReformatter

from pixeltrail.data.files import atomic, one_line
from pixeltrail.data.images import IMAGE_SUFFIXES, MAX_PIXELS, image_size, natural_key, read_image
from pixeltrail.errors import DamagedInputError, InputError
from pixeltrail.types import Image

# Containers that hold their own frames. Left out are those that name other files (concat, hls, dash, sdp, image2).
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpeg,mpegts,mpegvideo,h264,hevc,av1,obu,ivf,flv,ogg,asf,"
    "yuv4mpegpipe,m4v,mjpeg,dv,mxf,nut"
)
_SAFE = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}

logging.getLogger("libav").addHandler(logging.NullHandler())  # where PyAV sends what nobody captures


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame: its ``index`` from 0, the ``name`` that outputs carry (the file's stem, or the index in five digits),
    ``image`` (H, W, 3) uint8 RGB, and its ``time`` in seconds where the file gives one."""

    index: int
    name: str
    image: Image
    time: float | None


@dataclass(eq=False)
class FrameSource(ABC):
    """Frames that can be read as often as one likes, each time from the file. Made by `open_frames`.

    ``fps`` and ``count`` are what the file declares (None: unknown), good for a progress bar; ``count`` is exact for
    folders. ``size`` is (height, width) of upright frames. ``damage`` lists (frame index, reason) of the last reading.
    ``files`` are those that are read: the video, or one for each frame.
    """

    path: Path
    size: tuple[int, int]
    fps: float | None = None
    count: int | None = None
    start: int = 0
    damage: list[tuple[int, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list, repr=False)

    def __iter__(self) -> Iterator[Frame]:
        return self.frames(self.start)

    @abstractmethod
    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Frames from index ``start`` on; frame k is the same one whatever ``start`` is.

        Raises DamagedInputError, naming the first frame that cannot be trusted, after the last good frame; InputError
        where a frame has another size than the first.
        """

    def _damaged(self, index: int, reason: str) -> DamagedInputError:
        self.damage.append((index, reason))
        return DamagedInputError(f"{self.path}: frame {index}: damaged ({reason}); the frames before it were read")


def open_frames(path: str | Path, *, start: int = 0) -> FrameSource:
    """Open a video, an animated GIF, a folder of frames, or a glob of frames ("frames/*.jpg").

    Frames of a folder come in natural order of their names, gaps in the numbers being fine. Iterating over the result
    begins at ``start``. Raises InputError if there is no first frame to be had.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path, [p for p in path.iterdir() if not p.name.startswith(".")], start)
    if path.is_file():
        return _video(path, start)
    if glob.has_magic(str(path)):
        return _folder(path, [Path(p) for p in glob.glob(str(path))], start)
    if path.exists():
        raise InputError(f"{path}: is no regular file; save the video to a file first")
    raise InputError(f"{path}: does not exist; check the path")


# Folders of frames


def _folder(path: Path, entries: list[Path], start: int) -> _Folder:
    files = sorted((p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()), key=natural_key)
    if not files:
        raise InputError(f"{path}: no frames found; images such as 00000.jpg or frame1.png are expected")
    names: set[str] = set()
    size = image_size(files[0])
    for file in files:
        if file.stem in names:
            raise InputError(
                f"{file}: another frame has the same name {file.stem!r}; keep frames and masks in folders of their own"
            )
        names.add(file.stem)
        if (found := image_size(file)) != size:
            raise InputError(f"{file}: is {_wh(found)} but the first frame is {_wh(size)}; give all frames one size")
    read_image(files[0])
    return _Folder(path, size, count=len(files), start=start, files=files)


@dataclass(eq=False)
class _Folder(FrameSource):
    def frames(self, start: int = 0) -> Iterator[Frame]:
        self.damage.clear()
        for index, file in enumerate(self.files[start:], start):
            try:
                image = read_image(file)
            except InputError as error:
                raise self._damaged(index, one_line(error)) from error
            if image.shape[:2] != self.size:  # the file was changed since it was listed
                raise InputError(f"{file}: is {_wh(image.shape)} but the first frame is {_wh(self.size)}")
            yield Frame(index, file.stem, image, None)


# Videos


class _DamageError(Exception):
    """Where a video stops being readable: the message says why."""


def _video(path: Path, start: int) -> Video:
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty; nothing can be read from it")
    with _open(path) as container:
        stream = _stream(container, path)
        rate = stream.average_rate or stream.guessed_rate
        fps = float(rate) if rate and 0 < rate < 1000 else None
        count = stream.frames or None
        if count is None and fps and container.duration:
            count = max(1, round(container.duration / av.time_base * fps))
        try:
            picture = next(_decoded(container, stream), None)
        except _DamageError as error:
            raise InputError(f"{path}: frame 0: cannot be read ({error}); make the video again or convert it") from None
    if picture is None:
        raise InputError(f"{path}: holds no frames; make the video again")
    return Video(path, _Rgb(picture).size, fps, count, start, files=[path])


@dataclass(eq=False)
class Video(FrameSource):
    """A file that is decoded, in contrast to a folder of pictures."""

    def frames(self, start: int = 0) -> Iterator[Frame]:
        for index, (picture, rgb) in enumerate(self.pictures()):
            if index >= start:
                yield Frame(index, f"{index:05d}", rgb(picture), picture.time)

    def pictures(self) -> Iterator[Decoded]:
        """All frames, decoded and not yet turned into RGB. Raises as `frames`."""
        self.damage.clear()
        index = 0
        rgb: _Rgb | None = None
        try:
            for picture in _pictures(self.path):
                rgb = rgb or _Rgb(picture)
                if (picture.height, picture.width) != rgb.coded:
                    sizes = f"is {picture.width}x{picture.height} but the first frame is {_wh(rgb.coded)}"
                    raise InputError(f"{self.path}: frame {index}: {sizes}; cut the video there")
                yield picture, rgb
                index += 1
        except _DamageError as error:
            raise self._damaged(index, str(error)) from None


def _open(path: Path) -> Any:
    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # else a second reading of the same damage is not reported
    try:
        with av.logging.Capture():
            return av.open(f"file:{path.absolute()}", options=_SAFE, metadata_errors="replace")
    except PermissionError:
        raise InputError(f"{path}: may not be read; change its permissions") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path}: is not a video that can be read ({reason}); convert it to MP4 (H.264)") from None


def _stream(container: Any, path: Path) -> Any:
    """The first video stream that is no cover picture and that FFmpeg has a decoder for, ready to decode safely."""
    for stream in container.streams.video:
        if stream.codec_context is None or stream.disposition & av.stream.Disposition.attached_pic:
            continue
        if stream.width * stream.height > MAX_PIXELS:
            found = _wh((stream.height, stream.width))
            raise InputError(
                f"{path}: frames are {found}, more than {MAX_PIXELS / 1e6:.0f} megapixels; scale them down"
            )
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        # One thread: errors are then logged on this thread, while the packet that causes them is being decoded.
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        return stream
    raise InputError(f"{path}: holds no video stream that can be decoded; convert it to MP4 (H.264)")


def _pictures(path: Path) -> Iterator[Any]:
    """The decoded pictures of a video in presentation order. Raises _DamageError after the last trustworthy one."""
    with _open(path) as container:
        yield from _decoded(container, _stream(container, path))


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Those of a container that is open already."""
    packets = container.demux(stream)
    end = 0
    while True:
        packet, pictures = None, []
        with av.logging.Capture() as log:
            try:
                if (packet := next(packets, None)) is not None:
                    pictures = packet.decode()
            except (av.FFmpegError, ValueError, MemoryError) as error:
                log.append((av.logging.ERROR, "", one_line(error)))
        corrupt = next((p for p in pictures if p.is_corrupt), None)
        if log or corrupt:
            yield from _good(stream, pictures, corrupt or packet)
            raise _DamageError(one_line(log[0][2]) if log else "marked as corrupt")
        yield from pictures
        if packet is None:
            break
        if packet.pts is not None:
            end = max(end, packet.pts + (packet.duration or 0) - (stream.start_time or 0))
    # Time, not the announced number of frames: an edit list (a trimmed phone video) rightly leaves frames out.
    if stream.duration and end < 0.9 * stream.duration:
        raise _DamageError("the video ends here, before its announced end")


def _good(stream: Any, pictures: list[Any], bad: Any) -> list[Any]:
    """Of ``pictures`` and those that the decoder still holds, the ones shown before ``bad`` (a picture or a packet)."""
    with av.logging.Capture(), suppress(av.FFmpegError, ValueError, MemoryError):
        pictures = pictures + stream.decode(None)
    end = float("inf") if bad is None else bad.pts
    return [p for p in pictures if not p.is_corrupt and None not in (p.pts, end) and p.pts < end]


class _Rgb:
    """Turns decoded pictures into upright RGB images, as the first one says."""

    def __init__(self, first: Any) -> None:
        self.coded = (first.height, first.width)
        self._convert = VideoReformatter()  # one for all frames: each keeps a scaling context of its own
        matrix = first.side_data.get("DISPLAYMATRIX")
        self._matrix = None if matrix is None else np.frombuffer(matrix, np.int32).tolist()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return self.coded[::-1] if self._matrix is not None and _lies(self._matrix) else self.coded

    def __call__(self, picture: Any) -> Image:
        image = np.asarray(self._convert.reformat(picture, format="rgb24").to_ndarray(), np.uint8)
        return image if self._matrix is None else _upright(image, self._matrix)


Decoded = tuple[Any, _Rgb]
"""A decoded picture, and what turns it into an image."""


def _upright(image: Image, matrix: list[int]) -> Image:
    """Apply a display matrix [a b u c d v x y w] (ISO/IEC 14496-12): (x, y) is shown at (a·x + c·y, b·x + d·y)."""
    a, b, _, c, d = matrix[:5]
    if _lies(matrix):
        image, down, right = image.transpose(1, 0, 2), b, c
    else:
        down, right = d, a
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


def _lies(matrix: list[int]) -> bool:
    """Whether a display matrix turns rows into columns."""
    a, b, _, c, d = matrix[:5]
    return abs(a) + abs(d) < abs(b) + abs(c)


def _wh(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


# Writing

_ENCODERS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    # suffix: container, encoder, pixel format, encoder options
    ".mp4": ("mp4", "libx264", "yuv420p", {"preset": "superfast", "crf": "21"}),
    ".webm": ("webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "crf": "32", "row-mt": "1"}),
    ".gif": ("gif", "gif", "pal8", {}),
}
MAX_SIDE = 16384  # of H.264 and VP9


class VideoWriter:
    """Writes a video that browsers play: H.264 (.mp4), VP9 (.webm), or an animated GIF. To be used in ``with``.

    ``size`` is (height, width) of the images to come; an odd one is made even by repeating the last row or column.
    The file appears under its name when the block ends well, and not at all otherwise.
    Raises InputError for another suffix or an unusable folder, DiskError when the disk is full.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        self.path = Path(path)
        self.size = size
        if self.path.suffix.lower() not in _ENCODERS:
            raise InputError(f"{self.path}: videos are written as {', '.join(_ENCODERS)}; choose one of these suffixes")
        if not 0.01 <= fps <= 1000:
            raise InputError(f"{self.path}: {fps} frames per second cannot be written; choose 0.01 to 1000")
        if max(size) > MAX_SIDE:
            raise InputError(f"{self.path}: frames are {_wh(size)}, videos go to {MAX_SIDE} pixels; scale them down")
        self._kind, self._encoder, self._pixels, self._options = _ENCODERS[self.path.suffix.lower()]
        self._rate = Fraction(fps).limit_denominator(1001)
        self._count = 0

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            part = stack.enter_context(atomic(self.path))
            flags = {"movflags": "faststart"} if self._kind == "mp4" else {}
            self._container = stack.enter_context(
                av.open(f"file:{part.absolute()}", "w", format=self._kind, options=flags)
            )
            stream = self._container.add_stream(self._encoder, rate=self._rate, options=self._options)
            stream.height, stream.width = (side if self._kind == "gif" else side + side % 2 for side in self.size)
            stream.pix_fmt = self._pixels
            if self._kind != "gif":  # say which colours these are, or players guess by the size of the picture
                context = stream.codec_context
                context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
            self._stream = stream
            self._convert = VideoReformatter()
            self._stack = stack.pop_all()
        return self

    def write(self, image: Image) -> None:
        """Append one frame (H, W, 3) uint8 RGB of the writer's size."""
        if image.shape != (*self.size, 3):
            raise InputError(f"{self.path}: frame {self._count}: is {_wh(image.shape)}, expected {_wh(self.size)}")
        if self._kind == "gif":
            reduced = PIL.Image.fromarray(image).quantize(
                256, PIL.Image.Quantize.FASTOCTREE, dither=PIL.Image.Dither.NONE
            )
            palette = np.full((256, 4), 255, np.uint8)
            colours = np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)
            palette[: len(colours), 1:] = colours
            frame = av.VideoFrame.from_ndarray((np.asarray(reduced), palette), format="pal8")
        else:
            height, width = self.size
            if height % 2 or width % 2:
                image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = self._convert.reformat(rgb, format=self._pixels, dst_colorspace=Colorspace.ITU709)
        frame.pts = self._count
        frame.time_base = 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                raise error
            if self._count == 0:
                raise InputError(f"{self.path}: not one frame came to be written; give at least one")
            self._container.mux(self._stream.encode(None))
