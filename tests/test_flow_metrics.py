"""Measures of flow: the formulas, pixel by pixel, at their edges; the report; classical flow on real pairs; the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from rich.console import Console

from pixeltrail.cli import main
from pixeltrail.data.flowfile import write_flow
from pixeltrail.data.flowsets import FlowPair, FlowSet, FlowTruth, flow_set
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.evaluation.flow import MEASURES, FlowReport, evaluate_flow, evaluate_predictions, score_flow
from pixeltrail.flow.classical import dis, farneback

numbers = st.floats(-60, 60, width=32)


def one(*uv: float) -> np.ndarray:
    """A flow of one pixel, or of several: u, v, u, v, ..."""
    return np.array(uv, np.float32).reshape(1, -1, 2)


def zero(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.zeros((*first.shape[:2], 2), np.float32)


def by_hand(flow: np.ndarray, truths: np.ndarray, valid: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    """The definitions, one pixel after another."""
    found: dict[str, list[float]] = {measure: [] for measure in MEASURES}
    for y, x in zip(*np.nonzero(valid), strict=True):
        u, v = map(float, flow[y, x])
        true = [tuple(map(float, t[y, x])) for t in truths]
        e = min(math.hypot(u - a, v - b) for a, b in true)
        m = sum(math.hypot(a, b) for a, b in true) / len(true)
        far = max(math.hypot(a, b) for a, b in true)
        angles = [
            math.acos(max(-1, min(1, (1 + u * a + v * b) / math.sqrt((1 + u * u + v * v) * (1 + a * a + b * b)))))
            for a, b in true
        ]
        found["EPE"].append(e)
        for limit in (1, 3, 5):
            found[f"{limit}px"].append(100 * (e > limit))
        found["Fl"].append(100 * (e > 3 and e > 0.05 * far))
        found["AAE"].append(math.degrees(min(angles)))
        found["s0-10" if m < 10 else "s10-40" if m <= 40 else "s40+"].append(e)
        found["unmatched" if hidden[y, x] else "matched"].append(e)
    return {measure: sum(values) / len(values) if values else math.nan for measure, values in found.items()}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_formulas(data: st.DataObject):
    size = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    flow = data.draw(arrays(np.float32, (*size, 2), elements=numbers))
    truths = data.draw(arrays(np.float32, (data.draw(st.sampled_from([1, 4])), *size, 2), elements=numbers))
    valid, hidden = data.draw(arrays(bool, size)), data.draw(arrays(bool, size))
    expected = by_hand(flow, truths, valid, hidden)
    found = score_flow(flow, truths, valid, hidden).values()
    # A cosine near one has half of a double's digits in its angle.
    np.testing.assert_allclose([found[m] for m in MEASURES], [expected[m] for m in MEASURES], rtol=1e-9, atol=1e-5)
    if len(truths) == 1:
        same = score_flow(flow, truths[0], valid, hidden).values()
        assert np.array_equal(list(same.values()), list(found.values()), equal_nan=True)


def test_pooling_is_concatenation():
    random = np.random.default_rng(0)
    flow, truth = random.normal(scale=9, size=(2, 4, 6, 2)).astype(np.float32)
    valid = random.random((4, 6)) < 0.6
    parts = [score_flow(flow[rows], truth[rows], valid[rows]) for rows in (slice(0, 1), slice(1, 4))]
    whole = score_flow(flow, truth, valid)
    assert (parts[0] + parts[1]).values() == pytest.approx(whole.values(), nan_ok=True)


def test_exactly_three_pixels():
    """Not more than three is no outlier; more than three is one only if it is also above five percent."""
    assert score_flow(one(3, 0), one(0, 0))["3px"] == 0
    assert score_flow(one(3, 0), one(0, 0))["1px"] == 100
    assert score_flow(one(3.001, 0), one(0, 0))["3px"] == 100
    assert score_flow(one(103.1, 0), one(100, 0))["3px"] == 100
    assert score_flow(one(103.1, 0), one(100, 0))["Fl"] == 0
    assert score_flow(one(105, 0), one(100, 0))["Fl"] == 0
    assert score_flow(one(106, 0), one(100, 0))["Fl"] == 100
    assert score_flow(one(1, 0), one(0, 0))["Fl"] == 0  # far more than five percent, but no three pixels


def test_no_motion_and_no_pixel():
    still = score_flow(one(0, 0), one(0, 0)).values()
    assert still == dict.fromkeys(MEASURES, 0.0) | {"s10-40": pytest.approx(math.nan, nan_ok=True)} | {
        measure: pytest.approx(math.nan, nan_ok=True) for measure in ("s40+", "matched", "unmatched")
    }
    assert score_flow(one(1, 0), one(0, 0))["AAE"] == pytest.approx(45)
    nothing = score_flow(one(1, 0), one(0, 0), np.zeros((1, 1), bool))
    assert all(math.isnan(value) for value in nothing.values().values())
    assert (score_flow(one(1, 0), one(0, 0)) + nothing)["EPE"] == 1


def test_classes_of_speed():
    score = score_flow(one(0, 0, 0, 0, 0, 0, 0, 0), one(9.75, 0, 10, 0, 0, 40, 0, 40.5))
    assert score["s0-10"] == 9.75
    assert score["s10-40"] == 25
    assert score["s40+"] == 40.5


def test_what_is_unknown_does_not_count():
    truth = one(1, 0, np.nan, 0, 5, 0)
    flow = one(1, 0, 9, 9, np.nan, 0)
    assert score_flow(flow, truth, np.array([[True, False, False]]))["EPE"] == 0
    with pytest.raises(InputError, match="unknown at 1 of 2 pixels"):
        score_flow(flow, truth)  # by default all that the truth knows
    assert score_flow(one(2, 0), np.stack([one(0, 0), one(2, 1)]))["EPE"] == 1


def test_wrong_arrays():
    flow = one(1, 2, 3, 4)
    for other in (one(1, 2), flow[0], np.zeros((1, 2, 3), np.float32), flow[None, None]):
        with pytest.raises(ShapeError):
            score_flow(flow, other)
    with pytest.raises(ShapeError):
        score_flow(flow[0], flow)
    with pytest.raises(ShapeError, match="expected valid as"):
        score_flow(flow, flow, np.ones((2, 1), bool))
    with pytest.raises(ShapeError, match="expected occluded as"):
        score_flow(flow, flow, occluded=np.ones((1, 2), np.uint8))


def made(folder: Path, averaging: str = "pixels", count: int = 2) -> FlowSet:
    """Pairs of black pictures; the truth of pair i is (i + 1, 0), known at i + 1 pixels of 4x5."""
    pairs = []
    for i in range(count):
        path = folder / f"{i}.png"
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
        flow = np.zeros((4, 5, 2), np.float32)
        flow[..., 0] = i + 1
        valid = np.arange(20).reshape(4, 5) <= i
        pairs.append(FlowPair(f"p/{i}", path, path, partial(FlowTruth, flow, valid)))
    return FlowSet("made", tuple(pairs), averaging)


@pytest.mark.parametrize(("averaging", "overall"), [("pixels", 5 / 3), ("pairs", 1.5)])
def test_report(tmp_path: Path, averaging: str, overall: float):
    seen = []
    report = evaluate_flow(zero, made(tmp_path, averaging), on_pair=lambda *a: seen.append(a), settings={"a": 1})
    assert seen == [("p/0", 1, 2), ("p/1", 2, 2)]
    assert [row["EPE"] for row in report.pairs] == [1, 2]
    assert [row["pixels"] for row in report.pairs] == [1, 2]
    assert report.over_pixels["EPE"] == pytest.approx(5 / 3)
    assert report.over_pairs["EPE"] == 1.5
    assert report.overall["EPE"] == pytest.approx(overall)
    written = json.loads(json.dumps(report.json(), allow_nan=False))
    assert written["overall"]["EPE"] == pytest.approx(overall)
    assert written["overall"]["matched"] is None
    assert written["averaging"] == averaging
    assert written["settings"] == {"a": 1}
    assert written["pairs"][1]["pair"] == "p/1"
    console = Console(width=120, record=True)
    console.print(report.table())
    text = console.export_text()
    assert "mean over pixels" in text
    assert "matched" not in text  # nobody can tell


def test_long_tables_show_the_worst(tmp_path: Path):
    report = evaluate_flow(zero, made(tmp_path, count=19))
    more = FlowReport(report.pairs * 2, report.over_pixels, report.over_pairs, "pixels")
    console = Console(width=120, record=True)
    console.print(more.table())
    text = console.export_text()
    assert "the 20 worst of 38 pairs" in text
    assert text.count("p/18 ") == 2
    assert "p/0 " not in text


def test_bad_estimates_are_named(tmp_path: Path):
    for bad in (np.zeros((4, 5, 3)), np.zeros((5, 4, 2)), np.full((4, 5, 2), np.nan)):
        with pytest.raises(InputError, match="p/0: "):
            evaluate_flow(lambda first, second, bad=bad: bad, made(tmp_path))


def test_predictions(tmp_path: Path):
    dataset = made(tmp_path)
    (tmp_path / "out" / "p").mkdir(parents=True)
    write_flow(tmp_path / "out" / "p" / "0.flo", np.zeros((4, 5, 2), np.float32))
    with pytest.raises(InputError, match="the prediction is missing"):
        evaluate_predictions(tmp_path / "out", dataset)
    write_flow(tmp_path / "out" / "p" / "1.png", np.zeros((4, 5, 2), np.float32))
    report = evaluate_predictions(tmp_path / "out", dataset)
    assert [row["EPE"] for row in report.pairs] == [1, 2]
    assert all(math.isnan(row["seconds"]) for row in report.pairs)
    valid = np.ones((4, 5), bool)
    valid[0, 1] = False
    write_flow(tmp_path / "out" / "p" / "1.png", np.zeros((4, 5, 2), np.float32), valid)
    with pytest.raises(InputError, match="p/1: the flow is unknown at 1 of 2 pixels"):
        evaluate_predictions(tmp_path / "out", dataset)
    with pytest.raises(InputError, match="no such folder"):
        evaluate_predictions(tmp_path / "nowhere", dataset)


def test_real_truths(real_data: Path):
    """Standing still is wrong by the motion itself, which others have measured; classical flow does better."""
    pytest.importorskip("cv2")
    sintel = flow_set("sintel", real_data / "flow" / "sintel")
    still = {row["pair"]: row for row in evaluate_flow(zero, sintel).pairs}
    assert still["alley_1/frame_0001"]["EPE"] == pytest.approx(2.9, abs=0.15)
    assert still["cave_2/frame_0002"]["EPE"] == pytest.approx(15.1, abs=0.05)
    alley = FlowSet("alley", sintel.pairs[1:2])
    for method, limit in ((farneback, 1.5), (dis, 0.5)):
        (row,) = evaluate_flow(method, alley).pairs
        assert row["EPE"] < limit < still["alley_1/frame_0002"]["EPE"]
        assert row["matched"] < row["EPE"] < row["unmatched"]
        assert all(math.isfinite(row[m]) for m in MEASURES if m != "s40+")
    kitti = evaluate_flow(zero, flow_set("kitti", real_data / "flow" / "kitti"))
    assert kitti.overall["EPE"] > 40  # a car's own motion
    assert kitti.pairs[0]["pixels"] < 0.3 * 375 * 1242


def test_truth_scores_nothing(real_data: Path, tmp_path: Path):
    """The truth as a prediction, through a file of another format."""
    kitti = flow_set("kitti", real_data / "flow" / "kitti")
    truth = kitti.pairs[0].truth()
    write_flow(tmp_path / "000000_10.pfm", truth.flow, truth.valid)
    found = evaluate_predictions(tmp_path, kitti).overall
    assert found["EPE"] == found["Fl"] == 0
    assert found["AAE"] == pytest.approx(0, abs=1e-5)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    """The command in a folder with one Flying Chairs pair and a prediction."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chairs").mkdir()
    (tmp_path / "out").mkdir()
    random = np.random.default_rng(0)
    for n in (1, 2):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(f"chairs/00001_img{n}.ppm")
    write_flow("chairs/00001_flow.flo", np.full((40, 50, 2), 4, np.float32))
    write_flow("out/00001.npz", np.full((40, 50, 2), [1, 0], np.float32))

    def call(line: str) -> tuple[int, str, str]:
        code = main(line.split())
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_command(run: Callable[[str], tuple[int, str, str]], tmp_path: Path):
    code, out, err = run("evaluate flow chairs --dataset chairs --predictions out --out report.json")
    assert (code, err) == (0, "")
    assert "mean over pixels" in out
    assert "5.000" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["overall"]["EPE"] == 5
    assert report["settings"] == {"dataset": "chairs", "split": "", "predictions": "out"}
    pytest.importorskip("cv2")
    assert run("evaluate flow chairs --dataset chairs --method farneback --out report.json")[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["settings"]["method"] == "farneback"
    assert report["pairs"][0]["seconds"] > 0


def test_command_refuses(run: Callable[[str], tuple[int, str, str]], tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    for line, words in (
        ("chairs --dataset chars", "did you mean 'chairs'"),
        ("chairs --dataset kitti", "no such folder; expected training/image_2"),
        ("chairs --dataset chairs --split val", "FlyingChairs_train_val.txt: is missing"),
        ("chairs --dataset chairs --method farnebak", "did you mean farneback"),
        ("chairs --dataset chairs --predictions nowhere", "nowhere: no such folder"),
        ("chairs --dataset chairs --predictions chairs", "chairs/00001.flo: the prediction is missing"),
        ("chairs --dataset chairs --predictions out --out out", "out: is a folder"),
    ):
        code, out, err = run(f"evaluate flow {line}")
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
