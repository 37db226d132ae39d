"""Raw colour as an embedding: the baseline that a learned encoder has to beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RawColour(nn.Module):
    """Colours of the 3×3 cells around each cell, and a constant: (B, 3, H, W) -> (B, 28, h, w).

    The constant makes the cosine of two such vectors fall with the distance of their colours. No parameters.
    """

    stride = 8

    def forward(self, view: Tensor) -> Tensor:
        cells = F.avg_pool2d(
            view, self.stride + 1, self.stride, self.stride // 2, ceil_mode=True, count_include_pad=False
        )
        h, w = -(-view.shape[-2] // self.stride), -(-view.shape[-1] // self.stride)
        cells = cells[..., :h, :w]
        around = F.unfold(F.pad(cells, (1, 1, 1, 1), mode="replicate"), 3).unflatten(2, (h, w))
        return torch.cat((around, torch.ones_like(cells[:, :1])), 1)
