"""The affinity as it is defined: score every candidate, softmax, keep all weights. Any setting, centres included.

Letters: S references, C channels, N queries, L candidates of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pixeltrail.kernels.blocked import window_scores

if TYPE_CHECKING:
    from pixeltrail.affinity import Affinity


def attend(
    affinity: Affinity, query: Tensor, own: Tensor, keys: Tensor, centre: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Which cells of the references each query consists of.

    Args:
        query: (C, N), in the cells ``own`` (N, 2) as (y, x).
        keys: (S, C, h, w).
        centre: (S, 2, N) as (dx, dy), or None.

    Returns:
        weight and index, (N, L); index counts ``(s * h + y) * w + x``, and is None if L is all cells in order.
    """
    query = affinity.unit(query, 0) / affinity.temperature
    looks = []
    for s, key in enumerate(affinity.unit(keys, 1)):
        if affinity.radius is None or (affinity.free_first and s == 0):
            looks.append(_Look(query.T @ key.flatten(1)))
        else:
            looks.append(_window(affinity, query, own, key, None if centre is None else centre[s]))
    if affinity.joint:
        scores = torch.cat([look.scores for look in looks], 1)
        weights = torch.split(_weigh(affinity, scores), [look.scores.shape[1] for look in looks], 1)
    else:
        weights = tuple(_weigh(affinity, look.scores) / len(looks) for look in looks)
    placed = [look.place(weight) for look, weight in zip(looks, weights, strict=True)]
    if affinity.radius is None:
        return torch.cat(weights, 1), None
    cells = keys[0, 0].numel()
    index = torch.cat([index + s * cells for s, (_, index) in enumerate(placed)], 1)
    return torch.cat([weight for weight, _ in placed], 1), index


def _weigh(affinity: Affinity, scores: Tensor) -> Tensor:
    weight = scores.softmax(-1)
    if affinity.topk is None or affinity.topk >= scores.shape[-1]:
        return weight
    best, where = scores.topk(affinity.topk)
    kept = best.softmax(-1) if affinity.renormalize else weight.gather(-1, where)
    return torch.zeros_like(weight).scatter(-1, where, kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One look at one reference: the scores (N, L) of its candidates, and the cells they are made of.

    Without ``cells``, the candidates are all cells of the reference in order. With ``corners``, candidates lie between
    cells, which are their corners.
    """

    scores: Tensor
    cells: Tensor | None = None  # (N, L'), h·w outside the frame
    corners: tuple[_Corners, _Corners] | None = None
    end: int = 0  # h·w

    def place(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (N, L) of the candidates as weights of cells (N, L'), and the numbers of these cells."""
        if self.cells is None:
            return weight, torch.arange(weight.shape[1], device=weight.device).expand_as(weight)
        if self.corners is not None:
            rows, columns = self.corners
            grid = weight.view(len(weight), len(rows.low), len(columns.low))
            weight = rows.spread(columns.spread(grid, 2), 1).flatten(1)
        inside = self.cells < self.end
        return weight.where(inside, 0), self.cells.where(inside, 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Corners:
    """Sampling between cells along one axis: candidate i is ``1 - part`` of cell low[i] and ``part`` of cell high[i].

    The dot product is linear, so the score of a blended key is the blend of the scores, and copying a blended value is
    copying its corners by the blended weights: exact, and nothing but whole cells is ever gathered.
    """

    offsets: Tensor  # (U,) the cells used, in order, as offsets from the cell at or before the centre
    low: Tensor  # (L,) places in offsets
    high: Tensor
    part: Tensor  # (N,) in [0, 1)

    @classmethod
    def of(cls, offsets: Tensor, part: Tensor) -> _Corners:
        used = torch.unique(torch.cat((offsets, offsets + 1)))
        return cls(used, torch.searchsorted(used, offsets), torch.searchsorted(used, offsets + 1), part)

    def blend(self, scores: Tensor, dim: int) -> Tensor:
        part = self.part[:, None, None]
        return torch.lerp(scores.index_select(dim, self.low), scores.index_select(dim, self.high), part)

    def spread(self, weight: Tensor, dim: int) -> Tensor:
        high = self.part[:, None, None] * weight
        shape = list(weight.shape)
        shape[dim] = len(self.offsets)
        return weight.new_zeros(shape).index_add(dim, self.low, weight - high).index_add(dim, self.high, high)


def _window(affinity: Affinity, query: Tensor, own: Tensor, key: Tensor, centre: Tensor | None) -> _Look:
    """The windows of the queries in one reference (C, h, w), round their own cells plus centre (2, N)."""
    size, step = key.shape[1:], affinity.dilation
    rows, columns = (torch.arange(-r, r + 1, device=key.device) for r in affinity.extent(*size))
    steps = torch.cartesian_prod(rows, columns)
    offsets = step * rows, step * columns
    if centre is None:
        base, beyond, used, corners = own, torch.zeros_like(own), offsets, None
        scores = window_scores(query, key, own, steps, step)
    else:
        # With mask_border a window has its centre in the frame; without, from `far` on all of it is outside.
        far = 0 if affinity.mask_border else step * (affinity.radius or 0) + 2
        at = (own + centre.flip(0).T).clamp_min(-far).minimum(centre.new_tensor(size) - 1 + far)
        base = at.detach().floor().long()
        part = at - base
        beyond = (part > 0).long()  # between two cells, both must exist
        corners = _Corners.of(offsets[0], part[:, 0]), _Corners.of(offsets[1], part[:, 1])
        used = corners[0].offsets, corners[1].offsets
        raw = window_scores(query, key, base, torch.cartesian_prod(*used)).view(-1, len(used[0]), len(used[1]))
        scores = corners[1].blend(corners[0].blend(raw, 1), 2).flatten(1)

    # Rows and columns by themselves: (N, 2R + 1) each, not (N, L).
    seen = affinity.reaches(steps)
    if affinity.mask_border:
        places = [(base[:, i, None] + offsets[i], beyond[:, i, None]) for i in (0, 1)]
        below, right = ((p >= 0) & (p + more < n) for (p, more), n in zip(places, size, strict=True))
        seen = (below[:, :, None] & right[:, None, :]).flatten(1) & seen
    y, x = (base[:, i, None] + used[i] for i in (0, 1))
    end = size[0] * size[1]
    y, x = torch.where((y >= 0) & (y < size[0]), y * size[1], end), torch.where((x >= 0) & (x < size[1]), x, end)
    cells = (y[:, :, None] + x[:, None, :]).flatten(1).clamp_max_(end)
    return _Look(scores.masked_fill(~seen, -torch.inf), cells, corners, end)
