"""What ``evaluate`` can run under one roof: trackers, and the baselines that learn nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from pixeltrail import weights
from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import DropLab
from pixeltrail.flow.classical import dis, farneback
from pixeltrail.flow.propagate import Ids, identity, propagate_labels
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.colour import RawColour
from pixeltrail.protocols import at_quality, preset
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Image, LabelMap

Predict = Callable[[Iterator[Image], LabelMap], Iterable[Ids]]

BASELINES: dict[str, Predict] = {
    "identity": identity,
    "farneback": partial(propagate_labels, flow=farneback),
    "dis": partial(propagate_labels, flow=dis),
}


def raw_colour() -> Tracker:
    """Affinity between raw Lab colours, nothing learned."""
    return Tracker(
        encoder=RawColour(),
        bottleneck=DropLab(),
        protocol=Protocol(
            affinity=Affinity(radius=12, temperature=0.01, normalize=True, topk=10),
            policy=MemoryPolicy(anchors=(0,), recent=3),
        ),
        objective=lambda tracker, batch: {},
    )


def load_tracker(method: str, *, protocol: str = "", quality: str = "", device: str = "cpu") -> Tracker:
    """A tracker by name or file, under a named protocol or at a speed preset where one is given.

    ``FILE.py:WEIGHTS`` is somebody's own method with the weights that training it made.
    """
    code, colon, file = method.partition(".py:")
    if colon:
        tracker = weights.load(f"{code}.py")
        weights.load_into(tracker, file)
    else:
        tracker = raw_colour() if method == "colour" else weights.load(method)
    if protocol:
        tracker.protocol = preset(protocol)
    if quality:
        tracker.protocol = at_quality(tracker.protocol, quality)
    return tracker.to(device)


def predictor(
    method: str, *, protocol: str = "", quality: str = "", device: str = "cpu"
) -> tuple[Predict, dict[str, Any]]:
    """The function that ``evaluate_masks`` calls, and the settings that belong into the report."""
    if method in BASELINES:
        return BASELINES[method], {"method": method}
    tracker = load_tracker(method, protocol=protocol, quality=quality, device=device)

    def predict(frames: Iterator[Image], first: LabelMap) -> Iterator[Ids]:
        return (tracked.ids for tracked in tracker.track(frames, first))

    return predict, {"method": method, **describe(tracker, method)}


def describe(tracker: Tracker, method: str) -> dict[str, Any]:
    """The settings that results depend on: weights' digest and protocol."""
    file = weights.path_of(method.partition(".py:")[2] or method)
    return {"weights": weights.digest(file) if file else None, "protocol": asdict(tracker.protocol)}


def with_protocol(tracker: Tracker, **changes: Any) -> Tracker:
    """The same tracker (sharing its weights) with some of its protocol's settings changed."""
    return Tracker(
        encoder=tracker.encoder,
        bottleneck=tracker.bottleneck,
        protocol=replace(tracker.protocol, **changes),
        objective=tracker.objective,
    )
