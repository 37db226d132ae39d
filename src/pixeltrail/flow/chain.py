"""Tracking by chained flow: from each frame to the next, as people did before trackers learned to look back.

The sessions are fed and answer as those of a tracker. They remember one frame; what is hidden once is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.errors import ShapeError
from pixeltrail.flow.algebra import confidence
from pixeltrail.flow.classical import Flow
from pixeltrail.flow.propagate import bilinear, carry, inside
from pixeltrail.sessions import Followed, Tracked
from pixeltrail.types import VOID, Image, LabelMap, Points

Flows = Callable[[Image, Image], Flow]


class FlowTracker:
    """Masks and points carried along ``flow``, where a video job would have a tracker. ``settings`` say how it was made."""

    def __init__(self, flow: Flows, settings: Mapping[str, str] | None = None) -> None:
        self.flow, self.settings = flow, dict(settings or {})

    def live(self) -> FlowLive:
        """A session for masks: ``live.step(image, labels)``."""
        return FlowLive(self.flow)

    def points(self, points: Points) -> FlowPoints:
        """A session for points: ``session.step(image)``."""
        return FlowPoints(self.flow, points)


def chain_points(frames: Iterable[Image], points: Points, flow: Flows) -> Iterator[Followed]:
    """Follow points through a video, each from its own frame ``points.t`` on, one result per frame, by chained flow.

    The flow at a point is looked up bilinearly. Its confidence is the smallest so far of how well the flow back agrees,
    exp(-r² / 2) of the round trip's r pixels (`algebra.confidence`), so that a point once hidden stays doubtful: below
    one half it is better taken for lost. Outside the frame it is 0. Raises ShapeError.
    """
    session = FlowPoints(flow, points)
    for image in frames:
        yield session.step(image)


class _Chain:
    """What masks and points share: the frame before."""

    def __init__(self, flow: Flows) -> None:
        self.flow, self.index = flow, -1
        self.before: Image | None = None

    def _next(self, image: Image) -> tuple[Flow, Flow] | None:
        """The flow from the frame before to this one, and back; None for the first."""
        self.index += 1
        before, self.before = self.before, image
        if before is None:
            return None
        if before.shape != image.shape:
            (h, w), (height, width) = image.shape[:2], before.shape[:2]
            raise ShapeError(f"frame {self.index}: expected the first frame's size {width}x{height}, got {w}x{h}")
        return self.flow(before, image), self.flow(image, before)

    def state(self) -> dict[str, Tensor]:
        """Everything that a later ``load_state`` needs to go on as if nothing had happened."""
        own = {"index": torch.tensor(self.index)}
        return own if self.before is None else own | {"before": torch.tensor(self.before)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` gave, possibly in another process."""
        self.index = int(state["index"])
        self.before = state["before"].numpy() if "before" in state else None


class FlowLive(_Chain):
    """Masks, frame by frame."""

    def __init__(self, flow: Flows) -> None:
        super().__init__(flow)
        self.ids = np.zeros((0, 0), np.uint8)
        self.objects: list[int] = []

    def step(self, image: Image, labels: LabelMap | None = None) -> Tracked:
        """Next frame (H, W, 3) uint8 RGB, with its labels where the user has some.

        A pixel's label is that of the pixel to which the flow points in the frame before; its confidence is how well the
        flow there points back. The objects in ``labels`` are taken as given, and so is void for what flow has carried.
        Raises ShapeError.
        """
        if labels is not None and labels.size != image.shape[:2]:
            sizes = f"labels are {labels.size[1]}x{labels.size[0]}, the frame is {image.shape[1]}x{image.shape[0]}"
            raise ShapeError(f"frame {self.index + 1}: {sizes}; resize them with nearest neighbour")
        sure = np.zeros(image.shape[:2], np.float32)
        if not self.objects:  # nothing to carry yet
            self.index, self.before, self.ids = self.index + 1, image, np.zeros(sure.shape, np.uint8)
        elif (flows := self._next(image)) is not None:
            self.ids = carry(self.ids, flows[1])
            sure = np.asarray(confidence(flows[1], flows[0]), np.float32)
        if labels is not None:
            self.ids = _merged(self.ids, labels, first=not self.objects)
            sure = np.where(labels.ids != VOID, np.float32(1), sure)
            self.objects += [i for i in labels.objects if i not in self.objects]
        area = np.bincount(self.ids.ravel(), minlength=256)
        total = np.bincount(self.ids.ravel(), sure.ravel(), minlength=256)
        found = {i: float(total[i] / area[i]) if area[i] else 0.0 for i in self.objects}
        return Tracked(self.index, self.ids, sure, found)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"ids": torch.tensor(self.ids), "objects": torch.tensor(self.objects)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.ids, self.objects = state["ids"].numpy(), [int(i) for i in state["objects"]]


def _merged(ids: NDArray[np.uint8], labels: LabelMap, *, first: bool) -> NDArray[np.uint8]:
    """What was carried, with the objects of ``labels`` as given; void is left as it was carried."""
    if first:
        return np.where(labels.ids == VOID, np.uint8(0), labels.ids)
    named = np.isin(ids, labels.objects) & (labels.ids != VOID)
    return np.where(np.isin(labels.ids, labels.objects), labels.ids, np.where(named, np.uint8(0), ids))


class FlowPoints(_Chain):
    """Points, frame by frame; see `chain_points`."""

    def __init__(self, flow: Flows, points: Points) -> None:
        super().__init__(flow)
        self.points = points
        self.xy = np.full(points.xy.shape, np.nan, np.float32)
        self.confidence = np.zeros(len(points.xy), np.float32)

    def step(self, image: Image) -> Followed:
        """Next frame (H, W, 3) uint8 RGB."""
        if not (self.points.t <= self.index).any():  # nobody to follow yet
            self.index, self.before = self.index + 1, image
        elif (flows := self._next(image)) is not None:
            known = np.isfinite(self.xy).all(1)
            trust = np.asarray(confidence(*flows), np.float32)[..., None]
            moved = self.xy + bilinear(flows[0], self.xy)
            agreed = np.minimum(self.confidence, bilinear(trust, self.xy)[:, 0])
            self.xy = np.where((known & np.isfinite(moved).all(1))[:, None], moved, self.xy)
            self.confidence = np.where(inside(self.xy, image), agreed, np.float32(0))
        new = self.points.t == self.index
        self.xy[new], self.confidence[new] = self.points.xy[new], 1
        return Followed(self.index, self.xy.copy(), self.confidence.copy())

    def state(self) -> dict[str, Tensor]:
        # A place that is not known yet is not a number, and weights files hold only numbers.
        return super().state() | {
            "xy": torch.tensor(np.nan_to_num(self.xy)),
            "known": torch.tensor(np.isfinite(self.xy).all(1)),
            "confidence": torch.tensor(self.confidence),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.xy = np.where(state["known"].numpy()[:, None], state["xy"].numpy(), np.float32(np.nan))
        self.confidence = state["confidence"].numpy()
