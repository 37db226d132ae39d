"""Flow networks: published sizes, laws that any of them obeys, any image size, and parity with the authors' SpyNet."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pixeltrail import flow_networks, weights
from pixeltrail.affinity import correlation
from pixeltrail.checkpoints.convert import convert
from pixeltrail.data.flowsets import flow_set
from pixeltrail.errors import InputError, PixeltrailError, ShapeError, UnknownNameError, WeightsError
from pixeltrail.flow.estimate import coarse_to_fine, estimate, estimator
from pixeltrail.flow.flownetc import DILATION, RADIUS
from pixeltrail.flow_methods import flow_method
from pixeltrail.geometry import pixel_grid, warp

COMPACT = {"channels": [8, 12, 16, 16], "decoder": [16, 12, 8], "context": [8, 8, 8, 8, 8, 8], "radius": 2}
NETWORKS = {
    "flownets": ("flownets", {"norm": True}),
    "flownetc": ("flownetc", {"mean": None}),
    "spynet": ("spynet", {"levels": 2}),
    "pwcnet": ("pwcnet", COMPACT),
    "sparse": ("pwcnet", {**COMPACT, "context": [], "dense": False, "convolutions": 2}),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {key: flow_networks.build(name, **settings).eval() for key, (name, settings) in NETWORKS.items()}


def frames(batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    made = torch.rand(2, batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return made[0], made[1]


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("flownets", {}, 38_675_536),
        ("flownets", {"deconv_bias": True, "flow_bias": True}, 38_676_506),
        ("flownetc", {}, 39_174_320),
        ("flownetc", {"deconv_bias": True, "flow_bias": True, "up_bias": True}, 39_175_298),
        ("spynet", {}, 1_440_300),
        ("spynet", {"levels": 5}, 1_200_250),
        ("pwcnet", {}, 9_374_274),
        ("pwcnet", {"convolutions": 2}, 8_749_280 - 66),  # the published files own a layer of 66 that nothing uses
    ],
)
def test_published_numbers_of_parameters(name: str, settings: dict[str, object], count: int) -> None:
    with torch.device("meta"):
        network = flow_networks.build(name, **settings)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_levels_shapes_and_batches(name: str, networks: dict[str, nn.Module]) -> None:
    """From coarse to fine, each twice the one before; a batch of two is two of one."""
    network, (first, second) = networks[name], frames(2, 64, 128)
    with torch.inference_mode():
        flows = network(first, second)
        alone = [network(first[i : i + 1], second[i : i + 1]) for i in range(2)]
    sizes = [tuple(flow.shape[-2:]) for flow in flows]
    finest = 1 if name == "spynet" else 4
    assert sizes[-1] == (64 // finest, 128 // finest)
    assert all((2 * h, 2 * w) == after for (h, w), after in pairwise(sizes))
    for level, flow in enumerate(flows):
        assert flow.shape[:2] == (2, 2)
        assert flow.dtype == torch.float32
        assert flow.std() > 0
        torch.testing.assert_close(flow, torch.cat([a[level] for a in alone]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name: str) -> None:
    key, settings = NETWORKS[name]
    torch.manual_seed(1)
    network = flow_networks.build(key, **settings)
    sum(flow.square().mean() for flow in network(*frames(2, 64, 64))).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_stays_near_float32(name: str, networks: dict[str, nn.Module]) -> None:
    first, second = frames(1, 64, 64)
    with torch.inference_mode():
        exact = networks[name](first, second)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            rough = networks[name](first, second)[-1]
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.1 * exact.abs().mean()


def shifted(size: int, step: int) -> tuple[list[Tensor], list[Tensor]]:
    """A random pair, and the same moved by ``step`` pixels down and to the right."""
    wide = frames(1, size + step, size + step, 5)
    smooth = [nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False) for x in wide]
    return [x[..., step:, step:] for x in smooth], [x[..., :size, :size] for x in smooth]


@pytest.mark.parametrize(("name", "settings", "margin"), [("spynet", {"levels": 1}, 16), ("pwcnet", {}, 64)])
def test_flow_moves_with_the_frames(name: str, settings: dict[str, object], margin: int) -> None:
    """Away from the border a network does not know where in the frame it looks."""
    torch.manual_seed(2)
    small = {"channels": [6, 8, 8], "decoder": [8], "context": [], "radius": 2, "convolutions": 1}
    network = flow_networks.build(name, **(settings or small)).eval()
    before, after = shifted(192, network.stride)
    with torch.inference_mode():
        here, there = network(*before)[-1], network(*after)[-1]
    cell = 192 // here.shape[-1]
    step, m = network.stride // cell, margin // cell
    torch.testing.assert_close(here[..., m:-m, m:-m], there[..., m + step : step - m, m + step : step - m],
                               rtol=1e-3, atol=1e-3)  # fmt: skip
    assert (here[..., m:-m, m:-m] - there[..., m:-m, m:-m]).abs().mean() > 1e-3


def test_flownetc_compares_441_displacements_down_slowly() -> None:
    second = torch.zeros(1, 256, 64, 64)
    first = torch.zeros_like(second)
    first[0, :, 30, 31] = second[0, :, 30 - 14, 31 + 6] = 1  # moved by dx = 6, dy = -14
    volume = correlation(first, second, radius=RADIUS, dilation=DILATION)
    assert volume.shape == (1, 441, 64, 64)
    assert volume[0, :, 30, 31].argmax() == (-14 // 2 + 10) * 21 + 6 // 2 + 10
    assert volume.max() == 1  # the mean over channels
    seen: list[tuple[int, ...]] = []
    network = flow_networks.build("flownetc").eval()
    network.trunk.conv3_1.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    with torch.inference_mode():
        network(*frames(1, 64, 64))
    assert seen == [(1, 32 + 441, 8, 8)]


def test_warp_of_pwcnet_hides_what_comes_from_outside() -> None:
    """As the published code: a map of ones, warped, says what lies in the frame."""
    from pixeltrail.flow.pwcnet import _warp

    second, _ = frames(2, 12, 17)
    flow = 6 * torch.randn(2, 2, 12, 17, generator=torch.Generator().manual_seed(3))
    flow[0] = flow[0].round()
    ones = warp(torch.ones(2, 1, 12, 17), flow)
    for inside in (0.5, 0.999):
        torch.testing.assert_close(_warp(second, flow, inside), warp(second, flow) * (ones > inside))


class Constant(nn.Module):
    """Everything moves by a fixed share of the frame's width and height, as it sees it."""

    stride = 64

    def __init__(self, u: float, v: float) -> None:
        super().__init__()
        self.u, self.v = u, v
        self.seen: list[tuple[int, ...]] = []

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        self.seen.append(tuple(first.shape[-2:]))
        height, width = first.shape[-2:]
        flow = first.new_tensor([self.u * width, self.v * height]).view(1, 2, 1, 1)
        return [flow.expand(len(first), 2, height // 4, width // 4)]


@pytest.mark.parametrize("size", [(64, 128), (65, 65), (100, 190), (437, 1021)])
def test_any_size_gives_that_size_and_vectors_in_its_pixels(size: tuple[int, int]) -> None:
    network = Constant(0.1, -0.05)
    flow = estimate(network, *frames(2, *size))
    assert flow.shape == (2, 2, *size)
    assert all(side % 64 == 0 and 0 <= side - own < 64 for side, own in zip(network.seen[0], size, strict=True))
    expected = torch.tensor([0.1 * size[1], -0.05 * size[0]]).view(2, 1, 1)
    torch.testing.assert_close(flow, expected.expand_as(flow))


def test_enlarging_moves_nothing() -> None:
    """A linear flow, averaged over squares of four pixels as a level is, comes back as it was."""
    x = pixel_grid(64, 64)[None] * 0.1

    class Linear(Constant):
        def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
            return [nn.functional.avg_pool2d(x, 4)]

    flow = estimate(Linear(0, 0), *frames(1, 64, 64))
    torch.testing.assert_close(flow[..., 2:-2, 2:-2], x[..., 2:-2, 2:-2])


class Ramp(nn.Module):
    """Knows how far a ramp of brightness has moved, up to so many pixels of what it sees, with a leaning to the right."""

    stride = 16

    def __init__(self, reach: float, leaning: float = 0.0) -> None:
        super().__init__()
        self.reach, self.leaning, self.seen = reach, leaning, []

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        self.seen.append(tuple(first.shape[-2:]))
        slope = first.diff(dim=-1)[..., 4:-4].median()
        moved = (first - second).median() / slope
        u = moved.clamp(-self.reach, self.reach) + self.leaning
        return [torch.stack((u, 0 * u)).view(1, 2, 1, 1).expand(1, 2, *first.shape[-2:])]


def ramp(shift: float) -> Tensor:
    x = (torch.arange(512) - shift) / 1024 + 0.25
    return x.expand(1, 3, 128, 512).contiguous()


def test_coarse_to_fine_sees_farther_than_one_look() -> None:
    """Four times smaller, a motion of 24 pixels is one of six; what is over comes in the looks after it."""
    network = Ramp(reach=8)
    one, two = ramp(0), ramp(24)
    assert float(estimate(network, one, two)[0, 0].median()) == pytest.approx(8)
    network.seen.clear()
    flow = coarse_to_fine(network, one, two, width=128)
    assert network.seen == [(32, 128), (64, 256), (128, 512), (128, 512)]
    assert float(flow[0, 0].median()) == pytest.approx(24, abs=0.1)
    assert flow[0, 1].abs().max() < 1e-4


def test_what_a_network_leans_to_one_side_cancels() -> None:
    one = ramp(0)
    assert float(estimate(Ramp(0, leaning=0.5), one, one)[0, 0].median()) == pytest.approx(0.5)
    torch.testing.assert_close(coarse_to_fine(Ramp(0, leaning=0.5), one, one, width=512), torch.zeros(1, 2, 128, 512))


@pytest.mark.parametrize(("size", "looks"), [((40, 300), 2), ((16, 16), 2), ((70, 600), 3), ((16, 2000), 2)])
def test_coarse_to_fine_takes_any_size(size: tuple[int, int], looks: int) -> None:
    network = Ramp(1)
    assert coarse_to_fine(network, *frames(1, *size), width=256).shape == (1, 2, *size)
    assert len(network.seen) == looks
    with pytest.raises(InputError, match="too small"):
        coarse_to_fine(network, *frames(1, 15, 300), width=256)


def test_the_embedded_flow_on_a_large_motion(real_data: Path) -> None:
    """A pair of Flying Chairs, 26 pixels in the mean: it looks coarse to fine unless told otherwise."""
    (pair,) = [p for p in flow_set("chairs", real_data / "flow" / "chairs").pairs if p.name == "0000004"]
    images, truth = pair.images(), pair.truth().flow
    whole, once = (
        float(np.linalg.norm(flow_method("default", **settings)(*images) - truth, axis=-1).mean())
        for settings in ({}, {"pyramid": 0})
    )
    assert whole < 4.3
    assert once > whole + 0.5


def test_a_tracker_that_multiplies_features_finds_what_is_alike(real_data: Path) -> None:
    """MAST compares by products: their peak, at the longest vector around, is 17 pixels off."""
    (pair,) = flow_set("middlebury", real_data / "flow" / "middlebury").pairs
    file = Path(__file__).resolve().parents[1] / "checkpoints" / "mast.safetensors"
    error = np.linalg.norm(flow_method(str(file))(*pair.images()) - pair.truth().flow, axis=-1)
    assert error[pair.truth().valid].mean() < 2.5


@pytest.mark.parametrize("name", ["spynet", "pwcnet", "sparse"])
def test_the_function_of_images_is_the_network(name: str, networks: dict[str, nn.Module]) -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 53, 70, 3), np.uint8)
    flow = estimator(networks[name])(first, second)
    assert flow.shape == (53, 70, 2)
    assert flow.dtype == np.float32
    both = torch.from_numpy(np.stack((first, second))).movedim(-1, 1) / 255
    with torch.inference_mode():
        expected = estimate(networks[name], both[:1], both[1:])[0].movedim(0, -1)
    np.testing.assert_array_equal(flow, expected)


def test_frames_that_do_not_fit_are_refused(networks: dict[str, nn.Module]) -> None:
    flow, image = estimator(networks["pwcnet"]), np.zeros((40, 50, 3), np.uint8)
    for wrong in (image[:39], image[..., 0], image.astype(np.float32), image[..., :2]):
        for pair in ((image, wrong), (wrong, image)):
            with pytest.raises(ShapeError, match="two frames") as refused:
                flow(*pair)
            assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"^flow: frames of 15x40 are too small .* at least 16 pixels"):
        flow(image[:, :15], image[:, :15])
    with pytest.raises(ShapeError, match="two batches of frames"):
        estimate(networks["pwcnet"], torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 65))


# Weights on disk


def test_saved_networks_come_back(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    path = tmp_path / "flow.safetensors"
    first, second = frames(1, 32, 48)
    for key in ("spynet", "pwcnet", "sparse"):
        name, settings = NETWORKS[key]
        flow_networks.save(networks[key], path, {"network": name, "settings": settings})
        loaded = flow_networks.load(path)
        assert not loaded.training
        with torch.inference_mode():
            torch.testing.assert_close(loaded(first, second), networks[key](first, second), rtol=0, atol=0)
    small = {k: v.half() for k, v in networks["sparse"].state_dict().items()}
    weights.save_tensors(small, path, {"network": "pwcnet", "settings": NETWORKS["sparse"][1]})
    assert all(parameter.dtype == torch.float32 for parameter in flow_networks.load(path).parameters())


def test_weights_of_something_else_are_refused_in_one_line(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    def refused(words: str, load=flow_networks.load, kind: type[PixeltrailError] = WeightsError) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(kind) as caught:
            load(path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    path = weights.path_of("default")
    refused("expected the weights of a flow network (flownets, flownetc, spynet, pwcnet), it has a tracker")
    path = tmp_path / "flow.safetensors"
    refused("no such weights file", kind=InputError)
    state = networks["spynet"].state_dict()
    weights.save_tensors(state, path, {})
    refused("it has no card")
    card = {"network": "spynet", "settings": {"levels": 2}}
    flow_networks.save(networks["spynet"], path, card)
    refused("holds a flow network (spynet), not a tracker", weights.load)
    for changed, words in (
        ({"settings": {"levels": 3}}, "lacks levels.2.0.bias (10 missing, 0 too many)"),
        ({"settings": {"levels": 1}}, "has levels.1.0.bias, which the network has not"),
        ({"settings": {"levels": 99}}, "no network can be built from its card"),
        ({"settings": {"width": 3}}, "no network can be built from its card"),
        ({"settings": [1]}, "no network can be built from its card"),
        ({"network": "../pwcnet"}, "unknown flow network '../pwcnet'; did you mean pwcnet?"),
        ({"network": "pwcnet", "settings": {"channels": "many"}}, "no network can be built from its card"),
        ({"network": "pwcnet", "settings": COMPACT}, "lacks context.0.0.bias"),
    ):
        weights.save_tensors(state, path, card | changed)
        refused(words)
    weights.save_tensors(state | {"levels.0.0.bias": torch.zeros(3)}, path, card)
    refused("levels.0.0.bias is (3,), the network expects (32,)")
    with pytest.raises(InputError, match="a card needs 'network'"):
        flow_networks.save(networks["spynet"], path, {"settings": {}})


def test_unknown_names_and_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean pwcnet"):
        flow_networks.build("pwc-net")
    for settings in ({"levels": 0}, {"depth": 7}, {"levels": "a"}, {"size": 3}):
        with pytest.raises(InputError, match="spynet"):
            flow_networks.build("spynet", **settings)
    for wrong in ({"channels": [8, 8]}, {"context": [8]}, {"radius": 0}):
        with pytest.raises(InputError, match="pwcnet: expected at least 3 channels"):
            flow_networks.build("pwcnet", **wrong)


# The authors' weights


@pytest.fixture(scope="module")
def spynet(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    path = tmp_path_factory.mktemp("spynet") / "spynet.safetensors"
    card = convert(real_data / "weights" / "spynet-sintel-clean-torch7", path).card
    assert (card["network"], card["settings"], card["left_out"]) == ("spynet", {"levels": 6}, [])
    five = flow_networks.build("spynet", levels=6, depth=5)
    flow_networks.load_into(five, path)
    return five


@pytest.mark.parametrize(("scene", "t", "limit"), [("alley_1", 1, 0.25), ("cave_2", 2, 1.5)])
def test_spynet_of_its_authors_sees_sintel(
    spynet: nn.Module, real_data: Path, scene: str, t: int, limit: float
) -> None:
    folder = real_data / "flow" / "sintel" / "training"
    first, second = (
        np.asarray(Image.open(folder / f"clean/{scene}/frame_{i:04d}.png").convert("RGB")) for i in (t, t + 1)
    )
    raw = (folder / f"flow/{scene}/frame_{t:04d}.flo").read_bytes()
    width, height = np.frombuffer(raw, "<i4", 2, offset=4)
    truth = np.frombuffer(raw, "<f4", offset=12).reshape(height, width, 2)
    assert np.linalg.norm(estimator(spynet)(first, second) - truth, axis=-1).mean() <= limit
