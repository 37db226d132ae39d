"""``pixeltrail convert``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import OptionalFile
from pixeltrail.errors import InputError

_CHECKPOINTS = (".pth", ".pt", ".tar", ".t7")
_FORMATS = "{davis,youtubevos,coco,mot,mots,cvat,labelstudio,labelme,tapvid,csv,yolo,npz,cutouts,mp4,webm,gif}"


@dataclass(frozen=True)
class Convert:
    """Turn annotations of a video from one format into another, or a PyTorch checkpoint into a weights file.

    IN is what pixeltrail track wrote, or annotations of another program: convert results clip.xml --to cvat. A
    checkpoint (.pth, .pt, .tar) goes to --out X.safetensors; nothing in it is executed.
    """

    file: Positional[Path]
    """Annotations, a folder of them, or a checkpoint."""
    target: Annotated[Positional[Path | None], arg(metavar="[TARGET]", help_behavior_hint="")] = None
    """The file or folder of annotations to write."""
    from_: Annotated[str, arg(name="from", metavar=_FORMATS.split(",mp4")[0] + "}", help_behavior_hint="")] = ""
    """Format of the annotations, where it cannot be told by their looks."""
    to: Annotated[str, arg(metavar=_FORMATS, help_behavior_hint="(default: by the suffix)")] = ""
    """Format to write."""
    video: OptionalFile = None
    """The pictures: a video or a folder of frames. Cut-outs and overlays need them, and formats that say no frame size."""
    out: OptionalFile = None
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
        if self.out is not None or self.file.suffix.lower() in _CHECKPOINTS:
            return self._checkpoint()
        if self.target is None:
            raise InputError("convert: give the file or folder to write, or --out X.safetensors for a checkpoint")

        from pixeltrail import exchange
        from pixeltrail.data.video import open_frames

        format = self.to or exchange.guess(self.target)
        video = open_frames(self.video) if self.video else None
        for note in exchange.write(exchange.read(self.file, self.from_, video), self.target, format):
            print(note, file=sys.stderr)
        print(f"{format} -> {self.target}")
        return 0

    def _checkpoint(self) -> int:
        out = self.out or self.target
        if out is None:
            raise InputError(f"{self.file}: is a checkpoint; name the weights file to write: --out X.safetensors")

        from pixeltrail.checkpoints.convert import convert

        card = convert(self.file, out, self.method).card
        left = f"; left out: {', '.join(card['left_out'])}" if card["left_out"] else ""
        print(f"{card['family']} -> {out}{left}")
        return 0
