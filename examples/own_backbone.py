"""Your own backbone under any protocol: a DINO, a timm network, a diffusion model; here a small network, made on the spot.

    pixeltrail evaluate davis DAVIS --encoder examples/own_backbone.py:features --protocol dino
    pixeltrail track clip.mp4 --labels first.png --out results --encoder examples/own_backbone.py:features

All that is needed is a function from (B, 3, H, W) RGB in [0, 1] to (B, C, H / stride, W / stride) with an attribute
``stride``. The frames come padded to multiples of it. A Vision Transformer from timm would be

    vit = timm.create_model("vit_small_patch16_224.dino", pretrained=True, dynamic_img_size=True).eval()

    def features(rgb):
        maps = vit.forward_features((rgb - MEAN) / DEVIATION)[:, 1:]  # without the class token
        return maps.transpose(1, 2).unflatten(2, (rgb.shape[2] // 16, rgb.shape[3] // 16))

    features.stride, features.offset = 16, 7.5  # the first patch is centred on pixel 7.5
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gabor(nn.Module):
    """Responses of ``angles`` x 2 Gabor filters at two scales, and the colours: nothing learned."""

    stride = 8

    def __init__(self, angles: int = 6, size: int = 15) -> None:
        super().__init__()
        y, x = torch.meshgrid(*(torch.arange(size) - size // 2.0,) * 2, indexing="ij")
        turns = [math.pi * i / angles for i in range(angles)]
        along = torch.stack([x * math.cos(a) + y * math.sin(a) for a in turns])
        bell = torch.exp(-(x**2 + y**2) / (2 * (size / 5) ** 2))
        filters = torch.cat([bell * wave(along * 2 * math.pi / (size / 2)) for wave in (torch.cos, torch.sin)])
        filters = filters - filters.mean((1, 2), keepdim=True)
        self.register_buffer("filters", (filters / filters.norm(dim=(1, 2), keepdim=True)).unsqueeze(1))

    def forward(self, rgb: Tensor) -> Tensor:
        h, w = rgb.shape[2] // self.stride, rgb.shape[3] // self.stride
        grey = rgb.mean(1, keepdim=True)
        maps = [rgb * 4]
        for scale in (1, 2):
            small = F.avg_pool2d(grey, scale) if scale > 1 else grey
            padded = F.pad(small, (7, 7, 7, 7), mode="replicate")
            strength = F.conv2d(padded, self.filters).abs()
            maps.append(F.interpolate(strength, rgb.shape[2:], mode="bilinear", align_corners=False))
        blurred = F.avg_pool2d(F.pad(torch.cat(maps, 1), (4, 4, 4, 4), mode="replicate"), 9, self.stride)
        return blurred[..., :h, :w]


features = Gabor().eval()
