"""Tracking in a workspace without the page: ``pixeltrail track --workspace``. The page then shows what was made."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pixeltrail.app import importing
from pixeltrail.app.jobs import Job
from pixeltrail.app.project import Project
from pixeltrail.app.tracking import adapt, track_masks, track_points
from pixeltrail.errors import InputError
from pixeltrail.tracker import Tracker
from pixeltrail.types import LabelMap, Points

Show = Callable[[str, int, int | None], None]
Direction = Literal["forward", "backward", "both"]


def give(project: Project, given: Mapping[int, LabelMap] | Points) -> None:
    """Paint labels, or set points, as a user of the page does."""
    past = project.past(secrets.token_hex(16))
    if isinstance(given, Points):
        importing.take(project, given, 0, past)
    else:
        for t, labels in given.items():
            importing.take(project, labels, t, past)


def adapt_project(project: Project, method: str, quality: str, minutes: float, device: str, show: Show) -> str:
    """Adapt the weights to the project's video, as the page does; returns the file to track with."""

    def publish(_: str, told: dict[str, Any], __: bytes) -> None:
        if told["done"]:
            show("adapting", told["done"], told["total"] or None)

    adapt(method, quality, minutes, device)(Job(project, "adapt", publish))
    project.save()
    return str(project.adapted)


def track_project(project: Project, tracker: Tracker, direction: Direction, show: Show) -> int:
    """Follow all unlocked objects from the key frames, and all points from where they were set. Returns how many frames
    were tracked. What was done is saved, whatever stops it. Raises InputError where there is nothing to follow."""
    painted = sorted(t for t in project.keys if project.rows[t]["objects"])
    placed = sorted({t for p in project.points for t in p.keys})
    if not painted and not placed:
        raise InputError(f"{project.folder}: no frame is painted and no point set; do so on the page, or give --labels")
    free = [t.id for t in project.things.values() if not (t.locked or t.deleted)]
    done = 0
    for kind, keys in (("masks", painted), ("points", placed)):
        for begin, end in _legs(keys, project.count - 1, direction, from_last=kind == "points"):
            stage = f"tracking {kind}" if begin < end else f"tracking {kind} back"

            def publish(_: str, told: dict[str, Any], __: bytes, stage: str = stage) -> None:
                if told["done"]:
                    show(stage, told["done"], told["total"])

            job = Job(project, kind, publish)
            track = track_masks(tracker, begin, end, free) if kind == "masks" else track_points(tracker, begin, end)
            try:
                track(job)
            finally:
                project.save()
                done += job.done
    return done


def _legs(keys: list[int], last: int, direction: Direction, *, from_last: bool) -> list[tuple[int, int]]:
    """First and last frame of each way to go; forward comes last, so that where both have been it counts.

    ``from_last``: going both ways, the way back begins at the last key frame, since each point has frames of its own.
    """
    legs = []
    if keys and direction != "forward":
        legs.append((keys[-1] if direction == "backward" or from_last else keys[0], 0))
    if keys and direction != "backward":
        legs.append((keys[0], last))
    return [leg for leg in legs if leg[0] != leg[1] or direction != "both"]
