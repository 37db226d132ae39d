"""The training loop: sample, objective, step; averaged weights; a state that resumes bit for bit."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pixeltrail import catalogue, weights
from pixeltrail.data.files import remove_leftovers, require_writable_folder, write_text
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.tracker import Tracker
from pixeltrail.training.checkpoint import Log, Progress, load_state, save_state, write_environment
from pixeltrail.training.feed import Sampler, feed
from pixeltrail.training.run import Run, to_toml
from pixeltrail.types import Batch

OnStep = Callable[[int, dict[str, float]], None]
OnSave = Callable[[int, Any], dict[str, float]]
M = TypeVar("M", bound=nn.Module)


class Options(TypedDict, total=False):
    """What `train` hands on to `fit`."""

    resume: bool
    device: str
    devices: int
    on_step: OnStep | None
    on_save: OnSave | None


def train(
    run: Run,
    sampler: Sampler,
    out: str | Path,
    *,
    sources: list[str],
    tracker: Tracker | None = None,
    **options: Unpack[Options],
) -> Tracker:
    """Train ``run.method``, or ``tracker`` in place, and return the tracker with its averaged weights.

    ``sources`` are named in the card. All else is as `fit` has it.
    """
    torch.manual_seed(run.seed)
    if tracker is None:
        tracker = catalogue.build(run.method, **run.settings)
        if run.start:
            weights.load_into(tracker, run.start)
    card = {"method": run.method, "settings": dict(run.settings), "trained_on": sources, "labels": "none"}
    return fit(tracker, run, sampler, out, save=partial(weights.save, training=True), card=card, **options)


def fit(
    learner: M,
    run: Run,
    sampler: Sampler,
    out: str | Path,
    *,
    save: Callable[[M, Path, dict[str, Any]], None],
    card: Mapping[str, Any],
    resume: bool = False,
    device: str = "cpu",
    devices: int = 1,
    on_step: OnStep | None = None,
    on_save: OnSave | None = None,
) -> M:
    """Train ``learner`` in place and return a copy with its averaged weights.

    A learner is a module with an ``objective(learner, Batch) -> terms``, whose sum is made small, and an ``encoder``, the
    network in it. ``save(learner, path, card)`` writes what is of use; ``card`` says what it is.

    ``out`` receives ``last.safetensors`` (averaged weights with a card), ``best.safetensors``, ``state.safetensors``
    (everything needed to go on), ``metrics.jsonl``, ``recipe.toml`` and ``environment.json``. ``devices`` processes
    are started on this machine; under ``torchrun`` there are those that it started.

    ``on_step(step, losses)`` is called after every step. ``on_save(step, averaged learner)`` at every regular save: the
    numbers that it returns join the step's metrics, and one called "J&F" (or "EPE", where less is better) decides what
    is best, else the mean loss since the last save does. Files are written and callbacks called by the first process alone.

    Parameters without ``requires_grad`` are not trained; batch normalisation that is not trained keeps its statistics.
    The first Ctrl-C or SIGTERM saves at the end of the step and raises ``KeyboardInterrupt``. Raises ``PixeltrailError``
    when the loss or its gradient is not finite, before the weights take the step; ``DiskError`` when a disk is full;
    ``InputError`` where ``out`` holds a run already and ``resume`` is not asked for.
    """
    out = Path(out)
    state = out / "state.safetensors"
    if state.is_file() and not resume:
        raise InputError(f"{out}: holds a run already; go on with it by --resume, or give another folder")
    run = settled(run, device)
    fabric = _fabric(run, device, devices)
    learning = _Learning(fabric, run, learner)
    parts = (learner, learning.average, learning.optimizer)
    progress = load_state(state, run, *parts) if resume else Progress()
    with _stop_signals() as stopped, _files(fabric, run, out, progress.step) as log:
        share = run.batch_size // fabric.world_size
        rows = range(fabric.global_rank * share, (fabric.global_rank + 1) * share)
        with closing(feed(sampler, range(progress.step, run.steps), rows, run.workers)) as batches:
            while progress.step < run.steps:
                began = time.monotonic()
                arrays = next(batches)
                progress.waited += time.monotonic() - began
                losses, stop = learning.step(progress.step, arrays, stopped, sampler)
                progress.step += 1
                progress.loss, progress.counted = progress.loss + losses["loss"], progress.counted + 1
                progress.seconds += time.monotonic() - began
                regular = progress.step == run.steps or progress.step % run.save_every == 0
                if log:
                    scores = on_save(progress.step, learning.average) if on_save and regular else {}
                    log.write(progress.step, losses | scores)
                    if on_step:
                        on_step(progress.step, losses | scores)
                    if regular or stop:
                        log.sync()
                        told = {**card, **_history(run, progress)}
                        if regular and progress.is_best(scores):
                            save(learning.average, out / "best.safetensors", told)
                        save(learning.average, out / "last.safetensors", told)
                        save_state(state, run, progress, *parts)
                if stop and progress.step < run.steps:
                    raise KeyboardInterrupt(*stopped[:1])
    return learning.average


def settled(run: Run, device: str) -> Run:
    """``run`` with the precision that "auto" is on ``device``. Emulated, bf16 is many times slower than fp32."""
    if run.precision != "auto":
        return run
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        can = torch.cpu.get_capabilities() if device == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
        native = any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return replace(run, precision="bf16" if native else "fp32")


class _Learning(Generic[M]):
    """Learner, averaged learner and optimizer; ``step`` takes one update."""

    def __init__(self, fabric: Any, run: Run, learner: M) -> None:
        self.fabric, self.run, self.learner = fabric, run, learner
        learner.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(learner).eval()
        self.trained = [p for p in learner.parameters() if p.requires_grad]
        if not self.trained:
            raise InputError("training: no parameter is to be trained; set requires_grad of some")
        self.optimizer = torch.optim.AdamW(self.trained, lr=run.lr, weight_decay=run.weight_decay)
        self.buffers = list(learner.buffers())
        self.frozen = [
            m for m in learner.modules()
            if isinstance(m, _BatchNorm) and m.weight is not None and not m.weight.requires_grad
        ]  # fmt: skip
        if run.compile:
            learner.encoder.compile()  # type: ignore[union-attr]
        self.module, self.update = fabric.setup(_Objective(learner), self.optimizer, move_to_device=False)

    def step(
        self, step: int, arrays: tuple[Tensor, ...], stopped: list[int], sampler: Sampler
    ) -> tuple[dict[str, float], bool]:
        """The mean terms over all shards, and whether any process was told to stop. ``arrays``: what `feed` yields."""
        run = self.run
        self.learner.train()
        for norm in self.frozen:
            norm.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = run.lr * _schedule(step, run)
        self.optimizer.zero_grad(set_to_none=True)
        terms = self._backward(step, tuple(a.to(self.fabric.device) for a in arrays))
        gradient = nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        told = torch.tensor(float(bool(stopped)), device=self.fabric.device)
        sent = torch.stack([*terms.values(), gradient, told])
        *values, told_any = self.fabric.all_reduce(
            sent, reduce_op="mean"
        ).tolist()  # the step's one wait for the device
        losses = {"loss": sum(values[:-1]), **dict(zip((*terms, "gradient"), values, strict=True))}
        self._require_finite(step, losses, sampler)
        if run.clip_gradient:
            nn.utils.clip_grads_with_norm_(self.trained, run.clip_gradient, gradient)
        self.update.step()
        _follow(self.average, self.learner, min(run.ema, (step + 1) / (step + 10)))
        return losses, told_any > 0

    def _backward(self, step: int, arrays: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Gradients of this process's shards, the mean over all processes; returns its own mean terms."""
        total: dict[str, Tensor] = {}
        count = self.run.shards // self.fabric.world_size
        for i, part in enumerate(self._shards(arrays, count)):
            seed = _seed(self.run.seed, step, self.fabric.global_rank * count + i)
            with self.fabric.no_backward_sync(self.module, enabled=i + 1 < count):
                terms = self.module(seed, step / self.run.steps, *part)
                self.fabric.backward(torch.stack(list(terms.values())).sum() / count)
            for name, value in terms.items():
                total[name] = total.get(name, 0) + value.detach().float() / count
        return total

    def _shards(self, arrays: tuple[Tensor, ...], count: int) -> Iterator[tuple[Tensor, ...]]:
        """Each shard meets the same buffers (normalisation statistics), which end as the mean of what all made of them."""
        if self.run.shards == 1:
            yield arrays
            return
        before = [b.clone() for b in self.buffers]
        change = [torch.zeros_like(b) for b in self.buffers]
        for part in zip(*(a.chunk(count) for a in arrays), strict=True):
            for buffer, old in zip(self.buffers, before, strict=True):
                buffer.copy_(old)
            yield part
            for buffer, old, new in zip(self.buffers, before, change, strict=True):
                new.add_(buffer - old) if buffer.is_floating_point() else None
        for buffer, old, new in zip(self.buffers, before, change, strict=True):
            if buffer.is_floating_point():
                buffer.copy_(old + self.fabric.all_reduce(new, reduce_op="sum") / self.run.shards)

    def _require_finite(self, step: int, losses: dict[str, float], sampler: Sampler) -> None:
        if all(math.isfinite(v) for v in losses.values()):
            return
        what = "gradient" if math.isfinite(losses["loss"]) else "loss"
        named = ", ".join(f"{k} {v:g}" for k, v in losses.items())
        videos = ", ".join(dict.fromkeys(sampler.names(step)))
        raise PixeltrailError(
            f"training: step {step + 1}: the {what} is not finite ({named}) on {videos}; lower lr, or use fp32"
        )


class _Objective(nn.Module):
    """The forward pass that is wrapped for several processes and mixed precision.

    It takes whole numbers, because Fabric's mixed precision would round what is not to bfloat16 on the way in.
    """

    def __init__(self, learner: Any) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, seed: int, progress: float, frames: Tensor, flow: Tensor | None = None) -> dict[str, Tensor]:
        """(B, T, H, W, 3) uint8, and the bits of (B, H, W, 2) float32 -> the objective's terms."""
        torch.manual_seed(seed)  # for layers that ask no generator, dropout for one
        clip = frames.movedim(-1, 2).float() / 255
        exact = None if flow is None else flow.view(torch.float32).movedim(-1, 1)
        batch = Batch(clip, torch.Generator().manual_seed(seed), progress=progress, flow=exact)
        terms: dict[str, Tensor] = self.learner.objective(self.learner, batch)
        return terms


def _fabric(run: Run, device: str, devices: int) -> Any:
    """Lightning Fabric for ``devices`` processes, or those that torchrun started."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies import DDPStrategy
    except ModuleNotFoundError:
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy

    logging.getLogger(Fabric.__module__.removesuffix(".fabric")).setLevel(logging.WARNING)  # it greets on stderr
    where = torch.device(device)
    nodes = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    world = devices * nodes
    if world > 1 and where.index is not None:
        raise InputError(f"device {device}: names one device, but there are {world} processes; give {where.type}")
    if run.shards % world:
        raise InputError(
            f"recipe: shards is {run.shards}, which {world} processes cannot share out equally; take shards = {world}"
        )
    fabric = Fabric(
        accelerator=where.type,
        devices=devices if where.index is None else [where.index],
        num_nodes=nodes,
        strategy=DDPStrategy(find_unused_parameters=True) if world > 1 else "auto",
        precision="bf16-mixed" if run.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


@contextmanager
def _files(fabric: Any, run: Run, out: Path, first: int) -> Iterator[Log | None]:
    """The run's folder, made ready by the first process; the others get None and write nothing."""
    if not fabric.is_global_zero:
        yield None
        return
    require_writable_folder(out)
    remove_leftovers(out)
    write_text(out / "recipe.toml", to_toml(run))
    write_environment(out / "environment.json", fabric.world_size)
    with closing(Log(out, first)) as log:
        yield log


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _schedule(step: int, run: Run) -> float:
    """Linear warm-up, then half a cosine down to one per cent, or halvings where the recipe names some."""
    warm = min(1.0, (step + 1) / max(1, run.warmup))
    if run.halve:
        return warm * 0.5 ** sum(step >= at for at in run.halve)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / run.steps)))


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
    means, values = zip(*[(a, b) for a, b in pairs if a.is_floating_point()], strict=True)
    torch._foreach_lerp_(list(means), list(values), 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def _history(run: Run, progress: Progress) -> dict[str, Any]:
    """What a card says of the training itself."""
    return {
        "recipe": run.table(),
        "steps": progress.step,
        "seconds": round(progress.seconds),
        "waited": round(progress.waited / max(progress.seconds, 1e-9), 4),
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
    }


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that a first SIGINT or SIGTERM fills; the second one stops at once."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt(number)
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
