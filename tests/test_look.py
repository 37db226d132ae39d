"""What is looked at: features as colours, the picture of a training clip, and the tables' own arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from pixeltrail import catalogue, weights
from pixeltrail.cli.show import Features
from pixeltrail.data.davis import Davis
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError, ShapeError
from pixeltrail.evaluation.report import evaluate_masks
from pixeltrail.nets.resnet import resnet18, trunk
from pixeltrail.predictors import BASELINES, load_tracker, raw_colour, with_protocol
from pixeltrail.protocols import at_quality
from pixeltrail.tracker import Tracker
from pixeltrail.training.look import Watcher, clip_picture, feature_pictures, spread
from pixeltrail.types import LabelMap
from pixeltrail.visual.features import enlarged, pca_colours

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


class OneClip:
    """A sampler whose every row is the same rendered clip."""

    def __init__(self, frames: int = 5, size: int = 48) -> None:
        self.clip = render(3, frames=frames, size=(size, size)).frames

    def batch(self, step: int, rows: range) -> np.ndarray:
        return np.stack([self.clip] * len(rows))

    def names(self, step: int) -> list[str]:
        return ["rendered"]


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rendered sequences in DAVIS's layout; an error in the third shows whether it was looked at."""
    root = tmp_path_factory.mktemp("davis")
    for seed, name in enumerate(("a", "b", "c")):
        clip = render(seed, frames=6, size=(48, 64), objects=2)
        frames, masks = root / "JPEGImages" / "480p" / name, root / "Annotations" / "480p" / name
        frames.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t in range(6):
            PIL.Image.fromarray(clip.frames[t]).save(frames / f"{t:05d}.png")
            write_labels(masks / f"{t:05d}.png", LabelMap(clip.labels[t]))
    (root / "JPEGImages" / "480p" / "c" / "00003.png").write_bytes(b"no picture")
    return root


def tiny(method: str = "dul") -> Tracker:
    torch.manual_seed(0)
    return with_protocol(catalogue.build(method, width=4).eval(), size=None)


# Features as colours


def test_colours_are_the_principal_components() -> None:
    random = np.random.default_rng(0)
    sources = random.uniform(-1, 1, (3, 2, 30, 40)) * np.array([9.0, 4.0, 1.0]).reshape(3, 1, 1, 1)
    turn = np.linalg.qr(random.standard_normal((7, 3)))[0]
    features = np.einsum("ck,ktyx->tcyx", turn, sources) + 100
    colours = pca_colours(features)
    assert colours.shape == (2, 30, 40, 3)
    assert colours.dtype == np.uint8
    for k in range(3):
        r = np.corrcoef(colours[..., k].ravel(), sources[k].ravel())[0, 1]
        assert abs(r) > 0.99
    assert np.percentile(colours[..., 0], 2) < 10 < 245 < np.percentile(colours[..., 0], 98)


def test_colours_do_not_depend_on_scale_offset_or_the_solver_s_sign() -> None:
    features = np.random.default_rng(1).standard_normal((2, 5, 9, 8))
    colours = pca_colours(features)
    np.testing.assert_array_equal(pca_colours(features), colours)
    assert np.abs(pca_colours(1000 * features + 7).astype(int) - colours).max() <= 1
    np.testing.assert_array_equal(pca_colours(-features)[..., :3], 255 - colours)  # the signs follow the basis alone


def test_frames_share_one_basis() -> None:
    features = np.random.default_rng(2).standard_normal((1, 6, 8, 8))
    both = pca_colours(np.concatenate((features, features)))
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_array_equal(pca_colours(features[0]), pca_colours(features)[0])


def test_an_outlier_does_not_wash_out_the_rest() -> None:
    features = np.random.default_rng(3).uniform(-1, 1, (4, 20, 20))
    features[0, 0, 0] = 1e4
    colours = pca_colours(features)
    assert colours[..., 1].std() > 50


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_what_does_not_vary_is_flat(channels: int) -> None:
    flat = pca_colours(np.full((channels, 4, 4), 3.7))
    assert (flat == 128).all()
    if channels < 3:
        seen = pca_colours(np.random.default_rng(0).standard_normal((channels, 4, 4)))
        assert (seen[..., channels:] == 128).all()
        assert seen[..., 0].std() > 50


def test_bad_features_are_refused() -> None:
    for bad in (np.zeros((3, 3)), np.zeros((0, 3, 3)), np.full((3, 2, 2), np.nan)):
        with pytest.raises(ShapeError):
            pca_colours(bad)
    with pytest.raises(ShapeError):
        enlarged(np.zeros((4, 4, 2), np.uint8), (8, 8), 2)


@pytest.mark.parametrize("size", [(17, 25), (20, 28), (1, 1)])
def test_enlarged_cells_sit_on_their_pixels(size: tuple[int, int]) -> None:
    cells = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    pictures = enlarged(cells, size, 4)
    assert pictures.shape == (2, *size, 3)
    h, w = -(-size[0] // 4), -(-size[1] // 4)
    np.testing.assert_array_equal(pictures[:, ::4, ::4], cells[:, :h, :w])
    if size == (20, 28):
        np.testing.assert_array_equal(pictures[:, 17:, :1], np.repeat(cells[:, 4:, :1], 3, 1))
        middle = (cells[:, 0, 0].astype(float) + cells[:, 0, 1]) / 2
        assert np.abs(pictures[:, 0, 2] - middle).max() <= 0.5
    assert enlarged(cells[:, :1, :1], (9, 9), 4).std((1, 2)).max() == 0


# Pictures of a tracker


@pytest.mark.parametrize("method", ["dul", "mast"])
def test_the_picture_has_a_row_for_everything(method: str) -> None:
    clip = OneClip(frames=6).clip
    picture = clip_picture(tiny(method), clip)
    rows = list(np.array_split(picture, 4))
    assert picture.shape[1] == 4 * (192 + 12) + 12
    assert all(row.std() > 10 for row in rows)


def test_raw_colour_rebuilds_what_stands_still() -> None:
    """The last row, copied along the affinity, is the first frame again when nothing moves; points stay where they are."""
    clip = np.repeat(OneClip(size=96).clip[:1], 3, 0)
    picture = clip_picture(raw_colour(), clip).astype(int)
    first, last = (picture[-216:-30, 12 + 204 * i : 12 + 204 * i + 192] for i in (0, 2))
    assert np.abs(first - last).mean() < 12
    points = [picture[456:640, 12 + 204 * i : 12 + 204 * i + 192] for i in (0, 2)]
    assert np.abs(points[0] - points[1]).mean() < 8


def test_features_of_another_size_of_frame_are_as_large_as_the_frame() -> None:
    tracker = load_tracker("default", quality="fast")
    frames = list(render(1, frames=2, size=(60, 90)).frames)
    pictures = feature_pictures(tracker, frames)
    assert [p.shape for p in pictures] == [(60, 90, 3)] * 2
    assert pictures[0].std() > 20


def test_frames_are_spread_evenly() -> None:
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(2, 4) == [0, 1]
    assert spread(1, 4) == [0]


def test_a_watcher_draws_and_scores_and_changes_nothing(tmp_path: Path, davis: Path) -> None:
    tracker = tiny()
    before = {k: v.clone() for k, v in tracker.state_dict().items()}
    protocol, random = tracker.protocol, torch.get_rng_state()
    watcher = Watcher(tmp_path, OneClip(), davis)
    scores = watcher(7, tracker)
    Watcher(tmp_path, OneClip(), None)(8, tracker)
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["000007.png", "000008.png"]
    first, second = ((tmp_path / "pictures" / name).read_bytes() for name in ("000007.png", "000008.png"))
    assert first == second
    assert all(torch.equal(v, before[k]) for k, v in tracker.state_dict().items())
    assert tracker.protocol == protocol
    assert torch.equal(torch.get_rng_state(), random)

    fast = tiny()
    fast.protocol = at_quality(protocol, "fast")
    report = evaluate_masks(lambda f, m: (t.ids for t in fast.track(f, m)), list(Davis(davis))[:2])
    assert scores == {"J&F": report.overall["J&F"]}


def test_a_watcher_without_masks_only_draws(tmp_path: Path) -> None:
    assert Watcher(tmp_path, OneClip(), None)(1, tiny()) == {}
    assert (tmp_path / "pictures" / "000001.png").is_file()


def test_a_watcher_that_shows_nothing_asks_for_no_clip(tmp_path: Path) -> None:
    assert Watcher(tmp_path, None, None, show=False)(1, tiny()) == {}  # type: ignore[arg-type]
    assert not (tmp_path / "pictures").exists()


def test_a_watcher_says_at_once_that_masks_are_not_davis(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DAVIS root"):
        Watcher(tmp_path, OneClip(), tmp_path)


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    watcher = Watcher(tmp_path, OneClip(), None)
    monkeypatch.setattr(PIL.Image.Image, "save", full)
    with pytest.raises(Exception, match="no space left"):
        watcher(1, tiny())
    assert not list((tmp_path / "pictures").iterdir())


def test_the_command_makes_a_row_for_each_method(
    tmp_path: Path, davis: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    video = davis / "JPEGImages" / "480p" / "a"
    assert Features(video, out, method=("default", "colour"), frames=3, quality="fast").run() == 0
    assert "3 frames" in capsys.readouterr().out
    with PIL.Image.open(out) as sheet:
        assert sheet.size == (3 * 332 + 12, 3 * (240 + 24 + 12) + 12)
    with pytest.raises(InputError, match="--frames 0"):
        Features(video, out, frames=0).run()


# The tables


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import measure

    return measure


def test_kept_scores_are_the_official_ones_and_are_not_measured_twice(
    tmp_path: Path, davis: Path, measure: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences, file, tracker = list(Davis(davis))[:2], tmp_path / "scores.json", tiny()
    found = measure.Scores(sequences, file)("tiny", tracker)
    report = evaluate_masks(lambda f, m: (t.ids for t in tracker.track(f, m)), sequences).overall
    for ours, theirs in (("J&F", "J&F"), ("J", "J_mean"), ("F", "F_mean"), ("J_recall", "J_recall")):
        assert found[ours] == pytest.approx(report[theirs], abs=1e-12)
    assert [len(j) for j in found.drift] == [4] * 4
    assert np.mean(found.drift) == pytest.approx(found["J"], abs=1e-4)

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measure, "_measured", refuse)
    again = measure.Scores(sequences, file)("another title", tiny())
    assert again == found
    other = tiny()
    with torch.no_grad():
        next(other.encoder.parameters()).mul_(1.001)
    for changed in (other, measure.common(tracker), measure.own(tracker), "identity"):
        with pytest.raises(AssertionError, match="again"):
            measure.Scores(sequences, file)("changed", changed)


def test_a_table_goes_on_where_it_was_stopped(tmp_path: Path, davis: Path, measure: object) -> None:
    file = tmp_path / "scores.json"
    a, b, _ = Davis(davis)
    alone = measure.Scores([a], file)("identity", "identity")
    both = measure.Scores([a, b], file)("identity", "identity")
    assert both.objects[:2] == alone.objects
    kept = json.loads(file.read_text())
    assert [row["sequence"] for row in sorted(kept.values(), key=lambda r: r["sequence"])] == ["a", "b"]
    report = evaluate_masks(BASELINES["identity"], [a, b]).overall
    assert both["J&F"] == pytest.approx(report["J&F"])


def test_drift_is_a_mean_over_the_objects_that_are_left(measure: object) -> None:
    import drift

    assert drift.binned([[1.0] * 10 + [0.5] * 10, [0.0] * 10]) == [0.5, 0.5]
    assert drift.binned([[1.0, 0.0]]) == [0.5]
    picture = drift.plot({"one": [1.0, 0.5], "two": [0.2, 0.0]})
    assert picture.shape == (500, 900, 3)
    assert (picture.std(2) > 20).sum() > 500  # two coloured curves


def test_published_weights_are_small_told_apart_and_go_on_training(
    tmp_path: Path, measure: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    import publish

    tracker, run, out = tiny(), tmp_path / "run" / "last.safetensors", tmp_path / "checkpoints" / "tiny.safetensors"
    card = {
        "method": "dul", "settings": {"width": 4}, "recipe": {"steps": 9}, "steps": 9, "seconds": 130,
        "date": "2026-01-02", "trained_on": ["cup", "rendered by pixeltrail", "dog"], "labels": "none",
    }  # fmt: skip
    run.parent.mkdir()
    weights.save(tracker, run, card, training=True)
    sources = tmp_path / "sources.tsv"
    sources.write_text("name\tsource\tclass\ncup\tcups\tpermissive\ndog\tdogs\tresearch-only\n")
    publish.publish(run, out, sources, "pixeltrail train")
    again, made = weights.load(out), weights.read_card(out)
    for key, value in tracker.state_dict().items():
        assert torch.allclose(again.state_dict()[key].float(), value.float(), atol=1e-3, rtol=1e-3), key
    assert out.stat().st_size < 0.6 * run.stat().st_size
    assert made["classes"] == {"permissive": 1, "rendered by pixeltrail": 1, "research-only": 1}
    assert "research only" in made["licence"]
    with pytest.raises(InputError, match="research-only"):
        publish.publish(run, publish.DEFAULT, sources, "")

    page = publish.models_page([out], None)
    for part in ("## tiny", "`dul` (width 4)", "2 minutes", "cup (cups)", "1 research-only", weights.digest(out)):
        assert part in page

    started = {**card, "trained_on": ["cup"], "recipe": {"start": str(run)}}
    weights.save(tracker, tmp_path / "second.safetensors", started)
    with pytest.raises(InputError, match="research-only"):  # what the first run learned is still in there
        publish.publish(tmp_path / "second.safetensors", publish.DEFAULT, sources, "")

    monkeypatch.setattr(publish, "LIMIT", 2000)
    with pytest.raises(InputError, match="MB in half precision"):
        publish.publish(run, out, sources, "")
    sources.write_text("name\tsource\tclass\ncup\tcups\tpermissive\n")
    with pytest.raises(InputError, match="says nothing of dog"):
        publish.publish(run, out, sources, "")


def test_an_architecture_is_a_method_whose_early_loss_reaches_the_early_layers(measure: object) -> None:
    import architecture

    from pixeltrail.types import Batch

    clip = torch.from_numpy(OneClip(frames=2).clip).movedim(-1, 1).float().unsqueeze(0) / 255
    for stride in (4, 8, 16):
        tracker = architecture.build(width=4, depth=10, stride=stride, grid=2, cells=2)
        fused = 8 if stride < 16 else 0  # stage 2 beside stage 3, where they are of one size
        assert tracker.embed(clip[0]).shape == (2, 16 + fused, 48 // stride, 48 // stride)
        assert tracker.stride == stride
    assert str(trunk(width=4)) == str(resnet18(width=4))
    with pytest.raises(InputError, match="depth 12"):
        architecture.build(depth=12)
    torch.manual_seed(0)
    tracker = architecture.build(width=8, intermediate=0.5, grid=2, cells=2)
    terms = tracker.objective(tracker, Batch(clip.expand(2, -1, -1, -1, -1), torch.Generator().manual_seed(0)))
    assert set(terms) == {"self_training", "cross_view", "early_self_training", "early_cross_view"}
    (terms["early_self_training"] + terms["early_cross_view"]).backward()
    reached = {n.split(".")[0] for n, p in tracker.encoder.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"conv1", "bn1", "layer1", "layer2"}
    assert not any("objective.last.encoder" in key or "early.encoder" in key for key in tracker.state_dict())
