"""Which earlier frames a tracker looks back at, and what is kept of them. Its size never depends on the video's length.

Frames are numbered in the order in which they are tracked, from 0, also when a video is tracked backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pixeltrail.errors import InputError, ShapeError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPolicy:
    """Which frames are the references of frame t: the ``anchors``, and t-1, t-1-stride, ..., ``recent`` of them.

    ``anchors=(), recent=1`` is the previous frame only (CorrFlow); ``anchors=(0,), recent=n`` the first and the last n
    (UVC, CycleTime 7; CRW, VFS 20); ``anchors=(0, 5), recent=3, stride=2`` is MAST's {0, 5, t-5, t-3, t-1}.

    Raises:
        InputError: negative anchors or ``recent``, ``stride`` below 1, or a policy that remembers nothing.
    """

    anchors: tuple[int, ...] = (0,)
    recent: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        for ok, name, wanted, got in (
            (all(a >= 0 for a in self.anchors), "anchors", "frame numbers >= 0", self.anchors),
            (self.recent >= 0, "recent", "a number of frames >= 0", self.recent),
            (self.stride >= 1, "stride", "a number of frames >= 1", self.stride),
            (bool(self.recent or 0 in self.anchors), "recent", "at least 1, or frame 0 an anchor", self.recent),
        ):
            if not ok:
                raise InputError(f"{name}: expected {wanted}, got {got}")

    def frames(self, t: int) -> list[int]:
        """The references of frame t that exist, 0 <= f < t, in order and without repetition."""
        recent = (t - 1 - i * self.stride for i in range(self.recent))
        return sorted({f for f in (*self.anchors, *recent) if 0 <= f < t})

    def keeps(self, frame: int, now: int) -> bool:
        """Whether any frame after ``now`` has ``frame`` among its references."""
        return frame in self.anchors or (self.recent > 0 and frame + (self.recent - 1) * self.stride >= now)

    @property
    def capacity(self) -> int:
        """The largest number of frames that must be kept at a time."""
        return len(set(self.anchors)) + ((self.recent - 1) * self.stride + 1 if self.recent else 0)


class MemoryBank:
    """Keys and values of the frames that a policy can still ask for, and of those pinned; all others are forgotten.

    It holds at most ``policy.capacity`` frames and the pinned ones. Not safe to share between threads.
    """

    def __init__(self, policy: MemoryPolicy) -> None:
        self.policy = policy
        self._frames: dict[int, tuple[Tensor, Tensor]] = {}
        self._pinned: set[int] = set()
        self._now = -1

    def __len__(self) -> int:
        return len(self._frames)

    def write(self, t: int, key: Tensor, value: Tensor) -> None:
        """Remember frame t, or correct it: key (B, C, h, w), value (B, K, h, w). Forgets what nobody can ask for now.

        Raises:
            ShapeError: shapes that do not fit each other or the frames before; only K may grow, see `read`.
        """
        if key.ndim != 4 or value.ndim != 4 or _grid(key) != _grid(value):
            raise ShapeError(
                f"frame {t}: expected a key (B, C, h, w) and a value (B, K, h, w), "
                f"got {tuple(key.shape)} and {tuple(value.shape)}"
            )
        for known, _ in self._frames.values():
            if known.shape != key.shape:
                raise ShapeError(f"frame {t}: expected a key {tuple(known.shape)} as before, got {tuple(key.shape)}")
        self._now = max(self._now, t)
        self._frames[t] = key, value
        self._frames = {f: kept for f, kept in self._frames.items() if self._keeps(f)}

    def remembered(self) -> list[tuple[int, Tensor, Tensor]]:
        """All frames in order: number, key (B, C, h, w) and value (B, K, h, w)."""
        return [(t, *self._frames[t]) for t in sorted(self._frames)]

    def pin(self, t: int) -> None:
        """Keep frame t for ever, as one that the user has labelled, and make it a reference of every later frame.

        Raises:
            InputError: frame t is forgotten; write it again first.
        """
        if t <= self._now and t not in self._frames:
            raise InputError(f"frame {t}: no longer remembered; write it again before it is pinned")
        self._pinned.add(t)

    def is_pinned(self, t: int) -> bool:
        """Whether frame t is kept for ever."""
        return t in self._pinned

    def read(self, t: int) -> tuple[list[int], Tensor, Tensor]:
        """The references of frame t in order: their numbers, keys (B, S, C, h, w) and values (B, S, K, h, w).

        Frames written before an object was known have fewer value channels; the others are zero there.

        Raises:
            InputError: nothing is remembered that frame t may look at.
        """
        wanted = {*self.policy.frames(t), *(f for f in self._pinned if f < t)}
        frames = sorted(wanted & self._frames.keys())
        if not frames:
            raise InputError(f"frame {t}: no earlier frame is remembered; write the first labelled frame before")
        return frames, *self._stack(frames)

    def state(self) -> dict[str, Tensor]:
        """All that is remembered, as plain tensors to save; see `load_state`."""
        numbers = {"frames": sorted(self._frames), "pinned": sorted(self._pinned), "now": [self._now]}
        state = {name: torch.tensor(value, dtype=torch.long) for name, value in numbers.items()}
        if self._frames:
            state["keys"], state["values"] = self._stack(sorted(self._frames))
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replace what is remembered by a `state`.

        Raises:
            InputError: it is not one.
        """
        try:
            numbers = [state[name].long().tolist() for name in ("frames", "pinned", "now")]
            pairs = zip(state["keys"].unbind(1), state["values"].unbind(1), strict=True) if "keys" in state else ()
            frames, pinned = dict(zip(numbers[0], pairs, strict=True)), set(numbers[1])
            (now,) = numbers[2]
        except (KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            raise InputError(f"memory state: not one that MemoryBank.state() made ({error!r})") from None
        self._frames, self._pinned, self._now = frames, pinned, now

    def _keeps(self, frame: int) -> bool:
        return frame in self._pinned or self.policy.keeps(frame, self._now)

    def _stack(self, frames: list[int]) -> tuple[Tensor, Tensor]:
        # Stacking anew for each read costs about 1 % of the propagation that follows: no ring buffer is worth it.
        keys, values = zip(*(self._frames[f] for f in frames), strict=True)
        most = max(value.shape[1] for value in values)
        wide = [F.pad(value, (0, 0, 0, 0, 0, most - value.shape[1])) for value in values]
        return torch.stack(keys, 1), torch.stack(wide, 1)


def _grid(maps: Tensor) -> tuple[int, ...]:
    return maps.shape[0], *maps.shape[2:]
