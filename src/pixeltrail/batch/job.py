"""One job of a batch: one video, done whole or not at all.

Its results appear as the folder ``OUT/NAME`` in one step. Until then they grow in ``OUT/.work/NAME``, from where an
interrupted job goes on; a lock, which the system lifts when a process ends however it ends, keeps others off. So a batch
may be stopped at any moment, run again, and run by several machines on one disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pixeltrail.batch.manifest import Video
from pixeltrail.data.files import PART, explain, fingerprint, one_line, write_text
from pixeltrail.data.images import IMAGE_SUFFIXES, natural_key
from pixeltrail.errors import DiskError, InputError, PixeltrailError

Kind = Literal["track", "flow"]
State = Literal["done", "there", "part", "failed", "busy", "full"]
WORK, NOTE, SETTINGS = ".work", "job.json", "batch.json"
PATIENCE = 10.0
"""Seconds to wait for a job that another process holds: as long as one that was killed may take to end."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one process needs to know; plain values, so that it can travel as JSON. ``settings``: how the results are made,
    which all jobs of a batch share; ``device`` and ``threads`` change nothing in them."""

    kind: Kind
    video: Video
    out: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    threads: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Job:
        """What ``asdict`` made of a job."""
        return cls(**{**values, "video": Video(**values["video"])})


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a job: ``done``, ``there`` (from before), ``part`` (a damaged video, done up to there), ``failed``,
    ``busy`` (another process has it), ``full`` (the disk); ``why`` not all is done; ``frames`` done now."""

    name: str
    state: State
    why: str = ""
    frames: int = 0


def settings_of(kind: Kind, method: str, **options: Any) -> dict[str, Any]:
    """How the results will be made. Loads the method once, so that what cannot be used is known before the work begins.

    ``options``: protocol, quality (track); overlay (both). Raises as `predictors.load_tracker` and `flow_method` do.
    """
    settings = {"job": kind, "method": method, **options}
    if kind == "flow":
        from pixeltrail import weights
        from pixeltrail.flow_methods import flow_method, weights_of

        flow_method(method)
        file = weights_of(method)
        return settings | {"weights": weights.digest(file) if file else None}
    from pixeltrail.predictors import describe, load_tracker

    tracker = load_tracker(method, protocol=options.get("protocol", ""), quality=options.get("quality", ""))
    made: dict[str, Any] = json.loads(json.dumps(describe(tracker, method)))
    return settings | {"made": made}


def begin(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a batch, or see that it was begun with the same settings. Raises InputError, DiskError."""
    file, ours = out / SETTINGS, json.loads(json.dumps(dict(settings)))
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        if file.is_file():
            theirs = json.loads(file.read_text())
            for key in theirs.keys() | ours.keys():
                if theirs.get(key) != ours.get(key):
                    was = f"{key} {theirs.get(key)}, now {ours.get(key)}"
                    raise InputError(f"{out}: was begun with {one_line(was)}; choose another --out")
            return
        part = out / f"{SETTINGS}.{os.getpid()}-{time.monotonic_ns()}{PART}"  # shards may begin at the same moment
        part.write_text(json.dumps(ours, indent=1))
        os.replace(part, file)
    except OSError as error:
        raise explain(error, file) from error
    except (ValueError, AttributeError):
        raise InputError(f"{file}: is damaged; remove it to go on with the settings given now") from None


def finished(out: Path, video: Video) -> Result | None:
    """The result of a job that was done before with the video and labels as they are now; None if there is none."""
    note = _note(out / video.name)
    if note is None or "problem" not in note or note.get("key") != _key(video):
        return None
    return Result(video.name, "part" if note["problem"] else "there", note["problem"] or "")


def run_job(job: Job) -> Result:
    """Do one job, go on with it, or find it done. Whatever is wrong with it is in the result; nothing is raised."""
    name, out = job.video.name, Path(job.out)
    try:
        if (there := finished(out, job.video)) is not None:
            return there
        with _lock(out / WORK / f"{name}.lock") as held:
            if not held:
                return Result(name, "busy", "another process is at work on it")
            return finished(out, job.video) or _work(job, out / WORK / name, out / name)
    except DiskError as error:
        return Result(name, "full", one_line(error, 400))
    except PixeltrailError as error:
        return Result(name, "failed", one_line(error, 400))
    except OSError as error:
        told = explain(error, Path(error.filename or job.video.path))
        return Result(name, "full" if isinstance(told, DiskError) else "failed", one_line(told, 400))
    except Exception as error:  # one bad video must not stop the others
        return Result(name, "failed", one_line(f"{type(error).__name__}: {error}", 400))


def _work(job: Job, work: Path, final: Path) -> Result:
    key, note = _key(job.video), _note(work)
    same = note is not None and note.get("key") == key
    if not same and work.exists():
        shutil.rmtree(work)  # of another video or other labels
    if final.exists() and _note(final) is None:
        raise InputError(f"{final}: was not made by pixeltrail batch; choose another --out")
    frames, problem = 0, note.get("problem") if note else None
    if not (same and note is not None and "problem" in note):  # else all that is left to do is to show it
        work.mkdir(parents=True, exist_ok=True)
        write_text(work / NOTE, json.dumps({"key": key}))
        frames, problem = _results(job, work)
        write_text(work / NOTE, json.dumps({"key": key, "problem": problem}))
    if final.exists():  # of an earlier version of the video or its labels
        old = work.with_name(f"{work.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final, old)
        os.rename(work, final)
        shutil.rmtree(old)
    else:
        os.rename(work, final)
    return Result(job.video.name, "part" if problem else "done", problem or "", frames)


def _results(job: Job, work: Path) -> tuple[int, str | None]:
    """Fill the folder ``work``; how many frames were done now, and what was wrong with the video."""
    import torch

    from pixeltrail.data.video import open_frames

    torch.set_num_threads(job.threads)
    source, settings = open_frames(job.video.path), job.settings
    if job.kind == "flow":
        from pixeltrail.jobs.flow import flow_of_video

        summary = flow_of_video(
            _flow(str(settings["method"]), job.device), source, work, settings=settings,
            with_video=bool(settings.get("overlay", True)), resume=(work / ".flow-job" / "settings.json").is_file(),
        )  # fmt: skip
    else:
        from pixeltrail.data.labels import read_labels, read_points
        from pixeltrail.jobs import resumable, track_video

        if job.video.points:
            given: Any = read_points(Path(job.video.points), source.size)
        elif job.video.labels:
            given = {0: read_labels(Path(job.video.labels), source.size)}
        else:
            raise InputError(f"{job.video.path}: has no labels; put {job.video.name}.png or .csv (points) beside it")
        parts = (str(settings.get(key, "")) for key in ("method", "protocol", "quality"))
        summary = track_video(
            _tracker(*parts, job.device), source, work, given, settings=settings,
            resume=resumable(work), with_overlay=bool(settings.get("overlay", True)),
        )  # fmt: skip
    return summary.frames, one_line(summary.problem, 400) if summary.problem else None


@lru_cache(1)
def _tracker(method: str, protocol: str, quality: str, device: str) -> Any:
    """Loaded once in each process."""
    from pixeltrail.predictors import load_tracker

    return load_tracker(method, protocol=protocol, quality=quality, device=device)


@lru_cache(1)
def _flow(method: str, device: str) -> Any:
    from pixeltrail.flow_methods import flow_method

    return flow_method(method, device=device)


def _note(folder: Path) -> dict[str, Any] | None:
    try:
        note = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _key(video: Video) -> str:
    """Twelve digits that tell the video and its labels from others, without decoding anything."""
    path = Path(video.path)
    if path.is_dir():
        files = sorted((p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    else:
        files = [path]
    if not files or not files[0].is_file():
        raise InputError(f"{path}: {'holds no frames' if path.is_dir() else 'does not exist'}; check the path")
    digest = hashlib.sha256(fingerprint(files).encode())
    for given in (video.labels, video.points):
        if given:
            inside = sorted(Path(given).rglob("*")) if Path(given).is_dir() else [Path(given)]
            for file in inside:
                digest.update(b"\0" + (fingerprint([file]).encode() if file.is_file() else b""))
    return digest.hexdigest()[:12]


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold the file, if nobody else does within `PATIENCE`. Without the system's help (Windows) it is always held."""
    try:
        import fcntl
    except ImportError:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + PATIENCE
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(file), os.stat(path)):
                break
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(file)
                yield False
                return
            time.sleep(0.05)
        except FileNotFoundError:  # its last holder has just removed it
            pass
        os.close(file)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is gone
        os.close(file)


def share(videos: Sequence[Video], shard: str) -> list[Video]:
    """The part ``"i/n"``, i from 0 to n - 1, of all videos: every n-th one. InputError for anything else."""
    i, slash, n = shard.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and int(i) < int(n)):
        raise InputError(f"--shard {shard}: expected I/N with I from 0 to N - 1, such as 0/8")
    return list(videos[int(i) :: int(n)])


def report_failures(path: Path, results: Sequence[Result]) -> None:
    """A CSV of what is not all done and why; no file where nothing is, and an equal one is not written anew."""
    import csv
    import io

    bad = sorted((r for r in results if r.state not in ("done", "there")), key=lambda r: r.name)
    if not bad:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "state", "why"])
    table.writerows([r.name, r.state, r.why] for r in bad)
    if not path.is_file() or path.read_text("utf-8") != text.getvalue():
        write_text(path, text.getvalue())
