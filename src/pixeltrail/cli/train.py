"""``pixeltrail train``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import UseAppendAction

from pixeltrail.cli.shared import prepared, progress_bar


@dataclass(frozen=True)
class Train:
    """Train a tracker on a folder of unlabelled videos.

    RUN receives last.safetensors, state.safetensors, metrics.jsonl and recipe.toml.
    """

    data: Path
    """Folder with videos or folders of frames, at any depth."""
    out: Path
    """The run's folder."""
    method: str = ""
    """dul, mast, corrflow, or your own Python file; default: the recipe's, else dul."""
    recipe: Path | None = None
    """A TOML file; see recipes/."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE changes one setting of the recipe (steps, batch_size, size, frames, lr, seed, save_every, ...)."""
    only: str = ""
    """Take these videos only: a file with one name (without suffix) a line."""
    cache: Path | None = None
    """Where decoded frames are kept; default: OUT/frames."""
    resume: bool = False
    """Go on with an interrupted run."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """Processor threads; 0: as many as there are cores."""

    def run(self) -> int:
        from pixeltrail.training.run import Run, changed, parse_set, read_recipe

        run = read_recipe(self.recipe) if self.recipe else Run()
        if self.resume and not self.recipe and (self.out / "recipe.toml").is_file():
            run = read_recipe(self.out / "recipe.toml")
        if self.method:
            run = changed(run, {"method": self.method}, source="--method")
        run = changed(run, parse_set(list(self.set)), source="--set")

        from pixeltrail.training.data import sampler_for
        from pixeltrail.training.loop import train

        device = prepared(self.device, self.threads)
        only = None
        if self.only:
            only = [line.strip() for line in Path(self.only).read_text().splitlines() if line.strip()]
        with progress_bar() as progress:
            indexing = progress.add_task("reading videos", total=None)
            sampler, sources, bad = sampler_for(
                run, self.data, self.cache or self.out / "frames", only=only,
                on_video=lambda done, total, name: progress.update(indexing, completed=done, total=total),
            )  # fmt: skip
            progress.update(indexing, visible=False)
            for line in bad:
                print(f"skipped: {line}", file=sys.stderr)
            task = progress.add_task("training", total=run.steps)

            def on_step(step: int, losses: dict[str, float]) -> None:
                progress.update(task, completed=step, description=f"loss {losses['loss']:.3f}")

            try:
                train(run, sampler, self.out, sources=sources, resume=self.resume, device=device, on_step=on_step)
            except KeyboardInterrupt:
                progress.stop()
                print(
                    f"interrupted; go on with: pixeltrail train --data {self.data} --out {self.out} --resume",
                    file=sys.stderr,
                )
                return 130
        print(f"{run.steps} steps -> {self.out / 'last.safetensors'}")
        return 0
