"""The folders of the optical flow benchmarks, as they are published: pairs of frames with true flow.

Sintel, KITTI 2012 and 2015, Middlebury, Flying Chairs, FlyingThings3D, HD1K, Spring, and any folder of frames and flow
files. A reader lists the pairs and opens nothing; each pair reads its frames and its truth when asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np

from pixeltrail.data.flowfile import FLOW_SUFFIXES, Flow, FlowField, Mask, read_flow
from pixeltrail.data.images import IMAGE_SUFFIXES, image_size, natural_key, read_image
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.types import Image


@dataclass(frozen=True, slots=True, eq=False)
class FlowTruth:
    """The true flow of a pair.

    ``flow`` (H, W, 2) float32 in pixels, 0 where unknown; ``valid`` (H, W) bool: where it is known and counts;
    ``occluded`` (H, W) bool: pixels that the second frame does not show, None where the data set does not say;
    ``samples`` (K, H, W, 2): all values that are true of a pixel, of which the nearest to an estimate counts. Spring has
    four, elsewhere it is ``flow`` alone.
    """

    flow: Flow
    valid: Mask
    occluded: Mask | None = None
    samples: Flow = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.samples is None:
            object.__setattr__(self, "samples", self.flow[None])


@dataclass(frozen=True)
class FlowPair:
    """Two frames and how their true flow is read. ``name``: as in the data set, and of a prediction's file."""

    name: str
    first: Path
    second: Path
    load: Callable[[], FlowTruth]

    def images(self) -> tuple[Image, Image]:
        """Both frames, (H, W, 3) uint8 RGB. Raises InputError naming the file, also where their sizes differ."""
        first, second = read_image(self.first), read_image(self.second)
        if first.shape != second.shape:
            sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (first, second)]
            raise InputError(
                f"{self.second}: is {sizes[1]}, {self.first.name} is {sizes[0]}; a pair must be of one size"
            )
        return first, second

    def truth(self) -> FlowTruth:
        """The true flow, of the frames' size. Raises InputError naming the file."""
        truth, (height, width) = self.load(), image_size(self.first)
        if truth.valid.shape != (height, width):
            got = f"{truth.valid.shape[1]}x{truth.valid.shape[0]}"
            raise InputError(f"{self.first}: is {width}x{height}, its true flow {got}; they must be of one size")
        return truth

    def prediction(self, folder: str | Path) -> FlowField:
        """The flow that some program wrote to ``folder/NAME.flo`` (or another format's suffix).
        Raises InputError for a missing or unreadable file."""
        for suffix in FLOW_SUFFIXES:
            path = Path(folder) / f"{self.name}{suffix}"
            if path.is_file():
                return read_flow(path)
        raise InputError(
            f"{folder}/{self.name}.flo: the prediction is missing, in this and every other format "
            f"({', '.join(FLOW_SUFFIXES)}); every pair needs one"
        )


@dataclass(frozen=True)
class FlowSet:
    """The pairs of a data set. ``averaging``: "pixels" if its scores are means over all pixels of all pairs, "pairs" if
    over each pair first."""

    name: str
    pairs: tuple[FlowPair, ...]
    averaging: str = "pixels"

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[FlowPair]:
        return iter(self.pairs)


def sintel(root: str | Path, split: str = "") -> FlowSet:
    """MPI Sintel, rendered ``clean`` (default) or ``final``: ``training/clean/SCENE/frame_0001.png`` with ``flow``,
    ``occlusions`` and ``invalid`` beside ``clean``, the masks where they are."""
    kind = _one_of("Sintel", split or "clean", ("clean", "final"))
    base = _inside(root, "training")
    layout = f"training/{kind}/SCENE/frame_0001.png and training/flow/SCENE/frame_0001.flo"
    frames, flows = _there(base / kind, layout), _there(base / "flow", layout)

    def load(flow: Path, scene: str) -> FlowTruth:
        field = read_flow(flow)
        occluded, invalid = (
            _mask(base / part / scene / f"{flow.stem}.png", field.size) for part in ("occlusions", "invalid")
        )
        return FlowTruth(field.flow, field.valid if invalid is None else field.valid & ~invalid, occluded)

    pairs = [
        _pair(
            f"{flow.parent.name}/{flow.stem}",
            frames / flow.parent.name,
            (f"{flow.stem}.png", f"{_next(flow.stem)}.png"),
            partial(load, flow, flow.parent.name),
        )
        for flow in _sorted(flows.glob("*/*.flo"))
    ]
    return _set("sintel", root, pairs, layout)


def kitti(root: str | Path, split: str = "") -> FlowSet:
    """KITTI, of 2015 (``training/image_2/000000_10.png``) or 2012 (``colored_0`` or ``image_0``), the truth in ``flow_occ``.

    A pixel is occluded if ``flow_occ`` knows it and ``flow_noc`` does not, where that is. By the development kits, 2015
    divides the wrong pixels of all pairs by all pixels, 2012 takes the mean of the pairs.
    """
    _one_of("KITTI", split, ("",))
    base = _inside(root, "training")
    layout = "training/image_2/000000_10.png, 000000_11.png and training/flow_occ/000000_10.png"
    there = [base / name for name in ("image_2", "colored_0", "image_0") if (base / name).is_dir()]
    frames = there[0] if there else _there(base / "image_2", layout)
    pairs = _numbered(frames, _there(base / "flow_occ", layout))
    return _set("kitti", root, pairs, layout, "pixels" if frames.name == "image_2" else "pairs")


def hd1k(root: str | Path, split: str = "") -> FlowSet:
    """HD1K: ``hd1k_input/image_2/000000_0000.png`` and ``hd1k_flow_gt/flow_occ`` in KITTI's format. The last frame of a
    sequence has flow, but nothing that it leads to; it is left out."""
    _one_of("HD1K", split, ("",))
    layout = "hd1k_input/image_2/000000_0000.png and hd1k_flow_gt/flow_occ/000000_0000.png"
    frames = _there(Path(root) / "hd1k_input" / "image_2", layout)
    flows = _there(Path(root) / "hd1k_flow_gt" / "flow_occ", layout)
    return _set("hd1k", root, _numbered(frames, flows, last=False), layout)


def middlebury(root: str | Path, split: str = "") -> FlowSet:
    """Middlebury: ``other-data/NAME/frame10.png`` and ``frame11.png``, ``other-gt-flow/NAME/flow10.flo``.
    Its tables are of single pairs, so the mean is over these."""
    _one_of("Middlebury", split, ("",))
    layout = "other-data/NAME/frame10.png, frame11.png and other-gt-flow/NAME/flow10.flo"
    frames, flows = (_there(Path(root) / name, layout) for name in ("other-data", "other-gt-flow"))
    pairs = [
        _pair(
            f"{flow.parent.name}/{flow.stem}",
            frames / flow.parent.name,
            ("frame10.png", "frame11.png"),
            partial(_plain, flow),
        )
        for flow in _sorted(flows.glob("*/flow10.flo"))
    ]
    return _set("middlebury", root, pairs, layout, "pairs")


def chairs(root: str | Path, split: str = "") -> FlowSet:
    """Flying Chairs: ``00001_img1.ppm``, ``00001_img2.ppm`` and ``00001_flow.flo`` in the folder or in ``data/``; also
    named ``0000001-img0.ppm``, ``-img1.ppm`` and ``-gt.flo``.

    ``split``: ``train`` or ``val`` by ``FlyingChairs_train_val.txt`` (a 1 or a 2 for each pair), or ``all``; by default
    ``val`` where that file is, else all.
    """
    layout = "00001_img1.ppm, 00001_img2.ppm and 00001_flow.flo, there or in data/"
    base = _inside(_there(Path(root), layout), "data")
    names = (("_flow.flo", "_img1.ppm", "_img2.ppm"), ("-gt.flo", "-img0.ppm", "-img1.ppm"))
    pairs = [
        _pair(stem, base, (stem + first, stem + second), partial(_plain, flow))
        for end, first, second in names
        for flow in _sorted(base.glob(f"*{end}"))
        for stem in [flow.name.removesuffix(end)]
    ]
    lists = [p / "FlyingChairs_train_val.txt" for p in (Path(root), base, base.parent)]
    parted = next((p for p in lists if p.is_file()), None)
    split = _one_of("Flying Chairs", split or ("val" if parted else "all"), ("train", "val", "all"))
    if split != "all":
        if parted is None:
            raise InputError(f"{lists[0]}: is missing, and the split {split!r} stands in it; put it there, or take all")
        words = parted.read_text("utf-8-sig", errors="replace").split()
        if len(words) != len(pairs) or set(words) - {"1", "2"}:
            raise InputError(f"{parted}: expected a 1 or a 2 for each of {len(pairs)} pairs, got {len(words)} words")
        wanted = {"train": "1", "val": "2"}[split]
        pairs = [pair for pair, word in zip(pairs, words, strict=True) if word == wanted]
    return _set("chairs", root, pairs, layout)


def things(root: str | Path, split: str = "") -> FlowSet:
    """FlyingThings3D, rendered ``clean`` (default) or ``final``, of both cameras, into the future and the past:
    ``frames_cleanpass/TRAIN/A/0000/left/0006.png`` and
    ``optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm``."""
    kind = f"frames_{_one_of('FlyingThings3D', split or 'clean', ('clean', 'final'))}pass"
    layout = f"{kind}/TRAIN/A/0000/left/0006.png and optical_flow/TRAIN/A/0000/into_future/left/*_0006_L.pfm"
    base, flows = _there(Path(root) / kind, layout), _there(Path(root) / "optical_flow", layout)
    pairs = []
    for flow in _sorted(flows.glob("*/*/*/into_*/*/*.pfm")):
        scene, way, camera = flow.parents[2].relative_to(flows), flow.parents[1].name, flow.parent.name
        frames, number = base / scene / camera, flow.stem.split("_")[-2]
        suffix = ".png" if (frames / f"{number}.png").is_file() else ".webp"
        other = _next(number, 1 if way == "into_future" else -1)
        if (frames / f"{other}{suffix}").is_file():  # the last frame leads nowhere
            name = (scene / way / camera / flow.stem).as_posix()
            pairs.append(_pair(name, frames, (number + suffix, other + suffix), partial(_plain, flow)))
    return _set("things", root, pairs, layout)


def spring(root: str | Path, split: str = "") -> FlowSet:
    """Spring: ``train/0001/frame_left/frame_left_0001.png`` and ``train/0001/flow_FW_left/flow_FW_left_0001.flo5``, both
    cameras and directions (FW to the next frame, BW to the one before), those that are there.

    The truth has two values a pixel along each side, in pixels of the frames. As in the official evaluation, the nearest of
    a pixel's four counts, and none of them may be unknown; ``flow`` is the one at its upper left. Where ``maps`` are,
    a pixel that ``matchmap_flow_FW_left`` marks red or green is occluded. Needs h5py.
    """
    _one_of("Spring", split, ("",))
    base = _inside(root, "train")
    layout = "train/0001/frame_left/frame_left_0001.png and train/0001/flow_FW_left/flow_FW_left_0001.flo5"
    _there(base, layout)
    pairs = []
    for flow in _sorted(base.glob("*/flow_[FB]W_*/*.flo5")):
        scene, part, number = flow.parents[1], flow.parent.name, flow.stem.split("_")[-1]
        way, camera = part.split("_")[1:3]
        files = [f"frame_{camera}_{n}.png" for n in (number, _next(number, 1 if way == "FW" else -1))]
        frames = scene / f"frame_{camera}"
        matches = scene / "maps" / f"matchmap_{part}" / f"matchmap_{part}_{number}.png"
        load = partial(_spring, flow, matches, frames / files[0])
        pairs.append(_pair(f"{scene.name}/{part}/{flow.stem}", frames, (files[0], files[1]), load))
    return _set("spring", root, pairs, layout)


def folder(root: str | Path, split: str = "") -> FlowSet:
    """Your own: frames in one folder, and flow files (.flo, .pfm, .flo5, .npz) whose names end as those of the first frames:
    ``frame_0010.png``, ``frame_0011.png`` and ``frame_0010.flo`` or ``truth_frame_0010.flo``."""
    _one_of("folder", split, ("",))
    layout = "frame_0010.png, frame_0011.png and frame_0010.flo"
    base = _there(Path(root), layout)
    frames = sorted(
        (p for p in base.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: natural_key(p.name)
    )
    kinds = set(FLOW_SUFFIXES) - {".png"}
    pairs = []
    for flow in _sorted(p for p in base.iterdir() if p.suffix.lower() in kinds):
        fitting = [i for i, p in enumerate(frames) if flow.stem.endswith(p.stem)]
        if not fitting:
            raise InputError(f"{flow}: no frame beside it has a name that this one ends with; expected {layout}")
        at = max(fitting, key=lambda i: len(frames[i].stem))
        if at + 1 == len(frames):
            raise InputError(f"{flow}: {frames[at].name} is the last frame there; the one that it leads to is missing")
        pairs.append(_pair(frames[at].stem, base, (frames[at].name, frames[at + 1].name), partial(_plain, flow)))
    return _set("folder", root, pairs, layout)


DATASETS: dict[str, Callable[[str | Path, str], FlowSet]] = {
    "sintel": sintel, "kitti": kitti, "middlebury": middlebury, "chairs": chairs, "spring": spring, "things": things,
    "hd1k": hd1k, "folder": folder,
}  # fmt: skip


def flow_set(name: str, root: str | Path, split: str = "") -> FlowSet:
    """A data set by name, see the functions of this module. Raises UnknownNameError for a name or a split that does not
    exist, InputError where the folder is not laid out as the data set is published."""
    return DATASETS[_one_of("data set of flow", name, tuple(DATASETS))](root, split)


def _plain(flow: Path) -> FlowTruth:
    field = read_flow(flow)
    return FlowTruth(field.flow, field.valid)


def _numbered(frames: Path, flows: Path, last: bool = True) -> list[FlowPair]:
    """Pairs named as KITTI's, SEQUENCE_FRAME.png; without ``last``, those without a second frame are left out."""
    pairs = []
    for flow in _sorted(flows.glob("*_*.png")):
        files = (flow.name, f"{_next(flow.stem)}.png")
        if last or (frames / files[1]).is_file():
            pairs.append(_pair(flow.stem, frames, files, partial(_kitti, flow)))
    return pairs


def _kitti(flow: Path) -> FlowTruth:
    field, seen = read_flow(flow), flow.parents[1] / "flow_noc" / flow.name
    if not seen.is_file():
        return FlowTruth(field.flow, field.valid)
    matched = read_flow(seen)
    if matched.size != field.size:
        raise InputError(f"{seen}: is not of the size of flow_occ/{seen.name}; copy it again from its source")
    return FlowTruth(field.flow, field.valid, field.valid & ~matched.valid)


def _spring(flow: Path, matches: Path, frame: Path) -> FlowTruth:
    field, size = read_flow(flow), image_size(frame)
    occluded = _mask(matches, size)
    if field.size == size:  # already thinned out, as Spring's own tool does for submissions
        return FlowTruth(field.flow, field.valid, occluded)
    if field.size != (2 * size[0], 2 * size[1]):
        raise InputError(
            f"{flow}: is {field.size[1]}x{field.size[0]}, expected twice {frame.name}'s {size[1]}x{size[0]}"
        )
    corners = [(slice(y, None, 2), slice(x, None, 2)) for y in (0, 1) for x in (0, 1)]
    samples = np.stack([field.flow[corner] for corner in corners])
    valid = np.logical_and.reduce([field.valid[corner] for corner in corners])
    return FlowTruth(samples[0], valid, occluded, samples)


def _mask(path: Path, size: tuple[int, int]) -> Mask | None:
    """Where a picture is white, red or green; None where there is none."""
    if not path.is_file():
        return None
    mask = np.asarray(read_image(path)[..., :2].any(2))
    if mask.shape != size:
        got = f"{mask.shape[1]}x{mask.shape[0]}"
        raise InputError(f"{path}: the mask is {got}, the flow {size[1]}x{size[0]}; copy it again from its source")
    return mask


def _pair(name: str, frames: Path, files: tuple[str, str], load: Callable[[], FlowTruth]) -> FlowPair:
    for file in files:
        if not (frames / file).is_file():
            raise InputError(f"{frames / file}: the frame is missing; the pair {name} needs {files[0]} and {files[1]}")
    return FlowPair(name, frames / files[0], frames / files[1], load)


def _set(name: str, root: str | Path, pairs: Sequence[FlowPair], layout: str, averaging: str = "pixels") -> FlowSet:
    if not pairs:
        raise InputError(f"{root}: no pair with true flow; expected {layout}")
    return FlowSet(name, tuple(pairs), averaging)


def _inside(root: str | Path, name: str) -> Path:
    """The folder ``name`` of the root; the root itself where somebody named that folder, or there is none."""
    return Path(root) / name if (Path(root) / name).is_dir() else Path(root)


def _there(path: Path, layout: str) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected {layout}")
    return path


def _sorted(paths: Iterator[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(path.as_posix()))


def _next(name: str, step: int = 1) -> str:
    """The name whose last number is ``step`` higher, with as many digits: frame_0009 -> frame_0010."""
    return re.sub(r"\d+$", lambda number: str(int(number[0]) + step).zfill(len(number[0])), name)


def _one_of(what: str, name: str, there: tuple[str, ...]) -> str:
    if name not in there:
        near = get_close_matches(name, there, 1, cutoff=0.5)
        names = ", ".join(filter(None, there)) or "none"
        raise UnknownNameError(
            f"{what}: no {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there are {names}")
        )
    return name
