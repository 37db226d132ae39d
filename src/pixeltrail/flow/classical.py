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
_TVL1_SIDE = 16


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
    start: Flow | None = None,
) -> Flow:
    """Flow from ``first`` to ``second``, both (H, W, 3) uint8 RGB, by polynomial expansion.

    Farnebäck, *Two-Frame Motion Estimation Based on Polynomial Expansion*, SCIA 2003. ``pyr_scale`` shrinks each of
    the ``levels`` of the pyramid; ``winsize`` pixels are averaged, by a box or with ``gaussian`` by a Gaussian;
    ``poly_n`` and ``poly_sigma`` size the neighbourhood of the expansion in pixels; ``start`` (H, W, 2) is a first guess.
    Raises ShapeError, and InputError without OpenCV or for a setting that OpenCV refuses.
    """
    cv2 = opencv()
    grey = grey_frames(cv2, first, second)
    for name, value, least in (("levels", levels, 0), ("winsize", winsize, 1), ("iterations", iterations, 0)):
        _check("farneback", name, value >= least, f"{least} or more", value)
    flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if gaussian else 0
    if start is not None:
        start = _flow_of("farneback: start", start, first).copy()
        flags |= cv2.OPTFLOW_USE_INITIAL_FLOW
    settings = (pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, flags)
    try:
        return np.asarray(cv2.calcOpticalFlowFarneback(*grey, start, *settings), np.float32)
    except cv2.error as error:
        raise InputError(f"farneback: OpenCV refused the settings: {error.err}") from None


def dis(
    first: Image,
    second: Image,
    *,
    preset: str = "medium",
    finest_scale: int | None = None,
    patch_stride: int | None = None,
    descent_iterations: int | None = None,
    refinement_iterations: int | None = None,
    alpha: float = 20.0,
    gamma: float = 10.0,
    delta: float = 5.0,
    mean_normalization: bool = True,
    spatial_propagation: bool = True,
) -> Flow:
    """Flow from ``first`` to ``second``, both (H, W, 3) uint8 RGB, by Dense Inverse Search.

    Kroeger et al., *Fast Optical Flow using Dense Inverse Search*, ECCV 2016. ``preset``: ultrafast, fast or medium
    decides what is None: the ``finest_scale`` of the pyramid (0 is full resolution), the ``patch_stride`` between patches
    of 8 x 8 pixels, iterations of gradient descent and of the variational refinement, whose weights are ``alpha``
    (smoothness), ``gamma`` (gradients) and ``delta`` (brightness).
    Raises UnknownNameError for another preset, ShapeError, and InputError without OpenCV, for images too small or a
    setting out of range.
    """
    if preset not in _DIS_PRESETS:
        near = get_close_matches(preset, _DIS_PRESETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_DIS_PRESETS)}"
        raise UnknownNameError(f"dis: unknown preset {preset!r}{hint}")
    cv2 = opencv()
    grey = grey_frames(cv2, first, second)
    _at_least("dis", _DIS_SIDE, first)
    search = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
    for name, value, low, high, apply in (
        ("finest_scale", finest_scale, 0, 2, search.setFinestScale),
        ("patch_stride", patch_stride, 1, 8, search.setPatchStride),
        ("descent_iterations", descent_iterations, 1, 1000, search.setGradientDescentIterations),
        ("refinement_iterations", refinement_iterations, 0, 1000, search.setVariationalRefinementIterations),
    ):
        if value is not None:
            _check("dis", name, low <= value <= high, f"{low} to {high}", value)
            apply(value)
    _weights("dis", search, "VariationalRefinement", alpha=alpha, gamma=gamma, delta=delta)
    search.setUseMeanNormalization(mean_normalization)
    search.setUseSpatialPropagation(spatial_propagation)
    return np.asarray(search.calc(*grey, None), np.float32)


def tvl1(
    first: Image,
    second: Image,
    *,
    tau: float = 0.25,
    smoothness: float = 0.15,
    theta: float = 0.3,
    scales: int = 5,
    warps: int = 5,
    epsilon: float = 0.01,
    inner_iterations: int = 30,
    outer_iterations: int = 10,
    scale_step: float = 0.8,
    gamma: float = 0.0,
    median: int = 5,
) -> Flow:
    """Flow from ``first`` to ``second``, both (H, W, 3) uint8 RGB, by total variation and an L1 data term.

    Zach et al., *A Duality Based Approach for Realtime TV-L1 Optical Flow*, DAGM 2007. ``smoothness`` is the paper's
    lambda (smaller is smoother), ``tau`` the time step, ``theta`` the tightness, ``scales`` of ``scale_step``, each with
    ``warps``; ``epsilon`` ends the iterations; ``gamma`` above 0 also estimates a change of brightness; ``median``: side
    of the filter between outer iterations, 1 for none.
    Raises ShapeError, and InputError where the installed OpenCV lacks it or refuses a setting.
    """
    cv2 = opencv()
    grey = grey_frames(cv2, first, second)
    if not hasattr(cv2, "optflow"):
        raise InputError("tvl1: the installed OpenCV has no TV-L1; install opencv-contrib-python-headless, or use dis")
    _at_least("tvl1", _TVL1_SIDE, first)
    for name, value in (("scales", scales), ("warps", warps), ("outer_iterations", outer_iterations)):
        _check("tvl1", name, value >= 1, "1 or more", value)
    _check("tvl1", "scale_step", 0 < scale_step < 1, "a number between 0 and 1", scale_step)
    _check("tvl1", "median", median in (1, 3, 5), "1, 3 or 5", median)
    method = cv2.optflow.DualTVL1OpticalFlow_create(
        tau, smoothness, theta, scales, warps, epsilon, inner_iterations, outer_iterations, scale_step, gamma, median
    )
    try:
        return np.asarray(method.calc(*grey, None), np.float32)
    except cv2.error as error:
        raise InputError(f"tvl1: OpenCV refused the settings: {error.err}") from None


def refine(
    flow: Flow,
    first: Image,
    second: Image,
    *,
    iterations: int = 5,
    sweeps: int = 5,
    alpha: float = 20.0,
    gamma: float = 10.0,
    delta: float = 5.0,
) -> Flow:
    """Any estimator's ``flow`` (H, W, 2), polished at full resolution: FlowNet's "+v".

    Minimises the energy of Brox et al., *High Accuracy Optical Flow Estimation Based on a Theory for Warping*, ECCV 2004:
    ``delta`` · brightness + ``gamma`` · gradient constancy + ``alpha`` · smoothness, by ``iterations`` of its fixed point
    with ``sweeps`` of relaxation each. It corrects fractions of a pixel, not gross errors. NaN counts as no motion.
    Raises ShapeError, and InputError without OpenCV or for a setting out of range.
    """
    cv2 = opencv()
    grey = grey_frames(cv2, first, second)
    start = np.nan_to_num(_flow_of("refine", flow, first), nan=0.0, posinf=0.0, neginf=0.0)
    for name, value in (("iterations", iterations), ("sweeps", sweeps)):
        _check("refine", name, value >= 1, "1 or more", value)
    method = cv2.VariationalRefinement_create()
    method.setFixedPointIterations(iterations)
    method.setSorIterations(sweeps)
    _weights("refine", method, "", alpha=alpha, gamma=gamma, delta=delta)
    u, v = (np.ascontiguousarray(start[..., c]) for c in (0, 1))
    u, v = method.calcUV(*grey, u, v)
    return np.stack((u, v), -1)


def opencv() -> ModuleType:
    """The module ``cv2``. Raises InputError where it is not installed."""
    try:
        import cv2
    except ImportError:
        raise InputError("OpenCV is not installed, and this flow needs it; install pixeltrail[classical]") from None
    return cv2


def grey_frames(cv2: Any, *frames: Image) -> list[NDArray[np.uint8]]:
    """Frames (H, W, 3) uint8 RGB of one size as grey (H, W). Raises ShapeError."""
    for frame in frames:
        if frame.shape != frames[0].shape or frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            got = ", ".join(f"{f.dtype} {f.shape}" for f in frames)
            raise ShapeError(f"flow: expected two frames (H, W, 3) uint8 of one size, got {got}")
    if 0 in frames[0].shape:
        raise ShapeError(f"flow: expected frames with pixels, got {frames[0].shape}")
    return [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]


def _flow_of(what: str, flow: Flow, image: Image) -> Flow:
    if flow.shape != (*image.shape[:2], 2):
        raise ShapeError(f"{what}: expected flow {(*image.shape[:2], 2)} for these frames, got {flow.shape}")
    return np.ascontiguousarray(flow, np.float32)


def _at_least(method: str, side: int, image: Image) -> None:
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise InputError(f"{method}: frames of {width}x{height} are too small; sides of at least {side} pixels work")


def _weights(method: str, target: Any, prefix: str, **weights: float) -> None:
    for name, value in weights.items():
        _check(method, name, np.isfinite(value) and value >= 0, "a number >= 0", value)
        getattr(target, f"set{prefix}{name.capitalize()}")(value)


def _check(method: str, name: str, ok: bool, wanted: str, got: object) -> None:
    if not ok:
        raise InputError(f"{method}: {name}: expected {wanted}, got {got}")
