"""pixeltrail: follow every pixel of a video, without labels.

Importing this imports no torch; a name brings what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixeltrail.affinity import Affinity as Affinity
    from pixeltrail.affinity import Correspondence as Correspondence
    from pixeltrail.affinity import correlation as correlation
    from pixeltrail.catalogue import build as build
    from pixeltrail.data.labels import read_labels as read_labels
    from pixeltrail.data.labels import write_labels as write_labels
    from pixeltrail.data.synthetic import render as render
    from pixeltrail.data.video import VideoWriter as VideoWriter
    from pixeltrail.data.video import open_frames as open_frames
    from pixeltrail.errors import PixeltrailError as PixeltrailError
    from pixeltrail.memory import MemoryBank as MemoryBank
    from pixeltrail.memory import MemoryPolicy as MemoryPolicy
    from pixeltrail.tracker import Protocol as Protocol
    from pixeltrail.tracker import Tracker as Tracker
    from pixeltrail.types import Boxes as Boxes
    from pixeltrail.types import Clip as Clip
    from pixeltrail.types import LabelMap as LabelMap
    from pixeltrail.types import Points as Points
    from pixeltrail.visual.overlay import overlay as overlay
    from pixeltrail.weights import load as load

__version__ = "0.1.0"

_HOMES = {
    "affinity": ("Affinity", "Correspondence", "correlation"),
    "catalogue": ("build",),
    "data.labels": ("read_labels", "write_labels"),
    "data.synthetic": ("render",),
    "data.video": ("VideoWriter", "open_frames"),
    "errors": ("PixeltrailError",),
    "memory": ("MemoryBank", "MemoryPolicy"),
    "tracker": ("Protocol", "Tracker"),
    "types": ("Boxes", "Clip", "LabelMap", "Points"),
    "visual.overlay": ("overlay",),
    "weights": ("load",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'pixeltrail' has no attribute {name!r}")
    return getattr(import_module(f"pixeltrail.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
