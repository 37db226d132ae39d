"""A small auto-encoder in the manner of VGG: what UVC copies instead of raw colours."""

from __future__ import annotations

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pixeltrail.errors import WeightsError


class AutoEncoder(nn.Module):
    """Pictures (B, 3, 8h, 8w) in [-1, 1] -> ``encoder`` -> codes (B, channels, h, w) -> ``decoder`` -> pictures.

    Three times two 3×3 convolutions and a halving, ``width``, 2 · and 4 · ``width`` channels; the decoder mirrors that.
    No batch norm: a frozen one must not depend on who uses it.
    """

    stride = 8

    def __init__(self, *, width: int = 64, channels: int = 256) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        down: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            down += [*_convs(inputs, outputs), *_convs(outputs, outputs), nn.MaxPool2d(2)]
        up: list[nn.Module] = [*_convs(channels, widths[-1])]
        for inputs, outputs in zip(widths[::-1], (*widths[-2::-1], width), strict=True):
            up += [nn.Upsample(scale_factor=2), *_convs(inputs, inputs), *_convs(inputs, outputs)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], channels, 3, 1, 1))
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, 3, 3, 1, 1), nn.Tanh())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, picture: Tensor) -> Tensor:
        return self.decoder(self.encoder(picture))  # type: ignore[no-any-return]


def read_autoencoder(network: AutoEncoder, path: str) -> None:
    """Fill ``network`` from the safetensors file of a training run that had one. Raises ``WeightsError``."""
    prefix = "objective.autoencoder."
    try:
        tensors = {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}
        network.load_state_dict(tensors)
    except (SafetensorError, OSError, RuntimeError) as error:
        problem = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{path}: not an auto-encoder of these settings: {problem}") from error
    if not all(bool(v.isfinite().all()) for v in tensors.values()):
        raise WeightsError(f"{path}: the auto-encoder holds NaN or infinity; train it again")


def _convs(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, 1, 1), nn.ReLU(inplace=True)
