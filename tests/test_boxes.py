"""Box-guided inference: the plain formula, what it is for, and that masks of several objects come through."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixeltrail.affinity import Affinity
from pixeltrail.boxes import box_of, extent, moved, propagate_in_boxes
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.predictors import raw_colour
from pixeltrail.protocols import preset
from pixeltrail.tracker import Protocol
from pixeltrail.types import LabelMap


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def _plain_box(mask, places=None, half=None):
    """Rows and columns, inclusive, by the words of the docstrings."""
    h, w = mask.shape
    ys, xs = np.nonzero(mask > 0.5)
    own = [2 * np.mean(np.abs(v - v.mean())) for v in (xs, ys)]
    centre = [xs.mean(), ys.mean()]
    if places is not None:
        centre = [places[0].mean(), places[1].mean()]
        own = [0.9 * o + 0.1 * 2 * np.mean(np.abs(p - p.mean())) for o, p in zip(own, places, strict=True)]
    ranges = []
    for c, r, n in zip(centre, own, (w, h), strict=True):
        low = min(max(math.floor(c - 1.6 * r), 0), n - 1)
        ranges.append(range(low, max(min(math.ceil(c + 1.6 * r), n - 1), low) + 1))
    return ranges[1], ranges[0]


@pytest.mark.parametrize("joint", [False, True])
def test_is_the_plain_formula_for_several_objects(joint):
    c, s, k, h, w = 6, 2, 4, 7, 9
    query = torch.randn(1, c, h, w, generator=_random())
    keys = torch.randn(1, s, c, h, w, generator=_random()) + 0.5 * query.unsqueeze(1)
    values = torch.zeros(1, s, k, h, w)
    for t in range(s):
        values[0, t, 1, 1 + t : 4, 1:4] = 1
        values[0, t, 2, 3:6, 5 : 8 - t] = 0.8
        values[0, t, 3, 0, 8] = 1  # one cell: looked for everywhere
    values[:, :, 0] = 1 - values[:, :, 1:].sum(2)
    affinity = Affinity(topk=5, renormalize=False, joint=joint)

    def weights(scores):
        p = np.exp(scores - scores.max())
        p /= p.sum()
        p[p < np.sort(p)[-min(5, len(p))]] = 0
        return p

    q, r, v = query[0].numpy(), keys[0].numpy(), values[0].numpy()
    total, count = np.zeros((k, h, w)), np.zeros((h, w))
    for o in range(1, k):
        everywhere = range(h), range(w)
        if o == 3:
            here = everywhere
        else:
            places = []
            for y, x in zip(*np.nonzero(v[-1, o] > 0.5), strict=True):
                scores = np.einsum("c,chw->hw", r[-1, :, y, x], q).ravel()
                p = weights(scores)
                p = (p / p.sum()).reshape(h, w)
                places.append((float((p * np.arange(w)).sum()), float((p * np.arange(h)[:, None]).sum())))
            here = _plain_box(v[-1, o], np.array(places).T)
        for y in here[0]:
            for x in here[1]:
                cells = []
                for t in range(s):
                    rows, columns = everywhere if o == 3 else _plain_box(v[t, o])
                    cells.append([(t, i, j) for i in rows for j in columns])
                for group in [[*cells[0], *cells[1]]] if joint else cells:
                    p = weights(np.array([r[t, :, i, j] @ q[:, y, x] for t, i, j in group]))
                    mean = sum(a * v[t, :, i, j] for a, (t, i, j) in zip(p, group, strict=True))
                    total[:, y, x] += mean / (1 if joint else s)
                count[y, x] += 1
    expected = total / np.maximum(count, 1)
    expected[0] += count == 0
    copied = propagate_in_boxes(affinity, query, keys, values)
    torch.testing.assert_close(copied[0], torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)


def test_outside_every_box_is_background():
    query = torch.randn(1, 64, 12, 12, generator=_random())
    values = torch.zeros(1, 1, 2, 12, 12)
    values[0, 0, 1, 2:5, 2:5] = 1
    values[0, 0, 0] = 1 - values[0, 0, 1]
    copied = propagate_in_boxes(Affinity(temperature=0.02, normalize=True), query, query.unsqueeze(1), values)
    torch.testing.assert_close(copied, values[:, 0], rtol=0, atol=0.02)  # the same frame again
    assert (copied[0, 1, 8:] == 0).all()
    assert (copied[0, 0, 8:] == 1).all()


def test_a_box_follows_its_object_and_turns_a_look_alike_down():
    kinds = torch.eye(3)[:, :, None, None]  # background, the object, and what makes its twin different
    background = kinds[:1].expand(1, 3, 12, 20).clone()
    before, after = background.clone(), background.clone()
    before[0, :, 4:8, 2:6] = after[0, :, 4:8, 5:9] = kinds[1]
    after[0, :, 4:8, 15:19] = 0.8 * kinds[1] + 0.6 * kinds[2]  # was not there
    mask = torch.zeros(12, 20)
    mask[4:8, 2:6] = 1
    values = torch.stack((1 - mask, mask))[None, None]
    affinity = Affinity(temperature=0.05, normalize=True)
    assert moved(affinity, after, before, mask) == (slice(2, 10), slice(3, 11))  # about 6.7 and 5.5, ± 1.6 · 0.9 · 2
    everywhere = affinity.propagate(after, before[:, None], values)[0, 1]
    assert everywhere[4:8, 15:19].min() > 0.9
    inside = propagate_in_boxes(affinity, after, before[:, None], values)[0, 1]
    assert inside[4:8, 5:9].min() > 0.9
    assert inside[:, 12:].max() == 0


def test_extent_of_a_filled_box_and_its_margin():
    mask = torch.zeros(20, 30)
    mask[4:14, 6:26] = 1
    centre, half = extent(mask)
    assert centre.tolist() == [15.5, 8.5]
    assert half.tolist() == [10, 5]
    mask[0, 0] = 1  # a stray cell hardly matters
    assert (extent(mask)[1] - half).abs().max() < 0.2
    assert box_of(centre, half, (20, 30)) == (slice(0, 18), slice(0, 30))
    assert box_of(torch.tensor([-9.0, 40.0]), torch.tensor([1.0, 1.0]), (20, 30)) == (slice(19, 20), slice(0, 1))


def test_masks_of_several_objects_come_through():
    clip = render(3, frames=5, size=(128, 192), objects=2, speed=2.0)
    tracker = raw_colour()
    base = Affinity(temperature=0.02, normalize=True, topk=5)
    scores = {}
    for boxes in (False, True):
        tracker.protocol = replace(tracker.protocol, affinity=base, boxes=boxes, distant=None)
        results = list(tracker.track(clip.frames, LabelMap(clip.labels[0])))
        scores[boxes] = np.mean([jaccard(results[-1].ids == i, clip.labels[-1] == i) for i in (1, 2)])
    assert scores[True] > scores[False] + 0.02
    assert scores[True] > 0.4


def test_a_window_and_boxes_exclude_each_other():
    with pytest.raises(InputError, match="without a radius"):
        replace(preset("crw"), boxes=True)


def test_presets_are_as_the_released_code_runs_them():
    uvc, boxes, cycle = preset("uvc"), preset("uvc-boxes"), preset("timecycle")
    assert boxes == replace(uvc, boxes=True)
    for protocol in (uvc, cycle):
        assert isinstance(protocol, Protocol)
        assert protocol.policy.frames(20) == [0, 13, 14, 15, 16, 17, 18, 19]
        assert (protocol.affinity.topk, protocol.affinity.renormalize, protocol.affinity.joint) == (5, False, False)
        assert protocol.stretch
        assert protocol.size == 480
    assert (uvc.affinity.temperature, uvc.affinity.normalize) == (1, False)
    assert (cycle.affinity.temperature, cycle.affinity.normalize) == (512**-0.5, True)
