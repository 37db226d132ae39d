"""What ``evaluate`` can run under one roof: trackers, and the baselines that learn nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pixeltrail import catalogue, weights
from pixeltrail.affinity import Affinity
from pixeltrail.backbone import own_tracker
from pixeltrail.bottleneck import DropLab, DropRGB
from pixeltrail.errors import InputError
from pixeltrail.flow.classical import dis, farneback
from pixeltrail.flow.propagate import Flow, Ids, identity, propagate_labels, propagate_points, stay
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.colour import RawColour
from pixeltrail.nets.sift import DenseSift
from pixeltrail.protocols import adjusted, at_quality, preset
from pixeltrail.sessions import Followed
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Image, LabelMap, Points

Predict = Callable[[Iterable[Image], LabelMap | Mapping[int, LabelMap]], Iterable[Ids]]
Follow = Callable[[Iterable[Image], Points], Iterable[Followed]]

FLOW = "flow:"
"""``flow:NAME`` carries labels and points along the flow of ``flow_methods.flow_method(NAME)``."""
BASELINES: dict[str, Predict] = {
    "identity": identity,
    "farneback": partial(propagate_labels, flow=farneback),
    "dis": partial(propagate_labels, flow=dis),
}


def raw_colour() -> Tracker:
    """Affinity between raw Lab colours, nothing learned."""
    return _hand_made(RawColour(), DropLab(), 0.01)


def dense_sift() -> Tracker:
    """Affinity between dense SIFT descriptors (RootSIFT), the place of SIFT Flow: nothing learned.

    Where SIFT Flow looks for one smooth field by belief propagation, the matcher here is that of all trackers: the ten
    best candidates within 12 cells, in frame 0 and the last three.
    """
    return _hand_made(DenseSift(), DropRGB(), 0.05)


def _hand_made(encoder: nn.Module, bottleneck: nn.Module, temperature: float) -> Tracker:
    return Tracker(
        encoder=encoder,
        bottleneck=bottleneck,
        protocol=Protocol(
            affinity=Affinity(radius=12, temperature=temperature, normalize=True, topk=10),
            policy=MemoryPolicy(anchors=(0,), recent=3),
        ),
        objective=lambda tracker, batch: {},
    )


def untrained() -> Tracker:
    """The default tracker's network and protocol with random weights (seed 0): what the architecture does by itself."""
    path = weights.path_of(weights.DEFAULT)
    assert path is not None
    card = weights.read_card(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return catalogue.build(str(card["method"]), **card.get("settings", {})).eval()


HAND_MADE: dict[str, Callable[[], Tracker]] = {"colour": raw_colour, "sift": dense_sift, "untrained": untrained}


def load_tracker(
    method: str, *, protocol: str = "", quality: str = "", encoder: str = "", device: str = "cpu"
) -> Tracker:
    """A tracker by name or file, under a named protocol or at a speed preset where one is given.

    ``FILE.py:WEIGHTS`` is somebody's own method with the weights that training it made. ``encoder``: somebody's own
    features in a method's place (see `pixeltrail.backbone`), under DINO's protocol where none is given.
    """
    code, colon, file = method.partition(".py:")
    if encoder:
        if method != weights.DEFAULT:
            raise InputError(f"--encoder {encoder} and --method {method}: give one of them")
        tracker = own_tracker(encoder, preset(protocol or "dino"))
    elif colon:
        tracker = weights.load(f"{code}.py")
        weights.load_into(tracker, file)
    else:
        tracker = HAND_MADE[method]() if method in HAND_MADE else weights.load(method)
    if protocol:
        tracker.protocol = preset(protocol)
    if quality:
        tracker.protocol = at_quality(tracker.protocol, quality)
    return tracker.to(device)


@dataclass(frozen=True)
class Contender:
    """Something to be evaluated, whatever a benchmark asks of it: ``masks`` and ``points`` begin anew with every call."""

    masks: Predict
    points: Follow
    settings: dict[str, Any] = field(default_factory=dict)


def contender(
    method: str,
    *,
    protocol: str = "",
    quality: str = "",
    encoder: str = "",
    device: str = "cpu",
    own_size: bool = False,
    **changes: Any,
) -> Contender:
    """A tracker as `load_tracker` makes it, or a baseline: identity, farneback, dis, or flow:NAME.

    ``own_size``: frames come at the benchmark's size, so the protocol's is set aside (a quality's counts). ``changes`` are
    those of `protocols.adjusted`.
    """
    if not encoder and (method in BASELINES or method.startswith(FLOW)):
        if protocol or quality or any(value is not None for value in changes.values()):
            raise InputError(
                f"--method {method}: has no protocol; give --protocol, --quality and the like to a tracker"
            )
        if method == "identity":
            return Contender(identity, stay, {"method": method})
        flow = _flow(method, device)
        labels, points = partial(propagate_labels, flow=flow), partial(propagate_points, flow=flow)
        return Contender(labels, points, {"method": method})
    tracker = load_tracker(method, protocol=protocol, quality=quality, encoder=encoder, device=device)
    if own_size and not quality:
        tracker.protocol = replace(tracker.protocol, size=None)
    tracker.protocol = adjusted(tracker.protocol, **changes)

    def masks(frames: Iterable[Image], labels: LabelMap | Mapping[int, LabelMap]) -> Iterator[Ids]:
        return (tracked.ids for tracked in tracker.track(frames, labels))

    return Contender(masks, tracker.follow, {"method": encoder or method, **describe(tracker, encoder or method)})


def _flow(method: str, device: str) -> Flow:
    from pixeltrail.flow_methods import flow_method  # which may use this module in its turn

    return flow_method(method.removeprefix(FLOW), device=device)


def predictor(
    method: str, *, protocol: str = "", quality: str = "", device: str = "cpu"
) -> tuple[Predict, dict[str, Any]]:
    """The function that ``evaluate_masks`` calls, and the settings that belong into the report."""
    made = contender(method, protocol=protocol, quality=quality, device=device)
    return made.masks, made.settings


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
