"""Overlays, contact sheets and flow colours: what is drawn, and what is left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixeltrail.errors import ShapeError
from pixeltrail.types import davis_palette
from pixeltrail.visual.flow import colour_wheel, flow_to_colour
from pixeltrail.visual.overlay import draw_boxes, draw_points, overlay, point_colours
from pixeltrail.visual.sheet import caption_height, contact_sheet

IDS = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 9, 254, 255])
)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_the_palette_is_that_of_pascal_voc() -> None:
    assert davis_palette()[:6].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
        [128, 0, 128],
    ]
    known = {12: (64, 0, 128), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}  # dog, person, tv, void
    assert {i: tuple(davis_palette()[i].tolist()) for i in known} == known
    assert len({tuple(c) for c in davis_palette().tolist()}) == 256


@given(ids=IDS, alpha=st.floats(0, 1))
@settings(deadline=None)
def test_an_overlay_tints_objects_and_nothing_else(ids: np.ndarray, alpha: float) -> None:
    image = picture(*ids.shape)
    before = image.copy()
    drawn = overlay(image, ids, alpha=alpha, contour=False)
    np.testing.assert_array_equal(image, before)
    nobody = (ids == 0) | (ids == 255)
    np.testing.assert_array_equal(drawn[nobody], image[nobody])
    wanted = (1 - alpha) * image + alpha * davis_palette()[ids].astype(float)
    assert np.abs(drawn.astype(float) - wanted)[~nobody].max(initial=0) <= 1.5
    edged = overlay(image, ids, alpha=alpha)
    np.testing.assert_array_equal(edged[nobody], image[nobody])


def test_an_overlay_of_opacity_nought_is_the_image() -> None:
    image, ids = picture(20, 30), np.full((20, 30), 7, np.uint8)
    np.testing.assert_array_equal(overlay(image, ids, alpha=0.0, contour=False), image)
    np.testing.assert_array_equal(overlay(image, np.zeros_like(ids)), image)


def test_a_contour_follows_the_inner_edge() -> None:
    image, ids = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)
    ids[5:15, 5:20] = 1
    changed = (overlay(image, ids) != overlay(image, ids, contour=False)).any(2)
    ring = np.zeros((20, 20), bool)
    ring[5:15, 5:20] = True
    ring[6:14, 6:20] = False  # the image's border, on the right, is no contour
    np.testing.assert_array_equal(changed, ring)


def test_points_are_drawn_where_they_are() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    xy = np.array([[10.0, 20.0], [45.0, 12.0]], np.float32)
    drawn = draw_points(image, xy, np.array([True, False]))
    assert not image.any()
    np.testing.assert_array_equal(drawn[20, 10], point_colours(2)[0])
    assert not drawn[12, 45].any()  # a hidden point is a ring
    assert drawn[12, 42].any()
    touched = np.argwhere(drawn.any(2))
    distance = np.hypot(touched[:, 1:] - xy[:, 0], touched[:, :1] - xy[:, 1]).min(1)
    assert distance.max() < 5


def test_trails_join_the_earlier_places_and_fade() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    xy = np.array([[50.0, 20.0]], np.float32)
    trails = np.array([[[10.0, 20.0]], [[30.0, 20.0]]], np.float32)
    drawn = draw_points(image, xy, np.array([True]), trails)
    assert (drawn[20, 10:51].max(1) > 0).all()
    assert drawn[20, 15].max() < drawn[20, 40].max()


@pytest.mark.parametrize("place", [(-1e9, 5.0), (math.nan, 5.0), (1e30, math.inf), (-2.0, -2.0), (200.0, 5.0)])
def test_what_lies_outside_the_image_is_drawn_as_far_as_it_is_inside(place: tuple[float, float]) -> None:
    image = picture(30, 40)
    drawn = draw_points(image, np.array([place]), np.array([True]), np.array([[place]]))
    assert drawn.shape == image.shape
    x, y = place
    boxed = draw_boxes(image, np.array([[x, y, x + 10, y + 10]]), np.array([3], np.uint8))
    assert boxed.shape == image.shape


def test_a_box_has_its_sides_on_its_edges() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[10.0, 20.0, 50.0, 40.0]]), np.array([1], np.uint8))
    lit = drawn.any(2)
    assert lit[20, 10:51].all()
    assert lit[40, 10:51].all()
    assert lit[20:41, 10].all()
    assert lit[20:41, 50].all()
    assert not lit[25:36, 15:46].any()
    assert not lit[:19].any()
    assert drawn[20, 30, 0] > drawn[20, 30, 1]  # id 1 is red


@pytest.mark.parametrize(
    "draw",
    [
        lambda image: overlay(image, np.zeros((3, 3), np.uint8)),
        lambda image: overlay(image, np.zeros((20, 30), np.int64)),
        lambda image: overlay(image, np.zeros((20, 30), np.uint8), alpha=2.0),
        lambda image: overlay(image.astype(float), np.zeros((20, 30), np.uint8)),
        lambda image: draw_points(image, np.zeros((2, 3)), np.ones(2, bool)),
        lambda image: draw_points(image, np.zeros((2, 2)), np.ones(2, bool), np.zeros((4, 3, 2))),
        lambda image: draw_boxes(image, np.zeros((2, 4)), np.ones(3, np.uint8)),
        lambda image: contact_sheet([]),
        lambda image: contact_sheet([image], titles=["a", "b"]),
        lambda image: contact_sheet([image[..., 0]]),
        lambda image: contact_sheet([image], columns=0),
        lambda image: flow_to_colour(image),
        lambda image: flow_to_colour(np.zeros((2, 2, 2)), max_magnitude=0.0),
    ],
)
def test_wrong_shapes_are_refused(draw) -> None:
    with pytest.raises(ShapeError, match="expected"):
        draw(picture(20, 30))


@given(
    count=st.integers(1, 9), columns=st.integers(1, 5), width=st.integers(8, 60), margin=st.integers(0, 9),
    titled=st.booleans(), dark=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_a_contact_sheet_has_the_size_it_says(
    count: int, columns: int, width: int, margin: int, titled: bool, dark: bool
) -> None:
    titles = [f"a long title of number {i}\nand more" for i in range(count)] if titled else None
    pages = [picture(18, 32, i) for i in range(count)]
    sheet = contact_sheet(pages, columns=columns, titles=titles, width=width, margin=margin, dark=dark)
    across = min(columns, count)
    cell = max(1, round(width * 18 / 32)) + (caption_height(width) if titled else 0)
    assert sheet.shape == (-(-count // across) * (cell + margin) + margin, across * (width + margin) + margin, 3)
    assert sheet.dtype == np.uint8


def test_thumbnails_stand_in_their_places() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    pages = [np.full((20, 40, 3), c, np.uint8) for c in colours]
    sheet = contact_sheet(pages, columns=2, width=40, margin=5, titles=["one", "", "three"])
    assert (sheet[5:25, 5:45] == colours[0]).all()
    assert (sheet[5:25, 50:90] == colours[1]).all()
    low = 5 + 20 + caption_height(40) + 5
    assert (sheet[low : low + 20, 5:45] == colours[2]).all()
    assert (sheet[:5] == 255).all()
    assert (sheet[25:low, 5:45] < 128).any()  # "one" is written
    assert (sheet[25:low, 50:90] == 255).all()  # nothing is


def test_a_picture_of_another_shape_is_shown_whole() -> None:
    sheet = contact_sheet([picture(20, 40), np.zeros((80, 40, 3), np.uint8)], columns=2, width=40, margin=0)
    right = sheet[:, 40:]
    assert (right[:, 15:25] == 0).all()
    assert (right[:, :15] == 255).all()
    assert (right[:, 25:] == 255).all()


def test_the_wheel_is_middleburys() -> None:
    wheel = colour_wheel()
    assert wheel.shape == (55, 3)
    corners = {
        0: (255, 0, 0),
        15: (255, 255, 0),
        21: (0, 255, 0),
        25: (0, 255, 255),
        36: (0, 0, 255),
        49: (255, 0, 255),
    }
    for place, colour in corners.items():
        assert tuple(wheel[place]) == colour
    assert tuple(wheel[1]) == (255, 17, 0)
    assert tuple(wheel[16]) == (255 - 42, 255, 0)
    assert tuple(wheel[54]) == (255, 0, 255 - 212)
    assert (np.abs(np.diff(wheel, axis=0)) > 0).sum(1).max() == 1  # one channel changes at a time


def _plain(u: float, v: float, longest: float) -> list[int]:
    """Baker et al.'s colour code for one vector, from the formula."""
    u, v = u / (longest + 1e-5), v / (longest + 1e-5)
    length, place = math.hypot(u, v), (math.atan2(-v, -u) / math.pi + 1) / 2 * 54
    first = math.floor(place)
    out = []
    for channel in range(3):
        a, b = colour_wheel()[first, channel] / 255, colour_wheel()[(first + 1) % 55, channel] / 255
        c = (1 - (place - first)) * a + (place - first) * b
        c = 1 - length * (1 - c) if length <= 1 else 0.75 * c
        out.append(math.floor(255 * c))
    return out


@given(flow=arrays(np.float32, (3, 4, 2), elements=st.floats(-30, 30, width=32)), longest=st.sampled_from([None, 10.0]))
@settings(deadline=None)
def test_flow_colours_equal_the_formula(flow: np.ndarray, longest: float | None) -> None:
    drawn = flow_to_colour(flow, longest)
    most = longest or float(np.hypot(*flow.astype(np.float64).transpose(2, 0, 1)).max())
    for y in range(3):
        for x in range(4):
            wanted = np.array(_plain(float(flow[y, x, 0]), float(flow[y, x, 1]), most))
            assert np.abs(drawn[y, x].astype(int) - wanted).max() <= 1


def test_known_flow_colours() -> None:
    flow = np.zeros((1, 6, 2), np.float32)
    flow[0, 1], flow[0, 2], flow[0, 3] = (5, 0), (-5, 0), (0, 5)
    flow[0, 4], flow[0, 5] = (np.nan, 1), (1e10, 0)
    still, right, left, down, unknown, huge = flow_to_colour(flow)[0].astype(int)
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == [255, 0, 0]
    assert left[0] == 0  # a blue-green: the other side of the wheel
    assert min(left[1:]) > 200
    assert down[0] > 200  # yellow
    assert down[1] > 200
    assert down[2] == 0
    assert unknown.tolist() == huge.tolist() == [0, 0, 0]
    assert np.abs(right - left).sum() > 400


def test_a_still_field_is_white_and_a_field_of_nothing_known_black() -> None:
    assert (flow_to_colour(np.zeros((4, 5, 2), np.float32)) == 255).all()
    assert (flow_to_colour(np.full((4, 5, 2), np.nan, np.float32)) == 0).all()
