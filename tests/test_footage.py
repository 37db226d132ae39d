"""What adaptation sees of one's own video: stretches, pairs of neighbouring frames, crops with their flow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixeltrail import catalogue
from pixeltrail.data.images import write_image
from pixeltrail.errors import InputError
from pixeltrail.training.adapt import ROUND
from pixeltrail.training.footage import PAIRS, STRETCH, Crops, Footage, Neighbours, read_footage
from pixeltrail.training.pairs import contrast

RUN = replace(ROUND, batch_size=2, size=48)


def tracker(size: int | None = None):
    torch.manual_seed(1)
    made = catalogue.build("dul", width=8)
    made.protocol = replace(made.protocol, size=size)
    return made.eval()


def varied(first, second):
    """A flow that is another in each pixel, and too rough for a camera's."""
    return (np.asarray(first[..., :2], np.float32) - second[..., :2]).round() / 4


def random_cuts(flow, side, count):
    random = np.random.default_rng(1)
    for _ in range(count):
        y, x = (int(random.integers(0, n - side + 1)) for n in flow.shape[:2])
        yield flow[y : y + side, x : x + side]


def test_the_end_of_each_stretch_is_held_out(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (STRETCH + 15, 32, 40, 3), np.uint8)
    for t, frame in enumerate(frames):
        write_image(tmp_path / f"{t:03d}.png", frame)
    footage = read_footage(tmp_path, tracker())
    assert [len(s) for s in footage.train] == [32, 12]
    assert [len(s) for s in footage.held] == [8, 3]
    whole = np.concatenate([footage.train[0], footage.held[0], footage.train[1], footage.held[1]])
    assert np.array_equal(whole, frames)


def test_a_long_video_is_thinned_to_evenly_spread_stretches(tmp_path):
    for t in range(8 * STRETCH):
        write_image(tmp_path / f"{t:03d}.png", np.full((32, 32, 3), t // STRETCH, np.uint8))
    footage = read_footage(tmp_path, tracker(), max_bytes=4 * STRETCH * 32 * 32 * 3)
    assert [int(s[0, 0, 0, 0]) for s in footage.train] == [0, 2, 4, 6]
    assert all(len(s) == 32 for s in footage.train)


def test_frames_have_the_size_at_which_they_are_tracked(tmp_path):
    for t in range(10):
        write_image(tmp_path / f"{t}.png", np.zeros((64, 80, 3), np.uint8))
    assert read_footage(tmp_path, tracker(48)).train[0].shape[1:3] == (48, 60)


def test_crops_show_frames_with_their_flow_and_depend_on_seed_step_and_row_alone():
    frames = np.random.default_rng(0).integers(0, 256, (16, 50, 52, 3), np.uint8)
    moving = Neighbours([Footage("a", [frames], [])], varied)
    crops = Crops(moving, RUN)
    clips, flows = crops.batch(3, range(2))
    assert clips.shape == (2, 1, 48, 48, 3)
    assert flows.shape == (2, 48, 48, 2)
    for found, again in zip(crops.batch(3, range(1, 2)), (clips[1:], flows[1:]), strict=True):
        assert np.array_equal(found, again)
    assert not np.array_equal(clips, crops.batch(4, range(2))[0])
    assert crops.names(3) == ["a", "a"]
    everywhere = np.lib.stride_tricks.sliding_window_view(frames, (48, 48), axis=(1, 2))  # (T, y, x, 3, 48, 48)
    mirrored = 0
    for step in range(4):
        for clip, flow in zip(*crops.batch(step, range(2)), strict=True):
            for turned, sign in ((clip[0], 1), (clip[0, :, ::-1], -1)):
                places = np.argwhere((everywhere == np.moveaxis(turned, -1, 0)).all((3, 4, 5)))
                for t, y, x in places:
                    expected = moving[int(t)][1][y : y + 48, x : x + 48]
                    assert np.array_equal(expected, flow[:, ::sign] * (sign, 1))
                    mirrored += sign < 0
    assert 0 < mirrored < 8


def test_of_several_crops_the_first_that_moves():
    frames = np.zeros((64, 200, 200, 3), np.uint8)
    frames[:, :48, :48] = 255  # only there something moves

    def corner(first, second):
        return np.where(first[..., :1] > 0, np.float32([9, 0]), np.float32([0, 0]))

    rows = range(100)
    _, flows = Crops(Neighbours([Footage("a", [frames], [])], corner), RUN).batch(0, rows)
    moves = np.mean([contrast(flow) >= 1 for flow in flows])
    once = np.mean([contrast(f) >= 1 for f in random_cuts(corner(frames[0], frames[1]), 48, 1000)])
    assert moves > 2 * once


def test_pairs_are_neighbours_and_the_camera_is_taken_off():
    frames = np.random.default_rng(0).integers(0, 256, (PAIRS + 40, 32, 40, 3), np.uint8)
    asked = []

    def panned(first, second):
        asked.append((first, second))
        return np.full((32, 40, 2), (3, -2), np.float32) + 5 * (np.arange(40) < 8)[None, :, None]

    moving = Neighbours([Footage("a", [frames[:-20]], []), Footage("b", [frames[-20:]], [])], panned)
    assert len(moving) == PAIRS
    assert {moving.name(i) for i in range(PAIRS)} == {"a", "b"}
    image, flow = moving[7]
    moving[7]
    assert len(asked) == 1  # estimated once
    (first, second) = asked[0]
    t = next(t for t, frame in enumerate(frames) if np.array_equal(frame, first))
    assert np.array_equal(image, first)
    assert np.array_equal(second, frames[t + 1])
    assert np.allclose(flow, 5 * (np.arange(40) < 8)[None, :, None], atol=0.01)


def test_too_few_frames(tmp_path):
    for t in range(5):
        write_image(tmp_path / f"{t}.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="5 frames are too few"):
        read_footage(tmp_path, tracker())
