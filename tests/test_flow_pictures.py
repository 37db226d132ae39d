"""Pictures of flow: the tutorial's rendering, arrows, legends, errors, warping and pictures side by side."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pixeltrail.data.flowfile import read_flow
from pixeltrail.data.images import read_image
from pixeltrail.errors import ShapeError
from pixeltrail.flow.classical import farneback
from pixeltrail.visual.flow import (
    draw_arrows,
    error_map,
    flow_to_colour,
    flow_to_hsv,
    side_by_side,
    typical_length,
    warped,
    with_legend,
)

Flow = NDArray[np.float32]


def constant(dx: float, dy: float, size: tuple[int, int] = (64, 96)) -> Flow:
    return np.broadcast_to(np.array([dx, dy], np.float32), (*size, 2)).copy()


def around(radius: int = 24) -> Flow:
    """Every direction and length once."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    return np.stack((x, y), -1)


def test_the_tutorials_rendering(real_data):
    """The lines of the source document, with OpenCV's own angles and colours, differ by their coarser steps only."""
    cv2 = pytest.importorskip("cv2")
    folder = real_data / "flow/middlebury/other-data/RubberWhale"
    flow = farneback(*(read_image(folder / f"frame{t}.png") for t in (10, 11)))
    for field in (flow, around()):
        length, angle = cv2.cartToPolar(field[..., 0], field[..., 1])
        hsv = np.full((*field.shape[:2], 3), 255, np.uint8)
        hsv[..., 0] = angle * 180 / np.pi / 2
        hsv[..., 2] = cv2.normalize(length, None, 0, 255, cv2.NORM_MINMAX)
        difference = np.abs(flow_to_hsv(field) - cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(int))
        assert difference.mean() < 0.5
        assert (difference > 3).mean() < 0.02  # an angle just on the edge of its step
        assert difference.max() <= 10


def test_hues_of_the_tutorial():
    named = {(1, 0): (255, 0, 0), (0, 1): (128, 255, 0), (-1, 0): (0, 255, 255), (0, -1): (128, 0, 255)}
    for (dx, dy), colour in named.items():
        assert np.abs(flow_to_hsv(constant(5 * dx, 5 * dy), 5.0)[0, 0].astype(int) - colour).max() <= 1
    half = flow_to_hsv(constant(5, 0), 10.0)
    assert tuple(half[0, 0]) == (127, 0, 0)
    field = constant(3, 0)
    field[0, 0] = np.nan
    field[0, 1] = 1e10
    assert (flow_to_hsv(field, 3.0)[0, :2] == 0).all()
    assert (flow_to_hsv(np.full((3, 3, 2), np.nan)) == 0).all()


def test_a_fixed_scale_does_not_flicker():
    """The same motion has the same colour whatever else moves in its frame."""
    calm = constant(2, 1)
    calm[:, 48:] = (-1, 0)
    wild = calm.copy()
    wild[:10] = (-30, 12)
    for draw in (flow_to_colour, flow_to_hsv):
        np.testing.assert_array_equal(draw(calm, 8.0)[20:], draw(wild, 8.0)[20:])
        assert (draw(calm)[20:] != draw(wild)[20:]).any()


def test_typical_length_leaves_outliers_alone():
    field = constant(3, 4)
    field[0, :5] = (900, 0)
    field[1, 0] = np.nan
    assert typical_length(field) == pytest.approx(5)
    assert typical_length(field, 1.0) == pytest.approx(900)
    assert typical_length(np.full((2, 2, 2), np.nan)) == 0


def test_arrows_point_where_flow_does():
    grey = np.full((129, 129, 3), 100, np.uint8)
    for dx, dy in ((6, 0), (0, 6), (-6, 0), (0, -6), (4, -4)):
        field = np.zeros((129, 129, 2), np.float32)
        field[60:69, 60:69] = (dx, dy)  # one arrow at the middle of the grid, dots elsewhere
        drawn = draw_arrows(grey, field, 6.0, step=16)
        still = draw_arrows(grey, 0 * field, 6.0, step=16)
        y, x = np.nonzero((drawn != still).any(2))
        assert np.abs(np.median(x) - 64 - 2 * dx) < 6
        assert np.abs(np.median(y) - 64 - 2 * dy) < 6
        reach = max(np.hypot(x - 64, y - 64))
        assert abs(reach - 24 * np.hypot(dx, dy) / 6) < 5  # one and a half steps at full scale
        along = (x - 64) * dx + (y - 64) * dy
        assert (along > -30).all()  # nothing points backwards
    assert (grey == 100).all()


def test_arrows_leave_out_the_unknown():
    grey = np.full((64, 96, 3), 100, np.uint8)
    field = np.full((64, 96, 2), np.nan, np.float32)
    np.testing.assert_array_equal(draw_arrows(grey, field), grey)
    field[:, 48:] = (4, 0)
    drawn = draw_arrows(grey, field)
    assert (drawn[:, :40] == 100).all()
    assert (drawn[:, 48:] != 100).any()
    long = draw_arrows(grey, constant(1e6, 0), 1.0)  # capped: four steps
    assert long.shape == grey.shape


def test_legend_is_a_key_to_the_colours():
    for draw in (flow_to_colour, flow_to_hsv):
        blank = np.full((300, 400, 3), 200, np.uint8)
        picture = with_legend(blank, 12.0, draw)
        changed = (picture != blank).any(2)
        y, x = np.nonzero(changed)
        assert y.min() > 200
        assert x.min() > 300
        assert changed.mean() < 0.06
        assert (blank == 200).all()
        radius = 300 // 13
        shown = {tuple(c) for c in picture[changed]}
        for dx, dy in ((0.5, 0), (0, 0.5), (-0.5, 0), (0, -0.5)):  # half way to the rim
            reach = round(radius * max(abs(dx), abs(dy)))
            wanted = draw(constant(12 * np.sign(dx) * reach / radius, 12 * np.sign(dy) * reach / radius, (1, 1)), 12.0)
            assert tuple(wanted[0, 0]) in shown
    assert (with_legend(blank, 12.0) != with_legend(blank, 13.0)).any()  # it says the scale
    tiny = np.zeros((30, 30, 3), np.uint8)
    np.testing.assert_array_equal(with_legend(tiny, 3.0), tiny)


def test_errors_in_kittis_colours():
    truth = constant(0, 0, (1, 12))
    flow = constant(0, 0, (1, 12))
    flow[0, :, 0] = [0, 0.1, 0.2, 0.5, 1, 2.9, 3.1, 7, 13, 25, 50, np.nan]
    picture = error_map(flow, truth)[0]
    assert tuple(picture[0]) == (49, 54, 149)
    assert tuple(picture[10]) == (165, 0, 38)
    assert tuple(picture[11]) == (0, 0, 0)
    blue = picture[:, 2] > picture[:, 0]
    assert blue[:6].all()
    assert not blue[6:].any()
    fast = constant(200, 0, (1, 1))  # 5 per cent are 10 pixels
    for error, colour in ((9.9, (224, 243, 248)), (10.5, (254, 224, 144))):
        assert tuple(error_map(fast + np.array([error, 0]), fast)[0, 0]) == colour
    assert (error_map(flow, truth, np.zeros((1, 12), bool)) == 0).all()
    assert len({tuple(c) for c in picture}) == 11


def test_warped_frames_agree(real_data):
    root = real_data / "flow/sintel/training"
    first, second = (read_image(root / f"clean/alley_1/frame_000{t}.png") for t in (1, 2))
    truth = read_flow(root / "flow/alley_1/frame_0001.flo").flow
    brought = warped(second, truth)
    seen = (brought != 128).any(2)
    before, after = (np.abs(image[seen].astype(int) - first[seen]).mean() for image in (second, brought))
    assert after < 0.3 * before
    np.testing.assert_array_equal(warped(second, 0 * truth), second)
    shifted = warped(second, constant(3, -2, second.shape[:2]))
    np.testing.assert_array_equal(shifted[2:, :-3], second[:-2, 3:])
    assert (shifted[:2] == 128).all()
    assert (shifted[:, -3:] == 128).all()


def test_side_by_side():
    a, b = np.zeros((5, 7, 3), np.uint8), np.full((5, 9, 3), 50, np.uint8)
    row = side_by_side([a, b], gap=2)
    assert row.shape == (5, 18, 3)
    np.testing.assert_array_equal(row[:, :7], a)
    np.testing.assert_array_equal(row[:, 9:], b)
    assert (row[:, 7:9] == 255).all()


def test_refusals():
    image = np.zeros((64, 96, 3), np.uint8)
    for wrong in (
        lambda: flow_to_hsv(image),
        lambda: flow_to_hsv(constant(1, 1), -2.0),
        lambda: draw_arrows(image[1:], constant(1, 1)),
        lambda: draw_arrows(image, constant(1, 1), step=1),
        lambda: error_map(constant(1, 1), constant(1, 1, (5, 5))),
        lambda: warped(image[1:], constant(1, 1)),
        lambda: side_by_side([image, image[1:]]),
        lambda: side_by_side([]),
    ):
        with pytest.raises(ShapeError):
            wrong()
