"""SpyNet as its authors published it, in files of Torch7, also hostile ones."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pixeltrail import cli, flow_networks
from pixeltrail.checkpoints import flow, torch7
from pixeltrail.checkpoints.convert import convert
from pixeltrail.checkpoints.pickles import Stored
from pixeltrail.checkpoints.reader import open_checkpoint
from pixeltrail.errors import InputError, WeightsError
from plainflow import FIRST, SECOND, State, Weights, spynet


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
