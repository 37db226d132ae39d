"""CycleTime: follow a patch back through the clip and forward again; it must come home.

Wang, Jabri & Efros, "Learning Correspondence from the Cycle-consistency of Time", CVPR 2019. A patch of the last frame
looks for itself in an earlier one: a small network, the localiser, reads the affinity and says where (an affine map of
fixed scale), and what is found there is the patch of the next step. Back and forth it goes, through every frame (long
cycles) or straight to a far one (skip cycles), and the loss is how far from its own place it ends.

Places are affine maps theta (B, 2, 3) from the patch's [-1, 1]² to the frame's [-1, 1]², whose corners are the centres
of the corner pixels. Clips are square.
"""

from __future__ import annotations

from dataclasses import replace
from math import pi

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from pixeltrail.affinity import Affinity
from pixeltrail.bottleneck import Everything
from pixeltrail.errors import InputError
from pixeltrail.geometry import sample
from pixeltrail.memory import MemoryPolicy
from pixeltrail.nets.resnet import resnet50
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.types import Batch

PAPER = "https://arxiv.org/abs/1903.07593"
SCALE = 1 / 3  # of a patch in its frame: 80 of 240 pixels, 10 of 30 cells


class Localiser(nn.Module):
    """Where the affinity says that a patch is: (B, grid², p, p), frame cells as channels, -> theta (B, 2, 3)."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        if grid % 3 or grid < 21:
            raise InputError(f"cycletime: grid is {grid}; expected a multiple of 3, at least 21")
        self.layers = nn.Sequential(
            nn.Conv2d(grid**2, 128, 4), nn.LeakyReLU(0.1), nn.Conv2d(128, 64, 4), nn.LeakyReLU(0.1), nn.Flatten(),
            nn.Linear(64 * (grid // 3 - 6) ** 2, 3),
        )  # fmt: skip

    def forward(self, affinity: Tensor) -> Tensor:
        return affine(*self.layers(affinity).float().unbind(1))


class ComeHome(nn.Module):
    """L = L_sim + ``skip`` · L_skip + ``long`` · L_long (paper, sec. 3), each the mean over cycles of 1 … T − 1 frames.

    ``own`` (0 in the paper): weight of the cycle of no frames, in which the patch is to be found in its own. Its answer is
    known, so that the localiser learns to read affinities in hundreds of steps; by itself it first says "the middle"
    to everything, and the similarity teaches the encoder just that, until some hundred thousand clips have undone it.
    ``grid``: the localiser's channels are the cells of a frame, so their number must be fixed. Departure: the features
    of any clip are resampled to grid × grid, and a patch's to a third of that; at the paper's 240² pixels, where a
    frame has 30 × 30 cells, this changes next to nothing.
    """

    # The paper has 0.1 for both cycles; the released code multiplies the long ones by another 0.2, for stability, and
    # its numbers were made so. It also takes means where the paper writes sums, which frees us from the clip's length.
    def __init__(self, *, grid: int = 30, skip: float = 0.1, long: float = 0.02, own: float = 0.0) -> None:
        super().__init__()
        self.localise = Localiser(grid)
        self.grid, self.skip, self.long, self.own = grid, skip, long, own

    def forward(self, tracker: Tracker, batch: Batch) -> dict[str, Tensor]:
        """Terms ``similarity``, ``skip``, ``long``, and ``own`` if it counts, from clips of two frames or more; the patch is
        the last one's."""
        clip = tracker.bottleneck(batch.clip, batch.generator).view
        size, last, p = (clip.shape[-2], clip.shape[-1]), clip.shape[1] - 1, self.grid // 3
        start = choose_patch(batch.clip, batch.generator)
        x = tracker.embed_clip(clip).float()
        whole = torch.eye(2, 3, device=x.device).expand(len(x), 2, 3)
        frames = torch.stack([look(f, whole, self.grid, size, tracker.stride) for f in x.unbind(1)], 1)
        picture = look(clip[:, -1], start, round(SCALE * min(size)), size)
        side = (picture.shape[-2], picture.shape[-1])
        patch = look(tracker.encoder(picture).float(), whole, p, side, tracker.stride)
        affinity = replace(tracker.protocol.affinity, topk=None)

        def track(patch: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor]:
            """What is found of the patch in frame t, where, and the weights (B, p², grid²) that led there."""
            weight = affinity(patch, frames[:, t : t + 1]).weight.float()
            theta = self.localise(weight.transpose(1, 2).unflatten(2, (p, p)))
            return look(x[:, t], theta, p, size, tracker.stride), theta, weight

        similarity, skip, long = [], [], []
        back = patch
        for n in range(1, last + 1):
            there, theta, weight = track(patch, last - n)
            similarity.append(-inliers(weight, theta, self.grid))
            skip.append(distance(track(there, last)[1], start))
            back = there if n == 1 else track(back, last - n)[0]
            home = back
            for t in range(last - n + 1, last + 1):
                home, theta, _ = track(home, t)
            long.append(distance(theta, start))
        terms = {
            "similarity": torch.stack(similarity).mean(),
            "skip": self.skip * torch.stack(skip).mean(),
            "long": self.long * torch.stack(long).mean(),
        }
        if self.own:
            terms["own"] = self.own * distance(track(patch, last)[1], start)
        return terms


def affine(x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
    """Centres (B,) in the frame's [-1, 1] and angles (B,) in radians, clockwise on screen -> theta (B, 2, 3)."""
    cos, sin = SCALE * angle.cos(), SCALE * angle.sin()
    return torch.stack((cos, -sin, x, sin, cos, y), 1).view(-1, 2, 3)


def lattice(theta: Tensor, n: int) -> Tensor:
    """Where theta (B, 2, 3) puts n × n points that span a patch: (B, 2, n, n) as x, y in the frame's [-1, 1]."""
    line = torch.linspace(-1, 1, n, device=theta.device)
    v, u = torch.meshgrid(line, line, indexing="ij")
    a, b, shift = theta[..., None, None].unbind(2)
    return a * u + b * v + shift


def look(values: Tensor, theta: Tensor, n: int, size: tuple[int, int], stride: int = 1) -> Tensor:
    """n × n samples of a patch: values (B, K, h, w), cells ``stride`` apart in a frame of (H, W), -> (B, K, n, n)."""
    extent = theta.new_tensor([size[1] - 1, size[0] - 1]).view(2, 1, 1)
    return sample(values, (lattice(theta, n) + 1) / 2 * extent / stride, padding="border")


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of 20 × 20 points of a patch under both maps (Rocco et al., CVPR 2017)."""
    return (lattice(a, 20) - lattice(b, 20)).square().sum(1).mean()


def inliers(weight: Tensor, theta: Tensor, grid: int) -> Tensor:
    """Mean weight (B, p², grid²) of the pairs that theta calls a match (Rocco et al., CVPR 2018): -L_sim.

    A patch cell matches the frame cells around the place that theta gives it: fully within one cell in x and y, falling
    to nothing at two. (The paper compares features here; the released code, and we, count the affinity's mass.)
    """
    where = (lattice(theta, grid // 3).flatten(2) + 1) / 2 * (grid - 1)  # (B, 2, p²) in frame cells
    x, y = (2 - (where.unsqueeze(-1) - torch.arange(grid, device=theta.device)).abs()).clamp(0, 1).unbind(1)
    match = (y.unsqueeze(-1) * x.unsqueeze(-2)).flatten(2)
    return ((match * weight).sum((1, 2)) / match.sum((1, 2)).clamp_min(1e-6)).mean()


def choose_patch(clip: Tensor, random: Generator | None) -> Tensor:
    """A place in the last frame, one of the ten where most moves, turned by up to 45°: (B, T, 3, H, W) -> (B, 2, 3).

    Candidates are the 7 × 7 windows of 3 × 3 cells in a frame of 9 × 9, shifted by up to 1/12 in [-1, 1].
    """
    motion = (clip[:, -1] - clip[:, -2]).abs().mean(1, keepdim=True)
    windows = F.avg_pool2d(F.adaptive_avg_pool2d(motion, 9), 3, 1).flatten(1)
    rank = torch.randint(10, (len(clip), 1), generator=random).to(clip.device)
    best = windows.topk(10).indices.gather(1, rank)
    x, y, angle = (2 * torch.rand(3, len(clip), generator=random) - 1).to(clip).unbind(0)
    x = ((best[:, 0] % 7) / 4.5 - 2 / 3 + x / 12).clamp(-2 / 3, 2 / 3)
    y = ((best[:, 0] // 7) / 4.5 - 2 / 3 + y / 12).clamp(-2 / 3, 2 / 3)
    return affine(x, y, angle * pi / 4)


def build(*, width: int = 64, channels: int = 512, **objective: float) -> Tracker:
    """``width`` of the ResNet-50's first stage and ``channels`` of the embedding (paper: 64 and 512)."""
    encoder = resnet50(width=width)
    encoder.head = nn.Sequential(nn.Conv2d(encoder.channels, channels, 1, bias=False), nn.ReLU(inplace=True))
    encoder.channels = channels
    return Tracker(
        encoder=encoder,
        bottleneck=Everything(),  # Departure: the paper normalises by ImageNet's mean; batch norm does it again anyway.
        protocol=Protocol(
            affinity=Affinity(temperature=channels**-0.5, normalize=True, topk=5, renormalize=False, joint=False),
            policy=MemoryPolicy(anchors=(0,), recent=7),
            stretch=True,
        ),
        objective=ComeHome(**objective),  # type: ignore[arg-type]
    )
