"""The laws of flow algebra, on smooth flows that are known exactly and on Sintel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pixeltrail.data.flowfile import read_flow
from pixeltrail.data.images import read_image
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.flow.algebra import (
    accumulate,
    compose,
    confidence,
    hold_still,
    inside,
    invert,
    occlusion,
    round_trip,
    splat,
    splat_mean,
    warp,
)
from pixeltrail.flow.classical import dis

SIZE = (60, 80)
INNER = (slice(12, -12), slice(12, -12))
Array = NDArray[np.float32]


def smooth(seed: int = 0, strength: float = 4.0) -> Array:
    """Waves a few dozen pixels long."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SIZE, np.float32)
    flow = np.zeros((*SIZE, 2), np.float32)
    for channel, _ in itertools.product((0, 1), range(2)):
        a, b, phase = (*rng.uniform(-0.1, 0.1, 2), rng.uniform(0, 6))
        flow[..., channel] += strength / 2 * np.sin(a * x + b * y + phase)
    return flow


def constant(dx: float, dy: float) -> Array:
    return np.broadcast_to(np.array([dx, dy], np.float32), (*SIZE, 2)).copy()


def texture(seed: int = 0) -> Array:
    y, x = np.indices(SIZE, np.float32)
    return np.stack([np.sin(0.2 * x + 0.1 * k * y + seed) for k in range(3)], -1)


def test_nothing_is_neutral():
    flow, zero = smooth(), constant(0, 0)
    np.testing.assert_array_equal(compose(flow, zero), flow)
    np.testing.assert_allclose(compose(zero, flow), flow, atol=1e-5)
    np.testing.assert_allclose(warp(texture(), zero), texture(), atol=1e-5)
    np.testing.assert_allclose(splat(texture(), zero), texture(), atol=1e-6)
    np.testing.assert_allclose(invert(zero), zero, atol=1e-6)


def test_warp_looks_up_by_the_definition():
    values, flow = texture(), smooth(1)
    found = warp(values, flow)
    for y, x in ((20, 30), (31, 44), (12, 65)):
        px, py = x + flow[y, x, 0], y + flow[y, x, 1]
        x0, y0 = int(px), int(py)
        a, b = px - x0, py - y0
        upper = (1 - a) * values[y0, x0] + a * values[y0, x0 + 1]
        lower = (1 - a) * values[y0 + 1, x0] + a * values[y0 + 1, x0 + 1]
        np.testing.assert_allclose(found[y, x], (1 - b) * upper + b * lower, atol=1e-4)
    shifted = warp(values, constant(3, -2))
    np.testing.assert_allclose(shifted[2:, :-3], values[:-2, 3:], atol=1e-5)
    assert (warp(np.ones(SIZE, np.float32), constant(500, 0), padding="zeros") == 0).all()
    np.testing.assert_allclose(warp(values, constant(500, 0)), np.broadcast_to(values[:, -1:], values.shape), atol=1e-6)


def test_own_flow_recovers_the_frame():
    """second(x + flow(x)) is first(x): the second frame is made of the first by the inverse flow."""
    flow = smooth(2)
    y, x = np.indices(SIZE, np.float32)
    first = np.sin(0.2 * (x + flow[..., 0])) + np.cos(0.15 * (y + flow[..., 1]))
    second = np.sin(0.2 * x) + np.cos(0.15 * y)
    assert np.abs(warp(second, flow) - first)[INNER].max() < 0.02
    back = invert(flow)
    assert np.abs(warp(first, np.nan_to_num(back)) - second)[INNER].max() < 0.02


def test_inverse():
    for seed in range(3):
        flow = smooth(seed)
        back = invert(flow)
        assert np.isfinite(back[INNER]).all()
        assert np.nanmax(np.abs(compose(flow, back)[INNER])) < 0.05  # there and back
        again = invert(back)
        assert np.abs(again - flow)[INNER].max() < 0.1
    back = invert(constant(5, 0))
    np.testing.assert_allclose(back[:, 5:], constant(-5, 0)[:, 5:], atol=1e-5)
    assert np.isnan(back[:, :5]).all()  # nothing came here


def test_inverse_keeps_what_lies_in_front():
    """A block moves right over a still background: of what lands on one place, the more important shows."""
    flow = constant(0, 0)
    flow[20:40, 20:40, 0] = 8
    front = np.zeros(SIZE, np.float32)
    front[20:40, 20:40] = 50
    back = invert(flow, front)
    np.testing.assert_allclose(back[22:38, 30:46, 0], -8, atol=1e-4)
    assert np.isnan(back[22:38, 20:28]).all()  # uncovered
    behind = invert(flow, -front)
    np.testing.assert_allclose(behind[22:38, 42:46, 0], 0, atol=1e-4)


def test_chains():
    steps = [constant(1, 0.5), constant(-2, 1), constant(4, -3)]
    for total, wanted in zip(accumulate(steps), ((1, 0.5), (-1, 1.5), (3, -1.5)), strict=True):
        np.testing.assert_allclose(total, constant(*wanted), atol=1e-5)
    assert len(list(itertools.islice(accumulate(itertools.repeat(constant(0, 0))), 4))) == 4  # one at a time
    a, b, c = (smooth(seed, 2.0) for seed in range(3))
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    assert np.abs(left - right)[INNER].max() < 0.05  # up to interpolation


def test_splatting_conserves_mass():
    inner = np.zeros((*SIZE, 3), np.float32)
    inner[INNER] = np.random.default_rng(0).random((*inner[INNER].shape,))
    landed = splat(inner, smooth(3))
    np.testing.assert_allclose(landed.sum((0, 1)), inner.sum((0, 1)), rtol=1e-5)
    shifted = splat(inner, constant(3, 2))
    np.testing.assert_allclose(shifted[2:, 3:], inner[:-2, :-3], atol=1e-6)
    dot = np.zeros(SIZE, np.float32)
    dot[30, 40] = 1
    quarter = splat(dot, constant(2.25, 0.5))
    np.testing.assert_allclose(quarter[30:32, 42:44], [[0.375, 0.125], [0.375, 0.125]], atol=1e-6)
    assert splat(dot, constant(1e30, 0)).sum() == 0


def test_splatting_is_the_adjoint_of_warping():
    """<splat(a), b> = <a, warp(b)> for any flow, where beyond the frame there is nothing."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, *SIZE)).astype(np.float32)
    flow = smooth(5, 20.0)
    assert np.vdot(splat(a, flow), b) == pytest.approx(np.vdot(a, warp(b, flow, padding="zeros")), rel=1e-4)


def test_means_of_what_lands():
    values = texture()
    mean, amount = splat_mean(values, constant(3, 0))
    np.testing.assert_allclose(mean[:, 3:], values[:, :-3], atol=1e-5)
    np.testing.assert_allclose(amount[:, 3:], 1, atol=1e-6)
    assert (amount[:, :3] == 0).all()
    assert (mean[:, :3] == 0).all()
    flow = constant(0, 0)
    flow[:, 10] = (1, 0)  # column 10 lands on column 11
    row = np.zeros(SIZE, np.float32)
    row[:, 10] = 1.0
    for importance, wanted in ((None, 0.5), (row * 40, 1.0), (row * -40, 0.0), (row * np.log(3), 0.75)):
        mean, amount = splat_mean(row, flow, importance)
        np.testing.assert_allclose(mean[:, 11], wanted, atol=1e-5)
        np.testing.assert_allclose(amount[:, 11], 2, atol=1e-6)


def test_round_trips():
    flow = smooth(4)
    back = invert(flow)
    assert round_trip(flow, back)[INNER].max() < 0.1
    np.testing.assert_allclose(round_trip(constant(3, 0), constant(0, -4)), 5, atol=1e-5)
    assert not occlusion(flow, back)[INNER].any()
    assert confidence(flow, back)[INNER].min() > 0.99
    hidden = occlusion(constant(5, 0), constant(-5, 0))
    assert hidden[:, -5:].all()
    assert not hidden[:, :-5].any()
    np.testing.assert_allclose(confidence(constant(1, 0), constant(0, 0))[:, :-1], np.exp(-0.5), atol=1e-5)
    assert (confidence(constant(1, 0), constant(-1, 0))[:, -1] == 0).all()
    assert inside(constant(-1, 0)).sum() == SIZE[0] * (SIZE[1] - 1)
    assert hidden.shape == SIZE
    assert hidden.dtype == bool


def test_unknown_flow_stays_unknown():
    flow = constant(1, 0)
    flow[30, 40] = np.nan
    assert np.isnan(warp(texture(), flow)[30, 40]).all()
    assert np.isnan(compose(flow, constant(1, 0))[30, 40]).all()
    assert np.isfinite(compose(flow, constant(1, 0))).sum() == 2 * (SIZE[0] * SIZE[1] - 1)
    assert splat(np.ones(SIZE, np.float32), flow)[30, 41] == 0
    assert np.isnan(invert(flow)[30, 41]).all()
    assert occlusion(flow, constant(-1, 0))[30, 40]
    assert confidence(flow, constant(-1, 0))[30, 40] == 0


def test_tensors_give_the_same_and_gradients():
    a, b = smooth(0), smooth(1)
    batch = [torch.from_numpy(np.stack([f, f[::-1].copy()])).permute(0, 3, 1, 2) for f in (a, b)]
    for function in (compose, splat, occlusion, confidence, round_trip):
        once, twice = function(a, b), function(*batch)
        np.testing.assert_array_equal(np.squeeze(twice[0].permute(1, 2, 0).numpy()), once)
        assert twice.shape[0] == 2
    np.testing.assert_array_equal(invert(batch[0])[0].permute(1, 2, 0).numpy(), invert(a))
    torch.manual_seed(0)
    values = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    flow = (torch.rand(1, 2, 5, 6, dtype=torch.float64) * 3 - 1.5).requires_grad_()
    assert torch.autograd.gradcheck(splat, (values, flow), atol=1e-5)
    importance = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: splat_mean(*x)[0], (values, flow, importance), atol=1e-5)


def test_a_still_camera_gives_no_motion():
    rng = np.random.default_rng(0)
    first = (120 + 60 * texture()).astype(np.uint8)
    second = (first + rng.integers(-1, 2, first.shape)).astype(np.uint8)
    wild = smooth()
    for window in (31, None):
        assert (hold_still(wild, first, second, noise=1.0, window=window) == 0).all()
        np.testing.assert_array_equal(hold_still(wild, first, 255 - first, noise=1.0, window=window), wild)
    second[20:30, 30:40] += 60  # something small moves: only around it there is motion
    held = hold_still(wild, first, second, noise=1.0, window=15)
    np.testing.assert_array_equal(held[25, 35], wild[25, 35])
    assert (held[:5] == 0).all()
    np.testing.assert_array_equal(hold_still(wild, first, first, noise=0), 0 * wild)


def test_sintel_with_its_own_occlusions(real_data):
    """Alley 1: estimated both ways, what is flagged is mostly what the data set says is hidden."""
    pytest.importorskip("cv2")
    root = real_data / "flow/sintel/training"
    first, second = (read_image(root / f"clean/alley_1/frame_000{t}.png") for t in (2, 3))
    truth = read_flow(root / "flow/alley_1/frame_0002.flo").flow
    hidden = read_image(root / "occlusions/alley_1/frame_0002.png")[..., 0] > 127
    forward, backward = dis(first, second), dis(second, first)
    found = occlusion(forward, backward)
    assert found[hidden].mean() > 5 * found[~hidden].mean()
    off = np.linalg.norm(forward - truth, axis=-1)
    sure = confidence(forward, backward) > 0.9
    assert off[sure].mean() < 0.5 * off[~sure].mean()
    brought = warp(second, truth)
    assert np.abs(brought - first)[~hidden].mean() < 0.25 * np.abs(second.astype(np.float32) - first)[~hidden].mean()
    back = invert(truth)
    assert np.nanmean(round_trip(truth, back)[~hidden]) < 0.2


def test_refusals():
    with pytest.raises(ShapeError, match="flow of their size"):
        warp(texture(), smooth()[:-1])
    with pytest.raises(ShapeError, match="flow of their size"):
        splat(texture(), texture())
    with pytest.raises(ShapeError, match=r"\(H, W, K\) or \(H, W\)"):
        compose(smooth()[None], smooth()[None])
    with pytest.raises(ShapeError, match="hold_still"):
        hold_still(smooth(), np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3), np.uint8))
    frame = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(InputError, match="odd window"):
        hold_still(smooth(), frame, frame, window=4)
