"""Rendered clips with exact truth: textured objects that move, turn, deform and hide each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.scene import STORY, Layer, compose, curve
from pixeltrail.data.textures import Field, Rng, Texture, crop, texture
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.types import Image

Tops = NDArray[np.intp]
"""Which layer is seen: its place in the pile."""


@dataclass(frozen=True, slots=True, eq=False)
class Tracks:
    """Points chosen on frame 0, followed. ``xy`` (T, P, 2) float32 as (x, y), also while hidden or outside the image;
    ``visible`` (T, P) bool."""

    xy: NDArray[np.float32]
    visible: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A clip and everything that is true of it. Pixel centres at integers, the image ends half a pixel beyond them.

    ``frames`` (T, H, W, 3) uint8 RGB · ``labels`` (T, H, W) uint8, the object seen at each pixel, 0 background ·
    ``flow`` (T-1, H, W, 2) float32 pixels, (dx right, dy down) to the next frame · ``occluded`` (T-1, H, W) bool,
    the pixel's point is hidden or outside in the next frame · ``tracks`` of points.
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    flow: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    tracks: Tracks


def render(
    seed: int,
    *,
    frames: int = STORY,
    size: tuple[int, int] = (240, 426),
    objects: int = 3,
    scenery: int = 3,
    speed: float = 1.0,
    deform: float = 1.0,
    lighting: float = 1.0,
    blur: float = 0.0,
    noise: float = 1.0,
    points: int = 64,
    textures: Sequence[Image] | None = None,
) -> Rendered:
    """Draw a random scene and film it. The same arguments give the same bytes (on one machine and NumPy version).

    ``size`` is (height, width); at most 32 ``objects``. ``scenery`` things belong to the background (label 0) and move
    with the camera, at their own depth, some in front of the objects. ``speed`` scales all motion: at 1 an object turns
    by at least 100 degrees in 48 frames. ``deform`` scales its change of shape; ``lighting`` shading, shadows and drift
    of the light (0: a point keeps its colour). ``blur`` is a Gaussian's deviation in pixels (at most 1), ``noise`` that
    in grey levels. ``points`` of frame 0 are followed. ``textures`` are the user's own images, instead of procedural
    ones.

    Every object is visible in frame 0 (at least a third of it). Raises InputError where arguments leave no room.
    """
    _check(seed, frames, size, objects, scenery, speed, blur, noise, points, textures)
    rng = np.random.default_rng(seed)
    layers = compose(rng, frames, size, objects=objects, scenery=scenery, speed=speed, deform=deform)
    _dress(rng, layers, size, textures)
    sun = _Light(rng, frames, speed, lighting)
    height, width = size
    out = np.empty((frames, height, width, 3), np.uint8)
    labels = np.empty((frames, height, width), np.uint8)
    flow = np.empty((frames - 1, height, width, 2), np.float32)
    occluded = np.empty((frames - 1, height, width), np.bool_)
    ids = np.array([layer.label for layer in layers], np.uint8)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for t in range(frames):
        picture, top, u, v = _draw(layers, t, size, sun)
        labels[t] = ids[top]
        if blur:
            picture = _blurred(picture, blur)
        if noise:
            picture += np.float32(noise) * rng.standard_normal(picture.shape, np.float32)
        picture += 0.5
        out[t] = np.clip(picture, 0, 255, out=picture)
        if t == 0:
            tracks = _follow(rng, layers, top, u, v, points, frames)
        if t + 1 < frames:
            nx, ny = _move(layers, t + 1, top, u, v)
            flow[t, ..., 0], flow[t, ..., 1] = nx - x, ny - y
            occluded[t] = _hidden(layers, t + 1, top, nx, ny, size)
    return Rendered(out, labels, flow, occluded, tracks)


def _dress(rng: Rng, layers: list[Layer], size: tuple[int, int], textures: Sequence[Image] | None) -> None:
    """Give each layer a texture that covers all that is ever seen of it."""
    for layer in layers:
        rows, cols = (2 * int(half + 3) + 1 for half in layer.extent(size))
        if textures is not None:
            layer.texture = crop(rng, textures, rows, cols)
        elif layer.outline is None:
            layer.texture = texture(rng, rows, cols, kind=str(rng.choice(["leaves", "leaves", "clouds"])), chroma=0.07)
        else:
            layer.texture = texture(rng, rows, cols, chroma=0.16 if layer.label else 0.08)


class _Light:
    """Where the light comes from, and how strong it is at each frame."""

    def __init__(self, rng: Rng, frames: int, speed: float, strength: float) -> None:
        clock = (speed / STORY * np.arange(frames)).astype(np.float32)
        side = rng.uniform(-1, 1)
        self.strength = np.float32(strength)
        self.to = np.array([side, -1.0], np.float32) / np.float32(np.hypot(side, 1))  # from above, on one side
        self.level = 1 + self.strength * 0.05 * curve(rng, clock, 0.5, 1.5)
        self.slant = self.strength * 0.12 * curve(rng, clock, 0.3, 0.8)

    def fall(self, picture: Texture, t: int) -> None:
        """Light the whole picture: its level, and a slow gradient across it."""
        height, width = picture.shape[:2]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None] * self.slant[t]
        y = np.linspace(0.06, -0.06, height, dtype=np.float32)[:, None] * self.strength
        picture *= (self.level[t] + x + y).astype(np.float32)[..., None]


def _draw(layers: list[Layer], t: int, size: tuple[int, int], light: _Light) -> tuple[Texture, Tops, Field, Field]:
    """Paint frame ``t``. Returns the picture (H, W, 3), the layer seen at each pixel, and its texture coordinates."""
    height, width = size
    picture = np.zeros((height, width, 3), np.float32)
    top = np.zeros(size, np.intp)
    u, v = np.empty(size, np.float32), np.empty(size, np.float32)
    for index, layer in enumerate(layers):
        if light.strength and index:
            _cast(layer, t, picture, light)
        y0, y1, x0, x1 = layer.box(t, height, width)
        if y0 >= y1 or x0 >= x1:
            continue
        window = slice(y0, y1), slice(x0, x1)
        x, y = np.arange(x0, x1, dtype=np.float32)[None], np.arange(y0, y1, dtype=np.float32)[:, None]
        lu, lv = layer.inverse(t, x, y)
        assert layer.texture is not None
        if layer.outline is None:
            picture[window], u[window], v[window] = _sample(layer.texture, lu, lv), lu, lv
            continue
        depth, fraction = layer.depth(t, lu, lv)
        paint = _sample(layer.texture, lu, lv)
        if light.strength:
            paint *= _shade(layer, t, x, y, fraction, light)[..., None]
        under = picture[window]
        under += np.clip(depth + np.float32(0.5), 0, 1)[..., None] * (paint - under)
        hard = depth >= 0
        top[window][hard] = index
        np.copyto(u[window], lu, where=hard)
        np.copyto(v[window], lv, where=hard)
    if light.strength:
        light.fall(picture, t)
    return picture, top, u, v


def _shade(layer: Layer, t: int, x: Field, y: Field, fraction: Field, light: _Light) -> Field:
    """Brightness of a cushion lit from ``light.to``: brighter on that side, darker at its rim."""
    assert layer.outline is not None
    size = np.sqrt((layer.outline**2).mean()) * layer.scale[t]
    facing = ((x - layer.centre[t, 0]) * light.to[0] + (y - layer.centre[t, 1]) * light.to[1]) / size
    bulge = np.minimum(fraction, 1) ** 2
    shade: Field = 1 + light.strength * (0.12 + 0.3 * bulge * np.clip(facing, -1.2, 1.2) - 0.32 * bulge * bulge)
    return shade


def _cast(layer: Layer, t: int, picture: Texture, light: _Light) -> None:
    """Darken what lies under the layer's soft shadow."""
    height, width = picture.shape[:2]
    away, soft = -0.035 * min(height, width) * light.to, 0.025 * min(height, width) + 1
    y0, y1, x0, x1 = layer.box(t, height, width, margin=float(np.abs(away).max() + soft))
    if y0 >= y1 or x0 >= x1:
        return
    x = np.arange(x0, x1, dtype=np.float32)[None] - away[0]
    y = np.arange(y0, y1, dtype=np.float32)[:, None] - away[1]
    depth, _ = layer.depth(t, *layer.inverse(t, x, y))
    cover = np.clip(depth / np.float32(2 * soft) + np.float32(0.5), 0, 1)
    cover *= cover * (3 - 2 * cover) * (-0.45 * light.strength)
    picture[y0:y1, x0:x1] *= (1 + cover)[..., None]


def _sample(image: Texture, u: Field, v: Field) -> Texture:
    """Bilinear samples (..., 3) at texture coordinates whose origin is the middle pixel."""
    height, width = image.shape[:2]
    x, y = np.clip(u + width // 2, 0, width - 1.001), np.clip(v + height // 2, 0, height - 1.001)
    ix, iy = x.astype(np.intp), y.astype(np.intp)
    fx, fy = (x - ix.astype(np.float32))[..., None], (y - iy.astype(np.float32))[..., None]
    flat, corner = image.reshape(-1, 3), iy * width + ix
    upper: Texture = flat.take(corner, 0)
    lower: Texture = flat.take(corner + width, 0)
    upper += fx * (flat.take(corner + 1, 0) - upper)
    lower += fx * (flat.take(corner + width + 1, 0) - lower)
    upper += fy * (lower - upper)
    return upper


def _move(layers: list[Layer], t: int, top: Tops, u: Field, v: Field) -> tuple[Field, Field]:
    """Image coordinates at frame ``t`` of points given by layer and texture coordinates."""
    x, y = layers[0].forward(t, u, v)
    for index in np.unique(top[top > 0]):
        here = top == index
        x[here], y[here] = layers[index].forward(t, u[here], v[here])
    return x, y


def _hidden(layers: list[Layer], t: int, top: Tops, x: Field, y: Field, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether points of the layers ``top`` at (x, y) of frame ``t`` are outside the image or under a higher layer."""
    height, width = size
    hidden = (x < -0.5) | (x >= width - 0.5) | (y < -0.5) | (y >= height - 0.5)
    for index, layer in enumerate(layers[1:], 1):
        y0, y1, x0, x1 = layer.box(t, height, width)
        near = np.flatnonzero((top < index) & (x >= x0 - 1) & (x <= x1) & (y >= y0 - 1) & (y <= y1) & ~hidden)
        if not len(near):
            continue
        covered = layer.covers(*layer.inverse(t, x.flat[near], y.flat[near]))
        hidden.flat[near[covered]] = True
    return hidden


def _follow(rng: Rng, layers: list[Layer], top: Tops, u: Field, v: Field, points: int, frames: int) -> Tracks:
    """Points seen on frame 0, as many on each layer as on the others, followed to the end."""
    share = np.bincount(top.ravel(), minlength=len(layers)).astype(np.float64)
    chance = 1 / share[top.ravel()]
    chosen = rng.choice(top.size, min(points, top.size), replace=False, p=chance / chance.sum())
    at, pu, pv = top.flat[chosen], u.flat[chosen], v.flat[chosen]
    xy = np.empty((frames, len(chosen), 2), np.float32)
    visible = np.empty((frames, len(chosen)), np.bool_)
    for t in range(frames):
        x, y = _move(layers, t, at, pu, pv)
        xy[t, :, 0], xy[t, :, 1] = x, y
        visible[t] = ~_hidden(layers, t, at, x, y, (top.shape[0], top.shape[1]))
    return Tracks(xy, visible)


def _blurred(picture: Texture, deviation: float) -> Texture:
    """Binomial blur [b, 1-2b, b] both ways, of the Gaussian's deviation."""
    b = np.float32(deviation**2 / 2)
    for axis in (0, 1):
        before, after = (np.take(picture, i, axis) for i in _neighbours(picture.shape[axis]))
        picture = picture + b * (before + after - 2 * picture)
    return picture


def _neighbours(n: int) -> tuple[Tops, Tops]:
    i = np.arange(n)
    return np.maximum(i - 1, 0), np.minimum(i + 1, n - 1)


def _check(
    seed: int, frames: int, size: tuple[int, int], objects: int, scenery: int, speed: float, blur: float, noise: float,
    points: int, textures: Sequence[Image] | None,
) -> None:  # fmt: skip
    for name, value, low, high in (
        ("seed", seed, 0, np.inf), ("frames", frames, 1, 100_000), ("height", size[0], 16, 8192),
        ("width", size[1], 16, 8192), ("objects", objects, 0, 32), ("scenery", scenery, 0, 100),
        ("points", points, 0, 1_000_000),
        ("speed", speed, 0.0, 100.0), ("blur", blur, 0.0, 1.0), ("noise", noise, 0.0, 255.0),
    ):  # fmt: skip
        if not low <= value <= high:
            raise InputError(f"{name} of a rendered clip is {value}; it lies in {low} to {high}")
    for image in textures or ():
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape) == 0:
            raise ShapeError(f"texture: expected (H, W, 3) uint8, got {image.dtype} {image.shape}")
    if textures is not None and len(textures) == 0:
        raise InputError("textures of a rendered clip: the list is empty; None draws procedural ones")
