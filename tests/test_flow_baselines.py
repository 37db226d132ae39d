"""Classical flow on known shifts and real pairs, and masks carried along it."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from pixeltrail.errors import InputError, ShapeError, UnknownNameError
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.flow.classical import dis, farneback
from pixeltrail.flow.propagate import identity, propagate_labels
from pixeltrail.types import LabelMap

STEP = (3, -2)  # (x, y) in pixels per frame


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """(160, 220, 3): smooth enough for every method."""
    coarse = np.random.default_rng(0).integers(0, 256, (27, 37, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((220, 160), Image.Resampling.BICUBIC))


def view(texture: np.ndarray, t: int) -> np.ndarray:
    """(100, 140, 3): what is seen at time t while everything in view moves by STEP each frame."""
    top, left = 30 - STEP[1] * t, 40 - STEP[0] * t
    return texture[top : top + 100, left : left + 140]


@pytest.mark.parametrize("flow", [farneback, dis])
def test_known_shift(flow, texture):
    pytest.importorskip("cv2")
    found = flow(view(texture, 0), view(texture, 1))
    assert found.shape == (100, 140, 2)
    assert found.dtype == np.float32
    error = np.linalg.norm(found - STEP, axis=-1)[10:-10, 10:-10]
    assert error.mean() < 0.1
    back = flow(view(texture, 1), view(texture, 0))[10:-10, 10:-10]
    assert np.linalg.norm(back + STEP, axis=-1).mean() < 0.1


@pytest.mark.parametrize(("flow", "limit"), [(farneback, 2.0), (dis, 1.0)])
def test_sintel_pair(real_data, flow, limit):
    """Alley 1, whose mean motion is 2.9 pixels: both see most of it, in the field's convention of signs."""
    pytest.importorskip("cv2")
    folder = real_data / "flow" / "sintel"
    first, second = (np.asarray(Image.open(next(folder.rglob(f"clean/alley_1/frame_000{t}.png")))) for t in (1, 2))
    raw = next(folder.rglob("flow/alley_1/frame_0001.flo")).read_bytes()
    width, height = np.frombuffer(raw, "<i4", 2, offset=4)
    truth = np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2)
    assert np.linalg.norm(flow(first, second) - truth, axis=-1).mean() < limit


def test_refusals(texture):
    pytest.importorskip("cv2")
    a, b = view(texture, 0), view(texture, 1)
    for flow in (farneback, dis):
        for wrong in (b[:50], b[..., 0], b.astype(np.float32)):
            with pytest.raises(ShapeError, match="two frames"):
                flow(a, wrong)
    with pytest.raises(UnknownNameError, match=r"'mediun'; did you mean 'medium'"):
        dis(a, b, preset="mediun")
    with pytest.raises(InputError, match=r"^dis: frames of 200x16 are too small; sides of at least 32"):
        dis(np.zeros((16, 200, 3), np.uint8), np.zeros((16, 200, 3), np.uint8))
    with pytest.raises(InputError, match="OpenCV refused") as caught:
        farneback(a, b, pyr_scale=2.0)
    assert "\n" not in str(caught.value)


def test_without_opencv(monkeypatch, texture):
    monkeypatch.setitem(sys.modules, "cv2", None)
    for flow in (farneback, dis):
        with pytest.raises(InputError, match=r"install pixeltrail\[classical\]"):
            flow(view(texture, 0), view(texture, 1))


def block(top: int, left: int) -> np.ndarray:
    ids = np.zeros((100, 140), np.uint8)
    ids[top : top + 30, left : left + 40] = 7
    ids[top + 30 : top + 40, left : left + 40] = 254
    return ids


def constant(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The true flow from a view to the one before."""
    return np.broadcast_to(-np.asarray(STEP, np.float32), (*first.shape[:2], 2))


def test_true_flow_carries_labels_exactly(texture):
    frames = [view(texture, t) for t in range(6)]
    masks = list(propagate_labels(iter(frames), LabelMap(block(40, 30)), constant))
    assert len(masks) == 6
    for t, ids in enumerate(masks):
        np.testing.assert_array_equal(ids, block(40 + STEP[1] * t, 30 + STEP[0] * t))


@pytest.mark.parametrize("flow", [farneback, dis])
def test_estimated_flow_carries_labels(flow, texture):
    pytest.importorskip("cv2")
    frames = [view(texture, t) for t in range(6)]
    *_, last = propagate_labels(frames, LabelMap(block(40, 30)), flow)
    truth = block(40 + STEP[1] * 5, 30 + STEP[0] * 5)
    assert set(np.unique(last)) == {0, 7, 254}  # never a blend
    assert jaccard(last == 7, truth == 7) > 0.95


def test_what_enters_the_image_is_background(texture):
    everywhere = LabelMap(np.full((100, 140), 3, np.uint8))
    _, ids = propagate_labels([view(texture, t) for t in range(2)], everywhere, constant)
    assert (ids == 0).sum() == 100 * 140 - 98 * 137
    assert (ids[:-2, 3:] == 3).all()

    def undefined(first, second):
        return np.full((100, 140, 2), np.nan, np.float32)

    _, ids = propagate_labels([view(texture, t) for t in range(2)], everywhere, undefined)
    assert not ids.any()


def test_identity_and_void(texture):
    labels = block(40, 30)
    labels[0] = 255
    expected = block(40, 30)
    for ids in identity([view(texture, t) for t in range(3)], LabelMap(labels)):
        np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(next(propagate_labels([view(texture, 0)], LabelMap(labels), constant)), expected)


def test_baselines_read_frames_one_by_one(texture):
    endless = itertools.cycle([view(texture, 0)])
    for masks in (
        identity(endless, LabelMap(block(40, 30))),
        propagate_labels(endless, LabelMap(block(40, 30)), constant),
    ):
        assert len(list(itertools.islice(masks, 3))) == 3


def test_frame_of_another_size(texture):
    masks = propagate_labels([view(texture, 0), view(texture, 1)[:90]], LabelMap(block(40, 30)), constant)
    with pytest.raises(ShapeError, match=r"^frame 1: the size is 140x90, the first mask is 140x100"):
        list(masks)
