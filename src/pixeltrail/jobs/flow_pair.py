"""Optical flow of two images, or one file of flow: what is estimated, how it is drawn, and how far it is from the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pixeltrail.data.files import require_writable_folder
from pixeltrail.data.flowfile import FLOW_SUFFIXES, FlowField, read_flow, write_flow
from pixeltrail.data.images import IMAGE_SUFFIXES, read_image, write_image
from pixeltrail.errors import InputError
from pixeltrail.evaluation.flow import FlowScore, score_flow
from pixeltrail.flow.classical import Flow
from pixeltrail.flow_methods import FlowMethod
from pixeltrail.types import Image
from pixeltrail.visual.flow import (
    draw_arrows,
    error_map,
    flow_to_colour,
    flow_to_hsv,
    side_by_side,
    typical_length,
    warped,
    with_error_legend,
    with_legend,
)

Colour = Literal["wheel", "hsv", "arrows", "warped"]
SHOWN = {"wheel": flow_to_colour, "arrows": flow_to_colour, "hsv": flow_to_hsv}
"""The colours of each drawing's legend."""


@dataclass(frozen=True, slots=True)
class Style:
    """How flow is drawn: ``wheel``, ``hsv``, ``arrows`` over the first frame, or ``warped``, the second frame brought onto the
    first. ``scale``: the length in pixels at the rim of the wheel, by default the flow's own; ``beside``: the first frame
    stands to the left. Raises InputError."""

    colour: Colour = "wheel"
    scale: float | None = None
    beside: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise InputError(f"--scale {self.scale}: expected a number of pixels above 0")

    def require(self, images: Sequence[Image]) -> None:
        """Raise InputError for a drawing that needs more images than there are."""
        if self.colour == "warped" and len(images) < 2:
            raise InputError("--colour warped: a file of flow alone has no images; name two images, or another colour")


WHEEL = Style()


def draw_flow(flow: Flow, style: Style, images: Sequence[Image] = ()) -> Image:
    """Flow (H, W, 2) as a picture with a legend; ``images`` (H, W, 3): both frames, the first, or none. Raises InputError,
    ShapeError."""
    style.require(images)
    scale = style.scale or round_scale(typical_length(flow))
    if style.colour == "warped":
        picture = warped(images[1], flow)
    else:
        if style.colour == "arrows":
            under = images[0] if images else np.full((*flow.shape[:2], 3), 32, np.uint8)
            picture = draw_arrows(under, flow, scale)
        else:
            picture = SHOWN[style.colour](flow, scale)
        picture = with_legend(picture, scale, SHOWN[style.colour])
    return side_by_side([images[0], picture]) if style.beside and images else picture


def round_scale(length: float) -> float:
    """The scale of a picture: a length in pixels, at least 1 (noise must not look like motion), up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(max(length, 1.0))) - 1)
    return round(math.ceil(max(length, 1.0) / unit - 1e-9) * unit, 6)


def flow_of_pair(
    method: FlowMethod,
    first: Path,
    second: Path,
    out: Path | None,
    picture: Path | None = None,
    *,
    style: Style = WHEEL,
    truth: Path | None = None,
) -> FlowScore | None:
    """Estimate the flow between two images and write it to ``out`` and, drawn, to ``picture``.

    With ``truth``, a file of flow, its score is returned, and the picture shows the flow, the truth, and where they differ.
    Raises InputError, before anything is written, for frames of different sizes and whatever else cannot be used.
    """
    images = read_pair(first, second)
    true = _read_truth(truth, images[0].shape[:2])
    require_outputs(out, picture, [p for p in (first, second, truth) if p], scored=truth is not None)
    return _finish(FlowField.of(method(*images)), images, out, picture, style, true)


def convert_flow(
    file: Path, out: Path | None, picture: Path | None = None, *, style: Style = WHEEL, truth: Path | None = None
) -> FlowScore | None:
    """Write a file of flow in another format, by the suffix of ``out``, and as a ``picture``; ``truth`` as `flow_of_pair`.
    Raises InputError."""
    field = read_flow(file)
    true = _read_truth(truth, field.size)
    require_outputs(out, picture, [p for p in (file, truth) if p], scored=truth is not None)
    return _finish(field, (), out, picture, style, true)


def read_pair(first: Path, second: Path) -> tuple[Image, Image]:
    """Two images (H, W, 3) uint8 RGB. Raises InputError, also where they are of different sizes."""
    one, two = read_image(first), read_image(second)
    if one.shape != two.shape:
        sizes = [f"{i.shape[1]}x{i.shape[0]}" for i in (one, two)]
        raise InputError(f"{second}: is {sizes[1]} but {first} is {sizes[0]}; flow needs two frames of one size")
    return one, two


def unknown_as_nan(field: FlowField) -> Flow:
    """(H, W, 2), NaN where it is not known."""
    return np.where(field.valid[..., None], field.flow, np.float32(np.nan))


def _finish(
    field: FlowField, images: Sequence[Image], out: Path | None, picture: Path | None, style: Style,
    truth: FlowField | None,
) -> FlowScore | None:  # fmt: skip
    """Score, draw and write, in this order: nothing is written of what cannot be had whole."""
    flow = unknown_as_nan(field)
    score = None if truth is None else score_flow(field.flow, truth.flow, truth.valid & field.valid)
    if picture is not None:
        drawn = draw_flow(flow, style, images) if truth is None else _agreement(flow, truth, style, images)
    for path in (out, picture):
        if path is not None:
            require_writable_folder(path.absolute().parent)
    if out is not None:
        write_flow(out, field.flow, field.valid)
    if picture is not None:
        write_image(picture, drawn)
    return score


def _agreement(flow: Flow, truth: FlowField, style: Style, images: Sequence[Image]) -> Image:
    """The flow, the true one drawn alike, and the error map."""
    true = unknown_as_nan(truth)
    scale = style.scale or round_scale(max(typical_length(flow), typical_length(true)))
    found = draw_flow(flow, Style(style.colour, scale, style.beside), images)
    wrong = with_error_legend(error_map(flow, true))
    return side_by_side([found, draw_flow(true, Style(style.colour, scale), images), wrong])


def _read_truth(path: Path | None, size: tuple[int, ...]) -> FlowField | None:
    if path is None:
        return None
    truth = read_flow(path)
    if truth.size != tuple(size):
        got, wanted = (f"{s[1]}x{s[0]}" for s in (truth.size, size))
        raise InputError(f"{path}: is {got} but the flow is {wanted}; the true flow of these very frames is needed")
    if not truth.valid.any():
        raise InputError(f"{path}: knows the flow of no pixel; there is nothing to compare with")
    return truth


def require_outputs(
    out: Path | None, picture: Path | None, inputs: Sequence[Path], *, scored: bool = False,
    files: Sequence[str] = FLOW_SUFFIXES,
) -> None:  # fmt: skip
    """Refuse, before the work begins, what could not be written at its end: ``out`` is one of ``files``, and where nothing
    is ``scored``, something must be written. Raises InputError."""
    if out is None and picture is None and not scored:
        raise InputError("flow: give --out FILE for the flow, --picture FILE, or both")
    for path, suffixes in ((out, files), (picture, IMAGE_SUFFIXES)):
        if path is None:
            continue
        if path.is_dir() or path.suffix.lower() not in suffixes:
            what = (
                "is a folder" if path.is_dir() else f"cannot be written as {path.suffix or 'a file without suffix'!r}"
            )
            raise InputError(f"{path}: {what}; name a file that ends in one of {', '.join(sorted(suffixes))}")
        if path.resolve() in {file.resolve() for file in inputs}:
            raise InputError(f"{path}: is an input; choose another name")
    if out is not None and picture is not None and out.resolve() == picture.resolve():
        raise InputError(f"{out}: is both --out and --picture; give them different names")
