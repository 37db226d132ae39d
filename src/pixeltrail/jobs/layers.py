"""The layers of any tracker's network, by name, for probes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pixeltrail.nets.hypercolumns import Hypercolumns
from pixeltrail.nets.resnet import ResNet
from pixeltrail.tracker import Tracker


def layers_of(tracker: Tracker) -> Callable[[Tensor], dict[str, Tensor]]:
    """A function of pictures (B, 3, H, W) in [0, 1] that gives {layer: (B, C, h, w)}.

    conv1 to conv5 of CPFS's AlexNet, conv1 and the stages of a ResNet, else the embedding alone. The network is set to
    evaluation.
    """
    encoder = tracker.eval().encoder

    def layers(rgb: Tensor) -> dict[str, Tensor]:
        view = tracker.bottleneck.view(rgb)  # type: ignore[operator]
        if isinstance(encoder, Hypercolumns):
            found: dict[str, Tensor] = encoder.trunk.maps(view, encoder.trunk.probed)
            return found
        if not isinstance(encoder, ResNet):
            return {"embedding": encoder(view)}
        return _overheard(encoder, {"conv1": encoder.relu, **{s: getattr(encoder, s) for s in encoder.stages}}, view)

    return layers


def _overheard(network: nn.Module, modules: dict[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """What ``modules`` put out while ``network`` runs."""
    found: dict[str, Tensor] = {}

    def listener(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, inputs, output: found.__setitem__(name, output)

    hooks = [module.register_forward_hook(listener(name)) for name, module in modules.items()]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found
