"""What moves by itself, and what of it crosses a line."""

from __future__ import annotations

import numpy as np
import pytest

from flowvideos import SIZE, texture
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.flow.classical import dis
from pixeltrail.flow.count import LineCounter, count_crossings
from pixeltrail.flow.segment import segment_motion

# What moves


def traffic(count: int, frames: int = 24) -> tuple[list[np.ndarray], np.ndarray, object]:
    """Bright and dark squares that drive right at 4 and left at 3 pixels a frame, over a ground that pans by 1; their masks
    and the true flow."""
    ground = texture(4, 96, 128 + frames) // 5 + 60
    paints = [
        texture(10 + i, 18, 18) // 5 + np.array([[190, 200, 150], [0, 20, 10]][i // 2], np.uint8) for i in range(count)
    ]
    images, masks = [], np.zeros((frames, *SIZE), np.uint8)
    for t in range(frames):
        image = ground[:, t : t + 128].copy()
        for i, paint in enumerate(paints):
            left = -10 + 4 * t if i % 2 == 0 else 120 - 3 * t
            top = 4 + 22 * i
            x0, x1 = max(left, 0), min(left + 18, 128)
            if x0 < x1:
                image[top : top + 18, x0:x1] = paint[:, x0 - left : x1 - left]
                masks[t, top : top + 18, x0:x1] = i + 1
        image[0, 0, 0] = t
        images.append(image)

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        t, step = int(first[0, 0, 0]), int(second[0, 0, 0]) - int(first[0, 0, 0])
        speed = np.select([masks[t] == 0, masks[t] % 2 == 1], [-1.0, 4.0], -3.0) * step
        return np.stack([speed, np.zeros(SIZE)], -1).astype(np.float32)

    return images, masks, flow


def test_moving_things_are_found_and_keep_their_numbers():
    pytest.importorskip("cv2")
    frames, masks, flow = traffic(4)
    results = list(segment_motion(iter(frames), flow))
    assert [r.index for r in results] == list(range(24))
    whole = range(5, 18)
    scores = [jaccard(results[t].numbers > 0, masks[t] > 0) for t in whole]
    assert min(scores) > 0.85
    for i in range(1, 5):
        names = {int(np.bincount(results[t].numbers[masks[t] == i]).argmax()) for t in whole}
        assert len(names) == 1, names


def test_moving_things_of_a_rendered_clip():
    """Against the renderer's labels, with an estimated flow: turning, deforming things before a moving camera."""
    pytest.importorskip("cv2")
    clip = render(3, frames=5, size=(180, 240), objects=2, scenery=0, points=0)
    results = list(segment_motion(clip.frames, dis))
    scores = [jaccard(r.numbers > 0, ids > 0) for r, ids in zip(results, clip.labels, strict=True)]
    assert np.mean(scores) > 0.6


def test_nothing_moves_in_a_still_or_panned_picture():
    pytest.importorskip("cv2")
    frames, _, flow = traffic(0)
    assert not any(r.numbers.any() for r in segment_motion(frames, flow))
    (one,) = segment_motion(frames[:1], flow)
    assert not one.numbers.any()
    assert list(segment_motion([], flow)) == []
    with pytest.raises(InputError, match="threshold is 0"):
        next(segment_motion(frames, flow, threshold=0))


# What crosses a line


@pytest.mark.parametrize("cars", [1, 4])
def test_cars_are_counted_by_direction(cars):
    pytest.importorskip("cv2")
    frames, _, flow = traffic(cars, 30)
    found = [c for _, crossings in count_crossings(frames, (64, 0, 64, 95), flow) for c in crossings]
    assert sorted(c.direction for c in found) == ["left"] * (cars // 2) + ["right"] * ((cars + 1) // 2)
    beside = [c for _, some in count_crossings(frames, (64, 0, 64, 2), flow) for c in some]
    assert beside == []  # the line ends before the first lane


def test_a_thing_that_dithers_counts_once_and_one_that_turns_counts_twice():
    counter = LineCounter((0.0, 50.0, 100.0, 50.0))
    heights = [30, 36, 42, 47, 52, 49, 51, 48, 53, 58, 64, 60, 52, 47, 40]
    seen = [counter.step(t, {7: (20.0, float(y))}) for t, y in enumerate(heights)]
    assert [(c.index, c.direction) for some in seen for c in some] == [(9, "down"), (14, "up")]
    assert counter.counts == {"down": 1, "up": 1}
    assert LineCounter((50, 100, 50, 0)).step(0, {1: (0, 0)}) == []
    with pytest.raises(InputError, match="has no length"):
        LineCounter((5.0, 5.0, 5.0, 5.0))


def test_what_is_large_must_go_further_to_be_on_the_other_side():
    heights = [10, 20, 30, 40, 54, 44, 57, 45, 80]  # its middle dithers by a few pixels about the line
    for size, counts in ((0.0, {"down": 3, "up": 2}), (40.0, {"down": 1})):
        counter = LineCounter((0.0, 50.0, 100.0, 50.0))
        for t, y in enumerate(heights):
            counter.step(t, {7: (20.0, float(y))}, {7: size})
        assert counter.counts == counts


def test_counting_forgets():
    counter = LineCounter((0.0, 50.0, 100.0, 50.0))
    for t in range(1000):
        counter.step(t, {t: (20.0, 10.0)})
    assert len(counter._things) < 60
