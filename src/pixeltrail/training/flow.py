"""Learning optical flow in the same loop as trackers: from exact flow, or from the user's videos without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail import flow_networks
from pixeltrail.data.chairs import chairs
from pixeltrail.errors import InputError
from pixeltrail.flow import losses
from pixeltrail.flow.algebra import occlusion
from pixeltrail.flow.estimate import estimate
from pixeltrail.flow.spynet import SpyNet
from pixeltrail.training.feed import Sampler
from pixeltrail.training.loop import Options, fit
from pixeltrail.training.run import Run
from pixeltrail.types import Batch

HELD_OUT = 8
OBJECTIVES = ("epe", "robust", "photometric")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What ``[settings]`` of a recipe for flow may say beside the network's own settings.

    ``objective``: "epe" (SpyNet: level by level) or "robust" on pairs with exact flow (``flow.losses``); "photometric" on
    videos without labels, and "robust", times ``exact``, on the share ``rendered`` of each batch, which is generated.
    ``motion``: (least, most) of the share of the published motion that generated pairs have. ``pyramid``: how the network is
    to be used, the width of `estimate.coarse_to_fine`; 0: by a single look. For "photometric":
    ``difference``, "census" or "charbonnier"; ``smooth``, the weight of smoothness, of first or second ``order``, and
    ``edge``, how fast it gives way to edges of the image.
    """

    objective: str = "epe"
    motion: tuple[float, float] = (0.1, 1.0)
    pyramid: int = 0
    difference: str = "census"
    smooth: float = 0.3
    order: int = 1
    edge: float = 150.0
    exact: float = 0.1

    def __post_init__(self) -> None:
        for name, known in (("objective", OBJECTIVES), ("difference", ("census", "charbonnier")), ("order", (1, 2))):
            if getattr(self, name) not in known:
                said = ", ".join(map(str, known))
                raise InputError(f"recipe: settings.{name} is {getattr(self, name)!r}; there are {said}")
        low, high = self.motion
        if not 0 <= low <= high or min(self.smooth, self.pyramid, self.exact) < 0:
            raise InputError("recipe: settings.motion, smooth, pyramid and exact must not be negative")


def task_of(run: Run) -> tuple[Task, dict[str, Any]]:
    """The task that a recipe's settings name, and those that are left for the network."""
    own = {f.name for f in fields(Task)}
    said: dict[str, Any] = {k: tuple(v) if k == "motion" else v for k, v in run.settings.items() if k in own}
    try:
        task = Task(**said)
    except (TypeError, ValueError) as error:
        raise InputError(f"recipe: settings: {error}") from error
    return task, {k: v for k, v in run.settings.items() if k not in own}


class FlowLearner(nn.Module):
    """A flow network, and what it learns by."""

    def __init__(self, network: nn.Module, objective: Callable[[FlowLearner, Batch], dict[str, Tensor]]) -> None:
        super().__init__()
        self.encoder, self.objective = network, objective


@dataclass(frozen=True, slots=True)
class Supervised:
    """Exact flow at every level; ``loss`` is `multiscale_epe` or `multiscale_robust`."""

    loss: Callable[[Sequence[Tensor], Tensor], Tensor]

    def __call__(self, learner: FlowLearner, batch: Batch) -> dict[str, Tensor]:
        """The term ``flow``."""
        assert batch.flow is not None
        return {"flow": self.loss(learner.encoder(batch.clip[:, 0], batch.clip[:, 1]), batch.flow)}


class LevelByLevel:
    """SpyNet's training: one level after the other, on pairs of its own resolution, with all coarser ones frozen."""

    def __call__(self, learner: FlowLearner, batch: Batch) -> dict[str, Tensor]:
        """The term ``flow``, the mean end-point error of the level whose turn it is, in pixels of the full resolution."""
        assert batch.flow is not None
        network = learner.encoder
        assert isinstance(network, SpyNet)
        depth = network.depth
        turn = min(int(batch.progress * depth), depth - 1)
        for i, level in enumerate(network.levels):
            level.requires_grad_(i == turn)
        smaller = 2 ** (depth - 1 - turn)
        one, two = (F.avg_pool2d(batch.clip[:, t], smaller) for t in (0, 1))
        network.depth = turn + 1
        try:
            flows = network(one, two)
        finally:
            network.depth = depth
        if len(flows) <= turn:
            raise InputError(
                f"recipe: size is too small for a SpyNet of {depth} levels; take {32 * 2 ** (depth - 1)} or more"
            )
        return {"flow": losses.epe(smaller * flows[-1], batch.flow)}


@dataclass(frozen=True, slots=True)
class Photometric:
    """No labels: what is seen twice looks the same, and flow is smooth except at edges. Both directions at once.

    Rows whose flow is known (generated ones) are learned from as such: they keep what photometric loss alone forgets, large
    motion first of all.
    """

    task: Task

    def __call__(self, learner: FlowLearner, batch: Batch) -> dict[str, Tensor]:
        """The terms ``photometric`` and ``smoothness`` of rows without flow, ``flow`` of those with it."""
        known = torch.zeros(len(batch.clip), dtype=torch.bool, device=batch.clip.device)
        terms = {}
        if batch.flow is not None:
            known = batch.flow.isfinite().flatten(1).any(1)
        if bool(known.any()):
            assert batch.flow is not None
            flows = learner.encoder(batch.clip[known, 0], batch.clip[known, 1])
            terms["flow"] = self.task.exact * losses.multiscale_robust(flows, batch.flow[known])
        if bool(known.all()):
            return terms
        return terms | self._unlabelled(learner, batch.clip[~known], batch.generator)

    def _unlabelled(self, learner: FlowLearner, clip: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        first, second = clip[:, 0], clip[:, 1]
        one, two = torch.cat((first, second)), torch.cat((second, first))
        found = learner.encoder(*_relit(one, two, generator))[-1].float()
        flow = F.interpolate(found, one.shape[-2:], mode="bilinear", align_corners=False)
        with torch.no_grad():
            forward, backward = flow.chunk(2)
            hidden = torch.cat((occlusion(forward, backward), occlusion(backward, forward)))
        seen = losses.photometric(one, two, flow, hidden, kind=self.task.difference)
        small = F.adaptive_avg_pool2d(one, found.shape[-2:])
        smooth = losses.smoothness(found, small, order=self.task.order, edge=self.task.edge)
        return {"photometric": seen, "smoothness": self.task.smooth * smooth}


def _relit(one: Tensor, two: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The pair under another light, the same for both: only the network sees it, the loss does not."""
    draw = torch.randn(2, len(one), 1, 1, 1, generator=generator).to(one.device)
    gain, level = (0.2 * draw[0]).exp(), 0.1 * draw[1]
    return ((one - 0.5) * gain + 0.5 + level).clamp(0, 1), ((two - 0.5) * gain + 0.5 + level).clamp(0, 1)


def new_learner(run: Run) -> FlowLearner:
    """The untrained network of a recipe, or that of ``run.start``, with its objective."""
    task, settings = task_of(run)
    torch.manual_seed(run.seed)
    network = flow_networks.build(run.method, **settings)
    if run.start:
        flow_networks.load_into(network, run.start)
    stride = int(network.stride)  # type: ignore[arg-type]
    for name, side in (("size", run.size), ("width", run.width)):
        if side % stride:
            raise InputError(f"recipe: {name} is {side}, expected a multiple of {stride} for this network")
    return FlowLearner(network, _objective(task, network))


def _objective(task: Task, network: nn.Module) -> Callable[[FlowLearner, Batch], dict[str, Tensor]]:
    if task.objective == "photometric":
        return Photometric(task)
    if task.objective == "robust":
        return Supervised(losses.multiscale_robust)
    return LevelByLevel() if isinstance(network, SpyNet) else Supervised(losses.multiscale_epe)


def train_flow(
    run: Run, sampler: Sampler, out: str | Path, *, sources: list[str], **options: Unpack[Options]
) -> FlowLearner:
    """Train ``run.method``, a flow network, and return the learner with its averaged weights; see `loop.fit`.

    The card has ``network`` and ``settings``, by which `flow_networks.load` builds it.
    """
    learner = new_learner(run)
    task, settings = task_of(run)
    unlabelled = task.objective == "photometric" and not round(run.rendered * run.batch_size)
    labels = "none" if unlabelled else "exact flow"
    card: dict[str, Any] = {"network": run.method, "settings": settings, "trained_on": sources, "labels": labels}
    card |= {"pyramid": task.pyramid} if task.pyramid else {}
    return fit(learner, run, sampler, out, save=_save, card=card, **options)


def _save(learner: FlowLearner, path: Path, card: Mapping[str, Any]) -> None:
    flow_networks.save(learner.encoder, path, card)


class FlowWatcher:
    """What the loop calls at every save: the mean end-point error on ``HELD_OUT`` generated pairs that no run trains on, as
    {"EPE": pixels}."""

    def __init__(self, run: Run) -> None:
        size = (2 * run.size, 2 * (run.width or run.size))
        size = (min(size[0], 384), min(size[1], 512))
        made = [chairs((HELD_OUT, i), size=size, motion=0.5) for i in range(HELD_OUT)]
        frames = np.stack([[pair.first, pair.second] for pair in made])
        self.frames = torch.from_numpy(frames).movedim(-1, 2)
        self.flow = torch.from_numpy(np.stack([pair.flow for pair in made])).movedim(-1, 1)

    @torch.inference_mode()
    def __call__(self, step: int, learner: FlowLearner) -> dict[str, float]:
        device = next(learner.parameters()).device
        total = 0.0
        for (first, second), flow in zip(self.frames, self.flow, strict=True):
            one, two = (x.unsqueeze(0).to(device).float() / 255 for x in (first, second))
            total += float((estimate(learner.encoder, one, two)[0].cpu() - flow).norm(dim=0).mean())
        return {"EPE": total / len(self.flow)}
