"""Hostile checkpoints: damaged, made by hand, or meant to run code; only our own error comes out, and nothing runs."""

from __future__ import annotations

import argparse
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixeltrail.checkpoints import pickles
from pixeltrail.checkpoints.convert import read
from pixeltrail.checkpoints.reader import open_checkpoint
from pixeltrail.errors import InputError, WeightsError
from pixeltrail.pickles import MAX_STEPS
from torchfiles import FORMATS, Payload, save


def everything(path: Path) -> None:
    """Read all that can be read; only our own error may come out."""
    try:
        with open_checkpoint(path) as checkpoint:
            for stored in checkpoint.state_dict().values():
                if isinstance(stored, pickles.Stored):
                    checkpoint.load(stored)
    except WeightsError:
        pass


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("small")
    state = OrderedDict(a=torch.rand(2, 3), b=torch.arange(4), c=torch.nn.Parameter(torch.rand(2)))
    content = {"state_dict": state, "args": argparse.Namespace(x=[1, 2]), "best": np.float64(1), "epoch": 2}
    return {version: save(content, folder / version, version).read_bytes() for version in FORMATS}


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("version", FORMATS)
def test_damaged_files_raise_nothing_but_our_error(
    version: str, small: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance, data = random.Random(seed), bytearray(small[version])
    kind = chance.randrange(3)
    if kind == 0:
        data = data[: chance.randrange(len(data))]
    elif kind == 1:
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    else:
        at = chance.randrange(len(data))
        data[at:at] = chance.randbytes(chance.randint(1, 20))
    path = tmp_path_factory.getbasetemp() / f"damaged.{version}"
    path.write_bytes(data)
    everything(path)


@given(noise=st.binary(max_size=200), start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95"]))
@settings(max_examples=200, deadline=None)
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes, start: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.pth"
    path.write_bytes(start + noise)
    with pytest.raises(WeightsError):
        read(path)


def zipped(
    path: Path, program: bytes, parts: dict[str, bytes] | None = None, compress: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in {"x/data.pkl": program, **(parts or {})}.items():
            archive.writestr(name, data)
    return path


def tensor(numel: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """The pickle of {"w": a tensor}, by hand."""
    numbers = lambda values: b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"  # noqa: E731
    storage = b"(Vstorage\nctorch\nFloatStorage\nV" + key.encode() + b"\nVcpu\nI%d\ntQ" % numel
    rebuild = b"(" + storage + b"I%d\n" % offset + numbers(shape) + numbers(stride) + b"I00\nNt"
    return b"\x80\x02}Vw\nctorch._utils\n_rebuild_tensor_v2\n" + rebuild + b"Rs."


FOUR = {"x/data/0": bytes(16)}


def test_hand_written_tensors_are_read_only_inside_their_storage(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with open_checkpoint(zipped(path, tensor(4, 1, (3,), (1,)), FOUR)) as checkpoint:
        stored = checkpoint.state_dict()["w"]
        assert isinstance(stored, pickles.Stored)
        assert checkpoint.load(stored).shape == (3,)
    for program, words in (
        (tensor(4, 2, (3,), (1,)), "reaches beyond its storage"),
        (tensor(4, 0, (2, 2), (3, 1)), "reaches beyond its storage"),
        (tensor(4, -1, (2,), (1,)), "no list of sizes"),
        (tensor(4, 0, (2,), (-1,)), "no list of sizes"),
        (tensor(4, 0, (2,), (1, 1)), "different length"),
        (tensor(4, 0, (10**30,), (1,)), "no list of sizes"),
        (tensor(4, 0, (10**9,), (0,)), "without named tensors"),
        (tensor(10**12, 0, (10**10,), (1,)), "shorter than declared"),
        (tensor(4, 0, (4,), (1,), "../../data.pkl"), "its contents do not fit"),
    ):
        with pytest.raises(WeightsError, match=words), open_checkpoint(zipped(path, program, FOUR)) as checkpoint:
            checkpoint.load(checkpoint.state_dict()["w"])  # type: ignore[arg-type]


def test_hostile_pickles_cost_little_and_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deep = b"\x80\x02" + b"(" * 5 + b"]" * 50_000 + b"a" * 49_999 + b"."
    doubled = b"\x80\x02)" + b"2\x86" * 200 + b"}" + b"q\x000h\x00."  # a tuple of tuples: 2**200 to hash or print
    pairs = (
        b"\x80\x02(" + b"](K\x00K\x00e" * 2 + b"l" + b"q\x01" + b"ccollections\nOrderedDict\nh\x01\x85R" * 50_000 + b"."
    )
    for program in (
        pickle.dumps(Payload()), pickle.dumps(Payload(), 0), pickle.dumps({"w": Payload()}, 4), deep, doubled, pairs,
        b"\x80\x02" + b"N" * 2 * MAX_STEPS + b".", b"\x80\x02}q\x00Va\nh\x00sh\x00.",
    ):  # fmt: skip
        everything(zipped(tmp_path / "x.pth", program))
        (tmp_path / "x.pth").write_bytes(program)
        everything(tmp_path / "x.pth")
    assert not (tmp_path / "executed").exists()


def test_bombs_and_foreign_files_are_refused_by_what_they_declare(tmp_path: Path) -> None:
    path, program = tmp_path / "x.pth", tensor(4, 0, (4,), (1,))
    big = {"x/data/0": bytes(1 << 20)}
    for make, words in (
        (lambda: zipped(path, program, FOUR, zipfile.ZIP_DEFLATED), "is compressed"),
        (lambda: zipped(path, program, big), "is larger than declared"),
        (lambda: zipped(path, program, {**FOUR, "x/byteorder": b"big"}), "big-endian"),
        (lambda: zipped(path, program, {**FOUR, "data.pkl": program}), "but not one of torch.save"),
        (lambda: path.write_bytes(b"\0" * 257 + b"ustar" + bytes(300)), "tar file of 2017"),
        (lambda: path.write_bytes(pickle.dumps([1])), "a pickle, but not one of torch.save"),
        (lambda: path.write_bytes(b""), "no file of torch.save begins like this"),
    ):
        make()
        with pytest.raises(WeightsError, match=words), open_checkpoint(path) as checkpoint:
            checkpoint.load(checkpoint.state_dict()["w"])  # type: ignore[arg-type]
    zipped(path, program, FOUR)
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<L", data, end + 12, 1 << 31)  # a directory of 2 GiB
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="not a readable PyTorch checkpoint"), open_checkpoint(path):
        pass
    with pytest.raises(InputError, match="no such file"), open_checkpoint(tmp_path / "none.pth"):
        pass
