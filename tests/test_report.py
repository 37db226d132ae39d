"""The page of reports and the intervals of their differences."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pixeltrail.cli import main
from pixeltrail.errors import InputError
from pixeltrail.evaluation.bootstrap import paired_bootstrap
from pixeltrail.evaluation.page import drift, page, read_report, series
from pixeltrail.evaluation.report import evaluate_masks
from pixeltrail.types import LabelMap
from pixeltrail.visual.overlay import overlay

VOID = {"meta", "img"}


class Parsed(HTMLParser):
    """Tags opened and closed, numbers with what is shown for them, and the text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.numbers, self.value, self.words, self.tags = [], [], None, [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.value = dict(attributes).get("data-value")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.value is not None:
            self.numbers.append((float(self.value), data))
            self.value = None


class Slide:
    """Two squares; one is still, the other slides ``speed`` pixels a frame, and the prediction of identity does not."""

    def __init__(self, name, frames, speed):
        self.name, self.frame_names = name, [f"{t:05d}" for t in range(frames)]
        self.ids = np.zeros((frames, 40, 80), np.uint8)
        for t in range(frames):
            self.ids[t, 2:10, 2:10], self.ids[t, 20:30, 5 + speed * t : 15 + speed * t] = 1, 2

    def images(self):
        return (np.full((40, 80, 3), 9 * t, np.uint8) for t in range(len(self.ids)))

    def truth(self):
        return iter(self.ids)

    def first(self):
        return LabelMap(self.ids[0])


def still(frames, first):
    return (first.ids for _ in frames)


def made(speed=1, **settings):
    data = [Slide("slow", 14, speed), Slide("fast <b>", 8, 5)]
    report = evaluate_masks(still, data, settings={"method": "identity", **settings}, draw=overlay)
    return json.loads(json.dumps(report.json())) | {"made": {"peak_memory_mb": 12.0, "device": "cpu"}}


@pytest.fixture(scope="module")
def report():
    return made()


def test_a_report_holds_every_scored_frame_and_pictures_of_the_worst(report):
    slow, fast = report["curves"][1], report["curves"][3]
    assert slow["J"] == pytest.approx([(10 - t) / (10 + t) if t < 10 else 0 for t in range(1, 13)])
    for curve, row in zip(report["curves"], report["objects"], strict=True):
        assert np.mean(curve["J"]) == pytest.approx(row["J_mean"])
        assert np.mean(curve["F"]) == pytest.approx(row["F_mean"])
    assert len(fast["J"]) == 6
    worst = report["pictures"][0]
    assert worst["J"] + worst["F"] == min(j + f for c in report["curves"] for j, f in zip(c["J"], c["F"], strict=True))
    assert len(report["pictures"]) == 4  # one an object
    import io

    import PIL.Image

    picture = PIL.Image.open(io.BytesIO(base64.b64decode(worst["picture"].split(",")[1])))
    assert picture.size == (804, 200)
    predicted, true = np.asarray(picture, int)[125, [5 * 10, 404 + 5 * 10]]  # where the square was at first
    assert predicted[1] > predicted[0] + 30  # tinted green, the colour of object 2
    assert np.abs(true - 9 * int(worst["frame"])).max() < 12  # the square has left: the frame's own grey


def test_the_page_parses_and_needs_nothing_else(report):
    text = page([report, made(2)], ["one", "two"])
    parsed = Parsed(text)
    text = re.sub("base64,[A-Za-z0-9+/]+", "base64,", text)
    assert not re.search(r"(?i)https?:|//[a-z]|<script|<link|<iframe|url\(|@import", text)
    for tag, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
    assert sum(tag == "img" for tag, _ in parsed.tags) == 8
    assert "fast <b>" in parsed.words  # names are text
    for heading in (
        "Overall",
        "Differences",
        "By sequence",
        "By object",
        "Drift",
        "Over time",
        "Worst frames",
        "Settings",
    ):
        assert heading in parsed.words


def test_numbers_on_the_page_are_those_of_the_report(report):
    parsed = Parsed(page([report], ["one"]))
    shown = {value for value, _ in parsed.numbers}
    rows = [report["overall"], *report["sequences"], *report["objects"], *report["pictures"]]
    wanted = {v for row in rows for v in row.values() if isinstance(v, float)}
    assert len(wanted) > 20
    assert wanted <= shown
    means, counts = drift(report["curves"])
    assert set(means) | {float(n) for n in counts} <= shown
    for value, text in parsed.numbers:
        assert float(text) == pytest.approx(value, abs=0.5 if "." not in text else 0.006)


def test_drift_is_the_mean_of_means():
    curves = [{"J": [1.0] * 10 + [0.5] * 4}, {"J": [0.0] * 5}]
    assert drift(curves) == ([0.5, 0.5], [2, 1])
    assert drift([]) == ([], [])
    sparse = [{"t": [3, 25], "overlap": [0.5, 1.0]}]
    means, counts = drift(sparse)
    assert (means[0], means[2], counts) == (0.5, 1.0, [1, 0, 1])
    assert math.isnan(means[1])


def test_points_and_boxes_have_curves_and_pictures():
    joints = {
        "dataset": "badja", "overall": {"PCK_0.2": 0.5},
        "sequences": [{"sequence": "bear", "frames": 12, "seconds_per_frame": 0.5, "PCK_0.2": 0.5}],
        "objects": [], "settings": {},
        "curves": [{"sequence": "bear", "object": "joints", "t": [5, 11], "PCK_0.2": [1.0, None]}],
        "pictures": [{"sequence": "bear", "object": "joints", "frame": 5, "PCK_0.2": 0.25,
                      "picture": "data:image/jpeg;base64,AAAA"}],
    }  # fmt: skip
    assert series(joints["curves"][0]) == {"PCK_0.2": [(5, 1.0), (11, pytest.approx(math.nan, nan_ok=True))]}
    parsed = Parsed(page([joints], ["one"]))
    words = " ".join(" ".join(parsed.words).split())
    for said in (
        "PCK 0.2 by frame",
        "Mean PCK 0.2 by distance",
        "bear, joints, frame 5",
        "A ring is a joint",
        "frames per s",
    ):
        assert said in words
    assert "dashed" not in words
    circles = [a for tag, a in parsed.tags if tag == "circle"]
    assert len(circles) == 2  # one in the drift, one over time: the second frame has no value
    with pytest.raises(ValueError, match="zip"):
        page([{**joints, "curves": [{**joints["curves"][0], "t": [5]}]}], ["one"])


def test_other_benchmarks_and_missing_values_have_pages():
    points = {
        "dataset": "BADJA", "overall": {"PCK": 0.5, "none": None},
        "sequences": [{"sequence": "a", "PCK": 0.5}, {"sequence": "b", "PCK": None}], "objects": [], "settings": {},
    }  # fmt: skip
    assert "BADJA" in page([points, points], ["x", "y"])
    failures = {"dataset": "boxes", "overall": {"failures": 2}, "sequences": [], "objects": [], "settings": {}}
    assert Parsed(page([failures], ["x"])).numbers == [(2.0, "2")]
    flow = {"overall": {"EPE": 2.0}, "pairs": [{"pair": "p1", "EPE": 2.0}], "settings": {"method": "dis"}}
    worse = {**flow, "overall": {"EPE": 3.0}, "pairs": [{"pair": "p1", "EPE": 3.0}]}
    best = [a for t, a in Parsed(page([flow, worse], ["x", "y"])).tags if t == "td" and "best" in a.get("class", "")]
    assert {a["data-value"] for a in best} == {"2.0"}  # an error is better when it is small
    with pytest.raises(InputError, match="y: measures PCK"):
        page([flow, points], ["x", "y"])


def test_bootstrap_of_five_sequences_is_that_of_all_3125_draws():
    second = {"a": [0.5, 0.1], "b": [-0.2], "c": [0.3], "d": [0.11, 0.02, -0.4], "e": [0.07]}
    first = {name: [0.0] * len(values) for name, values in second.items()}
    pairs = [(sum(v), len(v)) for v in second.values()]
    means = np.array([sum(s for s, _ in d) / sum(n for _, n in d) for d in itertools.product(pairs, repeat=5)])
    found = paired_bootstrap(first, second, resamples=40_000)
    assert found.mean == pytest.approx(0.5 / 8)
    assert found.wins == pytest.approx(np.mean(means > 0), abs=0.01)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01)


def test_bootstrap_of_normal_differences_is_the_interval_of_their_mean():
    random = np.random.default_rng(3)
    base, change = random.random(200), random.normal(0.02, 0.1, 200)
    first = {str(i): [v] for i, v in enumerate(base)}
    second = {str(i): [v] for i, v in enumerate(base + change)}
    found = paired_bootstrap(first, second)
    half = 1.96 * change.std() / math.sqrt(200)
    assert found.low == pytest.approx(change.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(change.mean() + half, abs=0.1 * half)
    mirrored = paired_bootstrap(second, first)
    assert (mirrored.low, mirrored.high, mirrored.wins) == pytest.approx((-found.high, -found.low, 1 - found.wins))


def test_bootstrap_without_enough_data():
    alone = paired_bootstrap({"a": [0.5, math.nan]}, {"a": [0.7, 0.1], "b": [1.0]})
    assert alone.mean == pytest.approx(0.2)
    assert math.isnan(alone.low)
    with pytest.raises(InputError, match="no sequence in common"):
        paired_bootstrap({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(InputError, match="1 objects, the other 2"):
        paired_bootstrap({"a": [1.0]}, {"a": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no report"),
        ("[]", "is no report"),
        ("{}", "is no report"),
        ('{"overall": {"J": "x"}, "sequences": []}', "is no report"),
        ('{"overall": {"J": 1}, "sequences": [], "pictures": [{"picture": "javascript:alert(1)"}]}', "is no report"),
        ('{"overall": {"J": 1}, "sequences": 3}', "is no report"),
        ("[" * 100_000, "is no report"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said) as caught:
        read_report(path)
    assert "\n" not in str(caught.value)


def test_the_command_compares_files(tmp_path, report, capsys):
    for name, content in (("a", report), ("b", made(3))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    a, b, out = (str(tmp_path / name) for name in ("a.json", "b.json", "page.html"))
    assert main(["report", a, b, "--out", out]) == 0
    parsed = Parsed((tmp_path / "page.html").read_text())
    assert "b J&F" in parsed.words
    assert main(["report", a, b, "--out", out, "--names", "one"]) == 2
    assert main(["report", a, str(tmp_path / "none.json"), "--out", out]) == 2
    assert main(["report", a, "--out", a]) == 2
    assert "is one of the reports" in capsys.readouterr().err.replace("is a folder or one", "is one")
    assert json.loads((tmp_path / "a.json").read_text()) == report
