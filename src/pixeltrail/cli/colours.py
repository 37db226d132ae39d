"""``pixeltrail colours``."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.shared import Folder, OptionalFile, progress_bar


@dataclass(frozen=True)
class Colours:
    """Find the colour classes of your own videos, for training by colorization or corrflow.

    The list of [a, b] goes into a recipe, or its file's name: train ... --set settings.classes=FILE.json
    """

    data: Positional[Folder]
    """Folder with videos or folders of frames, at any depth."""
    count: int = 16
    """How many classes."""
    out: OptionalFile = None
    """A JSON file to write; without it, the list is printed."""
    cache: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: none are kept)")] = None
    """Where decoded frames are kept, for train --cache."""
    seed: int = 0
    """Which pixels are looked at."""

    def run(self) -> int:
        from pixeltrail.data.clips import build_cache
        from pixeltrail.data.files import write_text
        from pixeltrail.training.colours import colours_of

        with tempfile.TemporaryDirectory() as aside, progress_bar() as show:
            videos, bad = build_cache(
                self.data, self.cache or aside, on_video=lambda done, total, name: show("reading videos", done, total)
            )
            for line in bad:
                print(f"skipped: {line}", file=sys.stderr)
            classes = colours_of(
                videos, self.count, seed=self.seed,
                on_video=lambda done, total, name: show("looking at colours", done, total),
            )  # fmt: skip
        text = "[" + ",\n ".join(json.dumps(centre) for centre in classes) + "]\n"
        if self.out is None:
            print(text, end="")
            return 0
        write_text(self.out, text)
        print(f"{len(classes)} classes of {len(videos)} videos -> {self.out}")
        return 0
