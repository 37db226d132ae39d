"""Masks inside boxes: each object is looked for around the place to which it has moved, and nowhere else.

Li et al., "Joint-task Self-supervised Learning for Temporal Correspondence" (UVC), NeurIPS 2019: what it learns in
training, first the region and then its cells, is also how its best numbers are made. It helps against look-alikes; an
object that is wholly hidden for a while leads its box astray, and what is outside the box is not found again.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor

import torch
from torch import Tensor

from pixeltrail.affinity import Affinity
from pixeltrail.geometry import pixel_grid

MARGIN = 0.6
"""Boxes are wider than their objects by this share (released code)."""
KEPT = 0.9
"""How much of a box's size stays as it was a frame before (released code)."""
FEWEST = 3
"""An object of fewer cells is looked for in the whole frame (released code)."""

Box = tuple[slice, slice]


def propagate_in_boxes(affinity: Affinity, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As ``Affinity.propagate``, each object's box by itself: (1, C, h, w), (1, S, C, h, w), (1, S, K, h, w) -> (1, K, h, w).

    Channel 0 of ``values`` is the background, which all that lies in no box belongs to. The cells of an object's box see
    those of its box in every reference, and copy all labels; where boxes overlap, the mean counts. The last reference is
    the frame before, from which objects are followed. ``affinity`` has no radius.
    """
    # Departure: a box's size follows that of the last mask, where the released code smooths that of the last box: a
    # session remembers nothing besides its frames.
    total, count = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0, :1])
    for k in range(1, values.shape[2]):
        rows, columns = moved(affinity, query, keys[:, -1], values[0, -1, k])
        found = query[..., rows, columns]
        seen = [_inside(keys[:, s], values[:, s], k) for s in range(keys.shape[1])]
        if affinity.joint:  # one softmax over all of them
            seen = [(torch.cat([key for key, _ in seen], 4), torch.cat([value for _, value in seen], 4))]
        parts = [affinity.propagate(found, key, value) for key, value in seen]
        total[..., rows, columns] += torch.stack(parts).mean(0)
        count[..., rows, columns] += 1
    total[:, :1] += count == 0
    return total / count.clamp_min(1)


WHOLE: Box = (slice(None), slice(None))


def _inside(key: Tensor, value: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of a reference, what lies in the box of its object k, in a row: (1, 1, C, 1, n) and (1, 1, K, 1, n)."""
    mask = value[0, k]
    rows, columns = box_of(*extent(mask), (mask.shape[0], mask.shape[1])) if _seen(mask) else WHOLE
    row, own = key[..., rows, columns].flatten(2), value[..., rows, columns].flatten(2)
    return row[:, None, :, None], own[:, None, :, None]


def moved(affinity: Affinity, query: Tensor, key: Tensor, mask: Tensor) -> Box:
    """The box (rows, columns) in the frame ``query`` (1, C, h, w) of the object that ``mask`` (h, w) marks in ``key``.

    Its cells each find a place, the soft-argmax of where they go; the mean of those is the new centre, and their spread
    a tenth of the new size.
    """
    # Departure: a place is that of the protocol's top k, scaled to sum one. With all cells of the frame, as in training,
    # every place leans to the middle of the frame where the features are less sharp than UVC's own.
    if not _seen(mask):
        return WHOLE
    h, w = mask.shape
    cells = key.flatten(2)[:, :, (mask > 0.5).flatten()].unsqueeze(2)  # (1, C, 1, N)
    grid = pixel_grid(h, w, device=mask.device).view(1, 1, 2, h, w)
    place = replace(affinity, renormalize=True).propagate(cells, query.unsqueeze(1), grid)[0, :, 0]  # (2, N)
    centre = place.mean(1)
    spread = 2 * (place - centre.unsqueeze(1)).abs().mean(1)
    _, half = extent(mask)
    return box_of(centre, KEPT * half + (1 - KEPT) * spread, (h, w))


def extent(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and half-size (2,), as x, y in cells, of what ``mask`` (h, w) marks: twice the mean distance from the centre,
    exact for a filled box (paper, sec. 3), and blind to stray cells."""
    y, x = (mask > 0.5).nonzero(as_tuple=True)
    place = torch.stack((x, y)).float()
    centre = place.mean(1)
    return centre, 2 * (place - centre.unsqueeze(1)).abs().mean(1)


def box_of(centre: Tensor, half: Tensor, size: tuple[int, int]) -> Box:
    """The cells (rows, columns) of a frame (h, w) that a box with its margin touches; one at least."""
    sides = []
    for c, r, n in zip(centre.tolist(), (half * (1 + MARGIN)).tolist(), (size[1], size[0]), strict=True):
        low = min(max(floor(c - r), 0), n - 1)
        sides.append(slice(low, max(min(ceil(c + r), n - 1), low) + 1))
    return sides[1], sides[0]


def _seen(mask: Tensor) -> bool:
    return int((mask > 0.5).sum()) >= FEWEST
