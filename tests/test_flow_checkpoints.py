"""Published flow networks: each under its own names, equal to a plain forward; Torch7's files, also hostile ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pixeltrail import cli, flow_networks
from pixeltrail.checkpoints import flow, torch7
from pixeltrail.checkpoints.convert import convert
from pixeltrail.checkpoints.pickles import Stored
from pixeltrail.checkpoints.reader import open_checkpoint
from pixeltrail.errors import InputError, WeightsError

State = dict[str, Tensor]
WORDS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")
FIRST, SECOND = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


# The published networks once more: their names, and plain functions


class Weights:
    """Random weights in the published shapes; asking for a layer makes it, so a forward writes the file it reads."""

    def __init__(self, state: State | None = None) -> None:
        self.random = torch.Generator().manual_seed(1)
        self.state: State = {} if state is None else state

    def conv(self, name: str, x: Tensor, outputs: int, kernel: int = 3, stride: int = 1, *, bias: bool = True,
             dilation: int = 1) -> Tensor:  # fmt: skip
        b = self._pair(name, (outputs, x.shape[1], kernel, kernel), outputs, bias)
        return F.conv2d(x, self.state[f"{name}.weight"], b, stride, dilation * (kernel // 2), dilation)

    def up(self, name: str, x: Tensor, outputs: int, *, bias: bool = True) -> Tensor:
        b = self._pair(name, (x.shape[1], outputs, 4, 4), outputs, bias)
        return F.conv_transpose2d(x, self.state[f"{name}.weight"], b, 2, 1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        parts = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        for part in parts:
            self.state.setdefault(part, 0.5 + torch.rand(x.shape[1], generator=self.random))
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(3))
        return F.batch_norm(x, *(self.state[part] for part in parts))

    def _pair(self, name: str, shape: tuple[int, ...], outputs: int, bias: bool) -> Tensor | None:
        if f"{name}.weight" not in self.state:
            scale = (6 / (shape[1] * shape[2] * shape[3])) ** 0.5
            self.state[f"{name}.weight"] = (
                (torch.rand(shape, generator=self.random) - 0.5).mul_(2 * scale).half().float()
            )
            if bias:
                self.state[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=self.random).half().float()
        return self.state[f"{name}.bias"] if bias else None


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)


def volume(first: Tensor, second: Tensor, radius: int, step: int = 1) -> Tensor:
    (h, w), padded = first.shape[-2:], F.pad(second, [radius * step] * 4)
    places = [range(0, 2 * radius * step + 1, step)] * 2
    return leaky(
        torch.cat([(first * padded[..., i : i + h, j : j + w]).mean(1, keepdim=True) for i in places[0] for j in places[1]], 1)
    )  # fmt: skip


def read_warp(second: Tensor, shift: Tensor, threshold: float) -> Tensor:
    h, w = shift.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    where = torch.stack((x + shift[:, 0] * 2 / max(w - 1, 1), y + shift[:, 1] * 2 / max(h - 1, 1)), -1)
    both = F.grid_sample(torch.cat((second, torch.ones_like(second[:, :1])), 1), where, align_corners=True)
    return both[:, :-1] * (both[:, -1:] > threshold)


def flownet(net: Weights, *, compare: bool, norm: bool, biases: tuple[bool, bool, bool], mean: Tensor | None) -> Tensor:
    both = torch.stack((FIRST, SECOND))
    both = both - (both.mean((0, 3, 4), keepdim=True) if mean is None else mean.view(3, 1, 1))

    def conv(name: str, x: Tensor, outputs: int, kernel: int = 3, stride: int = 1) -> Tensor:
        x = net.conv(f"{name}.0", x, outputs, kernel, stride, bias=not norm)
        return leaky(net.norm(f"{name}.1", x) if norm else x)

    def start(x: Tensor) -> tuple[Tensor, Tensor]:
        quarter = conv("conv2", conv("conv1", x, 64, 7, 2), 128, 5, 2)
        return quarter, conv("conv3", quarter, 256, 5, 2)

    if compare:
        (quarter, one), (_, two) = start(both[0]), start(both[1])
        x = torch.cat((conv("conv_redir", one, 32, 1), volume(one, two, 10, 2)), 1)
    else:
        quarter, x = start(torch.cat((both[0], both[1]), 1))
    skips = [quarter, conv("conv3_1", x, 256)]
    for level in (4, 5, 6):
        x = conv(f"conv{level}", skips[-1], 1024 if level == 6 else 512, stride=2)
        skips.append(conv(f"conv{level}_1", x, x.shape[1]))
    x = skips.pop()
    found = net.conv("predict_flow6", x, 2, bias=biases[1])
    for level in (5, 4, 3, 2):
        deep = leaky(net.up(f"deconv{level}.0", x, 2 ** (level + 4), bias=biases[0]))
        wider = net.up(f"upsampled_flow{level + 1}_to_{level}", found, 2, bias=biases[2])
        x = torch.cat((skips.pop(), deep, wider), 1)
        found = net.conv(f"predict_flow{level}", x, 2, bias=biases[1])
    return 20 * found


def pwcnet(net: Weights, name: Callable[..., str], threshold: float, letters: int = 3) -> Tensor:
    """``name(kind, level, i)`` is a layer's published name."""
    pyramids = []
    for x in (FIRST.flip(1), SECOND.flip(1)):
        levels = []
        for level, width in enumerate((16, 32, 64, 96, 128, 196), 1):
            for i in range(letters):
                x = leaky(net.conv(name("pyramid", level, i), x, width, stride=2 if i == 0 else 1))
            levels.append(x)
        pyramids.append(levels)
    known: list[Tensor] = []
    found = torch.zeros(0)
    for level in range(6, 1, -1):
        one, two = (levels[level - 1] for levels in pyramids)
        if known:
            up = net.up(name("up_flow", level + 1, 0), found, 2)
            known = [one, up, net.up(name("up_features", level + 1, 0), x, 2)]
            two = read_warp(two, up * 20 / 2**level, threshold)
        x = torch.cat((volume(one, two, 4), *known), 1)
        for i, width in enumerate((128, 128, 96, 64, 32)):
            x = torch.cat((leaky(net.conv(name("decoder", level, i), x, width)), x), 1)
        found = net.conv(name("flow", level, 0), x, 2)
        known = [one]
    for i, (width, dilation) in enumerate(((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))):
        x = leaky(net.conv(name("context", 0, i), x, width, dilation=dilation))
    return 20 * (found + net.conv(name("context", 0, 6), x, 2))


def nvlabs(kind: str, level: int, i: int) -> str:
    letters = ("aa", "a", "b") if level == 6 else ("a", "aa", "b")
    return {
        "pyramid": f"conv{level}{letters[i % 3]}.0", "decoder": f"conv{level}_{i}.0", "flow": f"predict_flow{level}",
        "up_flow": f"deconv{level}", "up_features": f"upfeat{level}",
        "context": "dc_conv7" if i == 6 else f"dc_conv{i + 1}.0",
    }[kind]  # fmt: skip


def nvlabs_old(kind: str, level: int, i: int) -> str:
    return f"conv{level}{'ab'[i]}.0" if kind == "pyramid" else nvlabs(kind, level, i)


def niklaus(kind: str, level: int, i: int) -> str:
    return {
        "pyramid": f"moduleExtractor.module{WORDS[level - 1]}.{2 * i}",
        "decoder": f"module{WORDS[level - 1]}.module{WORDS[i % 6]}.0", "flow": f"module{WORDS[level - 1]}.moduleSix.0",
        "up_flow": f"module{WORDS[level - 2]}.moduleUpflow", "up_features": f"module{WORDS[level - 2]}.moduleUpfeat",
        "context": f"moduleRefiner.moduleMain.{2 * i}",
    }[kind]  # fmt: skip


def spynet(net: Weights, levels: int, name: str = "moduleBasic.{}.moduleBasic.{}") -> Tensor:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pyramid = [[(x - mean.view(3, 1, 1)) / deviation.view(3, 1, 1) for x in (FIRST, SECOND)]]
    for _ in range(levels - 1):
        pyramid.insert(0, [F.avg_pool2d(x, 2) for x in pyramid[0]])
    found = torch.zeros(1, 2, *(side // 2 for side in pyramid[0][0].shape[-2:]))
    for level, (one, two) in enumerate(pyramid):
        up = 2 * F.interpolate(found, scale_factor=2, mode="bilinear", align_corners=True)
        h, w = up.shape[-2:]
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        where = torch.stack((x + up[:, 0] * 2 / (w - 1), y + up[:, 1] * 2 / (h - 1)), -1)
        z = torch.cat((one, F.grid_sample(two, where, padding_mode="border", align_corners=True), up), 1)
        for i, width in enumerate((32, 64, 32, 16, 2)):
            z = net.conv(name.format(level, 2 * i), F.relu(z) if i else z, width, 7)
        found = z + up
    return found


MEAN = torch.tensor([0.45, 0.432, 0.411])
NETWORKS: dict[str, tuple[Callable[[Weights], Tensor], str, dict[str, object]]] = {
    "FlowNetPytorch": (
        lambda net: flownet(net, compare=False, norm=False, biases=(False, False, False), mean=MEAN), "flownets", {},
    ),
    "FlowNetPytorch BN": (
        lambda net: flownet(net, compare=True, norm=True, biases=(False, False, False), mean=MEAN),
        "flownetc", {"norm": True},
    ),
    "NVIDIA FlowNet2": (
        lambda net: flownet(net, compare=False, norm=False, biases=(True, True, False), mean=None),
        "flownets", {"deconv_bias": True, "flow_bias": True, "mean": None},
    ),
    "NVIDIA FlowNet2 C": (
        lambda net: flownet(net, compare=True, norm=False, biases=(True, True, True), mean=None),
        "flownetc", {"deconv_bias": True, "flow_bias": True, "up_bias": True, "mean": None},
    ),
    "PWC-Net": (lambda net: pwcnet(net, nvlabs, 0.9999), "pwcnet", {"convolutions": 3}),
    "PWC-Net old": (lambda net: pwcnet(net, nvlabs_old, 0.9999, 2), "pwcnet", {"convolutions": 2}),
    "pytorch-pwc": (lambda net: pwcnet(net, niklaus, 0.999), "pwcnet", {"inside": 0.999}),
    "pytorch-spynet": (lambda net: spynet(net, 2), "spynet", {"levels": 2}),
}  # fmt: skip


@pytest.mark.parametrize("title", NETWORKS)
def test_each_family_is_recognised_and_sees_what_its_plain_network_sees(title: str, tmp_path: Path) -> None:
    plain, name, expected_settings = NETWORKS[title]
    net = Weights()
    with torch.inference_mode():
        expected = plain(net)
    state = {k: v.half() if "running" not in k and v.is_floating_point() else v for k, v in net.state.items()}
    left = []
    if title == "PWC-Net":  # the published class has this layer, and never uses it
        state |= {"deconv2.weight": torch.zeros(2, 2, 4, 4), "deconv2.bias": torch.zeros(2)}
        state, left = {f"module.{key}": value for key, value in state.items()}, ["deconv2 (2)"]
    if title == "NVIDIA FlowNet2 C":  # the first of the networks in the whole FlowNet2
        state = {f"flownetc.{key}": value for key, value in state.items()}
        state |= {"flownets_1.predict_flow6.weight": torch.zeros(1), "flownets_1.predict_flow6.bias": torch.zeros(1)}
        left = ["flownets_1 (2)"]
    content = {"arch": "x", "div_flow": 20, "state_dict": state} if "FlowNet" in title else state
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization="BN" not in title)
    converted = flow.read(tmp_path / "x.pth")
    (tmp_path / "x.pth").unlink()
    assert converted is not None
    card = converted.card
    assert card["family"] == title.removesuffix(" BN").removesuffix(" old").removesuffix(" C")
    assert (card["network"], card["settings"], card["left_out"]) == (name, expected_settings, left)
    assert expected.std() > 0.01
    with torch.inference_mode():
        found = converted.network(FIRST, SECOND)[-1]
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 1e-3 * expected.std()  # rounding grows on the way through random layers


def test_caffe_has_the_same_names_and_blue_first() -> None:
    names = {"conv_redir.0.weight", "predict_flow6.weight"}
    assert flow.recognise([*names]) == "flownet"
    assert flow.FAMILIES["flownet-caffe"].settings(names) == ("flownetc", {"bgr": True})


def test_command_converts_and_names_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = Weights()
    with torch.inference_mode():
        expected = spynet(net, 2)
    torch.save(net.state, "spynet.pth")
    assert cli.main(["convert", "spynet.pth", "--out", "spynet.safetensors"]) == 0
    assert capsys.readouterr().out == "pytorch-spynet -> spynet.safetensors\n"
    with torch.inference_mode():
        found = flow_networks.load("spynet.safetensors")(FIRST, SECOND)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    key = "moduleBasic.1.moduleBasic.4.weight"
    for state, family, words in (
        ({k: v for k, v in net.state.items() if k != key}, "", "lacks netBasic.1.netBasic.4.weight of pytorch-spynet"),
        (net.state | {key: torch.zeros(32, 64, 5, 5)}, "", f"{key} is (32, 64, 5, 5), the network expects"),
        (net.state | {key: torch.full((32, 64, 7, 7), torch.nan)}, "", "holds NaN or infinity"),
        (net.state, "pwcnet", "has not the names of PWC-Net but netBasic.0"),
        (net.state, "spinet", "unknown family 'spinet'; did you mean spynet"),
        ({"a.weight": torch.zeros(1)}, "", "is of no network known here (it names a.weight)"),
    ):
        torch.save(state, "x.pth")
        assert cli.main(["convert", "x.pth", "--out", "y.safetensors", *(["--method", family] if family else [])]) == 2
        told = capsys.readouterr().err
        assert words in " ".join(told.split())
        assert told.count("\n") == 1
    assert not list(tmp_path.glob("y.*"))


# Torch7


def text(value: str) -> bytes:
    return struct.pack("<i", len(value)) + value.encode()


class Lua:
    """Writes what Torch7's ``torch.save`` writes."""

    def __init__(self) -> None:
        self.count = 0
        self.storages: dict[str, int] = {}

    def number(self) -> int:
        self.count += 1
        return self.count

    def value(self, value: object) -> bytes:
        if isinstance(value, bytes):
            return value
        if value is None:
            return struct.pack("<i", 0)
        if isinstance(value, bool):
            return struct.pack("<ii", 5, value)
        if isinstance(value, int | float):
            return struct.pack("<id", 1, value)
        if isinstance(value, str):
            return struct.pack("<i", 2) + text(value)
        assert isinstance(value, dict)
        head = struct.pack("<iii", 3, self.number(), len(value))
        return head + b"".join(self.value(key) + self.value(part) for key, part in value.items())

    def object(self, name: str, inside: bytes | dict[object, object]) -> bytes:
        head = struct.pack("<ii", 4, self.number()) + text("V 1") + text(name)
        return head + (self.value(inside) if isinstance(inside, dict) else inside)

    def tensor(self, kind: str, sizes: tuple[int, ...], first: int, key: str, storage: bytes) -> bytes:
        """A part of the storage ``key``, whose bytes stand where it is named first."""
        head = struct.pack("<ii", 4, self.number()) + text("V 1") + text(f"torch.{kind}Tensor")
        steps = [1]
        for size in reversed(sizes[1:]):
            steps.insert(0, steps[0] * size)
        inside = struct.pack(f"<i{2 * len(sizes) + 1}q", len(sizes), *sizes, *steps[: len(sizes)], first)
        if not sizes:
            return head + struct.pack("<iqi", 0, 1, 0)
        if key in self.storages:
            return head + inside + struct.pack("<ii", 4, self.storages[key])
        self.storages[key] = self.count + 1
        length = len(storage) // {"Cuda": 4, "Double": 8, "Long": 8}[kind]
        return head + inside + self.object(f"torch.{kind}Storage", struct.pack("<q", length) + storage)


def level(state: State, number: int, kind: str = "Cuda") -> bytes:
    """A level of SpyNet as its authors saved it: all weights in one storage, gradients in another, and much beside."""
    lua, modules, first = Lua(), {}, 1
    layers = [(state[f"levels.{number}.{i}.weight"], state[f"levels.{number}.{i}.bias"]) for i in range(0, 10, 2)]
    flat = torch.cat([part.flatten() for layer in layers for part in layer]).to(
        torch.float64 if kind == "Double" else torch.float32
    )
    data = flat.numpy().tobytes()
    lua.count += 2  # the numbers of the network and its table
    for i, (weight, bias) in enumerate(layers):
        places = first, first + weight.numel()
        first += weight.numel() + bias.numel()
        fields = {"train": True, "padW": 3, "_type": f"torch.{kind}Tensor", "output": lua.tensor(kind, (), 1, "", b"")}
        for name, key in (("weight", "w"), ("gradWeight", "g")):
            fields[name] = lua.tensor(kind, tuple(weight.shape), places[0], key, data)
        fields["bias"] = lua.tensor(kind, tuple(bias.shape), places[1], "w", data)
        fields["hook"] = struct.pack("<ii", 8, lua.number()) + text("\x1bLua code") + lua.value({1: 2})
        modules[2 * i + 1] = lua.object("cudnn.SpatialConvolution", fields)
        modules[2 * i + 2] = lua.object("nn.ReLU", {"threshold": 0, "inplace": False, "val": None})
    modules.pop(10)
    return lua.object("nn.Sequential", {"modules": modules, "gradInput": lua.tensor(kind, (), 1, "", b"")})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State, Tensor]:
    net = Weights()
    with torch.inference_mode():
        expected = spynet(net, 2, "levels.{}.{}")
    folder = tmp_path_factory.mktemp("t7")
    for number in range(2):
        (folder / f"modelL{number + 1}_C.t7").write_bytes(level(net.state, number, ("Cuda", "Double")[number]))
    return folder, net.state, expected


def test_torch7_files_of_levels_are_one_network(
    published: tuple[Path, State, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, state, expected = published
    for source in (folder, folder / "modelL2_C.t7"):
        card = convert(source, tmp_path / "s.safetensors").card
        assert (card["network"], card["settings"], card["left_out"]) == ("spynet", {"levels": 2}, [])
        network = flow_networks.load(tmp_path / "s.safetensors")
        for key, value in network.state_dict().items():
            assert torch.equal(value, state[key])
    with torch.inference_mode():
        torch.testing.assert_close(network(FIRST, SECOND)[-1], expected, rtol=1e-3, atol=1e-4)
    single = tmp_path / "spynet.t7"
    single.write_bytes((folder / "modelL1_C.t7").read_bytes())
    assert cli.main(["convert", str(single), "--out", str(tmp_path / "one.safetensors")]) == 0
    assert capsys.readouterr().out.startswith("SpyNet -> ")
    one = flow_networks.load(tmp_path / "one.safetensors")
    assert torch.equal(one.levels[0][8].weight, state["levels.0.8.weight"])


def test_folders_without_one_whole_network_are_refused(published: tuple[Path, State, Tensor], tmp_path: Path) -> None:
    data = (published[0] / "modelL1_C.t7").read_bytes()
    with pytest.raises(InputError, match="no such files as SpyNet's"):
        flow.read(tmp_path)
    for name in ("modelL1_F.t7", "modelL3_F.t7"):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"modelL2_\*\.t7, \.\.\. without a gap"):
        flow.read(tmp_path)
    (tmp_path / "modelL1_K.t7").write_bytes(data)
    with pytest.raises(InputError, match=r"several networks \(modelL1_F.t7, modelL1_K.t7\)"):
        flow.read(tmp_path)
    assert flow.read(tmp_path / "modelL1_K.t7") is not None
    with pytest.raises(InputError, match="no such file"):
        flow.read(tmp_path / "modelL9_Z.t7")


def everything(path: Path) -> list[Tensor]:
    with open_checkpoint(path) as checkpoint:
        return [checkpoint.load(s) for s in checkpoint.state_dict().values() if isinstance(s, Stored)]


def small() -> bytes:
    lua = Lua()
    data = torch.arange(6.0).numpy().tobytes()
    fields = {"weight": lua.tensor("Cuda", (2, 3), 1, "w", data), "bias": lua.tensor("Cuda", (2,), 3, "w", data)}
    return lua.object("nn.Linear", fields | {"flag": True, "name": "x", "none": None})


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_damaged_torch7_files_raise_nothing_but_our_error(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance, data = random.Random(seed), bytearray(small())
    kind = chance.randrange(3)
    if kind == 0:
        data = data[: chance.randrange(len(data))]
    elif kind == 1:
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 3, 4, 127, 255, chance.randrange(256)))
    else:
        at = chance.randrange(len(data))
        data[at:at] = chance.randbytes(chance.randint(1, 12))
    path = tmp_path_factory.getbasetemp() / "damaged.t7"
    path.write_bytes(data)
    with suppress(WeightsError):
        everything(path)


def test_torch7_files_are_read_only_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    path.write_bytes(small())
    weight, bias = everything(path)
    assert weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert bias.tolist() == [2, 3]

    def tensor(sizes: tuple[int, ...], first: int, length: int) -> bytes:
        lua = Lua()
        steps = (1,) * len(sizes)
        storage = lua.object("torch.FloatStorage", struct.pack("<q", length) + bytes(16))
        inside = struct.pack(f"<i{2 * len(sizes) + 1}q", len(sizes), *sizes, *steps, first) + storage
        return lua.value({"weight": lua.object("torch.FloatTensor", inside)})

    head = struct.pack("<ii", 3, 1)
    deep = b"".join(struct.pack("<iiiid", 3, n, 1, 1, 1.0) for n in range(1, 5000)) + struct.pack("<i", 0)
    twice = b"".join(struct.pack("<iiiid", 3, n, 2, 1, 1.0) for n in range(1, 50)) + struct.pack("<i", 0)
    twice += b"".join(struct.pack("<idii", 1, 2.0, 3, n) for n in range(49, 0, -1))
    itself = struct.pack("<iii", 3, 1, 1) + struct.pack("<id", 1, 1.0) + struct.pack("<ii", 3, 1)
    many = head + struct.pack("<i", 1 << 20) + struct.pack("<idi", 1, 1.0, 0) * 150_000
    for data, words in (
        (tensor((5,), 1, 4), "reaches beyond its storage of 4"),
        (tensor((4,), 0, 4), "no list of sizes"),
        (tensor((-4,), 1, 4), "no list of sizes"),
        (tensor((1,) * 9, 1, 4), "a tensor of 9 axes"),
        (tensor((4,), 1, 1 << 40), "longer than the file"),
        (tensor((4,), 1, -1), "longer than the file"),
        (head + struct.pack("<i", (1 << 31) - 1), "a text or table of 2147483647 parts"),
        (head + struct.pack("<iii", 1, 2, -1), "a text or table of -1 parts"),
        (head + struct.pack("<ii", 1, 99), "the unknown type 99"),
        (Lua().object("torch.Timer", b""), "holds a torch.Timer, which is not read"),
        (Lua().object("nn.Linear", struct.pack("<id", 1, 1.0)), "its contents do not fit"),
        (deep, f"deeper than {torch7.MAX_DEPTH}"),
        (many, f"more than {torch7.MAX_OBJECTS} objects"),
        (twice, "without named tensors"),
        (itself, "without named tensors"),
        (Lua().value({}), "without named tensors"),
    ):
        path.write_bytes(data)
        with pytest.raises(WeightsError) as refused:
            everything(path)
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
