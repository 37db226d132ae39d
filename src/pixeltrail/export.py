"""A tracker as ONNX: the encoder and the step that copies values along the affinity, for whatever runs ONNX.

``encoder.onnx``: ``rgb`` (1, 3, H, W) in [0, 1] -> ``key`` (1, C, h, w). ``step.onnx``: ``query`` (1, k, h, w), ``keys``
(1, S, k, h, w) and ``values`` (1, S, K, h, w) of the remembered frames -> ``copied`` (1, K, h, w). H, W, h, w, S and K are
free. ``tracker.json`` says the rest: stride, protocol, weights, and the digests of the two. What frames are remembered,
labels to cells and cells to pixels stay outside; `OnnxTracker` is that outside here, and runs both files in the place of
torch.

The step is the definition of the affinity written with few operators: of every row of the window one product of whole
rows, of which the band that the window sees is gathered. Slower than `kernels.blocked`, equal to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.data.files import new_folder, one_line, write_together
from pixeltrail.errors import InputError
from pixeltrail.memory import MemoryPolicy
from pixeltrail.sessions import Live, PointSession
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Image, LabelMap, Points

ENCODER, STEP, CARD = "encoder.onnx", "step.onnx", "tracker.json"
OPSET = 18
HIDDEN = -1e30
"""The score of a candidate that does not count."""


class Encoder(nn.Module):
    """What a tracker sees of a frame and what it makes of it."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.bottleneck, self.encoder = tracker.bottleneck, tracker.encoder

    def forward(self, rgb: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, C, h, w)."""
        key: Tensor = self.encoder(self.bottleneck.view(rgb))  # type: ignore[operator]
        return key


class Step(nn.Module):
    """`Affinity.propagate` without centres, in operators that ONNX has; (S, N, L) scores of all candidates are held."""

    def __init__(self, affinity: Affinity) -> None:
        super().__init__()
        self.affinity = affinity
        self.reached: Tensor
        side = torch.arange(2 * (affinity.radius or 0) + 1) - (affinity.radius or 0)
        self.register_buffer("reached", affinity.reaches(torch.cartesian_prod(side, side)), persistent=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(1, C, h, w), (1, S, C, h, w), (1, S, K, h, w) -> (1, K, h, w)."""
        affinity = self.affinity
        q, k, v = affinity.unit(query[0], 0) / affinity.temperature, affinity.unit(keys[0], 1), values[0]
        scores, index, table = self._whole(q, k, v) if affinity.radius is None else self._window(q, k, v)
        if affinity.joint:
            scores, index = (x.transpose(0, 1).flatten(1).unsqueeze(0) for x in (scores, index))
        if affinity.topk is None:
            weight = scores.softmax(-1)
        else:
            best, where = scores.topk(affinity.topk, dim=-1)
            whole = best if affinity.renormalize else scores
            weight, index = (best - whole.logsumexp(-1, keepdim=True)).exp(), index.gather(-1, where)
        copied = (weight.unsqueeze(-1) * table[index]).sum(2).mean(0)  # (N, K)
        return copied.T.reshape(1, -1, *query.shape[2:])

    def _whole(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (S, N, M) of all cells, their numbers in the table, and the table of values (S·M, K)."""
        scores = q.flatten(1).T @ k.flatten(2)
        cells = k.shape[2] * k.shape[3]
        index = torch.arange(cells, device=q.device) + cells * torch.arange(k.shape[0], device=q.device)[:, None]
        return scores, index[:, None].expand_as(scores), v.movedim(1, -1).flatten(0, 2)

    def _window(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_whole`, of the cells in the window; the table has a frame of empty cells about each reference."""
        (h, w), references, device = q.shape[1:], k.shape[0], q.device
        step, radius = self.affinity.dilation, self.affinity.radius or 0
        reach, count = step * radius, 2 * radius + 1
        wide = w + 2 * reach
        padded, table = (F.pad(x, (reach, reach, reach, reach)) for x in (k, v))
        offsets = step * torch.arange(count, device=device)
        x = torch.arange(w, device=device)[:, None] + offsets  # (w, 2R + 1), columns in the padded map
        rows = q.permute(1, 2, 0)  # (h, w, C)
        scores = []
        for dy in range(0, step * count, step):
            band = rows @ padded[:, :, dy : dy + h].permute(0, 2, 1, 3)  # (S, h, w, wide)
            scores.append(band.gather(3, x.expand(references, h, w, count)))
        score = torch.stack(scores, 3).flatten(3).flatten(1, 2)  # (S, N, L)
        y = torch.arange(h, device=device)[:, None] + offsets  # (h, 2R + 1)
        cell = (y[:, None, :, None] * wide + x[None, :, None, :]).flatten(2).flatten(0, 1)  # (N, L)
        seen = self.reached[None]
        if self.affinity.mask_border:
            inside_y, inside_x = (y >= reach) & (y < h + reach), (x >= reach) & (x < w + reach)
            seen = seen & (inside_y[:, None, :, None] & inside_x[None, :, None, :]).flatten(2).flatten(0, 1)
        size = (h + 2 * reach) * wide
        index = cell + size * torch.arange(references, device=device)[:, None, None]
        return score.masked_fill(~seen, HIDDEN), index, table.movedim(1, -1).flatten(0, 2)


def export(tracker: Tracker, out: str | Path, card: Mapping[str, Any] | None = None) -> None:
    """Write a tracker's three files into the folder ``out``, together; ``card`` goes into tracker.json.

    Raises InputError where ONNX is missing, and for protocols that need more than one step a frame: a second look at
    distant frames (MAST's), boxes, a free first frame; and for encoders that ONNX cannot hold.
    """
    _need("onnx", "onnxscript")
    protocol, out = tracker.protocol, Path(out)
    for has, what in (
        (protocol.distant is not None, "looks twice at distant frames"),
        (protocol.boxes, "follows objects in boxes"),
        (protocol.affinity.free_first, "sees the whole of its first frame, but not of others"),
    ):
        if has:
            raise InputError(f"export: the protocol {what}, which one step cannot do; try --protocol dino")
    with new_folder(out):
        files, channels = _networks(tracker.eval())
        about = {
            "stride": tracker.stride, "channels": channels, "protocol": asdict(protocol), **(card or {}),
            "files": {name: _digest(content) for name, content in files.items()},
        }  # fmt: skip
        write_together(out, {**files, CARD: (json.dumps(about, indent=1) + "\n").encode()})


_MOST = (1 << 12, 1 << 12, 256, 1 << 12)


def _networks(tracker: Tracker) -> tuple[dict[str, bytes], int]:
    """The two ONNX files by name, and the number of channels C."""
    size = 8 * tracker.stride
    rgb = torch.rand(1, 3, size, size + tracker.stride, device=tracker.device)
    with torch.no_grad():
        channels = tracker.embed(rgb).shape[1]
    compared = min(channels, tracker.protocol.components or channels)
    h, w, references, classes = (torch.export.Dim(n, min=2, max=m) for n, m in zip("hwSK", _MOST, strict=True))
    free = {2: torch.export.Dim("H", min=size // 4, max=1 << 14), 3: torch.export.Dim("W", min=size // 4, max=1 << 14)}
    encoder = _onnx(ENCODER, Encoder(tracker), (rgb,), ["rgb"], "key", (free,))
    affinity = tracker.protocol.affinity
    # More cells than a window, so that no size is mistaken for a constant.
    side = 2 * (affinity.radius or 0) * affinity.dilation + 5
    query = F.normalize(torch.rand(1, compared, side, side + 2), dim=1)
    keys, values = query[:, None].expand(-1, 3, -1, -1, -1).clone(), torch.rand(1, 3, 4, side, side + 2)
    many = {1: references, 3: h, 4: w}
    shapes = ({2: h, 3: w}, many, {**many, 2: classes})
    step = _onnx(STEP, Step(affinity), (query, keys, values), ["query", "keys", "values"], "copied", shapes)
    return {ENCODER: encoder, STEP: step}, channels


def _onnx(
    name: str, module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], output: str, shapes: tuple[Any, ...]
) -> bytes:
    import onnx

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not needed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's, about itself
            made = torch.onnx.export(
                module.eval(), inputs, dynamo=True, opset_version=OPSET, input_names=names, output_names=[output],
                dynamic_shapes=shapes, verbose=False,
            )  # fmt: skip
        assert made is not None
        content: bytes = made.model_proto.SerializeToString()
        onnx.checker.check_model(content)
    except Exception as error:  # the exporter raises whatever its passes do
        raise InputError(f"export: {name} cannot be written as ONNX ({one_line(error)})") from error
    finally:
        logger.setLevel(level)
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class OnnxTracker:
    """The two files of a folder in the place of a tracker: ``track``, ``follow`` and ``live`` are those of `Tracker`."""

    device = torch.device("cpu")

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        """Raises InputError for a folder that `export` did not write, or not to its end, or without ONNX Runtime."""
        runtime = _need("onnxruntime")[0]
        folder = Path(folder)
        try:
            about = json.loads((folder / CARD).read_text())
            settings = about["protocol"]
            policy = settings["policy"] | {"anchors": tuple(settings["policy"]["anchors"])}
            parts = {"affinity": Affinity(**settings["affinity"]), "policy": MemoryPolicy(**policy)}
            self.protocol, self.stride = Protocol(**{**settings, **parts}), int(about["stride"])
            digests = {name: about["files"][name] for name in (ENCODER, STEP)}
            files = {name: (folder / name).read_bytes() for name in digests}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: holds no tracker that pixeltrail export wrote ({one_line(error)})") from None
        for name, content in files.items():
            if _digest(content) != digests[name]:
                raise InputError(f"{folder}: {name} and {CARD} are not of one export; run pixeltrail export again")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self.encoder, self.step = (
                runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
                for content in files.values()
            )
        except Exception as error:  # a class for each kind of trouble
            raise InputError(f"{folder}: cannot be run by ONNX Runtime ({one_line(error)})") from error

    def eval(self) -> OnnxTracker:
        return self

    def embed(self, rgb: Tensor) -> Tensor:
        """(1, 3, H, W) RGB in [0, 1] -> (1, C, h, w)."""
        return torch.from_numpy(self.encoder.run(None, {"rgb": rgb.numpy()})[0])

    def propagate(self, query: Tensor, times: list[int], keys: Tensor, values: Tensor, now: int) -> Tensor:
        """Affinity and copy: (1, C, h, w), (1, S, C, h, w), (1, S, K, h, w) -> (1, K, h, w)."""
        given = {"query": query, "keys": keys, "values": values}
        return torch.from_numpy(self.step.run(None, {k: np.ascontiguousarray(v.numpy()) for k, v in given.items()})[0])

    def live(self) -> Live:
        return Live(self)  # type: ignore[arg-type]

    def track(self, frames: Iterable[Image], labels: LabelMap | Mapping[int, LabelMap]) -> Iterator[Any]:
        """See `Tracker.track`."""
        return Tracker.track(self, frames, labels)  # type: ignore[arg-type]

    def follow(self, frames: Iterable[Image], points: Points) -> Iterator[Any]:
        """See `Tracker.follow`."""
        session = PointSession(self, points)  # type: ignore[arg-type]
        return (session.step(image) for image in frames)


def _need(*names: str) -> list[Any]:
    import importlib

    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise InputError(f"export: {error.name} is not installed; pip install 'pixeltrail[export]'") from None
