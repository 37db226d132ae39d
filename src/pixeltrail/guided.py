"""The guided filter: soft labels from a coarse grid, snapped to the edges of the picture.

He, Sun & Tang, "Guided Image Filtering", ECCV 2010 (colour guide, eq. 14–16), in the fast form of He & Sun 2015: its
linear model is fitted on a small picture and applied at full size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class GuidedFilter:
    """Within each small window, labels are a linear function of the colours there.

    ``guide`` (1, 3, H, W) in [0, 1] is the picture; ``small`` the size (h, w) at which the model is fitted, ``radius``
    of its windows there; ``epsilon`` how much colours must differ to count as an edge (squared, in units of the guide).
    """

    def __init__(self, guide: Tensor, small: tuple[int, int], *, radius: int = 3, epsilon: float = 5e-5) -> None:
        self.guide, self.radius, self.small = guide, radius, small
        self._colour = F.interpolate(guide, small, mode="area")[0]  # (3, h, w)
        self._mean = self._box(self._colour)
        r, g, b = self._colour
        products = self._box(torch.stack((r * r, r * g, r * b, g * g, g * b, b * b)))
        mr, mg, mb = self._mean
        rr, rg, rb, gg, gb, bb = products - torch.stack((mr * mr, mr * mg, mr * mb, mg * mg, mg * mb, mb * mb))
        rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
        # Inverse of the symmetric 3×3 covariance by its cofactors, for all windows at once.
        c = (
            gg * bb - gb * gb,
            gb * rb - rg * bb,
            rg * gb - gg * rb,
            rr * bb - rb * rb,
            rb * rg - rr * gb,
            rr * gg - rg * rg,
        )
        determinant = rr * c[0] + rg * c[1] + rb * c[2]
        xx, xy, xz, yy, yz, zz = (cofactor / determinant for cofactor in c)
        self._inverse = torch.stack((torch.stack((xx, xy, xz)), torch.stack((xy, yy, yz)), torch.stack((xz, yz, zz))))

    def __call__(self, values: Tensor) -> Tensor:
        """Values (K, h, w) at the small size -> (K, H, W). Constants stay as they are, and sums over K."""
        mean = self._box(values)
        both = self._box((self._colour.unsqueeze(1) * values).flatten(0, 1)).unflatten(0, (3, -1))
        covariance = both - self._mean.unsqueeze(1) * mean  # (3, K, h, w)
        slope = torch.einsum("ijhw,jkhw->ikhw", self._inverse, covariance)
        offset = mean - (slope * self._mean.unsqueeze(1)).sum(0)
        size = (self.guide.shape[-2], self.guide.shape[-1])
        model = torch.cat((slope.flatten(0, 1), offset)).unsqueeze(0)
        model = F.interpolate(model, size, mode="bilinear", align_corners=False)[0].unflatten(0, (4, -1))
        out: Tensor = model[3]
        for i in range(3):
            out = out.addcmul(model[i], self.guide[0, i])
        return out

    def _box(self, x: Tensor) -> Tensor:
        """Mean over (2r + 1)² windows of (K, h, w), the border repeated."""
        r = self.radius
        padded = F.pad(x.unsqueeze(0), (r, r, r, r), mode="replicate")
        rows = F.avg_pool2d(padded, (2 * r + 1, 1), 1)
        return F.avg_pool2d(rows, (1, 2 * r + 1), 1)[0]
