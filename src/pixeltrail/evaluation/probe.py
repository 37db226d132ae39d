"""Linear probes: what a linear classifier can read from each layer of a network that learns no more.

Layers are pooled to about 9,000 numbers a picture (Zhang, Isola & Efros, "Split-Brain Autoencoders", CVPR 2017), brought to
mean 0 and deviation 1, and classified by one linear layer; for segmentation each cell of a layer is classified alone. All
layers learn at once, from one pass of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor, nn

from pixeltrail.errors import InputError
from pixeltrail.types import Image

Activations = Callable[[Tensor], Mapping[str, Tensor]]
"""Pictures (B, 3, H, W) float in [0, 1] -> {layer: (B, C, h, w)}."""
Labelled = Sequence[tuple[Image, NDArray[np.int64]]]
"""Pictures with truth, as `data.voc.Pictures` has it."""
Task = Literal["classes", "presence", "pixels"]
MEASURE: dict[Task, str] = {"classes": "top-1", "presence": "mAP", "pixels": "mIoU"}
VALUES = 9000

# As the source's tables have them (CPFS, ACCV 2018): per cent.
IMAGENET = {
    "class labels": (19.3, 36.3, 44.2, 48.3, 50.5),
    "random": (11.6, 17.1, 16.9, 16.3, 14.1),
    "random rescaled": (17.5, 23.0, 24.5, 23.2, 20.6),
    "Pathak et al., video segments": (15.8, 23.2, 29.0, 29.5, 25.4),
    "CPFS-CE": (14.9, 25.0, 29.5, 30.1, 29.1),
    "CPFS-CE-rev": (15.3, 24.8, 27.7, 27.8, 26.3),
    "CPFS-KTA": (14.8, 24.6, 29.2, 29.5, 28.1),
    "direct classification": (14.0, 23.0, 26.4, 26.7, 24.8),
}
VOC = {
    "class labels": (79.9, 48.0),
    "random": (53.3, 19.8),
    "CPFS-CE": (64.2, 41.4),
    "CPFS-CE-rev": (63.6, 39.5),
    "CPFS-KTA": (65.3, 41.5),
    "direct classification": (63.2, 38.8),
}
"""VOC-2007 classification (mAP) and VOC-2012 segmentation (mIoU), both after *fine-tuning* the whole network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``size``: pictures are resized to size x size; ``epochs`` over the training set with mirroring, ``batch`` pictures at a
    time; ``lr`` of AdamW, which falls to zero along half a cosine."""

    size: int = 224
    epochs: int = 20
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.size // 16, self.epochs, self.batch) < 1 or not 0 < self.lr < 10:
            raise InputError(
                "probe: expected a size of 16 pixels or more, an epoch, a picture a batch, and 0 < lr < 10"
            )


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """``scores``: of each layer, in [0, 1]; what they measure stands in ``measure``."""

    task: Task
    scores: dict[str, float]
    pictures: tuple[int, int]
    settings: dict[str, Any]

    @property
    def measure(self) -> str:
        return MEASURE[self.task]

    def json(self) -> dict[str, Any]:
        return {
            "measure": self.measure, "scores": self.scores, "trained_on": self.pictures[0], "tested_on": self.pictures[1],
            "settings": self.settings,
        }  # fmt: skip

    def table(self) -> Table:
        """What was measured, and below it the source's table; both in per cent."""
        trained, tested = self.pictures
        table = Table(title=f"{self.measure}, per cent: {tested} pictures, linear probes trained on {trained}")
        table.add_column("features")
        for layer in self.scores:
            table.add_column(layer, justify="right")
        if self.task != "classes":  # rows that are there already would not have the column
            table.add_column("fine-tuned", justify="right")
        table.add_row("measured", *(f"{100 * s:.1f}" for s in self.scores.values()), end_section=True)
        if self.task == "classes":
            for name, row in IMAGENET.items():
                table.add_row(f"source, ImageNet: {name}", *(f"{x:.1f}" for x in row[: len(self.scores)]))
            return table
        which = 0 if self.task == "presence" else 1
        for name, both in VOC.items():
            blank = [""] * len(self.scores)
            table.add_row(f"source, VOC-{(2007, 2012)[which]}: {name}", *blank, f"{both[which]:.1f}")
        return table


def pooled(features: Tensor, values: int = VALUES) -> Tensor:
    """(B, C, h, w) -> (B, C, s, s): means over a grid so fine that about ``values`` numbers remain, never finer than the map."""
    channels, h, w = features.shape[1:]
    side = max(1, round((values / channels) ** 0.5))
    return F.adaptive_avg_pool2d(features, (min(side, h), min(side, w)))


def average_precision(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """VOC-2007's, over eleven levels of recall: ``scores`` and ``truth`` (N,), 1 present, 0 absent, -1 left out.

    NaN where nothing is present. (The interpolated precision at recall r is the best at any recall of r or more.)"""
    known = truth >= 0
    scores, truth = scores[known], truth[known]
    if not truth.sum():
        return float("nan")
    hits = truth[np.argsort(-scores, kind="stable")] == 1
    found = np.cumsum(hits)
    recall, precision = found / found[-1], found / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= r].max(initial=0) for r in np.arange(11) / 10]))


def probe(
    activations: Activations,
    train: Labelled,
    test: Labelled,
    classes: int,
    task: Task,
    settings: Settings | None = None,
    *,
    device: str = "cpu",
    on_batch: Callable[[str, int, int], None] | None = None,
) -> ProbeReport:
    """Train a linear classifier on each layer of ``train``'s pictures and score it on ``test``'s.

    ``task``: "classes", one a picture, scored by the share that is right; "presence" of several, by the mean of
    `average_precision`; "pixels", the class of each, by the mean IoU over classes that occur. ``on_batch(stage, done, of)``.
    """
    settings = settings or Settings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        probes = _trained(activations, train, classes, task, settings, device, on_batch)
    scores = _scored(activations, probes, test, classes, task, settings, device, on_batch)
    return ProbeReport(task, scores, (len(train), len(test)), {})


def _trained(
    activations: Activations, train: Labelled, classes: int, task: Task, settings: Settings, device: str, on_batch: Any
) -> nn.ModuleDict:
    probes: nn.ModuleDict | None = None
    steps = settings.epochs * -(-len(train) // settings.batch)
    done = 0
    for epoch in range(settings.epochs):
        rng = np.random.default_rng((settings.seed, epoch))
        for indices in _batches(rng.permutation(len(train)), settings.batch):
            pictures, truth = _read(train, indices, settings.size, task, rng)
            layers = _layers(activations, pictures.to(device), task)
            if probes is None:  # the first batch tells how wide the layers are
                probes = nn.ModuleDict({k: _Linear(v, classes) for k, v in layers.items()}).to(device).train()
                optimizer = torch.optim.AdamW(probes.parameters(), settings.lr, weight_decay=settings.weight_decay)
                falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            loss = torch.stack([_loss(probes[k](v), truth.to(device), task) for k, v in layers.items()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
            done += 1
            if on_batch:
                on_batch("training probes", done, steps)
    assert probes is not None
    return probes.eval()


@torch.inference_mode()
def _scored(
    activations: Activations, probes: nn.ModuleDict, test: Labelled, classes: int, task: Task, settings: Settings,
    device: str, on_batch: Any,
) -> dict[str, float]:  # fmt: skip
    answers: dict[str, list[NDArray[np.float64]]] = {k: [] for k in probes}
    truths: list[NDArray[np.int64]] = []
    confusion = {k: np.zeros((classes, classes), np.int64) for k in probes}
    for done, indices in enumerate(_batches(np.arange(len(test)), settings.batch), 1):
        pictures, truth = _read(test, indices, settings.size, task, None)
        for name, layer in _layers(activations, pictures.to(device), task).items():
            found = probes[name](layer)
            if task == "pixels":
                ids = F.interpolate(found, truth.shape[1:], mode="bilinear", align_corners=False).argmax(1).cpu()
                known = truth >= 0
                pairs = truth[known] * classes + ids[known]
                confusion[name] += torch.bincount(pairs, minlength=classes**2).view(classes, classes).numpy()
            else:
                answers[name].append(found.double().cpu().numpy())
        truths.append(truth.numpy())
        if on_batch:
            on_batch("testing probes", done, -(-len(test) // settings.batch))
    if task == "pixels":
        return {k: _mean_iou(table) for k, table in confusion.items()}
    truth_of_all, scores = np.concatenate(truths), {k: np.concatenate(v) for k, v in answers.items()}
    if task == "classes":
        return {k: float((v.argmax(1) == truth_of_all).mean()) for k, v in scores.items()}
    return {
        k: float(np.nanmean([average_precision(v[:, c], truth_of_all[:, c]) for c in range(classes)]))
        for k, v in scores.items()
    }


def _mean_iou(confusion: NDArray[np.int64]) -> float:
    """Rows are the truth. The mean over classes that occur, in truth or answer."""
    both = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - both
    return float((both[union > 0] / union[union > 0]).mean())


class _Linear(nn.Module):
    """Mean 0 and deviation 1, then one linear layer: of (B, N) numbers, or of each cell of (B, C, h, w)."""

    def __init__(self, like: Tensor, classes: int) -> None:
        super().__init__()
        width = like.shape[1]
        self.norm: nn.Module = (
            nn.BatchNorm2d(width, affine=False) if like.ndim == 4 else nn.BatchNorm1d(width, affine=False)
        )
        self.read: nn.Module = nn.Conv2d(width, classes, 1) if like.ndim == 4 else nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.norm(x))  # type: ignore[no-any-return]


def _loss(found: Tensor, truth: Tensor, task: Task) -> Tensor:
    if task == "classes":
        return F.cross_entropy(found, truth)
    if task == "presence":
        known = truth >= 0
        losses = F.binary_cross_entropy_with_logits(found, truth.clamp_min(0).to(found), reduction="none")
        return (losses * known).sum() / known.sum().clamp_min(1)
    cells = F.interpolate(truth.unsqueeze(1).float(), found.shape[-2:], mode="nearest-exact")[:, 0].long()
    losses = F.cross_entropy(found, cells, ignore_index=-1, reduction="sum")
    return losses / (cells >= 0).sum().clamp_min(1)


def _layers(activations: Activations, pictures: Tensor, task: Task) -> dict[str, Tensor]:
    with torch.no_grad():
        found = {k: v.float() for k, v in activations(pictures).items()}
        return found if task == "pixels" else {k: pooled(v).flatten(1) for k, v in found.items()}


def _batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """In parts of ``size``; a last one of a single picture joins the part before, since it has no deviation."""
    ends = list(range(size, len(order), size))
    if ends and len(order) - ends[-1] == 1:
        ends.pop()
    yield from np.split(order, ends)


def _read(
    pictures: Labelled, indices: NDArray[np.int64], size: int, task: Task, rng: np.random.Generator | None
) -> tuple[Tensor, Tensor]:
    """(B, 3, size, size) in [0, 1] and the truth, mirrored at random where there is a ``rng``."""
    images, truths = [], []
    for index in indices:
        image, truth = pictures[int(index)]
        rgb = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0).unsqueeze(0).float() / 255
        rgb = F.interpolate(rgb, (size, size), mode="bilinear", antialias=True)[0]
        label = torch.from_numpy(np.array(truth))
        if task == "pixels":
            label = F.interpolate(label[None, None].float(), (size, size), mode="nearest-exact")[0, 0].long()
        if rng is not None and rng.random() < 0.5:
            rgb = rgb.flip(-1)
            label = label.flip(-1) if task == "pixels" else label
        images.append(rgb)
        truths.append(label)
    return torch.stack(images), torch.stack(truths)
