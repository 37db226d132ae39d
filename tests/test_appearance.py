"""The appearance model: it is the ridge regression that it says it is, and it only chooses among what was copied."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixeltrail.appearance import FADING, RIDGE, Appearance
from pixeltrail.errors import InputError
from pixeltrail.predictors import raw_colour, with_protocol
from pixeltrail.types import LabelMap


def frame(seed: int, channels: int = 5, labels: int = 3, size: tuple[int, int] = (6, 7)) -> tuple:
    random = torch.Generator().manual_seed(seed)
    key = torch.randn(1, channels, *size, generator=random, dtype=torch.float64)
    return key, torch.rand(1, labels, *size, generator=random, dtype=torch.float64).softmax(1)


def regression(frames: list, weights: list[float], query: torch.Tensor) -> torch.Tensor:
    """Predicted shares of objects (N,) by the formula: weighted rows of all frames in one least-squares problem."""
    rows, targets = [], []
    for (key, values), frame_weight in zip(frames, weights, strict=True):
        objects = 1 - values[0, 0].flatten()
        for n, share in enumerate(objects):
            x = F.normalize(key[0].flatten(1)[:, n], dim=0)
            weight = share / objects.sum() / 2 + (1 - share) / (1 - objects).sum() / 2
            root = (frame_weight * weight) ** 0.5
            rows.append(root * torch.cat((x, torch.ones(1))))
            targets.append(root * share)
    rows += list(RIDGE**0.5 * torch.eye(len(rows[0]), dtype=torch.float64))
    targets += [torch.zeros_like(targets[0])] * len(rows[0])
    solution = torch.linalg.lstsq(torch.stack(rows), torch.stack(targets)[:, None]).solution[:, 0]
    x = F.normalize(query[0].flatten(1), dim=0)
    return solution @ torch.cat((x, torch.ones(1, x.shape[1], dtype=torch.float64)))


@pytest.mark.parametrize("later", [0, 1, 3])
def test_it_is_weighted_ridge_regression(later):
    first, second, query = frame(0), frame(1), frame(9)
    rest = [frame(2 + i) for i in range(later)]
    model = Appearance(1.7)
    for key, values in (first, second):
        model.learn(key, values, labelled=True)
    for key, values in rest:
        model.learn(key, values, labelled=False)
    fading = [FADING ** (later - 1 - i) * (1 - FADING if i else 1) for i in range(later)]
    share = regression([first, second, *rest], [0.5, 0.5, *fading], query[0]).view(6, 7)
    wanted = query[1].clone()
    wanted[:, 1:] *= (1.7 * (2 * share - 1)).exp()
    wanted = wanted / wanted.sum(1, keepdim=True)
    assert torch.allclose(model.weigh(*query).double(), wanted, atol=2e-5)


def test_it_only_chooses_among_what_was_copied_and_not_between_objects():
    model, (key, values) = Appearance(5.0), frame(0)
    model.learn(key, values, labelled=True)
    copied = 0.3 * values
    copied[:, 0, 0] = 0
    weighed = model.weigh(key, copied)
    assert not weighed[:, 0, 0].any()
    assert torch.allclose(weighed.sum(1), copied.sum(1))
    assert torch.allclose(weighed[:, 1] * copied[:, 2], weighed[:, 2] * copied[:, 1])
    assert not torch.allclose(weighed[:, 1], copied[:, 1], rtol=0.1)


def test_an_object_with_a_look_of_its_own_is_told_from_the_background():
    """What was copied is undecided; the embedding is not."""
    objects = torch.zeros(1, 1, 6, 7)
    objects[..., 2:4, 1:5] = 1
    key = torch.cat((objects - 0.5, torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(0)) / 10), 1)
    model = Appearance(3.0)
    model.learn(key, torch.cat((1 - objects, objects), 1), labelled=True)
    weighed = model.weigh(key.roll(2, 3), torch.full((1, 2, 6, 7), 0.5))
    assert torch.equal(weighed[:, 1] > 0.5, objects.roll(2, 3)[0] > 0.5)


def test_without_gain_or_labels_nothing_changes():
    key, values = frame(0)
    idle = Appearance(0.0)
    idle.learn(key, values, labelled=True)
    assert idle.weigh(key, values) is values
    assert Appearance(2.0).weigh(key, values) is values
    with pytest.raises(InputError, match="appearance: expected a number >= 0"):
        with_protocol(raw_colour(), appearance=-1.0)


def scene(shift: int) -> np.ndarray:
    """A red and a green square, which pass each other as ``shift`` grows."""
    image = np.full((64, 96, 3), 90, np.uint8)
    image[16:32, 16 + shift : 32 + shift] = (220, 30, 30)
    image[36:52, 64 - shift : 80 - shift] = (30, 200, 40)
    return image


def test_it_resumes_exactly_and_takes_in_later_labels():
    frames = [scene(4 * t) for t in range(8)]
    red = LabelMap((np.abs(frames[0].astype(int) - (220, 30, 30)).sum(2) == 0).astype(np.uint8))
    green = LabelMap((2 * (np.abs(frames[3].astype(int) - (30, 200, 40)).sum(2) == 0)).astype(np.uint8))
    tracker = with_protocol(raw_colour(), appearance=2.0)
    labels = {0: red, 3: green}
    whole = [tracked.ids for tracked in tracker.track(frames, labels)]
    assert set(np.unique(whole[7])) == {0, 1, 2}
    for stop in (2, 5):
        first, second = tracker.live(), tracker.live()
        for t in range(stop):
            first.step(frames[t], labels.get(t))
        second.load_state(first.state())
        assert all(np.array_equal(second.step(frames[t], labels.get(t)).ids, whole[t]) for t in range(stop, 8))
