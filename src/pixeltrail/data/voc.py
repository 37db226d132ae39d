"""Labelled pictures for probing features: PASCAL VOC as published, and folders in ImageNet's layout.

VOC: ``JPEGImages/ID.jpg``; ``ImageSets/Main/CLASS_SPLIT.txt`` with lines ``ID 1``, ``ID -1`` or ``ID 0`` (hard to tell, left
out) for classification; ``ImageSets/Segmentation/SPLIT.txt`` and ``SegmentationClass/ID.png`` for segmentation. ImageNet:
``train/CLASS/*.JPEG`` and ``val/CLASS/*.JPEG``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixeltrail.data.davis import read_ids
from pixeltrail.data.images import IMAGE_SUFFIXES, read_image
from pixeltrail.errors import InputError
from pixeltrail.types import Image

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The twenty classes of VOC in the order of their numbers in segmentations, where 0 is the background."""


@dataclass(frozen=True, slots=True)
class Pictures(Sequence[tuple[Image, NDArray[np.int64]]]):
    """Pictures with what is true of them, each read when it is asked for: ((H, W, 3) uint8 RGB, truth).

    ``classes`` are named in the order of their numbers. ``labels``: for each picture an int64 array, or the file of its
    segmentation. Truth is () the number of its class; or (classes,) 1 present, 0 absent, -1 not to be scored; or (H, W)
    the class of each pixel, -1 void.
    """

    classes: tuple[str, ...]
    files: list[Path]
    labels: list[NDArray[np.int64] | Path]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image, NDArray[np.int64]]:  # type: ignore[override]
        """Raises InputError naming the file."""
        image, label = read_image(self.files[index]), self.labels[index]
        if not isinstance(label, Path):
            return image, label
        truth = read_ids(label).astype(np.int64)
        truth[truth == 255] = -1
        if truth.shape != image.shape[:2]:
            got, wanted = (f"{s[1]}x{s[0]}" for s in (truth.shape, image.shape))
            raise InputError(f"{label}: is {got}, its picture {wanted}; they belong to different data sets")
        if truth.max() >= len(self.classes):
            raise InputError(f"{label}: holds class {truth.max()}, there are 0 to {len(self.classes) - 1}")
        return image, truth


def voc_classification(root: str | Path, split: str) -> Pictures:
    """VOC classification of one list, such as "trainval" or "test". Raises InputError."""
    root = Path(root)
    lists = root / "ImageSets" / "Main"
    table: dict[str, NDArray[np.int64]] = {}
    for number, name in enumerate(CLASSES):
        file = lists / f"{name}_{split}.txt"
        for line in _lines(file):
            words = line.split()
            if len(words) != 2 or words[1] not in ("1", "-1", "0"):
                raise InputError(f"{file}: a line is {line[:60]!r}; expected an id and 1, -1 or 0")
            row = table.setdefault(words[0], np.full(len(CLASSES), -1, np.int64))
            row[number] = {"1": 1, "-1": 0, "0": -1}[words[1]]
    if not table:
        raise InputError(f"{lists}: the lists of {split} name no picture")
    return Pictures(CLASSES, [_picture(root, name) for name in table], list(table.values()))


def voc_segmentation(root: str | Path, split: str) -> Pictures:
    """VOC segmentation of one list, such as "train" or "val". Raises InputError."""
    root = Path(root)
    file = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    names = [line.split()[0] for line in _lines(file)]
    if not names:
        raise InputError(f"{file}: names no picture")
    masks: list[NDArray[np.int64] | Path] = []
    for name in names:
        mask = root / "SegmentationClass" / f"{name}.png"
        if not mask.is_file():
            raise InputError(f"{mask}: is missing, but {file.name} of ImageSets names it")
        masks.append(mask)
    return Pictures(("background", *CLASSES), [_picture(root, name) for name in names], masks)


def image_folders(root: str | Path, split: str, classes: Sequence[str] = ()) -> Pictures:
    """The pictures of ``root/split/CLASS/``; ``classes``: in this order, by default all that have a folder, sorted.

    Raises InputError."""
    folder = Path(root) / split
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; pictures are expected in ROOT/train/CLASS and ROOT/val/CLASS")
    found = tuple(classes) or tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    files: list[Path] = []
    labels: list[NDArray[np.int64] | Path] = []
    for number, name in enumerate(found):
        if not (folder / name).is_dir():
            raise InputError(f"{folder / name}: no such folder, but the other split has this class")
        own = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        files += own
        labels += [np.array(number)] * len(own)
    if not files:
        raise InputError(f"{folder}: holds no picture; they are expected in folders of their classes")
    return Pictures(found, files, labels)


def _picture(root: Path, name: str) -> Path:
    if Path(name).name != name:
        raise InputError(f"{root}: a list names {name[:60]!r}, which is no picture's id")
    file = root / "JPEGImages" / f"{name}.jpg"
    if not file.is_file():
        raise InputError(f"{file}: is missing, but a list of ImageSets names it")
    return file


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{file}: cannot be read; a VOC root holds JPEGImages/ and ImageSets/") from None
