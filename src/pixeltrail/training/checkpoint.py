"""The files of a run: its state, which resumes bit for bit, and its metrics."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixeltrail import weights
from pixeltrail.data.files import explain, write_text
from pixeltrail.errors import InputError
from pixeltrail.training.run import Run

FREE = ("workers", "save_every", "compile")
"""What may change between a run and its continuation."""


@dataclass(slots=True)
class Progress:
    """The plain numbers of a state. ``best``: score of ``best.safetensors``, higher is better. ``loss``: summed over the
    ``counted`` steps since the last save. ``seconds`` of work, of which ``waited`` for data."""

    step: int = 0
    best: float | None = None
    loss: float = 0.0
    counted: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def is_best(self, scores: Mapping[str, float]) -> bool:
        """Whether this save is the best so far, by ``scores["J&F"]`` or ``scores["EPE"]`` (less is better), or else by
        the mean loss since the last save."""
        score = scores.get("J&F", -scores.get("EPE", self.loss / max(1, self.counted)))
        self.loss, self.counted = 0.0, 0
        if self.best is not None and score <= self.best:
            return False
        self.best = score
        return True


def save_state(
    path: Path, run: Run, progress: Progress, learner: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Everything that a run needs to go on, in one file, written whole or not at all."""
    tensors = {f"model.{k}": v for k, v in learner.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    weights.save_tensors(tensors, path, {"progress": asdict(progress), "recipe": run.table()})


def load_state(
    path: Path, run: Run, learner: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Bring everything back to where ``save_state`` was called. Raises ``InputError`` where the recipe is another one."""
    if not path.is_file():
        raise InputError(f"{path.parent}: nothing to resume, there is no {path.name}; leave --resume out")
    card = weights.read_card(path)
    if not isinstance(card.get("progress"), dict):
        raise InputError(f"{path}: is not the state of a run of this version; leave --resume out")
    _require_same_recipe(path, run, card.get("recipe", {}))
    tensors = weights.read_tensors(path)
    for prefix, module in (("model.", learner), ("average.", average)):
        try:
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        except RuntimeError as error:
            raise InputError(f"{path}: is of another network ({str(error).splitlines()[-1].strip()})") from error
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            slots.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**card["progress"])


def _require_same_recipe(path: Path, run: Run, table: Mapping[str, Any]) -> None:
    ours, theirs = (json.loads(json.dumps(t)) for t in (run.table(), {**Run().table(), **table}))
    for key in ours:
        if key not in FREE and theirs[key] != ours[key]:
            raise InputError(
                f"{path}: was made with {key} = {theirs[key]!r}, now it is {ours[key]!r}; "
                "resume with the run's own recipe.toml"
            )


class Log:
    """``metrics.jsonl``, one line a step, and TensorBoard's files where that is installed."""

    def __init__(self, out: Path, first: int) -> None:
        self.path = out / "metrics.jsonl"
        lines = self.path.read_bytes().splitlines(keepends=True)[:first] if self.path.is_file() else []
        write_text(self.path, b"".join(lines).decode())
        self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115  unbuffered: a full disk is noticed at once
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board: Any = SummaryWriter(out / "tensorboard", purge_step=first + 1)
        except ImportError:
            self.board = None

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a line. Raises ``DiskError`` where there is no room."""
        line = json.dumps({"step": step, **{k: round(v, 6) for k, v in numbers.items()}}) + "\n"
        rest = memoryview(line.encode())
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise explain(error, self.path) from error
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step)

    def sync(self) -> None:
        """Have all lines on disk, before a state says that they are."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise explain(error, self.path) from error

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def write_environment(path: Path, world: int) -> None:
    """What the run was started with, once: a continuation does not change it."""
    if not path.is_file():
        found = {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "platform": platform.platform(),
            "processor": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "threads": torch.get_num_threads(),
            "processes": world,
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_text(path, json.dumps(found, indent=1) + "\n")
