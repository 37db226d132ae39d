"""Restricted attention in plain torch: batched matrix products of square tiles of queries with the patch they reach.

The queries of one tile look at nearly the same cells, so one product of the tile with the patch of all cells that any
of them reaches does the work of all their windows; a mask, the same for every tile, hides the rest of the patch.
Neither an unfolded map nor an (N, L) matrix is ever held: beside its result, `propagate` holds one band of the keys
and the scores of a few tiles, whatever the size of the frame. (While gradients are recorded, autograd keeps all tiles.)

Tiles and patches are lists of cell numbers, so dilation is only arithmetic: a tile's cells stand ``dilation`` apart,
and so do those of its patch. Cells outside the map have the number of an empty row behind the last cell.

Letters: S references, C feature and K value channels, N = h·w cells, n tiles in one step, M queries in a tile,
L candidates of a tile.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pixeltrail.affinity import Affinity

SIDE = 8
"""Cells along a tile's side. Larger tiles multiply faster and waste more: the patch has (SIDE + 2R)² cells."""
BAND = 4
"""Rows of tiles whose keys are laid out at a time. More repeat less of that work, fewer hold less memory."""
STEP = 2**20
"""Numbers held for the tiles of one step: what the cache of a CPU core holds, times the cores, see `_per_step`."""
MOST = 2**23
"""Scores of one tile above which tiles are made smaller (whole-frame references of large frames)."""

Part = tuple[Tensor, Tensor]
"""Some candidates of a step's queries: scores (n, M, L) and the values behind them (n or 1, K, L)."""


def propagate(
    affinity: Affinity, query: Tensor, keys: Tensor, values: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The same as ``affinity(query, keys).copy(values)`` and its ``.entropy()``: (B, K, h, w) and (B, h, w) or None."""
    if entropy:  # the mass of the weights is the copy of ones
        values = F.pad(values, (0, 0, 0, 0, 0, 1), value=1.0)
    samples = [_propagate(affinity, *sample, entropy=entropy) for sample in zip(query, keys, values, strict=True)]
    out = torch.stack(samples)
    if not entropy:
        return out, None
    copied, mass, spread = out[:, :-2], out[:, -2].clamp_min(torch.finfo(out.dtype).tiny), out[:, -1]
    return copied, (spread / mass + mass.log()).clamp_min(0)  # of the weights scaled to mass 1


def _propagate(affinity: Affinity, query: Tensor, keys: Tensor, values: Tensor, *, entropy: bool) -> Tensor:
    """One sample, (C, h, w), (S, C, h, w), (S, K, h, w) -> (K, h, w), and with entropy a channel of -Σ w log w."""
    (_, h, w), references, step, device = query.shape, len(keys), affinity.dilation, query.device
    free = references if affinity.radius is None else int(affinity.free_first)
    ry, rx = affinity.extent(*keys.shape[-2:])

    def groups(first: int, last: int) -> list[slice]:
        """What goes into one softmax: all references, or each."""
        return [slice(first, last)][: last - first] if affinity.joint else [slice(s, s + 1) for s in range(first, last)]

    def seen(side: int) -> int:
        return free * keys[0, 0].numel() + (references - free) * (side + 2 * ry) * (side + 2 * rx)

    side = SIDE
    while side > 1 and side**2 * seen(side) > MOST:
        side //= 2
    per_step = _per_step(seen(side) * (side**2 + query.shape[0]), device)
    within = _square(0, side, 0, side, device)
    patch = _square(-ry, side + ry, -rx, side + rx, device)
    hidden = torch.finfo(query.dtype).min / 4
    mask = query.new_zeros(len(within), len(patch)).masked_fill_(~affinity.reaches(patch - within[:, None]), hidden)
    whole = [(_columns(affinity.unit(keys[g], 1)), _columns(values[g])) for g in groups(0, free)]

    bands = []
    rows = BAND * side * step
    for y in range(0, h, rows):
        band = query[:, y : y + rows]
        first, cells = _tiles(band.shape[1], w, side, step, device)
        top, bottom = max(0, y - ry * step), y + rows + ry * step
        tables = []
        for g in groups(free, references):
            reached = affinity.unit(keys[g, :, top:bottom], 1)
            rows_of_keys = F.pad(reached.flatten(2).mT, (0, 0, 0, 1)).flatten(0, 1)
            tables.append((rows_of_keys, _columns(F.pad(values[g, :, top:bottom].flatten(2), (0, 1)))))
        queries = F.pad((affinity.unit(band, 0) / affinity.temperature).flatten(1).T, (0, 0, 0, 1))

        out = []
        for start, cell in zip(torch.split(first, per_step), torch.split(cells, per_step), strict=True):
            q = queries[cell]  # (n, M, C)
            parts = [((q.flatten(0, 1) @ k).view(*cell.shape, -1), v[None]) for k, v in whole]
            if tables:
                height = min(bottom, keys.shape[-2]) - top
                index = _number(start[:, None] + start.new_tensor([y - top, 0]) + patch * step, height, w)  # (n, L)
                outside = (index == height * w) & affinity.mask_border
                border = mask.new_zeros(outside.shape).masked_fill_(outside, hidden)
                parts += [_window(q, k, v, index, mask, border, height * w + 1) for k, v in tables]
            out.append(_read(affinity, parts, entropy=entropy))
        bands.append(_in_order(torch.cat(out), cells, band[0].numel()).T.reshape(-1, *band.shape[1:]))
    return torch.cat(bands, 1)


def _window(q: Tensor, keys: Tensor, values: Tensor, index: Tensor, mask: Tensor, border: Tensor, size: int) -> Part:
    """Scores of the tiles q (n, M, C) with their patches ``index`` (n, L) in every reference of a table of ``size``
    rows each, keys (S·size, C) and values (K, S·size), plus what hides candidates, mask (M, L) and border (n, L)."""
    n, count = len(q), len(keys) // size
    index = (index[:, None] + size * torch.arange(count, device=q.device)[:, None]).flatten()
    k = keys.index_select(0, index).view(n, -1, q.shape[-1])
    v = values.index_select(1, index).view(len(values), n, -1)
    scores = (mask[:, None] + border[:, None, None].expand(-1, -1, count, -1)).reshape(n, len(mask), -1)
    return scores.baddbmm_(q, k.mT), v.movedim(1, 0)


def _read(affinity: Affinity, parts: list[Part], *, entropy: bool) -> Tensor:
    """The copied values (n, M, K) of a step; with entropy, -Σ w log w behind them."""
    if affinity.joint or len(parts) == 1:
        return _softmax_copy(affinity, parts, entropy=entropy)
    out = torch.stack([_softmax_copy(affinity, [part], entropy=entropy) for part in parts]).mean(0)
    if entropy:  # each weight is now a part of the mean
        return torch.cat((out[..., :-1], out[..., -1:] + out[..., -2:-1] * log(len(parts))), -1)
    return out


def _softmax_copy(affinity: Affinity, parts: list[Part], *, entropy: bool) -> Tensor:
    """One softmax over all parts, see `_read`."""
    n, k = len(parts[0][0]), affinity.topk
    if k is None:
        scores = torch.cat([s for s, _ in parts], -1) if len(parts) > 1 else parts[0][0]
        values = torch.cat([v.expand(n, -1, -1) for _, v in parts], -1) if len(parts) > 1 else parts[0][1]
        weight = scores.softmax(-1)
        copied = weight @ values.mT
    else:
        picks = [(*_largest(s, k), v) for s, v in parts]
        scores = torch.cat([s for s, _, _ in picks], -1)
        values = torch.cat([_take(v.expand(n, -1, -1), where) for _, where, v in picks], -1)  # (n, K, M, k)
        if len(parts) > 1:
            scores, best = scores.topk(min(k, scores.shape[-1]), sorted=False)
            values = values.gather(-1, best[:, None].expand(-1, values.shape[1], -1, -1))
        over = [scores] if affinity.renormalize else [s for s, _ in parts]
        total = torch.stack([s.logsumexp(-1) for s in over]).logsumexp(0)
        weight = (scores - total[..., None]).exp()
        copied = (weight[:, None] * values).sum(-1).mT
    if entropy:  # log w = score - total, and a score outside the frame, whose mass is lost, is 0
        if k is None:
            total = scores.amax(-1) - weight.amax(-1).log()
        spread = total * copied[..., -1] - torch.linalg.vecdot(weight, scores)
        copied = torch.cat((copied, spread[..., None]), -1)
    return copied


def _largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(k)``, unsorted but several times faster: they lie in the k groups with the largest maxima."""
    length = scores.shape[-1]
    group = 2 ** round(log((length / k) ** 0.5, 2)) if length > k else 1
    if length < 16 * k or group == 1:
        return scores.topk(min(k, length), sorted=False)
    stride = length // group  # a group's members stand this far apart, so that maxima are taken over whole rows
    rest = group * stride
    grouped = scores.detach()[..., :rest].view(*scores.shape[:-1], group, stride)
    where = grouped.amax(-2).topk(k, sorted=False).indices
    where = (where[..., None] + stride * torch.arange(group, device=where.device)).flatten(-2)
    if rest < length:
        tail = torch.arange(rest, length, device=where.device)
        where = torch.cat((where, tail.expand(*where.shape[:-1], -1)), -1)
    best, at = scores.gather(-1, where).topk(k, sorted=False)
    return best, where.gather(-1, at)


def window_scores(query: Tensor, key: Tensor, base: Tensor, offsets: Tensor, step: int = 1) -> Tensor:
    """``out[n, l] = query[:, n] · key[:, base[n] + step * offsets[l]]``, and 0 where that lies outside the map.

    query (C, N), key (C, h, w), base (N, 2) and offsets (L, 2) integer (y, x) -> (N, L). Each query belongs to the tile
    of the *key* map (of its phase, if step > 1) that its base falls in; the queries of one tile share a patch.
    """
    (c, h, w), device, seats = key.shape, key.device, SIDE**2
    lattice = base.div(step, rounding_mode="floor")
    local = lattice % SIDE
    start = base - step * local
    _, tile, count = torch.unique(start[:, 0] * 2**31 + start[:, 1], return_inverse=True, return_counts=True)
    jobs = (count + seats - 1) // seats  # a crowded tile gets several
    order = tile.argsort(stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
    rank -= (count.cumsum(0) - count)[tile]
    seat = ((jobs.cumsum(0) - jobs)[tile] + rank // seats) * seats + rank % seats
    cells = torch.full((int(jobs.sum()) * seats,), len(base), device=device).scatter_(
        0, seat, torch.arange(len(base), device=device)
    )
    (top, left), (bottom, right) = offsets.amin(0).tolist(), offsets.amax(0).tolist()
    patch = _square(top, bottom + SIDE, left, right + SIDE, device)
    width = right - left + SIDE
    queries, keys = F.pad(query.T, (0, 0, 0, 1)), F.pad(key.flatten(1).T, (0, 0, 0, 1))
    start, local = F.pad(start, (0, 0, 0, 1)), F.pad(local, (0, 0, 0, 1))
    at = (offsets - offsets.new_tensor([top, left])) @ offsets.new_tensor([width, 1])
    out = []
    per_step = _per_step(len(patch) * (seats + c) + 2 * seats * len(offsets), device)
    for cell in torch.split(cells.view(-1, seats), per_step):
        index = _number(start[cell[:, :1]] + step * patch, h, w)
        scores = queries[cell] @ keys.index_select(0, index.flatten()).view(*index.shape, c).mT
        out.append(scores.gather(2, (local[cell] @ local.new_tensor([width, 1]))[..., None] + at))
    return torch.cat(out).flatten(0, 1)[seat]


def _per_step(numbers: int, device: torch.device) -> int:
    """How many tiles of so many numbers each make a step: a device that is not a CPU needs much work at a time."""
    return max(1, STEP * (min(torch.get_num_threads(), 8) if device.type == "cpu" else 32) // numbers)


def _tiles(h: int, w: int, side: int, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tiles of an h x w map: their first cells (T, 2) as (y, x), and the numbers of all their cells (T, side²)."""

    def starts(size: int) -> Tensor:
        return torch.cat([torch.arange(phase, size, side * step, device=device) for phase in range(min(step, size))])

    first = torch.cartesian_prod(starts(h), starts(w))
    return first, _number(first[:, None] + step * _square(0, side, 0, side, device), h, w)


def _square(top: int, bottom: int, left: int, right: int, device: torch.device) -> Tensor:
    """All (y, x) with top <= y < bottom, left <= x < right, row by row: (L, 2)."""
    return torch.cartesian_prod(torch.arange(top, bottom, device=device), torch.arange(left, right, device=device))


def _number(yx: Tensor, h: int, w: int) -> Tensor:
    """Cell numbers y·w + x of positions (..., 2); h·w outside the map."""
    y, x = yx.unbind(-1)
    return torch.where((y >= 0) & (y < h) & (x >= 0) & (x < w), y * w + x, h * w)


def _columns(maps: Tensor) -> Tensor:
    """(S, K, ...) -> (K, S·...)."""
    return maps.transpose(0, 1).flatten(1)


def _take(values: Tensor, where: Tensor) -> Tensor:
    """values (n, K, L) at where (n, M, k) -> (n, K, M, k)."""
    index = where.flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return values.gather(2, index).view(*index.shape[:2], *where.shape[1:])


def _in_order(rows: Tensor, cells: Tensor, count: int) -> Tensor:
    """The rows (T, M, K) of cells (T, M) put in the order of the ``count`` cells: (count, K)."""
    seat = torch.empty(count + 1, dtype=torch.long, device=cells.device)
    seat[cells.flatten()] = torch.arange(cells.numel(), device=cells.device)
    return rows.flatten(0, 1).index_select(0, seat[:count])
