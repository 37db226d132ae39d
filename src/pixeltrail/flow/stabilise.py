"""A steady camera out of a shaken one: each frame is moved to where a smooth path would have seen it.

Matsushita et al., *Full-Frame Video Stabilization with Motion Inpainting*, PAMI 2006, section 3: the correction of a
frame is a Gaussian mean of the motions to its neighbours. It needs no path from the first frame on, so nothing
drifts and the past can be forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from pixeltrail.errors import InputError
from pixeltrail.flow.camera import Similarity, camera_motion
from pixeltrail.flow.classical import Flow
from pixeltrail.geometry import pixel_grid, sample
from pixeltrail.types import Image


def stabilise(
    frames: Iterable[Image], flow: Callable[[Image, Image], Flow], *, smooth: float = 10.0, zoom: float = 1.1
) -> Iterator[Image]:
    """The same frames (H, W, 3) uint8 RGB, as many and as large, seen by a steady camera.

    ``flow(a, b)`` tells the camera's motion (see `camera_motion`). ``smooth`` is the standard deviation, in frames, of
    the Gaussian over the path: what is slower than that is meant, and kept. Three times as many frames are held ahead,
    whatever the length. ``zoom`` enlarges the picture so that its border need not be seen; a correction for which that
    is too little is made smaller. At 1 nothing is cut off or held back, and the border's pixels are repeated.
    Raises InputError for settings out of range, and what ``flow`` raises.
    """
    if not 0 < smooth <= 1000 or not 1 <= zoom <= 4:
        raise InputError(f"stabilise: smooth is {smooth}, zoom {zoom}; smooth lies in 0 to 1000 frames, zoom in 1 to 4")
    held: deque[Image] = deque()

    def steps() -> Iterator[Similarity]:
        for before, image in pairwise(_kept(frames, held)):
            yield camera_motion(flow(before, image))[0]

    for correction in corrections(steps(), smooth):
        if held:  # else there was not one frame
            yield moved(held.popleft(), correction, zoom)


def _kept(frames: Iterable[Image], held: deque[Image]) -> Iterator[Image]:
    for image in frames:
        held.append(image)
        yield image


def corrections(steps: Iterable[Similarity], smooth: float) -> Iterator[Similarity]:
    """From each frame to where the smooth path sees it: N motions from a frame to the next give N + 1 corrections."""
    reach = max(1, round(3 * smooth))
    coming = iter(steps)
    past: deque[Similarity] = deque(maxlen=reach)
    future = deque(islice(coming, reach))
    while True:
        yield _smoothed(past, future, smooth)
        if not future:
            return
        past.append(future.popleft())
        future.extend(islice(coming, 1))


def _smoothed(past: Iterable[Similarity], future: Iterable[Similarity], smooth: float) -> Similarity:
    """Where a line through the motions to the neighbours, fitted with Gaussian weights, passes the frame itself."""
    # Departure: the paper's mean is this line as long as there are as many neighbours before as after. At the ends of the
    # film, where there are not, the mean of a steady pan would be off, and the line is not.
    before = list(accumulate((step.inverse() for step in reversed(list(past))), Similarity.then))
    after = list(accumulate(future, Similarity.then))
    motions = np.array([*before[::-1], Similarity(), *after])
    k = np.arange(-len(before), len(after) + 1)
    weight = np.exp(-0.5 * (k / smooth) ** 2)
    total, first, second = (float((weight * k**n).sum()) for n in range(3))
    weight = weight * (second - first * k) / max(total * second - first**2, 1e-12)
    turn, shift = weight @ motions if len(k) > 1 else motions[0]
    return Similarity(complex(turn), complex(shift))


def moved(image: Image, motion: Similarity, zoom: float = 1.0) -> Image:
    """``image`` with what was at z now at motion(z), then enlarged about its middle; as `stabilise` does it."""
    height, width = image.shape[:2]
    middle = complex(width - 1, height - 1) / 2
    corners = np.array([0, width - 1, 1j * (height - 1), complex(width - 1, height - 1)])
    back = motion.inverse()
    if zoom > 1:
        back = _within(back, middle, zoom, corners)
    grid = pixel_grid(height, width).double()
    z = torch.complex(grid[0], grid[1])
    z = back.turn * ((z - middle) / zoom + middle) + back.shift
    xy = torch.stack((z.real, z.imag)).unsqueeze(0).float()
    rgb = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1).unsqueeze(0)
    seen = sample(rgb, xy, padding="border")[0].permute(1, 2, 0)
    return seen.round_().clamp_(0, 255).to(torch.uint8).numpy()


def _within(back: Similarity, middle: complex, zoom: float, corners: NDArray[np.complex128]) -> Similarity:
    """As much of ``back`` as keeps the corners of the enlarged picture inside the frame."""
    inner = (corners - middle) / zoom + middle
    go = back(inner) - inner
    far = corners[-1]
    share = 1.0
    for start, step, end in ((inner.real, go.real, far.real), (inner.imag, go.imag, far.imag)):
        room = np.where(step > 0, end - start, start)
        share = min(share, float((room / np.maximum(np.abs(step), 1e-9)).min()))
    return Similarity(1 + share * (back.turn - 1), share * back.shift)
