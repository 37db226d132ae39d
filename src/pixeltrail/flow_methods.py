"""Optical flow by name: classical estimators, flow networks and trackers answer the same question in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.flow.classical import Flow, dis, farneback, opencv, tvl1
from pixeltrail.flow.classical import refine as variational
from pixeltrail.types import Image

FlowMethod = Callable[[Image, Image], Flow]
"""Two frames (H, W, 3) uint8 RGB of one size -> (H, W, 2) float32 in pixels: first(x) ~ second(x + flow(x))."""

CLASSICAL: dict[str, Callable[..., Flow]] = {"farneback": farneback, "dis": dis, "tvl1": tvl1}
LEARNED = ("default", "embedded")
TRACKER = "tracker"
UNIT_TEMPERATURE = 0.05
"""Of unit vectors, where a method has none for them."""
EMBEDDED = "flow.safetensors"
"""The learned flow that comes with the package, beside the weights of the default tracker."""


def flow_method(name: str, *, device: str = "cpu", **settings: Any) -> FlowMethod:
    """The function that estimates flow under this name.

    ``farneback``, ``dis``, ``tvl1``: the functions of `flow.classical`, to whose keywords ``settings`` belong.
    ``default`` or ``embedded``: the network that comes with the package; a .safetensors file whose card names a
    "network": that one; ``pyramid`` is the width of `estimate.coarse_to_fine`, 0 for a single look, by default as the card
    says, which is none for published weights. ``tracker`` (the default one), another weights file, a tracker's name or Python
    file: the displacement of that tracker's affinity, upsampled; ``settings`` are ``protocol`` and ``quality``.

    Raises:
        UnknownNameError: a name that nothing has; the message says the nearest.
        InputError: a setting that the method has not, a missing file.
        WeightsError: a file that is damaged or does not fit.
    """
    if name in CLASSICAL:
        return partial(CLASSICAL[name], **checked(name, CLASSICAL[name], settings))
    from pixeltrail import catalogue, weights
    from pixeltrail.flow_networks import CLASSES
    from pixeltrail.predictors import HAND_MADE  # which may use this module in its turn

    file = weights_of(name)
    if file is not None and (name in LEARNED or "network" in weights.read_card(file)):
        return _network_flow(str(file), device, **checked(name, _network_flow, settings))
    if name in CLASSES:
        raise InputError(
            f"flow: {name} is a network and comes without weights; train it (pixeltrail train --method {name}) or convert "
            "published ones (pixeltrail convert), and give the .safetensors file"
        )
    trackers = (TRACKER, *HAND_MADE, *catalogue.names())
    if name not in trackers and not name.endswith((".py", ".safetensors")) and ".py:" not in name:
        raise UnknownNameError(catalogue.unknown("flow method", name, (*CLASSICAL, LEARNED[0], *trackers)))
    return _tracker_flow("default" if name == TRACKER else name, device, settings)


def polished(method: FlowMethod, *, refine: bool = False, still: float = 0.0) -> FlowMethod:
    """``method`` with its flow refined (`flow.classical.refine`) and, with ``still`` grey levels of noise, zero where the
    frames do not differ by more (`flow.algebra.hold_still`). Raises InputError where OpenCV is needed and missing."""
    if refine:
        opencv()

    def flow(first: Image, second: Image) -> Flow:
        found = method(first, second)
        if refine:
            found = variational(found, first, second)
        if still:
            from pixeltrail.flow.algebra import hold_still

            found = hold_still(found, first, second, noise=still)
        return found

    return flow if refine or still else method


def weights_of(name: str) -> Path | None:
    """The weights file that `flow_method` reads for this name; None where it needs none."""
    from pixeltrail import weights

    if name in LEARNED:
        return weights.ASSETS / EMBEDDED
    return weights.path_of("default") if name == TRACKER else weights.path_of(name.partition(".py:")[2] or name)


def _network_flow(file: str, device: str, *, pyramid: int | None = None) -> FlowMethod:
    from pixeltrail import weights
    from pixeltrail.flow.estimate import estimator
    from pixeltrail.flow_networks import load

    width = weights.read_card(file).get("pyramid", 0) if pyramid is None else pyramid
    if type(width) is not int or width < 0:
        raise InputError(f"{file}: pyramid: expected a number of pixels, such as 256, or 0 for none, got {width!r}")
    return estimator(load(file, device=device), device, pyramid=width)


def _tracker_flow(name: str, device: str, settings: Mapping[str, Any]) -> FlowMethod:
    """A tracker's answer, from the affinity of the first frame's cells to the second's.

    The mean over a whole window is pulled to its middle by every look-alike (EPE 12 on Sintel's alley_1, where nothing
    moves farther than 3), so it is taken around the peak: a first look finds the best cell, a second one the mean over
    that and its neighbours. The median of 3 x 3 cells then drops single mistakes. Features are compared as unit vectors
    also where the method multiplies them as they are (MAST): the peak of a product is at the longest vector around, not
    at the most alike (EPE 16.6 and 2.2 on Middlebury's RubberWhale).
    """
    import torch
    import torch.nn.functional as F

    from pixeltrail.geometry import cells_to_pixels
    from pixeltrail.predictors import load_tracker
    from pixeltrail.sessions import Session

    tracker = load_tracker(name, device=device, **checked(name, load_tracker, settings))
    affinity = tracker.protocol.affinity
    temperature = affinity.temperature if affinity.normalize else UNIT_TEMPERATURE
    seek = replace(affinity, topk=1, normalize=True, temperature=temperature)
    look = replace(seek, radius=1, dilation=1, circle=False, free_first=False, topk=None)

    @torch.inference_mode()
    def flow(first: Image, second: Image) -> Flow:
        session = Session(tracker)  # its features are those that tracking sees, at the protocol's size
        query, size = session.features(first)
        keys = session.features(second)[0].unsqueeze(1)
        offset = look(query, keys, seek.displacement(query, keys)).displacement()
        around = F.pad(offset, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
        offset = around.flatten(-2).median(-1).values
        pixels = cells_to_pixels(offset * tracker.stride, size, tracker.stride)
        if size != first.shape[:2]:
            scale = pixels.new_tensor([first.shape[1] / size[1], first.shape[0] / size[0]]).view(2, 1, 1)
            pixels = F.interpolate(pixels, first.shape[:2], mode="bilinear", align_corners=False) * scale
        return np.ascontiguousarray(pixels[0].permute(1, 2, 0).cpu().numpy(), np.float32)

    return flow


def checked(name: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, if the function has them all as keywords and takes such values; ``name`` is said otherwise. Raises
    InputError."""
    hints = get_type_hints(function)
    has = [p.name for p in signature(function).parameters.values() if p.kind == Parameter.KEYWORD_ONLY]
    has = [p for p in has if p != "device"]
    for key, value in settings.items():
        if key not in has:
            raise InputError(f"{name}: has no setting {key!r}; there are {', '.join(has) or 'none'}")
        wanted = get_args(hints[key]) or (hints[key],)
        if isinstance(value, bool | int | float | str) and type(value) not in wanted + (int,) * (float in wanted):
            kinds = " or ".join(kind.__name__ for kind in wanted if kind in (bool, int, float, str)) or "an array"
            raise InputError(f"{name}: {key}: expected {kinds}, got {value!r}")
    return dict(settings)
