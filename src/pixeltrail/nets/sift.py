"""Dense SIFT as an embedding: the classical descriptor in the place of a learned one.

Lowe, *Distinctive Image Features from Scale-Invariant Keypoints*, IJCV 2004, upright and at one scale around every cell,
as in SIFT Flow (Liu, Yuen & Torralba, TPAMI 2011); compared by the square roots of their shares (RootSIFT, Arandjelović &
Zisserman, CVPR 2012). By OpenCV, the extra ``[classical]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixeltrail.errors import InputError


class DenseSift(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> (B, 128, h, w), unit vectors, 0 where the picture is flat. No parameters.

    ``bin``: side in pixels of each of the 4 x 4 squares whose gradients are counted. Raises InputError without OpenCV.
    """

    stride = 8

    def __init__(self, bin: float = 4.0) -> None:
        super().__init__()
        self.bin = bin

    def forward(self, view: Tensor) -> Tensor:
        cv2 = _opencv()
        h, w = -(-view.shape[-2] // self.stride), -(-view.shape[-1] // self.stride)
        engine = cv2.SIFT_create()
        maps = []
        for image in (view * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
            grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
            # OpenCV's squares have one and a half times the side of the keypoint.
            points = [
                cv2.KeyPoint(float(x * self.stride), float(y * self.stride), self.bin / 1.5, 0)
                for y in range(h)
                for x in range(w)
            ]
            _, found = engine.compute(grey, points)
            maps.append(torch.from_numpy(np.asarray(found, np.float32)).view(h, w, 128).permute(2, 0, 1))
        return F.normalize(torch.stack(maps).to(view.device), p=1, dim=1).sqrt()


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise InputError("OpenCV is not installed, and SIFT needs it; install pixeltrail[classical]") from None
    return cv2
