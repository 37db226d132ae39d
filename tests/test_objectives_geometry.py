"""CycleTime and UVC: what they learn from, term by term, against plain formulas."""

from dataclasses import replace
from math import cos, pi, sin

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixeltrail import catalogue, weights
from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Lightness, normalised_lab
from pixeltrail.colour import rgb_to_lab
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError, WeightsError
from pixeltrail.methods import cycletime, uvc
from pixeltrail.nets.autoencoder import AutoEncoder
from pixeltrail.types import Batch


def _clip(seed: int, frames: int, side: int = 48) -> torch.Tensor:
    rows = [render(seed + i, frames=frames, size=(side, side), objects=1, speed=2.0).frames for i in range(2)]
    return torch.from_numpy(np.stack(rows)).movedim(-1, 2).float() / 255


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _smooth(side: int) -> torch.Tensor:
    return F.interpolate(torch.rand(2, 3, 5, 5, generator=_random()), side, mode="bicubic", align_corners=True)


WHOLE = torch.eye(2, 3).expand(2, 2, 3)


class TestAffine:
    def test_a_place_is_the_map_that_it_says(self):
        theta = cycletime.affine(torch.tensor([0.2]), torch.tensor([-0.3]), torch.tensor([0.5]))
        points = cycletime.lattice(theta, 3)[0]
        for j, v in enumerate((-1, 0, 1)):
            for i, u in enumerate((-1, 0, 1)):
                x = (cos(0.5) * u - sin(0.5) * v) / 3 + 0.2
                y = (sin(0.5) * u + cos(0.5) * v) / 3 - 0.3
                assert points[:, j, i].tolist() == pytest.approx([x, y], abs=1e-6)

    def test_the_whole_frame_is_itself_and_an_upright_patch_is_a_slice(self):
        x = _smooth(31)
        torch.testing.assert_close(cycletime.look(x, WHOLE, 31, (31, 31)), x, rtol=0, atol=1e-5)
        # Cells 10 … 20 of 31 are a third of the way from end to end; centred on cell 15 + 5.
        theta = cycletime.affine(torch.full((2,), 5 / 15), torch.zeros(2), torch.zeros(2))
        torch.testing.assert_close(cycletime.look(x, theta, 11, (31, 31)), x[:, :, 10:21, 15:26], rtol=0, atol=1e-5)

    def test_features_are_read_where_their_cells_sit(self):
        ramp = torch.arange(5).float().mul(8).expand(1, 1, 5, 5)  # cell i sits on pixel 8 i of 33
        seen = cycletime.look(ramp, WHOLE[:1], 9, (33, 33), 8)
        torch.testing.assert_close(seen[0, 0], torch.linspace(0, 32, 9).expand(9, 9))

    def test_a_warp_and_its_inverse_cancel(self):
        x = _smooth(64)
        theta = cycletime.affine(torch.full((2,), 0.1), torch.full((2,), -0.05), torch.full((2,), 0.6))
        there = cycletime.look(x, theta, 64, (64, 64))
        turn = theta[:, :, :2].inverse()
        back = torch.cat((turn, -turn @ theta[:, :, 2:]), 2)
        points = cycletime.lattice(theta, 7)
        again = (turn @ points.flatten(2) + back[:, :, 2:]).view_as(points)
        torch.testing.assert_close(again, cycletime.lattice(WHOLE, 7), rtol=0, atol=1e-5)
        # The middle of the patch, seen from the frame, is the frame's own picture of it.
        ours = cycletime.look(there, back @ _homogeneous(theta), 64, (64, 64))
        torch.testing.assert_close(ours, there, rtol=0, atol=1e-4)

    def test_distance_is_the_mean_over_20_by_20_points(self):
        a, b = torch.randn(2, 2, 2, 3, generator=_random()).unbind(0)
        total = 0.0
        line = np.linspace(-1, 1, 20)
        for i in range(2):
            for v in line:
                for u in line:
                    point = np.array([u, v, 1.0])
                    total += float((((a[i] - b[i]).numpy() @ point) ** 2).sum())
        assert float(cycletime.distance(a, b)) == pytest.approx(total / 800, rel=1e-4)
        assert float(cycletime.distance(a, a)) == 0


def _homogeneous(theta: torch.Tensor) -> torch.Tensor:
    return torch.cat((theta, torch.tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)), 1)


class TestCycleTime:
    GRID, SMALL = 21, {"width": 8, "channels": 16, "grid": 21}

    def tracker(self, **settings):
        torch.manual_seed(0)
        return catalogue.build("cycletime", **{**self.SMALL, **settings})

    def test_inliers_are_the_affinity_near_the_place(self):
        g, p = self.GRID, self.GRID // 3
        theta = cycletime.affine(torch.tensor([0.3, 2.5]), torch.tensor([-0.1, 0.0]), torch.tensor([0.4, 0.0]))
        weight = torch.rand(2, p * p, g * g, generator=_random()).softmax(-1)
        means = []
        for i in range(2):
            places = cycletime.lattice(theta[i : i + 1], p)[0].flatten(1)
            mass = total = 0.0
            for k in range(p * p):
                x, y = ((float(c) + 1) / 2 * (g - 1) for c in places[:, k])
                for cell in range(g * g):
                    near = min(1, max(0, 2 - abs(x - cell % g))) * min(1, max(0, 2 - abs(y - cell // g)))
                    total += near
                    mass += near * float(weight[i, k, cell])
            means.append(mass / max(total, 1e-6))
        assert means[1] == 0  # wholly outside
        assert float(cycletime.inliers(weight, theta, g)) == pytest.approx(sum(means) / 2, rel=1e-4)

    def test_the_true_place_of_a_known_patch_has_the_most_inliers(self):
        g, p = self.GRID, self.GRID // 3
        frame = F.normalize(torch.randn(1, 64, g, g, generator=_random()), dim=1)
        patch = frame[:, :, 3 : 3 + p, 9 : 9 + p]
        weight = Affinity(temperature=0.05, normalize=True)(patch, frame[:, None]).weight

        def at(x: float, y: float) -> float:  # an upright patch whose first cell is (x, y)
            centre = torch.tensor([[x], [y]]).add((p - 1) / 2) / (g - 1) * 2 - 1
            return float(cycletime.inliers(weight, cycletime.affine(centre[0], centre[1], torch.zeros(1)), g))

        assert at(9, 3) == max(at(x, y) for x in range(0, g - p) for y in range(0, g - p))
        assert at(9, 3) > 10 * at(2, 12)

    def test_the_patch_is_where_something_moves(self):
        clip = torch.zeros(2, 2, 3, 90, 90)
        clip[0, 1, :, :40, 50:] = torch.rand(3, 40, 40, generator=_random())
        clip[1, 1, :, 50:, :40] = torch.rand(3, 40, 40, generator=_random())
        random = _random()
        angles = []
        for _ in range(50):
            theta = cycletime.choose_patch(clip, random)
            x, y = theta[:, 0, 2], theta[:, 1, 2]
            assert theta[:, :, 2].abs().max() <= 2 / 3 + 1e-6  # upright, it lies inside the frame
            assert min(x[0], -y[0], -x[1], y[1]) > -1 / 12 - 1e-6
            torch.testing.assert_close(theta[:, :, :2].det(), torch.full((2,), 1 / 9))
            angles.append(torch.atan2(theta[:, 1, 0], theta[:, 0, 0]))
        assert torch.stack(angles).abs().max() <= pi / 4 + 1e-5
        assert torch.stack(angles).std() > pi / 8

    def test_cycles_go_where_they_should_and_cost_the_distance_from_the_start(self):
        """The localiser is replaced by one that answers in turn; the answers name the legs of the journey."""
        tracker, clip = self.tracker(), _clip(1, 3)
        answers = [cycletime.affine(*(torch.rand(3, 2, generator=_random()) * (0.1 * i)).unbind(0)) for i in range(8)]
        seen = []

        def localise(affinity):
            seen.append(affinity)
            return answers[len(seen) - 1]

        del tracker.objective.localise
        tracker.objective.localise = localise
        terms = tracker.objective(tracker, Batch(clip, _random()))
        start = cycletime.choose_patch(clip, _random())
        # 0: back to frame 1, 1: skip home, 2: long home; 3: back to frame 0, 4: skip home, 5: long back 1 -> 0, 6, 7.
        assert len(seen) == 8
        skip = sum(cycletime.distance(answers[i], start) for i in (1, 4)) / 2
        long = sum(cycletime.distance(answers[i], start) for i in (2, 7)) / 2
        assert float(terms["skip"].detach()) == pytest.approx(0.1 * float(skip), rel=1e-5)
        assert float(terms["long"].detach()) == pytest.approx(0.02 * float(long), rel=1e-5)
        torch.testing.assert_close(seen[0].sum(1), torch.ones(2, 7, 7))  # a softmax over the frame's cells
        assert seen[0].shape == (2, self.GRID**2, 7, 7)
        assert torch.equal(seen[1], seen[2])  # after one frame back, the skip and the long cycle are the same
        similarity = [cycletime.inliers(seen[i].flatten(2).transpose(1, 2), answers[i], self.GRID) for i in (0, 3)]
        assert float(terms["similarity"].detach()) == pytest.approx(-float(sum(similarity).detach()) / 2, rel=1e-4)

    def test_the_cycle_of_no_frames_is_off_unless_it_counts_and_then_a_plain_answer(self):
        clip, seen = _clip(1, 3), []
        tracker = self.tracker(own=0.5)
        localise = tracker.objective.localise
        localise.register_forward_hook(lambda module, inputs, theta: seen.append(theta.detach()))
        terms = tracker.objective(tracker, Batch(clip, _random()))
        assert "own" not in self.tracker().objective(self.tracker(), Batch(clip, _random()))
        start = cycletime.choose_patch(clip, _random())
        assert float(terms["own"].detach()) == pytest.approx(0.5 * float(cycletime.distance(seen[-1], start)), rel=1e-5)

    def test_a_journey_that_ends_where_it_began_costs_nothing(self):
        tracker, clip = self.tracker(), _clip(2, 1).repeat(1, 4, 1, 1, 1)
        start = cycletime.choose_patch(clip, _random())
        del tracker.objective.localise
        tracker.objective.localise = lambda affinity: start
        terms = tracker.objective(tracker, Batch(clip, _random()))
        assert float(terms["skip"].detach()) == float(terms["long"].detach()) == 0
        assert float(terms["similarity"].detach()) < 0

    def test_the_localiser_can_be_taught_a_translation(self):
        """Affinities of known shifts in, their places out: a few steps of plain regression bring it near."""
        torch.manual_seed(0)
        g, p = 21, 7
        localiser = cycletime.Localiser(g)
        corners = torch.tensor([(x, y) for x in (0, 4, 10, 14) for y in (0, 5, 9, 14)])
        affinity = torch.zeros(len(corners), g * g, p, p)
        for n, (cx, cy) in enumerate(corners.tolist()):
            for j in range(p):
                for i in range(p):
                    affinity[n, (cy + j) * g + cx + i, j, i] = 1
        centre = (corners + (p - 1) / 2) / (g - 1) * 2 - 1
        truth = cycletime.affine(centre[:, 0], centre[:, 1], torch.zeros(len(corners)))
        optimizer = torch.optim.Adam(localiser.parameters(), 2e-3)
        for _ in range(40):
            loss = cycletime.distance(localiser(affinity), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.02  # a guess at the middle costs about 0.35

    def test_grids_that_the_localiser_cannot_read_are_refused(self):
        for grid in (18, 22):
            with pytest.raises(InputError, match="multiple of 3"):
                self.tracker(grid=grid)


def test_lightness_is_grey_under_imagenets_statistics():
    x = torch.rand(2, 3, 4, 5)
    seen = Lightness().view(x)
    for c, (mean, deviation) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        torch.testing.assert_close(seen[:, c], (rgb_to_lab(x)[:, 0] / 100 - mean) / deviation)
    assert torch.equal(Lightness()(x[None]).view[0], seen)


def test_the_auto_encoder_has_stride_8():
    network = AutoEncoder(width=4, channels=6)
    codes = network.encoder(torch.rand(1, 3, 16, 24))
    assert codes.shape == (1, 6, 2, 3)
    picture = network.decoder(codes)
    assert picture.shape == (1, 3, 16, 24)
    assert picture.abs().max() <= 1


class TestUvc:
    SMALL = {"width": 8, "code_width": 4, "code": 8}  # noqa: RUF012

    def tracker(self, **settings):
        torch.manual_seed(0)
        return catalogue.build("uvc", **{**self.SMALL, **settings})

    def test_a_known_translation_is_localised(self):
        frame = F.normalize(torch.randn(2, 64, 9, 12, generator=_random()), dim=1)
        reference = torch.stack((frame[0, :, 2:6, 7:11], frame[1, :, 5:9, 0:4]))
        affinity = Affinity(temperature=0.02)
        centre, half = uvc.locate(affinity, reference, frame, "fixed")
        torch.testing.assert_close(centre, torch.tensor([[8.5, 3.5], [1.5, 6.5]]), rtol=0, atol=0.02)
        assert half.tolist() == [[1.5, 1.5]] * 2
        corner, step = uvc.boxed(centre, half, frame, 4)
        torch.testing.assert_close(corner, torch.tensor([[7.0, 2.0], [0.0, 5.0]]), rtol=0, atol=0.02)
        assert step.tolist() == [[1, 1]] * 2
        torch.testing.assert_close(uvc.cut(frame, corner.round(), step, 4), reference, rtol=0, atol=1e-5)
        # Four cells spread evenly over four cells: the mean distance from the centre is 1, the half-size 2.
        torch.testing.assert_close(
            uvc.locate(affinity, reference, frame, "measured")[1], torch.full((2, 2), 2.0), rtol=0, atol=0.04
        )

    def test_boxes_stay_in_the_frame(self):
        frame = torch.zeros(1, 1, 9, 12)
        centre = torch.tensor([[-3.0, 8.0], [11.0, 4.0], [5.0, 4.0], [5.0, 4.0]])
        half = torch.tensor([[1.5, 1.5], [1.5, 1.5], [90.0, 90.0], [0.0, 0.0]])
        corner, step = uvc.boxed(centre, half, frame, 4)
        assert corner.tolist() == [[0, 5], [8, 2.5], [0, 0], [4.5, 3.5]]
        last = corner + 3 * step
        torch.testing.assert_close(last, torch.tensor([[3, 8], [11, 5.5], [11, 8], [5.5, 4.5]]))

    def test_colour_error(self):
        a, b = torch.rand(2, 2, 3, 4, 5).unbind(0)
        d = (a - b).abs().mean((2, 3))
        assert uvc.colour_error(a, b).tolist() == pytest.approx(
            (d[:, 0] + 10 * d[:, 1] + 10 * d[:, 2]).tolist(), rel=1e-5
        )

    def test_scatter_is_the_variance_in_windows(self):
        place = torch.randn(2, 2, 5, 5, generator=_random())
        total = 0.0
        for b in range(2):
            for y in (0, 2):
                for x in (0, 2):  # the fifth row and column fill no window
                    window = place[b, :, y : y + 2, x : x + 2].flatten(1)
                    total += float((window - window.mean(1, keepdim=True)).square().sum(0).mean())
        assert float(uvc.scatter(place, 2)) == pytest.approx(total / 8, rel=1e-5)
        assert float(uvc.scatter(torch.ones(1, 2, 3, 3))) == 0

    def test_a_one_to_one_match_brings_coordinates_home(self):
        values = torch.rand(1, 2, 3, 3)
        order = torch.eye(9)[torch.randperm(9, generator=_random())][None]
        there = uvc.along(order, values)
        assert not torch.equal(there, values)
        torch.testing.assert_close(uvc.along(order.transpose(1, 2), there), values)
        blurred = torch.full((1, 9, 9), 1 / 9)
        assert (uvc.along(blurred, uvc.along(blurred, values)) - values).abs().max() > 0.1

    @pytest.mark.parametrize("box", ["fixed", "measured"])
    def test_every_term_is_its_formula(self, box):
        tracker = self.tracker(box=box, coordinates=0.5, region=0.5, temperature=20.0, limit=1e9).eval()
        clip = _clip(3, 2)
        terms = tracker.objective(tracker, Batch(clip, _random(), 0.9))
        ae = tracker.objective.autoencoder
        n, lab, grey = 3, normalised_lab(clip), Lightness().view(clip)
        corner = (torch.rand(2, 2, generator=_random()) * 25).floor().int()
        pieces = [(slice(int(y), int(y) + 24), slice(int(x), int(x) + 24)) for x, y in corner]
        source = torch.stack([lab[i, 0][:, y, x] for i, (y, x) in enumerate(pieces)])
        reference = tracker.encoder(torch.stack([grey[i, 0][:, y, x] for i, (y, x) in enumerate(pieces)]))
        frame = tracker.encoder(grey[:, 1])
        affinity = replace(tracker.protocol.affinity, topk=None)
        corner, step = uvc.boxed(*uvc.locate(affinity, reference, frame, box), frame, n)
        target, truth = uvc.cut(frame, corner, step, n), uvc.cut(lab[:, 1], corner * 8, step, 8 * n)
        a = (torch.einsum("bcyx,bcvu->byxvu", target, reference) / 20).view(2, 9, 9)
        there, others = a.softmax(2), a.transpose(1, 2).softmax(2)
        copied = torch.einsum("bqk,bck->bcq", there, ae.encoder(source).flatten(2)).unflatten(2, (n, n))
        returned = torch.einsum("bqk,bcq->bck", there, ae.encoder(truth).flatten(2)).unflatten(2, (n, n))
        line = torch.tensor([-1.0, 0.0, 1.0])
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy")).flatten(1)
        moved, other = grid @ there.transpose(1, 2), grid @ others.transpose(1, 2)
        home = moved @ there
        spread = [(m - m.mean(2, keepdim=True)).square().sum(1).mean() for m in (moved, other)]
        expected = {
            "colour": uvc.colour_error(ae.decoder(copied), truth).mean(),
            "reverse": 0.1 * uvc.colour_error(ae.decoder(returned), source).mean(),
            "concentration": 0.3 * (spread[0] + spread[1]),
            "coordinates": 0.5 * (home - grid).square().sum(1).mean(),
            "reconstruction": (uvc.colour_error(ae(source), source) + uvc.colour_error(ae(truth), truth)).mean() / 2,
        }
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            assert float(terms[name].detach()) == pytest.approx(float(value.detach()), rel=1e-3), name

    def test_stages(self):
        clip = _clip(4, 2)

        def terms(progress, **settings):
            tracker = self.tracker(**settings).eval()
            return {
                k: float(v.detach()) for k, v in tracker.objective(tracker, Batch(clip, _random(), progress)).items()
            }

        assert "concentration" not in terms(0.0)
        assert terms(0.2)["colour"] != terms(0.5)["colour"]  # random boxes first
        for progress in (0.0, 0.34):
            assert terms(progress, limit=0.0)["colour"] > 0  # the first epochs of a stage count every pair
        for progress in (0.2, 0.5):
            cut = terms(progress, limit=0.0)
            assert cut["colour"] == cut["reverse"] == 0
            assert cut["reconstruction"] > 0

    def test_only_reconstruction_teaches_the_auto_encoder_and_it_teaches_nothing_else(self):
        tracker = self.tracker(coordinates=1.0, temperature=20.0)
        terms = tracker.objective(tracker, Batch(_clip(3, 2), _random(), 0.5))
        terms.pop("reconstruction").backward(retain_graph=True)
        assert all(p.grad is None for p in tracker.encoder.parameters())
        assert all(p.grad is not None for p in tracker.objective.autoencoder.parameters())
        tracker.zero_grad()
        sum(terms.values()).backward()
        assert all(p.grad is None for p in tracker.objective.autoencoder.parameters())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tracker.encoder.parameters())

    def test_an_auto_encoder_is_trained_alone_then_frozen(self, tmp_path):
        file, batch = tmp_path / "colours.safetensors", Batch(_clip(3, 2), _random(), 0.5)
        alone = self.tracker(matching=False)
        terms = alone.objective(alone, batch)
        assert terms.keys() == {"reconstruction"}
        terms["reconstruction"].backward()
        assert all(p.grad is None for p in alone.encoder.parameters())
        weights.save(alone, file, {"method": "uvc"}, training=True)

        torch.manual_seed(9)
        settings = {**self.SMALL, "autoencoder": str(file)}
        tracker = catalogue.build("uvc", **settings)
        for ours, theirs in zip(
            tracker.objective.autoencoder.parameters(), alone.objective.autoencoder.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
            assert not ours.requires_grad
        assert "reconstruction" not in tracker.objective(tracker, batch)

        trained = tmp_path / "trained.safetensors"
        weights.save(tracker, trained, {"method": "uvc", "settings": settings}, training=True)
        file.unlink()  # trained weights hold all that they need
        again = weights.load(trained)
        assert "reconstruction" not in again.objective(again, batch)
        lost = catalogue.build("uvc", **settings)
        with pytest.raises(InputError, match="no such auto-encoder"):
            lost.objective(lost, batch)

    def test_wrong_settings_and_files_are_named(self, tmp_path):
        for settings in ({"box": "round"}, {"region": 0.0}, {"autoencoder": "x", "matching": False}):
            with pytest.raises(InputError, match="uvc"):
                self.tracker(**settings)
        file = tmp_path / "a.safetensors"
        weights.save(self.tracker(matching=False), file, {}, training=True)
        with pytest.raises(WeightsError, match="size mismatch"):
            self.tracker(autoencoder=str(file), code=4)
        file.write_bytes(b"nothing of the kind")
        with pytest.raises(WeightsError, match="not an auto-encoder"):
            self.tracker(autoencoder=str(file))
