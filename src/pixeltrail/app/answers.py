"""How the server answers: pictures, masks, and one line for what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pixeltrail.app import runs
from pixeltrail.app.security import TooLargeError
from pixeltrail.app.workspace import Workspace, told
from pixeltrail.errors import DiskError, PixeltrailError


def picture(data: bytes, kind: str) -> Response:
    """An answer that the browser may keep: no frame ever changes."""
    return Response(data, media_type=kind, headers={"cache-control": "private, max-age=3600"})


def runs_of(ids: NDArray[np.uint8]) -> Response:
    return Response(runs.encode(ids), media_type="application/octet-stream")


def refusals(workspace: Workspace) -> dict[Any, Any]:
    """By the kind of an error, what answers it."""

    async def refuse(_: Request, error: PixeltrailError) -> JSONResponse:
        return JSONResponse({"error": told(error, workspace.root)}, 507 if isinstance(error, DiskError) else 400)

    async def too_large(_: Request, error: TooLargeError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 413, {"connection": "close"})

    return {PixeltrailError: refuse, TooLargeError: too_large}
