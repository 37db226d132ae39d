"""Tracking a whole video into a folder: interruptible, resumable, in memory that does not grow with its length.

The folder holds ``masks/NAME.png`` and ``tracks.json`` for masks and boxes, ``points.csv`` for points, and
``overlay.mp4``. While work goes on it also holds ``.job/``: the settings, for each direction a journal with one line
per finished frame, and every ``save_every`` frames the state of the tracker, from which ``resume`` goes on with
identical results. Whatever stops the job, each file is whole or not there.

Importing this imports no torch; a name brings what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixeltrail.jobs.folder import require_apart as require_apart
    from pixeltrail.jobs.folder import resumable as resumable
    from pixeltrail.jobs.track import Direction as Direction
    from pixeltrail.jobs.track import OnFrame as OnFrame
    from pixeltrail.jobs.track import Summary as Summary
    from pixeltrail.jobs.track import boxes_to_labels as boxes_to_labels
    from pixeltrail.jobs.track import track_video as track_video

_HOME = {
    "require_apart": "folder", "resumable": "folder", "Direction": "track", "OnFrame": "track", "Summary": "track",
    "boxes_to_labels": "track", "track_video": "track",
}  # fmt: skip
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
