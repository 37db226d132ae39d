"""Augmentation of pairs with exact flow: both frames move, the second one a little more, and the flow follows.

Sources: FlowNet (Dosovitskiy et al. 2015, section 4.3) and the PWC-Net solver: translation, rotation, zoom and squeeze of
the pair, a small transform of the second frame against the first, flips, and changes of contrast, gamma, brightness,
colour and noise, the second frame's a little apart from the first's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.affine import View, affine, apply, sampled, shift
from pixeltrail.data.textures import Rng
from pixeltrail.types import Image

Flow = NDArray[np.float32]
TRIES = 20


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How strongly pairs are changed; 0 everywhere leaves a crop from the middle.

    Of the pair: ``turn`` degrees to either side, ``zoom`` (least, most), ``squeeze`` of width against height, ``flip`` and
    ``upside`` the chances of mirroring left-right and top-bottom; the place of the crop is drawn from where it fits.
    Of the second frame: ``shift`` pixels, ``turn_2`` degrees and ``zoom_2``, deviations of normal distributions.
    Of the light: ``contrast``, ``gamma`` (powers of e), ``brightness``, ``colour``, deviations; ``noise``, the most, all
    for values from 0 to 1; ``apart``, the share of it that the second frame has for itself.
    """

    turn: float = 17.0
    zoom: tuple[float, float] = (0.9, 1.6)
    squeeze: float = 0.15
    flip: float = 0.5
    upside: float = 0.1
    shift: float = 1.0
    turn_2: float = 0.5
    zoom_2: float = 0.01
    contrast: float = 0.25
    gamma: float = 0.25
    brightness: float = 0.1
    colour: float = 0.15
    noise: float = 0.04
    apart: float = 0.1


def augmented(
    rng: Rng, first: Image, second: Image, flow: Flow, size: tuple[int, int], by: Augmentation | None = None
) -> tuple[Image, Image, Flow]:
    """A crop (height, width) of a pair, changed ``by`` so much, and its flow: first(x) ~ second(x + flow(x)) still holds.

    ``first`` and ``second`` (H, W, 3) uint8 RGB, ``flow`` (H, W, 2) float32 in pixels, NaN where unknown; so it is in the
    result, and where the crop leaves the frame. Of the second frame the border is continued.
    """
    by = by or Augmentation()
    view = random_view(rng, (first.shape[0], first.shape[1]), size, by)
    x, y = np.arange(size[1], dtype=np.float32)[None], np.arange(size[0], dtype=np.float32)[:, None]
    x1, y1 = apply(view.first, x, y)
    moved = _clipped(flow, x1, y1)
    x2, y2 = apply(np.linalg.inv(view.second), x1 + moved[..., 0], y1 + moved[..., 1])
    known = (x1 >= 0) & (x1 <= first.shape[1] - 1) & (y1 >= 0) & (y1 <= first.shape[0] - 1)
    follows = np.where(known[..., None], np.stack([x2 - x, y2 - y], -1), np.float32(np.nan)).astype(np.float32)
    one, two = _clipped(first, x1, y1), _clipped(second, *apply(view.second, x, y))
    return *relit(rng, (one + 0.5).astype(np.uint8), (two + 0.5).astype(np.uint8), by), follows


def relit(rng: Rng, first: Image, second: Image, by: Augmentation | None = None) -> tuple[Image, Image]:
    """Both frames (H, W, 3) uint8 under another light and with noise, the second one's a little apart."""
    by = by or Augmentation()
    light = rng.normal(0, 1, (4, 3))
    noise = np.float32(255 * by.noise * rng.random())
    frames = []
    for image in (first, second):
        picture = _lit(image, light, by)
        picture += noise * rng.standard_normal(picture.shape, np.float32)
        frames.append(np.clip(picture + np.float32(0.5), 0, 255, out=picture).astype(np.uint8))
        light = light + by.apart * rng.normal(0, 1, (4, 3))
    return frames[0], frames[1]


def random_view(rng: Rng, source: tuple[int, int], size: tuple[int, int], by: Augmentation | None = None) -> View:
    """Where in frames of ``source`` (height, width) a crop of ``size`` is cut, and how it is turned, zoomed and mirrored; drawn
    again while a corner falls outside, calmer and calmer."""
    by = by or Augmentation()
    (height, width), (h, w) = source, size
    half = np.array([[-1, 1, -1, 1], [-1, -1, 1, 1], [0, 0, 0, 0]]) * np.array([[(w - 1) / 2], [(h - 1) / 2], [1]])
    mirror = affine(0, -1 if rng.random() < by.flip else 1, -1 if rng.random() < by.upside else 1)
    for attempt in range(TRIES):
        calm = 1 - attempt / TRIES
        zoom = math.exp(rng.uniform(math.log(by.zoom[0]), math.log(by.zoom[1])))
        squeeze = math.exp(calm * rng.uniform(-by.squeeze, by.squeeze) / 2)
        turn = math.radians(calm * rng.uniform(-by.turn, by.turn))
        inner = affine(turn, squeeze / zoom, 1 / (squeeze * zoom)) @ mirror
        reach = np.abs(inner @ half)[:2].max(1)
        room = np.array([width - 1, height - 1]) / 2 - reach
        if room.min() >= 0:
            break
    else:  # a crop that fills the frame, or is larger
        inner, room = affine(0, 1, 1) @ mirror, np.maximum(np.array([width - w, height - h]) / 2, 0)
    centre = np.array([width - 1, height - 1]) / 2 + rng.uniform(-1, 1, 2) * room
    first = shift(*centre) @ inner @ shift(-(w - 1) / 2, -(h - 1) / 2)
    change = math.exp(rng.normal(0, by.zoom_2))
    own = affine(math.radians(rng.normal(0, by.turn_2)), change, change) @ shift(-(w - 1) / 2, -(h - 1) / 2)
    return View(size, first, first @ shift(*rng.normal(0, by.shift, 2)) @ shift((w - 1) / 2, (h - 1) / 2) @ own)


def _clipped(image: NDArray[np.generic], x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    return sampled(image, np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001))


def _lit(image: Image, light: NDArray[np.float64], by: Augmentation) -> NDArray[np.float32]:
    """(H, W, 3) under another light: one curve for each colour."""
    gain = np.exp(by.colour * light[0] + by.contrast * light[1, :1])
    values = np.linspace(0, 1, 256)[:, None] ** np.exp(by.gamma * light[2, :1])
    curve = (255 * np.clip((values - 0.5) * gain + 0.5 + by.brightness * light[3, :1], 0, 1)).astype(np.float32)
    lit: NDArray[np.float32] = curve[image, np.arange(3)]
    return lit
