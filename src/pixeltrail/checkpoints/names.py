"""Whose checkpoint is it? Families are told by the name of their first convolution, and each has a few renamings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pixeltrail.checkpoints.reader import shown

FIRST = r"^((?:.*\.)?){}$"  # whatever stands before: module., backbone., encoder_q., ...


@dataclass(frozen=True, slots=True)
class Family:
    """``first``: pattern of the first convolution's weight behind the file's own prefix. ``renames``: patterns and what
    to put in their place, in order, until torchvision's names stand there. ``method`` and ``settings`` build the
    network; ``title`` is its authors' name for it."""

    title: str
    first: str
    renames: tuple[tuple[str, str], ...]
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


LAI = (
    (r"^feature_extraction\.conv1\.0\.", "conv1."), (r"^feature_extraction\.conv1\.1\.", "bn1."),
    (r"^feature_extraction\.", ""), (r"^post_convolution\.", "head."), (r"\.left\.0\.", ".conv1."),
    (r"\.left\.1\.", ".bn1."), (r"\.left\.3\.", ".conv2."), (r"\.left\.4\.", ".bn2."), (r"\.shortcut\.", ".downsample."),
)  # fmt: skip

FAMILIES = {
    "corrflow": Family("CorrFlow", r"feature_extraction\.conv1\.0\.weight", LAI, "corrflow"),
    "mast": Family("MAST", r"feature_extraction\.conv1\.0\.weight", LAI, "mast"),
    "cycletime": Family(
        "TimeCycle", r"encoderVideo\.conv1\.weight", ((r"^encoderVideo\.", ""), (r"^afterconv1\.", "head.0.")),
        "published", {"family": "cycletime"},
    ),
    "uvc": Family("UVC", r"gray_encoder\.conv1\.weight", ((r"^gray_encoder\.", ""),), "published", {"family": "uvc"}),
    "vfs": Family(
        "VFS", r"conv1\.conv\.weight",
        ((r"conv(\d)\.conv\.", r"conv\1."), (r"conv(\d)\.bn\.", r"bn\1."),
         (r"downsample\.conv\.", "downsample.0."), (r"downsample\.bn\.", "downsample.1.")),
        "published", {"family": "vfs"},
    ),
    # Convolutions behind a layer of their own that pads are called conv1.1 in older files.
    "crw": Family(
        "CRW", r"encoder\.model\.conv1(?:\.1)?\.weight", ((r"^encoder\.model\.", ""), (r"(conv\d)\.1\.", r"\1.")),
        "published", {"family": "crw"},
    ),
    "resnet": Family("ResNet", r"conv1\.weight", (), "published", {"family": "vfs"}),
}  # fmt: skip


def recognise(keys: list[str]) -> str | None:
    """The family that the names show, if any."""
    for name, family in FAMILIES.items():
        where = prefix(keys, family)
        if where is not None:
            # MAST uses CorrFlow's names, but the released code saves it without the DataParallel around it.
            return "mast" if name == "corrflow" and "module." not in where else name
    return None


def prefix(keys: list[str], family: Family) -> str | None:
    """What stands before the family's names: of several, as in MoCo's two encoders, the shortest, then the first."""
    found = [match[1] for key in keys if (match := re.match(FIRST.format(family.first), key))]
    found = [p for p in found if any(key.startswith(p) and "layer1.0." in key for key in keys)]
    return min(found, key=len, default=None)


def rename(keys: list[str], family: Family, prefix: str) -> dict[str, str]:
    """Our names of the keys that begin with the prefix, and theirs. Raises ValueError if two have the same name."""
    names: dict[str, str] = {}
    for key in keys:
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            for pattern, replacement in family.renames:
                name = re.sub(pattern, replacement, name)
            if name in names:
                raise ValueError(f"{shown(names[name])} and {shown(key)} are the same layer")
            names[name] = key
    return names


def summary(names: list[str]) -> list[str]:
    """Names by what they begin with, and how many there are: ``["fc (2)", "layer4 (30)"]``."""
    groups = Counter(shown(name.split(".")[0]) for name in names)
    return [f"{group} ({count})" for group, count in sorted(groups.items())]
