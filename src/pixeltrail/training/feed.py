"""Batches made ahead of time: by one background thread, or by several processes. Who makes them changes nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.errors import PixeltrailError

AHEAD = 2  # batches made ahead by each worker
Rows = NDArray[np.uint8] | tuple[NDArray[np.uint8], NDArray[np.float32]]
Maker = Callable[[int, range], Rows]


class Sampler(Protocol):
    """Anything that makes batches, row by row: a row depends on ``step`` and its number alone."""

    def batch(self, step: int, rows: range) -> Rows:
        """The rows of batch number ``step``: (len(rows), T, H, W, 3) uint8 RGB, and where it is known the flow from each
        clip's first frame to its second, (len(rows), H, W, 2) float32 pixels, NaN where unknown."""

    def names(self, step: int) -> list[str]:
        """The source video of each row of batch number ``step``."""


def feed(sampler: Sampler, steps: range, rows: range, workers: int) -> Generator[tuple[Tensor, ...], None, None]:
    """The sampler's rows for each of ``steps``. Close it to stop the thread or the processes.

    Floats come as their bits (int32), because mixed precision would round them on the way.
    """
    pool, make = _pool(sampler, workers)
    ahead = AHEAD * max(workers, 1)
    with pool:
        coming = deque(pool.submit(make, step, rows) for step in steps[:ahead])
        try:
            for step in steps:
                made = coming.popleft().result()
                if step + ahead in steps:
                    coming.append(pool.submit(make, step + ahead, rows))
                yield tuple(_tensor(array) for array in (made if isinstance(made, tuple) else (made,)))
        except BrokenProcessPool as error:
            raise PixeltrailError(
                "training: a loader process died (killed, or out of memory); try workers = 0, or fewer"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _tensor(array: NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.int32) if tensor.is_floating_point() else tensor


def _pool(sampler: Sampler, workers: int) -> tuple[Executor, Maker]:
    if not workers:
        return ThreadPoolExecutor(1), sampler.batch
    return ProcessPoolExecutor(workers, _context(), initializer=_start, initargs=(sampler,)), _make


def _context() -> BaseContext:
    """Not "fork", which copies the locks of threads that it does not copy."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pixeltrail.training.data", __name__])  # imported once for all workers
    return context


_sampler: Sampler  # of this loader process


def _start(sampler: Sampler) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process of the group; the first one alone decides."""
    global _sampler
    _sampler = sampler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_the_first_process, daemon=True).start()


def _leave_with_the_first_process() -> None:
    """However it ends: a worker waiting for its next task would not notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(step: int, rows: range) -> Rows:
    return _sampler.batch(step, rows)
