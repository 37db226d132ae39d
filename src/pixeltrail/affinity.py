"""THE MECHANISM: how much of each remembered cell belongs to a query cell, and the copying of values along it.

Every tracker of the field embeds two frames, compares them cell by cell, and copies: colours in training; masks, points
or coordinates when tracking. An `Affinity` holds the settings in which they differ. Calling it gives a
`Correspondence`, which can be looked at from all sides; `Affinity.propagate` gives what most callers want of it, the
copied values, fast and in bounded memory.

Three identities: *optical flow is a copy of coordinates* (`Correspondence.displacement`), *a cost volume is the
affinity before its softmax* (`correlation`), *a cycle is two affinities in a row* (``a.dense() @ b.dense()``).

Letters: B batch · S references · C feature channels · K value channels · h w grid of cells · N = h·w queries ·
L candidates of a query. Positions count cells; offsets are (dx, dy), dx to the right, dy down.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
import torch.nn.functional as F
from torch import Tensor

from pixeltrail import kernels
from pixeltrail.errors import InputError, ShapeError

CHUNK = 2**22
"""Weights held at a time by `Affinity.propagate` with centres: their chunks of queries are gathered, not tiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """The settings of one comparison between a query frame and its references; no parameters, nothing learned.

    The weight of a candidate is the softmax over a query's candidates of ``query · key / temperature``.

    Attributes:
        radius: candidates lie within this many cells up, down, left and right; None: anywhere in the frame.
        circle: only those *nearer* than ``radius`` (strictly, as CRW and VFS).
        dilation: candidates stand this many cells apart, so the window reaches ``radius * dilation`` (MAST).
        temperature: divides the scores. MAST 1, CRW 0.05–0.07, DINO 0.1; CycleTime C^-½.
        normalize: compare unit vectors (cosine similarity).
        topk: keep so many of the largest weights of each softmax; None: all.
        renormalize: the kept weights sum to one, the same as top-k of the scores before the softmax (CRW, VFS, DINO);
            False leaves them as they were in the full softmax (UVC, CycleTime).
        joint: one softmax over the candidates in all references (CRW, MAST); False: one in each, then the mean (UVC).
        mask_border: candidates outside the frame do not count; False: they keep score 0 and value 0, and mass is lost
            to them (MAST's published code).
        free_first: the first reference is seen whole whatever the radius (CRW: frame 0 is not limited).

    Raises:
        InputError: a setting out of its range, or two that exclude each other.
    """

    radius: int | None = None
    circle: bool = False
    dilation: int = 1
    temperature: float = 1.0
    normalize: bool = False
    topk: int | None = None
    renormalize: bool = True
    joint: bool = True
    mask_border: bool = True
    free_first: bool = False

    def __post_init__(self) -> None:
        _check(self.radius is None or self.radius >= 0, "radius", "None or a number of cells >= 0", self.radius)
        _check(not self.circle or bool(self.radius), "circle", "False, or a radius >= 1", self.circle)
        _check(self.dilation >= 1, "dilation", "a number >= 1", self.dilation)
        _check(self.dilation == 1 or self.radius is not None, "dilation", "1, or a radius", self.dilation)
        _check(isfinite(self.temperature) and self.temperature > 0, "temperature", "a number > 0", self.temperature)
        _check(self.topk is None or self.topk >= 1, "topk", "None or a number >= 1", self.topk)

    def __call__(self, query: Tensor, keys: Tensor, centre: Tensor | None = None) -> Correspondence:
        """What each cell of the query looks at. Holds all weights: for pictures, cycles and small maps.

        Args:
            query: (B, C, h, w).
            keys: (B, S, C, h, w); without a radius its grid may differ from the query's.
            centre: (B, S, 2, h, w), where each query's window lies in each reference, as (dx, dy) in cells from its own
                cell; fractions allowed, see `displacement`. Keys and values are then sampled bilinearly. With
                ``mask_border``, centres outside the frame are moved to its border.

        Raises:
            ShapeError: shapes that do not fit.
        """
        _check_shapes(self, query, keys, centre)
        own = _cells(query)
        weights, indices = [], []
        for b in range(len(query)):
            offset = None if centre is None else centre[b].flatten(2)
            weight, index = kernels.attend(self, query[b].flatten(1), own, keys[b], offset)
            weights.append(weight)
            if index is not None and (b == 0 or centre is not None):  # without centres, the same for all
                indices.append(index)
        s, _, h, w = keys.shape[1:]
        index = torch.stack(indices) if indices else None
        return Correspondence(torch.stack(weights), index, (s, h, w), (query.shape[-2], query.shape[-1]))

    def propagate(self, query: Tensor, keys: Tensor, values: Tensor, centre: Tensor | None = None) -> Tensor:
        """Copy ``values`` (B, S, K, h, w) of the references to the query: (B, K, h, w).

        The same as ``self(query, keys, centre).copy(values)``, differentiable, in bounded memory: the hot path.
        """
        return self._propagate(query, keys, values, centre, entropy=False)[0]

    def propagate_with_entropy(
        self, query: Tensor, keys: Tensor, values: Tensor, centre: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`propagate`, and how undecided each query was: `Correspondence.entropy` (B, h, w). Costs little more."""
        copied, entropy = self._propagate(query, keys, values, centre, entropy=True)
        assert entropy is not None
        return copied, entropy

    def displacement(self, query: Tensor, keys: Tensor) -> Tensor:
        """Where each reference shows what the query shows: (B, S, 2, h, w), the mean offset (dx, dy) in cells.

        The ``centre`` of a second look, as in MAST: a coarse, dilated affinity finds it, a fine one looks there.
        """
        h, w = keys.shape[-2:]
        values = F.pad(_positions(h, w, keys), (0, 0, 0, 0, 0, 1), value=1.0).expand(len(keys), 1, -1, -1, -1)
        found = [self.propagate(query, keys[:, s : s + 1], values) for s in range(keys.shape[1])]
        own = _positions(query.shape[-2], query.shape[-1], query)
        return torch.stack([f[:, :2] / f[:, 2:] - own for f in found], 1)

    def unit(self, features: Tensor, dim: int) -> Tensor:
        """Features as they are compared: of length one along ``dim`` if `normalize`."""
        return F.normalize(features, dim=dim) if self.normalize else features

    def extent(self, h: int, w: int) -> tuple[int, int]:
        """How many steps the window reaches up and down, left and right, in a map of h x w; 0 without a radius."""
        if self.radius is None:
            return 0, 0
        if not self.mask_border:
            return self.radius, self.radius
        return min(self.radius, (h - 1) // self.dilation), min(self.radius, (w - 1) // self.dilation)

    def reaches(self, offsets: Tensor) -> Tensor:
        """Which offsets (..., 2), in steps of the window, belong to it."""
        radius = self.radius or 0
        return offsets.square().sum(-1) < radius**2 if self.circle else offsets.abs().amax(-1) <= radius

    def _propagate(
        self, query: Tensor, keys: Tensor, values: Tensor, centre: Tensor | None, *, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        _check_shapes(self, query, keys, centre, values)
        with torch.autocast(query.device.type, enabled=False):  # a logit rounded to bfloat16 is off by up to one
            return self._exactly(query, keys, values, centre, entropy=entropy)

    def _exactly(
        self, query: Tensor, keys: Tensor, values: Tensor, centre: Tensor | None, *, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        if centre is None or self.radius is None:
            return kernels.propagate(self, query, keys, values, entropy=entropy)
        (s, _, h, w), size = keys.shape[1:], query.shape[-2:]
        seen = s * (4 * self.radius + 4) ** 2 // (4 if self.dilation == 1 else 1) + (h * w if self.free_first else 0)
        chunk = max(1, CHUNK // seen)
        own = _cells(query)
        copied, entropies = [], []
        for b in range(len(query)):
            for n in range(0, len(own), chunk):
                part = slice(n, n + chunk)
                weight, index = kernels.attend(
                    self, query[b].flatten(1)[:, part], own[part], keys[b], centre[b].flatten(2)[..., part]
                )
                copied.append(_copy(weight, index, values[b]))
                entropies.append(_entropy(weight) if entropy else weight[:0, 0])
        out = torch.cat(copied).view(len(query), *size, -1).movedim(-1, 1)
        return out, torch.cat(entropies).view(len(query), *size) if entropy else None


@dataclass(frozen=True, slots=True, eq=False)
class Correspondence:
    """Which cells of the references each query cell consists of.

    Attributes:
        weight: (B, N, L), >= 0; a row sums to 1, or to less where mass was cut (`renormalize`) or lost (`mask_border`).
        index: (B or 1, N, L), the cell that each weight belongs to, ``(s * h + y) * w + x``; None: all, in order.
        grid: (S, h, w) of the references.
        size: (h, w) of the query; N = h·w.
    """

    weight: Tensor
    index: Tensor | None
    grid: tuple[int, int, int]
    size: tuple[int, int]

    def copy(self, values: Tensor) -> Tensor:
        """Copy ``values`` (B, S, K, h, w) along the weights: (B, K, h, w). ShapeError if they do not fit."""
        b, (s, h, w) = len(self.weight), self.grid
        if values.ndim != 5 or (*values.shape[:2], *values.shape[3:]) != (b, s, h, w):
            raise ShapeError(f"values: expected (B, S, K, h, w) = ({b}, {s}, K, {h}, {w}), got {tuple(values.shape)}")
        indices = [None] * b if self.index is None else self.index.expand(b, -1, -1)
        copied = [_copy(*sample).T for sample in zip(self.weight, indices, values, strict=True)]
        return torch.stack(copied).view(b, -1, *self.size)

    def displacement(self) -> Tensor:
        """The mean offset (dx, dy), in cells, of what a query looks at from its own cell: (B, 2, h, w)."""
        s, h, w = self.grid
        found = self.copy(_positions(h, w, self.weight).expand(len(self.weight), s, 2, h, w))
        mass = self.weight.sum(-1).clamp_min(torch.finfo(self.weight.dtype).tiny).view(-1, 1, *self.size)
        return found / mass - _positions(*self.size, self.weight)

    def dense(self) -> Tensor:
        """All weights, as a matrix (B, N, S·h·w), for cycles and pictures."""
        if self.index is None:
            return self.weight
        s, h, w = self.grid
        out = self.weight.new_zeros(*self.weight.shape[:2], s * h * w)
        return out.scatter_add(-1, self.index.expand_as(self.weight), self.weight)

    def at(self, y: int, x: int) -> Tensor:
        """What the query cell in row ``y`` and column ``x`` looks at: a heat map (B, S, h, w)."""
        _check(0 <= y < self.size[0] and 0 <= x < self.size[1], "at", f"a cell of the {self.size} query", (y, x))
        row = slice(y * self.size[1] + x, y * self.size[1] + x + 1)
        index = None if self.index is None else self.index[:, row]
        look = Correspondence(self.weight[:, row], index, self.grid, (1, 1))
        return look.dense().view(-1, *self.grid)

    def entropy(self) -> Tensor:
        """How undecided each query is: (B, h, w) nats from 0 (one cell) to log L, of the weights scaled to sum 1."""
        return _entropy(self.weight).view(-1, *self.size)


def correlation(first: Tensor, second: Tensor, *, radius: int, dilation: int = 1) -> Tensor:
    """The scores before any softmax: the cost volume of FlowNetC (radius 10, dilation 2) and PWC-Net (radius 4).

    ``out[b, (j + R)(2R + 1) + i + R, y, x] = mean over C of first[b, :, y, x] * second[b, :, y + j·d, x + i·d]``,
    0 where that lies outside; j, the step down, is the slow index. Divided by the number of channels, as those papers do.

    Args:
        first, second: (B, C, h, w).
        radius: R >= 0 steps.
        dilation: d >= 1 cells in a step.

    Returns:
        (B, (2R + 1)², h, w).

    Raises:
        InputError, ShapeError: settings out of range; maps of different shapes.
    """
    _check(radius >= 0, "radius", "a number of cells >= 0", radius)
    _check(dilation >= 1, "dilation", "a number >= 1", dilation)
    if first.ndim != 4 or first.shape != second.shape:
        raise ShapeError(
            f"correlation: expected two maps (B, C, h, w), got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    size = first.shape[-2:]
    own, steps = _cells(first), torch.arange(-radius, radius + 1, device=first.device)
    offsets = torch.cartesian_prod(steps, steps)
    pairs = zip(first.flatten(2) / first.shape[1], second, strict=True)
    volume = torch.stack([kernels.window_scores(a, b, own, offsets, dilation).T for a, b in pairs])
    return volume.view(len(first), -1, *size)


def _copy(weight: Tensor, index: Tensor | None, values: Tensor) -> Tensor:
    """weight and index (N, L), values (S, K, h, w) -> (N, K)."""
    table = values.movedim(1, -1).flatten(0, 2).contiguous()
    if index is None:
        return weight @ table
    return F.embedding_bag(index, table, per_sample_weights=weight.to(table.dtype), mode="sum")


def _entropy(weight: Tensor) -> Tensor:
    tiny = torch.finfo(weight.dtype).tiny
    weight = weight / weight.sum(-1, keepdim=True).clamp_min(tiny)
    return -(weight * weight.clamp_min(tiny).log()).sum(-1)


def _cells(like: Tensor) -> Tensor:
    """(y, x) of all cells of a map (..., h, w): (h·w, 2)."""
    h, w = like.shape[-2:]
    return torch.cartesian_prod(torch.arange(h, device=like.device), torch.arange(w, device=like.device))


def _positions(h: int, w: int, like: Tensor) -> Tensor:
    """(x, y) of all cells of an h x w map: (2, h, w)."""
    x, y = torch.meshgrid(*(torch.arange(n, device=like.device, dtype=like.dtype) for n in (w, h)), indexing="xy")
    return torch.stack((x, y))


def _check(ok: bool, name: str, wanted: str, got: object) -> None:
    if not ok:
        raise InputError(f"{name}: expected {wanted}, got {got}")


def _check_shapes(
    affinity: Affinity, query: Tensor, keys: Tensor, centre: Tensor | None, values: Tensor | None = None
) -> None:
    def shapes(wanted: str, name: str, tensor: Tensor) -> str:
        return f"{name}: expected {wanted} for a query {tuple(query.shape)}, got {tuple(tensor.shape)}"

    if query.ndim != 4 or not query.is_floating_point() or 0 in query.shape:
        raise ShapeError(f"query: expected (B, C, h, w) of floats, got {query.dtype} {tuple(query.shape)}")
    b, c, *size = query.shape
    same_grid = affinity.radius is None or list(keys.shape[3:]) == size
    if keys.ndim != 5 or (keys.shape[0], keys.shape[2]) != (b, c) or 0 in keys.shape or not same_grid:
        raise ShapeError(shapes("(B, S, C, h, w)", "keys", keys))
    if values is not None and (
        values.ndim != 5 or (*values.shape[:2], *values.shape[3:]) != (*keys.shape[:2], *keys.shape[3:])
    ):
        raise ShapeError(f"values: expected (B, S, K, h, w) for keys {tuple(keys.shape)}, got {tuple(values.shape)}")
    if centre is not None:
        if centre.shape != (b, keys.shape[1], 2, *size):
            raise ShapeError(shapes("(B, S, 2, h, w)", "centre", centre))
        if not centre.isfinite().all():
            raise ShapeError("centre: expected finite offsets, got nan or infinity")
