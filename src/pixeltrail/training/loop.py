"""The training loop: sample, objective, step; averaged weights; a state that resumes bit for bit."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pixeltrail import catalogue, weights
from pixeltrail.data.files import require_writable_folder, write_text
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.tracker import Tracker
from pixeltrail.training.run import Run, to_toml
from pixeltrail.types import Batch


class Sampler(Protocol):
    """Anything that makes batch number ``step``: (B, T, H, W, 3) uint8 RGB."""

    def batch(self, step: int) -> NDArray[np.uint8]: ...


def train(
    run: Run,
    sampler: Sampler,
    out: str | Path,
    *,
    sources: list[str],
    resume: bool = False,
    device: str = "cpu",
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Tracker:
    """Train ``run.method`` and return the tracker with its averaged weights.

    ``out`` receives ``last.safetensors`` (averaged weights with a card), ``state.safetensors`` (everything needed to go
    on), ``metrics.jsonl`` and ``recipe.toml``. ``sources`` are named in the card. The first Ctrl-C or SIGTERM saves at
    the end of the step and raises ``KeyboardInterrupt``. Raises ``PixeltrailError`` when the loss is not finite, before
    the weights take the step.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    require_writable_folder(out)
    torch.manual_seed(run.seed)
    tracker = catalogue.build(run.method, **run.settings)
    if run.start:
        weights.load_into(tracker, run.start)
    tracker.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(tracker).eval()
    optimizer = torch.optim.AdamW(tracker.parameters(), lr=run.lr, weight_decay=run.weight_decay)
    state, metrics = out / "state.safetensors", out / "metrics.jsonl"
    first = 0
    if resume:
        if not state.is_file():
            raise InputError(f"{out}: nothing to resume, there is no state.safetensors; leave --resume out")
        first = _load_state(state, run, tracker, average, optimizer)
        _cut(metrics, first)
    else:
        write_text(metrics, "")
    write_text(out / "recipe.toml", to_toml(run))

    with ThreadPoolExecutor(1) as loader, _stop_signals() as stopped, open(metrics, "a") as log:
        upcoming = loader.submit(sampler.batch, first)
        began = time.monotonic()
        for step in range(first, run.steps):
            batch = upcoming.result()
            upcoming = loader.submit(sampler.batch, step + 1)
            losses = _step(run, step, tracker, optimizer, batch, device)
            _follow_average(average, tracker, min(run.ema, (step + 1) / (step + 10)))
            log.write(json.dumps({"step": step + 1, **{k: round(v, 6) for k, v in losses.items()}}) + "\n")
            if on_step:
                on_step(step + 1, losses)
            done = step + 1 == run.steps
            if done or stopped or (step + 1) % run.save_every == 0:
                log.flush()
                card = _card(run, step + 1, sources, time.monotonic() - began)
                weights.save(average, out / "last.safetensors", card, training=True)
                _save_state(state, run, step + 1, tracker, average, optimizer)
            if stopped and not done:
                raise KeyboardInterrupt
    return average


def _step(
    run: Run, step: int, tracker: Tracker, optimizer: torch.optim.Optimizer, frames: NDArray[np.uint8], device: str
) -> dict[str, float]:
    tracker.train()
    for group in optimizer.param_groups:
        group["lr"] = run.lr * _schedule(step, run)
    clip = torch.from_numpy(np.ascontiguousarray(frames)).to(device).movedim(-1, 2).float() / 255
    random = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
    batch = Batch(clip, random, progress=step / run.steps)
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=run.precision == "bf16"):
        terms: dict[str, Tensor] = tracker.objective(tracker, batch)
    loss = torch.stack(list(terms.values())).sum()
    if not bool(torch.isfinite(loss)):
        named = ", ".join(f"{k} {float(v.detach()):g}" for k, v in terms.items())
        raise PixeltrailError(f"training: step {step + 1}: the loss is not finite ({named}); lower lr, or use fp32")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return {"loss": float(loss.detach()), **{k: float(v.detach()) for k, v in terms.items()}}


def _schedule(step: int, run: Run) -> float:
    """Linear warm-up, then half a cosine down to one per cent."""
    return min(1.0, (step + 1) / max(1, run.warmup)) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / run.steps)))


@torch.no_grad()
def _follow_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def _card(run: Run, step: int, sources: list[str], seconds: float) -> dict[str, Any]:
    return {
        "method": run.method,
        "settings": dict(run.settings),
        "recipe": run.table(),
        "steps": step,
        "seconds": round(seconds),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "trained_on": sources,
        "labels": "none",
    }


def _save_state(
    path: Path, run: Run, step: int, tracker: Tracker, average: Tracker, optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"model.{k}": v for k, v in tracker.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    weights.save_tensors(tensors, path, {"step": step, "recipe": run.table()})


def _load_state(path: Path, run: Run, tracker: Tracker, average: Tracker, optimizer: torch.optim.Optimizer) -> int:
    card = weights.read_card(path)
    theirs, ours = card.get("recipe", {}), json.loads(json.dumps(run.table()))
    changed = [k for k in ours if theirs.get(k) != ours[k] and k not in ("workers", "save_every")]
    if changed:
        raise InputError(
            f"{path}: was made with {changed[0]} = {theirs.get(changed[0])!r}, now it is {ours[changed[0]]!r}; "
            "resume with the run's own recipe.toml"
        )
    tensors = weights.read_tensors(path)
    for prefix, module in (("model.", tracker), ("average.", average)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, i, name = key.split(".")
            slots.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(card["step"])


def _cut(metrics: Path, step: int) -> None:
    lines = metrics.read_text().splitlines()[:step] if metrics.is_file() else []
    write_text(metrics, "".join(line + "\n" for line in lines))


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that a first SIGINT or SIGTERM fills; the second one stops at once."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals belong to somebody else
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
