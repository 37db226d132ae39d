"""``pixeltrail convert``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import File


@dataclass(frozen=True)
class Convert:
    """Turn a published PyTorch checkpoint into a weights file; nothing in it is executed."""

    file: Positional[Path]
    """A .pth, .pt or .tar file of torch.save."""
    out: File
    """The .safetensors file to write; give it to --method of track and evaluate."""
    method: Annotated[
        str,
        arg(
            metavar="{corrflow,mast,cycletime,uvc,vfs,crw,resnet}",
            help_behavior_hint="(default: told by the names in it)",
        ),
    ] = ""
    """Whose checkpoint it is."""

    def run(self) -> int:
        from pixeltrail.checkpoints.convert import convert

        card = convert(self.file, self.out, self.method).card
        left = f"; left out: {', '.join(card['left_out'])}" if card["left_out"] else ""
        print(f"{card['family']} -> {self.out}{left}")
        return 0
