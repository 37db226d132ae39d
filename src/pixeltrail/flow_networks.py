"""The flow networks by name, and their weights on disk: as `pixeltrail.weights`, with ``network`` in the card."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixeltrail import weights
from pixeltrail.catalogue import unknown
from pixeltrail.errors import InputError, UnknownNameError, WeightsError

CLASSES = {"flownets": "FlowNetS", "flownetc": "FlowNetC", "spynet": "SpyNet", "pwcnet": "PWCNet"}
"""The networks: a name is a file in ``flow/``, with this class."""


def build(name: str, **settings: Any) -> nn.Module:
    """An untrained network: ``flownets``, ``flownetc``, ``spynet`` or ``pwcnet``, with the settings of its class.

    Raises UnknownNameError, and InputError for settings that the class does not take.
    """
    if name not in CLASSES:
        raise UnknownNameError(unknown("flow network", name, CLASSES))
    made: type[nn.Module] = getattr(import_module(f"pixeltrail.flow.{name}"), CLASSES[name])
    try:
        return made(**settings)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{name}: {str(error).splitlines()[0]}") from error


def load(path: str | Path, *, device: str | torch.device = "cpu") -> nn.Module:
    """The network of a weights file, ready for `pixeltrail.flow.estimate`.

    Raises InputError for a missing file, WeightsError for one that is damaged, holds no flow network, or does not fit.
    """
    path = Path(path)
    card = weights.read_card(path)
    if "network" not in card:
        what = f"a tracker ({card['method']})" if "method" in card else "no card"
        raise WeightsError(f"{path}: expected the weights of a flow network ({', '.join(CLASSES)}), it has {what}")
    try:
        with torch.device("meta"):  # nothing is allocated until the tensors are known to fit
            network = build(str(card["network"]), **card.get("settings", {}))
    except Exception as error:  # the card comes from anywhere: whatever it breaks, the file is to blame
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: no network can be built from its card ({why}); get the file again") from error
    load_into(network, path)
    return network.eval().to(device)


def load_into(network: nn.Module, path: str | Path) -> None:
    """Fill ``network`` from a file; every name and shape must match. Raises WeightsError."""
    tensors = weights.read_tensors(path)
    expected = network.state_dict()
    missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}, which the network has not"
        raise WeightsError(f"{path}: {what} ({len(missing)} missing, {len(surplus)} too many)")
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            shapes = f"{tuple(value.shape)}, the network expects {tuple(expected[key].shape)}"
            raise WeightsError(f"{path}: {key} is {shapes}")
    empty = any(parameter.is_meta for parameter in network.parameters())
    network.load_state_dict({k: v.to(expected[k].dtype) for k, v in tensors.items()}, assign=empty)


def save(network: nn.Module, path: str | Path, card: Mapping[str, Any]) -> None:
    """Write a network atomically. ``card`` needs ``network``, its name, and ``settings``, what `build` was given.

    Raises InputError without them, and DiskError where there is no room.
    """
    if card.get("network") not in CLASSES or not isinstance(card.get("settings"), dict):
        raise InputError(f"{path}: a card needs 'network', one of {', '.join(CLASSES)}, and 'settings'")
    weights.save_tensors(network.state_dict(), path, card)
