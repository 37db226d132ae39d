"""A benchmark's reports as one page of HTML that needs nothing else: no scripts, no requests, pictures inside."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pixeltrail.errors import InputError
from pixeltrail.evaluation.bootstrap import paired_bootstrap
from pixeltrail.evaluation.charts import COLOURS, Line, chart, intervals
from pixeltrail.evaluation.style import STYLE

BIN = 10
"""Frames in a bin of the drift curves; the first holds frames 1 to 10 after the labelled one."""
FEW = 10
"""Sequences below which a bootstrap is said to be too sure of itself."""
BOTH = 3
"""Runs of which two measures can be told apart in one small chart."""
MAX_BYTES = 256 << 20
PICTURE = re.compile(r"data:image/(?:jpeg|png);base64,[A-Za-z0-9+/]+={0,2}")

Report = Mapping[str, Any]
Row = Mapping[str, Any]


def read_report(path: str | Path) -> dict[str, Any]:
    """A report that ``pixeltrail evaluate --out`` wrote. Raises InputError for anything else."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: is larger than {MAX_BYTES >> 20} MiB, which no report is")
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; make it with pixeltrail evaluate ... --out {path.name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no report ({error}); make one with pixeltrail evaluate ... --out") from None
    try:
        page([content], [path.stem])
    except (TypeError, AttributeError, KeyError, ValueError, IndexError, RecursionError) as error:
        raise InputError(f"{path}: is no report of pixeltrail evaluate ({type(error).__name__}: {error})") from None
    return dict(content)


def page(reports: Sequence[Report], names: Sequence[str]) -> str:
    """HTML that shows the ``json()`` of reports on the same data side by side, the first being what others are held
    against. ``names`` are those of the runs. Raises InputError for reports of different measures."""
    measures = list(reports[0]["overall"])
    for report, name in zip(reports, names, strict=True):
        if not measures or list(report["overall"]) != measures:
            other = ", ".join(map(str, report["overall"])) or "nothing"
            raise InputError(f"{name}: measures {other}, the first report {', '.join(map(str, measures)) or 'nothing'}")
    main = "J&F" if "J&F" in measures else measures[0]
    data = str(reports[0].get("dataset", "")) or ("video object segmentation" if main == "J&F" else "benchmark")
    parts = [
        f"<h1>{escape(' · '.join(names))}</h1><p>{escape(data)}: {_extent(reports[0])}</p>{_legend(names)}",
        _section("Overall", _overall(reports, names, measures)),
        _section("Differences", _differences(reports, names, measures)) if len(reports) > 1 else "",
        _section("By sequence", _by_sequence(reports, names, measures, main)),
        _section("By object", _by_object(reports, names, measures)),
        _section("Drift", _drift(reports, names)),
        _section("Over time", _over_time(reports, names)),
        _section("Worst frames", _pictures(reports, names)),
        _section("Settings", _settings(reports, names)),
    ]
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><title>{escape(' · '.join(names))}</title><style>{STYLE}</style></head>"
    )
    return f"{head}<body><main>{''.join(parts)}</main></body></html>\n"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _rows(report: Report) -> list[Row]:
    """The rows by sequence; those of flow are by pair."""
    return [{"sequence": row["pair"], **row} for row in report["pairs"]] if "pairs" in report else report["sequences"]


def _extent(report: Report) -> str:
    frames = sum(int(row.get("frames") or 0) for row in _rows(report))
    counts = {"sequences": len(_rows(report)), "objects": len(report.get("objects", ())), "frames": frames}
    if "pairs" in report:
        counts = {"pairs": counts["sequences"]}
    return ", ".join(f"{count} {what if count != 1 else what[:-1]}" for what, count in counts.items() if count)


def _legend(names: Sequence[str]) -> str:
    if len(names) == 1:
        return ""
    return "<p>" + " ".join(f'<b class="key c{i % COLOURS}">{escape(n)}</b>' for i, n in enumerate(names)) + "</p>"


# Tables


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    cells = list(rows)
    numbers = [any(row[i].startswith('<td class="n') for row in cells) for i in range(len(cells[0]) if cells else 0)]
    titles = "".join(
        f"<th{' class=n' if i < len(numbers) and numbers[i] else ''}>{escape(_named(h))}</th>"
        for i, h in enumerate(head)
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _named(measure: str) -> str:
    return measure.replace("_", " ")


def _text(value: object, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(str(value))}</td>' if kind else f"<td>{escape(str(value))}</td>"


def _number(value: Any, *, digits: int = 3, best: bool = False, share: float | None = None, sign: bool = False) -> str:
    """A cell; the value that it shows rounded is in ``data-value``. ``share`` in [0, 1]: the length of a bar in it."""
    number = math.nan if value is None else float(value)
    if math.isnan(number):
        return '<td class="n"></td>'
    bar = "" if share is None else f' style="--share:{100 * min(max(share, 0), 1):.1f}%"'
    style = "n" + (" best" if best else "") + (" bar" if bar else "")
    shown = f"{number:{'+' if sign else ''}.{0 if isinstance(value, int) else digits}f}"  # what is counted is whole
    return f'<td class="{style}" data-value="{number!r}"{bar}>{shown}</td>'


def _best(values: Sequence[Any], measure: str, report: Report) -> list[bool]:
    """Which of the values are the best, if they differ. Decay, failures and all that flow is measured by should be small."""
    known = [v for v in values if v is not None]
    if len(set(known)) < 2:
        return [False] * len(values)
    small = "pairs" in report or measure.endswith("decay") or "failures" in measure
    top = min(known) if small else max(known)
    return [v == top for v in values]


def _overall(reports: Sequence[Report], names: Sequence[str], measures: Sequence[str]) -> str:
    best = {m: _best([r["overall"][m] for r in reports], m, reports[0]) for m in measures}
    costs = [_costs(r) for r in reports]
    there = [c for c in ("s per frame", "frames per s", "peak MB") if any(c in cost for cost in costs)]
    rows = []
    for i, (report, name, cost) in enumerate(zip(reports, names, costs, strict=True)):
        cells = [_number(report["overall"][m], best=best[m][i]) for m in measures]
        rows.append([
            f'<td><b class="key c{i % COLOURS}">{escape(name)}</b></td>', *cells,
            *(_number(cost.get(c), digits=0 if c == "peak MB" else 3 if c[0] == "s" else 2) for c in there),
        ])  # fmt: skip
    return _table(["run", *measures, *there], rows)


def _costs(report: Report) -> dict[str, float]:
    """Speed and memory, where they were measured."""
    timed = [(r["seconds_per_frame"], r["frames"]) for r in _rows(report) if r.get("seconds_per_frame") is not None]
    costs: dict[str, float] = {}
    if timed and (frames := sum(n for _, n in timed)):
        seconds = sum(s * n for s, n in timed) / frames
        costs = {"s per frame": seconds} | ({"frames per s": 1 / seconds} if seconds else {})
    peak = report.get("made", {}).get("peak_memory_mb")
    return costs if peak is None else {**costs, "peak MB": peak}


def _differences(reports: Sequence[Report], names: Sequence[str], measures: Sequence[str]) -> str:
    rows, drawn, sequences = [], [], 0
    wanted = [m for m in ("J&F", "J_mean", "F_mean") if m in measures] or list(measures[:3])
    for i, (report, name) in enumerate(zip(reports[1:], names[1:], strict=True), 1):
        for measure in wanted:
            first, second = _values(reports[0], measure), _values(report, measure)
            if not any(not math.isnan(v) for k in first.keys() & second.keys() for v in second[k]):
                continue
            d = paired_bootstrap(first, second)
            label, sequences = f"{name} {_named(measure)}", d.sequences
            drawn.append((label, i, d))
            sure = "" if math.isnan(d.low) else "yes" if d.low > 0 or d.high < 0 else "no"
            rows.append([
                _text(label), _number(d.mean, sign=True), *(_number(v, sign=True) for v in (d.low, d.high)),
                _number(d.wins, digits=2), _text(sure, "mid"),
            ])  # fmt: skip
    if not rows:
        return ""
    means = "objects" if reports[0].get("objects") else "sequences"
    head = ["", "difference", "from", "to", "share above 0", "interval without 0"]
    if sequences < 2:
        note = f"Each run minus {escape(names[0])}. One sequence gives no interval."
        head, rows = head[:2], [row[:2] for row in rows]
    else:
        note = (
            f"Each run minus {escape(names[0])}: the difference of the means over {means}, with the 95 % interval of a "
            f"paired bootstrap over the {sequences} sequences that both have."
            + (" So few sequences make such an interval too narrow." if sequences < FEW else "")
        )
    return f"<p>{note}</p>{intervals(drawn, title='differences')}{_table(head, rows)}"


def _values(report: Report, measure: str) -> dict[str, list[float]]:
    """A measure of each sequence's objects, NaN where it is not defined."""
    objects = [row for row in report.get("objects", ()) if measure in row and "sequence" in row]
    found: dict[str, list[float]] = {}
    for row in objects or _rows(report):
        value = row.get(measure)
        found.setdefault(str(row["sequence"]), []).append(math.nan if value is None else float(value))
    return found


def _by_sequence(reports: Sequence[Report], names: Sequence[str], measures: Sequence[str], main: str) -> str:
    each = [_grid("sequence", _rows(r), [*measures, "frames", "seconds_per_frame"]) for r in reports]
    if len(reports) == 1:
        return each[0]
    tables = [{str(row["sequence"]): row.get(main) for row in _rows(r)} for r in reports]
    top = max([1.0, *(v for t in tables for v in t.values() if v is not None)])
    rows = []
    for name in dict.fromkeys(n for t in tables for n in t):
        values = [t.get(name) for t in tables]
        shares = [None if v is None else v / top for v in values]
        best = _best(values, main, reports[0])
        rows.append([_text(name), *(_number(v, best=b, share=s) for v, b, s in zip(values, best, shares, strict=True))])
    full = "".join(
        f"<details><summary>{escape(name)}: all measures</summary>{table}</details>"
        for name, table in zip(names, each, strict=True)
    )
    return f"<p>{escape(_named(main))}</p>{_table(['sequence', *names], rows)}{full}"


def _by_object(reports: Sequence[Report], names: Sequence[str], measures: Sequence[str]) -> str:
    """Folded away: there may be many."""
    out = []
    for report, name in zip(reports, names, strict=True):
        if report.get("objects"):
            table = _grid("object", report["objects"], [m for m in measures if m in report["objects"][0]])
            out.append(f"<details><summary>{escape(name)}</summary>{table}</details>")
    return "".join(out)


def _grid(kind: str, rows: Sequence[Row], columns: Sequence[str]) -> str:
    columns = [c for c in columns if any(row.get(c) is not None for row in rows)]
    names = ["sequence", "object"] if kind == "object" and "sequence" in rows[0] else [kind]
    cells = (
        [*(_text(row[n]) for n in names), *(_number(row.get(c), digits=0 if c == "frames" else 3) for c in columns)]
        for row in rows
    )
    return _table([*names, *columns], cells)


# Curves and pictures


def series(curve: Row) -> dict[str, list[tuple[int, float]]]:
    """What a curve has measured, by name, as (frame, value); frames count from 1 on where the curve does not say them."""
    values = {name: v for name, v in curve.items() if name not in ("sequence", "object", "t")}
    return {
        name: [
            (int(t), math.nan if v is None else float(v))
            for t, v in zip(curve.get("t") or range(1, len(found) + 1), found, strict=True)
        ]
        for name, found in values.items()
    }


def drift(curves: Sequence[Row]) -> tuple[list[float], list[int]]:
    """A curve's first measure by distance from the given frame: in each bin of ten frames the mean over objects of each
    one's mean, and how many objects reach it; NaN for a bin that none reaches."""
    bins: dict[int, list[float]] = {}
    for curve in curves:
        own: dict[int, list[float]] = {}
        for t, value in next(iter(series(curve).values()), ()):
            if not math.isnan(value):
                own.setdefault((t - 1) // BIN, []).append(value)
        for place, values in own.items():
            bins.setdefault(place, []).append(sum(values) / len(values))
    found = [bins.get(place, []) for place in range(max(bins, default=-1) + 1)]
    return [sum(v) / len(v) if v else math.nan for v in found], [len(v) for v in found]


def _measured(reports: Sequence[Report]) -> list[str]:
    """The names of what the curves show."""
    return list(dict.fromkeys(name for r in reports for curve in r.get("curves") or () for name in series(curve)))


def _drift(reports: Sequence[Report], names: Sequence[str]) -> str:
    found = [drift(r.get("curves") or ()) for r in reports]
    bins = max(len(means) for means, _ in found)
    if not bins:
        return ""
    measure = _named(_measured(reports)[0])
    lines = [
        Line(n, i, [(float(b), m) for b, (m, c) in enumerate(zip(means, counts, strict=True)) if 2 * c >= max(counts)])
        for i, (n, (means, counts)) in enumerate(zip(names, found, strict=True))
    ]
    edges = [f"{i * BIN + 1}–{(i + 1) * BIN}" for i in range(bins)]
    every = max(1, math.ceil(bins / 10))
    ticks = [(float(i), edges[i]) for i in range(0, bins, every)]
    picture = chart(
        lines, title=f"{measure} by distance", x=(-0.5, bins - 0.5), ticks=ticks, size=(640, 260), dots=True
    )
    rows = [
        [_text(name), *(_number(m) for m in means), *[_number(None)] * (bins - len(means))]
        for name, (means, _) in zip(names, found, strict=True)
    ]
    most = max((counts for _, counts in found), key=len)
    rows.append([_text("objects"), *(_number(n, digits=0) for n in most)])
    note = (
        f"Mean {escape(measure)} by distance from the given frame, in frames. The table's last row says how many objects "
        "reach so far; where fewer than half do, no curve is drawn."
    )
    return f'<p>{note}</p><div class="wide">{picture}</div>{_table(["", *edges], rows)}'


def _over_time(reports: Sequence[Report], names: Sequence[str]) -> str:
    """A small chart for each object, of all runs: the first measure solid, a second one, of a few runs, dashed."""
    measures = _measured(reports)[: 2 if len(reports) <= BOTH else 1]
    lines: dict[tuple[str, Any], list[Line]] = {}
    for i, (report, name) in enumerate(zip(reports, names, strict=True)):
        for curve in report.get("curves") or ():
            own = series(curve)
            drawn = lines.setdefault((str(curve["sequence"]), curve["object"]), [])
            drawn += [
                Line(f"{name} {m}", i, own[m], second=m == measures[-1] != measures[0])
                for m in reversed(measures)
                if m in own
            ]
    figures = []
    for (sequence, thing), drawn in lines.items():
        last = max((int(t) for line in drawn for t, _ in line.points), default=0)
        if last:
            sparse = max(len(line.points) for line in drawn) < last / 2
            picture = chart(drawn, title=sequence, x=(1, last), ticks=[(1, "1"), (last, str(last))], dots=sparse)
            caption = f"{escape(sequence)}, {escape(_thing(thing))}"
            figures.append(f"<figure>{picture}<figcaption>{caption}</figcaption></figure>")
    shown = " and ".join(f"{escape(_named(m))} ({how})" for m, how in zip(measures, ("solid", "dashed"), strict=False))
    shown = shown if len(measures) > 1 else shown.partition(" (")[0]
    note = f"{shown[:1].upper()}{shown[1:]} by frame, the given one being 0."
    return f'<p>{note}</p><div class="grid">{"".join(figures)}</div>' if figures else ""


def _thing(name: object) -> str:
    """Objects that have numbers alone say what they are."""
    return f"object {name}" if isinstance(name, int) else str(name)


def _pictures(reports: Sequence[Report], names: Sequence[str]) -> str:
    out = []
    for i, (report, name) in enumerate(zip(reports, names, strict=True)):
        figures = []
        for row in report.get("pictures") or ():
            if not PICTURE.fullmatch(row["picture"]):
                raise ValueError("a picture is no JPEG or PNG in base64")
            values = ", ".join(
                f'{escape(_named(m))} <span data-value="{float(v)!r}">{float(v):.3f}</span>'
                for m, v in row.items()
                if m not in ("sequence", "object", "frame", "picture")
            )
            where = f"{row['sequence']}, {_thing(row['object'])}, frame {row['frame']}"
            figures.append(
                f'<figure><img alt="prediction left, truth right" src="{row["picture"]}">'
                f"<figcaption>{escape(where)}: {values}</figcaption></figure>"
            )
        if figures:
            title = f'<h3><b class="key c{i % COLOURS}">{escape(name)}</b></h3>'
            out.append(f'{title}<div class="grid pictures">{"".join(figures)}</div>')
    note = "The worst frame of each of the worst objects: prediction left, truth right."
    if any(row["object"] == "joints" for r in reports for row in r.get("pictures") or ()):
        note += " A ring is a joint that is too far from its place."
    return f"<p>{note}</p>{''.join(out)}" if out else ""


def _settings(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Whatever says how the runs were made; what differs between them is marked."""
    flat = []
    for report in reports:
        digest = hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()[:12]
        flat.append({**_flat(report.get("settings", {})), **_flat(report.get("made", {})), "report's SHA-256": digest})
    rows = []
    for key in dict.fromkeys(k for f in flat for k in f):
        values = ["" if f.get(key) is None else str(f[key]) for f in flat]
        rows.append([_text(key, "differs" if len(set(values)) > 1 else ""), *(_text(v, "code") for v in values)])
    return _table(["", *names], rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
