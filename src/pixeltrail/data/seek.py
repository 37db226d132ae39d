"""Any frame of a video by its exact index, in an order that nobody knows beforehand: what a page's scrubber asks for.

Players that seek by time land beside the frame that was meant. Here the index of a video's packets is made before the
first jump (no picture is decoded for it): frame k is the k-th time stamp in order. A jump decodes from the key frame
before it up to exactly that stamp; wherever that does not come out, the video is read from its beginning.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np

from pixeltrail.data.video import Decoded, FrameSource, Video, _open, _pictures, _Rgb, _stream
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.types import Image

NEAR = 48
"""A frame at most so far ahead is reached by decoding on, without a jump."""
FAR = 2**62


class Index:
    """When each frame of a video is shown, by the time stamps of its packets. Made once, for all threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._made: tuple[list[int], list[int]] | None = None

    def stamps(self) -> tuple[list[int], list[int]]:
        """Time stamps of all frames in order, and those of the key frames; none where the packets do not say them, or
        say one twice. All packets are read for it."""
        with self._lock:
            if self._made is None:
                self._made = self._read()
            return self._made

    def count(self) -> int:
        """How many frames there are, 0 where that is not known. MP4 and MOV have a table of all samples in front, so
        that a long one need not be read for it; what a header of another file declares may be wrong."""
        with _open(self.path) as container:
            stream = _stream(container, self.path)
            entries, room = list(stream.index_entries), self.path.stat().st_size
            complete = len(entries) == stream.frames > 0 and all(e.pos + e.size <= room for e in entries)
            if container.format.name.startswith("mov") and complete:
                return sum(not entry.is_discard for entry in entries)
        return len(self.stamps()[0])

    def _read(self) -> tuple[list[int], list[int]]:
        stamps, keys = [], []
        with _open(self.path) as container:
            stream = _stream(container, self.path)
            try:
                for packet in container.demux(stream):
                    if packet.size and not packet.is_discard:
                        stamps.append(packet.pts)
                        if packet.is_keyframe:
                            keys.append(packet.pts)
            except av.FFmpegError:
                return [], []
        if None in stamps or len(set(stamps)) < len(stamps):
            return [], []
        return np.sort(np.array(stamps, np.int64)).tolist(), sorted(keys)


class Seeker:
    """The frames of ``source`` by index. Holds one open decoder and no frames; not to be shared between threads."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self.index = Index(source.path)
        self._next, self._ahead = FAR, _nothing()
        self._rgb: _Rgb | None = None

    def twin(self) -> Seeker:
        """Another one for the same video, such as for another thread; the index is not made again."""
        other = Seeker(self.source)
        other.index = self.index
        return other

    def frame(self, index: int) -> Image:
        """(H, W, 3) uint8 RGB. Raises InputError beyond the end, and as `FrameSource.frames`."""
        if not isinstance(self.source, Video):
            frame = next(self.source.frames(index), None)
            if frame is None:
                raise self._beyond(index)
            return frame.image
        if not self._next <= index <= self._next + NEAR:
            self._jump(self.source, index)
        found = next(islice(self._ahead, index - self._next, None), None)
        if found is None:
            self._next, self._ahead = FAR, _nothing()
            raise self._beyond(index)
        self._next = index + 1
        picture, rgb = found
        return rgb(picture)

    def count(self) -> int:
        """How many frames there are."""
        if not isinstance(self.source, Video):
            return len(self.source.files)
        return self.index.count() or self.source.count or 1

    def key_near(self, index: int, most: int) -> int:
        """The nearest frame that can be decoded alone, if it is at most so many frames away; else ``index`` itself."""
        if most < 1 or not isinstance(self.source, Video):
            return index
        stamps, keys = self.index.stamps()
        if index >= len(stamps):
            return index
        place = bisect_right(keys, stamps[index])
        near = [bisect_right(stamps, key) - 1 for key in keys[max(0, place - 1) : place + 1]]
        return min((t for t in near if abs(t - index) <= most), key=lambda t: abs(t - index), default=index)

    def _jump(self, video: Video, index: int) -> None:
        self._next, self._ahead = 0, video.pictures()
        if index <= NEAR or index >= len((stamped := self.index.stamps())[0]):
            return
        stamps, keys = stamped
        place = bisect_right(keys, stamps[index]) - 1
        if place >= 0:
            found = self._from_key(keys[place], stamps[index])
            if (first := next(found, None)) is not None:

                def ahead() -> Iterator[Decoded]:
                    yield first
                    yield from found

                self._next, self._ahead = index, ahead()

    def _from_key(self, key: int, wanted: int) -> Iterator[Decoded]:
        """The frame of stamp ``wanted`` and those after it; nothing where it is not met exactly."""
        path = self.source.path
        if self._rgb is None:
            if (first := next(_pictures(path), None)) is None:
                return
            self._rgb = _Rgb(first)
        met = False
        with _open(path) as container:
            stream = _stream(container, path)
            try:
                container.seek(key, stream=stream, backward=True)
                for picture in container.decode(stream):
                    met = met or picture.pts == wanted
                    if picture.pts is None or picture.is_corrupt or (not met and picture.pts > wanted):
                        return
                    if met:
                        yield picture, self._rgb
            except (av.FFmpegError, ValueError, PixeltrailError):
                return

    def _beyond(self, index: int) -> InputError:
        return InputError(f"{self.source.path}: frame {index}: is beyond the video's end; frames count from 0")


def _nothing() -> Iterator[Decoded]:
    return iter(())
