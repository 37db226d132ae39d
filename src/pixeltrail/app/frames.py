"""Frames as the page shows them: JPEG by exact index, decoded when asked for, in bounded memory."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from contextlib import suppress

import PIL.Image

from pixeltrail.data.seek import Seeker
from pixeltrail.data.video import FrameSource, Video
from pixeltrail.errors import PixeltrailError
from pixeltrail.types import Image

CACHE_BYTES = 96 << 20
THUMB = 96
"""Height of a thumbnail in pixels."""
STRIP = 40
"""A thumbnail stands for a stretch of the video, and may be of the nearest key frame up to 1/40 of its length away."""


class FrameCache:
    """Pictures of one video for any number of threads. Holds the last ones used, up to ``CACHE_BYTES`` of JPEG."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._thumbs = Seeker(source)
        self.count = self._thumbs.count()
        """How many frames there are."""
        self._show = self._thumbs.twin()  # thumbnails do not disturb what is played
        self._locks = {False: threading.Lock(), True: threading.Lock()}
        self._kept: OrderedDict[tuple[int, bool], bytes] = OrderedDict()
        self._bytes = 0

    def seeker(self) -> Seeker:
        """Another reader of the same video, for one thread."""
        return self._thumbs.twin()

    @property
    def of_folder(self) -> bool:
        """Whether each frame is a file of its own."""
        return not isinstance(self.source, Video)

    def image(self, index: int) -> Image:
        """(H, W, 3) uint8 RGB. Raises InputError beyond the video's end, DamagedInputError beyond damage."""
        with self._locks[False]:
            return self._show.frame(index)

    def prepare(self) -> None:
        """Decode the first frame before somebody asks for it; whatever is wrong is said then."""
        with suppress(PixeltrailError):
            self.jpeg(0)

    def jpeg(self, index: int, *, thumb: bool = False) -> bytes:
        """The frame, or with ``thumb`` a small picture of what lies there. Raises as `image`."""
        if thumb:
            index = self._thumbs.key_near(index, self.count // STRIP)
        key = (index, thumb)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._locks[thumb]:
            image = (self._thumbs if thumb else self._show).frame(index)
        data = _jpeg(image, THUMB if thumb else None)
        with self._lock:
            self._bytes += len(data) - len(self._kept.get(key, b""))
            self._kept[key] = data
            while self._bytes > CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return data


def _jpeg(image: Image, height: int | None) -> bytes:
    picture = PIL.Image.fromarray(image)
    if height is not None:
        picture.thumbnail((4 * height, height))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88 if height is None else 75)
    return out.getvalue()
