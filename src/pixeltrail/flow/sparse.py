"""Flow of chosen places only, by OpenCV (the extra ``[classical]``): corners, Lucas-Kanade, template matching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.flow.classical import grey_frames, opencv
from pixeltrail.types import Image

Places = NDArray[np.float32]
"""(P, 2) as (x, y) in pixels."""


def corners(image: Image, *, count: int = 500, quality: float = 0.01, distance: float = 7.0, block: int = 7) -> Places:
    """The places of ``image`` (H, W, 3) uint8 RGB that can be followed best, strongest first: (P, 2), P <= ``count``.

    Shi & Tomasi, *Good Features to Track*, CVPR 1994: where the smaller eigenvalue of the gradients' matrix over
    ``block`` x ``block`` pixels is at least ``quality`` times the largest one in the image, and nothing stronger is nearer
    than ``distance``. Raises ShapeError, and InputError without OpenCV or for a setting out of range.
    """
    cv2 = opencv()
    if count < 1 or not 0 < quality <= 1 or distance < 0 or not 1 <= block <= 255:
        raise InputError(
            "corners: expected count >= 1, quality in 0 to 1, distance >= 0 and block in 1 to 255, "
            f"got {count}, {quality}, {distance} and {block}"
        )
    found = cv2.goodFeaturesToTrack(*grey_frames(cv2, image), count, quality, distance, blockSize=block)
    return np.zeros((0, 2), np.float32) if found is None else np.asarray(found, np.float32).reshape(-1, 2)


def lucas_kanade(
    first: Image,
    second: Image,
    points: Places,
    *,
    window: int = 21,
    levels: int = 3,
    iterations: int = 30,
    epsilon: float = 0.01,
    least_eigenvalue: float = 1e-4,
    round_trip: float | None = 1.0,
) -> tuple[Places, NDArray[np.bool_]]:
    """Where ``points`` (P, 2) of ``first`` lie in ``second``, both (H, W, 3) uint8 RGB: (P, 2), and (P,) bool, if found.

    Lucas & Kanade, IJCAI 1981, in a pyramid of ``levels`` above the image (Bouguet 2000), on ``window`` x ``window``
    pixels about each point. Lost is a point whose window has no texture (``least_eigenvalue``) or that leaves the frame
    and, unless ``round_trip`` is None, one that, followed back to the first frame, ends farther than so many pixels from
    where it began. Its place is then where it was last. Raises ShapeError, and InputError without OpenCV or for a setting
    out of range.
    """
    cv2 = opencv()
    a, b = grey_frames(cv2, first, second)
    points = np.ascontiguousarray(points, np.float32)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ShapeError(f"lucas_kanade: expected finite points (P, 2), got {points.shape}")
    if not 3 <= window <= 255 or not 0 <= levels <= 16 or iterations < 1 or epsilon < 0:
        raise InputError(
            "lucas_kanade: expected window in 3 to 255, levels in 0 to 16, iterations >= 1 and epsilon >= 0, "
            f"got {window}, {levels}, {iterations} and {epsilon}"
        )
    if len(points) == 0:
        return points, np.zeros(0, np.bool_)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, epsilon)
    how = {"winSize": (window, window), "maxLevel": levels, "criteria": stop, "minEigThreshold": least_eigenvalue}
    there, status, _ = cv2.calcOpticalFlowPyrLK(a, b, points[:, None], None, **how)
    places, found = np.asarray(there, np.float32).reshape(-1, 2), np.asarray(status).ravel() == 1
    found &= _within(points, a.shape) & _within(places, a.shape)
    if round_trip is not None:
        back, status, _ = cv2.calcOpticalFlowPyrLK(b, a, places[:, None], None, **how)
        off = np.linalg.norm(np.asarray(back).reshape(-1, 2) - points, axis=1)
        found &= (np.asarray(status).ravel() == 1) & (off < round_trip)
    return np.where(found[:, None], places, points), found


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Where a template was found. ``x``, ``y``: its top left pixel, to a fraction of one; ``score`` of the best whole
    place; ``scores`` (H - h + 1, W - w + 1) float32 of all places."""

    x: float
    y: float
    score: float
    scores: NDArray[np.float32]


def match_template(image: Image, template: Image, *, centred: bool = False) -> Match:
    """The place in ``image`` (H, W, 3) most like ``template`` (h, w, 3), both uint8 RGB, by normalised cross-correlation.

    The score is the cosine between template and window, at most 1; brightness times a number leaves it as it is. With
    ``centred`` the mean of either is subtracted first, so that added brightness does not count either, and -1 is the
    negative. A parabola through the best score and its neighbours gives the fraction of a pixel. This is what a
    correlation layer computes, on features in place of colours.
    Raises ShapeError, and InputError without OpenCV or for a template that nothing can be compared with.
    """
    cv2 = opencv()
    for name, array in (("image", image), ("template", template)):
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
            raise ShapeError(f"match_template: expected {name} (H, W, 3) uint8, got {array.dtype} {array.shape}")
    if template.shape[0] > image.shape[0] or template.shape[1] > image.shape[1]:
        raise ShapeError(
            f"match_template: the template {template.shape[:2]} is larger than the image {image.shape[:2]}"
        )
    if not template.any() or (centred and (template == template[0, 0]).all()):
        raise InputError("match_template: the template is of one colour, which is nowhere or everywhere; take another")
    kind = cv2.TM_CCOEFF_NORMED if centred else cv2.TM_CCORR_NORMED
    both = (np.ascontiguousarray(array) for array in (image, template))
    scores = np.nan_to_num(np.asarray(cv2.matchTemplate(*both, kind), np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    y, x = (int(i) for i in np.unravel_index(scores.argmax(), scores.shape))
    return Match(x + _vertex(scores[y], x), y + _vertex(scores[:, x], y), float(scores[y, x]), scores)


def _vertex(scores: NDArray[np.float32], i: int) -> float:
    """From the largest score, ``scores[i]``, to the vertex of the parabola through it and its neighbours: -½ to ½."""
    if not 0 < i < len(scores) - 1:
        return 0.0
    before, here, after = (float(s) for s in scores[i - 1 : i + 2])
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def _within(points: Places, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    low, high = (points >= 0).all(1), (points <= np.array([shape[1] - 1, shape[0] - 1])).all(1)
    return np.logical_and(low, high)
