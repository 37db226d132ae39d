"""Figure and ground without labels, as Markdown: how well one cluster of an embedding fits the object of a frame.

``python benchmarks/cpfs.py CLIPS DAVIS --steps N`` trains recipes/small/cpfs.toml by each loss for the same number of
steps (a run that was stopped goes on), then cuts a few frames of each sequence into k clusters, each frame alone, and
takes the cluster with the best IoU with the true mask. Colours (Lab) and places (x, y) are clustered beside them, and
flow itself: what a network would reach that knew from a single frame all that it is taught.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import ROOT, arguments, encoder_digest, heading, line, read, scores_for, setting, trained, untrained
from torch import Tensor

from pixeltrail import weights
from pixeltrail.colour import colour_classes, rgb_to_lab
from pixeltrail.data.davis import DavisSequence, read_ids
from pixeltrail.data.files import fingerprint, write_text
from pixeltrail.data.images import read_image
from pixeltrail.evaluation.masks import jaccard
from pixeltrail.flow.camera import camera_flow
from pixeltrail.flow_methods import flow_method
from pixeltrail.geometry import pixel_grid
from pixeltrail.jobs.segment import STRIDE, directions, embedded
from pixeltrail.methods.cpfs import log_flow
from pixeltrail.tracker import Tracker

LOSSES = ("kta", "ce", "ce-rev", "direct")
CLUSTERS = (2, 4, 8)
FRAMES = 3
FLOWS = (("farneback", 128, 2), ("dis", 128, 2), ("dis", 240, 1))
SIZE = 240
RECIPE = ROOT / "recipes" / "small" / "cpfs.toml"


Cut = Callable[[int], Tensor]
"""A frame cut into so many clusters: which of them each cell is in, (h, w)."""


def of_network(tracker: Tracker, sequence: DavisSequence, t: int) -> Cut:
    with torch.inference_mode():
        features, _, _ = embedded(tracker, read_image(sequence.frames[t]), SIZE)
    points = features.flatten(1).T
    return lambda clusters: (points @ directions(points, clusters).T).argmax(1).view(features.shape[1:])


def of_colours(sequence: DavisSequence, t: int) -> Cut:
    return _nearest(rgb_to_lab(_rgb(sequence, t, SIZE // STRIDE)))


def of_places(sequence: DavisSequence, t: int) -> Cut:
    return _nearest(pixel_grid(*_rgb(sequence, t, SIZE // STRIDE).shape[-2:]).unsqueeze(0))


def of_flow(method: str, size: int, apart: int, sequence: DavisSequence, t: int) -> Cut:
    """Its logarithm, from a frame to the one so many later (earlier, where the sequence ends), the camera's taken off."""
    other = t + apart if t + apart < len(sequence.frames) else t - apart
    first, second = ((_rgb(sequence, k, size)[0] * 255).byte().movedim(0, -1).numpy() for k in (t, other))
    flow = flow_method(method)(first, second)
    camera = camera_flow(flow)
    left = torch.from_numpy(flow if camera is None else flow - camera).movedim(-1, 0).unsqueeze(0)
    return _nearest(_resized(log_flow(left.float() * SIZE / size), SIZE // STRIDE))


def _rgb(sequence: DavisSequence, t: int, side: int) -> Tensor:
    """(1, 3, h, w) in [0, 1], its short side ``side`` pixels long."""
    return _resized(torch.from_numpy(read_image(sequence.frames[t])).movedim(-1, 0).unsqueeze(0).float() / 255, side)


def _resized(x: Tensor, side: int) -> Tensor:
    scale = side / min(x.shape[-2:])
    return F.interpolate(x, [round(n * scale) for n in x.shape[-2:]], mode="bilinear", antialias=True)


def _nearest(values: Tensor) -> Cut:
    points = values[0].flatten(1).T.contiguous()
    return lambda k: torch.cdist(points, colour_classes(points, k)).argmin(1).view(values.shape[-2:])


def best_iou(sequence: DavisSequence, of: Callable[[DavisSequence, int], Cut]) -> list[float]:
    """For each number of clusters the IoU of the best one with the true mask, the mean over ``FRAMES`` frames."""
    rows = []
    for t in np.linspace(0, len(sequence.frames) - 1, FRAMES).round().astype(int):
        truth = read_ids(sequence.annotations[t], binary=sequence.binary) == 1
        cut, row = of(sequence, int(t)), []
        for k in CLUSTERS:
            ids = F.interpolate(cut(k).float()[None, None], truth.shape, mode="nearest-exact")[0, 0].numpy()
            row.append(max(jaccard(ids == c, truth) for c in range(k)))
        rows.append(row)
    return [float(x) for x in np.mean(rows, 0)]


def main() -> None:
    args = arguments(__doc__, "data").parse_args()
    scores = scores_for(args)
    path = args.out / "figure-ground.json"
    print(f"{setting(scores)}, {FRAMES} frames each; {RECIPE.relative_to(ROOT)}, {args.steps or 'its own'} steps "
          f"{' '.join(args.set)}\n")  # fmt: skip
    heading("clusters of", *(f"IoU, best of {k}" for k in CLUSTERS), "alignment", "progress", "minutes")

    def row(title: str, key: str, of: Callable[[DavisSequence, int], Cut], *others: object) -> None:
        found = []
        for sequence in scores.sequences:
            name = f"{key} {fingerprint([*sequence.frames, *sequence.annotations])}"
            kept = read(path)
            if name not in kept:
                kept[name] = best_iou(sequence, of)
                write_text(path, _text(kept))
            found.append(kept[name])
        line(title, *(float(x) for x in np.mean(found, 0)), *others)

    args.out.mkdir(parents=True, exist_ok=True)
    row("colours", "lab", of_colours, "", "", "")
    row("places", "places", of_places, "", "", "")
    for method, size, apart in FLOWS:
        title = f"flow: {method}, {size} pixels, {apart} frame{'s' * (apart > 1)} apart"
        row(title, title, partial(of_flow, method, size, apart), "", "", "")
    for loss in LOSSES:
        if args.only not in loss:
            continue
        file = trained(args.out / loss, args, *args.set, "settings.keep=true", f'settings.loss="{loss}"', recipe=RECIPE)
        if loss == LOSSES[0]:
            before = untrained(file)
            row("the untrained network", encoder_digest(before), partial(of_network, before), "", "", "")
        tracker = weights.load(file, device=args.device)
        said = _last(args.out / loss)
        minutes = f"{weights.read_card(file)['seconds'] / 60:.0f}"
        measured = (said.get("alignment"), said.get("progress"))
        row(loss, encoder_digest(tracker), partial(of_network, tracker), *measured, minutes)


def _text(kept: dict[str, list[float]]) -> str:
    return json.dumps(kept, indent=1, sort_keys=True) + "\n"


def _last(folder: Path) -> dict[str, float]:
    """The last line of a run's metrics."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return dict(json.loads(lines[-1])) if lines else {}


if __name__ == "__main__":
    main()
