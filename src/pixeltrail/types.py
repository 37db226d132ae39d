"""The values that travel between files, models and metrics. Each checks its own shape when it is made.

Images and labels are NumPy arrays, as decoders, Pillow and OpenCV give them; tensors begin inside the models.
Letters: T frames, H W image height and width, P points or boxes, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import ShapeError

if TYPE_CHECKING:  # importing the types must not import torch
    from torch import Generator, Tensor

Image = NDArray[np.uint8]
"""One frame: (H, W, 3) uint8, RGB."""

VOID = 255
"""The label of pixels that belong to nobody and are left out of scores. 0 is the background."""


@cache
def davis_palette() -> NDArray[np.uint8]:
    """The colours of DAVIS and PASCAL VOC: (256, 3) uint8, read-only.

    Bits 0, 1, 2 of an id are the highest bit of red, green, blue, bits 3, 4, 5 the next one, and so on.
    """
    ids, colours = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((ids >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def _expect(ok: bool, what: str, wanted: str, got: object) -> None:
    if not ok:
        raise ShapeError(f"{what}: expected {wanted}, got {got}")


def _kind(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {array.shape}"


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A short video held in memory. ``frames`` (T, H, W, 3) uint8 RGB, T >= 1."""

    frames: NDArray[np.uint8]
    name: str = ""
    fps: float | None = None

    def __post_init__(self) -> None:
        f = self.frames
        _expect(
            f.ndim == 4 and f.shape[-1] == 3 and f.dtype == np.uint8 and min(f.shape) > 0,
            "Clip.frames", "(T, H, W, 3) uint8 with T, H, W >= 1", _kind(f),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """Which object each pixel belongs to. ``ids`` (H, W) uint8: 0 background, 1–254 objects, 255 void."""

    ids: NDArray[np.uint8]

    def __post_init__(self) -> None:
        _expect(
            self.ids.ndim == 2 and self.ids.dtype == np.uint8 and min(self.ids.shape) > 0,
            "LabelMap.ids", "(H, W) uint8 with H, W >= 1", _kind(self.ids),
        )  # fmt: skip

    @property
    def objects(self) -> tuple[int, ...]:
        """The ids present, in order, without background and void."""
        return tuple(int(i) for i in np.unique(self.ids) if i not in (0, VOID))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.ids.shape[0], self.ids.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Query points. ``xy`` (P, 2) float32 as (x, y) in pixels, pixel centres at integers; ``t`` (P,) the frame of each
    (default: all 0); ``names`` one per point (default: "0", "1", ...)."""

    xy: NDArray[np.float32]
    t: NDArray[np.int64] = None  # type: ignore[assignment]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        xy = np.asarray(self.xy, np.float32)
        _expect(xy.ndim == 2 and xy.shape[1] == 2 and len(xy) > 0, "Points.xy", "(P, 2) with P >= 1", _kind(xy))
        _expect(bool(np.isfinite(xy).all()), "Points.xy", "finite coordinates", "nan or infinity")
        t = np.zeros(len(xy), np.int64) if self.t is None else np.asarray(self.t, np.int64)
        _expect(t.shape == (len(xy),) and bool((t >= 0).all()), "Points.t", f"({len(xy)},) of values >= 0", _kind(t))
        names = self.names or tuple(str(i) for i in range(len(xy)))
        _expect(len(names) == len(xy), "Points.names", f"{len(xy)} names", len(names))
        for key, value in (("xy", xy), ("t", t), ("names", names)):
            object.__setattr__(self, key, value)


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes on one frame. ``xyxy`` (P, 4) float32: left, top, right, bottom in pixels, right > left, bottom > top;
    ``ids`` (P,) object ids 1–254 (default: 1, 2, ...)."""

    xyxy: NDArray[np.float32]
    ids: NDArray[np.uint8] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        b = np.asarray(self.xyxy, np.float32)
        _expect(b.ndim == 2 and b.shape[1] == 4 and len(b) > 0, "Boxes.xyxy", "(P, 4) with P >= 1", _kind(b))
        _expect(
            bool(np.isfinite(b).all() and (b[:, 2] > b[:, 0]).all() and (b[:, 3] > b[:, 1]).all()),
            "Boxes.xyxy", "left < right and top < bottom", b.tolist(),
        )  # fmt: skip
        _expect(len(b) <= 254 or self.ids is not None, "Boxes.xyxy", "at most 254 boxes", len(b))
        ids = np.arange(1, len(b) + 1, dtype=np.uint8) if self.ids is None else np.asarray(self.ids, np.uint8)
        _expect(ids.shape == (len(b),), "Boxes.ids", f"({len(b)},)", ids.shape)
        object.__setattr__(self, "xyxy", b)
        object.__setattr__(self, "ids", ids)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What an objective learns from: ``clip`` (B, T, 3, H, W) float in [0, 1], RGB, one unlabelled clip a row.

    ``generator`` is the source of every random choice that an objective makes, so that a seed decides everything;
    ``progress`` in [0, 1] is how much of training is over, for what changes on the way (scheduled sampling). Pairs with
    exact ``flow`` from the first frame to the second, (B, 2, H, W) in pixels and NaN where unknown, are made by the
    project itself or come from data sets of optical flow; None for videos.
    """

    clip: Tensor
    generator: Generator | None = None
    progress: float = 0.0
    flow: Tensor | None = None

    def __post_init__(self) -> None:
        c, f = self.clip, self.flow
        _expect(c.ndim == 5 and c.shape[2] == 3, "Batch.clip", "(B, T, 3, H, W)", tuple(c.shape))
        if f is not None:
            _expect(f.shape == (len(c), 2, *c.shape[3:]), "Batch.flow", "(B, 2, H, W) of the clip", tuple(f.shape))
