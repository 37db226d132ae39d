"""Video Colorization and the contrastive random walk: each term is its formula, and a perfect encoder solves it."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixeltrail import catalogue
from pixeltrail.bottleneck import Everything, Grey
from pixeltrail.colour import COLOURS, colour_classes, nearest_colour, rgb_to_lab
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError
from pixeltrail.geometry import pixel_grid
from pixeltrail.methods.colorization import PointToColours
from pixeltrail.methods.crw import WalkHome, cut
from pixeltrail.protocols import preset
from pixeltrail.types import Batch


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clip_of(seed: int, frames: int, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    frames = render(seed, frames=frames, size=size, objects=1).frames
    return torch.from_numpy(frames).movedim(-1, 1)[None].float() / 255


class Stub(nn.Module):
    """In the place of an encoder: a function of the view."""

    def __init__(self, function, stride: int = 8) -> None:
        super().__init__()
        self.function, self.stride = function, stride

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return self.function(view)


class TestGrey:
    def test_is_luminance_three_times_over_whatever_the_seed(self):
        x = torch.rand(2, 3, 3, 5, 4, generator=generator())
        seen = Grey()(x, generator(2))
        luminance = 2 * (0.299 * x[:, :, 0] + 0.587 * x[:, :, 1] + 0.114 * x[:, :, 2]) - 1
        for channel in seen.view.unbind(2):
            torch.testing.assert_close(channel, luminance)
        assert seen.hidden == ()
        assert torch.equal(seen.view, Grey()(x, generator(3)).view)
        torch.testing.assert_close(seen.view[:, 0], Grey().view(x[:, 0]))

    def test_ends_of_the_range_and_no_colour(self):
        ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
        torch.testing.assert_close(Grey().view(ends), 2 * ends - 1)
        red, same = torch.tensor([[1.0, 0, 0], [0.299, 0.299, 0.299]]).view(2, 3, 1, 1)
        torch.testing.assert_close(Grey().view(red), Grey().view(same))  # what the encoder cannot tell apart


class TestColours:
    def test_sixteen_classes_that_k_means_leaves_in_place(self):
        centroids = torch.tensor(COLOURS)
        assert centroids.shape == (16, 2)
        assert torch.equal(centroids, colour_classes(centroids, 16))  # one sample each: already the means

    def test_autocast_does_not_move_a_class(self):
        x = 0.4 + 0.2 * torch.rand(1, 3, 32, 32, generator=generator())
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = rgb_to_lab(x)
        assert torch.equal(under_autocast, rgb_to_lab(x))


class TestColorization:
    def test_is_the_likelihood_of_the_copied_classes_under_one_softmax_over_all_references(self):
        torch.manual_seed(0)
        tracker = catalogue.build("colorization", width=8, channels=8).eval()
        x = clip_of(1, 4)
        term = tracker.objective(tracker, Batch(x, generator()))
        assert set(term) == {"colour"}

        features = tracker.embed_clip(Grey().view(x))[0].flatten(2)  # (T, C, N)
        small = torch.empty(4, 3, 4, 5)  # 32 x 40 pixels: 4 x 5 cells, each the triangle-weighted mean around pixel 8i
        for t in range(4):
            for i in range(4):
                for j in range(5):
                    total, mass = torch.zeros(3), 0.0
                    for y in range(max(0, 8 * i - 7), min(32, 8 * i + 8)):
                        for z in range(max(0, 8 * j - 7), min(40, 8 * j + 8)):
                            weight = (1 - abs(y - 8 * i) / 8) * (1 - abs(z - 8 * j) / 8)
                            total, mass = total + weight * x[0, t, :, y, z], mass + weight
                    small[t, :, i, j] = total / mass
        ab = rgb_to_lab(small)[:, 1:].flatten(2)
        classes = (ab[:, :, None] - torch.tensor(COLOURS).T[:, :, None]).square().sum(1).argmin(1)  # (T, N)
        scores = features[3].T @ torch.cat(tuple(features[:3]), 1)  # T = 1, though the tracker tracks at 0.5
        weight = (scores - scores.amax(1, keepdim=True)).exp().detach()
        weight = weight / weight.sum(1, keepdim=True)
        expected = 0.0
        for n in range(20):
            likely = float(weight[n, classes[:3].flatten() == classes[3, n]].sum())
            expected -= math.log(likely + 1e-8) / 20
        assert float(term["colour"].detach()) == pytest.approx(expected, rel=1e-3)
        assert expected > 0.01  # there is something to learn

    def still(self) -> torch.Tensor:
        """Four equal frames in blocks of random colour, (1, 4, 3, 64, 64)."""
        frame = torch.rand(1, 3, 8, 8, generator=generator()).repeat_interleave(8, 2).repeat_interleave(8, 3)
        return frame.unsqueeze(1).repeat(1, 4, 1, 1, 1)

    def test_a_perfect_encoder_has_no_loss_and_a_blind_one_that_of_the_frequencies(self):
        tracker = catalogue.build("colorization", width=8, channels=8)
        objective: PointToColours = tracker.objective
        x = self.still()
        own = torch.eye(64).view(1, 64, 8, 8)
        tracker.encoder = Stub(lambda view: 6 * own.expand(len(view), -1, -1, -1))
        perfect = float(objective(tracker, Batch(x))["colour"])
        tracker.encoder = Stub(lambda view: 0 * own.expand(len(view), -1, -1, -1))
        blind = float(objective(tracker, Batch(x))["colour"])
        share = torch.bincount(self.classes(x), minlength=16) / 64
        entropy = -sum(float(p) * math.log(p) for p in share if p > 0)
        assert blind == pytest.approx(entropy, rel=1e-4)
        assert perfect < 1e-4 < blind

    def classes(self, x: torch.Tensor) -> torch.Tensor:
        from pixeltrail.geometry import down_to_cells

        return nearest_colour(rgb_to_lab(down_to_cells(x[:, 0], 8))[:, 1:], torch.tensor(COLOURS)).flatten()

    def test_settings_are_those_of_the_paper(self):
        tracker = catalogue.build("colorization")
        with torch.inference_mode():
            assert tracker.embed(torch.rand(1, 3, 64, 48)).shape == (1, 64, 8, 6)
        assert tracker.objective.temperature == 1
        assert tracker.protocol.affinity.temperature == 0.5
        assert tracker.protocol.affinity.radius is None
        assert tracker.protocol.keep == "soft"
        assert tracker.protocol.policy.frames(9) == [6, 7, 8]
        assert tracker.encoder.layer4[0].conv1.out_channels == 256

    def test_scores_begin_where_a_softmax_has_a_gradient(self):
        torch.manual_seed(0)
        tracker = catalogue.build("colorization", width=16)
        with torch.no_grad():
            f = tracker.embed(clip_of(2, 4, (64, 64))[0])
        assert float(f.square().sum(1).mean()) < 100  # 350 with He's variance in the last layer


class TestCrw:
    def test_walks_are_products_of_row_softmaxes_and_the_loss_their_diagonal(self):
        objective = WalkHome(4, grid=2, dropout=0.0)
        x = torch.randn(2, 4, 5, 2, 2, generator=generator())
        terms = objective._walks(x, None)
        assert list(terms) == ["walk_1", "walk_2", "walk_3"]
        unit = F.normalize(x.flatten(3), dim=2)  # (B, T, D, N)
        for k in (1, 2, 3):
            total = 0.0
            for b in range(2):
                walk = torch.eye(4)
                route = [*range(k + 1), *range(k - 1, -1, -1)]  # 0 1 ... k ... 1 0
                for s, t in pairwise(route):
                    walk = walk @ ((unit[b, s].T @ unit[b, t]) / 0.05).softmax(1)
                total += float(F.nll_loss((walk + 1e-20).log(), torch.arange(4)))
            assert float(terms[f"walk_{k}"]) == pytest.approx(total / 2 / 3, rel=1e-4)

    def test_dropped_edges_are_left_out_of_the_softmax_at_the_rate_that_is_set(self):
        objective = WalkHome(4, grid=7)
        here, there = (torch.randn(8, 3, 7, 7, generator=generator(s)) for s in (1, 2))
        step = objective._step(here, there, generator(3))
        kept = step > 0
        torch.testing.assert_close(step.sum(-1), torch.ones(8, 49))
        assert float((~kept).float().mean()) == pytest.approx(0.1, abs=0.01)  # 19,208 edges: sd 0.002
        scores = torch.einsum("bdn,bdm->bnm", F.normalize(here.flatten(2), dim=1), F.normalize(there.flatten(2), dim=1))
        torch.testing.assert_close(step, (scores / 0.05).masked_fill(~kept, -torch.inf).softmax(-1))
        assert torch.equal(step, objective._step(here, there, generator(3)))
        back = objective._step(there, here, generator(3))
        assert not torch.allclose(back, step.mT, atol=1e-3)  # a softmax of its own

    def test_patches_are_what_lies_there(self):
        y_x = pixel_grid(256, 192).flip(0)  # values are positions, so a patch says where it was cut
        frames = torch.cat((y_x, torch.zeros(1, 256, 192)))[None].repeat(3, 1, 1, 1)
        whole = cut(frames, 7, (1.0, 1.0), generator()).view(3, 7, 7, 3, 64, 48)
        crops = cut(frames, 7, (0.7, 0.9), generator()).view(3, 7, 7, 3, 64, 48)
        for patches, low, high in ((whole, 0.74, 1.001), (crops, 0.69, 0.901)):
            tall = (patches[:, :, :, 0, -1, 0] - patches[:, :, :, 0, 0, 0]) / 63  # of the side that it has unjittered
            wide = (patches[:, :, :, 1, 0, -1] - patches[:, :, :, 1, 0, 0]) / 47
            assert (tall * wide >= low).all()
            assert (tall * wide <= high).all()
            assert ((tall / wide).log().abs() <= math.log(4 / 3) + 1e-3).all()
            for axis, step in ((0, 32), (1, 24)):
                first = step * torch.arange(7).view((7, 1) if axis == 0 else (1, 7))
                # A crop's own pixels are smaller, so the centre of its first may lie outside that of the patch's first.
                assert (patches[:, :, :, axis].amin((3, 4)) >= first - 0.2).all()
                assert (patches[:, :, :, axis].amax((3, 4)) <= first + 2 * step - 1 + 0.2).all()
        assert float((crops[0] - crops[1]).abs().amax()) > 1  # each frame by itself
        assert torch.equal(cut(frames, 7, (0.7, 0.9), generator(5)), cut(frames, 7, (0.7, 0.9), generator(5)))

    def test_an_uncropped_patch_is_a_slice(self):
        frames = torch.rand(2, 3, 32, 64, generator=generator())
        patches = cut(frames, 3, (4 / 3, 4 / 3), generator()).view(2, 3, 3, 3, 16, 32)  # bounds beyond 1: always whole
        for row in range(3):
            for column in range(3):
                there = frames[:, :, 8 * row : 8 * row + 16, 16 * column : 16 * column + 32]
                torch.testing.assert_close(patches[:, row, column], there)

    def test_a_perfect_encoder_walks_home_and_a_blind_one_is_lost(self):
        tracker = catalogue.build("crw", width=8, dropout=0.0)
        objective: WalkHome = tracker.objective
        ramp = pixel_grid(128, 128) / 128  # red is x, green is y
        clip = torch.cat((ramp, torch.zeros(1, 128, 128))).expand(2, 3, 3, 128, 128)
        centres = torch.stack(torch.meshgrid(torch.arange(1, 8), torch.arange(1, 8), indexing="xy")).flatten(1) / 8

        def where(view):  # how near a patch's mean colour is to that of each node
            mean = ((view + 1) / 2).mean((2, 3))[:, :2]
            return (-(mean[:, :, None] - centres).square().sum(1) / (2 * 0.06**2)).exp()[..., None, None]

        objective.project = nn.Identity()
        tracker.encoder = Stub(where)
        perfect = sum(objective(tracker, Batch(clip, generator())).values())
        tracker.encoder = Stub(lambda view: torch.ones(len(view), 49, 1, 1))
        blind = sum(objective(tracker, Batch(clip, generator())).values())
        assert float(blind) == pytest.approx(math.log(49), rel=1e-4)
        assert float(perfect) < 0.05

    def test_walkers_follow_what_moves(self):
        objective = WalkHome(4, grid=3)
        nodes = torch.eye(9).view(9, 3, 3)
        moved = torch.stack([nodes.flatten(1)[:, torch.randperm(9, generator=generator(s))] for s in range(4)])
        terms = objective._walks(moved.view(1, 4, 9, 3, 3), None)
        objective.dropout = 0.0
        sure = objective._walks(moved.view(1, 4, 9, 3, 3), None)
        assert float(sum(sure.values())) < 1e-4
        assert float(sum(terms.values())) > float(sum(sure.values()))  # a cut edge costs

    def test_settings_are_those_of_the_paper_and_of_its_preset(self):
        tracker = catalogue.build("crw")
        assert tracker.protocol == preset("crw")
        assert isinstance(tracker.bottleneck, Everything)
        assert tracker.objective.project.weight.shape == (128, 256)
        assert (tracker.objective.grid, tracker.objective.dropout, tracker.objective.temperature) == (7, 0.1, 0.05)

    def test_clips_too_small_for_patches_are_named(self):
        tracker = catalogue.build("crw", width=8)
        with pytest.raises(InputError, match=r"clips of 32 pixels .* at least 36"):
            tracker.objective(tracker, Batch(torch.rand(1, 2, 3, 32, 32)))
        terms = tracker.objective(tracker, Batch(torch.rand(1, 2, 3, 36, 36)))
        assert all(bool(torch.isfinite(v)) for v in terms.values())

    def test_autocast_leaves_the_walk_exact(self):
        tracker = catalogue.build("crw", width=8, grid=3).eval()
        batch = [Batch(clip_of(1, 3, (64, 64)), generator()) for _ in range(2)]
        plain = tracker.objective(tracker, batch[0])
        with torch.autocast("cpu", torch.bfloat16):
            fast = tracker.objective(tracker, batch[1])
        for name, term in plain.items():
            assert fast[name].dtype == torch.float32
            assert float(fast[name].detach()) == pytest.approx(float(term.detach()), rel=0.1)
