"""Pictures and videos cut into things that would move together: clusters of an embedding, whose numbers last.

Nothing moves here: what a network such as that of `methods.cpfs` embeds alike, it expects to move alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.data.files import require_writable_folder
from pixeltrail.data.images import IMAGE_SUFFIXES, read_image, write_image
from pixeltrail.data.labels import write_labels
from pixeltrail.data.video import Frame, open_frames
from pixeltrail.errors import InputError, PixeltrailError
from pixeltrail.geometry import cells_to_pixels
from pixeltrail.jobs.folder import require_apart
from pixeltrail.jobs.track import OnFrame, Summary, ahead, until_problem
from pixeltrail.nets.hypercolumns import Hypercolumns
from pixeltrail.tracker import Tracker
from pixeltrail.types import Image, LabelMap
from pixeltrail.visual.features import Colours, enlarged
from pixeltrail.visual.overlay import overlay

STRIDE = 4
"""Pixels from one embedded pixel to the next, for networks that embed any pixel."""
MOST = 64
"""Clusters, at most."""
RESTARTS = 4


def segment_file(
    path: str | Path,
    out: str | Path,
    tracker: Tracker,
    *,
    clusters: int = 4,
    size: int = 240,
    seed: int = 0,
    on_frame: OnFrame | None = None,
) -> Summary:
    """Write for each frame of a picture or a video OUT/clusters/NAME.png, a label map of cluster numbers, and
    OUT/pictures/NAME.jpg: the frame under its clusters, beside its embedding in colours (PCA of the first frame).

    ``size`` is the short side at which frames are embedded. Memory does not grow with the length. A video that is damaged
    in its middle is done up to there, as the summary tells. Raises InputError, DiskError.
    """
    path, out = Path(path), Path(out)
    problems: list[PixeltrailError] = []
    count: int | None = 1
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        frames: Iterator[Frame] = iter([Frame(0, path.stem, read_image(path), None)])
        files = [path]
    else:
        source = open_frames(path)
        frames, count, files = until_problem(source.frames(), problems), source.count, source.files
    require_apart(out, files)
    segment = Segmenter(tracker, clusters=clusters, size=size, seed=seed)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{problems[0] if problems else path}; no frame could be read")
    labels, pictures = (require_writable_folder(out / name) for name in ("clusters", "pictures"))
    done = 0
    for frame in ahead(chain([first], frames)):
        found = segment(frame.image)
        write_labels(labels / f"{frame.name}.png", LabelMap(found.ids))
        beside = (overlay(frame.image, found.ids), found.embedding)
        write_image(pictures / f"{frame.name}.jpg", np.concatenate(beside, 1))
        done += 1
        if on_frame:
            on_frame("segmenting", done, count)
    return Summary(done, problems[0] if problems else None)


@dataclass(frozen=True, slots=True, eq=False)
class Segmented:
    """``ids`` (H, W) uint8: cluster numbers, 0 the one that was largest in the first frame. ``embedding`` (H, W, 3) uint8:
    its three strongest components in the first frame as colours."""

    ids: NDArray[np.uint8]
    embedding: Image


class Segmenter:
    """Called with one frame of a video after the other, (H, W, 3) uint8 RGB, returns `Segmented`.

    The first frame's clusters are found by k-means over directions; each later frame begins from those of the frame
    before, so that a cluster keeps its number. ``tracker`` may be any: the unit vectors of its embedding are clustered.
    Raises InputError for fewer than 2 or more than 64 clusters.
    """

    def __init__(self, tracker: Tracker, *, clusters: int = 4, size: int = 240, seed: int = 0) -> None:
        if not 2 <= clusters <= MOST or size < 8:
            raise InputError(
                f"segment: {clusters} clusters, size {size}; there are 2 to {MOST}, and sizes from 8 pixels on"
            )
        self.tracker, self.clusters, self.size, self.seed = tracker.eval(), clusters, size, seed
        self.centres: Tensor | None = None
        self.colours: Colours | None = None

    @torch.inference_mode()
    def __call__(self, image: Image) -> Segmented:
        features, scale, stride = embedded(self.tracker, image, self.size)
        points = features.flatten(1).T
        if self.centres is None:
            self.centres = directions(points, min(self.clusters, len(points)), seed=self.seed)
            self.colours = Colours.of(features.cpu().numpy())
        else:
            self.centres = refined(points, self.centres, 3)
        assert self.colours is not None
        height, width = image.shape[:2]
        # Interpolated embeddings compare to the centres as interpolated comparisons do.
        alike = (self.centres @ features.flatten(1)).unflatten(1, features.shape[1:])
        ids = F.interpolate(
            cells_to_pixels(alike.unsqueeze(0), (round(height * scale), round(width * scale)), stride),
            (height, width), mode="bilinear", align_corners=False,
        )[0].argmax(0)  # fmt: skip
        picture = enlarged(self.colours(features.cpu().numpy()), (height, width), stride / scale)
        return Segmented(ids.to(torch.uint8).cpu().numpy(), picture)


def embedded(tracker: Tracker, image: Image, size: int) -> tuple[Tensor, float, int]:
    """Unit vectors (C, h, w) of a frame at a short side of ``size``, by how much it was scaled, and their stride."""
    rgb = torch.from_numpy(np.ascontiguousarray(image)).to(tracker.device).movedim(-1, 0).unsqueeze(0).float() / 255
    height, width = image.shape[:2]
    scale = size / min(height, width)
    rgb = F.interpolate(rgb, (round(height * scale), round(width * scale)), mode="bilinear", antialias=True)
    if isinstance(tracker.encoder, Hypercolumns):
        found, stride = tracker.encoder.dense(tracker.bottleneck.view(rgb), STRIDE), STRIDE  # type: ignore[operator]
    else:
        found, stride = tracker.embed(rgb), tracker.stride
    return F.normalize(found[0].float(), dim=0), scale, stride


def directions(points: Tensor, clusters: int, *, seed: int = 0) -> Tensor:
    """k-means over unit vectors (N, D), N >= clusters: centres (clusters, D) of length 1, the largest cluster's first.

    k-means++ seeding, the best of ``RESTARTS`` by mean cosine; a seed decides everything."""
    generator = torch.Generator().manual_seed(seed)
    best, most = points[:clusters], -2.0
    for _ in range(RESTARTS):
        centres = points[torch.randint(len(points), (1,), generator=generator)]
        while len(centres) < clusters:
            far = (1 - (points @ centres.T).amax(1)).clamp_min(0) + 1e-9
            centres = torch.cat((centres, points[torch.multinomial(far.cpu(), 1, generator=generator)]))
        centres = refined(points, centres, 20)
        mean = float((points @ centres.T).amax(1).mean())
        if mean > most:
            best, most = centres, mean
    size = torch.bincount((points @ best.T).argmax(1), minlength=clusters)
    return best[size.argsort(descending=True, stable=True)]


def refined(points: Tensor, centres: Tensor, steps: int) -> Tensor:
    """k-means steps over unit vectors (N, D) from ``centres`` (K, D); a centre that nothing is nearest to stays."""
    for _ in range(steps):
        nearest = (points @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        length = sums.norm(dim=1, keepdim=True)
        centres = torch.where(length > 1e-6, sums / length.clamp_min(1e-6), centres)
    return centres
