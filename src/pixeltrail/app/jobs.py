"""Work that takes longer than an answer: one thread each, which can be paused and cancelled, and reports what it does.

Jobs of one project follow one another; those of several take turns, frame by frame, so that nobody waits for the end
of somebody else's film.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from pixeltrail.app.project import Project
from pixeltrail.app.workspace import told
from pixeltrail.errors import InputError, PixeltrailError

State = Literal["waiting", "running", "paused", "done", "cancelled", "failed"]
Publish = Callable[[str, dict[str, Any], bytes], None]
"""Sends a message, and bytes with it, to all pages that show the project of this id."""
WAITING = 64
"""The most jobs that wait or run at a time."""
TURN = threading.Lock()


class _CancelledError(Exception):
    """Ends a job from within."""


@dataclass
class Job:
    """One piece of work for one project. ``result`` is what it leaves besides masks: the name of a file."""

    project: Project
    kind: str
    publish: Publish
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    state: State = "waiting"
    done: int = 0
    total: int = 0
    note: str = ""
    result: str = ""
    _go: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._go.set()

    @property
    def over(self) -> bool:
        return self.state in ("done", "cancelled", "failed")

    def describe(self) -> dict[str, Any]:
        told = ("id", "kind", "state", "done", "total", "note", "result")
        return {"type": "job", **{key: getattr(self, key) for key in told}}

    def tell(self) -> None:
        self.publish(self.project.id, self.describe(), b"")

    def pause(self, paused: bool) -> None:
        if not self.over:
            (self._go.clear if paused else self._go.set)()
            self.state = "paused" if paused else "running"
            self.tell()

    def cancel(self) -> None:
        self._stop.set()
        self._go.set()

    def check(self) -> None:
        """Wait while the job is paused; leave it if it was cancelled."""
        self._go.wait()
        if self._stop.is_set():
            raise _CancelledError

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One step of the work; steps of other projects' jobs lie between."""
        self.check()
        with TURN:
            yield

    def step(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        self.tell()


class Jobs:
    """All jobs of a server. What is over is forgotten after the page has been told."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Job, threading.Thread]] = {}
        self._lock = threading.Lock()

    def start(self, job: Job, work: Callable[[Job], None]) -> Job:
        """Begin ``work``. Raises InputError if too much is waiting."""
        with self._lock:
            if len(self._jobs) >= WAITING:
                raise InputError(f"{WAITING} jobs are waiting; let some end or cancel them")
            thread = threading.Thread(target=self._run, args=(job, work), name=f"job-{job.id[:6]}", daemon=True)
            self._jobs[job.id] = job, thread
        job.tell()
        thread.start()
        return job

    def get(self, number: str, project: Project) -> Job:
        """A job of this project that is not over. Raises InputError."""
        with self._lock:
            job = self._jobs.get(number, (None, None))[0]
        if job is None or job.project is not project:
            raise InputError("no such job; it may be over")
        return job

    def of(self, project: Project) -> list[dict[str, Any]]:
        with self._lock:
            return [job.describe() for job, _ in self._jobs.values() if job.project is project]

    def close(self) -> None:
        """Cancel all, and wait until they have ended."""
        with self._lock:
            running = list(self._jobs.values())
        for job, _ in running:
            job.cancel()
        for _, thread in running:
            thread.join(30)

    def _run(self, job: Job, work: Callable[[Job], None]) -> None:
        try:
            while not job.project.busy.acquire(timeout=0.1):
                job.check()
            try:
                job.check()
                job.state = "running"
                job.tell()
                work(job)
                job.state = "done"
            finally:
                job.project.save()
                job.project.busy.release()
        except _CancelledError:
            job.state = "cancelled"
        except PixeltrailError as error:
            job.state, job.note = "failed", told(error, job.project.folder.parent)
        except MemoryError:
            job.state, job.note = "failed", "out of memory; choose the quality fast"
        except Exception as error:  # a thread that dies in silence would leave the page waiting
            job.state, job.note = "failed", f"{type(error).__name__}: {told(error, job.project.folder.parent)}"
        finally:
            with self._lock:
                self._jobs.pop(job.id, None)
            job.tell()
