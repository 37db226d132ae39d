"""Refinement, TV-L1, Lucas-Kanade, corners, templates, and flow by name: known shifts, plain formulas and real pairs."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pixeltrail.data.flowfile import read_flow
from pixeltrail.data.images import read_image
from pixeltrail.errors import InputError, ShapeError, UnknownNameError, WeightsError
from pixeltrail.flow.classical import dis, farneback, refine, tvl1
from pixeltrail.flow.sparse import corners, lucas_kanade, match_template
from pixeltrail.flow_methods import flow_method, polished, weights_of
from pixeltrail.predictors import raw_colour
from pixeltrail.weights import save, save_tensors

cv2 = pytest.importorskip("cv2")
STEP = (3, -2)
INNER = (slice(12, -12), slice(12, -12))
Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def pair() -> tuple[Picture, Picture]:
    """(100, 140, 3) twice: everything moves by STEP, smooth enough for every method."""
    coarse = np.random.default_rng(0).integers(0, 256, (27, 37, 3), np.uint8)
    texture = np.asarray(Image.fromarray(coarse).resize((220, 160), Image.Resampling.BICUBIC))
    return texture[30:130, 40:180].copy(), texture[30 - STEP[1] : 130 - STEP[1], 40 - STEP[0] : 180 - STEP[0]].copy()


def pairs(root: Path) -> list[tuple[Picture, Picture, NDArray[np.float32], NDArray[np.bool_]]]:
    sintel, baker = root / "flow/sintel/training", root / "flow/middlebury"
    found = []
    for first, second, truth in (
        (sintel / "clean/alley_1/frame_0001.png", sintel / "clean/alley_1/frame_0002.png",
         sintel / "flow/alley_1/frame_0001.flo"),
        (baker / "other-data/RubberWhale/frame10.png", baker / "other-data/RubberWhale/frame11.png",
         baker / "other-gt-flow/RubberWhale/flow10.flo"),
    ):  # fmt: skip
        field = read_flow(truth)
        found.append((read_image(first), read_image(second), field.flow, field.valid))
    return found


def off(flow: NDArray[np.float32], wanted: object = STEP) -> float:
    return float(np.linalg.norm(flow - np.asarray(wanted), axis=-1)[INNER].mean())


def test_settings_are_open(pair):
    assert off(farneback(*pair, gaussian=True, levels=2, winsize=21)) < 0.1
    assert off(dis(*pair, finest_scale=0, patch_stride=2, descent_iterations=40, refinement_iterations=10)) < 0.05
    far = np.roll(pair[0], 20, 1)
    start = np.broadcast_to(np.array([20, 0], np.float32), (100, 140, 2))
    assert off(farneback(pair[0], far, levels=0, start=start)[:, 24:], (20, 0)) < 0.2  # its guess is all that helps
    assert off(farneback(pair[0], far, levels=0)[:, 24:], (20, 0)) > 5
    assert (start == [20, 0]).all()


def test_the_defaults_are_the_source_documents(real_data):
    first, second, *_ = pairs(real_data)[1]
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    plain = cv2.calcOpticalFlowFarneback(*grey, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    np.testing.assert_array_equal(farneback(first, second), plain)


@pytest.mark.parametrize(("method", "gain"), [(farneback, 0.85), (dis, 0.95)])
def test_refinement_corrects_fractions(real_data, method, gain):
    for first, second, truth, known in pairs(real_data):
        flow = method(first, second)
        before, after = (
            np.linalg.norm(f - truth, axis=-1)[known].mean() for f in (flow, refine(flow, first, second, iterations=20))
        )
        assert after < gain * before


def test_refinement_of_a_guess(pair):
    guess = np.broadcast_to(np.array([2.6, -1.7], np.float32), (100, 140, 2)).copy()
    assert off(refine(guess, *pair, iterations=20)) < 0.6 * off(guess)
    guess[40, 50] = np.nan
    assert np.isfinite(refine(guess, *pair)).all()
    assert off(polished(lambda a, b: guess, refine=True)(*pair)) < off(np.nan_to_num(guess))
    assert (polished(farneback, still=1.0)(pair[0], pair[0]) == 0).all()
    assert polished(farneback) is farneback


def test_tvl1(pair, monkeypatch):
    if not hasattr(cv2, "optflow"):
        with pytest.raises(
            InputError, match=r"^tvl1: .* no TV-L1; install opencv-contrib-python-headless, or use dis$"
        ):
            tvl1(*pair)
        given = []

        class Method:
            def calc(self, first, second, start):
                return np.zeros((*first.shape, 2), np.float32)

        made = lambda *settings: given.append(settings) or Method()  # noqa: E731
        monkeypatch.setattr(cv2, "optflow", types.SimpleNamespace(DualTVL1OpticalFlow_create=made), raising=False)
        tvl1(*pair, warps=7)
        assert given == [(0.25, 0.15, 0.3, 5, 7, 0.01, 30, 10, 0.8, 0.0, 5)]  # in OpenCV's order
    else:
        assert off(tvl1(*pair)) < 0.1
    with pytest.raises(InputError, match=r"^tvl1: median: expected 1, 3 or 5, got 4"):
        tvl1(*pair, median=4)


def test_corners(pair):
    board = np.full((80, 120, 3), 30, np.uint8)
    board[20:60, 30:90] = 220
    found = corners(board, count=4, quality=0.1, block=3)
    for corner in ((30, 20), (89, 20), (30, 59), (89, 59)):
        assert np.linalg.norm(found - corner, axis=1).min() <= 1
    assert corners(np.full((40, 40, 3), 9, np.uint8)).shape == (0, 2)
    many = corners(pair[0], distance=9)
    gaps = np.linalg.norm(many[:, None] - many, axis=-1)[~np.eye(len(many), dtype=bool)]
    assert gaps.min() >= 9
    assert len(corners(pair[0], count=7)) == 7


def test_points_are_followed(pair):
    points = corners(pair[0], count=60)
    places, found = lucas_kanade(*pair, points)
    inner = ((points > 15) & (points < [125, 85])).all(1)
    assert found[inner].mean() > 0.9
    error = np.linalg.norm(places - points - STEP, axis=1)[found]
    assert np.median(error) < 0.01
    assert error.max() < 1  # what comes back within a pixel may still be that wrong
    np.testing.assert_array_equal(places[~found], points[~found])
    nothing, none = lucas_kanade(*pair, np.zeros((0, 2), np.float32))
    assert nothing.shape == (0, 2)
    assert none.shape == (0,)


def test_the_way_back_finds_the_lost(pair):
    """What another thing covers in the second frame matches something there, but does not come back."""
    second = pair[1].copy()
    second[30:70, 50:90] = np.roll(pair[1], 60, 1)[30:70, 50:90]
    y, x = np.mgrid[38:62:4, 58:82:4]
    points = np.stack((x.ravel(), y.ravel()), 1).astype(np.float32)
    _, one_way = lucas_kanade(pair[0], second, points, round_trip=None)
    _, both = lucas_kanade(pair[0], second, points)
    assert both.sum() < 0.5 * one_way.sum()
    flat = np.full_like(pair[0], 90)
    assert not lucas_kanade(flat, flat, points)[1].any()  # no texture
    outside = np.array([[-40, 10], [500, 20]], np.float32)
    assert not lucas_kanade(*pair, outside)[1].any()


def test_points_of_sintel(real_data):
    first, second, truth, _ = pairs(real_data)[0]
    points = corners(first, count=400)
    places, found = lucas_kanade(first, second, points)
    x, y = np.rint(points).astype(int).T
    error = np.linalg.norm(places - points - truth[y, x], axis=1)
    assert found.mean() > 0.9
    assert np.median(error[found]) < 0.15


def test_templates(pair):
    first, second = pair
    for centred in (False, True):
        match = match_template(second, first[40:61, 50:75], centred=centred)
        assert abs(match.x - 50 - STEP[0]) < 0.1
        assert abs(match.y - 40 - STEP[1]) < 0.1
        assert match.score > 0.999
        assert match.scores.shape == (100 - 21 + 1, 140 - 25 + 1)
    window, template = (a[38:59, 53:78].astype(np.float64).ravel() for a in (second, second))
    template = first[40:61, 50:75].astype(np.float64).ravel()
    cosine = window @ template / np.linalg.norm(window) / np.linalg.norm(template)
    assert match_template(second, first[40:61, 50:75]).scores[38, 53] == pytest.approx(cosine, abs=1e-5)
    bright = (60 + second // 2).astype(np.uint8)
    assert abs(match_template(bright, first[40:61, 50:75], centred=True).x - 53) < 0.1


def test_templates_between_pixels():
    y, x = np.mgrid[:60, :80]

    def blob(cx: float, cy: float) -> Picture:
        value = 40 + 180 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 30)
        return np.repeat(np.rint(value)[..., None], 3, 2).astype(np.uint8)

    patch = blob(40, 30)[18:43, 28:53]
    for dx, dy in ((0.25, 0.0), (-0.4, 0.3), (5.5, -3.25)):
        match = match_template(blob(40 + dx, 30 + dy), patch, centred=True)
        assert abs(match.x - 28 - dx) < 0.08
        assert abs(match.y - 18 - dy) < 0.08


def test_refusals(pair):
    flow = np.zeros((100, 140, 2), np.float32)
    for wrong in (
        lambda: refine(flow[1:], *pair),
        lambda: farneback(*pair, start=flow[1:]),
        lambda: lucas_kanade(*pair, np.zeros((3, 3), np.float32)),
        lambda: lucas_kanade(*pair, np.full((3, 2), np.nan, np.float32)),
        lambda: match_template(pair[0][:10], pair[0]),
        lambda: match_template(pair[0], pair[0][..., 0]),
        lambda: farneback(pair[0][:0], pair[0][:0]),
    ):
        with pytest.raises(ShapeError):
            wrong()
    for wrong in (
        lambda: refine(flow, *pair, iterations=0),
        lambda: refine(flow, *pair, alpha=-1),
        lambda: farneback(*pair, winsize=0),
        lambda: dis(*pair, patch_stride=9),  # OpenCV would write beyond its memory
        lambda: dis(*pair, finest_scale=3),
        lambda: corners(pair[0], quality=0),
        lambda: lucas_kanade(*pair, np.zeros((1, 2), np.float32), window=2),
        lambda: match_template(pair[0], np.zeros((5, 5, 3), np.uint8)),
        lambda: match_template(pair[0], np.full((5, 5, 3), 7, np.uint8), centred=True),
    ):
        with pytest.raises(InputError) as caught:
            wrong()
        assert "\n" not in str(caught.value)


def test_without_opencv(monkeypatch, pair):
    monkeypatch.setitem(sys.modules, "cv2", None)
    points = np.zeros((1, 2), np.float32)
    for call in (
        lambda: tvl1(*pair),
        lambda: refine(np.zeros((100, 140, 2), np.float32), *pair),
        lambda: corners(pair[0]),
        lambda: lucas_kanade(*pair, points),
        lambda: match_template(pair[0], pair[0]),
        lambda: polished(farneback, refine=True),
    ):
        with pytest.raises(InputError, match=r"install pixeltrail\[classical\]"):
            call()


# Flow by name


def test_names(pair):
    np.testing.assert_array_equal(flow_method("farneback", winsize=9)(*pair), farneback(*pair, winsize=9))
    np.testing.assert_array_equal(flow_method("dis", preset="fast")(*pair), dis(*pair, preset="fast"))
    with pytest.raises(UnknownNameError, match=r"unknown flow method 'farnback'; did you mean farneback"):
        flow_method("farnback")
    with pytest.raises(UnknownNameError, match=r"unknown flow method 'maast'; did you mean mast"):
        flow_method("maast")
    with pytest.raises(InputError, match=r"^farneback: has no setting 'window'; there are pyr_scale, "):
        flow_method("farneback", window=3)
    with pytest.raises(InputError, match=r"^colour: has no setting 'window'; there are protocol, quality"):
        flow_method("colour", window=3)
    with pytest.raises(InputError, match=r"nothing\.safetensors: no such weights file"):
        flow_method("nothing.safetensors")
    assert weights_of("dis") is None
    assert weights_of("x.safetensors") == Path("x.safetensors")


def test_a_tracker_gives_flow():
    """The displacement of its affinity, here of plain colours in cells of 8 x 8 pixels, is a shift by whole cells."""
    coarse = np.random.default_rng(0).integers(0, 256, (27, 37, 3), np.uint8)
    texture = np.asarray(Image.fromarray(coarse).resize((220, 160), Image.Resampling.BICUBIC))
    first, second = texture[30:130, 40:180].copy(), texture[38:138, 24:164].copy()
    flow = flow_method("colour")
    found = flow(first, second)
    assert found.shape == (100, 140, 2)
    assert found.dtype == np.float32
    for a, b, wanted in ((first, second, (16, -8)), (second, first, (-16, 8)), (first, first, (0, 0))):
        error = np.linalg.norm(flow(a, b) - wanted, axis=-1)[20:-20, 20:-20]
        assert np.median(error) < 0.01
        assert error.mean() < 0.5
    with pytest.raises(ShapeError):
        flow(first, second[:50])


def test_the_default_tracker_gives_flow(real_data):
    """Better than no motion at all on Sintel, whose mean motion there, 2.8 pixels, is a third of the tracker's cells."""
    first, second, truth, _ = pairs(real_data)[0]
    flow = flow_method("tracker", quality="fast")(first, second)
    error = np.linalg.norm(flow - truth, axis=-1).mean()
    assert flow.shape == truth.shape
    assert error < np.linalg.norm(truth, axis=-1).mean()


def test_files_that_are_no_flow(tmp_path):
    file = tmp_path / "colour.safetensors"
    save(raw_colour(), file, {})
    with pytest.raises(WeightsError, match="no pixeltrail card"):
        flow_method(str(file))
    save_tensors({}, file, {"network": "nonsense", "settings": {}})
    with pytest.raises(WeightsError, match="nonsense"):
        flow_method(str(file))
