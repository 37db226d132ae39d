"""pixeltrail as a tracker inside CVAT, through its SDK's protocol for tracking functions (``pip install cvat-sdk cvat-cli``).

    cvat-cli --server-host HOST --auth USER function create-native pixeltrail --function-file examples/cvat_tracker.py
    cvat-cli --server-host HOST --auth USER function run-agent ID --function-file examples/cvat_tracker.py

``create(method, quality, device)`` makes the function; the command passes them as ``-p method=str:crw``. Masks,
polygons, rectangles and single points can be tracked. CVAT asks for one shape at a time: each has its own memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from cvat_sdk import auto_annotation as aa
from cvat_sdk.masks import decode_mask, encode_mask

from pixeltrail.data import polygons
from pixeltrail.predictors import load_tracker
from pixeltrail.sessions import Live, PointSession
from pixeltrail.types import LabelMap, Points


@dataclass
class State:
    """A shape on its way: its kind, and the session that remembers its frames."""

    kind: str
    session: Live | PointSession


class PixeltrailFunction:
    """A tracking function of cvat_sdk.auto_annotation."""

    def __init__(self, method: str = "default", quality: str = "", device: str = "cpu") -> None:
        self.tracker = load_tracker(method, quality=quality, device=device)

    @property
    def spec(self) -> aa.TrackingFunctionSpec:
        return aa.TrackingFunctionSpec(supported_shape_types={"mask", "polygon", "rectangle", "points"})

    def preprocess_image(self, context: aa.TrackingFunctionContext, image: PIL.Image.Image) -> np.ndarray:
        return np.array(image.convert("RGB"))

    def init_tracking_state(
        self, context: aa.TrackingFunctionShapeContext, pp_image: np.ndarray, shape: aa.TrackableShape
    ) -> State:
        if shape.type == "points":
            # CVAT counts from the pixel's edge, pixeltrail from its centre.
            session: Any = PointSession(self.tracker, Points(np.array(shape.points, np.float32).reshape(-1, 2) - 0.5))
            session.step(pp_image)
        else:
            session = Live(self.tracker)
            session.step(pp_image, LabelMap(_mask(shape, pp_image.shape[:2]).astype(np.uint8)))
        return State(shape.type, session)

    def track(
        self, context: aa.TrackingFunctionShapeContext, pp_image: np.ndarray, state: State
    ) -> aa.TrackableShape | None:
        tracked = state.session.step(pp_image)
        if state.kind == "points":
            return aa.TrackableShape(type="points", points=(tracked.xy + 0.5).ravel().astype(float).tolist())
        mask = tracked.ids == 1
        return _shape(state.kind, mask) if mask.any() else None


def create(method: str = "default", quality: str = "", device: str = "cpu") -> PixeltrailFunction:
    return PixeltrailFunction(method, quality, device)


def _mask(shape: aa.TrackableShape, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of what the annotator drew."""
    height, width = size
    if shape.type == "mask":
        return decode_mask(shape.points, image_width=width, image_height=height)
    corners = np.array(shape.points, np.float64).reshape(-1, 2)
    if shape.type == "rectangle":
        (left, top), (right, bottom) = corners
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    mask = polygons.fill([corners], size)
    if not mask.any():  # thinner than a pixel
        x, y = np.clip(np.floor(corners.mean(0)).astype(int), 0, (width - 1, height - 1))
        mask[y, x] = True
    return mask


def _shape(kind: str, mask: np.ndarray) -> aa.TrackableShape:
    if kind == "mask":
        return aa.TrackableShape(type=kind, points=encode_mask(mask))
    if kind == "rectangle":
        x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        return aa.TrackableShape(type=kind, points=[float(v) for v in (x[0], y[0], x[-1] + 1, y[-1] + 1)])
    corners = polygons.joined(polygons.outlines(mask))  # parts and holes hang on one polygon
    return aa.TrackableShape(type=kind, points=corners.ravel().tolist())
