"""Pairs of images in the manner of Flying Chairs, with exact flow: shapes that move by affine maps over a background.

Source: Dosovitskiy et al., *FlowNet: Learning Optical Flow with Convolutional Networks*, ICCV 2015: the distributions of
motion of its appendix. In place of rendered chairs there are smooth blobs, polygons, frames of thin bars and rings;
textures are procedural, or the user's own images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.affine import Matrix, View, affine, apply, sampled, shift
from pixeltrail.data.textures import Field, Rng, texture
from pixeltrail.errors import InputError
from pixeltrail.types import Image

SIZE = (384, 512)
"""(H, W) of the published images; objects of another size are as large in proportion, motion is in pixels."""
OBJECTS = (4, 12)
"""Fewer than the 16 to 24 chairs of the paper: our shapes fill more of their squares than chairs do, so that as much of the
background is seen as there."""
CELLS = 96
"""Side of the square grid that holds a shape."""
SHAPES = 192
TEXTURES = 32
"""How many of our own shapes and textures there are; each is turned, stretched and recoloured when used."""

Ids = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Law:
    """How one number of a motion is drawn: g from a normal distribution (``mean``, ``deviation``), then sign(g) |g|^power
    clipped to ``low`` … ``high``; with the chance 1 - ``moved`` it is ``mean`` instead, which is no motion."""

    mean: float
    deviation: float
    power: int
    low: float
    high: float
    moved: float

    def draw(self, rng: Rng) -> float:
        """One value."""
        g = rng.normal(self.mean, self.deviation)
        value = float(np.clip(math.copysign(abs(g) ** self.power, g), self.low, self.high))
        return value if rng.random() < self.moved else self.mean


BACKGROUND = (Law(0, 1.3, 4, -40, 40, 1.0), Law(0, 1.3, 2, -10, 10, 0.3), Law(1, 0.1, 2, 0.93, 1.07, 0.6))
OBJECT = (Law(0, 2.3, 3, -120, 120, 1.0), Law(0, 2.3, 2, -30, 30, 0.7), Law(1, 0.18, 2, 0.8, 1.2, 0.7))
"""Translation in pixels (of x and of y), rotation in degrees, zoom. An object's motion comes on top of the background's."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """``first`` and ``second`` (H, W, 3) uint8 RGB, ``flow`` (H, W, 2) float32 pixels, (dx right, dy down), with
    first(x) ~ second(x + flow(x)); ``occluded`` (H, W) bool, to the nearest pixel: what is seen there is hidden or
    outside the image in the second one."""

    first: Image
    second: Image
    flow: NDArray[np.float32]
    occluded: NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class _Layer:
    """``motion`` takes points of image 1 to image 2, ``to_texture`` points of image 1 to pixels of ``texture``,
    ``to_image`` cells of ``shape`` to image 1; the shape holds depths under its outline in cells (None: everywhere)."""

    motion: Matrix
    texture: Image
    to_texture: Matrix
    colour: NDArray[np.float32]
    shape: Field | None = None
    to_image: Matrix | None = None


def chairs(
    seed: int | Sequence[int],
    *,
    size: tuple[int, int] = SIZE,
    objects: tuple[int, int] = OBJECTS,
    motion: float = 1.0,
    textures: Sequence[Image] | None = None,
    view: View | None = None,
) -> Pair:
    """Draw one pair. The same arguments give the same bytes (on one machine and NumPy version).

    Args:
        size: (height, width) pixels.
        objects: the fewest and the most.
        motion: scales translations, rotations and zooms; 1 is what was published, 0 is none.
        textures: (H, W, 3) uint8 images to cut textures from; procedural ones by default.
        view: what is drawn of the pair of this ``size``, a crop that the two frames may see differently (augmentation
            without a second interpolation); all of it by default.

    Raises:
        InputError: where the numbers leave nothing to draw.
    """
    if min(size) < 16 or max(size) > 8192 or not 0 <= objects[0] <= objects[1] <= 100 or not 0 <= motion <= 10:
        raise InputError(
            f"chairs: size {size}, objects {objects}, motion {motion}; expected sides of 16 to 8192, "
            "0 to 100 objects, motion of 0 to 10"
        )
    if textures is not None and not len(textures):
        raise InputError("chairs: the list of textures is empty; None draws procedural ones")
    rng = np.random.default_rng(seed)
    layers = _compose(rng, size, int(rng.integers(objects[0], objects[1] + 1)), motion, textures)
    if view is not None:
        size = view.size
        for layer in layers:
            layer.motion = np.linalg.inv(view.second) @ layer.motion @ view.first
            layer.to_texture = layer.to_texture @ view.first
            if layer.to_image is not None:
                layer.to_image = np.linalg.inv(view.first) @ layer.to_image
    first, top = _drawn(layers, size, moved=False)
    second, later = _drawn(layers, size, moved=True)
    height, width = size
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    m = np.stack([layer.motion[:2] for layer in layers]).astype(np.float32).reshape(-1, 6)[top]
    to_x = m[..., 0] * x + m[..., 1] * y + m[..., 2]
    to_y = m[..., 3] * x + m[..., 4] * y + m[..., 5]
    inside = (to_x >= -0.5) & (to_x < width - 0.5) & (to_y >= -0.5) & (to_y < height - 0.5)
    column = np.clip(np.rint(to_x), 0, width - 1).astype(np.intp)
    row = np.clip(np.rint(to_y), 0, height - 1).astype(np.intp)
    return Pair(first, second, np.stack([to_x - x, to_y - y], -1), ~inside | (later[row, column] > top))


def _compose(
    rng: Rng, size: tuple[int, int], objects: int, motion: float, textures: Sequence[Image] | None
) -> list[_Layer]:
    height, width = size
    scale = math.sqrt(height * width / (SIZE[0] * SIZE[1]))
    middle = ((width - 1) / 2, (height - 1) / 2)
    camera = _motion(rng, BACKGROUND, middle, motion)
    layers = [_Layer(camera, *_dressed(rng, textures, middle, upright=True))]
    for _ in range(objects):
        centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
        side = scale * float(np.clip(rng.normal(200, 200), 50, 640))
        stretch = math.exp(rng.normal(0, 0.25))
        shape = _shapes()[int(rng.integers(SHAPES))]
        place = affine(rng.uniform(-np.pi, np.pi), side / CELLS * stretch, side / CELLS / stretch)
        place = shift(*centre) @ place @ shift(-(CELLS - 1) / 2, -(CELLS - 1) / 2)
        own = _motion(rng, OBJECT, centre, motion)
        layers.append(_Layer(camera @ own, *_dressed(rng, textures, centre), shape, place))
    return layers


def _motion(rng: Rng, laws: tuple[Law, Law, Law], centre: tuple[float, float], scale: float) -> Matrix:
    """Rotation and zoom about ``centre``, and a translation."""
    move, turn, zoom = laws
    z = zoom.draw(rng) ** scale
    about = affine(scale * math.radians(turn.draw(rng)), z, z) @ shift(-centre[0], -centre[1])
    return shift(centre[0] + scale * move.draw(rng), centre[1] + scale * move.draw(rng)) @ about


def _dressed(
    rng: Rng, textures: Sequence[Image] | None, centre: tuple[float, float], upright: bool = False
) -> tuple[Image, Matrix, NDArray[np.float32]]:
    """A texture, the way from image 1 to a random place of it, and factors for its colours."""
    image = _texture(int(rng.integers(TEXTURES))) if textures is None else textures[int(rng.integers(len(textures)))]
    zoom = math.exp(rng.uniform(math.log(0.5), math.log(1.2)))
    turn = 0.0 if upright else rng.uniform(-np.pi, np.pi)
    start = shift(rng.uniform(0, image.shape[1]), rng.uniform(0, image.shape[0]))
    colour = (rng.uniform(0.6, 1.2) * rng.uniform(0.85, 1.15, 3)).astype(np.float32)
    return image, start @ affine(turn, zoom, zoom) @ shift(-centre[0], -centre[1]), colour


def _drawn(layers: list[_Layer], size: tuple[int, int], *, moved: bool) -> tuple[Image, Ids]:
    """The picture (H, W, 3) and the layer seen at each pixel. The pixels of an outline mix two layers."""
    height, width = size
    top, under = np.zeros(size, np.intp), np.zeros(size, np.intp)
    cover = np.ones(size, np.float32)  # how much of a pixel its top layer has
    for index, layer in enumerate(layers):
        if layer.shape is None or layer.to_image is None:
            continue
        to_image = layer.motion @ layer.to_image if moved else layer.to_image
        corners = to_image @ [[0, CELLS - 1, 0, CELLS - 1], [0, 0, CELLS - 1, CELLS - 1], [1, 1, 1, 1]]
        (x0, y0), (x1, y1) = np.floor(corners[:2].min(1)).astype(int), np.ceil(corners[:2].max(1)).astype(int) + 1
        y0, y1, x0, x1 = max(0, y0), min(height, y1), max(0, x0), min(width, x1)
        if y0 >= y1 or x0 >= x1:
            continue
        u, v = apply(np.linalg.inv(to_image), np.arange(x0, x1)[None], np.arange(y0, y1)[:, None])
        u, v = np.clip(u, 0, CELLS - 1.001), np.clip(v, 0, CELLS - 1.001)
        depth = sampled(layer.shape[..., None], u, v)[..., 0]
        own = np.clip(depth * np.float32(math.sqrt(abs(np.linalg.det(to_image)))) + np.float32(0.5), 0, 1)
        window = slice(y0, y1), slice(x0, x1)
        most = own >= 0.5
        some = (own > 0) & ~most
        np.copyto(under[window], top[window], where=most)
        np.copyto(under[window], index, where=some)
        np.copyto(top[window], index, where=most)
        np.copyto(cover[window], own, where=most)
        np.copyto(cover[window], 1 - own, where=some)
    picture = _painted(layers, top.ravel(), np.arange(height * width), width, moved)
    mixed = np.flatnonzero(cover < 1)
    below = _painted(layers, under.flat[mixed], mixed, width, moved)
    picture[mixed] = below + cover.flat[mixed][:, None] * (picture[mixed] - below)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8).reshape(height, width, 3), top


def _painted(layers: list[_Layer], ids: Ids, pixels: Ids, width: int, moved: bool) -> NDArray[np.float32]:
    """Colours (N, 3) of the layers ``ids`` (N,) at ``pixels`` (N,), numbered row by row."""
    out = np.empty((len(pixels), 3), np.float32)
    for index, layer in enumerate(layers):
        here = np.flatnonzero(ids == index)
        if not len(here):
            continue
        y, x = np.divmod(pixels[here], width)
        to_texture = layer.to_texture @ np.linalg.inv(layer.motion) if moved else layer.to_texture
        u, v = apply(to_texture, x, y)
        rows, cols = layer.texture.shape[:2]
        out[here] = sampled(layer.texture, _folded(u, cols), _folded(v, rows)) * layer.colour
    return out


def _folded(u: Field, n: int) -> Field:
    """Coordinates into 0 … n - 1: the image is mirrored at its borders for ever."""
    last = np.float32(max(n - 1, 1))
    folded: Field = np.minimum(last - np.abs(np.mod(u, 2 * last) - last), np.float32(n - 1.001))
    return np.maximum(folded, 0)


@lru_cache(maxsize=TEXTURES)
def _texture(number: int) -> Image:
    return texture(np.random.default_rng((2015, number)), 320, 400).astype(np.uint8)


@lru_cache(maxsize=1)
def _shapes() -> list[Field]:
    """``SHAPES`` outlines, each as depths (CELLS, CELLS) in cells, positive inside, negative along the border."""
    rng = np.random.default_rng(2015)
    x = np.linspace(-1, 1, CELLS, dtype=np.float32)[None].repeat(CELLS, 0)
    y = x.T
    rim = 0.95 - np.maximum(np.abs(x), np.abs(y))
    kinds = (_blob, _polygon, _bars, _ring)
    return [
        (np.clip(np.minimum(kinds[i % 4](rng, x, y), rim), -0.2, 0.2) * (CELLS / 2)).astype(np.float32)
        for i in range(SHAPES)
    ]


def _blob(rng: Rng, x: Field, y: Field) -> Field:
    angle = np.arctan2(y, x)
    radius = np.full_like(x, rng.uniform(0.5, 0.7))
    for k in range(2, 8):
        radius += rng.normal(0, 0.3 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    blob: Field = (np.maximum(radius, 0.15) - np.hypot(x, y)) * np.float32(0.8)
    return blob


def _polygon(rng: Rng, x: Field, y: Field) -> Field:
    sides = int(rng.integers(3, 8))
    angles = (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) * (2 * np.pi / sides)
    faces = [rng.uniform(0.35, 0.75) - np.cos(a) * x - np.sin(a) * y for a in angles]
    return np.asarray(np.minimum.reduce(faces), np.float32)


def _bars(rng: Rng, x: Field, y: Field) -> Field:
    """A plate and some thin bars: the legs and backs of chairs."""
    bars = []
    for i in range(int(rng.integers(3, 7))):
        half = (rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.3)) if i == 0 else (rng.uniform(0.3, 0.8), 0.05)
        turn = rng.normal(0, 0.15) + (np.pi / 2 if rng.random() < 0.6 else 0)
        at = rng.uniform(-0.5, 0.5, 2) if i else (0.0, 0.0)
        c, s = np.cos(turn), np.sin(turn)
        along, across = c * (x - at[0]) + s * (y - at[1]), c * (y - at[1]) - s * (x - at[0])
        bars.append(np.minimum(half[0] - np.abs(along), half[1] - np.abs(across)))
    return np.asarray(np.maximum.reduce(bars), np.float32)


def _ring(rng: Rng, x: Field, y: Field) -> Field:
    outer, share = _blob(rng, x, y), np.float32(rng.uniform(0.4, 0.8))
    hole: Field = -share * _blob(rng, x / share, y / share)
    return np.minimum(outer, hole)
