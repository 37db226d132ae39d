"""Losses of flow networks against plain formulas, and their gradients against differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from pixeltrail.flow.algebra import inside, occlusion
from pixeltrail.flow.losses import (
    LEVELS,
    census,
    charbonnier,
    downsampled,
    epe,
    multiscale_epe,
    multiscale_robust,
    photometric,
    smoothness,
)
from pixeltrail.geometry import warp


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def pair():
    flows = [5 * normal(2, 2, 16 >> k, 32 >> k, seed=k) for k in (4, 3, 2)]
    return flows, 8 * normal(2, 2, 16, 32, seed=9)


def by_hand(flows, target, distance):
    total = 0.0
    for flow, weight in zip(flows, (LEVELS[4], LEVELS[3], LEVELS[2]), strict=True):
        k = target.shape[-1] // flow.shape[-1]
        for b in range(2):
            for y in range(flow.shape[2]):
                for x in range(flow.shape[3]):
                    cell = target[b, :, y * k : y * k + k, x * k : x * k + k].reshape(2, -1)
                    cell = cell[:, ~cell.isnan().any(0)]
                    if cell.shape[1]:
                        total += weight * distance((flow[b, :, y, x] - cell.mean(1)) / 20)
    return float(total) / 2


@pytest.mark.parametrize("holes", [False, True])
def test_multi_scale_losses_are_their_formulas(pair, holes):
    flows, target = pair
    if holes:
        target[0, 0, :5, :9] = math.nan
        target[1, :, 3, 3] = math.nan
    single = [f.float() for f in flows]
    assert multiscale_epe(single, target.float()) == pytest.approx(by_hand(flows, target, lambda d: d.norm()), rel=1e-5)
    robust = by_hand(flows, target, lambda d: (d.abs().sum() + 0.01) ** 0.4)
    assert multiscale_robust(single, target.float()) == pytest.approx(robust, rel=1e-5)


def test_targets_stay_in_pixels_of_the_full_resolution():
    target = torch.full((1, 2, 16, 32), 8.0)
    mean, known = downsampled(target, (4, 8))
    assert (mean == 8).all()
    assert known.all()
    assert multiscale_epe([mean], target) == pytest.approx(0, abs=1e-4)
    assert epe(mean + 3, target) == pytest.approx(math.sqrt(18))
    target[..., :16] = math.nan
    assert epe(mean + 3 * (torch.arange(8) < 4), target) == pytest.approx(0, abs=1e-5)  # the unknown half says nothing


def test_a_target_without_any_known_pixel_gives_no_loss_and_no_gradient(pair):
    flows = [f.float().requires_grad_() for f in pair[0]]
    target = torch.full((2, 2, 16, 32), math.nan)
    loss = multiscale_epe(flows, target) + epe(flows[-1], target)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all((f.grad == 0).all() for f in flows)


def test_weights_go_by_the_level_not_by_the_place_in_the_list():
    target = torch.full((1, 2, 64, 64), 20.0)
    zero = torch.zeros(1, 2, 4, 4)
    assert multiscale_epe([zero], target) == pytest.approx(LEVELS[4] * 16 * math.sqrt(2), rel=1e-5)
    assert multiscale_epe([torch.zeros(1, 2, 64, 64)], target) == pytest.approx(
        LEVELS[2] * 64 * 64 * math.sqrt(2), rel=1e-5
    )


def ternary_by_hand(a, b, y, x, radius):
    grey = [255 * (i[0] * 0.299 + i[1] * 0.587 + i[2] * 0.114) for i in (a, b)]
    height, width = grey[0].shape
    total = 0.0
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            v, u = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
            d = [float(g[v, u] - g[y, x]) for g in grey]
            e = (d[0] / math.sqrt(0.81 + d[0] ** 2) - d[1] / math.sqrt(0.81 + d[1] ** 2)) ** 2
            total += e / (0.1 + e)
    return total / (2 * radius + 1) ** 2


def test_census_is_its_formula():
    a, b = normal(3, 9, 11, seed=1).sigmoid(), normal(3, 9, 11, seed=2).sigmoid()
    for radius in (1, 3):
        found = census(a[None], b[None], radius=radius)[0, 0]
        for y, x in ((0, 0), (4, 5), (8, 10), (2, 9)):
            assert found[y, x] == pytest.approx(ternary_by_hand(a, b, y, x, radius), abs=1e-9)


def test_census_cares_for_structure_not_for_light():
    a = normal(1, 3, 24, 24, seed=3).sigmoid()
    assert float(census(a, a).max()) == 0
    assert float(census(a, 0.8 * a + 0.1).mean()) < 0.02
    assert float(census(a, a.flip(-1)).mean()) > 0.2
    assert float(charbonnier(a - (0.8 * a + 0.1)).mean()) > 10 * float(charbonnier(torch.zeros(1)).mean())


def test_a_translation_that_agrees_both_ways_is_hidden_only_where_it_leaves():
    flow = torch.zeros(1, 2, 10, 12)
    flow[:, 0] = 3
    hidden = occlusion(flow, -flow)[0, 0]
    assert hidden[:, 9:].all()
    assert not hidden[:, :9].any()
    assert torch.equal(inside(flow)[0, 0], ~hidden)
    assert occlusion(flow, flow).all()  # the way back does not lead home


def test_occlusion_is_the_consistency_of_both_flows():
    forward, backward = 2 * normal(1, 2, 8, 9, seed=1).float(), 2 * normal(1, 2, 8, 9, seed=2).float()
    hidden = occlusion(forward, backward)[0, 0]
    back = warp(backward, forward, padding="border")
    for y in range(8):
        for x in range(9):
            f, b = forward[0, :, y, x], back[0, :, y, x]
            off = float((f + b).square().sum()) > 0.01 * float(f.square().sum() + b.square().sum()) + 0.5
            to = (x + float(f[0]), y + float(f[1]))
            outside = not (0 <= to[0] <= 8 and 0 <= to[1] <= 7)
            assert bool(hidden[y, x]) == (off or outside)


@pytest.mark.parametrize("kind", ["census", "charbonnier"])
def test_the_true_flow_has_the_least_photometric_loss(kind):
    wide = F.interpolate(normal(1, 3, 12, 16, seed=4).sigmoid(), (48, 64), mode="bilinear").float()
    first, second = wide[..., 4:44, 6:54], wide[..., 4:44, 3:51]  # first(x) = second(x + 3)
    values = []
    for dx in (0.0, 1.5, 2.5, 3.0, 3.5, 5.0):
        flow = torch.zeros(1, 2, 40, 48)
        flow[:, 0] = dx
        values.append(float(photometric(first, second, flow, ~inside(flow), kind=kind)))
    assert min(values) == values[3]
    assert values[0] > values[1] > values[2]
    assert values[5] > values[4]


def test_what_is_hidden_does_not_count():
    first, second = normal(1, 3, 16, 16, seed=5).sigmoid(), normal(1, 3, 16, 16, seed=6).sigmoid()
    flow, hidden = torch.zeros(1, 2, 16, 16, dtype=torch.float64), torch.ones(1, 1, 16, 16, dtype=torch.bool)
    assert photometric(first, second, flow, hidden) == 0
    hidden[..., 8:, 8:] = False
    part = (census(first, second)[..., 8:, 8:] + 0.01) ** 0.4
    assert photometric(first, second, flow, hidden) == pytest.approx(float(part.mean()))


@pytest.mark.parametrize("order", [1, 2])
def test_smoothness_is_its_formula(order):
    flow, image = normal(1, 2, 7, 6, seed=1), normal(1, 3, 7, 6, seed=2).sigmoid()
    total = 0.0
    for rows, cols in ((0, 1), (1, 0)):
        terms = []
        for y in range(7 - order * rows):
            for x in range(6 - order * cols):
                f = [flow[0, :, y + k * rows, x + k * cols] for k in range(order + 1)]
                i = [image[0, :, y + k * rows, x + k * cols] for k in (0, order)]
                change = f[1] - f[0] if order == 1 else f[2] - 2 * f[1] + f[0]
                weight = math.exp(-4 * float((i[1] - i[0]).abs().mean()) / order)
                terms += [weight * math.sqrt(float(c) ** 2 + 1e-6) for c in change]
        total += sum(terms) / len(terms) / 2
    assert smoothness(flow, image, order=order, edge=4) == pytest.approx(total, rel=1e-6)


def test_an_affine_flow_is_smooth_to_second_order_and_not_to_first():
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    flow = torch.stack((0.3 * x - 0.1 * y, 0.2 * y))[None].double()
    grey = torch.full((1, 3, 9, 9), 0.5, dtype=torch.float64)
    assert smoothness(flow, grey, order=2) == pytest.approx(1e-3, rel=1e-3)
    assert smoothness(flow, grey, order=1) > 0.1


def test_gradients_are_those_of_the_functions():
    image, other = normal(1, 3, 6, 7, seed=1).sigmoid(), normal(1, 3, 6, 7, seed=2).sigmoid()
    flow = (0.4 * normal(1, 2, 6, 7, seed=3)).requires_grad_()
    seen = torch.zeros(1, 1, 6, 7, dtype=torch.bool)
    assert gradcheck(lambda a: census(a, other, radius=1), (image.clone().requires_grad_(),))
    assert gradcheck(charbonnier, (normal(5, seed=4).requires_grad_(),))
    assert gradcheck(lambda f: smoothness(f, image, order=2), (flow,))
    assert gradcheck(lambda f: photometric(image, other, f, seen, kind="charbonnier"), (flow,), eps=1e-7, atol=1e-3)
