"""The tracker: embed each frame, take its affinity to remembered frames, copy their values along it.

Every method of the field is this one class with other parts in its slots; it is never subclassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.errors import InputError
from pixeltrail.memory import MemoryPolicy
from pixeltrail.sessions import Followed, Live, PointSession, Tracked
from pixeltrail.types import Batch, Image, LabelMap, Points

Objective = Callable[["Tracker", Batch], dict[str, Tensor]]
"""What training minimises: named terms, added up by the loop. May be a module with parameters of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a trained encoder is run on a video; everything that published scores depend on besides the weights.

    ``keep``: carry soft values from frame to frame, or decide at full resolution and carry the decision (``"hard"``).
    ``stretch``: bring each class map to [0, 1] before deciding (VFS, DINO). ``distant``: references older than so many
    frames are first searched with a dilated window, then looked at again around what was found (MAST). ``size``: the
    short side in pixels at which frames are embedded, None for their own. ``guided``: snap the decision to the edges of
    the picture with a guided filter; what is carried on stays as it is. ``boxes``: each object's mask is looked for in a
    box that follows it (UVC), for an affinity without a radius. ``centred``: the mean embedding of the first frame is
    taken off all embeddings, since what all cells have in common tells none from another. ``components``: only so many
    principal components of the first frame's embeddings are compared, None for all. ``appearance``: how much it counts
    what each object looks like, wherever it was (`appearance.Appearance`); 0: not at all.

    Raises:
        InputError: boxes and a radius, no components, an appearance below 0 or not finite.
    """

    affinity: Affinity
    policy: MemoryPolicy
    keep: Literal["soft", "hard"] = "soft"
    stretch: bool = False
    distant: int | None = None
    size: int | None = None
    guided: bool = False
    boxes: bool = False
    centred: bool = False
    components: int | None = None
    appearance: float = 0.0

    def __post_init__(self) -> None:
        if self.boxes and self.affinity.radius is not None:
            raise InputError(f"boxes: expected an affinity without a radius, got radius {self.affinity.radius}")
        if self.components is not None and self.components < 1:
            raise InputError(f"components: expected None or a number >= 1, got {self.components}")
        if not 0 <= self.appearance < inf:
            raise InputError(f"appearance: expected a number >= 0, got {self.appearance}")


class Tracker(nn.Module):
    """``encoder`` (B, 3, H, W) -> (B, C, h, w) with an attribute ``stride``; ``bottleneck`` what it may see;
    ``protocol`` affinity, memory and recursion when tracking; ``objective`` what it learns from."""

    def __init__(self, *, encoder: nn.Module, bottleneck: nn.Module, protocol: Protocol, objective: Objective) -> None:
        super().__init__()
        self.encoder, self.bottleneck, self.protocol, self.objective = encoder, bottleneck, protocol, objective

    @property
    def stride(self) -> int:
        return int(self.encoder.stride)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        return next(self.parameters(), torch.empty(0)).device

    def embed(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> (B, C, h, w), h = ceil(H / stride)."""
        return self.encoder(self.bottleneck.view(rgb))  # type: ignore[no-any-return,operator]

    def embed_clip(self, view: Tensor) -> Tensor:
        """(B, T, 3, H, W), already through the bottleneck -> (B, T, C, h, w)."""
        return self.encoder(view.flatten(0, 1)).unflatten(0, view.shape[:2])  # type: ignore[no-any-return]

    def propagate(self, query: Tensor, times: list[int], keys: Tensor, values: Tensor, now: int) -> Tensor:
        """Affinity and copy under the protocol: (B, C, h, w), (B, S, C, h, w), (B, S, K, h, w) -> (B, K, h, w)."""
        centre = None
        if self.protocol.distant is not None:
            gaps = [abs(now - t) for t in times]
            centre = second_look(self.protocol.affinity, query, keys, gaps, self.protocol.distant)
        return self.protocol.affinity.propagate(query, keys, values, centre)

    def live(self) -> Live:
        """A tracking session fed frame by frame: ``live.step(image, labels)``."""
        return Live(self)

    def track(self, frames: Iterable[Image], labels: LabelMap | Mapping[int, LabelMap]) -> Iterator[Tracked]:
        """Follow masks through a video, one result per frame, in memory that does not grow with its length.

        ``frames`` (H, W, 3) uint8 RGB. ``labels``: those of the first frame, or a mapping from frame number to labels:
        objects may appear later, and a later map corrects what it names (see ``Live.step``). Frames before the first
        labels come back empty. To track backwards, give the frames in reverse. Raises ``ShapeError`` when sizes differ.
        """
        given = {0: labels} if isinstance(labels, LabelMap) else dict(labels)
        if not given:
            raise InputError("track: no labels were given; give those of at least one frame")
        session = self.live()
        for t, image in enumerate(frames):
            yield session.step(image, given.get(t))

    def follow(self, frames: Iterable[Image], points: Points) -> Iterator[Followed]:
        """Follow points through a video, each from its own frame ``points.t`` on, one result per frame."""
        session = PointSession(self, points)
        for image in frames:
            yield session.step(image)


def second_look(affinity: Affinity, query: Tensor, keys: Tensor, gaps: list[int], distant: int) -> Tensor | None:
    """MAST's localisation (CVPR 2020, sec. 3.3): where in each far reference a query's window should be centred.

    A reference more than ``distant`` frames away is searched with dilation min(4, gap // distant + 1); the soft-argmax
    of that search, which is a copy of coordinates, is the offset (B, S, 2, h, w) in cells. None when all are near.
    (The released code gathers every far reference's values with the last one's offset; here each has its own.)
    """
    if all(gap <= distant for gap in gaps):
        return None
    b, s, _, h, w = keys.shape
    centre = query.new_zeros(b, s, 2, h, w)
    for i, gap in enumerate(gaps):
        if gap > distant:
            coarse = replace(affinity, dilation=min(4, gap // distant + 1), topk=None)
            centre[:, i] = coarse.displacement(query, keys[:, i : i + 1])[:, 0]
    return centre
