"""The baselines of tracking that learn nothing: keep what was given where it is, or carry it along the optical flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.sessions import Followed
from pixeltrail.types import VOID, Image, LabelMap, Points

Ids = NDArray[np.uint8]
Number = TypeVar("Number", np.uint8, np.int32)
Flow = Callable[[Image, Image], NDArray[np.float32]]


def propagate_labels(frames: Iterable[Image], labels: LabelMap | Mapping[int, LabelMap], flow: Flow) -> Iterator[Ids]:
    """One (H, W) uint8 map of ids per frame, frame 0 first, each pulled along ``flow`` from the one before.

    ``labels``: those of the first frame, or a mapping from frame number to labels, for objects that appear later.
    ``flow(a, b)`` gives (H, W, 2) with a(x) ~ b(x + flow(x)). The flow from frame t back to t-1 says for every pixel of
    t where its id is to be read (nearest pixel: ids are never blended); beyond the image, or where the flow is not
    finite, the background comes in. Void pixels of ``labels`` count as background. Raises ShapeError when a frame is not
    of the labels' size.
    """
    given = _given(labels)
    ids = np.zeros_like(next(iter(given.values())).ids)
    before: Image | None = None
    for t, frame in enumerate(frames):
        if frame.shape[:2] != ids.shape:
            wanted, got = ("x".join(str(n) for n in reversed(s[:2])) for s in (ids.shape, frame.shape))
            raise ShapeError(f"frame {t}: the size is {got}, the first mask is {wanted}; all must be of one size")
        if before is not None and ids.any():
            ids = carry(ids, flow(frame, before))
        ids = _with(ids, given.get(t))
        yield ids
        before = frame


def identity(frames: Iterable[Image], labels: LabelMap | Mapping[int, LabelMap]) -> Iterator[Ids]:
    """The (H, W) uint8 ids of ``labels`` (void as background), where they were given: what a tracker has to beat."""
    given = _given(labels)
    ids = np.zeros_like(next(iter(given.values())).ids)
    for t, _ in enumerate(frames):
        ids = _with(ids, given.get(t))
        yield ids


def propagate_points(frames: Iterable[Image], points: Points, flow: Flow) -> Iterator[Followed]:
    """Where each point is in every frame from its own on, moved by ``flow`` (sampled bilinearly) from frame to frame.

    NaN before a point's own frame. The confidence is 1, and 0 for a point outside the image, which stays where it left.
    """
    xy = np.full(points.xy.shape, np.nan, np.float32)
    before: Image | None = None
    for t, frame in enumerate(frames):
        if before is not None and inside(xy, before).any():
            step = flow(before, frame)
            moving = inside(xy, before)
            xy = xy.copy()
            xy[moving] += np.nan_to_num(bilinear(step, xy[moving]), posinf=0, neginf=0)  # no flow: no motion
        fresh = points.t == t
        xy = np.where(fresh[:, None], points.xy, xy)
        yield Followed(t, xy, inside(xy, frame).astype(np.float32))
        before = frame


def stay(frames: Iterable[Image], points: Points) -> Iterator[Followed]:
    """Every point where it was given: what a tracker has to beat."""
    for t, _ in enumerate(frames):
        known = points.t <= t
        xy = np.where(known[:, None], points.xy, np.float32(np.nan))
        yield Followed(t, xy, known.astype(np.float32))


def _given(labels: LabelMap | Mapping[int, LabelMap]) -> dict[int, LabelMap]:
    given = {0: labels} if isinstance(labels, LabelMap) else dict(labels)
    if not given:
        raise InputError("no labels were given; give those of at least one frame")
    return given


def _with(ids: Ids, labels: LabelMap | None) -> Ids:
    """``ids`` with the objects of ``labels`` put in."""
    if labels is None:
        return ids
    return np.where((labels.ids != VOID) & (labels.ids != 0), labels.ids, ids)


def carry(ids: NDArray[Number], back: NDArray[np.float32]) -> NDArray[Number]:
    """``ids`` (H, W) of the frame before, read at the pixel nearest to where ``back`` (H, W, 2) points; 0 outside, and
    where the flow is not finite."""
    height, width = ids.shape
    y, x = np.indices(ids.shape, np.float32)
    x, y = np.rint(x + back[..., 0]), np.rint(y + back[..., 1])
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    out = np.zeros_like(ids)
    out[seen] = ids[y[seen].astype(np.intp), x[seen].astype(np.intp)]
    return out


def inside(xy: NDArray[np.float32], image: Image) -> NDArray[np.bool_]:
    """Which points (P, 2) lie on a pixel of ``image``; those that are not a number do not."""
    height, width = image.shape[:2]
    return np.asarray(((xy >= -0.5) & (xy <= np.array([width, height]) - 0.5)).all(1), np.bool_)


def bilinear(values: NDArray[np.float32], xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """``values`` (H, W, K) at points (P, 2): (P, K). Beyond the outer pixels' centres they are as there."""
    size = np.array(values.shape[1::-1])
    place = np.clip(np.nan_to_num(xy), 0, size - 1)
    (x, y), (right, below) = place.astype(np.intp).T, np.minimum(place.astype(np.intp) + 1, size - 1).T
    fx, fy = (place % 1).T[..., None]
    upper = values[y, x] * (1 - fx) + values[y, right] * fx
    lower = values[below, x] * (1 - fx) + values[below, right] * fx
    found: NDArray[np.float32] = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return found
