"""Published checkpoints of flow networks: whose they are, and our names for their layers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixeltrail import flow_networks
from pixeltrail.checkpoints.names import summary
from pixeltrail.checkpoints.pickles import Stored
from pixeltrail.checkpoints.reader import Checkpoint, fitting, open_checkpoint, shown
from pixeltrail.errors import InputError, WeightsError
from pixeltrail.pickles import Opaque

Settings = Mapping[str, Any]
LEVEL = re.compile(r"modelL(\d+)(\w*)\.t7")
"""One of the files, a level each, that SpyNet's authors published."""
NUMBERS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")


@dataclass(frozen=True, slots=True)
class Family:
    """How somebody publishes a network.

    Attributes:
        title: its authors' name for it.
        first: pattern of a name that all its files have and no other family's, behind the file's own prefix.
        settings: the network's name, and its settings, from the names in the file (without prefix).
        layers: our names of its layers and, from the settings, theirs.
    """

    title: str
    first: str
    settings: Callable[[set[str]], tuple[str, dict[str, Any]]]
    layers: Callable[[Settings], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Converted:
    """A flow network with a checkpoint's weights, and the card that says where they come from and what was left out."""

    network: nn.Module
    card: dict[str, Any]


def _flownet(names: set[str], **more: Any) -> tuple[str, dict[str, Any]]:
    biases = {
        "deconv_bias": "deconv5.0.bias", "flow_bias": "predict_flow6.bias", "up_bias": "upsampled_flow6_to_5.bias",
        "norm": "conv1.1.running_mean",
    }  # fmt: skip
    settings = {setting: True for setting, name in biases.items() if name in names}
    return "flownetc" if "conv_redir.0.weight" in names else "flownets", settings | more


def _flownet_layers(settings: Settings) -> dict[str, str]:
    layers = {"redirect": "conv_redir"} | {name: name for name in ("conv1", "conv2", "conv3")}
    layers |= {f"trunk.{n}": n for n in ("conv3_1", "conv4", "conv4_1", "conv5", "conv5_1", "conv6", "conv6_1")}
    for i in range(5):
        layers |= {
            f"trunk.flows.{i}": f"predict_flow{6 - i}",
            f"trunk.ups.{i}": f"upsampled_flow{6 - i}_to_{5 - i}",
            f"trunk.deconvs.{i}": f"deconv{5 - i}",
        }
    return layers


def _nvlabs_layers(settings: Settings) -> dict[str, str]:
    layers = {f"context.{i}": f"dc_conv{i + 1}" for i in range(7)}
    for level in range(1, 7):
        letters = ("a", "b") if settings["convolutions"] == 2 else ("a", "aa", "b") if level < 6 else ("aa", "a", "b")
        layers |= {f"pyramid.{level - 1}.{i}": f"conv{level}{letter}" for i, letter in enumerate(letters)}
    for level in range(6, 1, -1):
        ours = f"decoders.{6 - level}."
        layers |= {f"{ours}convolutions.{i}": f"conv{level}_{i}" for i in range(5)}
        layers |= {f"{ours}flow": f"predict_flow{level}"}
        layers |= {f"{ours}up_flow": f"deconv{level}", f"{ours}up_features": f"upfeat{level}"}
    return layers


def _niklaus_layers(settings: Settings) -> dict[str, str]:
    """Here the decoder of a level enlarges what came from the coarser one; with us the coarser one does."""
    layers = {f"context.{i}.0": f"netRefiner.netMain.{2 * i}" for i in range(6)}
    layers |= {"context.6": "netRefiner.netMain.12"}
    for level, number in enumerate(NUMBERS, 1):
        layers |= {f"pyramid.{level - 1}.{i}.0": f"netExtractor.net{number}.{2 * i}" for i in range(3)}
        if level > 1:
            ours = f"decoders.{6 - level}."
            layers |= {f"{ours}convolutions.{i}": f"net{number}.net{NUMBERS[i]}" for i in range(5)}
            layers |= {f"{ours}flow": f"net{number}.netSix.0"}
            before = f"net{NUMBERS[level - 2]}."
            layers |= {f"{ours}up_flow": f"{before}netUpflow", f"{ours}up_features": f"{before}netUpfeat"}
    return layers


def _spynet(names: set[str]) -> tuple[str, dict[str, Any]]:
    return "spynet", {"levels": len({name.split(".")[1] for name in names if name.count(".") > 2})}


def _spynet_layers(settings: Settings) -> dict[str, str]:
    return {f"levels.{level}": f"netBasic.{level}.netBasic" for level in range(settings["levels"])}


FAMILIES = {
    "flownet": Family("FlowNetPytorch", r"predict_flow6\.weight", _flownet, _flownet_layers),
    "flownet-caffe": Family(  # same names, but blue comes first
        "FlowNet of Caffe", r"predict_flow6\.weight", lambda names: _flownet(names, bgr=True), _flownet_layers
    ),
    "flownet2": Family(
        "NVIDIA FlowNet2", r"predict_flow6\.bias", lambda names: _flownet(names, mean=None), _flownet_layers
    ),
    "pwcnet": Family(
        "PWC-Net", r"dc_conv7\.weight",
        lambda names: ("pwcnet", {"convolutions": 3 if "conv1aa.0.weight" in names else 2}), _nvlabs_layers,
    ),
    "pwcnet-niklaus": Family(
        "pytorch-pwc", r"netExtractor\.netOne\.0\.weight", lambda names: ("pwcnet", {"inside": 0.999}), _niklaus_layers
    ),
    "spynet": Family("SpyNet", r"levels\.0\.0\.weight", _spynet, lambda settings: {}),
    "spynet-niklaus": Family("pytorch-spynet", r"netBasic\.0\.netBasic\.0\.weight", _spynet, _spynet_layers),
}  # fmt: skip
"""By what ``convert --method`` calls them."""


def recognise(names: Sequence[str]) -> str | None:
    """The family that the names show, if any. PWC-Net has FlowNet's names among its own, NVIDIA's has FlowNet's."""
    for family in ("pwcnet", "pwcnet-niklaus", "spynet", "spynet-niklaus", "flownet2", "flownet"):
        if any(re.search(rf"(^|\.){FAMILIES[family].first}$", name) for name in names):
            return family
    return None


def read(source: Path, family: str = "") -> Converted | None:
    """The flow network that a file, or a folder of Torch7's SpyNet, holds; None for names of no family.

    Raises InputError if there is nothing, WeightsError if it is damaged or does not fit.
    """
    files = _files(source)
    with ExitStack() as stack:
        open_files = [stack.enter_context(open_checkpoint(file)) for file in files]
        parts: dict[str, tuple[Checkpoint, str, Stored | Opaque]] = {}
        for level, checkpoint in enumerate(open_files):
            for key, value in checkpoint.state_dict().items():
                name = _plain(key)
                if files[0].suffix == ".t7":  # numbers only, of a level's layer or of level and layer
                    name = f"levels.{level}.{key}" if key.count(".") == 1 else f"levels.{key}"
                parts[name] = (checkpoint, key, value)
        family = family if family in FAMILIES else recognise(list(parts)) or ""
        if not family:
            return None
        return _fill(source, files, FAMILIES[family], parts)


def _files(source: Path) -> list[Path]:
    """The files of a network: of SpyNet's levels, coarse to fine, those in a folder or those beside the one named."""
    named = LEVEL.fullmatch(source.name)
    if not source.is_dir() and (named is None or not source.is_file()):
        return [source]
    folder = source if source.is_dir() else source.parent
    levels: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := LEVEL.fullmatch(file.name):
            levels.setdefault(match[2], {})[int(match[1])] = file
    if not source.is_dir() and named is not None:
        levels = {named[2]: levels[named[2]]}
    if len(levels) > 1:
        kinds = ", ".join(f"modelL1{kind}.t7" for kind in sorted(levels))
        raise InputError(f"{source}: holds several networks ({kinds}); give one of these files instead of the folder")
    found = next(iter(levels.values()), {})
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise InputError(f"{source}: holds no such files as SpyNet's modelL1_*.t7, modelL2_*.t7, ... without a gap")
    return [found[level] for level in sorted(found)]


def _plain(name: str) -> str:
    """Old files of Niklaus say module where newer ones say net, also inside DataParallel's own ``module.``."""
    return re.sub(r"module(?=[A-Z])", "net", name)


def _fill(
    source: Path, files: list[Path], family: Family, parts: dict[str, tuple[Checkpoint, str, Stored | Opaque]]
) -> Converted:
    matches = [match for name in parts if (match := re.match(rf"^((?:.*\.)?){family.first}$", name))]
    if not matches:
        raise WeightsError(f"{source}: has not the names of {family.title} but {', '.join(map(shown, [*parts][:3]))}")
    prefix = min((match[1] for match in matches), key=len)
    names = {name.removeprefix(prefix) for name in parts if name.startswith(prefix)}
    kind, settings = family.settings(names)
    with torch.device("meta"):  # the tensors of the file take the place of its own
        network = flow_networks.build(kind, **settings)
    layers = family.layers(settings)
    tensors: dict[str, Tensor] = {}
    used = set()
    for ours, like in network.state_dict().items():
        theirs = prefix + _theirs(ours, layers)
        if theirs not in parts and ours.endswith("num_batches_tracked"):  # PyTorch before 0.4.1 did not count
            tensors[ours] = torch.zeros(like.shape, dtype=like.dtype)
            continue
        if theirs not in parts:
            raise WeightsError(f"{source}: lacks {shown(theirs)} of {family.title}")
        checkpoint, key, value = parts[theirs]
        tensors[ours] = fitting(checkpoint, key, value, like)
        used.add(theirs)
    network.load_state_dict(tensors, assign=True)
    left = [name.removeprefix(prefix) for name in parts if name not in used]
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    card = {
        "network": kind,
        "settings": settings,
        "family": family.title,
        "source": {"file": source.name, "sha256": digest.hexdigest()},
        "left_out": summary(left),
        "licence": "see its authors",
    }
    return Converted(network.eval(), card)


def _theirs(ours: str, layers: Mapping[str, str]) -> str:
    """The published name of one of our tensors: that of the longest part of it which is a layer, and the rest."""
    layer = ours
    while layer not in layers:
        layer = layer.rpartition(".")[0]
        if not layer:
            return ours
    return layers[layer] + ours.removeprefix(layer)
