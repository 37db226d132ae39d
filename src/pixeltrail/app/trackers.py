"""The trackers that a server has loaded. Importing this imports no torch: the first frame is shown without."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from pixeltrail.app.project import Project
from pixeltrail.errors import InputError, PixeltrailError

if TYPE_CHECKING:
    from pixeltrail.tracker import Tracker

Quality = Literal["fast", "balanced", "best"]
Weights = Literal["standard", "adapted"]


class Trackers:
    """Loaded trackers, the last ``KEEP`` of them; a quality is another protocol around the same weights."""

    KEEP = 3

    def __init__(self, method: str = "default", device: str = "cpu", threads: int = 0) -> None:
        self.method, self.device, self.threads = method, device, threads
        self._loaded: OrderedDict[tuple[str, float], Tracker] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, project: Project, weights: Weights, quality: Quality) -> Tracker:
        """The server's own method, or the weights adapted to the project's video, at a speed preset as ``--quality``."""
        file = project.adapted
        if weights == "standard":
            return self._at(self.method, 0.0, quality)
        if not file.is_file():
            raise InputError("nothing is adapted to this video yet; adapt first, or choose the standard method")
        return self._at(str(file), file.stat().st_mtime, quality)

    def prepare(self) -> None:
        """Import and load, so that the first click need not wait; whatever is wrong is said there."""
        from pixeltrail.app import features, tracking  # noqa: F401

        with suppress(PixeltrailError):
            self._at(self.method, 0.0, "fast")

    def _at(self, name: str, version: float, quality: Quality) -> Tracker:
        import torch

        from pixeltrail.predictors import load_tracker, with_protocol
        from pixeltrail.protocols import at_quality

        with self._lock:
            if self.threads:
                torch.set_num_threads(self.threads)
            key = name, version
            if key not in self._loaded:
                self._loaded[key] = load_tracker(name, device=self.device)
                while len(self._loaded) > self.KEEP:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(key)
            tracker = self._loaded[key]
        made = with_protocol(tracker)
        made.protocol = at_quality(tracker.protocol, quality)
        return made.eval()
