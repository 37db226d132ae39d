"""Rendered clips: the picture, the labels, the flow, the occlusion and the tracks are one truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pixeltrail.data.scene import Layer, compose
from pixeltrail.data.synthetic import Rendered, render
from pixeltrail.data.textures import KINDS, crop, noise, texture
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.types import Image

SEEDS = (0, 1, 2, 3)
SIZE = (96, 128)


def small(seed: int, **settings: object) -> Rendered:
    return render(seed, **({"frames": 5, "size": SIZE, "speed": 2.0, "noise": 0.0} | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def demo() -> Rendered:
    return render(15)


def grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


def sampled(image: Image, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bilinear, from the formula."""
    height, width = image.shape[:2]
    ix, iy = np.clip(np.floor(x), 0, width - 2).astype(int), np.clip(np.floor(y), 0, height - 2).astype(int)
    fx, fy = (x - ix)[..., None], (y - iy)[..., None]
    up = image[iy, ix] * (1 - fx) + image[iy, ix + 1] * fx
    return up * (1 - fy) + (image[iy + 1, ix] * (1 - fx) + image[iy + 1, ix + 1] * fx) * fy


def near(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Pixels within ``reach`` of a true one, in a square."""
    height, width = mask.shape
    padded = np.pad(mask, reach)
    steps = range(2 * reach + 1)
    return np.any([padded[dy : dy + height, dx : dx + width] for dy in steps for dx in steps], axis=0)


def edges(flow: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the flow jumps: outlines of moving layers, scenery included."""
    jump = np.zeros(flow.shape[:2], bool)
    jump[:, 1:] |= np.abs(np.diff(flow, axis=1)).max(2) > 0.3
    jump[1:] |= np.abs(np.diff(flow, axis=0)).max(2) > 0.3
    return near(jump, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_maps_are_inverse_to_each_other(seed: int) -> None:
    layers = compose(np.random.default_rng(seed), 48, (240, 426), objects=3, scenery=3, speed=1.0, deform=1.0)
    x, y = grid(240, 426)
    for layer in layers:
        for t in (0, 17, 47):
            back = layer.forward(t, *layer.inverse(t, x, y))
            assert np.hypot(back[0] - x, back[1] - y).max() < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_flow_takes_the_next_frame_back_onto_this_one(seed: int) -> None:
    clip = small(seed, lighting=0.0)
    x, y = grid(*SIZE)
    for t in range(4):
        nx, ny = x + clip.flow[t, ..., 0], y + clip.flow[t, ..., 1]
        inside = (nx >= 0) & (nx <= SIZE[1] - 1) & (ny >= 0) & (ny <= SIZE[0] - 1)
        good = inside & ~near(clip.occluded[t] & inside, 2) & ~edges(clip.flow[t])
        assert good.mean() > 0.4
        here = clip.frames[t].astype(float)
        error = np.abs(sampled(clip.frames[t + 1], nx, ny) - here)[good].mean()
        still = np.abs(clip.frames[t + 1] - here)[good].mean()
        off = np.abs(sampled(clip.frames[t + 1], nx + 0.5, ny + 0.5) - here)[good].mean()
        assert error < 6  # grey levels: two resamplings of a texture with detail down to the pixel
        assert error < 0.5 * still
        assert error < off  # half a pixel beside it is worse: the truth is no approximation


@pytest.mark.parametrize("seed", SEEDS)
def test_labels_move_with_the_flow(seed: int) -> None:
    clip = small(seed)
    x, y = grid(*SIZE)
    for t in range(4):
        nx, ny = np.rint(x + clip.flow[t, ..., 0]).astype(int), np.rint(y + clip.flow[t, ..., 1]).astype(int)
        seen = ~clip.occluded[t]
        there = clip.labels[t + 1][ny[seen], nx[seen]]
        agree = there == clip.labels[t][seen]
        assert agree.mean() > 0.97  # rounding to a pixel errs on outlines
        inner = seen & ~near(_outlines(clip.labels[t]), 2) & ~edges(clip.flow[t])
        border = near(_outlines(clip.labels[t + 1]), 1)[ny[inner], nx[inner]]
        assert (clip.labels[t + 1][ny[inner], nx[inner]] == clip.labels[t][inner])[~border].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_point_is_hidden_exactly_where_something_else_is_seen(seed: int) -> None:
    clip = small(seed, scenery=0, objects=6, speed=5.0)  # without scenery, labels name the layers
    x, y = grid(*SIZE)
    hidden_inside = 0
    for t in range(4):
        nx, ny = x + clip.flow[t, ..., 0], y + clip.flow[t, ..., 1]
        inside = (nx >= -0.5) & (nx < SIZE[1] - 0.5) & (ny >= -0.5) & (ny < SIZE[0] - 0.5)
        assert clip.occluded[t][~inside].all()
        jx, jy = np.rint(nx[inside]).astype(int), np.rint(ny[inside]).astype(int)
        clear = ~near(_outlines(clip.labels[t + 1]), 1)[jy, jx]
        changed = clip.labels[t + 1][jy, jx] != clip.labels[t][inside]
        assert (changed == clip.occluded[t][inside])[clear].all()
        hidden_inside += int(changed[clear].sum())
    assert hidden_inside > 50


def _outlines(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    out = np.zeros(labels.shape, bool)
    out[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    out[1:] |= labels[1:] != labels[:-1]
    return out


@pytest.mark.parametrize("seed", SEEDS)
def test_tracks_step_along_the_flow(seed: int) -> None:
    clip = small(seed, points=200)
    xy, visible = clip.tracks.xy, clip.tracks.visible
    assert xy.shape == (5, 200, 2)
    assert visible[0].all()
    np.testing.assert_allclose(xy[0], np.rint(xy[0]), atol=0.01)  # chosen at pixel centres
    ix, iy = np.rint(xy[0]).astype(int).T
    np.testing.assert_allclose(xy[1], xy[0] + clip.flow[0][iy, ix], atol=0.02)
    assert (visible[1] == ~clip.occluded[0][iy, ix]).all()
    first = clip.labels[0][iy, ix]
    for t in range(1, 5):
        jx, jy = np.rint(xy[t][visible[t]]).astype(int).T
        border = near(_outlines(clip.labels[t]), 1)[jy, jx]
        assert (clip.labels[t][jy, jx] == first[visible[t]])[~border].all()


def test_the_seed_decides_every_byte() -> None:
    one, same, other = small(7, noise=2.0), small(7, noise=2.0), small(8, noise=2.0)
    for name in ("frames", "labels", "flow", "occluded"):
        assert getattr(one, name).tobytes() == getattr(same, name).tobytes()
    assert one.tracks.xy.tobytes() == same.tracks.xy.tobytes()
    assert one.frames.tobytes() != other.frames.tobytes()
    assert one.labels.tobytes() != other.labels.tobytes()


@given(seed=st.integers(0, 10**6), objects=st.integers(0, 12), frames=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_every_object_is_seen_on_the_first_frame(seed: int, objects: int, frames: int) -> None:
    clip = render(seed, frames=frames, size=(80, 112), objects=objects, speed=4.0)
    assert clip.frames.shape == (frames, 80, 112, 3)
    assert clip.flow.shape == (frames - 1, 80, 112, 2)
    assert clip.occluded.shape == (frames - 1, 80, 112)
    assert set(np.unique(clip.labels)) <= set(range(objects + 1))
    assert set(range(1, objects + 1)) <= set(np.unique(clip.labels[0]))
    assert np.isfinite(clip.flow).all()


def test_the_clip_of_the_demo_is_hard_enough(demo: Rendered) -> None:
    areas = np.stack([(demo.labels == i).sum((1, 2)) for i in (1, 2, 3)], 1)
    lowest = areas.argmin(0)
    half_hidden = [
        areas[t, i] < 0.5 * areas[: t + 1, i].max() and areas[t, i] < 0.6 * areas[t:, i].max()
        for i, t in enumerate(lowest)
    ]
    assert any(half_hidden)  # an object goes at least half out of sight, and comes back
    assert (areas > 0).all()
    assert not demo.tracks.visible.all()
    assert np.abs(demo.flow).max() > 5


def test_objects_turn_and_deform() -> None:
    layers = compose(np.random.default_rng(0), 48, (240, 426), objects=3, scenery=0, speed=1.0, deform=1.0)
    stiff = compose(np.random.default_rng(0), 48, (240, 426), objects=3, scenery=0, speed=1.0, deform=0.0)
    for soft, hard in zip(layers[1:], stiff[1:], strict=True):
        assert abs(soft.angle[-1] - soft.angle[0]) > np.pi / 2
        assert _bending(soft) > 0.05
        assert _bending(hard) < 0.01


def _bending(layer: Layer) -> float:
    """How far the inner distances of a frame's points differ from the first frame's, after the scale."""
    assert layer.outline is not None
    a = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = np.float32(0.8) * layer.outline.min()
    u, v = (radius * np.cos(a)).astype(np.float32), (radius * np.sin(a)).astype(np.float32)

    def spread(t: int) -> NDArray[np.float32]:
        x, y = layer.forward(t, u, v)
        apart: NDArray[np.float32] = np.hypot(x - np.roll(x, 12), y - np.roll(y, 12)) / layer.scale[t]
        return apart

    return max(float(np.abs(spread(t) / spread(0) - 1).max()) for t in (12, 24, 36, 47))


def test_own_images_become_the_textures() -> None:
    red, tiny = np.full((300, 400, 3), (200, 30, 30), np.uint8), np.full((7, 5, 3), (180, 20, 20), np.uint8)
    clip = small(3, textures=[red, tiny], lighting=0.0)
    assert (clip.frames[..., 0] >= 179).all()
    assert (clip.frames[..., 1:] <= 31).all()
    assert clip.labels.any()


def test_a_crop_keeps_the_image_where_it_is_large_enough() -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (48, 64, 3))
    piece = crop(np.random.default_rng(0), [ramp], 40, 50)
    assert piece.shape == (40, 50, 3)
    assert (np.diff(piece[0, :, 0]) == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_textures_have_natural_spectra(kind: str) -> None:
    image = texture(np.random.default_rng(5), 128, 128, kind=kind)
    assert image.shape == (128, 128, 3)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 255
    assert image.std((0, 1)).max() > 8
    power = np.abs(np.fft.fft2(image.mean(2) - image.mean())) ** 2
    f = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None])
    assert power[(f > 0.01) & (f < 0.1)].mean() > 5 * power[f > 0.3].mean()


def test_noise_has_the_slope_that_was_asked() -> None:
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
    for slope in (0.5, 1.0, 2.0):
        amplitude = np.abs(np.fft.rfft2(noise(rng, 256, 256, slope)))
        use = (f > 0.02) & (f < 0.4)
        fitted = np.polyfit(np.log(f[use]), np.log(amplitude[use]), 1)[0]
        assert fitted == pytest.approx(-slope, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"frames": 0}, {"size": (4, 100)}, {"objects": 33}, {"objects": -1}, {"speed": float("nan")}, {"blur": 3.0},
        {"textures": []}, {"objects": 32, "size": (16, 16)},
    ],
)  # fmt: skip
def test_arguments_that_cannot_be_drawn_are_refused_in_one_line(settings: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        small(0, **settings)
    assert "\n" not in str(caught.value)


def test_a_texture_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ShapeError, match="texture"):
        small(0, textures=[np.zeros((10, 10), np.uint8)])


def test_blur_and_noise_do_what_they_say() -> None:
    plain, soft, rough = (small(2, frames=1, **s).frames[0].astype(float) for s in ({}, {"blur": 1.0}, {"noise": 6.0}))
    assert np.abs(np.diff(soft, axis=1)).mean() < 0.8 * np.abs(np.diff(plain, axis=1)).mean()
    middle = (plain > 30) & (plain < 225)
    assert (rough - plain)[middle].std() == pytest.approx(6.0, abs=0.3)
