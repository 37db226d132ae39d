"""Files that torch.save writes, and what somebody hostile would put into one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

FORMATS = {"zip": True, "legacy": False}


class Payload:
    """What an attacker would put into a checkpoint."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def save(content: object, path: Path, version: str = "zip") -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=FORMATS[version])
    return path
