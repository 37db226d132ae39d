"""The scenes of rendered clips: a pile of layers, each with an exactly invertible map between image and texture.

A map is a similarity and a few *shear waves* (a shift along one direction that depends only on the coordinate across
it, as the coupling layers of NICE, Dinh et al. 2014). Both have closed inverses, so that picture, labels, flow,
occlusion and point tracks come from the same maps and agree: forward(inverse(x)) = x to better than 0.01 pixel
(float32 rounding).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.textures import Field, Rng, Texture
from pixeltrail.errors import InputError

STORY = 48
"""Frames in which, at speed 1, objects cross the scene and turn by more than a right angle."""

Box = tuple[int, int, int, int]
"""Rows y0:y1 and columns x0:x1, as (y0, y1, x0, x1)."""

_ANGLES = np.linspace(-np.pi, np.pi, 513, dtype=np.float32)
_RAYS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])


@dataclass(frozen=True, slots=True, eq=False)
class Wave:
    """Shift along ``direction`` (radians) by amplitude · sin(number · across + phase) texture pixels, T values each."""

    direction: float
    number: float
    amplitude: Field
    phase: Field


@dataclass(slots=True, eq=False)
class Layer:
    """One textured thing. Texture coordinates (u, v) have their origin at the layer's centre.

    ``centre`` (T, 2), ``angle`` (T,) radians and ``scale`` (T,) place it in each image; ``outline`` (513,) is its
    radius at the angles -pi to pi in texture pixels (None: endless).
    """

    label: int
    centre: Field
    angle: Field
    scale: Field
    waves: tuple[Wave, ...]
    outline: Field | None = None
    texture: Texture | None = None
    _steep: Field = field(init=False, repr=False)
    _bounds: dict[int, tuple[float, float, float, float]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.outline is not None:
            slope = np.gradient(self.outline, _ANGLES) / self.outline
            self._steep = f32(1 / np.sqrt(1 + slope * slope))

    def inverse(self, t: int, x: Field, y: Field) -> tuple[Field, Field]:
        """Image to texture at frame ``t``; x and y broadcast."""
        c, s = np.float32(np.cos(self.angle[t]) / self.scale[t]), np.float32(np.sin(self.angle[t]) / self.scale[t])
        x, y = x - self.centre[t, 0], y - self.centre[t, 1]
        return self._shear(t, c * x + s * y, c * y - s * x, 1)

    def forward(self, t: int, u: Field, v: Field) -> tuple[Field, Field]:
        """Texture to image at frame ``t``: the exact inverse of ``inverse``."""
        c, s = np.float32(np.cos(self.angle[t]) * self.scale[t]), np.float32(np.sin(self.angle[t]) * self.scale[t])
        u, v = self._shear(t, u, v, -1)
        return c * u - s * v + self.centre[t, 0], s * u + c * v + self.centre[t, 1]

    def _shear(self, t: int, u: Field, v: Field, sign: int) -> tuple[Field, Field]:
        for wave in self.waves[::sign]:
            c, s = np.float32(np.cos(wave.direction)), np.float32(np.sin(wave.direction))
            shift = np.sin(np.float32(wave.number) * (c * v - s * u) + wave.phase[t])
            shift *= sign * wave.amplitude[t]
            u, v = u + c * shift, v + s * shift
        return u, v

    def covers(self, u: Field, v: Field) -> NDArray[np.bool_]:
        """Whether texture points lie within the outline."""
        radius, edge, _ = self._edge(u, v)
        return radius <= edge

    def depth(self, t: int, u: Field, v: Field) -> tuple[Field, Field]:
        """About how many image pixels texture points lie within the outline (negative: outside), and their distance
        from the centre as a fraction of the outline's."""
        radius, edge, steep = self._edge(u, v)
        return (edge - radius) * (steep * self.scale[t]), radius / edge

    def _edge(self, u: Field, v: Field) -> tuple[Field, Field, Field]:
        """Distance from the centre, the outline's in the same direction, and the cosine of its slant to the circle."""
        assert self.outline is not None
        place = (np.arctan2(v, u) + np.float32(np.pi)) * np.float32(512 / (2 * np.pi) * (1 - 1e-6))
        index = place.astype(np.intp)
        edge = self.outline.take(index)
        edge += (place - index.astype(np.float32)) * (self.outline.take(index + 1) - edge)
        return np.sqrt(u * u + v * v), edge, self._steep.take(index)

    def box(self, t: int, height: int, width: int, margin: float = 2.0) -> Box:
        """The part of the image that the layer may cover at frame ``t``; empty where it is outside."""
        if self.outline is None:
            return 0, height, 0, width
        if t not in self._bounds:
            x, y = self.forward(t, *(self.outline * _RAYS))
            self._bounds[t] = float(y.min()), float(y.max()), float(x.min()), float(x.max())
        top, bottom, left, right = self._bounds[t]
        y0, y1 = (min(max(int(edge), 0), height) for edge in (top - margin, bottom + margin + 1))
        x0, x1 = (min(max(int(edge), 0), width) for edge in (left - margin, right + margin + 1))
        return y0, y1, x0, x1

    def extent(self, size: tuple[int, int]) -> tuple[float, float]:
        """How far from its centre, along (v, u), the texture is ever needed in an image of ``size`` (height, width)."""
        if self.outline is not None:
            along_u, along_v = np.abs(self.outline * _RAYS).max(1)
        else:
            y, x = (np.linspace(-1, n, 24, dtype=np.float32) for n in size)
            seen = np.stack([self.inverse(t, x[None], y[:, None]) for t in range(len(self.angle))])
            along_u, along_v = np.abs(seen).max((0, 2, 3))
        return float(along_v), float(along_u)


def compose(
    rng: Rng, frames: int, size: tuple[int, int], *, objects: int, scenery: int, speed: float, deform: float
) -> list[Layer]:
    """Random layers from back to front, without textures: background, scenery behind, objects, scenery in front."""
    height, width = size
    clock = (rng.uniform(0, 1) + speed / STORY * np.arange(frames)).astype(np.float32)
    for _ in range(20):
        back, behind, front = _camera(rng, clock, size, scenery)
        middle = _actors(rng, clock, size, objects, deform)
        layers = [back, *behind, *middle, *front]
        if _all_seen(layers, size):
            return layers
    raise InputError(f"{objects} objects find no room in {width}x{height} pixels; fewer objects or a larger size")


def _camera(rng: Rng, clock: Field, size: tuple[int, int], scenery: int) -> tuple[Layer, list[Layer], list[Layer]]:
    """The background and the things that stand in it, all seen by one moving camera."""
    height, width = size
    sway = [curve(rng, clock, 0.3, 0.8) for _ in range(5)]
    pan = np.stack([0.22 * height * sway[0], 0.08 * height * sway[1]], 1)
    angle, zoom = 0.05 * sway[2], np.exp(0.1 * sway[3])
    middle = np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    # parallax of a ground that comes nearer towards the bottom: a shift along the rows that grows down the image
    tilt = Wave(0.0, np.pi / 2 / height, f32(0.06 * height * sway[4]), np.zeros_like(clock))
    back = Layer(0, f32(middle - pan), f32(angle), f32(zoom), (tilt,))
    turn = np.stack([np.stack([np.cos(angle), -np.sin(angle)], 1), np.stack([np.sin(angle), np.cos(angle)], 1)], 1)

    def stand(near: float, outline: Field, x: float, y: float) -> Layer:
        place = np.array([x * width, y * height]) - middle + near * pan[0]  # where it stands on frame 0
        centre = middle + zoom[:, None] * np.einsum("tij,tj->ti", turn, place - near * pan)
        bend = Wave(0.0, 3.0 / height, f32(0.012 * height * curve(rng, clock, 1.0, 2.0)), np.zeros_like(clock))
        return Layer(0, f32(centre), f32(angle), f32(zoom), (bend,), outline)

    behind, front = [], []
    for i in range(scenery):
        x = rng.uniform(0.02, 0.98)
        if i % 3 == 2:  # a post in front
            post = _post(rng, rng.uniform(0.03, 0.05) * width, rng.uniform(0.85, 1.1) * height)
            front.append(stand(rng.uniform(1.7, 2.2), post, x, rng.choice([-0.1, 1.1])))
        else:  # a bush or stone behind
            behind.append(
                stand(rng.uniform(1.1, 1.5), _outline(rng, rng.uniform(0.1, 0.2) * height), x, rng.uniform(0.1, 0.9))
            )
    return back, behind, front


def _actors(rng: Rng, clock: Field, size: tuple[int, int], objects: int, deform: float) -> list[Layer]:
    """The labelled objects from back to front: each on an ellipse about the image's middle, so that paths cross."""
    height, width = size
    short, crowd = min(height, width), min(1.0, np.sqrt(3 / max(objects, 1)))
    made, starts = [], np.empty((0, 3))
    for label in rng.permutation(objects) + 1:
        radius = max(3.0, rng.uniform(0.14, 0.22) * short * crowd)
        hub = np.array([width, height]) * rng.uniform(0.4, 0.6, 2)
        choices = 6 + 2 * objects  # of so many paths, the one that starts farthest from the others' first points
        reach = np.array([width, height]) * rng.uniform((0.18, 0.12), (0.36, 0.32), (choices, 2))
        rate = 2 * np.pi * rng.choice([-1, 1], choices) * rng.uniform(0.22, 0.42, choices)
        phase = rng.uniform(0, 2 * np.pi, choices)
        first = hub + reach * np.stack([np.cos(phase), np.sin(phase)], 1)
        gaps = np.hypot(*(first[:, None] - starts[:, :2]).transpose(2, 0, 1)) - starts[:, 2]
        best = int(gaps.min(1, initial=np.inf).argmax())
        starts = np.vstack([starts, [*first[best], radius]])
        turn = phase[best] + rate[best] * (clock - clock[0])
        wobble = np.stack([curve(rng, clock, 0.8, 1.6), curve(rng, clock, 0.8, 1.6)], 1)
        wobble -= wobble[0]
        centre = hub + reach[best] * np.stack([np.cos(turn), np.sin(turn)], 1) + 0.03 * short * wobble
        spin = rng.choice([-1, 1]) * rng.uniform(1.9, 3.6) * clock
        angle = rng.uniform(0, 2 * np.pi) + spin
        scale = np.exp(0.18 * curve(rng, clock, 0.4, 0.9))
        waves = []
        for direction in rng.uniform(0, np.pi) + np.array([0.0, 1.7]):
            number = rng.uniform(1.2, 2.4) / radius
            phase = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * rng.uniform(2, 5) * clock
            amplitude = deform * 0.16 * radius * curve(rng, clock, 0.8, 1.6)
            waves.append(Wave(float(direction), number, f32(amplitude), f32(phase)))
        shape = _outline(rng, radius)
        made.append(Layer(int(label), f32(centre), f32(angle), f32(scale), tuple(waves), shape))
    return made


def curve(rng: Rng, clock: Field, slow: float, fast: float) -> Field:
    """A smooth random function of time in [-1, 1] that goes through ``slow`` to ``fast`` cycles in one story."""
    rates, phases = rng.uniform(slow, fast, 2), rng.uniform(0, 2 * np.pi, 2)
    waves = np.sin(2 * np.pi * rates * clock[:, None] + phases)
    return f32(waves @ np.array([0.65, 0.35]))


def _outline(rng: Rng, radius: float) -> Field:
    """A smooth closed outline of about the area of a disc of ``radius``: a Fourier blob or a rounded polygon."""
    if rng.uniform() < 0.65:
        k = np.arange(2, 7)
        waves = rng.normal(0, 0.42, 5) / k**1.1
        shape = np.exp((waves * np.cos(k * _ANGLES[:, None] + rng.uniform(0, 2 * np.pi, 5))).sum(1))
    else:
        sides = int(rng.integers(3, 7))
        normals = 2 * np.pi * (np.arange(sides) + rng.uniform(-0.18, 0.18, sides)) / sides
        walls = np.maximum(np.cos(_ANGLES[:, None] - normals), 0) / rng.uniform(0.8, 1.2, sides)
        shape = (walls**8).sum(1) ** (-1 / 8)  # the half-planes' intersection, its corners rounded by the 8-norm
    shape[-1] = shape[0]
    return f32(radius * shape / np.sqrt((shape**2).mean()))


def _post(rng: Rng, wide: float, tall: float) -> Field:
    """The outline of a crooked upright post with rounded ends: half its width and height."""
    sides = np.abs(np.cos(_ANGLES) / wide) ** 5 + np.abs(np.sin(_ANGLES) / tall) ** 5
    knots = 1 + 0.12 * np.cos(np.arange(1, 4) * _ANGLES[:, None] + rng.uniform(0, 2 * np.pi, 3)).sum(1)
    return f32(sides ** (-1 / 5) * knots)


def _all_seen(layers: list[Layer], size: tuple[int, int]) -> bool:
    """Whether a third of each object, and at least 9 pixels of it, is seen in frame 0."""
    height, width = size
    top, areas = np.zeros(size, np.uint8), np.zeros(256)
    for layer in layers[1:]:
        y0, y1, x0, x1 = layer.box(0, height, width)
        x, y = np.arange(x0, x1, dtype=np.float32)[None], np.arange(y0, y1, dtype=np.float32)[:, None]
        top[y0:y1, x0:x1][layer.covers(*layer.inverse(0, x, y))] = layer.label
        assert layer.outline is not None
        areas[layer.label] = np.pi * (layer.outline[1:] ** 2).mean() * layer.scale[0] ** 2
    seen = np.bincount(top.ravel(), minlength=256)
    return all(seen[layer.label] >= max(9, areas[layer.label] / 3) for layer in layers if layer.label)


def f32(values: NDArray[np.floating]) -> Field:
    return np.ascontiguousarray(values, np.float32)
