"""What the camera did between two frames: the motion that most of a flow field agrees on.

A similarity (shift, turn, zoom) is one line of complex numbers: z = x + iy goes to ``turn · z + shift``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import ShapeError
from pixeltrail.flow.classical import Flow

TRIALS = 200
"""Pairs of places that RANSAC tries: if only a third of them is background, 1 - (1 - 1/9)^200 finds it."""
SAMPLES = 1500
NEAR = 1.0
"""Pixels from a motion within which a place agrees with it."""
FEWEST = 0.2
"""A motion that less of the frame agrees with is none: the film was cut, or nothing could be seen."""
Complex = NDArray[np.complex128]
Field = NDArray[np.float64]


class Similarity(NamedTuple):
    """z -> turn · z + shift, z = x + iy in pixels; |turn| is the zoom, its angle the turn from x towards y."""

    turn: complex = 1
    shift: complex = 0

    def __call__(self, z: Complex) -> Complex:
        return self.turn * z + self.shift

    def then(self, other: Similarity) -> Similarity:
        """This motion and after it ``other``."""
        return Similarity(other.turn * self.turn, other.turn * self.shift + other.shift)

    def inverse(self) -> Similarity:
        return Similarity(1 / self.turn, -self.shift / self.turn)


def camera_motion(flow: Flow, *, seed: int = 0) -> tuple[Similarity, float]:
    """The similarity that most of ``flow`` (H, W, 2) follows, and the share of places that do, within ``NEAR`` pixels.

    RANSAC (Fischler & Bolles 1981) over pairs of places on a grid, then least squares over those that agree, with
    weights that fall with their distance from it. Unknown flow (NaN, or longer than the frame) does not count. Where
    less than ``FEWEST`` agree, as at a cut, the motion is none at all. Raises ShapeError.
    """
    z, w = _places(flow)
    if len(z) < 3:
        return Similarity(), 0.0
    rng = np.random.default_rng(seed)
    i, j = rng.integers(0, len(z), (2, TRIALS))
    apart = i != j
    i, j = i[apart], j[apart]
    turns = (w[i] - w[j]) / (z[i] - z[j])
    shifts = w[i] - turns * z[i]
    gap = np.abs(turns[:, None] * z + shifts[:, None] - w)
    best = int(np.minimum(gap, NEAR).sum(1).argmin())
    motion = Similarity(complex(turns[best]), complex(shifts[best]))
    for _ in range(10):
        motion = _fitted(z, w, _weights(np.abs(motion(z) - w)))
    share = float((np.abs(motion(z) - w) < NEAR).mean())
    return (motion, share) if share >= FEWEST and abs(motion.turn) > 0.1 else (Similarity(), share)


def camera_flow(flow: Flow, *, seed: int = 0) -> Flow | None:
    """The flow (H, W, 2) that the whole frame would have if only the camera moved.

    From the similarity of `camera_motion`, fitted on to the motion of a plane seen by a turning and moving camera, whose
    flow is quadratic in x and y with eight numbers (Bergen et al., *Hierarchical Model-Based Motion Estimation*, 1992).
    None where the camera's motion cannot be told. Raises ShapeError.
    """
    height, width = flow.shape[:2]
    motion, share = camera_motion(flow, seed=seed)
    if share < FEWEST:
        return None
    z, w = _places(flow)
    middle, size = complex(width - 1, height - 1) / 2, max(height, width) / 2
    rows = _plane((z - middle) / size)
    wanted = (w - z).view(np.float64)  # dx, dy in turns
    guess = motion(z) - z
    for _ in range(8):
        weight = np.repeat(_weights(np.abs(w - z - guess)), 2)[:, None]
        eight = np.linalg.solve(rows.T @ (rows * weight) + 1e-9 * np.eye(8), rows.T @ (wanted * weight[:, 0]))
        guess = (rows @ eight).view(np.complex128)
    y, x = np.ogrid[:height, :width]
    x, y = ((n - m).astype(np.float32) / np.float32(size) for n, m in ((x, middle.real), (y, middle.imag)))
    a = eight.astype(np.float32)
    right = a[0] + a[1] * x + a[2] * y + x * (a[6] * x + a[7] * y)
    down = a[3] + a[4] * x + a[5] * y + y * (a[6] * x + a[7] * y)
    return np.stack([right, down], -1)


def _places(flow: Flow) -> tuple[Complex, Complex]:
    """Where a grid of places lies, and where the flow takes them; without those of unknown flow."""
    if flow.ndim != 3 or flow.shape[2] != 2:
        raise ShapeError(f"camera motion: expected a flow (H, W, 2), got {flow.shape}")
    height, width = flow.shape[:2]
    step = max(1, round((height * width / SAMPLES) ** 0.5))
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    moves = flow[y, x].astype(np.float64)
    known = (np.abs(moves) < max(height, width)).all(-1)  # false for NaN
    z: Complex = (x + 1j * y)[known]
    return z, z + moves[known] @ np.array([1, 1j])


def _weights(off: Field) -> Field:
    """Geman and McClure's weights of distances in pixels, at the spread of those that are no outliers."""
    near = off[off < 3 * NEAR]
    scale = 2 * float(np.clip(1.4826 * np.median(near), 0.05, NEAR)) if len(near) else 2 * NEAR
    return 1 / (1 + (off / scale) ** 2) ** 2


def _fitted(z: Complex, w: Complex, weight: Field) -> Similarity:
    """Weighted least squares: the turn is the projection of the centred goals on the centred places."""
    total = weight.sum()
    a, b = weight @ z / total, weight @ w / total
    turn = (weight * np.conj(z - a)) @ (w - b) / max(float(weight @ np.abs(z - a) ** 2), 1e-12)
    return Similarity(complex(turn), complex(b - turn * a))


def _plane(z: Complex) -> Field:
    """(2N, 8): two rows for each place, its dx and dy by the eight numbers of a plane's motion."""
    x, y = z.real, z.imag
    one, none = np.ones_like(x), np.zeros_like(x)
    right = np.stack([one, x, y, none, none, none, x * x, x * y], 1)
    down = np.stack([none, none, none, one, x, y, x * y, y * y], 1)
    return np.stack([right, down], 1).reshape(-1, 8)
