"""Generated pairs: the pictures, the flow and the occlusion are of one scene, also through a view and augmentation."""

import numpy as np
import pytest
import torch

from pixeltrail.data.affine import View, affine, sampled, shift
from pixeltrail.data.augment import Augmentation, augmented, random_view, relit
from pixeltrail.data.chairs import BACKGROUND, OBJECT, Law, chairs
from pixeltrail.errors import InputError
from pixeltrail.geometry import warp

SIZE = (96, 128)


@pytest.fixture(scope="module")
def textures():
    """Soft ones, so that interpolation is nearly exact."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(30, 225, (4, 13, 17, 3)).astype(np.float32)
    y, x = np.mgrid[0:11.9:97j, 0:15.9:129j].astype(np.float32)
    return [sampled(image, x, y).astype(np.uint8) for image in coarse]


def off(first, second, flow):
    """Largest difference of a colour between the first frame and the second brought onto it, (H, W)."""
    one, two = (torch.from_numpy(f).movedim(-1, 0)[None].float() for f in (first, second))
    field = torch.from_numpy(np.nan_to_num(flow)).movedim(-1, 0)[None]
    return (warp(two, field, padding="border") - one).abs().amax(1)[0].numpy()


def grown(mask):
    wide = np.pad(mask, 2)
    views = [wide[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(5) for j in range(5)]
    return np.logical_or.reduce(views)


def edges(flow):
    """Where the flow jumps: there a pixel mixes two layers."""
    jump = np.zeros(flow.shape[:2], np.bool_)
    jump[:, 1:] |= np.abs(np.diff(flow, axis=1)).max(-1) > 0.3
    jump[1:] |= np.abs(np.diff(flow, axis=0)).max(-1) > 0.3
    return jump


@pytest.mark.parametrize("seed", range(6))
def test_the_second_frame_brought_back_by_the_flow_is_the_first_one(seed, textures):
    pair = chairs(seed, size=SIZE, motion=0.5, textures=textures)
    plain = ~grown(pair.occluded | edges(pair.flow))
    assert plain.mean() > 0.15
    assert np.quantile(off(pair.first, pair.second, pair.flow)[plain], 0.98) < 6


def test_what_is_called_occluded_is_seen_nowhere_in_the_second_frame(textures):
    """Hidden pixels differ from what lies at their end; the others mostly do not."""
    hidden, seen = [], []
    for seed in range(12):
        pair = chairs(seed, size=SIZE, motion=0.5, textures=textures)
        h, w = SIZE
        y, x = np.mgrid[:h, :w]
        to = pair.flow + np.stack([x, y], -1)
        inside = ((to >= 0) & (to <= [w - 1, h - 1])).all(-1)
        assert pair.occluded[(to < -0.5).any(-1) | (to > [w - 0.5, h - 0.5]).any(-1)].all()
        away = off(pair.first, pair.second, pair.flow) > 12
        hidden.append(away[pair.occluded & inside])
        seen.append(away[~pair.occluded & ~grown(edges(pair.flow))])
    assert np.concatenate(hidden).mean() > 0.7
    assert np.concatenate(seen).mean() < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_a_bare_background_moves_by_one_affine_map(seed, textures):
    flow = chairs(seed, size=SIZE, objects=(0, 0), textures=textures).flow
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    basis = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1)
    found, *_ = np.linalg.lstsq(basis, flow.reshape(-1, 2), rcond=None)
    assert np.abs(basis @ found - flow.reshape(-1, 2)).max() < 1e-3
    zoom = np.sqrt(np.linalg.det(found[:2].T + np.eye(2)))
    assert 0.93 - 1e-6 <= zoom <= 1.07 + 1e-6


def test_no_motion_is_no_flow(textures):
    pair = chairs(3, size=SIZE, motion=0, textures=textures)
    assert np.abs(pair.flow).max() < 1e-4
    assert not pair.occluded.any()
    assert np.abs(pair.first.astype(int) - pair.second).max() <= 1  # the inverse of a map is rounded


def test_the_seed_decides_everything(textures):
    a, b, c = (chairs(seed, size=SIZE, textures=textures) for seed in (1, 1, 2))
    for name in ("first", "second", "flow", "occluded"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert not np.array_equal(a.first, c.first)
    assert a.first.dtype == a.second.dtype == np.uint8
    assert (a.flow.dtype, a.flow.shape) == (np.float32, (*SIZE, 2))


def test_our_own_textures_serve_where_there_are_none():
    pair = chairs(0, size=(32, 48), objects=(1, 1))
    assert pair.first.std() > 5


@pytest.mark.parametrize(
    "wrong", [{"size": (8, 100)}, {"objects": (5, 2)}, {"motion": -1.0}, {"textures": []}], ids=lambda w: next(iter(w))
)
def test_numbers_that_make_no_scene_are_refused(wrong):
    with pytest.raises(InputError, match=r"^chairs: "):
        chairs(0, **wrong)


def test_laws_of_motion_are_the_published_ones():
    """Moments of a law's formula, from values drawn one by one, against the formula on one array."""
    rng = np.random.default_rng(0)
    for law in (*BACKGROUND, *OBJECT):
        drawn = np.array([law.draw(rng) for _ in range(4000)])
        g = rng.normal(law.mean, law.deviation, 400_000)
        formula = np.clip(np.sign(g) * np.abs(g) ** law.power, law.low, law.high)
        formula = np.where(rng.random(g.size) < law.moved, formula, law.mean)
        assert drawn.min() >= law.low
        assert drawn.max() <= law.high
        assert np.quantile(drawn, [0.2, 0.5, 0.8]) == pytest.approx(
            np.quantile(formula, [0.2, 0.5, 0.8]), abs=0.1 * (law.high - law.low)
        )
        assert np.mean(drawn == law.mean) == pytest.approx(1 - law.moved, abs=0.03)
    assert Law(0, 1, 3, -5, 5, 0.0).draw(rng) == 0


def test_a_view_is_the_pair_seen_so(textures):
    """A crop drawn directly is the same crop of the whole pair, where no interpolation comes between."""
    whole = chairs(4, size=SIZE, textures=textures)
    view = View((40, 50), shift(20, 30), shift(20, 30))
    crop = chairs(4, size=SIZE, textures=textures, view=view)
    window = slice(30, 70), slice(20, 70)
    assert np.abs(crop.flow - whole.flow[window]).max() < 1e-3
    assert np.mean(np.abs(crop.first.astype(int) - whole.first[window]).max(-1) > 2) < 0.01
    moved = View((40, 50), shift(20, 30), shift(23, 29) @ affine(0, 1, 1))
    assert chairs(4, size=SIZE, textures=textures, view=moved).flow == pytest.approx(
        crop.flow - np.float32([3, -1]), abs=1e-3
    )


@pytest.mark.parametrize("seed", range(5))
def test_augmentation_keeps_flow_and_frames_together(seed, textures):
    pair = chairs(seed, size=SIZE, motion=0.3, objects=(1, 3), textures=textures)
    still = Augmentation(contrast=0, gamma=0, brightness=0, colour=0, noise=0, turn_2=2, zoom_2=0.03, shift=3)
    known = np.where(pair.occluded[..., None], np.float32(np.nan), pair.flow)
    first, second, flow = augmented(np.random.default_rng(seed), pair.first, pair.second, known, (64, 80), still)
    assert first.shape == second.shape == (64, 80, 3)
    y, x = np.mgrid[:64, :80]
    with np.errstate(invalid="ignore"):
        to = flow + np.stack([x, y], -1)
        inside = ((to >= 1) & (to <= [78, 62])).all(-1)
        smooth = inside & ~grown(edges(flow) | np.isnan(flow[..., 0]))
    assert smooth.mean() > 0.2
    assert np.quantile(off(first, second, flow)[smooth], 0.98) < 8


def test_flips_turn_vectors_over_and_zoom_makes_them_longer():
    flow = np.full((*SIZE, 2), (4, -2), np.float32)
    blank = np.zeros((*SIZE, 3), np.uint8)
    none = {"turn": 0, "squeeze": 0, "shift": 0, "turn_2": 0, "zoom_2": 0}
    for changes, expected in (
        ({"flip": 1, "upside": 0, "zoom": (1, 1)}, (-4, -2)),
        ({"flip": 0, "upside": 1, "zoom": (1, 1)}, (4, 2)),
        ({"flip": 0, "upside": 0, "zoom": (1.5, 1.5)}, (6, -3)),
    ):
        _, _, found = augmented(np.random.default_rng(0), blank, blank, flow, (48, 64), Augmentation(**none, **changes))
        assert found == pytest.approx(np.broadcast_to(np.float32(expected), found.shape), abs=1e-3)
    turn = Augmentation(**{**none, "turn": 30, "flip": 0, "upside": 0, "zoom": (1, 1)})
    _, _, turned = augmented(np.random.default_rng(0), blank, blank, flow, (48, 64), turn)
    assert np.linalg.norm(turned, axis=-1) == pytest.approx(np.full((48, 64), np.hypot(4, 2)), abs=1e-3)
    assert not np.allclose(turned, (4, -2))


def test_unknown_flow_stays_unknown_and_a_crop_larger_than_the_frame_has_some():
    flow = np.zeros((*SIZE, 2), np.float32)
    flow[:40] = np.nan
    blank = np.zeros((*SIZE, 3), np.uint8)
    calm = Augmentation(turn=0, squeeze=0, zoom=(1, 1), flip=0, upside=0)
    _, _, found = augmented(np.random.default_rng(0), blank, blank, flow, SIZE, calm)
    assert np.isnan(found[:40]).all()
    assert not np.isnan(found[41:]).any()
    _, _, larger = augmented(np.random.default_rng(0), blank, blank, np.zeros_like(flow), (120, 160), calm)
    assert np.isnan(larger).any(-1).sum() == 120 * 160 - SIZE[0] * SIZE[1]


def test_views_stay_in_the_frame_and_light_changes_no_place():
    rng = np.random.default_rng(0)
    corners = np.array([[0, 63, 0, 63], [0, 0, 47, 47], [1, 1, 1, 1]])
    for _ in range(50):
        x, y, _ = random_view(rng, SIZE, (48, 64)).first @ corners
        assert x.min() >= -1e-6
        assert x.max() <= SIZE[1] - 1 + 1e-6
        assert y.min() >= -1e-6
        assert y.max() <= SIZE[0] - 1 + 1e-6
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (20, 60, 3))
    first, second = relit(rng, ramp, ramp, Augmentation(noise=0))
    assert (np.diff(first.astype(int), axis=1) >= 0).all()
    assert not np.array_equal(first, ramp)
    assert 0 < np.abs(first.astype(int) - second).mean() < 30
