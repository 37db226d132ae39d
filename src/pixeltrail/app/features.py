"""What the page asks of the encoder: fill what belongs together, show what a pixel looks at, features and flow as colours."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.app.jobs import TURN
from pixeltrail.errors import InputError
from pixeltrail.flow.algebra import round_trip
from pixeltrail.flow_methods import flow_method
from pixeltrail.geometry import cells_to_pixels
from pixeltrail.guided import GuidedFilter
from pixeltrail.tracker import Tracker
from pixeltrail.types import Image, LabelMap
from pixeltrail.visual.features import enlarged, pca_colours
from pixeltrail.visual.flow import draw_arrows, flow_to_colour, typical_length, with_legend

Mask = NDArray[np.bool_]
SHOWN = 1280
"""Views are no longer than so many pixels, whatever the video: the page stretches them over it."""


@torch.inference_mode()
def fill(tracker: Tracker, image: Image, x: int, y: int, tolerance: float) -> Mask:
    """The pixels (H, W) around (x, y) that the features say belong together with it.

    Cells whose cosine similarity to the clicked one is above 1 - ``tolerance`` (0–1) and that hang together with it,
    snapped to the edges of the picture by a guided filter. Raises InputError for a place outside the picture.
    """
    height, width = _inside(image, x, y)
    with TURN:
        session = tracker.live()
        key, work = session.features(image)
        row, column = _cell(key, work, (height, width), tracker.stride, x, y)
        unit = torch.nn.functional.normalize(key[0], dim=0)
        alike = (unit * unit[:, row, column, None, None]).sum(0)
        together = _connected((alike >= 1 - tolerance).cpu().numpy(), row, column)
        soft = torch.from_numpy(together).to(key)[None, None]
        pixels = cells_to_pixels(soft, work, tracker.stride)
        small = (max(1, 2 * work[0] // tracker.stride), max(1, 2 * work[1] // tracker.stride))
        shown = torch.nn.functional.interpolate(pixels, small, mode="bilinear", align_corners=False)
        mask: Mask = (GuidedFilter(session.rgb, small)(shown[0])[0] > 0.5).cpu().numpy()
    mask[y, x] = True
    return mask


@torch.inference_mode()
def heat(tracker: Tracker, image: Image, reference: Image, x: int, y: int) -> NDArray[np.float32]:
    """What the pixel (x, y) of ``image`` looks at in ``reference``: weights (h, w) on the feature grid, scaled to 0–1.

    The method's own affinity, but over the whole frame, so that look-alikes outside its window are seen too.
    """
    height, width = _inside(image, x, y)
    with TURN:
        session = tracker.live()
        keys, work = session.features(reference)
        query, _ = session.features(image)
        row, column = _cell(query, work, (height, width), tracker.stride, x, y)
        whole = replace(tracker.protocol.affinity, radius=None, circle=False, dilation=1, topk=None, free_first=False)
        look = whole(query[:, :, row : row + 1, column : column + 1], keys.unsqueeze(1))
        weights = look.dense().view(*keys.shape[-2:])
        found: NDArray[np.float32] = (weights / weights.max().clamp_min(1e-12)).cpu().numpy()
    return found


@torch.inference_mode()
def pca(tracker: Tracker, image: Image) -> Image:
    """The features of a frame as colours (h, w, 3), no more than ``SHOWN`` pixels long."""
    with TURN:
        key, work = tracker.live().features(image)
    shown, _ = _reduced(image)
    return enlarged(pca_colours(key[0].cpu().numpy()), shown.shape[:2], tracker.stride * shown.shape[0] / work[0])


@torch.inference_mode()
def carried(tracker: Tracker, image: Image, reference: Image, labels: LabelMap) -> LabelMap:
    """The labels of ``reference`` carried to ``image`` at one go: what these weights make of it."""
    with TURN:
        session = tracker.live()
        session.step(reference, labels)
        return LabelMap(session.step(image).ids)


def flow(first: Image, second: Image) -> Image:
    """The motion from one frame to the next as Middlebury colours (h, w, 3), with a legend. Raises InputError without
    OpenCV, as do `arrows` and `trip`; all three are no more than ``SHOWN`` pixels long."""
    found, scale, _ = _motion(first, second)
    return with_legend(flow_to_colour(found), scale * float(np.hypot(found[..., 0], found[..., 1]).max()))


def arrows(first: Image, second: Image) -> Image:
    """The same motion as arrows over the first frame (h, w, 3)."""
    found, _, shown = _motion(first, second)
    return draw_arrows(shown, found, max(1.0, typical_length(found)), step=max(12, min(shown.shape[:2]) // 20))


def trip(first: Image, second: Image) -> NDArray[np.float32]:
    """How far from its start each pixel (h, w) ends that follows the motion to the next frame and back, in pixels."""
    (forth, scale, _), (back, _, _) = _motion(first, second), _motion(second, first)
    found: NDArray[np.float32] = scale * np.nan_to_num(round_trip(forth, back), nan=np.inf)
    return found


def _motion(first: Image, second: Image) -> tuple[NDArray[np.float32], float, Image]:
    """Flow between reduced frames in their pixels, how many of the video's pixels one of these is, and the first."""
    (one, scale), (other, _) = _reduced(first), _reduced(second)
    return flow_method("dis")(one, other), scale, one


def _reduced(image: Image) -> tuple[Image, float]:
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / SHOWN)
    if scale == 1:
        return image, 1.0
    size = max(1, round(width / scale)), max(1, round(height / scale))
    return np.asarray(PIL.Image.fromarray(image).resize(size, PIL.Image.Resampling.BOX)), scale


def _inside(image: Image, x: int, y: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(f"({x}, {y}) lies outside the {width}x{height} picture")
    return height, width


def _cell(key: Tensor, work: tuple[int, int], size: tuple[int, int], stride: int, x: int, y: int) -> tuple[int, int]:
    """Row and column of the cell that a pixel of the video lies in."""
    row, column = round(y * work[0] / size[0] / stride), round(x * work[1] / size[1] / stride)
    return min(row, key.shape[-2] - 1), min(column, key.shape[-1] - 1)


def _connected(alike: Mask, row: int, column: int) -> NDArray[np.float32]:
    """1 for the cells of ``alike`` that can be reached from one of them."""
    found = np.zeros(alike.shape, np.float32)
    found[row, column] = 1
    waiting = deque([(row, column)])
    while waiting:
        y, x = waiting.popleft()
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < alike.shape[0] and 0 <= u < alike.shape[1]
            if inside and alike[v, u] and not found[v, u]:
                found[v, u] = 1
                waiting.append((v, u))
    return found
