"""Adaptation: a few minutes without labels on the very video that is to be tracked.

First the normalisation statistics are moved to the video's own, which takes a pass over some frames and brings most.
Then the tracker's own objective goes on, on clips of the video as they will be tracked (cut out, never shrunk), with
small steps and a frozen copy that the features may not leave far. Whether it helped is judged without labels, on frames
of the video that were not trained on; what does not help is not kept.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pixeltrail import weights
from pixeltrail.data.files import require_writable_folder
from pixeltrail.errors import DiskError, InputError, PixeltrailError
from pixeltrail.methods.dul import AnchorSelfTraining
from pixeltrail.predictors import load_tracker
from pixeltrail.tracker import Objective, Tracker
from pixeltrail.training.footage import MAX_BYTES, Crops, Footage, read_footage
from pixeltrail.training.guard import Guard, guard
from pixeltrail.training.loop import train
from pixeltrail.training.run import Run
from pixeltrail.types import Batch

ROUND = Run(steps=20, save_every=20, batch_size=2, frames=3, size=160, lr=1e-4, warmup=5, weight_decay=0.0, ema=0.9)
"""Rounds of so many steps follow one another, the guard looking after each, until the time is over."""
HEAD = replace(ROUND, steps=40, save_every=40, lr=1e-3)
"""How parts of the objective are fitted that a weights file lacks."""
STATISTICS = 0.5
"""How far normalisation statistics move from those of the training data to those of the video."""
FRAMES = 16
"""Frames from which the video's statistics are taken."""
ANCHOR = 10.0
"""Weight of staying near the frozen features."""
PATIENCE = 4
"""Rounds in a row without a better result after which it ends early."""

OnProgress = Callable[[str, int, int, str], None]
Kept = Literal["original", "statistics", "adapted", "halfway"]


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """``tracker`` with what the guard found best: the ``"original"`` weights, those with the video's ``"statistics"``,
    these trained on (``"adapted"``), or the mean of the last two (``"halfway"``). ``steps`` and ``seconds`` are what was
    spent; ``before`` and ``after`` what the guard says."""

    tracker: Tracker
    kept: Kept
    before: Guard
    after: Guard
    steps: int
    seconds: float

    def table(self) -> dict[str, Any]:
        """Plain values, for a card."""
        scores = {"before": asdict(self.before), "after": asdict(self.after)}
        return {"kept": self.kept, "steps": self.steps, "minutes": round(self.seconds / 60, 2), **scores}


class Anchored(nn.Module):
    """An objective, and ``weight`` times the squared distance of unit features from those of a frozen ``encoder``."""

    def __init__(self, objective: Objective, encoder: nn.Module, weight: float = ANCHOR) -> None:
        super().__init__()
        self.objective, self.weight = objective, weight
        self.encoder = copy.deepcopy(encoder).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Anchored:
        """The frozen copy stays as it was."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """The objective's terms and ``anchor``, taken on each clip's first frame."""
        view = tracker.bottleneck.view(batch.clip[:, 0])  # type: ignore[operator]
        with torch.no_grad():
            before = F.normalize(self.encoder(view).float(), dim=1)
        now = F.normalize(tracker.encoder(view).float(), dim=1)
        anchor = (now - before).square().sum(1).mean()
        return {**self.objective(tracker, batch), "anchor": self.weight * anchor}


def adapt(
    tracker: Tracker,
    footage: Sequence[Footage],
    *,
    minutes: float = 3.0,
    rounds: int | None = None,
    run: Run | None = None,
    fit_objective: bool = False,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Adapted:
    """Train a copy of ``tracker`` on ``footage``, until ``minutes`` are over, and keep what the guard finds best.

    ``run`` is one round (default: ``ROUND``); at least one is done, and exactly ``rounds`` where that is given. In no time
    (0 minutes) the statistics alone are moved.
    ``fit_objective``: the objective's parameters are untrained and are fitted first, with the encoder frozen.
    ``on_progress(stage, done, of how many, note)``, in seconds. Raises ``InputError`` for a tracker without parameters.
    """
    run, rounds = run or ROUND, rounds if minutes else 0
    original = tracker.to(device).eval()
    if not _learns(original.encoder):
        raise InputError("adaptation: this tracker has nothing to train; give weights that were learned")
    before = after = guard(original, footage)
    kept: Kept = "original"
    best = original
    began, steps, done, idle = time.monotonic(), 0, 0, 0

    def offer(candidate: Tracker, name: Kept) -> bool:
        nonlocal best, kept, after
        found = guard(candidate, footage)
        if better := found.improves(after, before):
            best, kept, after = candidate, name, found
        return better

    def on_step(step: int, losses: dict[str, float]) -> None:
        nonlocal steps
        steps += 1
        if on_progress:
            seconds = min(time.monotonic() - began, 60 * minutes)
            on_progress("adapting", round(seconds), round(60 * minutes), f"adapting, loss {losses['loss']:.3f}")

    def trained(part: Run) -> Tracker:
        with TemporaryDirectory(prefix="pixeltrail-") as folder:
            names = [video.name for video in footage]
            average = train(
                part, Crops(footage, part), folder, sources=names, device=device, tracker=learner, on_step=on_step
            )
        learner.load_state_dict(average.state_dict())
        return average

    start = last = with_statistics(original, footage)
    offer(start, "statistics")
    learner = _learner(start)
    if fit_objective and rounds != 0 and _learns(original.objective):
        learner.encoder.requires_grad_(False)
        trained(HEAD)
        learner.encoder.requires_grad_(True)
    _freeze_statistics(learner)
    while done < rounds if rounds is not None else not done or time.monotonic() < began + 60 * minutes:
        try:
            last = trained(replace(run, seed=run.seed + done))
        except (InputError, DiskError):
            raise
        except PixeltrailError:  # it diverged; what was found before stands
            break
        done, idle = done + 1, 0 if offer(last, "adapted") else idle + 1
        if idle == PATIENCE:
            break
    if last is not start:
        offer(_halfway(start, last), "halfway")
    if isinstance(best.objective, Anchored):
        best = _tracker(best.encoder, original, best.objective.objective)
    return Adapted(best.eval(), kept, before, after, steps, time.monotonic() - began)


def lacks_objective(path: str | Path) -> bool:
    """Whether a weights file holds the encoder alone."""
    return not any(name.startswith("objective.") for name in weights.read_tensors(path))


@torch.no_grad()
def with_statistics(tracker: Tracker, footage: Sequence[Footage], share: float = STATISTICS) -> Tracker:
    """A copy whose encoder's normalisation statistics are ``share`` the videos' and the rest its own.

    After Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020.
    """
    moved = _tracker(copy.deepcopy(tracker.encoder), tracker, tracker.objective)
    norms = [module for module in moved.encoder.modules() if isinstance(module, _BatchNorm)]
    before = copy.deepcopy(norms)
    for norm in norms:
        norm.momentum = None  # the plain mean over all that is seen
        norm.reset_running_stats()
        norm.train()
    stretches = [stretch for video in footage for stretch in video.train]
    for stretch in stretches[:: max(1, len(stretches) // FRAMES)]:
        for image in stretch[:: max(1, len(stretch) * len(stretches) // FRAMES)]:
            moved.embed(torch.from_numpy(image).to(tracker.device).movedim(-1, 0)[None].float() / 255)
    for norm, old in zip(norms, before, strict=True):
        norm.momentum = old.momentum
        for mean, theirs in ((norm.running_mean, old.running_mean), (norm.running_var, old.running_var)):
            if mean is not None and theirs is not None:
                mean.lerp_(theirs, 1 - share)
    return moved.eval()


def adapt_file(
    method: str,
    videos: Sequence[str | Path],
    out: str | Path,
    *,
    protocol: str = "",
    quality: str = "",
    minutes: float = 3.0,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Adapted:
    """Adapt the weights called ``method`` to ``videos`` and write what is best to ``out``, with its card.

    Frames are seen as they are tracked under ``protocol`` at ``quality``. Where the guard keeps the original, ``out``
    holds its tensors bit for bit. ``options`` go to ``adapt``. Raises ``InputError``, before time is spent, for what is
    no weights file, videos that cannot be read, or an ``out`` that cannot be written.
    """
    source, out = weights.path_of(method.partition(".py:")[2] or method), Path(out)
    if source is None:
        raise InputError(f"{method}: has no learned weights to go on from; give default or a .safetensors file")
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: weights are written as .safetensors; give such a name")
    if not 0 <= minutes < math.inf:
        raise InputError(f"adaptation: {minutes} minutes; give 0 or more")
    tracker = load_tracker(method, protocol=protocol, quality=quality, device=device)
    tensors, card = weights.read_tensors(source), weights.read_card(source)
    footage = []
    for i, video in enumerate(videos, 1):
        footage.append(read_footage(video, tracker, max_bytes=MAX_BYTES // len(videos)))
        if on_progress:
            on_progress("reading videos", i, len(videos), "")
    require_writable_folder(out.parent)
    lacking = lacks_objective(source)
    adapted = adapt(
        tracker, footage, minutes=minutes, fit_objective=lacking, device=device, on_progress=on_progress, **options
    )
    origin = {"from": str(card.get("name", source.stem)), "digest": weights.digest(source)}
    card |= {
        "date": time.strftime("%Y-%m-%d"),
        "adapted": {**origin, "videos": [video.name for video in footage], **adapted.table()},
    }
    if adapted.kept == "original":
        weights.save_tensors(tensors, out, card)
    else:
        weights.save(adapted.tracker, out, card, training=not lacking)
    return adapted


def _learns(part: object) -> bool:
    return isinstance(part, nn.Module) and next(part.parameters(), None) is not None


def _learner(tracker: Tracker) -> Tracker:
    """A copy that learns, anchored to what it was."""
    objective = copy.deepcopy(tracker.objective)
    if isinstance(objective, AnchorSelfTraining):  # all clips are of the same video
        objective.own = True
    return _tracker(copy.deepcopy(tracker.encoder), tracker, Anchored(objective, tracker.encoder))


def _tracker(encoder: nn.Module, like: Tracker, objective: Objective) -> Tracker:
    return Tracker(encoder=encoder, bottleneck=like.bottleneck, protocol=like.protocol, objective=objective)


def _freeze_statistics(tracker: Tracker) -> None:
    """Normalisation stays as it is: the loop leaves alone what has no gradient."""
    for module in tracker.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)


@torch.no_grad()
def _halfway(original: Tracker, adapted: Tracker) -> Tracker:
    """The adapted tracker with its encoder moved half the way back."""
    halfway = copy.deepcopy(adapted)
    for value, start in zip(halfway.encoder.parameters(), original.encoder.parameters(), strict=True):
        value.lerp_(start, 0.5)
    return halfway
