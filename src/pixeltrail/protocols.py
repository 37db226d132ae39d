"""How published trackers are run, as named presets, so that numbers compare like with like.

Each is what the released code does (frames in, memory, window, temperature, recursion), for an encoder of the stride
that its authors use; radii are in feature cells. Any encoder can be run under any of them.
"""

from __future__ import annotations

from dataclasses import replace

from pixeltrail.affinity import Affinity
from pixeltrail.catalogue import unknown
from pixeltrail.errors import UnknownNameError
from pixeltrail.memory import MemoryPolicy
from pixeltrail.tracker import Protocol

FIRST_AND_7 = MemoryPolicy(anchors=(0,), recent=7)
FIRST_AND_20 = MemoryPolicy(anchors=(0,), recent=20)
UVC = Protocol(affinity=Affinity(topk=5, renormalize=False, joint=False), policy=FIRST_AND_7, stretch=True, size=480)
DIFT = Protocol(
    affinity=Affinity(radius=15, temperature=0.2, normalize=True, topk=15),
    policy=MemoryPolicy(anchors=(0,), recent=28),
    stretch=True,
    size=480,
)

PRESETS: dict[str, Protocol] = {
    # Lai & Xie 2019, benchmark.py: the frame before, a 13×13 window, hard labels.
    "corrflow": Protocol(affinity=Affinity(radius=6), policy=MemoryPolicy(anchors=(), recent=1), keep="hard"),
    # Lai, Lu & Xie 2020, benchmark.py: two early frames and three recent ones, far ones searched twice, hard labels.
    "mast": Protocol(
        affinity=Affinity(radius=12), policy=MemoryPolicy(anchors=(0, 5), recent=3, stride=2), keep="hard", distant=15
    ),
    # Wang, Jabri & Efros 2019, test_davis.py: frame 0 and the last 7, each with its own softmax over the whole frame, of
    # which the top 5 count. (It squashes frames to a square; its best, 480², is the nearest to ours.)
    "timecycle": Protocol(
        affinity=Affinity(temperature=512**-0.5, normalize=True, topk=5, renormalize=False, joint=False),
        policy=FIRST_AND_7,
        stretch=True,
        size=480,
    ),
    # Li et al. 2019, test.py: the same on raw dot products.
    "uvc": UVC,
    # The same, test_with_track.py: each object inside the box that follows it.
    "uvc-boxes": replace(UVC, boxes=True),
    # Jabri, Owens & Efros 2020, test.py: frame 0, where walkers may go anywhere, and the last 20 in a circle.
    "crw": Protocol(
        affinity=Affinity(radius=12, circle=True, temperature=0.05, normalize=True, topk=10, free_first=True),
        policy=FIRST_AND_20,
    ),
    # Xu & Wang 2021: as CRW, but frame 0 is restricted too, T 0.07, class maps stretched.
    "vfs": Protocol(
        affinity=Affinity(radius=12, circle=True, temperature=0.07, normalize=True, topk=10),
        policy=FIRST_AND_20,
        stretch=True,
        size=480,
    ),
    # Caron et al. 2021, eval_video_segmentation.py: frame 0 and the last 7, a square window, top 5.
    "dino": Protocol(
        affinity=Affinity(radius=12, temperature=0.1, normalize=True, topk=5),
        policy=FIRST_AND_7,
        stretch=True,
        size=480,
    ),
    # Siméoni et al. 2025, segmentation_tracking.ipynb: frames of 960, stride 16, a circle.
    # Departure: our circle is open at 12 cells, theirs closed: four cells of 441.
    "dinov3": Protocol(
        affinity=Affinity(radius=12, circle=True, temperature=0.2, normalize=True, topk=5),
        policy=FIRST_AND_7,
        stretch=True,
        size=960,
    ),
    # Tang et al. 2023, README: DINO's script with features of Stable Diffusion, and with those of ADM.
    "dift": DIFT,
    "dift-adm": replace(DIFT, affinity=replace(DIFT.affinity, temperature=0.1, topk=10)),
}


def preset(name: str) -> Protocol:
    """A protocol by name. Raises ``UnknownNameError``."""
    if name not in PRESETS:
        raise UnknownNameError(unknown("protocol", name, PRESETS))
    return PRESETS[name]


# What a user chooses between: short side of the embedded frames, how many recent ones are remembered and how far apart, and
# how many principal components of unit vectors are compared. Every second or third frame tells as much as every one and
# reaches further back: docs/default.md has the figures.
QUALITIES: dict[str, tuple[int, int, int, int | None]] = {
    "fast": (240, 3, 3, 96),
    "balanced": (360, 5, 2, 96),
    "best": (480, 7, 2, None),
}


def at_quality(protocol: Protocol, quality: str) -> Protocol:
    """``protocol`` at a speed preset: the smaller the picture, the fewer cells its window must span.

    What it remembers changes only where that is frame 0 and several recent frames, as the default's: CorrFlow's one
    frame, MAST's two memories and Colorization's last three are part of the method, and stay.
    """
    if quality not in QUALITIES:
        raise UnknownNameError(unknown("quality", quality, QUALITIES))
    size, recent, stride, components = QUALITIES[quality]
    policy = protocol.policy
    if policy.anchors == (0,) and policy.recent > 1:
        policy = replace(policy, recent=recent, stride=stride)
    if not protocol.affinity.normalize:
        components = protocol.components
    return replace(protocol, size=size, policy=policy, components=components)


def adjusted(
    protocol: Protocol,
    *,
    recent: int | None = None,
    radius: int | None = None,
    topk: int | None = None,
    temperature: float | None = None,
    appearance: float | None = None,
) -> Protocol:
    """``protocol`` with some of what papers vary between benchmarks changed; radius 0: the whole frame, topk 0: all.

    Raises InputError for values out of range.
    """
    affinity = protocol.affinity
    if radius is not None:
        affinity = replace(affinity, radius=radius or None, circle=affinity.circle and radius > 0)
    if topk is not None:
        affinity = replace(affinity, topk=topk or None)
    if temperature is not None:
        affinity = replace(affinity, temperature=temperature)
    policy = protocol.policy if recent is None else replace(protocol.policy, recent=recent)
    appearance = protocol.appearance if appearance is None else appearance
    return replace(protocol, affinity=affinity, policy=policy, appearance=appearance)
