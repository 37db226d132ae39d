"""Scores that are measured once: what every table here is made of.

J and F of a tracker on a sequence are kept in a JSON file, under the digest of its encoder's weights, its protocol and
the sequence's files, so that a table can be finished in several sittings and two tables share what they share. An entry
remembers which inference code made it; entries of other code are used, but a line on stderr counts them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

import pixeltrail
from pixeltrail import catalogue, weights
from pixeltrail.affinity import Affinity
from pixeltrail.cli import main
from pixeltrail.data.davis import Davis, DavisSequence
from pixeltrail.data.files import fingerprint, write_text
from pixeltrail.evaluation.masks import SequenceScore
from pixeltrail.memory import MemoryPolicy
from pixeltrail.predictors import BASELINES, with_protocol
from pixeltrail.tracker import Protocol, Tracker
from pixeltrail.training.run import read_recipe

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "benchmarks" / "scores.json"
CHECKPOINTS = ROOT / "checkpoints"

SIZE = 240
"""The short side in pixels at which methods are compared, so that those of stride 4 can be afforded."""

COMMON = Protocol(
    affinity=Affinity(radius=12, temperature=0.07, normalize=True, topk=10),
    policy=MemoryPolicy(anchors=(0,), recent=3),
)
"""One protocol for all encoders: that of examples/imagenet_features.py, frames at their own size."""


@dataclass(frozen=True)
class Measured:
    """One tracker on all sequences. ``objects``: J, F and J_recall of each object; ``drift``: J of each object in each
    scored frame, (sequence, object, frame 1 ...)."""

    objects: list[dict[str, float]]
    drift: list[list[float]]
    frames: int
    seconds: float

    def __getitem__(self, measure: str) -> float:
        """The mean over objects of "J", "F", "J_recall", or "J&F"."""
        if measure == "J&F":
            return (self["J"] + self["F"]) / 2
        values = [o[measure] for o in self.objects if not math.isnan(o[measure])]
        return sum(values) / len(values) if values else math.nan

    @property
    def rate(self) -> float:
        """Frames a second, reading of the frames included."""
        return self.frames / self.seconds


class Scores:
    """``scores(title, tracker or name of a baseline)`` measures what the file ``path`` does not hold yet."""

    def __init__(self, sequences: Iterable[DavisSequence], path: Path | None) -> None:
        self.sequences, self.path, self.stale = list(sequences), path, 0
        self.kept: dict[str, dict[str, Any]] = {}

    def __call__(self, title: str, method: Tracker | str) -> Measured:
        tracker = method if isinstance(method, Tracker) else None
        how = {
            "encoder": encoder_digest(tracker) if tracker else method,
            "protocol": asdict(tracker.protocol) if tracker else None,
        }
        predict = (
            (lambda frames, first: (t.ids for t in tracker.track(frames, first))) if tracker else BASELINES[method]
        )
        rows = []
        for sequence in self.sequences:
            key = _short(json.dumps({**how, "data": fingerprint([*sequence.frames, *sequence.annotations])}))
            self.kept |= read(self.path)
            if key not in self.kept:
                print(f"{title}: {sequence.name} ...", end="", file=sys.stderr, flush=True)
                found = {key: {**how, **_measured(predict, sequence)}}
                self.kept |= read(self.path) | found  # another process may have added to it meanwhile
                print(f" J {self.kept[key]['objects'][0]['J']:.3f}", file=sys.stderr, flush=True)
                if self.path:
                    write_text(self.path, _text(self.kept))
            self.stale += self.kept[key]["code"] != code_digest()
            rows.append(self.kept[key])
        return gathered(rows)

    def note(self) -> None:
        """Say on stderr if some of what was printed was measured with other code than today's."""
        if self.stale:
            print(
                f"{self.stale} sequences were measured with other code; take {self.path} away to repeat",
                file=sys.stderr,
            )


def _measured(predict: Any, sequence: DavisSequence) -> dict[str, Any]:
    score, seconds = SequenceScore(sequence.name), 0.0
    masks = iter(predict(sequence.images(), sequence.first()))
    for truth in sequence.truth():
        start = time.perf_counter()
        ids = next(masks)
        seconds += time.perf_counter() - start
        score.add(ids, truth)
    objects = [{"J": j.mean, "F": f.mean, "J_recall": j.recall} for j, f in score.statistics()]
    return {
        "sequence": sequence.name, "objects": objects, "drift": score.values[..., 0].T.round(4).tolist(),
        "frames": score.frames, "seconds": round(seconds, 2),
        "threads": torch.get_num_threads(), "date": time.strftime("%Y-%m-%d"), "code": code_digest(),
    }  # fmt: skip


def gathered(rows: list[dict[str, Any]]) -> Measured:
    """Entries of the file, one a sequence, as one result."""
    return Measured(
        [o for row in rows for o in row["objects"]], [d for row in rows for d in row["drift"]],
        sum(row["frames"] for row in rows), sum(row["seconds"] for row in rows),
    )  # fmt: skip


def read(path: Path | None) -> dict[str, dict[str, Any]]:
    """What a file of scores holds; nothing if there is none."""
    return json.loads(path.read_text()) if path and path.is_file() else {}


def _text(kept: dict[str, dict[str, Any]]) -> str:
    """One entry a line, so that additions read well in a diff."""
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(kept[k])}" for k in sorted(kept)) + "\n}\n"


def encoder_digest(tracker: Tracker) -> str:
    """Of everything that a frame's embedding depends on, whatever file it came from."""
    parts = hashlib.sha256(f"{tracker.encoder}{tracker.bottleneck}".encode())
    for name, tensor in sorted(tracker.encoder.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            parts.update(f"{name} {tuple(tensor.shape)}".encode())
            parts.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return parts.hexdigest()[:12]


@cache
def code_digest() -> str:
    """Of the modules that tracking and scoring run through; comments and layout do not count."""
    package = Path(pixeltrail.__file__).parent
    parts = ("affinity", "bottleneck", "colour", "geometry", "guided", "memory", "sessions", "tracker")
    files = [package / f"{part}.py" for part in parts] + [package / "evaluation" / "masks.py"]
    files += sorted((package / "kernels").glob("*.py"))
    return _short("".join(ast.dump(ast.parse(file.read_text())) for file in files))


def untrained(path: Path) -> Tracker:
    """The encoder of a weights file before it learned anything: seed 0, the same method and settings."""
    card = weights.read_card(path)
    torch.manual_seed(0)
    return catalogue.build(str(card["method"]), **card.get("settings", {})).eval()


def own(tracker: Tracker) -> Tracker:
    """Under its method's own protocol, at the size of the comparison."""
    return with_protocol(tracker, size=SIZE)


def common(tracker: Tracker, size: int | None = SIZE) -> Tracker:
    """Under the protocol that is the same for all."""
    tracker = with_protocol(tracker)
    tracker.protocol = replace(COMMON, size=size)
    return tracker


def trained(out: Path, args: argparse.Namespace, *settings: str, recipe: Path, method: str = "") -> Path:
    """The weights that `pixeltrail train` makes of a recipe with some ``settings`` (KEY=VALUE) in the folder ``out``; a run
    that stopped goes on, one that is done is left alone. ``args``: those of a table that trains, see `arguments`."""
    last = out / "last.safetensors"
    steps = args.steps or read_recipe(recipe).steps
    if not last.is_file() or weights.read_card(last)["steps"] != steps:
        command = ["train", "--data", str(args.data), "--out", str(out), "--cache", str(args.out / "frames")]
        command += ["--recipe", str(recipe), "--device", args.device, "--threads", str(args.threads)]
        command += ["--set", f"steps={steps}"]
        command += ["--method", method] if method else []
        command += ["--resume"] if (out / "state.safetensors").is_file() else []
        command += [word for setting in settings for word in ("--set", setting)]
        with redirect_stdout(sys.stderr):  # the table alone goes to stdout
            code = main(command)
        if code:
            raise SystemExit(code)
    return last


def arguments(what: str | None, *before: str) -> argparse.ArgumentParser:
    """What all tables have in common; ``before``: paths that come before the data set's."""
    parser = argparse.ArgumentParser(description=(what or "").splitlines()[0])
    for name in before:
        parser.add_argument(name, type=Path)
    parser.add_argument("davis", type=Path, nargs="?", default=ROOT.parent / "shared" / "data" / "davis-dev")
    parser.add_argument("--sequences", default="", help="only these, separated by commas")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where scores are kept (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    if "data" in before:
        parser.add_argument("--steps", type=int, default=0, help="training steps (default: the recipe's)")
        parser.add_argument("--out", type=Path, default=ROOT / "runs" / Path(sys.argv[0]).stem, help="the runs' folder")
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all variants")
        parser.add_argument("--only", default="", help="only variants whose title holds this")
    return parser


def scores_for(args: argparse.Namespace) -> Scores:
    """Set the threads, and find the sequences."""
    torch.set_num_threads(args.threads)
    return Scores(Davis(args.davis, args.sequences.split(",") if args.sequences else None), args.cache)


def line(*cells: object) -> None:
    """Print one row of a Markdown table: numbers with three digits, NaN and None as nothing."""
    texts = [
        ("" if math.isnan(c) else f"{c:.3f}") if isinstance(c, float) else str("" if c is None else c) for c in cells
    ]
    print(f"| {' | '.join(texts)} |", flush=True)


def heading(*cells: str) -> None:
    line(*cells)
    print("|" + "---|" * len(cells), flush=True)


def setting(scores: Scores) -> str:
    """When and on what a table was made."""
    cores = f"{torch.get_num_threads()} threads"
    return f"{time.strftime('%Y-%m-%d')}, {cores}, torch {torch.__version__}, {len(scores.sequences)} sequences"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
