"""From a published checkpoint to a weights file of ours."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pixeltrail import catalogue, flow_networks, weights
from pixeltrail.checkpoints import flow
from pixeltrail.checkpoints.names import FAMILIES, prefix, recognise, rename, summary
from pixeltrail.checkpoints.reader import fitting, open_checkpoint, shown
from pixeltrail.errors import InputError, UnknownNameError, WeightsError
from pixeltrail.tracker import Tracker

MAX_TENSORS = 10_000


@dataclass(frozen=True, slots=True)
class Converted:
    """A tracker with a checkpoint's weights, and the card that says where they come from and what was left out."""

    tracker: Tracker
    card: dict[str, Any]


def convert(source: Path, out: Path, family: str = "") -> Converted | flow.Converted:
    """Read ``source``, fill the network of its family, and write it to ``out`` with a card. Raises as `read`.

    ``family`` is one of `names.FAMILIES`, for trackers, or of `flow.FAMILIES`; by its key names if not given. SpyNet's
    Torch7 files, one per level, are named by their folder, or by one of them.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: expected a name that ends in .safetensors")
    if family and family not in FAMILIES | flow.FAMILIES:
        raise UnknownNameError(catalogue.unknown("family", family, FAMILIES | flow.FAMILIES))
    if family not in FAMILIES:
        network = flow.read(source, family)
        if network is not None:
            flow_networks.save(network.network, out, network.card)
            return network
    converted = read(source, family)
    weights.save(converted.tracker, out, converted.card)
    return converted


def read(source: Path, family: str = "") -> Converted:
    """The tracker that a published checkpoint holds. ``family``: one of `FAMILIES`; by its key names if not given.

    Raises ``InputError`` if there is no such file, ``WeightsError`` if it is damaged or of no known family, and
    ``UnknownNameError``.
    """
    if family and family not in FAMILIES:
        raise UnknownNameError(catalogue.unknown("family", family, FAMILIES))
    with open_checkpoint(source) as checkpoint:
        state = checkpoint.state_dict()
        if len(state) > MAX_TENSORS:
            raise WeightsError(f"{source}: holds {len(state)} tensors; expected one network of at most {MAX_TENSORS}")
        family = family or recognise(list(state)) or ""
        if not family:
            some = ", ".join(map(shown, list(state)[:3]))
            raise WeightsError(
                f"{source}: is of no network known here (it names {some}); known are "
                f"{', '.join(FAMILIES | flow.FAMILIES)}"
            )
        names = _names(source, family, list(state))
        settings = dict(FAMILIES[family].settings)
        if settings.get("family") == "vfs":
            settings["depth"] = 50 if "layer1.0.conv3.weight" in names else 18
        tracker = catalogue.build(FAMILIES[family].method, **settings).eval()
        expected = tracker.encoder.state_dict()
        stages = {name.split(".")[0] for name in expected}
        for name in names:
            if name not in expected and name.split(".")[0] in stages:
                raise WeightsError(f"{source}: has {shown(names[name])}, which {_network(family, settings)} has not")
        tensors = {}
        for name, like in expected.items():
            if name not in names and name.endswith("num_batches_tracked"):  # PyTorch before 0.4.1 did not count
                tensors[name] = torch.zeros_like(like)
            elif name not in names:
                raise WeightsError(f"{source}: lacks {name} of {_network(family, settings)}")
            else:
                tensors[name] = fitting(checkpoint, names[name], state[names[name]], like)
        tracker.encoder.load_state_dict(tensors)
        ours = {key: name for name, key in names.items()}
        left = [ours.get(key, key.removeprefix("module.")) for key in state if ours.get(key) not in expected]
    card = {
        "method": FAMILIES[family].method,
        "settings": settings,
        "family": FAMILIES[family].title,
        "source": {"file": source.name, "sha256": _sha256(source)},
        "left_out": summary(left),
        "licence": "see its authors",
    }
    return Converted(tracker, card)


def _names(source: Path, family: str, keys: list[str]) -> dict[str, str]:
    where = prefix(keys, FAMILIES[family])
    if where is None:  # an encoder taken out of its checkpoint may have plain names
        where = prefix(keys, FAMILIES["resnet"])
    if where is None:
        raise WeightsError(
            f"{source}: has not the names of {FAMILIES[family].title} but {', '.join(map(shown, keys[:3]))}"
        )
    try:
        return rename(keys, FAMILIES[family], where)
    except ValueError as error:
        raise WeightsError(f"{source}: {error}; it is of no {FAMILIES[family].title}") from error


def _network(family: str, settings: dict[str, Any]) -> str:
    return f"{FAMILIES[family].title}'s ResNet-{50 if family == 'cycletime' else settings.get('depth', 18)}"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
