"""Line charts and intervals as inline SVG. Colours are CSS classes: c0, c1, ... of each run, dashed ``second``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pixeltrail.evaluation.bootstrap import Difference

COLOURS = 8
"""Classes of colours there are; further runs begin again."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: its name, the run that it belongs to, its (x, y), and whether it is a run's second one (dashed)."""

    name: str
    run: int
    points: Sequence[tuple[float, float]]
    second: bool = False


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x: tuple[float, float],
    ticks: Sequence[tuple[float, str]],
    y: tuple[float, float] = (0.0, 1.0),
    size: tuple[int, int] = (320, 130),
    dots: bool = False,
) -> str:
    """Curves over the range ``x`` with labelled ``ticks`` below; gaps where y is NaN."""
    width, height = size
    left, right, top, bottom = 30, 8, 8, 20

    def place(px: float, py: float) -> tuple[float, float]:
        across = (px - x[0]) / (x[1] - x[0] or 1)
        up = (py - y[0]) / (y[1] - y[0] or 1)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>']
    for i in range(3):
        value = y[0] + (y[1] - y[0]) * i / 2
        _, at = place(x[0], value)
        parts.append(
            f'<path class="rule" d="M{left} {at:.1f}H{width - right}"/>'
            f'<text class="end" x="{left - 5}" y="{at + 3:.1f}">{value:.2g}</text>'
        )
    for value, label in ticks:
        at, _ = place(value, y[0])
        parts.append(f'<text class="mid" x="{at:.1f}" y="{height - 5}">{escape(label)}</text>')
    for line in lines:
        style = f"c{line.run % COLOURS}{' second' if line.second else ''}"
        path = _path([place(*p) if math.isfinite(p[1]) else None for p in line.points])
        parts.append(f'<path class="line {style}" d="{path}"><title>{escape(line.name)}</title></path>')
        if dots:
            for value, height_at in line.points:
                if math.isfinite(height_at):
                    px, py = place(value, height_at)
                    hint = f"<title>{escape(line.name)}: {height_at:.3f}</title>"
                    parts.append(f'<circle class="dot {style}" cx="{px:.1f}" cy="{py:.1f}" r="3">{hint}</circle>')
    return "".join(parts) + "</svg>"


def intervals(rows: Sequence[tuple[str, int, Difference]], *, title: str) -> str:
    """Differences with their intervals, one a line, as (label, run, difference), about a line at zero."""
    ends = [v for _, _, d in rows for v in (d.mean, d.low, d.high) if math.isfinite(v)]
    reach = max((abs(v) for v in ends), default=0) * 1.1 or 1.0
    width, label, step = 640, 210, 22
    height = step * len(rows) + 26

    def place(value: float) -> float:
        return label + (value / reach + 1) / 2 * (width - label - 12)

    parts = [f'<svg class="wide" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>']
    parts += [
        f'<path class="{"zero" if value == 0 else "rule"}" d="M{place(value):.1f} 4V{height - 20}"/>'
        f'<text class="mid" x="{min(place(value), width - 20):.1f}" y="{height - 6}">{f"{value:+.2g}" if value else 0}</text>'
        for value in (-reach, 0.0, reach)
    ]
    for i, (name, run, d) in enumerate(rows):
        y, style = step * i + 16, f"c{run % COLOURS}"
        parts.append(f'<text x="4" y="{y + 4}">{escape(name)}</text>')
        if math.isfinite(d.low):
            parts.append(f'<path class="line bar {style}" d="M{place(d.low):.1f} {y}H{place(d.high):.1f}"/>')
        parts.append(f'<circle class="dot {style}" cx="{place(d.mean):.1f}" cy="{y}" r="4"/>')
    return "".join(parts) + "</svg>"


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """SVG path through the points, broken where there is none."""
    out, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        out.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L"
    return "".join(out)
