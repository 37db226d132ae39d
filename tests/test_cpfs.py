"""Features from flow: the formulas against plain loops, the network's laws, and the clusters."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pixeltrail import catalogue, weights
from pixeltrail.cli import main
from pixeltrail.data.images import write_image
from pixeltrail.data.labels import read_labels
from pixeltrail.errors import InputError
from pixeltrail.geometry import sample
from pixeltrail.jobs.segment import Segmenter, directions
from pixeltrail.methods import cpfs
from pixeltrail.nets import hypercolumns
from pixeltrail.nets.alexnet import AlexNet
from pixeltrail.nets.hypercolumns import Hypercolumns, ResNetTrunk
from pixeltrail.predictors import raw_colour
from pixeltrail.types import Batch

N, D = 12, 5
SETTINGS = {"width": 6, "fc": 16, "hidden": 16, "dim": 4, "pixels": 64}


def some(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(**settings) -> object:
    torch.manual_seed(0)
    return catalogue.build("cpfs", **{**SETTINGS, **settings}).eval()


class TestFormulas:
    """In float64, against loops written from the paper."""

    x, flow = some(0, 2, D, N), 3 * some(1, 2, 2, N)
    sigma = 0.7

    def kernels(self, b: int) -> tuple[list, list]:
        """Plain lists: a quarter of the cosine, and the Gaussian."""
        x, f = self.x[b].T.tolist(), self.flow[b].T.tolist()
        dot = [[sum(a * c for a, c in zip(p, q, strict=True)) for q in x] for p in x]
        cosine = [[0.25 * dot[p][q] / math.sqrt(dot[p][p] * dot[q][q]) for q in range(N)] for p in range(N)]
        gauss = [[math.exp(-((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / (2 * self.sigma**2)) for q in f] for p in f]
        return cosine, gauss

    def columns(self, b: int) -> tuple[list, list]:
        """S(p, q) without p = q, of the embedding and of the flow."""
        cosine, gauss = self.kernels(b)
        raised = [[math.exp(v) for v in row] for row in cosine]
        found = []
        for kernel in (raised, gauss):
            sums = [sum(kernel[p][q] for p in range(N) if p != q) for q in range(N)]
            found.append([[kernel[p][q] / sums[q] if p != q else 0.0 for q in range(N)] for p in range(N)])
        return found[0], found[1]

    def test_kernels(self):
        for b in range(2):
            cosine, gauss = self.kernels(b)
            torch.testing.assert_close(cpfs.embedding_kernel(self.x)[b], torch.tensor(cosine, dtype=torch.float64))
            ours = cpfs.flow_kernel(self.flow, self.sigma)[b].exp()
            torch.testing.assert_close(ours, torch.tensor(gauss, dtype=torch.float64))

    def test_alignment(self):
        ours = cpfs.alignment(cpfs.embedding_kernel(self.x), cpfs.flow_kernel(self.flow, self.sigma).exp())
        for b in range(2):
            k, f = self.kernels(b)
            every = [(k[p][q], f[p][q]) for p in range(N) for q in range(N)]
            whole = sum(a * c for a, c in every) / math.sqrt(
                sum(a * a for a, _ in every) * sum(c * c for _, c in every)
            )
            assert float(ours[b]) == pytest.approx(whole, abs=1e-12)

    def test_cross_entropies(self):
        target = cpfs.columns(cpfs.flow_kernel(self.flow, self.sigma))
        found = cpfs.columns(cpfs.embedding_kernel(self.x))
        for b in range(2):
            of_x, of_flow = self.columns(b)
            pairs = [(p, q) for p in range(N) for q in range(N) if p != q]
            ce = -sum(of_flow[p][q] * math.log(of_x[p][q]) for p, q in pairs) / N
            reverse = -sum(of_x[p][q] * math.log(of_flow[p][q]) for p, q in pairs) / N
            assert float(cpfs.cross_entropy(target, found)[b]) == pytest.approx(ce, abs=1e-12)
            assert float(cpfs.cross_entropy(found, target)[b]) == pytest.approx(reverse, abs=1e-10)

    def test_logarithm_of_flow(self):
        flow = torch.tensor([0.0, 1.0, -1.0, 50.0, -80.0], dtype=torch.float64)
        one = math.log(2) / math.log(51)
        torch.testing.assert_close(cpfs.log_flow(flow), torch.tensor([0.0, one, -one, 1.0, -1.0], dtype=torch.float64))

    def test_gradients(self):
        x = some(2, 1, 3, 5).requires_grad_()
        target = cpfs.flow_kernel(some(3, 1, 2, 5), 0.5)

        def losses(x: torch.Tensor) -> torch.Tensor:
            kernel = cpfs.embedding_kernel(x)
            one, two = cpfs.columns(target), cpfs.columns(kernel)
            aligned = cpfs.alignment(kernel, target.exp()) + cpfs.alignment(kernel, target.exp(), centred=True)
            return aligned + cpfs.cross_entropy(one, two) + cpfs.cross_entropy(two, one)

        assert torch.autograd.gradcheck(losses, x)


class TestLaws:
    def test_proportional_kernels_align_fully_in_any_order_of_the_pixels(self):
        kernel = cpfs.embedding_kernel(some(0, 1, D, N))
        assert float(cpfs.alignment(kernel, 7 * kernel)) == pytest.approx(1, abs=1e-12)
        assert float(cpfs.alignment(kernel, 7 * kernel + 3, centred=True)) == pytest.approx(1, abs=1e-12)
        other, order = cpfs.flow_kernel(some(1, 1, 2, N), 0.7).exp(), torch.randperm(N)
        moved = [k[:, order][:, :, order] for k in (kernel, other)]
        torch.testing.assert_close(cpfs.alignment(*moved), cpfs.alignment(kernel, other))

    def test_embeddings_all_alike_have_the_logarithm_of_the_number_of_others(self):
        target = cpfs.columns(cpfs.flow_kernel(some(1, 1, 2, N), 0.7))
        same = cpfs.columns(cpfs.embedding_kernel(torch.ones(1, D, N, dtype=torch.float64)))
        assert float(cpfs.cross_entropy(target, same)) == pytest.approx(math.log(N - 1), abs=1e-12)

    def test_two_motions_are_embedded_best_as_opposites(self):
        """The least value in closed form, and no kernel within the bounds gets below it."""
        side = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(N // 2).view(1, 1, N)
        target = cpfs.columns(cpfs.flow_kernel(torch.cat((side, side), 1), 0.01))
        n, e = N // 2, math.exp(0.25)
        least = math.log((n - 1) * e + n / e) - 0.25
        assert float(cpfs.cross_entropy(target, cpfs.columns(cpfs.embedding_kernel(side)))) == pytest.approx(least)
        assert float(cpfs.least_cross_entropy(target)) == pytest.approx(least, abs=1e-7)
        for sigma in (0.3, 1.0, 5.0):  # in between, the best kernel lies within the bounds
            target = cpfs.columns(cpfs.flow_kernel(some(4, 1, 2, N), sigma))
            free = torch.zeros(1, N, N, dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.Adam([free], lr=0.02)
            for _ in range(300):
                loss = cpfs.cross_entropy(target, cpfs.columns(free))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    free.clamp_(-0.25, 0.25)
            bound = float(cpfs.least_cross_entropy(target))
            assert bound <= float(loss.detach()) + 1e-9
            assert bound == pytest.approx(float(loss.detach()), abs=1e-4)

    @pytest.mark.parametrize("loss", cpfs.LOSSES)
    def test_every_loss_tells_two_motions_apart_and_reaches_its_network(self, loss):
        tracker = small(loss=loss)
        torch.manual_seed(0)
        clip = torch.rand(1, 2, 3, 32, 64)
        clip[..., 32:] *= 0.2
        flow = torch.full((1, 2, 32, 64), 4.0)
        flow[..., 32:] = -4.0
        flow[..., :2, :] = torch.nan  # unknown flow must not be sampled
        optimizer = torch.optim.Adam(tracker.train().parameters(), lr=3e-3)
        losses = []
        for _ in range(25):
            (value,) = tracker.objective(tracker, Batch(clip, torch.Generator().manual_seed(0), flow=flow)).values()
            optimizer.zero_grad()
            value.backward()
            assert all(p.grad is not None for p in tracker.parameters())
            optimizer.step()
            losses.append(float(value.detach()))
        assert losses[-1] < losses[0]
        x = tracker.encoder(tracker.bottleneck.view(clip[:, 0]))[0].detach().flatten(1)
        left = (torch.arange(x.shape[1]) % 8 < 4).tolist()
        alike = (x.T @ x).numpy()
        same = np.equal.outer(left, left)
        assert alike[same].mean() > alike[~same].mean() + 0.3
        told = tracker.objective.measures(tracker, Batch(clip, torch.Generator().manual_seed(0), flow=flow))
        assert 0.1 < told["progress"] <= 1 + 1e-6
        assert told["together"] == pytest.approx(0.5, abs=0.1)

    def test_sigma_stays_within_its_bounds(self):
        objective = cpfs.MoveTogether(4, sigma=0.06, free=4.0)
        assert float(objective.sigma.detach()) == pytest.approx(0.06)
        for value, sigma in ((-50.0, 0.015), (50.0, 0.24)):
            nn.init.constant_(objective.width, value)
            assert float(objective.sigma.detach()) == pytest.approx(sigma, rel=1e-5)
        assert not list(cpfs.MoveTogether(4, free=1.0).parameters())

    def test_wrong_settings_are_named(self):
        for settings, said in (
            ({"loss": "l2"}, "kta"), ({"trunk": "vgg"}, "resnet50"), ({"pixels": 1}, "pixels"), ({"motion": -1.0}, "motion"),
            ({"camera": 3}, "camera"), ({"stride": 0}, "stride"),
            ({"border": "wrap"}, "replicate"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=said):
                small(**settings)
        tracker = small()
        with pytest.raises(InputError, match="optical flow"):
            tracker.objective(tracker, Batch(torch.rand(1, 2, 3, 32, 32)))
        with pytest.raises(InputError, match="no known flow"):
            tracker.objective(tracker, Batch(torch.rand(1, 2, 3, 32, 32), flow=torch.full((1, 2, 32, 32), torch.nan)))


class TestNetwork:
    def test_alexnet_is_the_papers(self):
        with torch.device("meta"):
            network = Hypercolumns(AlexNet())
        assert sum(network.widths) == 4928
        assert sum(p.numel() for p in network.mlp.parameters()) == 1_265_936
        shapes = {k: tuple(v.shape) for k, v in network.trunk.named_parameters() if "norms" not in k}
        assert shapes == {
            "features.0.weight": (96, 3, 11, 11), "features.3.weight": (256, 96, 5, 5),
            "features.6.weight": (384, 256, 3, 3), "features.8.weight": (384, 384, 3, 3),
            "features.10.weight": (256, 384, 3, 3), "classifier.1.weight": (4096, 256, 3, 3),
            "classifier.4.weight": (4096, 4096, 1, 1),
        }  # fmt: skip

    @pytest.mark.parametrize("border", ["reflect", "circular"])
    def test_a_border_made_of_the_picture_tells_no_place(self, border):
        """A flat picture is embedded alike everywhere; zeros beyond it would show."""
        picture = torch.full((1, 3, 33, 65), 0.3)
        with torch.inference_mode():
            found = small(border=border).encoder.dense(picture, 1)
            assert torch.allclose(found, found[..., :1, :1].expand_as(found), atol=1e-5)
            zeros = small(border="zeros").encoder.dense(picture, 1)
            assert not torch.allclose(zeros, zeros[..., :1, :1].expand_as(zeros), atol=1e-2)
        with pytest.raises(InputError, match="33 or more"):
            small(border=border).encoder.dense(picture[..., :32], 1)

    def test_resnet_has_torchvisions_names_and_numbers(self):
        with torch.device("meta"):
            deep = ResNetTrunk(depth=50)
        assert sum(p.numel() for p in deep.parameters()) == 25_557_032 - 2048 * 1000 - 1000  # without its classifier
        assert {
            "conv1.weight",
            "layer4.2.conv3.weight",
            "layer2.0.downsample.1.running_mean",
        } <= deep.state_dict().keys()

    @pytest.mark.parametrize(
        "trunk",
        [
            AlexNet(widths=(4, 6, 8, 8, 6), fc=8),
            AlexNet(widths=(4, 6, 8, 8, 6), fc=8, border="replicate"),
            ResNetTrunk(width=8),
        ],
        ids=["zeros", "replicate", "resnet"],
    )
    def test_cells_lie_on_multiples_of_the_stride(self, trunk):
        """A mirrored picture of 32 k + 1 pixels has mirrored maps if all kernels are symmetric: nothing shifts."""
        trunk.eval().double()
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data + module.weight.data.flip(-1)
        picture = torch.rand(1, 3, 65, 97, dtype=torch.float64)
        layers = list(trunk.widths)
        with torch.inference_mode():
            one, two = trunk.maps(picture, layers), trunk.maps(picture.flip(-1), layers)
        for name in layers:
            stride = trunk.strides[name]
            assert one[name].shape == (1, trunk.widths[name], 64 // stride + 1, 96 // stride + 1)
            torch.testing.assert_close(one[name], two[name].flip(-1))

    @pytest.mark.parametrize("trunk", ["alexnet", "resnet18"])
    def test_dense_is_sparse_at_the_same_pixels_is_the_whole_column(self, trunk, monkeypatch):
        encoder, picture = small(trunk=trunk).encoder, torch.rand(2, 3, 41, 70)
        xy = torch.tensor([[0.0, 69, 12, 33.25, 68], [0, 40, 8, 7.5, 40]]).expand(2, -1, -1)
        with torch.inference_mode():
            sparse, dense = encoder.at(picture, xy), encoder.dense(picture, 1)
            torch.testing.assert_close(dense[:, :, 8, 12], sparse[:, :, 2])
            torch.testing.assert_close(dense[:, :, 40, 69], sparse[:, :, 1])
            torch.testing.assert_close(encoder(picture), dense[:, :, ::8, ::8])
            monkeypatch.setattr(hypercolumns, "CHUNK", 37)
            torch.testing.assert_close(encoder.dense(picture, 1), dense)
            maps = encoder.trunk.maps(picture, encoder.layers)
            found = [sample(m, xy[:, :, None] / encoder.trunk.strides[k], padding="border") for k, m in maps.items()]
            column = torch.cat(found, 1)[:, :, 0].movedim(1, -1)
            plain = nn.functional.normalize(encoder.mlp(column), dim=-1).movedim(-1, 1)
        torch.testing.assert_close(sparse, plain)
        torch.testing.assert_close(sparse.norm(dim=1), torch.ones(2, 5))


class TestSegments:
    def picture(self, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
        truth = np.zeros((96, 128), np.uint8)
        truth[24:60, 16 + shift : 56 + shift] = 1
        truth[40:88, 80:112] = 2
        return np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)[truth], truth

    def test_colours_are_cut_where_they_change_and_keep_their_numbers(self):
        segment = Segmenter(raw_colour(), clusters=3, size=96)
        first = segment(self.picture()[0])
        names = [int(np.bincount(first.ids[self.picture()[1] == c]).argmax()) for c in range(3)]
        assert sorted(names) == [0, 1, 2]
        assert names[0] == 0  # the largest
        for shift in (0, 8, 16):
            image, truth = self.picture(shift)
            found = segment(image)
            assert np.mean(found.ids == np.array(names)[truth]) > 0.9  # but for half a cell at the edges
            assert found.embedding.shape == image.shape
            colours = [found.embedding[(truth == c) & (found.ids == names[c])].astype(int).mean(0) for c in range(3)]
            assert min(np.abs(colours[i] - colours[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 60

    def test_k_means_finds_directions_and_a_seed_decides(self):
        true = nn.functional.normalize(torch.eye(4)[:, :3] + 0.1, dim=0).T
        generator = torch.Generator().manual_seed(0)
        noise = 0.05 * torch.randn(300, 4, generator=generator)
        points = nn.functional.normalize(true.repeat_interleave(torch.tensor([150, 100, 50]), 0) + noise, dim=1)
        found = directions(points, 3, seed=5)
        assert ((found @ true.T).argmax(1) == torch.arange(3)).all()  # the largest first
        assert torch.equal(found, directions(points, 3, seed=5))

    def test_the_command(self, tmp_path, capsys):
        file, frames = tmp_path / "cpfs.safetensors", tmp_path / "video"
        weights.save(small(), file, {"method": "cpfs", "settings": SETTINGS})
        frames.mkdir()
        for t in range(3):
            write_image(frames / f"{t:03d}.png", self.picture(4 * t)[0])
        ask = ["--with", str(file), "--size", "64", "--threads", "1"]
        assert main(["segment", str(frames), "--out", str(tmp_path / "out"), *ask, "--clusters", "3"]) == 0
        assert main(["segment", str(frames / "000.png"), "--out", str(tmp_path / "one"), *ask]) == 0
        assert "1 frame ->" in capsys.readouterr().out
        assert sorted(p.name for p in (tmp_path / "out" / "pictures").iterdir()) == ["000.jpg", "001.jpg", "002.jpg"]
        ids = read_labels(tmp_path / "out" / "clusters" / "002.png").ids
        assert ids.shape == (96, 128)
        assert set(np.unique(ids)) <= {0, 1, 2}
        assert main(["segment", str(frames), "--out", str(tmp_path / "bad"), *ask, "--clusters", "1"]) == 2
        assert "2 to 64" in capsys.readouterr().err
        assert not (tmp_path / "bad").exists()
        assert main(["segment", str(tmp_path / "none.png"), "--out", str(tmp_path / "bad"), *ask]) == 2
