"""What moves by itself: the part of the flow that the camera's motion does not explain, as masks with lasting numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pixeltrail.errors import InputError
from pixeltrail.flow.camera import camera_flow
from pixeltrail.flow.classical import Flow, opencv
from pixeltrail.flow.propagate import carry
from pixeltrail.guided import GuidedFilter
from pixeltrail.types import Image

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int32]
EDGE = 0.4
"""The share of a thing's speed at which its edge lies: flow is blurred, and half-way down is where the edge was."""
PATIENCE = 15
"""For so many frames a thing that no longer moves is remembered where it stands."""


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """One frame's moving things. ``numbers`` (H, W) int32: 0 still, else the thing's number, counted from 1 over the
    whole video and never used again. ``evidence`` (H, W) float32: what is left of the flow without the camera's, 1 at
    the threshold."""

    index: int
    numbers: Numbers
    evidence: NDArray[np.float32]

    @property
    def ids(self) -> NDArray[np.uint8]:
        """The numbers as ids of a label map, 1 to 254; after 254 they begin anew."""
        return np.where(self.numbers > 0, (self.numbers - 1) % 254 + 1, 0).astype(np.uint8)

    def centres(self) -> dict[int, tuple[float, float]]:
        """The mean place (x, y) in pixels of each thing."""
        y, x = np.nonzero(self.numbers)
        names, of = np.unique(self.numbers[y, x], return_inverse=True)
        area = np.bincount(of, minlength=len(names))
        middle = (np.bincount(of, places) / np.maximum(area, 1) for places in (x, y))
        return {int(n): (float(cx), float(cy)) for n, cx, cy in zip(names, *middle, strict=True)}

    def sizes(self) -> dict[int, float]:
        """The side in pixels of a square as large as each thing."""
        names, area = np.unique(self.numbers[self.numbers > 0], return_counts=True)
        return {int(n): float(a) ** 0.5 for n, a in zip(names, area, strict=True)}


def segment_motion(
    frames: Iterable[Image],
    flow: Callable[[Image, Image], Flow],
    *,
    threshold: float = 0.8,
    smallest: float = 0.001,
) -> Iterator[Moving]:
    """What moves against the background in each frame (H, W, 3) uint8 RGB of a video.

    ``flow`` is estimated from each frame to the one before (from the first to the second). ``threshold`` is the speed in
    pixels a frame, relative to the background, from which something counts as moving; twice the noise of the background
    and 3 % of its own speed come on top. Things of less than ``smallest`` of the frame's area are left out. Two frames
    are held at a time. What moves must be less than about half of the picture, and a background of depth that the camera
    flies past looks as if it moved itself. Raises InputError, also without OpenCV.
    """
    if not 0 < threshold <= 100 or not 0 <= smallest < 1:
        wanted = "threshold lies in 0 to 100 pixels, smallest in 0 to 1"
        raise InputError(f"motion: threshold is {threshold}, smallest {smallest}; {wanted}")
    opencv()
    things = _Things()
    before: Image | None = None
    for index, image in enumerate(frames):
        if before is not None:
            back = flow(image, before)
            if index == 1:
                yield things.step(0, *_moving(before, flow(before, image), threshold, smallest), np.zeros_like(back))
            yield things.step(index, *_moving(image, back, threshold, smallest), back)
        before = image
    if before is not None and things.index < 0:  # the video is one picture
        still = np.zeros(before.shape[:2])
        yield Moving(0, still.astype(np.int32), still.astype(np.float32))


def _moving(image: Image, flow: Flow, threshold: float, smallest: float) -> tuple[Mask, NDArray[np.float32]]:
    """Where something moves, and the evidence."""
    height, width = image.shape[:2]
    camera = camera_flow(flow)
    if camera is None:
        return np.zeros((height, width), np.bool_), np.zeros((height, width), np.float32)
    rest = np.linalg.norm(np.nan_to_num(flow - camera), axis=-1)
    limit = threshold + 2 * float(np.median(rest)) + 0.03 * float(np.linalg.norm(camera, axis=-1).mean())
    evidence = (rest / limit).astype(np.float32)
    # The edges of flow are blurred, those of the picture are not.
    small = max(8, height // 4), max(8, width // 4)
    rgb = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1).unsqueeze(0) / 255
    upright = torch.from_numpy(evidence / _edges(evidence)).clamp(0, 2)[None, None]
    mask = (GuidedFilter(rgb, small)(F.interpolate(upright, small, mode="area")[0])[0] > 1).numpy()
    return _without_specks(mask, smallest * height * width), evidence


def _edges(evidence: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much evidence an edge has: 1, but about what moves fast, whose blur reaches far, a share of its own."""
    count, parts, stats, _ = opencv().connectedComponentsWithStats((evidence > 1).astype(np.uint8), connectivity=4)
    edge = np.ones(count, np.float32)
    for part in np.flatnonzero(stats[1:, 4] > 16) + 1:
        left, top, width, height, _ = stats[part].tolist()
        window = slice(top, top + height), slice(left, left + width)
        edge[part] = max(1, EDGE * np.percentile(evidence[window][parts[window] == part], 75))
    around: NDArray[np.float32] = edge[parts]
    return around


def _without_specks(mask: Mask, smallest: float) -> Mask:
    """Neither things nor holes of fewer pixels."""
    for kind in (True, False):
        _, parts, stats, _ = opencv().connectedComponentsWithStats((mask == kind).astype(np.uint8), connectivity=4)
        small = stats[:, 4] < smallest
        small[0] = False
        mask = mask ^ small[parts]
    return mask


class _Things:
    """Gives each connected part of a mask the number that the flow carries to it."""

    def __init__(self) -> None:
        self.index, self.last = -1, 0
        self.known: Numbers | None = None  # of the frame before, those just lost included
        self.seen: dict[int, int] = {}

    def step(self, index: int, mask: Mask, evidence: NDArray[np.float32], back: Flow) -> Moving:
        """``back`` is the flow to the frame before."""
        self.index = index
        carried = np.zeros(mask.shape, np.int32) if self.known is None else carry(self.known, back)
        numbers = self._numbered(mask, carried, back)
        present = set(np.unique(numbers).tolist()) - {0}
        self.seen = {n: t for n, t in self.seen.items() if index - t <= PATIENCE} | dict.fromkeys(present, index)
        lost = [n for n in self.seen if n not in present]
        self.known = np.where((numbers == 0) & np.isin(carried, lost), carried, numbers)
        return Moving(index, numbers, evidence)

    def _numbered(self, mask: Mask, carried: Numbers, back: Flow) -> Numbers:
        cv2 = opencv()
        reach = max(3, round(0.02 * min(mask.shape))) | 1  # across a gap so narrow, parts are one
        count, parts, stats, _ = cv2.connectedComponentsWithStats(
            cv2.dilate(mask.astype(np.uint8), np.ones((reach,) * 2))
        )
        parts[~mask] = 0
        sizes, area = np.bincount(parts.ravel(), minlength=count), np.bincount(carried.ravel())
        numbers = np.zeros(mask.shape, np.int32)
        largest: dict[int, int] = {}  # the largest part of each number so far
        for part in sorted(range(1, count), key=lambda p: -sizes[p]):
            left, top, width, height, _ = stats[part].tolist()
            window, size = (slice(top, top + height), slice(left, left + width)), int(sizes[part])
            here, before = parts[window] == part, carried[window]
            within = np.bincount(before[here], minlength=1)
            within[0] = 0
            # What keeps half of itself in the part, or fills half of the part, is in it; several may have met.
            names = [n for n in np.flatnonzero(within).tolist() if 2 * within[n] >= min(area[n], size)]
            # A piece that comes off is another thing, unless it is small.
            names = [n for n in names if size < largest.get(n, 0) / 4 or n not in largest]
            if not names:
                self.last += 1
                names = [self.last]
            elif len(names) > 1:
                lead = max(names, key=within.item)
                met = [n for n in names if 6 * within[n] >= within[lead]]  # what is smaller is a piece of it
                names = _apart({n: back[window][here & (before == n)].mean(0) for n in met}, lead)
            for name in names:
                largest.setdefault(name, size)
            own = np.full(here.shape, names[0], np.int32) if len(names) == 1 else _nearest(before, names)
            numbers[window][here] = own[here]
        return numbers


def _apart(motions: dict[int, NDArray[np.float32]], lead: int) -> list[int]:
    """Of things that have met, the one called ``lead`` and those that do not move as it does."""
    own = motions[lead]
    unlike = max(1.0, 0.25 * float(np.linalg.norm(own)))
    return [lead, *(n for n, motion in motions.items() if np.linalg.norm(motion - own) > unlike)]


def _nearest(carried: Numbers, names: list[int]) -> Numbers:
    """For each pixel the one of ``names`` whose carried pixels are nearest."""
    cv2 = opencv()
    far = [cv2.distanceTransform((carried != n).astype(np.uint8), cv2.DIST_L2, 3) for n in names]
    nearest: Numbers = np.array(names, np.int32)[np.argmin(far, 0)]
    return nearest
