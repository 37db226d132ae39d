"""Dense unsupervised learning: anchors that a clip must find again in another view of itself.

Araslanov, Schaub-Meyer & Roth, "Dense Unsupervised Learning for Video Segmentation", NeurIPS 2021. A few cells of one
frame are the *anchors*. Every cell of the other frames says which anchor it resembles most; the answer given in a
zoomed and flipped view (no gradient) is the label for the answer in the plain view. Position cannot give the answer
away, because the second view has moved everything; anchors of other clips are wrong by construction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Everything
from pixeltrail.geometry import sample
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.resnet import trunk
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/2111.06265"


class AnchorSelfTraining(nn.Module):
    """L = L_ST + ``cross`` · L_CV (paper, eq. 4–7) on keys of ``dim`` channels, a 1×1 projection of the first ``channels``.

    ``grid``: anchors lie on a grid × grid lattice with one random offset per clip (paper: 8 on 256² pixels).
    ``cells``: the cross-view term compares cells × cells places a clip. ``zoom``: smallest side of the second view's
    crop as a share of the first. ``temperature`` as in the paper.
    """

    def __init__(
        self,
        channels: int,
        *,
        dim: int = 128,
        grid: int = 4,
        cells: int = 4,
        cross: float = 0.3,
        zoom: float = 0.5,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, dim, 1),
        )  # fmt: skip
        self.channels = channels
        self.grid, self.cells, self.cross, self.zoom, self.temperature = grid, cells, cross, zoom, temperature

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """Terms ``self_training`` and ``cross_view``, already weighted, to be added up."""
        clip, random = batch.clip, batch.generator
        b, t = clip.shape[:2]
        clip = clip[:, torch.randperm(t, generator=random)]  # the anchors' frame is any of them
        scale, shift = _zoom_and_flip(b, clip.shape[-2:], self.zoom, random)
        scale, shift = scale.to(clip), shift.to(clip)
        other = _view(clip, scale, shift)

        keys = self._keys(tracker, clip)  # (B, T, D, h, w)
        first_other = self._keys(tracker, other[:, :1])  # the cross-view term learns through both views
        with torch.no_grad():
            rest_other = self._keys(tracker, other[:, 1:])

        # Where each cell of the other view lies in the plain view, in cells.
        h, w = keys.shape[-2:]
        stride = clip.shape[-1] / w
        grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")).to(clip)
        source = scale * grid + shift / stride  # (B, 2, h, w)

        anchors = sample(keys[:, 0], _lattice(b, h, w, self.grid, random).to(clip), mode="nearest")
        anchors = anchors.flatten(2).movedim(1, 2)  # (B, A, D)
        self_training = self._self_training(keys[:, 1:], rest_other, anchors, source)

        places = _lattice(b, h, w, self.cells, random).to(clip)
        ours = sample(keys[:, 0], sample(source, places, padding="border"), mode="nearest")
        theirs = sample(first_other[:, 0], places, mode="nearest")
        cross_view = self._info_nce(ours.movedim(1, -1).flatten(0, 2), theirs.movedim(1, -1).flatten(0, 2))
        return {"self_training": self_training, "cross_view": self.cross * cross_view}

    def _keys(self, tracker: Tracker, clip: Tensor) -> Tensor:
        b, t = clip.shape[:2]
        keys: Tensor = self.project(tracker.embed(clip.flatten(0, 1))[:, : self.channels])
        keys = F.normalize(keys.float(), dim=1)
        return keys.view(b, t, *keys.shape[1:])

    def _self_training(self, keys: Tensor, teacher: Tensor, anchors: Tensor, source: Tensor) -> Tensor:
        b, a = anchors.shape[:2]
        seen = sample(keys.flatten(1, 2), source, mode="nearest").view(keys.shape)  # the plain view where B's cells lie
        every = anchors.flatten(0, 1)  # (B·A, D): own anchors and everybody else's
        logits = seen.movedim(2, -1).flatten(0, 3) @ every.T / self.temperature
        with torch.no_grad():  # the teacher may only choose among the anchors of its own clip
            own = torch.einsum("btdhw,bad->bthwa", teacher, anchors)
            label = own.argmax(-1) + a * torch.arange(b, device=keys.device).view(b, 1, 1, 1)
        return F.cross_entropy(logits, label.flatten())

    def _info_nce(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return F.cross_entropy(ours @ theirs.T / self.temperature, torch.arange(len(ours), device=ours.device))


def _zoom_and_flip(b: int, size: tuple[int, ...], zoom: float, random: Generator | None) -> tuple[Tensor, Tensor]:
    """Pixel p of the second view shows pixel scale · p + shift of the first: (B, 2, 1, 1) each."""
    height, width = size
    side = zoom + (1 - zoom) * torch.rand(b, 1, generator=random)
    extent = torch.tensor([width - 1.0, height - 1.0])
    corner = torch.rand(b, 2, generator=random) * (1 - side) * extent
    flip = torch.rand(b, generator=random) < 0.5
    scale = side.repeat(1, 2)
    corner[:, 0] = torch.where(flip, corner[:, 0] + side[:, 0] * extent[0], corner[:, 0])
    scale[:, 0] = torch.where(flip, -scale[:, 0], scale[:, 0])
    return scale.view(b, 2, 1, 1), corner.view(b, 2, 1, 1)


def _view(clip: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    height, width = clip.shape[-2:]
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")).to(clip)
    return sample(clip.flatten(1, 2), scale * grid + shift, padding="border").view(clip.shape)


def _lattice(b: int, h: int, w: int, n: int, random: Generator | None) -> Tensor:
    """n × n cells, evenly spread, with one random whole-cell offset per clip: (B, 2, n, n) as x, y."""
    step = torch.tensor([w / n, h / n]).view(1, 2, 1, 1)
    offset = torch.rand(b, 2, 1, 1, generator=random)
    lattice = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="xy"))
    return ((lattice + offset) * step).floor()


def build(
    *, width: int = 32, depth: int = 18, stride: int = 8, fused: float | None = None, **objective: float
) -> Tracker:
    """``width`` of the ResNet's first stage (paper: 64), its ``depth`` (10, 18 or 34; paper: 18) and output ``stride``
    (4, 8 or 16; paper: 8). ``fused``: the weight of stage 2 beside stage 3 when tracking, by default 0.75 at strides where
    they are of one size. Other settings go to ``AnchorSelfTraining``."""
    # Departures: the network ends at stage 3 (the paper goes on to a stage 4 of 512 channels): a third of the work, and
    # with reflection at the border, which tells less about position than zeros. Tracking, embeddings are centred and
    # stage 2, which the objective does not reach directly, is fused in, recent frames are every second one (paper: the last
    # 7), and a model of what things look like has a say: docs/default.md says what each brings.
    fused = (0.75 if stride < 16 else 0.0) if fused is None else fused
    encoder = trunk(depth=depth, stride=stride, width=width, fused=fused, padding_mode="reflect")
    return Tracker(
        encoder=encoder,
        bottleneck=Everything(),
        protocol=Protocol(
            affinity=Affinity(radius=12, temperature=0.05, normalize=True, topk=10),
            policy=MemoryPolicy(anchors=(0,), recent=7, stride=2),
            size=480,
            guided=True,
            centred=True,
            appearance=0.5,
        ),
        objective=AnchorSelfTraining(4 * width, **objective),  # type: ignore[arg-type]
    )
