"""Your own encoder under the tracker: here SqueezeNet v1.0 trained with ImageNet's *labels*, the supervised yardstick.

    SQUEEZENET=squeezenet_v1.0_bgr.safetensors pixeltrail evaluate davis DAVIS --method examples/imagenet_features.py

A file like this one, with a function ``build() -> Tracker``, is all that ``--method`` needs.
"""

import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from pixeltrail import Affinity, MemoryPolicy, Protocol, Tracker

SQUEEZE = {2: 16, 3: 16, 4: 32, 5: 32}
INPUTS = {2: 96, 3: 128, 4: 128, 5: 256}


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int) -> None:
        super().__init__()
        self.conv1x1_1 = nn.Conv2d(inputs, squeeze, 1)
        self.conv1x1_2 = nn.Conv2d(squeeze, 4 * squeeze, 1)
        self.conv3x3_2 = nn.Conv2d(squeeze, 4 * squeeze, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1x1_1(x))
        return F.relu(torch.cat((self.conv1x1_2(x), self.conv3x3_2(x)), 1))


class SqueezeNet(nn.Module):
    """(B, 3, H, W) BGR minus the mean, 0-255 -> fire5 (B, 256, H/8, W/8)."""

    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, 2, 3)
        for n, squeeze in SQUEEZE.items():
            setattr(self, f"fire{n}", Fire(INPUTS[n], squeeze))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)
        x = self.fire4(self.fire3(self.fire2(x)))
        return self.fire5(F.max_pool2d(x, 3, 2, 1))


class CaffeInput(nn.Module):
    def view(self, rgb: Tensor) -> Tensor:
        bgr = rgb.flip(-3) * 255
        return bgr - bgr.new_tensor([104.0, 117.0, 123.0]).view(3, 1, 1)


def build() -> Tracker:
    encoder = SqueezeNet()
    published = load_file(os.environ["SQUEEZENET"])
    wanted = encoder.state_dict()
    # Published names have a slash: fire2/conv1x1_1.weight.
    encoder.load_state_dict({k: published[k.replace(".", "/", k.startswith("fire"))].float() for k in wanted})
    return Tracker(
        encoder=encoder,
        bottleneck=CaffeInput(),
        protocol=Protocol(
            affinity=Affinity(radius=12, temperature=0.07, normalize=True, topk=10),
            policy=MemoryPolicy(anchors=(0,), recent=3),
        ),
        objective=lambda tracker, batch: {},
    )
