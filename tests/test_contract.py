"""What every method in the catalogue must do, and what the tracker promises whatever is in its slots."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pixeltrail
from pixeltrail import catalogue, weights
from pixeltrail.affinity import Affinity
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError, ShapeError, UnknownNameError, WeightsError
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.geometry import cells_to_pixels, labels_to_cells
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.resnet import BasicBlock, ResNet, trunk
from pixeltrail.protocols import PRESETS, preset
from pixeltrail.sessions import PointSession
from pixeltrail.types import Batch, LabelMap, Points

SMALL = {
    "dul": {"width": 8},
    "mast": {"width": 8, "channels": 16},
    "corrflow": {"width": 8, "channels": 16},
    "colorization": {"width": 8, "channels": 16},
    "crw": {"width": 8, "dim": 16},
    "cycletime": {"width": 8, "channels": 16, "grid": 21},
    "uvc": {"width": 8, "code_width": 8, "code": 16},
    "published": {"width": 16},
    "cpfs": {"width": 12, "fc": 32, "hidden": 32},
}
METHODS = catalogue.names()
SIZE = (128, 192)


@pytest.fixture(scope="module")
def clip():
    return render(3, frames=6, size=SIZE, objects=2, speed=2.0)


def small(method: str) -> pixeltrail.Tracker:
    torch.manual_seed(0)
    return catalogue.build(method, **SMALL.get(method, {})).eval()


def _batch(clip, frames=3, progress=0.5) -> Batch:
    x = torch.from_numpy(clip.frames[:frames, :64, :64]).movedim(-1, 1)[None].float() / 255
    flow = torch.from_numpy(clip.flow[:1, :64, :64]).movedim(-1, 1)  # which some methods learn from
    both = x.repeat(2, 1, 1, 1, 1).clone(), flow.repeat(2, 1, 1, 1).clone()
    return Batch(both[0], torch.Generator().manual_seed(1), progress, both[1])


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_embeds_any_size_at_its_stride(self, method):
        tracker = small(method)
        for height, width in ((64, 96), (63, 47), (40, 41)):
            with torch.inference_mode():
                x = tracker.embed(torch.rand(1, 3, height, width))
            assert x.shape[2:] == (-(-height // tracker.stride), -(-width // tracker.stride))

    def test_batch_of_two_is_two_of_one(self, method):
        tracker, x = small(method), torch.rand(2, 3, 48, 64)
        with torch.inference_mode():
            both, each = tracker.embed(x), torch.cat([tracker.embed(x[:1]), tracker.embed(x[1:])])
        torch.testing.assert_close(both, each, rtol=1e-4, atol=1e-5)

    def test_same_seed_same_output_and_bfloat16_runs(self, method):
        x = torch.rand(1, 3, 48, 64)
        with torch.inference_mode():
            first, second = small(method).embed(x), small(method).embed(x)
            assert torch.equal(first, second)
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.isfinite(small(method).embed(x).float()).all()

    def test_tracks_a_clip(self, method, clip):
        results = list(small(method).track(clip.frames, LabelMap(clip.labels[0])))
        assert len(results) == len(clip.frames)
        assert np.array_equal(results[0].ids, clip.labels[0])
        for t, tracked in enumerate(results):
            assert tracked.index == t
            assert tracked.ids.shape == SIZE
            assert set(np.unique(tracked.ids)) <= {0, 1, 2}
            assert tracked.confidence.min() >= 0
            assert tracked.confidence.max() <= 1
            assert set(tracked.objects) == {1, 2}

    def test_one_training_step_lowers_the_loss(self, method, clip):
        tracker = small(method).train()
        optimizer = torch.optim.SGD(tracker.parameters(), 1e-3)
        losses = []
        for _ in range(2):
            torch.manual_seed(0)
            terms = tracker.objective(tracker, _batch(clip))
            loss = sum(terms.values())
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(tracker.parameters(), 1.0)
            assert torch.isfinite(norm)
            assert norm > 0
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[1] < losses[0]

    def test_saves_and_loads_strictly(self, method, tmp_path):
        tracker, file = small(method), tmp_path / "w.safetensors"
        weights.save(tracker, file, {"method": method, "settings": SMALL.get(method, {})})
        again, x = weights.load(file), torch.rand(1, 3, 40, 40)
        with torch.inference_mode():
            assert torch.equal(tracker.embed(x), again.embed(x))
        tensors = weights.read_tensors(file)
        tensors.pop(sorted(tensors)[0])
        weights.save_tensors(tensors, file, weights.read_card(file))
        with pytest.raises(WeightsError, match="lacks"):
            weights.load(file)


def test_default_weights_track_the_rendered_clip_better_than_no_tracker(clip):
    results = list(pixeltrail.load("default").track(clip.frames, LabelMap(clip.labels[0])))
    ours = np.mean([jaccard(r.ids == 1, t == 1) for r, t in zip(results, clip.labels, strict=True)])
    still = np.mean([jaccard(clip.labels[0] == 1, t == 1) for t in clip.labels])
    assert ours > still + 0.1


def test_default_weights_are_small_and_say_where_they_come_from():
    file = weights.path_of("default")
    assert file.stat().st_size <= 12_000_000
    card = weights.read_card(file)
    assert card["method"] in METHODS
    assert card["labels"] == "none"
    assert card["trained_on"]
    assert card["licence"]


def test_a_fused_encoder_is_two_stages_side_by_side():
    fused, plain = trunk(width=8, fused=0.5).eval(), trunk(width=8).eval()
    plain.load_state_dict(fused.state_dict())
    shallow = ResNet(BasicBlock, (2, 2), widths=(8, 16), strides=(1, 2)).eval()
    shallow.load_state_dict({k: v for k, v in fused.state_dict().items() if not k.startswith("layer3")})
    x = torch.rand(1, 3, 40, 56)
    with torch.inference_mode():
        assert torch.equal(fused(x), torch.cat((plain(x), 0.5 * shallow(x)), 1))
    assert fused.channels == 48
    with pytest.raises(InputError, match="one size"):
        trunk(stride=16, fused=0.5)


@pytest.mark.parametrize("name", PRESETS)
def test_any_encoder_runs_under_any_protocol(name, clip):
    tracker = small("dul")
    tracker.protocol = replace(preset(name), size=None)
    if tracker.protocol.distant:
        tracker.protocol = replace(tracker.protocol, distant=2)
    ids = [r.ids for r in tracker.track(clip.frames, LabelMap(clip.labels[0]))]
    assert len(ids) == len(clip.frames)


class TestTracker:
    """An encoder of raw colour makes the answers known."""

    def tracker(self, **changes):
        from pixeltrail.predictors import raw_colour, with_protocol

        return with_protocol(raw_colour(), **changes)

    def test_a_still_video_keeps_its_labels(self, clip):
        frames = np.repeat(clip.frames[:1], 5, 0)
        tracker = self.tracker(affinity=Affinity(radius=3, normalize=True, topk=1))  # every cell finds itself
        results = list(tracker.track(frames, LabelMap(clip.labels[0])))
        shares = labels_to_cells(torch.from_numpy(clip.labels[0]), 3, tracker.stride)
        held = cells_to_pixels(shares[None], SIZE, tracker.stride)[0].argmax(0).numpy()  # all that the grid can hold
        assert np.array_equal(results[1].ids, held)
        assert np.array_equal(results[4].ids, held)  # nothing drifts

    def test_live_steps_are_what_track_yields(self, clip):
        tracker = self.tracker()
        labels = LabelMap(clip.labels[0])
        live = tracker.live()
        for t, tracked in enumerate(tracker.track(clip.frames, labels)):
            step = live.step(clip.frames[t], labels if t == 0 else None)
            assert np.array_equal(step.ids, tracked.ids)
            assert np.array_equal(step.confidence, tracked.confidence)

    def test_state_resumes_exactly(self, clip):
        tracker = self.tracker()
        whole = [r.ids for r in tracker.track(clip.frames, LabelMap(clip.labels[0]))]
        first = tracker.live()
        for t in range(3):
            first.step(clip.frames[t], LabelMap(clip.labels[0]) if t == 0 else None)
        second = tracker.live()
        second.load_state(first.state())
        assert [np.array_equal(second.step(clip.frames[t]).ids, whole[t]) for t in range(3, 6)] == [True] * 3

    def test_centred_embeddings_forget_what_all_cells_share(self, clip):
        """A constant added to every embedding, large beside them, changes nothing; without centring it does."""
        labels = LabelMap(clip.labels[0])

        def ids(shift: float, centred: bool) -> list:
            tracker = self.tracker(centred=centred)
            tracker.encoder.register_forward_hook(lambda module, inputs, output: output + shift)
            first = tracker.live()
            found = [first.step(image, labels if t == 0 else None).ids for t, image in enumerate(clip.frames[:3])]
            again = tracker.live()
            again.load_state(first.state())  # the mean is part of what is kept
            return [*found, again.step(clip.frames[3]).ids]

        assert all(np.array_equal(a, b) for a, b in zip(ids(0, True), ids(4, True), strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(ids(0, False), ids(4, False), strict=True))

    def test_components_keep_what_is_compared(self, clip):
        """Channels that hold nothing new cost nothing to leave out; the basis is part of what is kept. One component is too
        little."""
        torch.manual_seed(0)
        mixed = torch.linalg.qr(torch.randn(56, 28))[0][:, :, None, None]  # 28 numbers in twice as many channels
        labels = LabelMap(clip.labels[0])

        def values(components: int | None) -> list[torch.Tensor]:
            tracker = self.tracker(components=components, affinity=Affinity(radius=6, normalize=True, temperature=0.02))
            tracker.encoder.register_forward_hook(lambda module, inputs, output: torch.conv2d(output, mixed))
            first, again, found = tracker.live(), tracker.live(), []
            for t, image in enumerate(clip.frames[:3]):
                first.step(image, labels if t == 0 else None)
                found.append(first.bank.read(t + 1)[2][0, -1])
            assert first.bank.read(3)[1].shape[2] == min(components or 56, 56)
            again.load_state(first.state())
            assert np.array_equal(again.step(clip.frames[3]).ids, first.step(clip.frames[3]).ids)
            return found

        whole = values(None)
        for count in (28, 55, 56, 100):
            assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(values(count), whole, strict=True))
        assert not torch.allclose(values(1)[2], whole[2], atol=0.1)
        with pytest.raises(InputError, match="components"):
            self.tracker(components=0)

    @pytest.mark.parametrize("grey", [0, 37, 255])
    def test_a_plain_first_frame_has_components_too(self, clip, grey):
        """Its embeddings differ by rounding only, of which a solver in single precision can make nothing."""
        from pixeltrail.predictors import load_tracker

        frames = [np.full_like(clip.frames[0], grey), clip.frames[1]]
        tracked = list(load_tracker("default", quality="fast").track(frames, LabelMap(clip.labels[0])))
        assert np.array_equal(tracked[0].ids, clip.labels[0])
        assert np.isfinite(tracked[1].confidence).all()

    def test_frames_before_the_first_labels_are_empty_and_a_later_object_joins(self, clip):
        one = LabelMap(np.where(clip.labels[1] == 1, 1, 0).astype(np.uint8))
        two = LabelMap(np.where(clip.labels[3] == 2, 2, 0).astype(np.uint8))
        results = list(self.tracker().track(clip.frames, {1: one, 3: two}))
        assert not results[0].ids.any()
        assert set(np.unique(results[2].ids)) == {0, 1}
        assert set(np.unique(results[3].ids)) == {0, 1, 2}
        assert jaccard(results[3].ids == 2, two.ids == 2) == 1
        assert (results[5].ids == 2).any()
        assert (results[5].ids == 1).any()

    @pytest.mark.parametrize("appearance", [0.0, 0.5])
    def test_an_object_named_later_is_not_voted_down_by_the_frames_before(self, clip, appearance):
        """In a still video both objects end as they do where both were named at once."""
        given = {i: np.where(clip.labels[0] == i, i, 0).astype(np.uint8) for i in (1, 2)}
        frames = np.repeat(clip.frames[:1], 8, 0)
        tracker = self.tracker(affinity=Affinity(radius=3, normalize=True, temperature=0.001), appearance=appearance)
        later = list(tracker.track(frames, {0: LabelMap(given[1]), 3: LabelMap(given[2])}))
        at_once = list(tracker.track(frames, LabelMap(clip.labels[0])))[7]
        assert [sorted(np.unique(r.ids)) for r in later] == [[0, 1]] * 3 + [[0, 1, 2]] * 5
        for i in (1, 2):
            assert jaccard(later[7].ids == i, given[i] == i) > jaccard(at_once.ids == i, given[i] == i) - 0.02

    def test_a_correction_replaces_what_it_names(self, clip):
        moved = LabelMap(np.roll(clip.labels[0], 9, 1) * (np.roll(clip.labels[0], 9, 1) == 1))
        results = list(self.tracker().track(clip.frames, {0: LabelMap(clip.labels[0]), 3: moved}))
        assert np.array_equal(results[3].ids == 1, moved.ids == 1)
        assert (results[3].ids == 2).any()

    def test_void_is_left_to_the_tracker(self, clip):
        ids = clip.labels[0].copy()
        ids[:8] = 255
        results = list(self.tracker().track(clip.frames[:2], LabelMap(ids)))
        assert all(255 not in r.ids for r in results)

    def test_many_objects(self, clip):
        ids = (np.arange(SIZE[0])[:, None] // 8 * 16 + np.arange(SIZE[1])[None] // 12).astype(np.uint8)
        ids = np.clip(ids, 1, 254)
        last = list(self.tracker().track(np.repeat(clip.frames[:1], 2, 0), LabelMap(ids)))[-1]
        assert len(np.unique(last.ids)) > 200
        assert np.mean(last.ids == ids) > 0.5

    def test_thread_count_does_not_change_a_mask(self, clip):
        before = torch.get_num_threads()
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append([r.ids for r in self.tracker().track(clip.frames, LabelMap(clip.labels[0]))])
        torch.set_num_threads(before)
        assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))

    def test_points_stay_on_a_still_video_and_follow_a_shift(self):
        textured = render(5, frames=1, size=(96, 160), objects=1).frames[0]
        frames = [np.roll(textured, 8 * t, 1) for t in range(4)]
        points = Points(np.array([[40.0, 40.0], [61.5, 50.25]], np.float32), np.array([0, 1]))
        tracker = self.tracker(affinity=Affinity(radius=6, temperature=0.002, normalize=True, topk=5))
        followed = list(tracker.follow(frames, points))
        assert np.isnan(followed[0].xy[1]).all()
        assert np.allclose(followed[1].xy[1], [61.5, 50.25])
        assert np.abs(followed[3].xy[0] - [64, 40]).max() < 4
        assert np.abs(followed[3].xy[1] - [77.5, 50.25]).max() < 4
        with pytest.raises(InputError, match="at most"):
            PointSession(tracker, Points(np.zeros((5000, 2), np.float32)))

    def test_wrong_input_is_named(self, clip):
        tracker, labels = self.tracker(), LabelMap(clip.labels[0])
        with pytest.raises(ShapeError, match="labels are 192x128"):
            list(tracker.track(clip.frames[:, :64], labels))
        with pytest.raises(ShapeError, match="frame 1"):
            list(tracker.track([clip.frames[0], clip.frames[1][:64]], labels))
        with pytest.raises(ShapeError, match="uint8"):
            list(tracker.track([clip.frames[0] / 255], labels))
        with pytest.raises(InputError, match="no labels"):
            list(tracker.track(clip.frames, {}))

    def test_smaller_working_size_gives_masks_of_the_videos_size(self, clip):
        results = list(
            self.tracker(size=96, policy=MemoryPolicy(recent=2)).track(clip.frames, LabelMap(clip.labels[0]))
        )
        assert all(r.ids.shape == SIZE for r in results)
        assert jaccard(results[1].ids == 1, clip.labels[1] == 1) > 0.5


def test_catalogue_names_the_nearest_and_takes_files(tmp_path: Path):
    with pytest.raises(UnknownNameError, match="did you mean mast"):
        catalogue.build("mst")
    with pytest.raises(InputError, match="no such file"):
        catalogue.build(str(tmp_path / "mine.py"))
    mine = tmp_path / "mine.py"
    mine.write_text("from pixeltrail.methods.dul import build as build\n")
    assert isinstance(catalogue.build(str(mine), width=8), pixeltrail.Tracker)
    (tmp_path / "narrow_settings_of_mine.py").write_text("WIDTH = 8\n")
    mine.write_text(
        "from narrow_settings_of_mine import WIDTH\nfrom pixeltrail.methods.dul import build as whole\n\n\n"
        "def build():\n    return whole(width=WIDTH)\n"
    )
    assert catalogue.build(str(mine)).encoder.channels == catalogue.build("dul", width=8).encoder.channels
    for text in ("import no_such_module_anywhere\n", "def build(:\n"):
        mine.write_text(text)
        with pytest.raises(InputError, match=r"mine\.py: cannot be imported"):
            catalogue.build(str(mine))
    with pytest.raises(InputError, match="colour"):
        catalogue.build("dul", colour=3)


def test_a_weights_file_runs_no_code_but_may_fill_a_method_that_the_user_names(tmp_path: Path):
    from pixeltrail.predictors import load_tracker

    mine, file = tmp_path / "mine.py", tmp_path / "mine.safetensors"
    mine.write_text("from pixeltrail.methods.dul import build as whole\n\n\ndef build():\n    return whole(width=8)\n")
    tracker = catalogue.build(str(mine)).eval()
    weights.save(tracker, file, {"method": str(mine)})
    with pytest.raises(WeightsError, match="load_into"):
        weights.load(file)
    again, x = load_tracker(f"{mine}:{file}"), torch.rand(1, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(tracker.embed(x), again.embed(x))
