"""Any frame of a video by its exact index, in an order that nobody knows beforehand: what a page's scrubber asks for.

Players that seek by time land beside the frame that was meant. Here the index of a video's packets is made first (no
picture is decoded for it): frame k is the k-th time stamp in order. A jump decodes from the key frame before it up to
exactly that stamp; wherever that does not come out, the video is read from its beginning.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice

import av
import numpy as np

from pixeltrail.data.video import FrameSource, _open, _pictures, _Rgb, _stream
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.types import Image

NEAR = 48
"""A frame at most so far ahead is reached by decoding on, without a jump."""
FAR = 2**62


class Seeker:
    """The frames of ``source`` by index. Holds one open decoder and no frames; not to be shared between threads."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self.is_video = len(source.files) == 1 and source.files[0] == source.path and source.path.is_file()
        self._next, self._ahead = FAR, _nothing()
        self._stamps: list[int] | None = None
        self._keys: list[int] = []

    def twin(self) -> Seeker:
        """Another one for the same video, such as for another thread; the index is not made again."""
        other = Seeker(self.source)
        other._stamps, other._keys = self._stamps, self._keys
        return other

    def frame(self, index: int) -> Image:
        """(H, W, 3) uint8 RGB. Raises InputError beyond the end, and as `FrameSource.frames`."""
        if not self.is_video:
            return self._only(self.source.frames(index), index)
        if not self._next <= index <= self._next + NEAR:
            self._jump(index)
        image = next(islice(self._ahead, index - self._next, None), None)
        if image is None:
            self._next, self._ahead = FAR, _nothing()
            raise self._beyond(index)
        self._next = index + 1
        return image

    def count(self) -> int:
        """How many frames there are, by the time stamps of the packets; a number that a header declares may be wrong."""
        if not self.is_video:
            return len(self.source.files)
        return len(self._index()) or self.source.count or 1

    def _jump(self, index: int) -> None:
        self._next, self._ahead = 0, self._from_start()
        if index <= NEAR or index >= len(stamps := self._index()):
            return
        place = bisect_right(self._keys, stamps[index]) - 1
        if place > 0:
            found = self._from_key(self._keys[place], stamps[index])
            if (first := next(found, None)) is not None:

                def ahead() -> Iterator[Image]:
                    yield first
                    yield from found

                self._next, self._ahead = index, ahead()

    def _from_start(self) -> Iterator[Image]:
        return (frame.image for frame in self.source.frames(0))

    def _from_key(self, key: int, wanted: int) -> Iterator[Image]:
        """The frame of stamp ``wanted`` and those after it; nothing where it is not met exactly."""
        path = self.source.path
        first = next(_pictures(path), None)
        if first is None:
            return
        convert, met = _Rgb(first), False
        with _open(path) as container:
            stream = _stream(container, path)
            try:
                container.seek(key, stream=stream, backward=True)
                for picture in container.decode(stream):
                    met = met or picture.pts == wanted
                    if picture.pts is None or picture.is_corrupt or (not met and picture.pts > wanted):
                        return
                    if met:
                        yield convert(picture)
            except (av.FFmpegError, ValueError, PixeltrailError):
                return

    def _index(self) -> list[int]:
        """Time stamps of all frames in order; none where the packets do not say them, or say one twice."""
        if self._stamps is None:
            stamps, keys = [], []
            with _open(self.source.path) as container:
                stream = _stream(container, self.source.path)
                try:
                    for packet in container.demux(stream):
                        if packet.size and not packet.is_discard:
                            stamps.append(packet.pts)
                            if packet.is_keyframe:
                                keys.append(packet.pts)
                except av.FFmpegError:
                    stamps = []
            known = None not in stamps and len(set(stamps)) == len(stamps)
            self._stamps = np.sort(np.array(stamps, np.int64)).tolist() if known and stamps else []
            self._keys = sorted(keys) if self._stamps else []
        return self._stamps

    def _only(self, frames: Iterator[object], index: int) -> Image:
        frame = next(frames, None)
        if frame is None:
            raise self._beyond(index)
        return frame.image  # type: ignore[attr-defined,no-any-return]

    def _beyond(self, index: int) -> InputError:
        return InputError(f"{self.source.path}: frame {index}: is beyond the video's end; frames count from 0")


def _nothing() -> Iterator[Image]:
    return iter(())
