"""Restricted attention in plain torch: batched matrix products of square tiles of queries with the window they reach.

The queries of one tile look at nearly the same cells, so one product of the tile with the patch of cells that any of
them reaches does the work of all their windows; a mask, the same for every tile, hides the rest of the patch. Neither
an unfolded map nor an (N, L) matrix is ever held: beside its result, `propagate` holds a band of the keys and the
scores of a few tiles, whatever the size of the frame (while gradients are recorded, autograd keeps all tiles).

Tiles are lists of cell numbers. Dilation is therefore only arithmetic: a tile's cells stand ``dilation`` apart, and
so do those of its patch. Cells outside the map have the number of a last, empty row.

Letters: S references, C feature channels, K value channels, N = h·w cells, T tiles, n tiles of one step, M queries of
one tile, L candidates of one tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pixeltrail.affinity import Affinity

Part = tuple[Tensor, Tensor]
"""Candidates of a step's queries: scores (n, M, L) and the values behind them (n or 1, K, L)."""

BAND = 4
"""Rows of tiles whose keys are laid out for gathering at a time: more repeat less work, fewer hold less memory."""


def propagate(
    affinity: Affinity, query: Tensor, keys: Tensor, values: Tensor, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Copy ``values`` (B, S, K, h, w) to the query's cells; the entropy of what each looked at, if wanted.

    The same as ``affinity(query, keys).copy(values)`` and ``.entropy()``: (B, K, h, w) and (B, h, w) or None.
    """
    if entropy:  # the mass of the weights is a copy of ones
        values = F.pad(values, (0, 0, 0, 0, 0, 1), value=1.0)
    samples = [_propagate(affinity, *sample, entropy=entropy) for sample in zip(query, keys, values, strict=True)]
    copied = torch.stack([sample for sample, _ in samples])
    if not entropy:
        return copied, None
    # With log w = score - lse, -Σ w log w = lse·mass - Σ w·score =: x; scaled to mass 1 that is x / mass + log mass.
    mass = copied[:, -1].clamp_min(torch.finfo(copied.dtype).tiny)
    spread = torch.stack([sample for _, sample in samples])
    return copied[:, :-1], (spread / mass + mass.log()).clamp_min(0)


def _propagate(
    affinity: Affinity, query: Tensor, keys: Tensor, values: Tensor, *, entropy: bool
) -> tuple[Tensor, Tensor]:
    """One sample: query (C, h, w), keys (S, C, h, w), values (S, K, h, w) -> (K, h, w), (h, w)."""
    h, w = query.shape[1:]
    free = len(keys) if affinity.radius is None else int(affinity.free_first)
    whole = [
        (affinity.unit(keys[s], 1).transpose(0, 1).flatten(1), values[s].transpose(0, 1).flatten(1))
        for s in _groups(affinity, 0, free)
    ]
    step, (ry, rx) = affinity.dilation, affinity.extent(h, w)
    patch = [torch.arange(-r, _side(r) + r, device=query.device) * step for r in (ry, rx)] if free < len(keys) else []
    seen = [k.shape[1] for k, _ in whole] + [len(patch[0]) * len(patch[1]) * (len(keys) - free)] if patch else seen_all(whole)
    raise NotImplementedError
