"""Flow of corners only: where Lucas and Kanade find them again, as a table and as arrows."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.files import require_writable_folder, write_text
from pixeltrail.data.images import write_image
from pixeltrail.flow.sparse import Places, corners, lucas_kanade
from pixeltrail.flow_methods import checked
from pixeltrail.jobs.flow_pair import read_pair, require_outputs, round_scale
from pixeltrail.visual.flow import draw_arrows, with_legend

NAME = "lk"
HEAD = "x,y,to_x,to_y"


def sparse_flow_of_pair(
    first: Path, second: Path, out: Path | None, picture: Path | None, *, settings: Mapping[str, Any],
    scale: float | None = None,
) -> tuple[int, int]:  # fmt: skip
    """Follow the corners of ``first`` to ``second``; write those found again to ``out``, a row each (x, y, to_x, to_y in
    pixels), and arrows over the first image to ``picture``.

    ``settings``: those of `flow.sparse.corners` and `lucas_kanade`. Returns how many were found again, and of how many.
    Raises InputError, before anything is written, for what cannot be used.
    """
    own = {key: value for key, value in settings.items() if key in signature(corners).parameters}
    rest = checked(NAME, lucas_kanade, {key: value for key, value in settings.items() if key not in own})
    own = checked(NAME, corners, own)
    one, two = read_pair(first, second)
    require_outputs(out, picture, (first, second), files=(".csv",))
    places = corners(one, **own)
    there, found = lucas_kanade(one, two, places, **rest)
    start, moved = places[found], (there - places)[found]
    if picture is not None:
        top = scale or round_scale(float(np.quantile(np.hypot(*moved.T), 0.99)) if len(moved) else 0.0)
        drawn = with_legend(
            draw_arrows(one, _scattered(start, moved, one.shape), top, at=np.rint(start).astype(int)), top
        )
    for path in (out, picture):
        if path is not None:
            require_writable_folder(path.absolute().parent)
    if out is not None:
        rows = (",".join(f"{n:.3f}" for n in row) for row in np.concatenate((start, start + moved), 1))
        write_text(out, "\n".join((HEAD, *rows)) + "\n")
    if picture is not None:
        write_image(picture, drawn)
    return int(found.sum()), len(found)


def _scattered(places: Places, flow: Places, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(H, W, 2), NaN but at the pixels nearest to ``places`` (P, 2)."""
    field = np.full((*shape[:2], 2), np.nan, np.float32)
    x, y = np.rint(places).astype(int).T
    field[y, x] = flow
    return field
