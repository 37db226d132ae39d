"""The routes of magic fill and *See why*: what the page asks of the encoder and of the flow. They bring torch."""

from __future__ import annotations

import io
from typing import Annotated, Literal

import numpy as np
import PIL.Image
from fastapi import FastAPI, Query, Response
from fastapi import Path as FromPath
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pixeltrail.app.answers import picture, runs_of
from pixeltrail.app.trackers import Quality, Trackers, Weights
from pixeltrail.app.workspace import Workspace
from pixeltrail.types import Image, LabelMap

Number = Annotated[str, FromPath(pattern="^[0-9a-f]{32}$")]
Frame = Annotated[int, FromPath(ge=0, lt=10**9)]
FrameQuery = Annotated[int, Query(ge=0, lt=10**9)]
Place = Annotated[int, Field(ge=-(10**6), le=10**6)]
TRIP = 0.5, 4.0
"""Pixels from its start at which a pixel that went forward and back begins to be shown, and is shown in full."""


class Body(BaseModel):
    """A question of the page; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid")


class FillBody(Body):
    x: Place
    y: Place
    tolerance: float = Field(0.5, ge=0, le=2)


def add_views(app: FastAPI, workspace: Workspace, trackers: Trackers) -> None:
    """Torch is imported when the first of these is asked for."""

    @app.post("/projects/{number}/fill/{index}")
    def fill(number: Number, index: Frame, body: FillBody) -> Response:
        from pixeltrail.app import features

        project = workspace.project(number)
        tracker = trackers.get(project, "standard", "balanced")
        found = features.fill(tracker, project.frames.image(index), body.x, body.y, body.tolerance)
        return runs_of(found.astype(np.uint8))

    @app.get("/projects/{number}/heat/{index}")
    def heat(number: Number, index: Frame, x: Place, y: Place, reference: FrameQuery) -> Response:
        from pixeltrail.app import features

        project = workspace.project(number)
        tracker = trackers.get(project, "standard", "fast")
        image, seen = project.frames.image(index), project.frames.image(reference)
        return picture(png(_glow(features.heat(tracker, image, seen, x, y))), "image/png")

    @app.get("/projects/{number}/views/{kind}/{index}")
    def view(number: Number, kind: Literal["pca", "flow", "arrows", "trip"], index: Frame) -> Response:
        from pixeltrail.app import features

        project = workspace.project(number)
        image = project.frames.image(index)
        if kind == "pca":
            return picture(png(features.pca(trackers.get(project, "standard", "balanced"), image)), "image/png")
        after = project.frames.image(min(index + 1, project.count - 1))
        if kind == "trip":
            shown = _glow(np.interp(features.trip(image, after), TRIP, (0, 1)).astype(np.float32))
        else:
            shown = (features.flow if kind == "flow" else features.arrows)(image, after)
        return picture(png(shown), "image/png")

    @app.get("/projects/{number}/carried/{index}")
    def carried(number: Number, index: Frame, reference: FrameQuery, weights: Weights, quality: Quality) -> Response:
        """The mask of a key frame carried to this frame at one go, by one or the other weights."""
        from pixeltrail.app import features

        project = workspace.project(number)
        tracker = trackers.get(project, weights, quality)
        labels = LabelMap(project.mask(reference))
        found = features.carried(tracker, project.frames.image(index), project.frames.image(reference), labels)
        return runs_of(found.ids)


def _glow(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Shares (h, w) from 0 to 1 as RGBA: nothing, red, orange."""
    rgba = np.zeros((*share.shape, 4), np.uint8)
    rgba[..., 0], rgba[..., 1] = 255, np.rint(200 * share)
    rgba[..., 3] = np.rint(230 * np.sqrt(share))
    return rgba


def png(image: Image) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()
