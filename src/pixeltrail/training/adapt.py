"""Adaptation: a few minutes without labels on the very video that is to be tracked.

First the normalisation statistics are moved to the video's own, which takes a pass over some frames. Then the encoder
learns which pixels of the video move together, whatever objective it was trained by (`together`), from frames as they will
be tracked (cut out, never shrunk), with small steps and a frozen copy that the features may not leave far. Whether it
helped is judged without labels, on frames of the video that were not trained on; what does not help is not kept.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pixeltrail import weights
from pixeltrail.data.files import require_writable_folder
from pixeltrail.errors import DiskError, InputError, PixeltrailError
from pixeltrail.flow_methods import flow_method
from pixeltrail.predictors import load_tracker
from pixeltrail.tracker import Objective, Tracker
from pixeltrail.training.footage import MAX_BYTES, Crops, Footage, Neighbours, read_footage
from pixeltrail.training.guard import Guard, guard
from pixeltrail.training.loop import train
from pixeltrail.training.run import Run
from pixeltrail.training.together import Together, found

ROUND = Run(steps=50, save_every=50, batch_size=6, frames=1, size=160, lr=3e-4, warmup=5, weight_decay=0.0, ema=0.9)
"""Rounds of so many steps follow one another, the guard looking after each, until the time is over."""
READING = replace(ROUND, steps=40, save_every=40, lr=2e-3)
"""How the linear reading of the features is fitted first, while they stay as they are."""
STATISTICS = 0.5
"""How far normalisation statistics move from those of the training data to those of the video."""
FRAMES = 16
"""Frames from which the video's statistics are taken."""
FLOW, WITHOUT_OPENCV = "dis", "default"
"""What finds the flow: DIS where OpenCV is installed, the network that comes with the package elsewhere."""
PATIENCE = 2
"""Rounds in a row without a better result after which it ends early."""

OnProgress = Callable[[str, int, int, str], None]
Kept = Literal["original", "statistics", "adapted"]


@dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """``tracker`` with the ``"original"`` weights, those with the video's ``"statistics"``, or these trained on
    (``"adapted"``). ``together``: `together.found` before and after training, on frames held out; None where nothing was
    trained. ``before`` and ``after``: what the guard says of the original and of ``tracker``. ``steps`` and ``seconds`` are
    what was spent."""

    tracker: Tracker
    kept: Kept
    together: tuple[float, float] | None
    before: Guard
    after: Guard
    steps: int
    seconds: float

    def table(self) -> dict[str, Any]:
        """Plain values, for a card."""
        scores = {"together": self.together, "before": asdict(self.before), "after": asdict(self.after)}
        return {"kept": self.kept, "steps": self.steps, "minutes": round(self.seconds / 60, 2), **scores}


def adapt(
    tracker: Tracker,
    footage: Sequence[Footage],
    *,
    minutes: float = 3.0,
    rounds: int | None = None,
    run: Run | None = None,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Adapted:
    """Train a copy of ``tracker`` on ``footage``, until ``minutes`` are over, and keep what is best.

    Statistics are moved if the guard's score gains. After each round of training, what learned to tell better what moves
    together in frames held out is kept, if the guard lets it. ``run`` is one round (default: ``ROUND``); at least one is
    done, at most ``rounds`` where that is given, and none in no time (0 minutes). It ends early when two in a row were no
    better. ``on_progress(stage, done, of how many, note)``, in seconds. Raises ``InputError`` for a tracker without
    parameters.
    """
    run, rounds = run or ROUND, rounds if minutes else 0
    original = tracker.to(device).eval()
    if not _learns(original.encoder):
        raise InputError("adaptation: this tracker has nothing to train; give weights that were learned")
    before = after = guard(original, footage)
    kept: Kept = "original"
    best = original
    began, steps = time.monotonic(), 0
    moved = with_statistics(original, footage)
    judged = guard(moved, footage)
    if judged.improves(before):
        best, kept, after = moved, "statistics", judged
    if rounds == 0:
        return Adapted(best, kept, None, before, after, steps, time.monotonic() - began)

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
                part, Crops(moving, part), folder, sources=names, device=device, tracker=learner, on_step=on_step
            )
        learner.load_state_dict(average.state_dict())
        return average

    flow = flow_method(FLOW if find_spec("cv2") else WITHOUT_OPENCV, device=device)
    moving, unseen = (Neighbours(footage, flow, held=held) for held in (False, True))
    learner = _learner(best)
    learner.encoder.requires_grad_(False)
    first = last = found(trained(READING), Crops(unseen, run))
    learner.encoder.requires_grad_(True)
    _freeze_statistics(learner)
    done = idle = 0
    while idle < PATIENCE and (done < rounds if rounds else not done or time.monotonic() < began + 60 * minutes):
        try:
            average = trained(replace(run, seed=run.seed + done))
        except (InputError, DiskError):
            raise
        except PixeltrailError:  # it diverged; what was found before stands
            break
        done, idle = done + 1, idle + 1
        alike, judged = found(average, Crops(unseen, run)), guard(average, footage)
        if alike > last and judged.holds(before):
            best = _tracker(average.encoder, original, original.objective)
            kept, last, after, idle = "adapted", alike, judged, 0
    return Adapted(best.eval(), kept, (first, last), before, after, steps, time.monotonic() - began)


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
    adapted = adapt(tracker, footage, minutes=minutes, device=device, on_progress=on_progress, **options)
    origin = {"from": str(card.get("name", source.stem)), "digest": weights.digest(source)}
    card |= {
        "date": time.strftime("%Y-%m-%d"),
        "adapted": {**origin, "videos": [video.name for video in footage], **adapted.table()},
    }
    if adapted.kept == "original":
        weights.save_tensors(tensors, out, card)
    else:
        weights.save(adapted.tracker, out, card)
    return adapted


def _learns(part: object) -> bool:
    return isinstance(part, nn.Module) and next(part.parameters(), None) is not None


@torch.no_grad()
def _learner(tracker: Tracker) -> Tracker:
    """A copy that learns what moves together, anchored to what it was."""
    torch.manual_seed(0)
    channels = tracker.embed(torch.zeros(1, 3, 64, 64, device=tracker.device)).shape[1]
    return _tracker(copy.deepcopy(tracker.encoder), tracker, Together(tracker.encoder, channels))


def _tracker(encoder: nn.Module, like: Tracker, objective: Objective) -> Tracker:
    return Tracker(encoder=encoder, bottleneck=like.bottleneck, protocol=like.protocol, objective=objective)


def _freeze_statistics(tracker: Tracker) -> None:
    """Normalisation stays as it is: the loop leaves alone what has no gradient."""
    for module in tracker.modules():
        if isinstance(module, _BatchNorm):
            module.requires_grad_(False)
