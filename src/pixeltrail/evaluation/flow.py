"""Score optical flow against true flow by the measures of Middlebury, Sintel and KITTI, and say the result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pixeltrail.errors import InputError, ShapeError
from pixeltrail.types import Image

if TYPE_CHECKING:
    from rich.table import Table

Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]
Estimate = Callable[[Image, Image], Flow]
OnPair = Callable[[str, int, int], None]

MEASURES = ("EPE", "1px", "3px", "5px", "Fl", "AAE", "s0-10", "s10-40", "s40+", "matched", "unmatched")
UNITS = {"1px": "%", "3px": "%", "5px": "%", "Fl": "%", "AAE": "°"}  # of the others: pixels
LINES = 20


class Truth(Protocol):
    """What is needed of the true flow; ``pixeltrail.data.flowsets.FlowTruth`` is one."""

    @property
    def valid(self) -> Mask: ...
    @property
    def occluded(self) -> Mask | None: ...
    @property
    def samples(self) -> Flow: ...


class Predicted(Protocol):
    """What is needed of flow that was read from a file; ``pixeltrail.data.flowfile.FlowField`` is one."""

    @property
    def flow(self) -> Flow: ...
    @property
    def valid(self) -> Mask: ...


class Pair(Protocol):
    """What is needed of a pair; ``pixeltrail.data.flowsets.FlowPair`` is one."""

    @property
    def name(self) -> str: ...
    def images(self) -> tuple[Image, Image]: ...
    def truth(self) -> Truth: ...
    def prediction(self, folder: str | Path) -> Predicted: ...


class Dataset(Protocol):
    """What is needed of a data set; ``pixeltrail.data.flowsets.FlowSet`` is one."""

    @property
    def pairs(self) -> Sequence[Pair]: ...
    @property
    def averaging(self) -> str: ...


@dataclass(frozen=True, slots=True, eq=False)
class FlowScore:
    """The measures of one pair or of several, as sums over pixels. ``totals``, ``counts`` (11,) float64, in MEASURES' order.

    ``score["EPE"]`` is total by count, NaN where no pixel counts; ``+`` pools the pixels.
    """

    totals: NDArray[np.float64]
    counts: NDArray[np.float64]

    def __getitem__(self, measure: str) -> float:
        at = MEASURES.index(measure)
        return float(self.totals[at] / self.counts[at]) if self.counts[at] else math.nan

    def __add__(self, other: FlowScore) -> FlowScore:
        return FlowScore(self.totals + other.totals, self.counts + other.counts)

    def values(self) -> dict[str, float]:
        return {measure: self[measure] for measure in MEASURES}


def score_flow(
    flow: NDArray[np.floating], truth: NDArray[np.floating], valid: Mask | None = None, occluded: Mask | None = None
) -> FlowScore:
    """Score ``flow`` (H, W, 2) in pixels against ``truth`` (H, W, 2), or (K, H, W, 2) where several values are true of a
    pixel and the nearest one counts, at the pixels of ``valid`` (H, W): by default wherever the truth is finite.

    With the error e = |flow - truth| and the true length m, in pixels:
        EPE: the mean of e. 1px, 3px, 5px: percent of pixels with e above that.
        Fl: percent with e > 3 *and* e > m / 20 (KITTI 2015). AAE: the mean angle in degrees between (u, v, 1) of both
        (Barron et al. 1994, Middlebury). s0-10, s10-40, s40+: EPE where m is in [0, 10), [10, 40], above 40 (Sintel).
        matched, unmatched: EPE where ``occluded`` (H, W) is false, true; NaN where it is not given.
    Of several truths Fl takes the longest m, the classes the mean, as the official evaluation of Spring does.
    Raises ShapeError for sizes that differ, InputError for flow that is not finite at a valid pixel.
    """
    true = truth if truth.ndim == 4 else truth[None]
    size = flow.shape[:2]
    if flow.ndim != 3 or true.shape[1:] != flow.shape or flow.shape[2] != 2:
        raise ShapeError(f"score_flow: expected flow of the truth's shape {true.shape[1:]}, got {flow.shape}")
    for name, mask in (("valid", valid), ("occluded", occluded)):
        if mask is not None and (mask.shape != size or mask.dtype != np.bool_):
            raise ShapeError(f"score_flow: expected {name} as {size} bool, got {mask.dtype} {mask.shape}")
    counted = np.isfinite(true).all((0, 3)) if valid is None else valid
    found, true = flow[counted].astype(np.float64), true[:, counted].astype(np.float64)  # (P, 2), (K, P, 2)
    missing = int(len(found) - np.isfinite(found).all(1).sum())
    if missing:
        raise InputError(f"the flow is unknown at {missing} of {len(found)} pixels that count; it must be dense")

    error = np.linalg.norm(found - true, axis=-1).min(0)
    lengths = np.linalg.norm(true, axis=-1)
    length, longest = lengths.mean(0), lengths.max(0)
    cosine = ((found * true).sum(-1) + 1) / np.sqrt(((found**2).sum(-1) + 1) * ((true**2).sum(-1) + 1))
    angle = np.degrees(np.arccos(cosine.clip(-1, 1))).min(0)
    hidden = None if occluded is None else occluded[counted]
    nowhere = np.zeros(len(error), bool)
    everywhere = ~nowhere
    rows = (
        (error, everywhere),
        *((100.0 * (error > limit), everywhere) for limit in (1, 3, 5)),
        (100.0 * ((error > 3) & (error > longest / 20)), everywhere),
        (angle, everywhere),
        (error, length < 10),
        (error, (length >= 10) & (length <= 40)),
        (error, length > 40),
        (error, nowhere if hidden is None else ~hidden),
        (error, nowhere if hidden is None else hidden),
    )
    return FlowScore(
        np.array([values[where].sum() for values, where in rows]),
        np.array([where.sum() for _, where in rows], np.float64),
    )


@dataclass(frozen=True)
class FlowReport:
    """The measures of ``score_flow``, for each pair and overall.

    ``pairs``: a dict each with ``pair``, the measures, the number of ``pixels`` that count and the ``seconds`` that the
    method took, without reading. ``over_pixels``: the means over all pixels of all pairs; ``over_pairs``: the means of the
    pairs' values, over those that have one. ``averaging`` says which of the two the data set's own evaluation prints, which
    is ``overall``. ``settings``: whatever says how the flow was made. A value that no pixel defines is NaN.
    """

    pairs: list[dict[str, Any]]
    over_pixels: dict[str, float]
    over_pairs: dict[str, float]
    averaging: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def overall(self) -> dict[str, float]:
        return self.over_pixels if self.averaging == "pixels" else self.over_pairs

    def json(self) -> dict[str, Any]:
        """The same, ready for ``json.dump``: NaN as None."""
        return {
            "overall": _plain(self.overall), "averaging": self.averaging, "over_pixels": _plain(self.over_pixels),
            "over_pairs": _plain(self.over_pairs), "pairs": [_plain(row) for row in self.pairs],
            "settings": self.settings,
        }  # fmt: skip

    def table(self) -> Table:
        """One line per pair (of many, the worst) and the two means, the data set's own in bold, for a rich console;
        measures that no pixel defines are left out."""
        from rich import box
        from rich.table import Table

        means = {"pixels": self.over_pixels, "pairs": self.over_pairs}
        told = [m for m in MEASURES if not math.isnan(self.over_pixels[m])]
        timed = not all(math.isnan(row["seconds"]) for row in self.pairs)
        table = Table("pair", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for head in [*(f"{m}\n{UNITS.get(m, 'px')}" for m in told), *(["s per\npair"] if timed else [])]:
            table.add_column(head, justify="right", no_wrap=True)
        shown = self.pairs
        if len(shown) > LINES:
            table.title = f"the {LINES} worst of {len(shown)} pairs"
            shown = sorted(shown, key=lambda row: -row["EPE"] if math.isfinite(row["EPE"]) else 0)[:LINES]
        for row in shown:
            table.add_row(row["pair"], *_cells(row, told), *([f"{row['seconds']:.3f}"] if timed else []))
        table.add_section()
        for how, mean in means.items():
            table.add_row(f"mean over {how}", *_cells(mean, told), style="bold" if how == self.averaging else "")
        return table


def evaluate_flow(
    estimate: Estimate,
    dataset: Dataset,
    *,
    on_pair: OnPair | None = None,
    settings: Mapping[str, Any] | None = None,
) -> FlowReport:
    """Run ``estimate(first, second)`` on every pair, (H, W, 3) uint8 RGB each, and score its flow (H, W, 2) in pixels.

    One pair is in memory at a time. ``on_pair(name, pairs done, pairs)`` is called after each. Raises InputError, naming
    the pair, for flow of another size or flow that is not finite where it counts.
    """

    def run(pair: Pair) -> tuple[Flow, float]:
        first, second = pair.images()
        start = time.perf_counter()
        flow = estimate(first, second)
        return flow, time.perf_counter() - start

    return _evaluate(run, dataset, on_pair, settings)


def evaluate_predictions(
    folder: str | Path,
    dataset: Dataset,
    *,
    on_pair: OnPair | None = None,
    settings: Mapping[str, Any] | None = None,
) -> FlowReport:
    """Score files of flow, ``folder/NAME.flo`` for each pair's name, in any format; otherwise as ``evaluate_flow``, without
    times. Flow that a file marks as unknown counts as missing."""

    def read(pair: Pair) -> tuple[Flow, float]:
        field = pair.prediction(folder)
        return np.where(field.valid[..., None], field.flow, np.float32(np.nan)), math.nan

    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; predictions stand in it under the pairs' names")
    return _evaluate(read, dataset, on_pair, settings)


def _evaluate(
    run: Callable[[Pair], tuple[Flow, float]],
    dataset: Dataset,
    on_pair: OnPair | None,
    settings: Mapping[str, Any] | None,
) -> FlowReport:
    rows: list[dict[str, Any]] = []
    pooled = FlowScore(np.zeros(len(MEASURES)), np.zeros(len(MEASURES)))
    for pair in dataset.pairs:
        flow, seconds = run(pair)
        truth = pair.truth()
        try:
            score = score_flow(flow, truth.samples, truth.valid, truth.occluded)
        except InputError as error:
            raise InputError(f"{pair.name}: {error}") from None
        pooled += score
        rows.append({"pair": pair.name, **score.values(), "pixels": int(score.counts[0]), "seconds": seconds})
        if on_pair:
            on_pair(pair.name, len(rows), len(dataset.pairs))
    over_pairs = {measure: _mean(row[measure] for row in rows) for measure in MEASURES}
    return FlowReport(rows, pooled.values(), over_pairs, dataset.averaging, dict(settings or {}))


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _cells(row: Mapping[str, float], measures: Sequence[str]) -> list[str]:
    return ["" if math.isnan(row[m]) else f"{row[m]:.{2 if m in UNITS else 3}f}" for m in measures]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
