"""``pixeltrail evaluate probe ROOT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from pixeltrail.cli.scoring import require_place, tell
from pixeltrail.cli.shared import Device, Method, OptionalFile, Threads, prepared, progress_bar
from pixeltrail.errors import InputError


@dataclass(frozen=True)
class ProbeTask:
    """Linear probes on each layer of a network that learns no more: VOC-2007 classification, VOC-2012 segmentation, or
    folders in ImageNet's layout; the CPFS paper's table is printed beside."""

    root: Positional[Path]
    """The data set's folder: VOCdevkit/VOC2007, VOCdevkit/VOC2012, or a folder with train/CLASS/ and val/CLASS/."""
    dataset: Annotated[str, arg(metavar="{voc2007,voc2012,imagenet}")]
    """Which one it is."""
    method: Method = "default"
    """default, a .safetensors file, a method's name (then untrained), or your own Python file."""
    epochs: int = 20
    """Over the training pictures."""
    batch: int = 32
    """Pictures at a time."""
    size: int = 224
    """Side in pixels to which pictures are resized."""
    lr: float = 1e-3
    """Of AdamW; it falls to zero along half a cosine."""
    seed: int = 0
    """Of the order of the pictures and of an untrained network."""
    out: OptionalFile = None
    """Write the report as JSON."""
    device: Device = "cpu"
    """cpu, cuda, cuda:1, mps."""
    threads: Threads = 0
    """Processor threads."""

    def run(self) -> int:
        from dataclasses import asdict, replace

        import torch

        from pixeltrail.data import voc
        from pixeltrail.evaluation.probe import Settings, Task, probe
        from pixeltrail.jobs.layers import layers_of
        from pixeltrail.predictors import load_tracker

        require_place(self.out)
        settings = Settings(size=self.size, epochs=self.epochs, batch=self.batch, lr=self.lr, seed=self.seed)
        task: Task
        if self.dataset == "voc2007":
            task, train, test = "presence", *(voc.voc_classification(self.root, s) for s in ("trainval", "test"))
        elif self.dataset == "voc2012":
            task, train, test = "pixels", *(voc.voc_segmentation(self.root, s) for s in ("train", "val"))
        elif self.dataset == "imagenet":
            train = voc.image_folders(self.root, "train")
            task, test = "classes", voc.image_folders(self.root, "val", train.classes)
        else:
            raise InputError(f"--dataset {self.dataset}: there are voc2007, voc2012, imagenet")
        device = prepared(self.device, self.threads)
        torch.manual_seed(self.seed)
        tracker = load_tracker(self.method, device=device)
        with progress_bar() as show:
            report = probe(
                layers_of(tracker), train, test, len(train.classes), task, settings, device=device, on_batch=show
            )
        report = replace(report, settings={"method": self.method, "dataset": self.dataset, **asdict(settings)})
        tell(report, self.out)
        return 0
