"""The laws of the memory: it gives what the policy names, and never grows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.memory import MemoryBank, MemoryPolicy

PREVIOUS = MemoryPolicy(anchors=(), recent=1)
CRW = MemoryPolicy(anchors=(0,), recent=20)
MAST = MemoryPolicy(anchors=(0, 5), recent=3, stride=2)

policies = st.builds(
    MemoryPolicy,
    anchors=st.lists(st.integers(0, 8), max_size=3).map(tuple),
    recent=st.integers(1, 5),
    stride=st.integers(1, 4),
)


def key(t: int) -> Tensor:
    return torch.full((1, 2, 3, 4), float(t))


def value(t: int, k: int = 1) -> Tensor:
    return torch.full((1, k, 3, 4), t + 0.5)


def filled(policy: MemoryPolicy, length: int) -> MemoryBank:
    bank = MemoryBank(policy)
    for t in range(length):
        bank.write(t, key(t), value(t))
    return bank


def test_the_policies_of_the_literature() -> None:
    assert [PREVIOUS.frames(t) for t in (1, 2, 9)] == [[0], [1], [8]]
    assert CRW.frames(3) == [0, 1, 2]
    assert CRW.frames(50) == [0, *range(30, 50)]
    assert MAST.frames(1) == [0]
    assert MAST.frames(4) == [0, 1, 3]
    assert MAST.frames(8) == [0, 3, 5, 7]  # 5 is anchor, 3 = t-5, 5 = t-3, 7 = t-1
    assert MAST.frames(40) == [0, 5, 35, 37, 39]
    assert MemoryPolicy(recent=0).frames(7) == [0]
    assert MAST.frames(0) == []


@given(policy=policies, t=st.integers(0, 60))
def test_references_are_earlier_frames_in_order_without_repetition(policy: MemoryPolicy, t: int) -> None:
    frames = policy.frames(t)
    assert frames == sorted(set(frames))
    assert all(0 <= f < t for f in frames)
    assert (t - 1 in frames) == (t > 0)
    assert len(frames) <= policy.recent + len(set(policy.anchors))


@settings(max_examples=60)
@given(policy=policies, length=st.integers(1, 40))
def test_the_bank_gives_what_the_policy_names_and_no_more_is_kept_than_needed(
    policy: MemoryPolicy, length: int
) -> None:
    bank = MemoryBank(policy)
    for t in range(length):
        if t:
            frames, keys, values = bank.read(t)
            assert frames == policy.frames(t)
            assert keys.shape == (1, len(frames), 2, 3, 4)
            assert keys[0, :, 0, 0, 0].tolist() == frames
            assert values[0, :, 0, 0, 0].tolist() == [f + 0.5 for f in frames]
        bank.write(t, key(t), value(t))
        needed = {f for later in range(t + 1, t + 40) for f in policy.frames(later) if f <= t}
        assert len(bank) == len(needed) <= policy.capacity


def test_the_size_does_not_depend_on_the_length() -> None:
    assert len(filled(MAST, 100)) == len(filled(MAST, 1000)) == MAST.capacity == 7


def test_a_pinned_frame_stays_and_is_read_by_all_later_frames() -> None:
    bank = filled(PREVIOUS, 8)
    bank.pin(7)
    bank.pin(10)  # before it is written
    for t in range(8, 30):
        bank.write(t, key(t), value(t))
    assert bank.read(30)[0] == [7, 10, 29]
    assert bank.read(10)[0] == [7]
    assert len(bank) == 3
    with pytest.raises(InputError, match="frame 12: no longer remembered; write it again"):
        bank.pin(12)


def test_a_frame_can_be_corrected_later_on() -> None:
    bank = filled(PREVIOUS, 8)
    bank.pin(9)
    bank.write(9, key(9), value(9))
    bank.write(9, key(9), value(100))
    assert bank.read(10)[2].unique().tolist() == [100.5]
    bank.write(3, key(3), value(3))  # nobody after frame 9 can ask for it
    assert bank.read(11)[0] == [9]


def test_an_object_that_appears_later_is_nowhere_before() -> None:
    bank = MemoryBank(MAST)
    bank.write(0, key(0), value(0, 2))
    bank.write(1, key(1), value(1, 3))
    frames, _, values = bank.read(4)
    assert frames == [0, 1]
    assert values.shape == (1, 2, 3, 3, 4)
    assert values[0, 0, 2].abs().max() == 0
    assert values[0, 1, 2].min() == 1.5


@pytest.mark.parametrize("length", [0, 1, 23])
def test_a_resumed_bank_goes_on_as_if_nothing_had_happened(length: int) -> None:
    bank = filled(MAST, length)
    bank.pin(length + 1)
    other = MemoryBank(MAST)
    other.load_state(bank.state())
    for t in range(length, length + 9):
        for each in (bank, other):
            each.write(t, key(t), value(t))
        (frames, *tensors), (others, *copies) = bank.read(t + 1), other.read(t + 1)
        assert frames == others
        assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


@pytest.mark.parametrize("broken", ["frames", "pinned", "now", "keys", "values"])
def test_a_foreign_state_is_refused_and_changes_nothing(broken: str) -> None:
    bank = filled(MAST, 9)
    state = bank.state()
    missing = {name: tensor for name, tensor in state.items() if name != broken}
    short = {**state, broken: state[broken][..., :0] if state[broken].ndim == 1 else state[broken][:, :1]}
    for bad in (missing, short):
        if bad is short and broken == "pinned":
            continue  # no pins: a state like any other
        with pytest.raises(InputError, match="memory state: not one"):
            bank.load_state(bad)
    assert bank.read(9)[0] == MAST.frames(9)


def test_what_does_not_fit_is_refused() -> None:
    bank = filled(CRW, 2)
    for k, v in [(key(2)[0], value(2)), (key(2), value(2)[..., :-1]), (key(2)[..., :-1], value(2)[..., :-1])]:
        with pytest.raises(ShapeError, match="frame 2: expected"):
            bank.write(2, k, v)
    with pytest.raises(InputError, match="frame 0: no earlier frame"):
        bank.read(0)
    with pytest.raises(InputError, match="frame 5: no earlier frame"):
        MemoryBank(CRW).read(5)
    for bad in ({"recent": -1}, {"stride": 0}, {"anchors": (-1,)}, {"anchors": (3,), "recent": 0}):
        with pytest.raises(InputError, match="expected"):
            MemoryPolicy(**bad)  # type: ignore[arg-type]
