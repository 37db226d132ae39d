"""``pixeltrail train``."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from pixeltrail.cli.shared import (
    Device,
    Folder,
    OptionalFile,
    OptionalFolder,
    Settings,
    Threads,
    prepared,
    progress_bar,
)
from pixeltrail.errors import InputError, PixeltrailError

if TYPE_CHECKING:
    from pixeltrail.training.run import Run


@dataclass(frozen=True)
class Train:
    """Train a tracker on a folder of unlabelled videos, or a flow network on pairs that are made for it.

    OUT receives last.safetensors, best.safetensors, state.safetensors, metrics.jsonl, recipe.toml and pictures.
    """

    out: Folder
    """The run's folder."""
    data: OptionalFolder = None
    """Folder with videos or folders of frames, at any depth; or one video. A flow network that learns from generated
    pairs takes textures from it, if it is given."""
    method: Annotated[str, arg(metavar="METHOD", help_behavior_hint="(default: the recipe's, else dul)")] = ""
    """dul, mast, corrflow, or your own Python file; or a flow network: pwcnet, flownetc, flownets, spynet."""
    recipe: OptionalFile = None
    """A TOML file; see recipes/."""
    set: Settings = ()
    """Change one setting of the recipe (steps, batch_size, size, frames, lr, seed, save_every, ...); may be given
    several times."""
    only: OptionalFile = None
    """Take these videos only: a file with one name (without suffix) a line."""
    cache: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="(default: OUT/frames)")] = None
    """Where decoded frames are kept."""
    masks: OptionalFolder = None
    """Sequences with masks in DAVIS's layout: J&F is measured on them at every save, and decides what is best."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with an interrupted run."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    devices: Annotated[int, arg(metavar="N", help_behavior_hint="(default: one)")] = 1
    """Processes, each with a device of its own, which share out the recipe's shards; torchrun starts its own."""
    threads: Threads = 0
    """Processor threads."""

    @property
    def resumable(self) -> bool:
        return (self.out / "state.safetensors").is_file()

    def run(self) -> int:
        from pixeltrail.training.run import Run, changed, parse_set, read_recipe

        run = read_recipe(self.recipe) if self.recipe else Run()
        if self.resume and not self.recipe and (self.out / "recipe.toml").is_file():
            run = read_recipe(self.out / "recipe.toml")
        if self.method:
            run = changed(run, {"method": self.method}, source="--method")
        run = changed(run, parse_set(list(self.set)), source="--set")

        device = prepared(self.device, self.threads)
        if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
            self._train(run, device)
            print(f"{run.steps} steps -> {self.out / 'last.safetensors'}")
            return 0
        try:  # a process that helps the first one, which does the talking
            self._train(run, device, quiet=True)
        except (PixeltrailError, KeyboardInterrupt):
            return 1
        return 0

    def _train(self, run: Run, device: str, *, quiet: bool = False) -> None:
        from pixeltrail.flow_networks import CLASSES
        from pixeltrail.training.data import sampler_for
        from pixeltrail.training.flow import FlowWatcher, train_flow
        from pixeltrail.training.flow_data import flow_sampler_for
        from pixeltrail.training.look import Watcher
        from pixeltrail.training.loop import train
        from pixeltrail.weights import read_card

        flow = run.method in CLASSES
        if self.data is None and not flow:
            raise InputError(f"training {run.method} needs videos; give their folder as --data")
        if self.masks is not None and flow:
            raise InputError(f"--masks: J&F is of trackers, and {run.method} is a flow network; leave it out")
        if run.start and not self.resume:
            read_card(run.start)  # what cannot be read is refused before the videos are
        make = flow_sampler_for if flow else sampler_for
        with nullcontext(lambda *_: None) if quiet else progress_bar() as show:
            sampler, sources, bad = make(
                run, self.data, self.cache or self.out / "frames", only=self._only(),  # type: ignore[arg-type]
                on_video=lambda done, total, name: show("reading videos", done, total),
            )  # fmt: skip
            for line in () if quiet else bad:
                print(f"skipped: {line}", file=sys.stderr)
            (train_flow if flow else train)(
                run, sampler, self.out, sources=sources, resume=self.resume, device=device, devices=self.devices,
                on_step=lambda step, losses: show("training", step, run.steps, f"loss {losses['loss']:.3f}"),
                on_save=None if quiet else FlowWatcher(run) if flow else Watcher(self.out, sampler, self.masks),
            )  # fmt: skip

    def _only(self) -> list[str] | None:
        if self.only is None:
            return None
        try:
            lines = self.only.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.only}: cannot be read ({error}); write one video's name a line") from None
        return [line.strip() for line in lines if line.strip()]
