"""Killed with -9 at any moment, a run resumes to the bits of the uninterrupted one.

The file is both the test and the process that it starts: that one imports everything once, then forks a child for each
life of a run. A child either dies by the parent's hand after a random time, or kills itself inside a write: after some
bytes, or beside an fsync or a rename.
"""

import builtins
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pixeltrail import weights
from pixeltrail.training import checkpoint
from pixeltrail.training.loop import train
from pixeltrail.training.run import Run

RUN = Run(
    method="mast", settings={"width": 8, "channels": 8}, steps=12, batch_size=2, frames=2, size=32, save_every=3,
    warmup=2, precision="fp32",
)  # fmt: skip
CHECKPOINTS = ("last", "best", "state")


class Noise:
    def batch(self, step, rows):
        import numpy as np

        return np.stack([np.random.default_rng((step, row)).integers(0, 256, (2, 32, 32, 3), np.uint8) for row in rows])

    def names(self, step):
        return ["noise"] * RUN.batch_size


class Writes:
    """Counts the writes, fsyncs and renames of the process; in number ``fatal`` it dies, ``part`` of the way through."""

    def __init__(self, fatal: int | None, part: float) -> None:
        self.count, self.fatal, self.part = 0, fatal, part
        weights.open = checkpoint.open = self.open  # these modules' own name comes before the builtin
        os.fsync, os.replace = self.around(os.fsync), self.around(os.replace)

    def due(self) -> bool:
        self.count += 1
        return self.count == self.fatal

    def around(self, call):
        def counted(*args):
            due = self.due()
            if due and self.part < 0.5:
                die()
            call(*args)
            if due:
                die()

        return counted

    def open(self, *args, **options):
        file = builtins.open(*args, **options)  # noqa: SIM115
        write = file.write

        def counted(data):
            if self.due():
                write(memoryview(data)[: round(self.part * len(data))])
                file.flush()
                die()
            return write(data)

        class Counted:
            def __getattr__(self, name):
                return counted if name == "write" else getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return Counted()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def live(out: Path, *, fatal: int | None = None, part: float = 0.0) -> int:
    """Fork a child that begins the run or goes on with it; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        writes = Writes(fatal, part)
        train(RUN, Noise(), out, sources=["noise"], resume=(out / "state.safetensors").is_file())
        (out / "writes").write_text(str(writes.count))
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def bits(out: Path) -> dict:
    found = {name: weights.read_tensors(out / f"{name}.safetensors") for name in CHECKPOINTS}
    return {name: {k: (str(v.dtype), v.numpy().tobytes()) for k, v in t.items()} for name, t in found.items()} | {
        "metrics": (out / "metrics.jsonl").read_bytes()
    }


def torment(folder: Path, kills: int, inside: int, seed: int) -> dict:
    """Kill runs ``kills`` times, ``inside`` of them inside a write, and say what became of them."""
    choice = random.Random(seed)
    began = time.monotonic()
    assert os.waitpid(live(folder / "whole"), 0)[1] == 0
    lasted, whole = time.monotonic() - began, bits(folder / "whole")
    events = int((folder / "whole" / "writes").read_text())
    plan = [True] * inside + [False] * (kills - inside)
    choice.shuffle(plan)
    figures = {"kills": 0, "inside": 0, "unreadable": 0, "runs": 0, "unequal": 0, "leftovers": 0, "events": events}
    out = folder / "run0"
    while plan or out.exists():
        within = plan.pop() if plan else None
        fatal = choice.randint(1, events) if within else None
        child = live(out, fatal=fatal, part=choice.random())
        if within is False:
            time.sleep(choice.uniform(0, lasted))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            figures["kills"] += 1
            figures["inside"] += bool(within)
            figures["unreadable"] += unreadable(out)
            continue
        assert status == 0, status
        if within is not None:
            plan.insert(0, within)  # it was done before its end came: another one will be killed
        figures["runs"] += 1
        figures["unequal"] += bits(out) != whole
        figures["leftovers"] += len(list(out.rglob("*.part")))
        out = folder / f"run{figures['runs']}"
    return figures


def unreadable(out: Path) -> int:
    bad = 0
    for name in CHECKPOINTS:
        file = out / f"{name}.safetensors"
        if file.exists():
            try:
                weights.read_tensors(file)
            except weights.WeightsError:
                bad += 1
    return bad


def check(folder: Path, kills: int, inside: int) -> None:
    done = subprocess.run(
        [sys.executable, __file__, folder, str(kills), str(inside)], capture_output=True, text=True, timeout=1800,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["kills"] == kills
    assert figures["inside"] == inside
    assert figures["runs"] >= 1
    assert figures["unreadable"] == figures["unequal"] == figures["leftovers"] == 0


unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@unix
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    check(tmp_path, kills=4, inside=3)


@unix
@pytest.mark.slow
def test_fifty_kills_twenty_of_them_inside_a_write(tmp_path):
    check(tmp_path, kills=50, inside=20)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # no pool of threads that a fork would not copy
    import lightning_fabric  # noqa: F401  once, before the forks

    print(json.dumps(torment(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), seed=7)))
