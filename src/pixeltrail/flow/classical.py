"""Dense optical flow without weights, by OpenCV (the extra ``[classical]``; imported when a function is called)."""

from __future__ import annotations

from difflib import get_close_matches
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError, ShapeError, UnknownNameError
from pixeltrail.types import Image

Flow = NDArray[np.float32]
"""(H, W, 2) float32 in pixels: dx to the right, dy down; first(x) ~ second(x + flow(x))."""

_DIS_PRESETS = ("ultrafast", "fast", "medium")
_DIS_SIDE = 32  # OpenCV's DIS crashes the process on some smaller frames (12x40, 16x200)


def farneback(
    first: Image,
    second: Image,
    *,
    pyr_scale: float = 0.5,
    levels: int = 3,
    winsize: int = 15,
    iterations: int = 3,
    poly_n: int = 5,
    poly_sigma: float = 1.2,
    gaussian: bool = False,
) -> Flow:
    """Flow from ``first`` to ``second``, both (H, W, 3) uint8 RGB, by polynomial expansion.

    Farnebäck, *Two-Frame Motion Estimation Based on Polynomial Expansion*, SCIA 2003. ``pyr_scale`` shrinks each of
    the ``levels`` of the pyramid; ``winsize`` pixels are averaged, by a box or with ``gaussian`` by a Gaussian;
    ``poly_n`` and ``poly_sigma`` size the neighbourhood of the expansion in pixels.
    Raises ShapeError, and InputError without OpenCV or for a setting that OpenCV refuses.
    """
    cv2 = _opencv()
    grey = _grey(cv2, first, second)
    flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if gaussian else 0
    settings = (pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, flags)
    try:
        return np.asarray(cv2.calcOpticalFlowFarneback(*grey, None, *settings), np.float32)
    except cv2.error as error:
        raise InputError(f"farneback: OpenCV refused the settings: {error.err}") from None


def dis(first: Image, second: Image, *, preset: str = "medium") -> Flow:
    """Flow from ``first`` to ``second``, both (H, W, 3) uint8 RGB, by Dense Inverse Search.

    Kroeger et al., *Fast Optical Flow using Dense Inverse Search*, ECCV 2016. ``preset``: ultrafast, fast or medium.
    Raises UnknownNameError for another preset, ShapeError, and InputError without OpenCV or for images too small.
    """
    if preset not in _DIS_PRESETS:
        near = get_close_matches(preset, _DIS_PRESETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_DIS_PRESETS)}"
        raise UnknownNameError(f"dis: unknown preset {preset!r}{hint}")
    cv2 = _opencv()
    grey = _grey(cv2, first, second)
    if min(grey[0].shape) < _DIS_SIDE:
        height, width = grey[0].shape
        raise InputError(f"dis: frames of {width}x{height} are too small; sides of at least {_DIS_SIDE} pixels work")
    search = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
    return np.asarray(search.calc(*grey, None), np.float32)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise InputError("OpenCV is not installed, and this flow needs it; install pixeltrail[classical]") from None
    return cv2


def _grey(cv2: Any, *frames: Image) -> list[NDArray[np.uint8]]:
    for frame in frames:
        if frame.shape != frames[0].shape or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            got = ", ".join(f"{f.dtype} {f.shape}" for f in frames)
            raise ShapeError(f"flow: expected two frames (H, W, 3) uint8 of one size, got {got}")
    return [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
