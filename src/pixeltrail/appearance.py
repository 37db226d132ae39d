"""What each object looks like: a linear model of embeddings, learned in closed form while a video is tracked.

The affinity copies from nearby cells of a few frames; where these mislead it (a look-alike passes by, an error of a moment
ago is copied on), nothing else has a say. The appearance knows neither place nor moment: ridge regression from a cell's
embedding to its labels, over all cells of the labelled frames and, fading, of all frames since. What was copied is
multiplied by exp(gain · predicted share), so it chooses only among what was copied. The idea is that of the target models
of Robinson et al. (CVPR 2020), there a small network fitted in many steps to features learned from labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 0.01
"""Added to the diagonal of the second moments, whose trace is 2 for one frame."""
FADING = 0.95
"""What is left of the weight of the frames since, one frame later; that of the labelled frames stays."""


class Appearance:
    """The model of one session. Its size depends on the numbers of channels and objects alone.

    Attributes:
        gain: how much it counts; 0: not at all.
        given, since: second moments of embeddings beside those with labels, (C + 1, C + 1 + K): the sum over the labelled
            frames, and the fading mean over all others; empty before the first.
        count: labelled frames in ``given``.
    """

    def __init__(self, gain: float) -> None:
        self.gain, self.count = gain, 0
        self.given = self.since = torch.empty(0, 0)

    def learn(self, key: Tensor, values: Tensor, *, labelled: bool) -> None:
        """Take in a frame: its embedding (1, C, h, w) and what its cells hold (1, K, h, w), K never less than before."""
        if not self.gain:
            return
        seen = _moments(key, values)
        if labelled:
            self.given, self.count = _widened(self.given, seen) + seen, self.count + 1
        else:
            self.since = torch.lerp(seen, _widened(self.since, seen), FADING) if len(self.since) else seen

    def weigh(self, key: Tensor, copied: Tensor) -> Tensor:
        """What was copied to a frame (1, K, h, w), weighed by what its embedding (1, C, h, w) looks like.

        The sum of a cell's labels stays what it was. Before the first labelled frame, ``copied`` itself.
        """
        if not self.count:
            return copied
        known = self.given / self.count
        if len(self.since):
            known = known + _widened(self.since, known)
        rows = _rows(key)
        second, mixed = known.split((len(rows), known.shape[1] - len(rows)), 1)
        ridge = RIDGE * torch.eye(len(rows), device=second.device)
        shares = (torch.linalg.solve(second + ridge, mixed).T @ rows).view(1, -1, *key.shape[2:])
        weighed = copied * (self.gain * shares).exp()
        return weighed * (copied.sum(1, keepdim=True) / weighed.sum(1, keepdim=True).clamp_min(1e-12))

    def state(self) -> dict[str, Tensor]:
        """Everything that ``load_state`` needs to go on."""
        return {"given": self.given, "since": self.since, "count": torch.tensor(self.count)}

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take over what ``state`` gave."""
        self.given, self.since = state["given"].to(device), state["since"].to(device)
        self.count = int(state["count"])


def _rows(key: Tensor) -> Tensor:
    """(1, C, h, w) -> unit vectors and a one, (C + 1, N)."""
    return F.pad(F.normalize(key[0].flatten(1).float(), dim=0), (0, 0, 0, 1), value=1.0)


def _moments(key: Tensor, values: Tensor) -> Tensor:
    """(C + 1, C + 1 + K): every label weighs the same, however many cells it has, and a frame weighs one."""
    rows, labels = _rows(key), values[0].flatten(1).float()
    weight = (labels / labels.sum(1, keepdim=True).clamp_min(1)).sum(0)
    weighed = rows * (weight / weight.sum().clamp_min(1e-12))
    return weighed @ torch.cat((rows, labels)).T


def _widened(moments: Tensor, like: Tensor) -> Tensor:
    """With columns of zeros for the objects that were not yet known."""
    if not len(moments):
        return torch.zeros_like(like)
    return F.pad(moments, (0, like.shape[1] - moments.shape[1]))
