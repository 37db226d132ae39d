"""Published checkpoints: read without running them, told apart by their names, equal to a plain forward."""

from __future__ import annotations

import argparse
import io
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixeltrail import cli, weights
from pixeltrail.checkpoints import pickles
from pixeltrail.checkpoints.convert import convert, read
from pixeltrail.checkpoints.reader import open_checkpoint
from pixeltrail.data.labels import write_labels
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.errors import UnknownNameError, WeightsError
from pixeltrail.protocols import PRESETS, preset
from pixeltrail.types import LabelMap
from torchfiles import FORMATS, Payload, save

State = dict[str, torch.Tensor]


# The published networks, by their names, written once more and run by plain functions


@dataclass(frozen=True)
class Scheme:
    """How a family names its ResNet; ``{}`` is for the number of a convolution in its block."""

    before: str
    stem: tuple[str, str] = ("conv1", "bn1")
    block: tuple[str, str] = ("conv{}", "bn{}")
    down: tuple[str, str] = ("downsample.0", "downsample.1")
    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[int, ...] = (1, 2, 1)  # of the stages that tracking uses
    pool: bool = True
    wide: bool = False  # blocks of three convolutions
    padding: str = "constant"
    frames: bool = False  # convolutions over one frame of a video

    def names(self, stage: int, block: int, number: int) -> tuple[str, str]:
        inside = f"{self.before}layer{stage}.{block}."
        if number == 0:
            return inside + self.down[0], inside + self.down[1]
        if self.block[0].startswith("left"):
            return inside + f"left.{3 * number - 3}", inside + f"left.{3 * number - 2}"
        return inside + self.block[0].format(number), inside + self.block[1].format(number)


LAI = Scheme(
    "feature_extraction.", stem=("conv1.0", "conv1.1"), block=("left", "left"), down=("shortcut.0", "shortcut.1"),
    widths=(64, 128, 256, 256), strides=(1, 2, 1, 1), pool=False,
)  # fmt: skip
MMCV = {
    "stem": ("conv1.conv", "conv1.bn"),
    "block": ("conv{}.conv", "conv{}.bn"),
    "down": ("downsample.conv", "downsample.bn"),
}
R50 = {"depths": (3, 4, 6), "widths": (64, 128, 256), "wide": True}
SCHEMES = {
    "corrflow": LAI,
    "mast": LAI,
    "crw": Scheme("encoder.model.", padding="reflect"),
    "cycletime": Scheme("encoderVideo.", **R50, frames=True),
    "uvc": Scheme("gray_encoder.", strides=(1, 2, 1, 1)),
    "vfs": Scheme("backbone.", **MMCV),
    "vfs50": Scheme("backbone.", **MMCV, **R50),
    "resnet": Scheme(""),
    "resnet50": Scheme("", **R50),
}


def network(scheme: Scheme) -> State:
    """Random weights under the family's names, in the published shapes."""
    random = torch.Generator().manual_seed(0)
    state: State = OrderedDict()

    def convolution(names: tuple[str, str], outputs: int, inputs: int, kernel: int) -> None:
        shape = (outputs, inputs, *((1,) if scheme.frames else ()), kernel, kernel)
        state[names[0] + ".weight"] = torch.randn(shape, generator=random) * (2 / (inputs * kernel**2)) ** 0.5
        for part, low in (("weight", 0.5), ("bias", -0.2), ("running_mean", -0.2), ("running_var", 0.5)):
            state[f"{names[1]}.{part}"] = low + torch.rand(outputs, generator=random)
        state[names[1] + ".num_batches_tracked"] = torch.tensor(7)

    convolution((scheme.before + scheme.stem[0], scheme.before + scheme.stem[1]), 64, 3, 7)
    inputs = 64
    for s, (depth, width) in enumerate(zip(scheme.depths, scheme.widths, strict=True), 1):
        outputs = 4 * width if scheme.wide else width
        for b in range(depth):
            sizes = ((width, inputs, 1), (width, width, 3), (outputs, width, 1)) if scheme.wide else (
                (width, inputs, 3), (width, width, 3))  # fmt: skip
            for number, size in enumerate(sizes, 1):
                convolution(scheme.names(s, b, number), *size)
            if b == 0 and (s > 1 or inputs != outputs) and inputs != outputs:
                convolution(scheme.names(s, b, 0), outputs, inputs, 1)
            inputs = outputs
    return state


def forward(scheme: Scheme, state: State, x: torch.Tensor) -> torch.Tensor:
    """The stages that tracking uses, by functions only."""

    def convolution(names: tuple[str, str], x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = state[names[0] + ".weight"]
        weight = weight[:, :, 0] if scheme.frames else weight
        half = weight.shape[-1] // 2
        x = F.pad(x, [half] * 4, mode=scheme.padding) if half else x
        bn = [state[f"{names[1]}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(F.conv2d(x, weight, stride=stride), *bn)

    x = F.relu(convolution((scheme.before + scheme.stem[0], scheme.before + scheme.stem[1]), x, 2))
    x = F.max_pool2d(x, 3, 2, 1) if scheme.pool else x
    for s, stride in enumerate(scheme.strides, 1):
        for b in range(scheme.depths[s - 1]):
            step = stride if b == 0 else 1
            names = [scheme.names(s, b, number) for number in range(4)]
            short = convolution(names[0], x, step) if names[0][0] + ".weight" in state else x
            if scheme.wide:
                y = F.relu(convolution(names[1], x))
                y = F.relu(convolution(names[2], y, step))
                x = F.relu(convolution(names[3], y) + short)
            else:
                y = F.relu(convolution(names[1], x, step))
                x = F.relu(convolution(names[2], y) + short)
    return x


def imagenet(rgb: torch.Tensor) -> torch.Tensor:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (rgb - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)


def published(family: str) -> object:
    """The file's contents, with what the released training code saved beside the encoder."""
    state = network(SCHEMES[family])
    random = torch.Generator().manual_seed(1)
    extra = {
        "corrflow": {"post_convolution.weight": (64, 256, 3, 3), "post_convolution.bias": (64,)},
        "mast": {"post_convolution.weight": (64, 256, 3, 3), "post_convolution.bias": (64,)},
        "crw": {"selfsim_fc.0.weight": (128, 512), "selfsim_fc.0.bias": (128,)},
        "cycletime": {
            "encoderVideo.layer4.0.conv1.weight": (512, 1024, 1, 1, 1),
            "afterconv1.weight": (512, 1024, 1, 1, 1),
            "afterconv3_trans.weight": (128, 900, 4, 4),
            "linear2.weight": (3, 1024),
        },
        "uvc": {
            "rgb_encoder.conv1.weight": (3, 3, 1, 1), "decoder.conv7.weight": (128, 256, 3, 3), "normalize.mean": (3,),
        },
        "vfs": {"img_head.projection_fcs.0.fc.weight": (512, 512)},
        "resnet": {"fc.weight": (1000, 512), "fc.bias": (1000,)},
        "resnet50": {"layer4.0.conv1.weight": (512, 1024, 1, 1), "fc.weight": (1000, 2048)},
    }.get(family, {})  # fmt: skip
    state |= {key: 0.02 * torch.randn(shape, generator=random) for key, shape in extra.items()}
    if family in ("corrflow", "cycletime", "uvc"):  # saved inside DataParallel
        state = OrderedDict((f"module.{key}", value) for key, value in state.items())
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    training = {"epoch": 3, "optimizer": optimizer.state_dict(), "best_loss": np.float64(0.5), "payload": Payload()}
    if family.startswith("resnet"):
        return state
    if family == "crw":
        return {"model": state, **training, "args": argparse.Namespace(lr=1e-4, device="cuda")}
    if family.startswith("vfs"):
        return {"meta": {"mmcv_version": "1.0", "config": "model = dict()"}, "state_dict": state, **training}
    return {**training, "state_dict": state}


CARDS = {
    "corrflow": ("corrflow", {}, []),
    "mast": ("mast", {}, []),
    "crw": ("published", {"family": "crw"}, ["layer4 (30)", "selfsim_fc (2)"]),
    "cycletime": (
        "published", {"family": "cycletime"}, ["afterconv3_trans (1)", "layer4 (1)", "linear2 (1)"],
    ),
    "uvc": ("published", {"family": "uvc"}, ["decoder (1)", "normalize (1)", "rgb_encoder (1)"]),
    "vfs": ("published", {"family": "vfs", "depth": 18}, ["img_head (1)", "layer4 (30)"]),
    "vfs50": ("published", {"family": "vfs", "depth": 50}, []),
    "resnet": ("published", {"family": "vfs", "depth": 18}, ["fc (2)", "layer4 (30)"]),
    "resnet50": ("published", {"family": "vfs", "depth": 50}, ["fc (1)", "layer4 (1)"]),
}  # fmt: skip


@pytest.mark.parametrize("family", CARDS)
def test_each_family_is_recognised_and_embeds_as_its_plain_network(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = published(family)
    source = save(content, tmp_path / "x.pth.tar", "legacy" if family in ("corrflow", "cycletime") else "zip")
    card = convert(source, tmp_path / "x.safetensors").card
    method, build, left_out = CARDS[family]
    assert (card["method"], card["settings"], card["left_out"]) == (method, build, left_out)
    assert len(card["source"]["sha256"]) == 64
    assert not (tmp_path / "executed").exists()

    tracker = weights.load(tmp_path / "x.safetensors")
    protocol = preset({"cycletime": "timecycle"}.get(family, family if family in PRESETS else "vfs"))
    if family.endswith("50"):
        protocol = replace(protocol, affinity=replace(protocol.affinity, radius=18))
    assert tracker.protocol == protocol

    rgb = torch.rand(1, 3, 48, 56, generator=torch.Generator().manual_seed(2))
    state = content.get("state_dict", content.get("model", content))  # type: ignore[attr-defined]
    state = {key.removeprefix("module."): value for key, value in state.items()}
    view = {"corrflow": lambda x: x, "mast": tracker.bottleneck.view, "uvc": tracker.bottleneck.view}.get(
        family, imagenet
    )
    with torch.inference_mode():
        expected = forward(SCHEMES[family], state, view(rgb))
        if family in ("corrflow", "mast"):
            expected = F.conv2d(expected, state["post_convolution.weight"], state["post_convolution.bias"], padding=1)
        if family == "cycletime":
            expected = F.relu(F.conv2d(expected, state["afterconv1.weight"][:, :, 0]))
        torch.testing.assert_close(tracker.embed(rgb), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.01


def test_both_formats_and_every_type_give_the_same_numbers(tmp_path: Path) -> None:
    big = torch.arange(24.0).view(4, 6)
    state = {
        "whole": big, "part": big[1:3, 2:5], "turned": big.T, "scalar": torch.tensor(3), "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.rand(3)), "half": torch.rand(5).half(), "double": torch.rand(2).double(),
        "bfloat": torch.rand(5).bfloat16(), "bool": torch.tensor([True, False]), "byte": torch.arange(5).byte(),
    }  # fmt: skip
    for version in FORMATS:
        with open_checkpoint(save({"a": {"b": state}}, tmp_path / "x.pt", version)) as checkpoint:
            found = checkpoint.state_dict()
            assert list(found) == list(state)
            for key, tensor in state.items():
                stored = found[key]
                assert isinstance(stored, pickles.Stored)
                assert torch.equal(checkpoint.load(stored), tensor.detach())


def test_python_2_dictionaries_are_read(tmp_path: Path) -> None:
    """OrderedDict was pickled as a call with a list of pairs."""
    program = b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'a'\naI7\naa(lp2\nS'b'\naI8\naatR."
    assert pickles.interpret(io.BytesIO(program)) == {"a": 7, "b": 8}


def test_old_crw_names_missing_counters_and_half_precision(tmp_path: Path) -> None:
    state = network(SCHEMES["crw"])
    old = {
        (key.replace("conv1.weight", "conv1.1.weight").replace("conv2.weight", "conv2.1.weight")): value.half()
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    tracker = read(save({"model": old}, tmp_path / "x.pth")).tracker
    assert torch.equal(tracker.encoder.conv1.weight, state["encoder.model.conv1.weight"].half().float())
    assert tracker.encoder.layer3[1].bn2.num_batches_tracked == 0


def test_moco_takes_the_query_encoder(tmp_path: Path) -> None:
    plain = network(SCHEMES["resnet"])
    both = {f"module.encoder_{side}.{key}": value + (side == "k") for side in "qk" for key, value in plain.items()}
    converted = read(save({"state_dict": both}, tmp_path / "x.pth"))
    assert torch.equal(converted.tracker.encoder.conv1.weight, plain["conv1.weight"])
    assert converted.card["left_out"] == ["encoder_k (120)", "layer4 (30)"]


def test_a_named_family_takes_plain_names_or_says_why_not(tmp_path: Path) -> None:
    plain = save(network(SCHEMES["resnet"]), tmp_path / "plain.pth")
    assert read(plain, "crw").card["settings"] == {"family": "crw"}
    assert read(plain, "uvc").card["settings"] == {"family": "uvc"}
    mast = save(network(LAI), tmp_path / "mast.pth")
    with pytest.raises(WeightsError, match=r"lacks head\.weight of MAST's ResNet-18"):
        read(mast)
    with pytest.raises(WeightsError, match=r"lacks head\.weight of CorrFlow's"):
        read(mast, "corrflow")
    with pytest.raises(WeightsError, match="has not the names of UVC but"):
        read(mast, "uvc")
    with pytest.raises(UnknownNameError, match="did you mean mast"):
        read(mast, "mats")


def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    good = network(SCHEMES["resnet"])
    cases: dict[str, tuple[object, str]] = {
        "vit": ({"patch_embed.proj.weight": torch.zeros(8, 3, 4, 4)}, "it names patch_embed.proj.weight"),
        "empty": ({"epoch": 3}, "holds a dict without named tensors"),
        "object": (argparse.Namespace(x=1), "holds a argparse Namespace without named tensors"),
        "missing": ({k: v for k, v in good.items() if k != "layer2.0.bn1.bias"}, "lacks layer2.0.bn1.bias of ResNet's"),
        "deeper": (good | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}, "has layer1.2.conv1.weight"),
        "shape": (good | {"conv1.weight": torch.zeros(32, 3, 7, 7)}, "conv1.weight is (32, 3, 7, 7), the network expects"),
        "nan": (good | {"bn1.bias": torch.full((64,), float("nan"))}, "bn1.bias holds NaN"),
        "object inside": (good | {"bn1.bias": argparse.Namespace()}, "bn1.bias is a argparse Namespace"),
        "integers": (good | {"bn1.bias": torch.zeros(64, dtype=torch.int32)}, "the network expects torch.float32"),
        "repeated": (good | {"bn1.bias": torch.zeros(1).expand(64)}, "bn1.bias is a tensor that repeats"),
    }  # fmt: skip
    for name, (content, words) in cases.items():
        path = save(content, tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError) as refused:
            read(path)
        assert words in str(refused.value)
        assert str(refused.value).startswith(f"{path}: ")
        assert "\n" not in str(refused.value)
        path.unlink()


def test_command_converts_and_track_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = render(3, frames=3, size=(48, 64), objects=1)
    with VideoWriter(tmp_path / "video.mp4", 24, (48, 64)) as writer:
        for image in clip.frames:
            writer.write(image)
    write_labels(tmp_path / "first.png", LabelMap(clip.labels[0]))
    save(published("vfs"), tmp_path / "vfs.pth")
    assert cli.main(["convert", "vfs.pth", "--out", "vfs.safetensors"]) == 0
    assert capsys.readouterr().out == "VFS -> vfs.safetensors; left out: img_head (1), layer4 (30)\n"
    track = ["track", "video.mp4", "--labels", "first.png", "--out", "out", "--method"]
    assert cli.main([*track, "vfs.safetensors"]) == 0
    assert len(list((tmp_path / "out/masks").iterdir())) == 3
    capsys.readouterr()
    for line, words in (
        ("convert none.pth --out y.safetensors", "none.pth: no such file"),
        ("convert video.mp4 --out y.safetensors", "video.mp4: not a readable PyTorch checkpoint"),
        ("convert vfs.pth --out y.pth", "ends in .safetensors"),
        ("convert . --out y.safetensors", "no such file"),
    ):
        assert cli.main(line.split()) == 2
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1
    assert not list(tmp_path.glob("y.*"))
