"""Who does the jobs: processes of this machine, or Ray. Only paths travel, never frames."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from pixeltrail.batch.job import Job, Result, run_job
from pixeltrail.data.files import one_line
from pixeltrail.errors import InputError

WORKER_BYTES = 1_500_000_000
"""Memory that one process is reckoned to need; on a device of its own it needs less."""
IN_FLIGHT = 4
"""Jobs that Ray is given at a time, for each of its processors: it should know of few, not of a million."""


def worker_count(cores: int, threads: int, memory: int | None) -> int:
    """How many processes of so many ``threads`` fit the machine: by its cores, and by its free ``memory`` in bytes."""
    by_memory = cores if memory is None else memory // WORKER_BYTES
    return max(1, min(cores // max(1, threads), by_memory))


def machine() -> tuple[int, int | None]:
    """The cores that this process may use, and the free memory in bytes where the system says it."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        memory: int | None = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo") as file:  # counts what the disk cache would give back, too
            memory = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, ValueError, AttributeError, StopIteration):
        memory = None
    return cores, memory


def devices(device: str) -> list[str]:
    """One entry for each process that a device carries: every GPU for ``"cuda"``, else the device itself."""
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cuda"]


def run_local(jobs: Sequence[Job], *, workers: int, on_devices: Sequence[str] = ("cpu",)) -> Iterator[Result]:
    """Do the jobs in ``workers`` processes, each on one of ``on_devices`` in turn; results come as they are done.

    A process that dies takes only its job with it, and is replaced. Closing the iterator, and the end of this process in
    whatever way, ends them all.
    """
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
    crew = [_Worker(on_devices[i % len(on_devices)]) for i in range(min(workers, len(jobs)))]
    threads = [threading.Thread(target=_serve, args=(worker, todo, results), daemon=True) for worker in crew]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        while not todo.empty():
            try:
                todo.get_nowait()
            except queue.Empty:
                break
        for worker in crew:
            worker.close()
        for thread in threads:
            thread.join(5)


def _serve(worker: _Worker, todo: queue.SimpleQueue[Job], results: queue.SimpleQueue[Result | BaseException]) -> None:
    try:
        while True:
            try:
                job = todo.get_nowait()
            except queue.Empty:
                return
            results.put(worker.do(job))
    except BaseException as error:  # else the main thread would wait for ever
        results.put(error)


class _Worker:
    """A process that does one job after another; begun when there is one. Jobs go to its standard input and results come
    from its standard output, a line of JSON each."""

    def __init__(self, device: str) -> None:
        self.device, self.closed = device, False
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def do(self, job: Job) -> Result:
        process = self._ready()
        try:
            assert process is not None
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(replace(job, device=self.device))) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError, AssertionError):
            line = ""
        try:
            return Result(**json.loads(line))
        except (ValueError, TypeError):
            code = self._end()
            why = f"killed by signal {-code}, out of memory perhaps" if code < 0 else f"exit code {code}"
            return Result(job.video.name, "failed", f"the process that worked on it ended ({why})")

    def close(self) -> None:
        """End the process, whatever it is doing: what it does can be gone on with."""
        with self.lock:
            self.closed = True
        self._end(kill=True)

    def _ready(self) -> subprocess.Popen[str] | None:
        with self.lock:
            if self.process is None and not self.closed:
                command = [sys.executable, "-P", "-c", "from pixeltrail.batch.executors import work; work()"]
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                    start_new_session=True,  # Ctrl-C is for us; we end it
                )  # fmt: skip
            return self.process

    def _end(self, *, kill: bool = False) -> int:
        with self.lock:
            process, self.process = self.process, None
        if process is None:
            return -signal.SIGTERM
        if kill:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None and not kill:
                pipe.close()
        code: int = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                _close(pipe)
        return code


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # what was still to be written to a process that is no more
        return


def work() -> None:
    """The life of a worker: until its standard input ends, which it does with the process that began it."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints must not be taken for a result
    logging.getLogger("pixeltrail").setLevel(logging.ERROR)  # what is to be noted was noted where the batch began
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os._exit(0)  # in the middle of a job, too: an orphan must not go on beside the next run

    threading.Thread(target=listen, daemon=True).start()
    while True:
        result = run_job(Job.of(json.loads(jobs.get())))
        try:
            replies.write(json.dumps(asdict(result)) + "\n")
            replies.flush()
        except OSError:  # nobody is there to hear it
            os._exit(0)


def run_ray(jobs: Iterable[Job], *, workers: int = 0, on_gpus: bool = False, address: str = "") -> Iterator[Result]:
    """Do the jobs through Ray, one task each; results come as they are done.

    Joins the cluster at ``address``, or that of ``RAY_ADDRESS``; else Ray runs here, with ``workers`` processes (0: one
    for each core). A task has one GPU with ``on_gpus``, and as many cores as its job has threads. Every node must see the
    videos and the results under the same paths. Raises InputError where Ray is missing or cannot be reached.
    """
    ray = _ray(workers, address)
    few = max(2, int(IN_FLIGHT * ray.cluster_resources().get("CPU", 1)))
    do = ray.remote(_by_ray)
    pending: dict[Any, Job] = {}
    waiting = iter(jobs)
    try:
        while True:
            while len(pending) < few and (job := next(waiting, None)) is not None:
                task = do.options(num_cpus=job.threads, num_gpus=1 if on_gpus else 0, max_retries=2)
                pending[task.remote(asdict(job))] = job
            if not pending:
                return
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            try:
                yield Result(**ray.get(ready))
            except (ray.exceptions.RayError, TypeError) as error:
                yield Result(job.video.name, "failed", one_line(f"Ray: {error}", 400))
    finally:
        for task in pending:
            ray.cancel(task, force=True)
        ray.shutdown()


def _by_ray(values: dict[str, Any]) -> dict[str, Any]:
    return asdict(run_job(Job.of(values)))


def _ray(workers: int, address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise InputError("--executor ray: Ray is not installed; pip install 'pixeltrail[ray]'") from None
    where = address or os.environ.get("RAY_ADDRESS", "")
    try:
        if where:
            ray.init(address=where, log_to_driver=False)
        else:
            ray.init(num_cpus=workers or None, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--executor ray: cannot begin ({one_line(error)}); check the address") from error
    return ray
