"""Tracking one video frame by frame: what is remembered between frames, and how values become masks and points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.appearance import Appearance
from pixeltrail.boxes import propagate_in_boxes
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.geometry import cells, cells_to_pixels, labels_to_cells, pixel_grid
from pixeltrail.guided import GuidedFilter
from pixeltrail.memory import MemoryBank
from pixeltrail.types import VOID, Image, LabelMap, Points

if TYPE_CHECKING:  # the tracker makes sessions; they only hold it
    from pixeltrail.tracker import Tracker

CHANNELS_AT_ONCE = 16
MAX_POINTS = 2048
ENLARGED = 2_000_000
"""Pixels beyond which a frame is not enlarged."""


@dataclass(frozen=True, slots=True, eq=False)
class Tracked:
    """One frame's result. ``ids`` (H, W) uint8; ``confidence`` (H, W) float32 in [0, 1]; ``objects`` id -> confidence.

    A pixel's confidence is one minus the entropy of the labels copied to it, in bits, cut at zero: the places that it
    was matched to agree (1) or contradict each other (0). An object's is the mean over its pixels, 0 where it is gone.
    """

    index: int
    ids: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    objects: dict[int, float]


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """One frame's points. ``xy`` (P, 2) float32 in pixels, NaN before a point's own frame; ``confidence`` (P,) in [0, 1]:
    the share of the copied mass that lies within two cells of the answer."""

    index: int
    xy: NDArray[np.float32]
    confidence: NDArray[np.float32]


class Session:
    """What masks and points share: frames in, features and memory."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker.eval()
        self.bank = MemoryBank(tracker.protocol.policy)
        self.index = -1
        self.born = 0  # the frame from which memory counts
        self.ids: list[int] = []  # the object of each value channel; channel 0 is the background
        self.size: tuple[int, int] | None = None
        self.rgb = torch.empty(0)  # the current frame (1, 3, H, W) in [0, 1]
        self.mean = torch.empty(0)  # the first frame's mean embedding (1, C, 1, 1), if the protocol takes it off
        self.basis = torch.empty(0)  # what is compared of an embedding (k, C, 1, 1), if that is not all

    def features(self, image: Image) -> tuple[Tensor, tuple[int, int]]:
        """What is compared, (1, C, h, w), and the size (H', W') of the picture that was embedded."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ShapeError(f"frame {self.index}: expected (H, W, 3) uint8 RGB, got {image.dtype} {image.shape}")
        if self.size is None:
            self.size = image.shape[0], image.shape[1]
        if image.shape[:2] != self.size:
            raise ShapeError(
                f"frame {self.index}: expected the first frame's size {self.size[1]}x{self.size[0]}, "
                f"got {image.shape[1]}x{image.shape[0]}"
            )
        # In this order the batch's stride is a whole picture's and torch sees channels last: pools and norms are faster so.
        rgb = torch.from_numpy(np.ascontiguousarray(image)).to(self.tracker.device).unsqueeze(0).permute(0, 3, 1, 2)
        self.rgb = rgb = rgb.float() / 255
        work = self.work_size()
        if work != self.size:
            rgb = F.interpolate(rgb, work, mode="bilinear", antialias=True, align_corners=False)
        key = self.tracker.embed(rgb).float()
        if self.tracker.protocol.centred:
            if not len(self.mean):
                self.mean = key.mean((2, 3), keepdim=True)
            key = key - self.mean
        count = self.tracker.protocol.components
        if count is not None and count < key.shape[1]:
            if not len(self.basis):
                rows = self.tracker.protocol.affinity.unit(key[0].flatten(1), 0)
                self.basis = principal(rows, count)[:, :, None, None]
            key = F.conv2d(key, self.basis)
        return key, work

    def state(self) -> dict[str, Tensor]:
        """Everything that a later ``load_state`` needs to go on as if nothing had happened."""
        own = {"ids": torch.tensor(self.ids, dtype=torch.int64), "clock": torch.tensor([self.index, self.born])}
        own |= {"size": torch.tensor(self.size or (0, 0)), "mean": self.mean, "basis": self.basis}
        return own | {f"bank.{k}": v for k, v in self.bank.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` gave, possibly in another process."""
        self.ids = [int(i) for i in state["ids"]]
        self.index, self.born = (int(i) for i in state["clock"])
        height, width = (int(i) for i in state["size"])
        self.size = (height, width) if height else None
        self.mean, self.basis = (state[name].to(self.tracker.device) for name in ("mean", "basis"))
        self.bank.load_state({k.removeprefix("bank."): v for k, v in state.items() if k.startswith("bank.")})

    def work_size(self) -> tuple[int, int]:
        """Size (H', W') at which frames are embedded: the protocol's, but at least four cells a side, and never so much
        enlarged that a sliver of a frame becomes a giant."""
        assert self.size is not None
        height, width = self.size
        wanted = max(self.tracker.protocol.size or min(self.size), 4 * self.tracker.stride)
        scale = wanted / min(self.size)
        if scale > 1:
            scale = min(scale, max(1.0, (ENLARGED / (height * width)) ** 0.5))
        return max(1, round(height * scale)), max(1, round(width * scale))


class Live(Session):
    """Masks, frame by frame. Holds the remembered frames only, whatever the length of the video."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(tracker)
        self.appearance = Appearance(tracker.protocol.appearance)

    @torch.inference_mode()
    def step(self, image: Image, labels: LabelMap | None = None) -> Tracked:
        """Next frame (H, W, 3) uint8 RGB, with its labels where the user has some.

        The objects in ``labels`` are taken as given and the frame is remembered for good; objects that it does not name
        go on being tracked outside it; void pixels (255) are left to the tracker.
        """
        self.index += 1
        if labels is not None and labels.size != image.shape[:2]:
            raise ShapeError(
                f"frame {self.index}: labels are {labels.size[1]}x{labels.size[0]}, the frame is "
                f"{image.shape[1]}x{image.shape[0]}; resize them with nearest neighbour"
            )
        if not self.ids and (labels is None or not labels.objects):
            empty = np.zeros(image.shape[:2], np.uint8)
            return Tracked(self.index, empty, np.zeros(empty.shape, np.float32), {})
        if not self.ids:
            self.born = self.index
        key, work = self.features(image)
        tracked = self._tracked(key)
        if labels is None:
            assert tracked is not None
            values = tracked
            ids, confidence = self._decided(values, work)
        else:
            known = len(self.ids)
            values, others = self._merged(tracked, labels, work)
            if tracked is not None and len(self.ids) > known:
                self._look_back(key, values, known)
            given = labels.ids != VOID if tracked is None else np.isin(labels.ids, labels.objects)
            ids, confidence = labels.ids.copy(), np.ones(labels.size, np.float32)
            if not given.all():
                found, sure = self._decided(others, work)
                ids, confidence = np.where(given, ids, found), np.where(given, confidence, sure)
        if self.tracker.protocol.keep == "hard":
            values = self._cells_of(ids, work, hard=True)
        now = self.index - self.born
        self.bank.write(now, key, values)
        self.appearance.learn(key, values, labelled=labels is not None)
        if labels is not None and now > 0:  # the first labelled frame is kept or not as the policy says
            self.bank.pin(now)
        return Tracked(self.index, ids, confidence, _per_object(ids, confidence, self.ids))

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"appearance.{k}": v for k, v in self.appearance.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        own = {k.removeprefix("appearance."): v for k, v in state.items() if k.startswith("appearance.")}
        self.appearance.load_state(own, self.tracker.device)

    def _tracked(self, key: Tensor) -> Tensor | None:
        now = self.index - self.born
        if now == 0:
            return None
        times, keys, values = self.bank.read(now)
        if self.tracker.protocol.boxes:
            values = propagate_in_boxes(self.tracker.protocol.affinity, key, keys, values)
        else:
            values = self.tracker.propagate(key, times, keys, values, now)
        values = self.appearance.weigh(key, values)
        if self.tracker.protocol.stretch:
            low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
            values = torch.where(high > low, (values - low) / (high - low).clamp_min(1e-12), values)
        return values

    def _merged(self, tracked: Tensor | None, labels: LabelMap, work: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Values (1, K, h, w) in which the objects of ``labels`` are as given, and what else is there but for them."""
        new = [i for i in labels.objects if i not in self.ids]
        self.ids += new
        ids = np.where(labels.ids == VOID, 0, labels.ids).astype(np.uint8)
        given = self._cells_of(ids, work, hard=False)
        if tracked is None:
            return given, given
        others = F.pad(tracked, (0, 0, 0, 0, 0, len(new)))
        named = [1 + self.ids.index(i) for i in labels.objects]
        void = torch.from_numpy(_nearest((labels.ids == VOID).astype(np.uint8), work)).to(others.device)
        others[:, named] *= labels_to_cells(void, 2, self.tracker.stride)[1]
        free = 1 - given[:, 1:].sum(1, keepdim=True)
        given[:, 0] = 0
        return given + others / others.sum(1, keepdim=True).clamp_min(1e-6) * free, others

    def _look_back(self, key: Tensor, values: Tensor, known: int) -> None:
        """What is named only now passed for background in the remembered frames, all of which would speak against it. So they
        are given the objects beyond the ``known`` ones by the same copying, backward in time, and only where they hold
        background: what the user has said of other objects stays."""
        now = self.index - self.born
        self.appearance = Appearance(self.tracker.protocol.appearance)
        for t, old, held in self.bank.remembered():
            found = self.tracker.propagate(old, [now], key.unsqueeze(1), values.unsqueeze(1), t)[:, 1 + known :]
            held = F.pad(held, (0, 0, 0, 0, 0, 1 + known - held.shape[1]))
            taken = held[:, :1] * found
            held = torch.cat((held[:, :1] - taken.sum(1, keepdim=True), held[:, 1:], taken), 1)
            self.bank.write(t, old, held)
            self.appearance.learn(old, held, labelled=t == 0 or self.bank.is_pinned(t))

    def _cells_of(self, ids: NDArray[np.uint8], work: tuple[int, int], *, hard: bool) -> Tensor:
        """Ids (H, W) -> values (1, K, h, w): each cell's shares, or the class of the pixel that it sits on."""
        channel = np.zeros(256, np.uint8)
        channel[self.ids] = np.arange(1, len(self.ids) + 1)
        small = torch.from_numpy(_nearest(channel[ids], work)).to(self.tracker.device)
        stride, classes = self.tracker.stride, len(self.ids) + 1
        if hard:
            return F.one_hot(small[::stride, ::stride].long(), classes).movedim(-1, 0).unsqueeze(0).float()
        return labels_to_cells(small, classes, stride).unsqueeze(0)

    def _decided(self, values: Tensor, work: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Arg-max at the video's size, a few channels at a time, and the confidence."""
        share = values.clamp_min(0)
        share = share / share.sum(1, keepdim=True).clamp_min(1e-12)
        guided = None
        if self.tracker.protocol.guided:
            small = (max(1, 2 * work[0] // self.tracker.stride), max(1, 2 * work[1] // self.tracker.stride))
            guided, values = GuidedFilter(self.rgb, small), share
        best, winner = torch.zeros(()), torch.zeros((), dtype=torch.long)
        for first in range(0, values.shape[1], CHANNELS_AT_ONCE):
            some = values[:, first : first + CHANNELS_AT_ONCE]
            pixels = guided(self._resized(some, work, guided.small)[0]) if guided else self._to_pixels(some, work)[0]
            top, arg = pixels.max(0)
            winner = torch.where(top > best, arg + first, winner) if first else arg
            best = torch.maximum(best, top) if first else top
        table = np.array([0, *self.ids], np.uint8)
        bits = -(share * share.clamp_min(1e-12).log2()).sum(1, keepdim=True)
        confidence = self._to_pixels((1 - bits).clamp_(0, 1), work)[0, 0]
        return table[winner.cpu().numpy()], confidence.cpu().numpy()

    def _to_pixels(self, values: Tensor, work: tuple[int, int]) -> Tensor:
        assert self.size is not None
        return self._resized(values, work, self.size)

    def _resized(self, values: Tensor, work: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Values on the cells of the embedded picture -> on a picture of ``size`` that shows the same."""
        pixels = cells_to_pixels(values, work, self.tracker.stride)
        return pixels if work == size else F.interpolate(pixels, size, mode="bilinear", align_corners=False)


class PointSession(Session):
    """Points, frame by frame: each is a small Gaussian on the feature grid, carried like a soft label.

    The answer is the mean of the ``TOP`` heaviest cells (Jabri et al. 2020; Wang et al. 2019 for JHMDB).
    """

    SIGMA = 0.5
    TOP = 5

    def __init__(self, tracker: Tracker, points: Points) -> None:
        super().__init__(tracker)
        if len(points.xy) > MAX_POINTS:
            raise InputError(f"follow: {len(points.xy)} points at once; give at most {MAX_POINTS}, or compute flow")
        self.points = points
        self.born = int(points.t.min())

    @torch.inference_mode()
    def step(self, image: Image) -> Followed:
        """Next frame (H, W, 3) uint8 RGB."""
        self.index += 1
        xy = np.full((len(self.points.xy), 2), np.nan, np.float32)
        confidence = np.zeros(len(xy), np.float32)
        if self.index < self.born:
            return Followed(self.index, xy, confidence)
        key, work = self.features(image)
        assert self.size is not None
        scale = np.array([work[1] / self.size[1], work[0] / self.size[0]], np.float32) / self.tracker.stride
        h, w = cells(work, self.tracker.stride)
        now = self.index - self.born
        values = torch.zeros(1, len(xy), h, w, device=key.device)
        if now > 0:
            times, keys, past = self.bank.read(now)
            values = self.tracker.propagate(key, times, keys, past, now)
            values = values / values.amax((2, 3), keepdim=True).clamp_min(1e-12)
            where, share = _centres(values[0], self.TOP)
            started = self.points.t < self.index
            # Half a pixel: ``size`` changes keep the borders of pixels, not their centres, in place.
            half = (scale * self.tracker.stride - 1) / 2 / self.tracker.stride
            xy[started] = ((where.cpu().numpy() - half) / scale)[started]
            confidence[started] = share.cpu().numpy()[started]
        fresh = np.flatnonzero(self.points.t == self.index)
        if len(fresh):
            xy[fresh], confidence[fresh] = self.points.xy[fresh], 1
            half = (scale * self.tracker.stride - 1) / 2 / self.tracker.stride
            at = torch.from_numpy(xy[fresh] * scale + half).to(key.device)
            values[0, fresh] = _gaussians(at, h, w, self.SIGMA)
        self.bank.write(now, key, values)
        if len(fresh) and now > 0:
            self.bank.pin(now)
        return Followed(self.index, xy, confidence)


def _gaussians(xy: Tensor, h: int, w: int, sigma: float) -> Tensor:
    distance = (pixel_grid(h, w, device=xy.device) - xy.view(-1, 2, 1, 1)).square().sum(1)
    distance = distance - distance.amin((1, 2), keepdim=True)  # peak 1 also for points between cells
    return torch.exp(-distance / (2 * sigma**2))


def _centres(maps: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """(P, h, w) -> mean position (P, 2) of the heaviest cells as x, y, and the mass within two cells of it (P,)."""
    _, h, w = maps.shape
    weight, index = maps.flatten(1).topk(min(top, h * w), dim=1)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-12)
    x, y = (index % w).float(), torch.div(index, w, rounding_mode="floor").float()
    centre = torch.stack(((weight * x).sum(1), (weight * y).sum(1)), 1)
    near = (pixel_grid(h, w, device=maps.device) - centre.view(-1, 2, 1, 1)).abs().amax(1) <= 2
    return centre, (maps * near).sum((1, 2)) / maps.sum((1, 2)).clamp_min(1e-12)


def principal(rows: Tensor, count: int) -> Tensor:
    """The ``count`` < C directions that keep most of the dot products of ``rows`` (C, N): orthonormal, (count, C)."""
    second = (rows @ rows.T).cpu().double()  # of a plain picture: almost all eigenvalues are nothing but rounding
    directions: Tensor = torch.linalg.eigh(second).eigenvectors
    return directions[:, -count:].T.to(rows).contiguous()


def _per_object(ids: NDArray[np.uint8], confidence: NDArray[np.float32], objects: list[int]) -> dict[int, float]:
    count = np.bincount(ids.ravel(), minlength=256)
    total = np.bincount(ids.ravel(), weights=confidence.ravel(), minlength=256)
    return {i: float(total[i] / count[i]) if count[i] else 0.0 for i in objects}


def _nearest(ids: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Nearest-neighbour resize of (H, W) ids, which are never blended."""
    if ids.shape == size:
        return ids
    rows = ((np.arange(size[0]) + 0.5) * ids.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * ids.shape[1] / size[1]).astype(np.intp)
    resized: NDArray[np.uint8] = ids[rows[:, None], columns[None]]
    return resized
