"""Tracking a whole video into a folder: interruptible, resumable, in memory that does not grow with its length.

The folder holds ``masks/NAME.png`` and ``tracks.json`` for masks and boxes, ``points.csv`` for points, and
``overlay.mp4``. While work goes on it also holds ``.job/``: the settings, for each direction a journal with one line
per finished frame, and every ``save_every`` frames the state of the tracker, from which ``resume`` goes on with
identical results. Whatever stops the job, each file is whole or not there.
"""

from pixeltrail.jobs.folder import require_apart, resumable
from pixeltrail.jobs.track import Direction, OnFrame, Summary, boxes_to_labels, track_video

__all__ = ["Direction", "OnFrame", "Summary", "boxes_to_labels", "require_apart", "resumable", "track_video"]
