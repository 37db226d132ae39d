"""What things look like: a linear model of embeddings, learned in closed form while a video is tracked.

The affinity copies from nearby cells of a few frames; where these mislead it (an error of a moment ago is copied on, parts
of the background resemble the object's edge), nothing else has a say. The appearance knows neither place nor moment: ridge
regression from a cell's embedding to the share of it that objects take, over all cells of the labelled frames and, fading,
of all frames since. What was copied is weighed by it, so it chooses only among what was copied, and only between objects and
background: objects are often of one kind, and which one a cell belongs to is left to the affinity. The idea is that of the
target models of Robinson et al. (CVPR 2020), there a small network fitted in many steps to features learned from labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 0.001
"""Added to the diagonal of the second moments, whose trace is 2 for one frame."""
FADING = 0.95
"""What is left of the weight of the frames since, one frame later; that of the labelled frames stays."""


class Appearance:
    """The model of one session. Its size depends on the number of channels alone.

    Attributes:
        gain: the logit between "all cells like this one are of objects" and "none are" is 2 · gain; 0: no model.
        given, since: second moments of embeddings beside those with the objects' share, (C + 1, C + 2): the sum over the
            labelled frames, and the fading mean over all others; empty before the first.
        count: labelled frames in ``given``.
    """

    def __init__(self, gain: float) -> None:
        self.gain, self.count = gain, 0
        self.given = self.since = torch.empty(0)

    def learn(self, key: Tensor, values: Tensor, *, labelled: bool) -> None:
        """Take in a frame: its embedding (1, C, h, w) and what its cells hold (1, K, h, w), first of all background."""
        if not self.gain:
            return
        seen = _moments(key, values)
        if labelled:
            self.given, self.count = (self.given + seen if self.count else seen), self.count + 1
        else:
            self.since = torch.lerp(seen, self.since, FADING) if len(self.since) else seen

    def weigh(self, key: Tensor, copied: Tensor) -> Tensor:
        """What was copied to a frame (1, K, h, w), weighed by what its embedding (1, C, h, w) looks like.

        The sum of a cell's values stays what it was. Before the first labelled frame, ``copied`` itself.
        """
        if not self.count:
            return copied
        moments = self.given / self.count
        if len(self.since):
            moments = moments + self.since
        second, mixed = moments[:, :-1], moments[:, -1]
        model = torch.linalg.solve(second + RIDGE * torch.eye(len(second), device=second.device), mixed)
        share = (model @ _rows(key)).view(1, 1, *key.shape[2:])
        weighed = torch.cat((copied[:, :1], copied[:, 1:] * (self.gain * (2 * share - 1)).exp()), 1)
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
    """(C + 1, C + 2) of a frame, which weighs one: objects and background half each, however many cells they have."""
    rows, labels = _rows(key), values[0].flatten(1).float()
    objects = labels[1:].sum(0) / labels.sum(0).clamp_min(1e-12)
    shares = torch.stack((1 - objects, objects))
    weight = (shares / shares.sum(1, keepdim=True).clamp_min(1)).sum(0)
    weighed = rows * (weight / weight.sum())
    return weighed @ torch.cat((rows, objects[None])).T
