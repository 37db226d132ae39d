"""Looking at a tracker while it learns: a picture of one clip at every save, and J&F where there are masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.data.davis import Davis
from pixeltrail.data.files import require_writable_folder
from pixeltrail.data.images import write_image
from pixeltrail.evaluation.report import evaluate_masks
from pixeltrail.geometry import cells_to_pixels, down_to_cells
from pixeltrail.predictors import with_protocol
from pixeltrail.protocols import at_quality
from pixeltrail.tracker import Tracker
from pixeltrail.training.feed import Sampler
from pixeltrail.types import Batch, Image, Points
from pixeltrail.visual.features import enlarged, pca_colours
from pixeltrail.visual.overlay import draw_points
from pixeltrail.visual.sheet import contact_sheet

SHOWN = 4
"""Frames of a clip in a picture."""
GRID = 8
"""Points along each side that are followed through it."""
UNSEEN = 1 << 30
"""The number of a batch that no run is so long as to show, and MEASURED batches after it."""
MEASURED = 8
SEQUENCES = 2
"""How many sequences J&F is taken on while training goes on."""


class Watcher:
    """What the training loop calls at every save: ``watcher(step, tracker)``.

    Writes ``OUT/pictures/<step>.png``: always the same training clip, drawn as `clip_picture` says. With ``masks``, a
    folder in DAVIS's layout, returns {"J&F": ...} of its first sequences at quality ``fast``, which takes some seconds a
    sequence. Changes neither the tracker nor any random generator. Raises InputError when ``masks`` is no such folder.
    """

    def __init__(self, out: Path, sampler: Sampler, masks: Path | None, show: bool = True) -> None:
        self.sequences = list(islice(Davis(masks), SEQUENCES)) if masks is not None else []
        self.folder = out / "pictures"
        # Taken now: later the sampler belongs to the threads that load batches.
        made = sampler.batch(0, range(1)) if show else None
        self.clip = None if made is None else (made[0] if isinstance(made, tuple) else made)[0]
        rows = [sampler.batch(UNSEEN + i, range(1)) for i in range(MEASURED)] if isinstance(made, tuple) else []
        self.unseen = [np.concatenate(part) for part in zip(*rows, strict=True)]

    def __call__(self, step: int, tracker: Tracker) -> dict[str, float]:
        if self.clip is not None:
            require_writable_folder(self.folder)
            write_image(self.folder / f"{step:06d}.png", clip_picture(tracker, self.clip))
        scores = self._measures(tracker)
        if not self.sequences:
            return scores
        fast = with_protocol(tracker)
        fast.protocol = at_quality(tracker.protocol, "fast")
        report = evaluate_masks(
            lambda frames, first: (tracked.ids for tracked in fast.track(frames, first)), self.sequences
        )
        return {**scores, "J&F": report.overall["J&F"]}

    def _measures(self, tracker: Tracker) -> dict[str, float]:
        """What an objective that learns from flow says of itself, on rows that no step of training shows."""
        if not self.unseen or not hasattr(tracker.objective, "measures"):
            return {}
        clip, flow = (torch.from_numpy(array).to(tracker.device).movedim(-1, -3) for array in self.unseen)
        batch = Batch(clip.float() / 255, torch.Generator().manual_seed(0), flow=flow)
        measures: dict[str, float] = tracker.objective.measures(tracker, batch)
        return measures


@torch.inference_mode()
def clip_picture(tracker: Tracker, clip: NDArray[np.uint8]) -> Image:
    """A sheet of up to ``SHOWN`` frames of a clip (T, H, W, 3), first and last among them, in four rows: the frames,
    their features in colours, a grid of points followed from the first frame, and the first frame's colours copied to
    each later one along the affinity. All at the clip's own size, otherwise by the tracker's own protocol."""
    tracker = with_protocol(tracker, size=None).eval()
    chosen = spread(len(clip), SHOWN)
    frames, (height, width) = list(clip[chosen]), clip.shape[1:3]
    maps, _ = _embedded(tracker, frames)
    across = ((np.arange(GRID) + 0.5) * side / GRID - 0.5 for side in (width, height))
    points = Points(np.stack(np.meshgrid(*across), -1).reshape(-1, 2))
    followed = [f.xy for f in tracker.follow(clip, points)]
    seen = np.ones(GRID * GRID, np.bool_)
    rows = {
        "frame": frames,
        "features": _coloured(tracker, maps, (height, width), tracker.stride),
        "points of frame 0": [draw_points(clip[t], followed[t], seen, radius=max(height, width) / 80) for t in chosen],
        "colours of frame 0": _copied(tracker, maps, frames, chosen),
    }
    titles = [f"{row} {t}" if row == "frame" else row for row in rows for t in chosen]
    pictures = [picture for row in rows.values() for picture in row]
    return contact_sheet(pictures, columns=len(chosen), titles=titles, width=max(width, 192))


def feature_sheet(trackers: Mapping[str, Tracker], frames: Sequence[Image], names: Sequence[str]) -> Image:
    """A sheet with the ``frames``, called ``names``, in its first row and a row of feature colours for each tracker."""
    pictures, titles = list(frames), list(names)
    for name, tracker in trackers.items():
        pictures += feature_pictures(tracker, frames)
        titles += [name] * len(frames)
    return contact_sheet(pictures, columns=len(frames), titles=titles)


@torch.inference_mode()
def feature_pictures(tracker: Tracker, frames: Sequence[Image]) -> list[Image]:
    """The features that the affinity compares, as `pca_colours`, one picture of the frame's size for each frame.

    Frames (H, W, 3) uint8 are embedded as the protocol says. Raises ShapeError when their sizes differ.
    """
    maps, work = _embedded(tracker, frames)
    size = frames[0].shape[0], frames[0].shape[1]
    return _coloured(tracker, maps, size, tracker.stride * size[0] / work[0])


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 … count − 1, evenly spread, both ends among them."""
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
    return chosen


def _embedded(tracker: Tracker, frames: Sequence[Image]) -> tuple[Tensor, tuple[int, int]]:
    """Features (T, C, h, w), and the size (H', W') at which the frames were embedded."""
    session = tracker.live()
    found = [session.features(frame) for frame in frames]
    return torch.cat([key for key, _ in found]), found[0][1]


def _coloured(tracker: Tracker, maps: Tensor, size: tuple[int, int], stride: float) -> list[Image]:
    return list(enlarged(pca_colours(tracker.protocol.affinity.unit(maps, 1).cpu().numpy()), size, stride))


def _copied(tracker: Tracker, maps: Tensor, frames: list[Image], times: list[int]) -> list[Image]:
    """The first frame, as coarse as its cells, and its colours where each later frame finds them."""
    first = torch.from_numpy(np.ascontiguousarray(frames[0])).to(maps.device).movedim(-1, 0).unsqueeze(0).float() / 255
    colours = down_to_cells(first, tracker.stride)
    copies = [colours] + [
        tracker.propagate(key.unsqueeze(0), times[:1], maps[:1].unsqueeze(1), colours.unsqueeze(1), t)
        for key, t in zip(maps[1:], times[1:], strict=True)
    ]
    return [_image(cells_to_pixels(copy, (first.shape[-2], first.shape[-1]), tracker.stride)[0]) for copy in copies]


def _image(rgb: Tensor) -> Image:
    picture: Image = (255 * rgb.clamp(0, 1)).round().to(torch.uint8).movedim(0, -1).cpu().numpy()
    return picture
