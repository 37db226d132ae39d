"""How trackers drift, as Markdown and a plot: J against the distance from the labelled frame, for each weights file.

``python benchmarks/drift.py DAVIS [--weights FILE...] [--plot drift.png]``, each under its method's own protocol, frames at
240 pixels: what benchmarks/results.py has measured before is not measured again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measure import CHECKPOINTS, arguments, heading, line, own, scores_for, setting
from PIL import Image, ImageDraw, ImageFont

from pixeltrail import weights
from pixeltrail.data.images import write_image
from pixeltrail.visual.overlay import point_colours

BIN = 10
"""Frames in a bin; the first holds frames 1 to 10."""


def binned(drift: Sequence[Sequence[float]]) -> list[float]:
    """J of objects by scored frame, from frame 1 on -> mean over objects of each one's mean in a bin."""
    longest = max(map(len, drift))
    means = [[np.mean(j[i : i + BIN]) for j in drift if len(j) > i] for i in range(0, longest, BIN)]
    return [float(np.mean(m)) for m in means]


def plot(curves: dict[str, list[float]], *, width: int = 900, height: int = 500) -> np.ndarray:
    """Curves of values in [0, 1], one point a bin, with axes and names: (height, width, 3) uint8."""
    left, right, top, bottom = 60, 170, 20, 50
    scale = 2  # drawn twice as large and made smaller, so that lines are smooth
    sheet = Image.new("RGB", (scale * width, scale * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(scale * 13)
    count = max(map(len, curves.values()))

    def at(bin_: float, value: float) -> tuple[float, float]:
        x = left + (bin_ + 0.5) / count * (width - left - right)
        return scale * x, scale * (height - bottom - value * (height - top - bottom))

    for tick in range(0, 11, 2):
        (x0, y), (x1, _) = at(-0.5, tick / 10), at(count - 0.5, tick / 10)
        draw.line((x0, y, x1, y), (225, 225, 228), scale)
        draw.text((x0 - scale * 8, y), f"{tick / 10:.1f}", "black", font, "rm")
    for i in range(count):
        x, y = at(i, 0)
        draw.text((x, y + scale * 14), f"{i * BIN + 1}-{(i + 1) * BIN}", "black", font, "mm")
    draw.text((scale * left, scale * (height - 12)), "frames from the labelled one; mean J", "black", font, "lm")
    # Names stand at the ends of their curves, moved apart where these meet.
    colours = [tuple(int(0.75 * c) for c in colour) for colour in point_colours(len(curves))]
    below = -math.inf
    for (name, values), colour in sorted(zip(curves.items(), colours, strict=True), key=lambda c: -c[0][1][-1]):
        points = [at(i, value) for i, value in enumerate(values)]
        draw.line(points, colour, scale * 2, "curve")
        for x, y in points:
            draw.ellipse((x - scale * 3, y - scale * 3, x + scale * 3, y + scale * 3), colour)
        below = max(below + scale * 16, points[-1][1])
        draw.text((scale * (width - right + 12), below), name, colour, font, "lm")
    return np.asarray(sheet.resize((width, height), Image.Resampling.LANCZOS))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", help="(default: the embedded ones and checkpoints/)")
    parser.add_argument("--plot", type=Path, help="write the curves to this PNG, as far as half of the objects reach")
    args = parser.parse_args()
    scores = scores_for(args)
    files = args.weights or [weights.ASSETS / "default.safetensors", *sorted(CHECKPOINTS.glob("*.safetensors"))]
    print(f"{setting(scores)}; J by distance from the labelled frame\n")
    curves: dict[str, list[float]] = {}
    reach = max(len(sequence.frames) for sequence in scores.sequences) - 2
    heading("240 pixels", *(f"{i + 1}–{min(i + BIN, reach)}" for i in range(0, reach, BIN)), "lost by 41–50")
    lengths: list[int] = []
    for path in files:
        drift = scores(path.stem, own(weights.load(path, device=args.device))).drift
        lengths = [len(j) for j in drift]
        curves[path.stem] = curve = binned(drift)
        line(path.stem, *curve, curve[0] - curve[4] if len(curve) > 4 else None)
    there = [sum(n > i for n in lengths) for i in range(0, max(lengths), BIN)]
    line("objects in the bin", *map(str, there), None)
    if args.plot:
        shown = sum(2 * n >= there[0] for n in there)  # a mean of few objects says little beside one of many
        write_image(args.plot, plot({name: curve[:shown] for name, curve in curves.items()}))
    scores.note()


if __name__ == "__main__":
    main()
