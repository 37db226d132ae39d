"""Weights on disk: safetensors with a card inside, read strictly; nothing is ever unpickled.

The card is JSON in the file's metadata: which method with which settings, what it was trained on, by which recipe,
when, under which licence. A file without our card still loads where the method is named (``load_into``).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from pixeltrail import catalogue
from pixeltrail.errors import DiskError, InputError, WeightsError
from pixeltrail.tracker import Tracker

ASSETS = Path(__file__).parent / "assets"
DEFAULT = "default"
MAX_BYTES = 4 << 30
SMALL = Path("checkpoints")
"""Where the project keeps small weights of its methods, seen from its root."""


def load(name: str | Path = DEFAULT, *, device: str | torch.device = "cpu") -> Tracker:
    """A tracker ready to use: ``"default"``, a weights file, or the name of a method (then untrained, which is logged).

    Raises ``InputError`` for a missing file, ``UnknownNameError`` for an unknown name, ``WeightsError`` for a file that
    is damaged or does not fit.
    """
    path = path_of(name)
    if path is None:
        if name in catalogue.names():
            _note_random(str(name))
        return catalogue.build(str(name)).eval().to(device)
    card = read_card(path)
    if "network" in card:
        raise WeightsError(f"{path}: holds a flow network ({card['network']}), not a tracker; use flow_networks.load")
    if "method" not in card:
        raise WeightsError(f"{path}: has no pixeltrail card, so its method is unknown; give --method and load_into")
    if card["method"] not in catalogue.names():  # a card that names a Python file must not run it
        raise WeightsError(
            f"{path}: was made by {card['method']}; build that method yourself and use weights.load_into"
        )
    try:
        tracker = catalogue.build(str(card["method"]), **card.get("settings", {}))
    except Exception as error:  # the card comes from anywhere: whatever it breaks, the file is to blame
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: no network can be built from its card ({why}); get the file again") from error
    load_into(tracker, path)
    return tracker.eval().to(device)


def _note_random(method: str) -> None:
    small = SMALL / f"{method}.safetensors"
    such = f", such as {small}" if small.is_file() else ""
    logging.getLogger(__name__).warning(
        "%s by its name has random weights; give a .safetensors file of it%s, or train one (pixeltrail train --method %s)",
        method, such, method,
    )  # fmt: skip


def path_of(name: str | Path) -> Path | None:
    """The weights file that ``load`` would read; None for the name of a method."""
    if str(name) == DEFAULT:
        return ASSETS / "default.safetensors"
    path = Path(name)
    return path if path.suffix in (".safetensors", ".pth", ".pt", ".t7") else None


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of a weights file, {} where it has none."""
    with _opened(Path(path)) as file:
        metadata = file.metadata() or {}
    try:
        card = json.loads(metadata.get("card", "{}"))
    except ValueError as error:
        raise WeightsError(f"{path}: the card is not JSON: {error}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{path}: the card is a {type(card).__name__}, expected an object")
    return card


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, checked to be finite and, where the file says it, to have its checksum."""
    with _opened(Path(path)) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        expected = (file.metadata() or {}).get("sha256")
    if expected is not None and expected != _checksum(tensors):
        raise WeightsError(f"{path}: the checksum does not match, the file is damaged; take another copy of it")
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path}: tensor {key} holds NaN or infinity; the file is damaged or training diverged")
    return tensors


def load_into(tracker: Tracker, path: str | Path) -> None:
    """Fill ``tracker``'s encoder (and objective, where the file has it) from a file; every name and shape must match."""
    tensors = read_tensors(path)
    for part in ("encoder", "objective"):
        module = getattr(tracker, part)
        own = {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
        if part == "objective" and (not own or not isinstance(module, nn.Module)):
            continue  # weights made for tracking leave out what only training needs
        expected = module.state_dict()
        missing = sorted(expected.keys() - own.keys())
        surplus = sorted(own.keys() - expected.keys())
        if missing or surplus:
            what = f"lacks {part}.{missing[0]}" if missing else f"has {part}.{surplus[0]}, which the network has not"
            raise WeightsError(f"{path}: {what} ({len(missing)} missing, {len(surplus)} too many)")
        for key, value in own.items():
            if value.shape != expected[key].shape:
                raise WeightsError(
                    f"{path}: {part}.{key} is {tuple(value.shape)}, the network expects {tuple(expected[key].shape)}"
                )
        module.load_state_dict(own)


def save(tracker: Tracker, path: str | Path, card: Mapping[str, Any], *, training: bool = False) -> None:
    """Write the encoder, and with ``training`` the objective's parameters too, with ``card``, atomically."""
    tensors = {f"encoder.{k}": v for k, v in tracker.encoder.state_dict().items()}
    if training and isinstance(tracker.objective, nn.Module):
        tensors |= {f"objective.{k}": v for k, v in tracker.objective.state_dict().items()}
    save_tensors(tensors, path, card)


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, card: Mapping[str, Any]) -> None:
    """Write named tensors and a card to ``path``, through a temporary file beside it; on disk when this returns.

    The file's metadata hold the card and the SHA-256 of the tensors. Raises ``DiskError`` where there is no room; what
    ``path`` held before is then untouched.
    """
    path = Path(path)
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = serialise(tensors, {"card": json.dumps(dict(card)), "sha256": _checksum(tensors)})
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        if os.name == "posix":  # the new name, too, must survive a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        kind = DiskError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else InputError
        raise kind(f"{path}: cannot be written ({error.strerror}); free some space or choose another place") from error


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def digest(path: str | Path) -> str:
    """The first twelve hexadecimal digits of the file's SHA-256: what names weights in tables."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; give a .safetensors file, {DEFAULT!r}, or a method's name")
    if path.suffix != ".safetensors":
        how = f"pixeltrail convert {path.name} --out {path.stem}.safetensors"
        raise WeightsError(f"{path}: expected a .safetensors file; convert it first: {how}")
    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(f"{path}: is larger than {MAX_BYTES >> 30} GiB, which no tracker of ours is")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {str(error).splitlines()[0]}") from error
