"""What the encoder may see. Hiding colour in training turns "copy the colours" from trivial into a lesson.

A bottleneck is called with the clip in training, ``bottleneck(clip, generator) -> Seen``, and offers ``view(rgb)`` for
tracking, where nothing is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixeltrail.colour import rgb_to_lab


@dataclass(frozen=True, slots=True)
class Seen:
    """``view`` (B, T, 3, H, W): what the encoder gets. ``hidden``: the channels of the view that were taken away, which
    an objective may ask the affinity to bring back."""

    view: Tensor
    hidden: tuple[int, ...] = ()


class Everything(nn.Module):
    """RGB as it is, scaled from [0, 1] to [-1, 1]: for objectives whose lesson is geometry (DUL, CycleTime, CRW)."""

    def view(self, rgb: Tensor) -> Tensor:
        """(..., 3, H, W) in [0, 1] -> the same shape in [-1, 1]."""
        return rgb * 2 - 1

    def forward(self, clip: Tensor, generator: torch.Generator | None = None) -> Seen:
        return Seen(self.view(clip))


class Grey(nn.Module):
    """Luminance only (ITU-R BT.601 weights), three times over, from [0, 1] to [-1, 1]: Video Colorization (ECCV 2018).

    Always grey, when tracking too; no random choice.
    """

    def view(self, rgb: Tensor) -> Tensor:
        """(..., 3, H, W) in [0, 1] -> the same shape in [-1, 1], all three channels equal."""
        weight = rgb.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        return (rgb * weight).sum(-3, keepdim=True).expand_as(rgb) * 2 - 1

    def forward(self, clip: Tensor, generator: torch.Generator | None = None) -> Seen:
        return Seen(self.view(clip))


class DropRGB(nn.Module):
    """CorrFlow (Lai & Xie, BMVC 2019, sec. 3.2): with probability 1 − ``keep`` lose one or two of R, G, B.

    One draw for the whole batch, survivors scaled by 3 / (3 − k). Optional colour jitter hits each frame alone with
    probability ``jitter`` per clip. Input stays RGB in [0, 1], without mean and deviation, as the released code has it.
    """

    def __init__(self, keep: float = 0.3, jitter: float = 0.1, strength: float = 0.1) -> None:
        super().__init__()
        self.keep, self.jitter, self.strength = keep, jitter, strength

    def view(self, rgb: Tensor) -> Tensor:
        """(..., 3, H, W) in [0, 1], unchanged."""
        return rgb

    def forward(self, clip: Tensor, generator: torch.Generator | None = None) -> Seen:
        clip = self._jittered(clip, generator)
        if _uniform(generator) < self.keep:
            return Seen(clip)
        dropped = torch.randperm(3, generator=generator)[: 1 + int(_uniform(generator) * 2)].tolist()
        scale = clip.new_full((3, 1, 1), 3 / (3 - len(dropped)))
        scale[dropped] = 0
        return Seen(clip * scale, tuple(sorted(dropped)))

    def _jittered(self, clip: Tensor, generator: torch.Generator | None) -> Tensor:
        rows = torch.rand(clip.shape[0], generator=generator) < self.jitter
        if not bool(rows.any()):
            return clip
        # Brightness, contrast and saturation, each within 1 ± strength, anew for every frame. (The released code also
        # turns the hue by at most 0.1; it needs HSV there and back for the rarest of four small changes: left out.)
        low, spread = 1 - self.strength, 2 * self.strength
        gain = low + spread * torch.rand(3, *clip.shape[:2], 1, 1, 1, generator=generator).to(clip.device)
        x = clip * gain[0]
        x = x.mean((2, 3, 4), keepdim=True) * (1 - gain[1]) + x * gain[1]
        x = (x.mean(2, keepdim=True) * (1 - gain[2]) + x * gain[2]).clamp(0, 1)
        return torch.where(rows.view(-1, 1, 1, 1, 1).to(clip.device), x, clip)


class DropLab(nn.Module):
    """MAST (Lai, Lu & Xie, CVPR 2020): Lab in, one of a and b lost in every batch, the two survivors × 3/2.

    The view is (L − 50)/50, a/127, b/127; L is never dropped. Lab decorrelates lightness from colour, which is why
    losing one channel hides more than in RGB.
    """

    def view(self, rgb: Tensor) -> Tensor:
        """(..., 3, H, W) RGB in [0, 1] -> normalised Lab, each channel in about [-1, 1]."""
        return normalised_lab(rgb)

    def forward(self, clip: Tensor, generator: torch.Generator | None = None) -> Seen:
        hidden = 1 + int(_uniform(generator) * 2)
        scale = clip.new_full((3, 1, 1), 1.5)
        scale[hidden] = 0
        return Seen(self.view(clip) * scale, (hidden,))


class Lightness(nn.Module):
    """UVC (Li et al., NeurIPS 2019): only Lab's L, as a grey picture under ImageNet's mean and deviation."""

    def view(self, rgb: Tensor) -> Tensor:
        """(..., 3, H, W) RGB in [0, 1] -> the same shape: L / 100 three times, each normalised as that channel is."""
        grey = rgb_to_lab(rgb)[..., :1, :, :] / 100
        mean, deviation = grey.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
        view: Tensor = (grey - mean) / deviation
        return view

    def forward(self, clip: Tensor, generator: torch.Generator | None = None) -> Seen:
        return Seen(self.view(clip))


def normalised_lab(rgb: Tensor) -> Tensor:
    """(..., 3, H, W) RGB in [0, 1] -> (L − 50)/50, a/127, b/127."""
    lab = rgb_to_lab(rgb)
    return (lab - lab.new_tensor([50, 0, 0]).view(3, 1, 1)) / lab.new_tensor([50, 127, 127]).view(3, 1, 1)


def _uniform(generator: torch.Generator | None) -> float:
    return float(torch.rand((), generator=generator))
