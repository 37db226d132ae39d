"""What is done with flow: frames in between, a steady camera, and chained tracks."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from flowvideos import SIZE, constant, field_of, psnr, texture
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.flow.camera import Similarity, camera_flow, camera_motion
from pixeltrail.flow.chain import FlowLive, FlowPoints, chain_points
from pixeltrail.flow.classical import dis
from pixeltrail.flow.interpolate import Between, interpolate, slow_motion
from pixeltrail.flow.propagate import bilinear, inside
from pixeltrail.flow.stabilise import corrections, moved, stabilise
from pixeltrail.types import LabelMap, Points

# Frames in between


@pytest.fixture(scope="module")
def clip():
    return render(0, frames=3, size=(120, 160), objects=2, noise=0.0, points=8)


def test_true_flow_makes_the_middle_frame(clip):
    """Halfway of frames 0 and 2 is nearer to frame 1 than the mean of both, and than either."""
    pytest.importorskip("cv2")
    first, middle, last = clip.frames
    made = interpolate(first, last, 0.5, dis)
    mean = (first.astype(float) + last) / 2
    assert psnr(made, middle) > max(psnr(mean, middle), psnr(first, middle), psnr(last, middle)) + 5


def test_a_known_shift_is_exact():
    whole = texture(1, 96, 160)
    first, second, middle = whole[:, 20:148], whole[:, 16:144], whole[:, 18:146]  # things move 4 to the right
    ahead = field_of(Similarity(shift=4))
    made = Between(first, second, ahead, -ahead).at(0.5)
    assert np.abs(made.astype(int) - middle)[:, 4:-4].max() <= 1


def test_the_ends_are_the_frames(clip):
    first, _, last = clip.frames
    rng = np.random.default_rng(0)
    between = Between(first, last, *rng.normal(0, 3, (2, 120, 160, 2)).astype(np.float32))
    assert between.at(0) is first
    assert between.at(1) is last
    unknown = np.full((120, 160, 2), np.nan, np.float32)
    assert Between(first, last, unknown, unknown).at(0.4) is first  # nothing in common: a cut
    with pytest.raises(InputError, match=r"time 1\.5 is not between"):
        between.at(1.5)
    with pytest.raises(ShapeError, match="two flows"):
        Between(first, last, unknown, unknown[:50])


def test_what_is_hidden_behind_a_moving_thing_comes_from_the_frame_that_shows_it():
    """A bright square moves 8 pixels over a still background: halfway it stands 4 on, with no ghost where it was."""
    ground = texture(2, *SIZE) // 2

    def frame(left: int) -> np.ndarray:
        image = ground.copy()
        image[30:60, left : left + 30] = 255
        return image

    def flow(left: int, step: float) -> np.ndarray:
        field = np.zeros((*SIZE, 2), np.float32)
        field[30:60, left : left + 30, 0] = step
        return field

    made = Between(frame(40), frame(48), flow(40, 8), flow(48, -8)).at(0.5)
    off = np.abs(made.astype(int) - frame(44)).max(2)
    assert (off > 8).mean() < 0.005
    assert np.abs(made[35:55, 40:43].astype(int) - ground[35:55, 40:43]).max() <= 2  # uncovered


@pytest.mark.parametrize(("factor", "count"), [(1, 4), (2, 7), (2.5, 8), (0.5, 2), (Fraction(4, 3), 5)])
def test_slow_motion_counts_and_keeps_frames(factor, count):
    frames = [np.full((*SIZE, 3), t, np.uint8) for t in range(4)]
    slow = list(slow_motion(iter(frames), factor, constant(0, 0)))
    assert len(slow) == count
    for k, image in enumerate(slow):
        time = Fraction(k) / Fraction(factor)
        if time.denominator == 1:
            assert image is frames[int(time)]


def test_slow_motion_streams():
    asked = []

    def endless():
        for t in itertools.count():
            asked.append(t)
            yield np.full((*SIZE, 3), t % 200, np.uint8)

    assert len(list(itertools.islice(slow_motion(endless(), 3, constant(0, 0)), 10))) == 10
    assert len(asked) <= 5
    with pytest.raises(InputError, match="the factor is 0"):
        next(slow_motion(endless(), 0, constant(0, 0)))


# The camera


def test_camera_motion_is_found_among_other_motion():
    true = Similarity(1.02 * np.exp(0.03j), 3 - 2j)
    flow = field_of(true)
    rng = np.random.default_rng(0)
    flow[20:80, 10:70] = (9, 9)  # 29 % of the frame go their own way
    flow += rng.normal(0, 0.05, flow.shape).astype(np.float32)
    flow[:5] = np.nan
    found, share = camera_motion(flow)
    middle = 64 + 48j
    assert abs(found(middle) - true(middle)) < 0.05
    assert abs(found.turn - true.turn) < 0.001
    assert 0.6 < share < 0.8
    back = found.then(found.inverse())
    assert abs(back.turn - 1) < 1e-12
    assert abs(back.shift) < 1e-9
    rest = np.linalg.norm(flow - camera_flow(flow), axis=-1)
    assert np.nanmedian(rest) < 0.15
    assert rest[25:75, 15:65].min() > 3


def test_no_motion_where_nothing_agrees():
    noise = np.random.default_rng(0).uniform(-40, 40, (*SIZE, 2)).astype(np.float32)
    motion, share = camera_motion(noise)
    assert motion == Similarity()
    assert share < 0.2
    assert camera_flow(noise) is None
    assert camera_motion(np.full((*SIZE, 2), np.nan, np.float32)) == (Similarity(), 0.0)
    with pytest.raises(ShapeError, match=r"\(H, W, 2\)"):
        camera_motion(noise[..., 0])


def test_corrections_keep_a_pan_and_take_out_shake():
    pan = [Similarity(shift=2 - 1j)] * 9
    for correction in corrections(pan, 3):  # at the ends, too
        assert abs(correction.turn - 1) < 1e-9
        assert abs(correction.shift) < 1e-6
    places = np.random.default_rng(0).normal(0, 3, (60, 2)) @ [1, 1j]
    steps = [Similarity(shift=complex(b - a)) for a, b in itertools.pairwise(places)]
    steady = places + [c.shift for c in corrections(steps, 8)]
    assert np.abs(np.diff(steady)).mean() < np.abs(np.diff(places)).mean() / 10
    assert [*corrections([], 5)] == [Similarity()]


def test_a_shaken_still_scene_comes_back_still():
    pytest.importorskip("cv2")
    whole = texture(3, 160, 200)
    rng = np.random.default_rng(1)
    shake = [Similarity(np.exp(1j * rng.normal(0, 0.008)), complex(*rng.normal(0, 2.5, 2))) for _ in range(16)]
    frames = [moved(whole, motion)[32:128, 36:164] for motion in shake]

    def rest(images: list[np.ndarray]) -> float:
        steps = [np.abs(field_of(camera_motion(dis(a, b))[0])).mean() for a, b in itertools.pairwise(images)]
        return float(np.mean(steps))

    before = rest(frames)
    for zoom in (1.0, 1.2):
        steady = list(stabilise(iter(frames), dis, smooth=6, zoom=zoom))
        assert len(steady) == 16
        assert steady[0].shape == frames[0].shape
        assert rest(steady) < before / 5


def test_zoom_never_shows_the_border():
    """A white frame moved far beyond its border: black would show; a correction too large is made smaller."""
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None], (*SIZE, 3)).copy()
    far = Similarity(np.exp(0.05j), 60 + 20j)
    assert (np.diff(moved(ramp, far)[48, :, 0].astype(int)) == 0).sum() > 30  # without zoom the border is repeated
    assert (np.diff(moved(ramp, far, 1.1)[48, ::4, 0].astype(int)) <= 0).sum() == 0
    np.testing.assert_array_equal(moved(ramp, Similarity()), ramp)


def test_stabilise_of_nothing_and_of_one():
    assert list(stabilise([], constant(0, 0))) == []
    (one,) = stabilise([texture(0, *SIZE)], constant(0, 0), zoom=1)
    np.testing.assert_array_equal(one, texture(0, *SIZE))
    with pytest.raises(InputError, match="zoom in 1 to 4"):
        next(stabilise([], constant(0, 0), zoom=0.5))


# Chained flow


def test_points_along_the_true_flow(clip):
    """Where they are seen they are where they should be, to what bilinear sampling of the flow allows."""

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        t = next(i for i, frame in enumerate(frames) if frame is first)
        return clip.flow[t] if second is frames[(t + 1) % len(frames)] else -clip.flow[t - 1]

    frames = list(clip.frames)
    points = Points(clip.tracks.xy[0])
    *_, last = chain_points(frames, points, flow)
    error = np.linalg.norm(last.xy - clip.tracks.xy[-1], axis=1)[clip.tracks.visible.all(0)]
    assert np.median(error) < 0.3


def test_points_leave_and_begin_later():
    frames = [np.full((*SIZE, 3), t, np.uint8) for t in range(5)]
    points = Points(np.array([[10, 10], [120, 20], [5, 90]], np.float32), np.array([0, 0, 2]))
    followed = list(chain_points(frames, points, constant(4, -1)))
    np.testing.assert_allclose(followed[4].xy, [[26, 6], [136, 16], [13, 88]])
    assert np.isnan(followed[1].xy[2]).all()
    assert followed[4].confidence.tolist() == [1, 0, 1]
    assert followed[1].confidence[2] == 0


def test_a_doubted_point_stays_doubted():
    frames = [np.full((*SIZE, 3), t, np.uint8) for t in range(4)]

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        odd = 1 in (first[0, 0, 0], second[0, 0, 0]) and 2 in (first[0, 0, 0], second[0, 0, 0])
        return np.full((*SIZE, 2), 2.0 if odd else 0.0, np.float32)  # there and back do not agree from 1 to 2

    trust = [float(f.confidence[0]) for f in chain_points(frames, Points(np.array([[9, 9]])), flow)]
    assert trust[:2] == [1, 1]
    assert trust[2] < 0.01
    assert trust[3] == trust[2]


def test_masks_by_flow_are_those_of_the_baseline_and_survive_a_pause():
    """A session whose state goes through another one half-way says the same, and labels given later come in."""
    frames = [np.full((*SIZE, 3), t, np.uint8) for t in range(6)]
    ids = np.zeros(SIZE, np.uint8)
    ids[20:40, 10:30] = 5
    later = np.full(SIZE, 255, np.uint8)
    later[60:70, 60:70] = 9
    through, live = [], FlowLive(constant(3, 1))
    for t, frame in enumerate(frames):
        through.append(live.step(frame, LabelMap(ids) if t == 0 else LabelMap(later) if t == 3 else None))
        if t == 2:
            live, state = FlowLive(constant(3, 1)), live.state()
            live.load_state(state)
    for t, tracked in enumerate(through):
        expected = np.roll(ids, (t, 3 * t), (0, 1))
        if t >= 3:
            expected = np.where(np.roll(later == 9, (t - 3, 3 * (t - 3)), (0, 1)), np.uint8(9), expected)
        np.testing.assert_array_equal(tracked.ids, expected)
        assert tracked.index == t
    assert through[-1].objects.keys() == {5, 9}
    assert min(through[-1].objects.values()) == pytest.approx(1)
    with pytest.raises(ShapeError, match="frame 6"):
        live.step(frames[0][:50])


def test_points_survive_a_pause():
    frames = [np.full((*SIZE, 3), t, np.uint8) for t in range(4)]
    points = Points(np.array([[10, 10], [50, 50]], np.float32), np.array([0, 3]))
    whole = list(chain_points(frames, points, constant(2, 1)))
    session = FlowPoints(constant(2, 1), points)
    session.step(frames[0])
    session.step(frames[1])
    again = FlowPoints(constant(2, 1), points)
    again.load_state(session.state())
    for t in (2, 3):
        followed = again.step(frames[t])
        np.testing.assert_array_equal(followed.xy, whole[t].xy)
        np.testing.assert_array_equal(followed.confidence, whole[t].confidence)


def test_bilinear_and_inside():
    values = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    xy = np.array([[0, 0], [1.5, 0.5], [3, 2], [9, -4], [np.nan, 1]], np.float32)
    np.testing.assert_allclose(bilinear(values, xy)[:4, 0], [0, 3.5, 11, 3])
    assert inside(xy, np.zeros((3, 4, 3), np.uint8)).tolist() == [True, True, True, False, False]
