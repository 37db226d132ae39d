"""The laws of the mechanism. `reference` is the formula, written once more with loops and nothing shared."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from math import log

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pixeltrail.affinity import Affinity, Correspondence, correlation
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.kernels import blocked


def sample(grid: Tensor, y: float, x: float) -> Tensor:
    """(C, h, w) bilinearly at a position, 0 outside."""
    out = grid.new_zeros(len(grid))
    for i in (int(y // 1), int(y // 1) + 1):
        for j in (int(x // 1), int(x // 1) + 1):
            if 0 <= i < grid.shape[1] and 0 <= j < grid.shape[2]:
                out = out + grid[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return out


def candidates(a: Affinity, s: int, y: int, x: int, h: int, w: int, centre: Tensor | None) -> list[tuple[float, float]]:
    if a.radius is None or (a.free_first and s == 0):
        return [(i, j) for i in range(h) for j in range(w)]
    cy, cx = (float(y), float(x)) if centre is None else (y + float(centre[s, 1, y, x]), x + float(centre[s, 0, y, x]))
    if a.mask_border:
        cy, cx = min(max(cy, 0), h - 1), min(max(cx, 0), w - 1)
    steps = range(-a.radius, a.radius + 1)
    window = [(i, j) for i in steps for j in steps if not a.circle or i * i + j * j < a.radius**2]
    places = [(cy + i * a.dilation, cx + j * a.dilation) for i, j in window]
    return [(p, q) for p, q in places if not a.mask_border or (0 <= p <= h - 1 and 0 <= q <= w - 1)]


def reference(a: Affinity, query: Tensor, keys: Tensor, values: Tensor, centre: Tensor | None = None) -> Tensor:
    """One sample: (C, h, w), (S, C, h, w), (S, K, h, w), (S, 2, h, w) -> (K, h, w)."""
    (_, h, w), out = query.shape, query.new_zeros(values.shape[1], *query.shape[1:])
    unit = (lambda x, dim: x / x.norm(dim=dim, keepdim=True)) if a.normalize else (lambda x, dim: x)
    query, keys = unit(query, 0), unit(keys, 1)
    for y in range(h):
        for x in range(w):
            places = [[(s, p) for p in candidates(a, s, y, x, h, w, centre)] for s in range(len(keys))]
            for look in [list(chain(*places))] if a.joint else places:
                score = torch.stack([query[:, y, x] @ sample(keys[s], *p) for s, p in look]) / a.temperature
                weight = score.softmax(0)
                if a.topk is not None:
                    weight[score.argsort(descending=True)[a.topk :]] = 0
                    weight = weight / weight.sum() if a.renormalize else weight
                copied = torch.stack([sample(values[s], *p) for s, p in look])
                out[:, y, x] += weight @ copied / (1 if a.joint else len(places))
    return out


@st.composite
def affinities(draw: st.DrawFn) -> Affinity:
    radius = draw(st.none() | st.integers(0, 4))
    return Affinity(
        radius=radius,
        circle=bool(radius) and draw(st.booleans()),
        dilation=1 if radius is None else draw(st.integers(1, 3)),
        temperature=draw(st.sampled_from([0.1, 0.7, 1.0])),
        normalize=draw(st.booleans()),
        topk=draw(st.none() | st.integers(1, 12)),
        renormalize=draw(st.booleans()),
        joint=draw(st.booleans()),
        mask_border=draw(st.booleans()),
        free_first=draw(st.booleans()),
    )


def problem(seed: int, h: int, w: int, s: int = 2, b: int = 1, c: int = 5, k: int = 3) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    shapes = (b, c, h, w), (b, s, c, h, w), (b, s, k, h, w)
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)


def offsets(seed: int, like: Tensor, kind: str) -> Tensor | None:
    """Centres: none, whole, on quarters of a cell, or anywhere; some of them far outside."""
    if kind == "none":
        return None
    b, s, _, h, w = like.shape
    centre = 3 * torch.randn(b, s, 2, h, w, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)
    return {"whole": centre.round(), "quarters": (4 * centre).round() / 4, "any": centre}[kind]


@settings(max_examples=100, deadline=None)
@given(
    a=affinities(),
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    s=st.integers(1, 3),
    kind=st.sampled_from(["none", "none", "whole", "quarters", "any"]),
    side=st.sampled_from([1, 3, 8]),
)
@example(a=Affinity(radius=3), seed=0, size=(1, 1), s=1, kind="none", side=8)
@example(a=Affinity(radius=50, circle=True), seed=0, size=(3, 2), s=2, kind="none", side=8)
@example(a=Affinity(radius=2, mask_border=False, topk=7), seed=0, size=(3, 2), s=2, kind="any", side=8)
def test_every_setting_equals_the_formula(
    a: Affinity, seed: int, size: tuple[int, int], s: int, kind: str, side: int
) -> None:
    query, keys, values = problem(seed, *size, s=s)
    centre = offsets(seed, keys, kind)
    expected = reference(a, query[0], keys[0], values[0], None if centre is None else centre[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "SIDE", side)
        plain = a(query, keys, centre)
        torch.testing.assert_close(plain.copy(values)[0], expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(a.propagate(query, keys, values, centre)[0], expected, rtol=0, atol=1e-9)
        copied, entropy = a.propagate_with_entropy(query, keys, values, centre)
    torch.testing.assert_close(copied[0], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(entropy, plain.entropy(), rtol=0, atol=1e-7)


LARGE = [
    Affinity(radius=4),
    Affinity(radius=6, temperature=0.07, normalize=True, topk=10),
    Affinity(radius=6, temperature=0.05, normalize=True, topk=10, circle=True, free_first=True),
    Affinity(topk=5, renormalize=False, joint=False, temperature=0.3),
    Affinity(radius=3, dilation=2, mask_border=False),
    Affinity(radius=3, dilation=3, topk=9, joint=False),
    Affinity(radius=5, topk=10, renormalize=False, free_first=True, joint=False),
]


@pytest.mark.parametrize("a", LARGE, ids=str)
@pytest.mark.parametrize("step", [1, 2**16, 2**20])
def test_fast_equals_plain_in_float32_over_many_tiles_and_bands(
    a: Affinity, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "STEP", step)
    monkeypatch.setattr(blocked, "BAND", 2)
    query, keys, values = (x.float() for x in problem(1, 37, 29, s=3, b=2, c=16))
    plain = a(query, keys)
    copied, entropy = a.propagate_with_entropy(query, keys, values)
    torch.testing.assert_close(copied, plain.copy(values), rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy, plain.entropy(), rtol=0, atol=1e-4)


def test_small_memory_makes_smaller_tiles_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, values = problem(2, 11, 13)
    for a in (Affinity(topk=4), Affinity(radius=2, free_first=True)):
        expected = a.propagate(query, keys, values)
        with monkeypatch.context() as patch:
            patch.setattr(blocked, "MOST", 700)
            torch.testing.assert_close(a.propagate(query, keys, values), expected)


@pytest.mark.parametrize("chunk", [1, 2**12])
def test_chunks_of_a_second_look_do_not_matter(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, values = problem(3, 9, 7, b=2)
    centre = offsets(3, keys, "any")
    a = Affinity(radius=2, topk=6)
    expected = a(query, keys, centre).copy(values)
    monkeypatch.setattr("pixeltrail.affinity.CHUNK", chunk)
    torch.testing.assert_close(a.propagate(query, keys, values, centre), expected)


def test_a_crowd_of_centres_in_one_place() -> None:
    query, keys, values = problem(4, 12, 13, s=1)
    own = Affinity(radius=0)(query, keys).displacement()
    assert own.abs().max() == 0
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(13.0), indexing="ij")
    centre = (torch.tensor([5.0, 4.0])[:, None, None] - torch.stack((x, y)))[None, None].double()
    found = Affinity(radius=0).propagate(query, keys, values, centre)
    torch.testing.assert_close(found, values[:, 0, :, 4, 5, None, None].expand_as(found))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), h=st.integers(1, 9), w=st.integers(1, 9), topk=st.none() | st.integers(1, 30))
def test_a_window_over_the_frame_is_the_whole_frame(seed: int, h: int, w: int, topk: int | None) -> None:
    query, keys, values = problem(seed, h, w)
    whole, window = Affinity(topk=topk), Affinity(topk=topk, radius=max(h, w))
    torch.testing.assert_close(window.propagate(query, keys, values), whole.propagate(query, keys, values))
    torch.testing.assert_close(window(query, keys).dense(), whole(query, keys).dense())


@settings(max_examples=40, deadline=None)
@given(a=affinities(), seed=st.integers(0, 2**31), kind=st.sampled_from(["none", "any"]))
def test_weights_sum_to_one_even_at_the_border(a: Affinity, seed: int, kind: str) -> None:
    query, keys, values = problem(seed, 5, 7)
    centre = offsets(seed, keys, kind)
    full = a(query, keys, centre).weight.sum(-1)
    assert full.max() <= 1 + 1e-9
    kept = replace(a, mask_border=True, renormalize=True)
    mass = kept(query, keys, centre).weight.sum(-1)
    torch.testing.assert_close(mass, torch.ones_like(mass))
    # so the mass of labels that sum to one in each cell is conserved
    labels = values.softmax(2)
    total = kept.propagate(query, keys, labels, centre).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_mass_is_lost_where_the_papers_lose_it() -> None:
    query, keys, _ = problem(5, 6, 6)
    assert Affinity(topk=3, renormalize=False)(query, keys).weight.sum(-1).max() < 1
    leak = Affinity(radius=2, mask_border=False)(query, keys).weight.sum(-1).view(6, 6)
    assert leak[0, 0] < 0.99
    torch.testing.assert_close(leak[2:4, 2:4], torch.ones(2, 2, dtype=leak.dtype))


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-1, 4)])
@pytest.mark.parametrize("a", [Affinity(), Affinity(radius=4), Affinity(radius=4, topk=3)], ids=str)
def test_a_known_shift_is_recovered(a: Affinity, shift: tuple[int, int]) -> None:
    dx, dy = shift
    first = torch.nn.functional.normalize(problem(6, 14, 15, c=64)[0], dim=1)
    second = first.roll((dy, dx), (2, 3))  # what first shows at p, second shows at p + shift
    a = replace(a, temperature=0.01)
    inner = (..., slice(4, -4), slice(4, -4))
    expected = torch.tensor(shift, dtype=first.dtype)[:, None, None].expand(2, 6, 7)
    torch.testing.assert_close(a(first, second[:, None]).displacement()[0][inner], expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(a.displacement(first, second[:, None])[0, 0][inner], expected, rtol=0, atol=1e-4)


def test_a_second_look_finds_what_lies_beyond_the_window() -> None:
    first = torch.nn.functional.normalize(problem(7, 30, 30, c=64)[0], dim=1)
    second = first.roll((6, -8), (2, 3))[:, None]
    fine = Affinity(radius=2, temperature=0.01)
    centre = replace(fine, radius=5, dilation=2).displacement(first, second)
    copied = fine.propagate(first, second, second, centre)
    inner = (..., slice(10, 20), slice(10, 20))
    torch.testing.assert_close(copied[inner], first[inner], rtol=0, atol=1e-3)


@pytest.mark.parametrize("a", [Affinity(), Affinity(radius=1, free_first=True), Affinity(radius=2, topk=4)], ids=str)
def test_dense_and_heat_map_show_the_same_weights(a: Affinity) -> None:
    query, keys, values = problem(8, 4, 5, b=2)
    look = a(query, keys)
    dense = look.dense()
    assert dense.shape == (2, 20, 40)
    flat = values.movedim(2, -1).flatten(1, 3)
    torch.testing.assert_close((dense @ flat).mT.view(2, 3, 4, 5), look.copy(values))
    torch.testing.assert_close(look.at(2, 3), dense[:, 13].view(2, 2, 4, 5))
    with pytest.raises(InputError, match="at: expected a cell"):
        look.at(4, 0)


def test_entropy_goes_from_certain_to_uniform() -> None:
    query, keys, values = problem(9, 6, 7, s=3)
    alike = torch.ones_like(keys)
    for joint in (True, False):
        a = Affinity(radius=2, joint=joint)
        flat = a.propagate_with_entropy(query, alike, values)[1][0]
        assert flat[3, 3] == pytest.approx(log(3 * 25))
        assert flat[0, 0] == pytest.approx(log(3 * 9))
    sure = Affinity(radius=2, temperature=1e-4).propagate_with_entropy(query, keys, values)[1]
    assert 0 <= sure.min() <= sure.max() < 0.2


@pytest.mark.parametrize(
    "a",
    [
        Affinity(radius=1, normalize=True, temperature=0.5),
        Affinity(radius=2, topk=3, dilation=2),
        Affinity(topk=3, renormalize=False, joint=False),
        Affinity(radius=1, free_first=True, topk=4, circle=True),
        Affinity(radius=1, mask_border=False),
    ],
    ids=str,
)
def test_gradients(a: Affinity) -> None:
    inputs = [x.requires_grad_() for x in problem(10, 3, 4, c=3, k=2)]
    assert torch.autograd.gradcheck(a.propagate_with_entropy, inputs)
    assert torch.autograd.gradcheck(lambda q, k, v: a(q, k).copy(v), inputs)


def test_gradients_through_a_second_look_and_into_its_centre() -> None:
    inputs = [x.requires_grad_() for x in problem(11, 3, 4, s=1, c=3, k=2)]
    centre = offsets(11, inputs[1], "any")
    assert centre is not None
    assert torch.autograd.gradcheck(Affinity(radius=1, mask_border=False).propagate, [*inputs, centre.requires_grad_()])


@pytest.mark.parametrize("a", LARGE, ids=str)
def test_a_batch_of_two_is_two_batches_of_one(a: Affinity) -> None:
    query, keys, values = problem(12, 9, 10, b=2)
    both = a.propagate(query, keys, values)
    each = [a.propagate(query[b : b + 1], keys[b : b + 1], values[b : b + 1]) for b in range(2)]
    assert torch.equal(both, torch.cat(each))


def test_bfloat16_follows_float32() -> None:
    query, keys, values = problem(13, 12, 13, c=16)
    a = Affinity(radius=3, topk=5, normalize=True, temperature=0.2)
    low = a.propagate(query.bfloat16(), keys.bfloat16(), values.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low.double() - a.propagate(query, keys, values)).abs().mean() < 0.05


def test_a_crop_may_look_at_a_whole_frame() -> None:
    _, keys, values = problem(14, 8, 9)
    crop = keys[:, 0, :, 2:5, 3:7]
    a = Affinity(normalize=True, temperature=0.01)
    copied = a.propagate(crop, keys[:, :1], values[:, :1])
    torch.testing.assert_close(copied, values[:, 0, :, 2:5, 3:7], rtol=0, atol=0.02)
    torch.testing.assert_close(a(crop, keys[:, :1]).copy(values[:, :1]), copied)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    radius=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_correlation_equals_shifted_products(seed: int, size: tuple[int, int], radius: int, dilation: int) -> None:
    first, second, _ = problem(seed, *size, s=1, b=2)
    second = second[:, 0]
    pad = radius * dilation
    padded, (h, w) = torch.nn.functional.pad(second, (pad,) * 4), size
    expected = [
        (first * padded[:, :, j * dilation : j * dilation + h, i * dilation : i * dilation + w]).mean(1)
        for j in range(2 * radius + 1)
        for i in range(2 * radius + 1)
    ]
    torch.testing.assert_close(correlation(first, second, radius=radius, dilation=dilation), torch.stack(expected, 1))


def test_correlation_order_and_gradient() -> None:
    first = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    second = first.clone()
    first[0, 0, 3, 3] = second[0, 0, 4, 1] = 1  # moved by dx = -2, dy = 1
    assert correlation(first, second, radius=2)[0, :, 3, 3].argmax() == (1 + 2) * 5 + (-2 + 2)
    inputs = [problem(15, 4, 5)[0].requires_grad_(), problem(16, 4, 5)[0].requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b: correlation(a, b, radius=1, dilation=2), inputs)


def test_a_cost_volume_is_the_affinity_before_its_softmax() -> None:
    query, keys, _ = problem(17, 7, 6, s=1)
    look = Affinity(radius=2, mask_border=False)(query, keys)
    scores = correlation(query, keys[:, 0], radius=2) * query.shape[1]
    inside = look.weight > 0
    expected = scores.softmax(1).flatten(2).mT
    torch.testing.assert_close(look.weight[inside], expected[inside])


@pytest.mark.parametrize(
    "bad",
    [
        {"radius": -1},
        {"circle": True},
        {"radius": 0, "circle": True},
        {"dilation": 0, "radius": 2},
        {"dilation": 2},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"topk": 0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"^\w+: expected .*, got .*$"):
        Affinity(**bad)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused() -> None:
    query, keys, values = problem(18, 4, 5)
    a = Affinity(radius=1)
    for q, k, v, c in [
        (query[0], keys, values, None),
        (query.long(), keys, values, None),
        (query, keys[:, 0], values, None),
        (query, keys[..., :-1], values, None),
        (query, keys, values[:, :1], None),
        (query, keys, values, keys.new_zeros(1, 2, 3, 4, 5)),
        (query, keys, values, keys.new_full((1, 2, 2, 4, 5), torch.inf)),
    ]:
        with pytest.raises(ShapeError, match=r"^\w+: expected .*, got .*$"):
            a.propagate(q, k, v, c)
    with pytest.raises(ShapeError, match="values: expected"):
        a(query, keys).copy(values[:, :1])
    with pytest.raises(ShapeError, match="correlation: expected"):
        correlation(query, query[:, :2], radius=1)
    assert isinstance(a(query, keys), Correspondence)
