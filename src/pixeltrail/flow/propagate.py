"""The baselines of mask tracking that learn nothing: keep the first mask, or carry it along the optical flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import ShapeError
from pixeltrail.types import VOID, Image, LabelMap

Ids = NDArray[np.uint8]


def propagate_labels(
    frames: Iterable[Image], first: LabelMap, flow: Callable[[Image, Image], NDArray[np.float32]]
) -> Iterator[Ids]:
    """One (H, W) uint8 map of ids per frame, frame 0 first, each pulled along ``flow`` from the one before.

    ``flow(a, b)`` gives (H, W, 2) with a(x) ~ b(x + flow(x)). The flow from frame t back to t-1 says for every pixel of
    t where its id is to be read (nearest pixel: ids are never blended); beyond the image, or where the flow is not
    finite, the background comes in. Void pixels of ``first`` count as background. Raises ShapeError when a frame is not
    of the labels' size.
    """
    ids = _without_void(first)
    y, x = np.indices(ids.shape, np.float32)
    before: Image | None = None
    for t, frame in enumerate(frames):
        if frame.shape[:2] != ids.shape:
            wanted, got = ("x".join(str(n) for n in reversed(s[:2])) for s in (ids.shape, frame.shape))
            raise ShapeError(f"frame {t}: the size is {got}, the first mask is {wanted}; all must be of one size")
        if before is not None:
            back = flow(frame, before)
            ids = _sample(ids, x + back[..., 0], y + back[..., 1])
        yield ids
        before = frame


def identity(frames: Iterable[Image], first: LabelMap) -> Iterator[Ids]:
    """The (H, W) uint8 ids of ``first`` (void as background) for every frame: what a tracker has to beat."""
    ids = _without_void(first)
    return (ids for _ in frames)


def _without_void(labels: LabelMap) -> Ids:
    return np.where(labels.ids == VOID, np.uint8(0), labels.ids)


def _sample(ids: Ids, x: NDArray[np.float32], y: NDArray[np.float32]) -> Ids:
    """``ids`` at the pixel nearest to (x, y), 0 outside; NaN is outside."""
    height, width = ids.shape
    x, y = np.rint(x), np.rint(y)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    out = np.zeros_like(ids)
    out[inside] = ids[y[inside].astype(np.intp), x[inside].astype(np.intp)]
    return out
