"""J, F and their statistics against the official evaluator's numbers and against the definitions; the report; PCK."""

from __future__ import annotations

import json
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixeltrail.data.davis import Davis, DavisSequence
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.evaluation.masks import SequenceScore, Statistics, boundary, boundary_f, dilate, jaccard, statistics
from pixeltrail.evaluation.points import badja_threshold, pck
from pixeltrail.evaluation.report import MEASURES, evaluate_masks, evaluate_results
from pixeltrail.flow.propagate import identity
from pixeltrail.types import LabelMap

masks = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))
mask_pairs = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)
radii = st.integers(0, 20)


def rectangle(top: int, left: int, height: int, width: int, shape: tuple[int, int] = (480, 854)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def rows_of(table: Path, sequence: str) -> list[list[str]]:
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    return [row[1:] for row in rows if row[0] == sequence]


@pytest.mark.parametrize("name", ["schoolgirls", "dog-agility", "drift-turn"])
def test_official_numbers(real_data, name):
    oracle = real_data / "evaluator-oracle"
    if name == "schoolgirls":
        truth = sorted((real_data / "multi-object" / name).glob("*.png"))
        sequence = DavisSequence(name, truth, truth, binary=False)
    else:
        (sequence,) = Davis(real_data / "davis-dev", [name])
    score = SequenceScore(name)
    for predicted, true in zip(sequence.results(oracle), sequence.truth(), strict=True):
        score.add(predicted, true)

    expected = rows_of(oracle / "official_per_frame.tsv", name)
    assert len(expected) == score.values.size / 2  # every object and frame, and no other
    ours = [score.values[sequence.frame_names.index(frame) - 1, int(k) - 1] for k, frame, _, _ in expected]
    np.testing.assert_allclose(ours, [[float(j), float(f)] for _, _, j, f in expected], rtol=0, atol=1e-9)

    expected = [[float(x) for x in row[1:]] for row in rows_of(oracle / "official_statistics.tsv", name)]
    ours = [[j.mean, j.recall, j.decay, f.mean, f.recall, f.decay] for j, f in score.statistics()]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)


def test_results_folder_end_to_end(real_data):
    davis = Davis(real_data / "davis-dev", ["drift-turn", "dog-agility"])
    report = evaluate_results(real_data / "evaluator-oracle", davis)
    expected = []
    for row in report.objects:
        (official,) = rows_of(real_data / "evaluator-oracle" / "official_statistics.tsv", row["sequence"])
        expected.append([float(x) for x in official[1:]])
        np.testing.assert_allclose([row[m] for m in MEASURES[:6]], expected[-1], rtol=0, atol=1e-9)
    assert [row["sequence"] for row in report.objects] == ["drift-turn", "dog-agility"]
    overall = np.mean(expected, axis=0)
    assert report.overall["J&F"] == pytest.approx((overall[0] + overall[3]) / 2, abs=1e-9)


def test_empty_masks():
    empty, some = np.zeros((480, 854), bool), rectangle(100, 100, 50, 50)
    assert jaccard(empty, empty) == boundary_f(empty, empty) == 1
    for pair in ((empty, some), (some, empty)):
        assert jaccard(*pair) == boundary_f(*pair) == 0
    everything = np.ones((480, 854), bool)  # has no boundary
    assert boundary_f(everything, empty) == boundary_f(everything, everything) == 1
    assert boundary_f(everything, some) == 0


def test_shifted_rectangle():
    still = rectangle(100, 100, 60, 80)
    for shift in (0, 1, 8):  # 480p tolerates ceil(0.008 * 979.7) = 8 pixels
        moved = rectangle(100, 100 + shift, 60, 80)
        assert jaccard(still, moved) == (80 - shift) / (80 + shift)
        assert boundary_f(still, moved) == 1
    assert boundary_f(still, rectangle(100, 109, 60, 80)) < 1
    assert boundary_f(still, rectangle(300, 300, 60, 80)) == 0


def test_tolerance_is_a_disk():
    """The boundary of one pixel is a block of 2x2. Moved by (6, 5) each is sqrt(61) < 8 from where it was; moved
    by (6, 6) the far corner of each block is sqrt(72) > 8 from the other block, which a square would reach."""
    still = rectangle(200, 200, 1, 1)
    for (dy, dx), expected in {(6, 5): 1, (6, 6): 0.75, (0, 9): 0.5, (0, 10): 0, (8, 8): 0}.items():
        assert boundary_f(still, rectangle(200 + dy, 200 + dx, 1, 1)) == expected


@given(masks, radii)
def test_dilation_is_by_distance(mask, radius):
    y, x = np.nonzero(mask)
    rows, columns = np.indices(mask.shape)[..., None]
    expected = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2).any(axis=-1)
    np.testing.assert_array_equal(dilate(mask, radius), expected)


@given(masks)
def test_boundary_by_definition(mask):
    height, width = mask.shape
    for y, x in np.ndindex(height, width):
        others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        differs = any(mask[y, x] != mask[v, u] for v, u in others if v < height and u < width)
        assert boundary(mask)[y, x] == differs


@given(mask_pairs)
def test_f_by_definition_on_the_whole_image(pair):
    """The crop to the bounding box changes nothing."""
    a, b = map(boundary, pair)
    precision = (a & dilate(b, 3)).sum() / a.sum() if a.any() else None
    recall = (b & dilate(a, 3)).sum() / b.sum() if b.any() else None
    if precision is None or recall is None:
        expected = float(precision is recall)
    else:
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    tolerance = 2.9 / np.linalg.norm(pair[0].shape)
    assert boundary_f(*pair, tolerance) == pytest.approx(expected, abs=1e-12)


@given(mask_pairs)
def test_symmetries(pair):
    first, second = pair
    for measure in (jaccard, boundary_f):
        value = measure(first, second)
        assert 0 <= value <= 1
        assert measure(first, first) == 1
        assert measure(second, first) == pytest.approx(value, abs=1e-12)
        assert measure(first.T, second.T) == pytest.approx(value, abs=1e-12)
    assert jaccard(first[::-1, ::-1], second[::-1, ::-1]) == jaccard(first, second)
    # A boundary pixel is the corner of a mixed 2x2 block: flipping moves all of them by one, unless they are cut off.
    inner = [np.pad(mask, 2) for mask in pair]
    for flip in (np.flipud, np.fliplr):
        assert boundary_f(*map(flip, inner)) == pytest.approx(boundary_f(*inner), abs=1e-12)


def test_masks_must_be_of_one_size():
    for measure in (jaccard, boundary_f):
        with pytest.raises(ShapeError, match="one size"):
            measure(np.zeros((4, 5), bool), np.zeros((5, 4), bool))


def test_statistics_by_hand():
    assert statistics([0.5, 0.5, 0.5, 0.51]).recall == 0.25  # strictly above one half
    assert statistics([0.7]) == Statistics(0.7, 1.0, 0.0)
    # 8 values: bins end at 1, 2.75, 4.5, 6.25, 8, rounded; the first is values 1-3 and the last 6-8
    found = statistics([1, 1, 0.4, 0, 0, 0.3, 0.1, 0.2])
    assert found.decay == pytest.approx(0.8 - 0.2)
    assert found.mean == pytest.approx(3 / 8)
    assert statistics([1.0, math.nan, 0.5]).mean == 0.75
    assert all(math.isnan(x) for x in (statistics([]).mean, statistics([]).recall, statistics([]).decay))


def test_decay_of_long_videos():
    """Beyond 256 frames the official frame numbers wrap; ours go on. Up to there they are equal."""
    assert statistics(np.linspace(1, 0, 1000)).decay == pytest.approx(0.75, abs=2e-3)
    values = np.random.default_rng(0).random(256)
    for n in range(1, 257):
        ids = (np.round(np.linspace(1, n, 5) + 1e-10) - 1).astype(np.uint8).astype(int)
        bins = [values[:n][ids[i] : ids[i + 1] + 1] for i in range(4)]
        assert statistics(values[:n]).decay == pytest.approx(bins[0].mean() - bins[3].mean(), abs=1e-12)


def ids(*boxes: tuple[int, int]) -> np.ndarray:
    """40 x 60 ids; object k is a square of 10 at the k-th (top, left)."""
    out = np.zeros((40, 60), np.uint8)
    for k, (top, left) in enumerate(boxes, 1):
        out[top : top + 10, left : left + 10] = k
    return out


def test_sequence_leaves_out_both_ends_and_void():
    truth = ids((5, 5), (20, 30))
    truth[0, :] = 255
    nothing = np.zeros_like(truth)
    score = SequenceScore("s")
    for predicted in (nothing, np.where(truth == 255, 0, truth).astype(np.uint8), nothing, nothing):
        score.add(predicted, truth)
    np.testing.assert_array_equal(score.values, [[[1, 1], [1, 1]], [[0, 0], [0, 0]]])
    assert [j.mean for j, _ in score.statistics()] == [0.5, 0.5]


def test_object_missing_from_the_first_mask_counts_up_to_the_largest_id():
    truth = ids((5, 5), (20, 30))
    truth[truth == 1] = 0
    score = SequenceScore("s")
    for _ in range(3):
        score.add(truth, truth)
    assert score.values.shape == (1, 2, 2)
    assert (score.values == 1).all()  # empty in both


def test_sequence_keeps_no_masks():
    score = SequenceScore("s")
    truth = ids((5, 5))
    score.add(truth, truth)
    gone = weakref.ref(truth)
    del truth
    assert gone() is None


def test_sequence_refuses():
    with pytest.raises(InputError, match=r"^s: frame 0: the true mask has no object"):
        SequenceScore("s").add(ids(), ids())
    score = SequenceScore("s")
    score.add(ids((5, 5)), ids((5, 5)))
    with pytest.raises(InputError, match=r"^s: frame 1: id 2, but the first true mask has 1 object"):
        score.add(ids((5, 5), (20, 30)), ids((5, 5)))
    with pytest.raises(ShapeError, match=r"^s: frame 1: the mask is 60x20, the truth 60x40"):
        score.add(ids()[:20], ids((5, 5)))


class Sequence:
    """Two squares; the second moves by ``speed`` pixels a frame."""

    def __init__(self, name: str, frames: int, speed: int) -> None:
        self.name, self.frame_names = name, [f"{5 * t:05d}" for t in range(frames)]
        self._ids = [ids((5, 5), (20, 5 + speed * t)) for t in range(frames)]

    def images(self):
        return iter([np.zeros((40, 60, 3), np.uint8) for _ in self.frame_names])

    def truth(self):
        return iter(self._ids)

    def first(self):
        return LabelMap(self._ids[0])

    def results(self, folder):
        return iter(self._ids)


def test_report_of_identity():
    seen = []
    data = [Sequence("slow", 6, 1), Sequence("fast", 8, 5)]
    report = evaluate_masks(identity, data, on_frame=lambda *step: seen.append(step), settings={"method": "identity"})
    content = json.loads(json.dumps(report.json(), allow_nan=False))
    assert list(content) == ["overall", "sequences", "objects", "per_frame", "settings", "curves", "pictures"]
    assert tuple(content["overall"]) == MEASURES
    assert [list(row) for row in content["objects"]] == [["sequence", "object", *MEASURES]] * 4
    assert [(row["sequence"], row["object"]) for row in content["objects"]] == [
        ("slow", 1), ("slow", 2), ("fast", 1), ("fast", 2)
    ]  # fmt: skip
    still, slow, fast = content["objects"][0], content["objects"][1], content["objects"][3]
    assert still["J_mean"] == still["F_recall"] == still["J&F"] == 1
    assert slow["J_mean"] == pytest.approx(np.mean([(10 - t) / (10 + t) for t in range(1, 5)]))
    assert slow["J&F"] == (slow["J_mean"] + slow["F_mean"]) / 2
    assert fast["J_decay"] > 0
    assert content["overall"]["J_mean"] == pytest.approx((2 + slow["J_mean"] + fast["J_mean"]) / 4)
    assert content["sequences"][0]["J&F"] == pytest.approx((1 + slow["J&F"]) / 2)
    assert content["sequences"][1]["frames"] == 8
    assert 0 < content["sequences"][0]["seconds_per_frame"] < 1
    worst = content["per_frame"]
    assert len(worst) == 10
    assert worst[0]["J"] == 0 and worst[0]["object"] == 2 and worst[0]["sequence"] == "fast"  # noqa: PT018
    assert worst[0]["frame"] == "00015"  # the first that is 15 pixels off, under its file's name
    assert [row["J"] + row["F"] for row in worst] == sorted(row["J"] + row["F"] for row in worst)
    assert content["settings"] == {"method": "identity"}
    assert seen == [("slow", t, 6) for t in range(1, 7)] + [("fast", t, 8) for t in range(1, 9)]


def test_report_table_and_results():
    from rich.console import Console

    report = evaluate_results("results", [Sequence("fast", 8, 5)])
    assert report.overall["J&F"] == 1
    assert report.json()["sequences"][0]["seconds_per_frame"] is None
    console = Console(width=160)
    with console.capture() as text:
        console.print(report.table())
    assert "fast" in text.get()
    assert "all 2 objects" in text.get()
    assert "1.000" in text.get()


def test_report_without_scored_frames_has_no_nan():
    report = evaluate_masks(identity, [Sequence("short", 2, 1)])
    content = json.loads(json.dumps(report.json(), allow_nan=False))
    assert content["overall"]["J&F"] is None
    assert content["per_frame"] == []
    report.table()
    both = evaluate_masks(identity, [Sequence("short", 2, 1), Sequence("slow", 6, 0)])
    assert both.overall["J&F"] == 1


@pytest.mark.parametrize(("change", "message"), [(-1, "frame 5: fewer masks than the 6"), (1, "frame 6: more masks")])
def test_number_of_masks(change, message):
    def predict(frames, first):
        return [first.ids] * (6 + change)

    with pytest.raises(InputError, match=f"^slow: {message}"):
        evaluate_masks(predict, [Sequence("slow", 6, 1)])


def test_pck():
    truth = np.zeros((3, 2, 2))
    predicted = truth.copy()
    predicted[1, 0] = 3, 4
    predicted[2, 1] = np.nan
    visible = np.array([[False, False], [True, True], [True, True]])
    assert pck(predicted, truth, visible, 5) == 0.75
    assert pck(predicted, truth, visible, 4.99) == 0.5
    assert pck(predicted, truth, visible, [0, 5, 0]) == 0.75
    assert pck(predicted, truth, visible, [5, 0, 5]) == 0.5
    assert math.isnan(pck(predicted, truth, np.zeros((3, 2)), 5))
    np.testing.assert_allclose(badja_threshold([100, 0, 2500]), [2, 0, 10])
    for wrong in ((predicted[:2], truth, visible, 5), (predicted, truth, visible[:2], 5)):
        with pytest.raises(ShapeError, match="pck"):
            pck(*wrong)
    with pytest.raises(ShapeError, match="threshold"):
        pck(predicted, truth, visible, [5, 5])
