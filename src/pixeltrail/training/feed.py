"""Batches made ahead of time: by one background thread, or by several processes. Who makes them changes nothing."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixeltrail.errors import PixeltrailError

AHEAD = 2
PATIENCE = 120.0  # seconds without a batch from loader processes before they are given up


class Sampler(Protocol):
    """Anything that makes batches, row by row: a row depends on ``step`` and its number alone."""

    def batch(self, step: int, rows: range) -> NDArray[np.uint8]:
        """The rows of batch number ``step``: (len(rows), T, H, W, 3) uint8 RGB."""

    def names(self, step: int) -> list[str]:
        """The source video of each row of batch number ``step``."""


def feed(sampler: Sampler, steps: range, rows: range, workers: int) -> Generator[Tensor, None, None]:
    """(len(rows), T, H, W, 3) uint8 for each of ``steps``. Close it to stop the thread or the processes."""
    made = _by_processes(sampler, steps, rows, workers) if workers else _by_a_thread(sampler, steps, rows)
    for frames in made:
        yield torch.from_numpy(np.ascontiguousarray(frames))


def _by_a_thread(sampler: Sampler, steps: range, rows: range) -> Iterator[NDArray[np.uint8]]:
    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(sampler.batch, step, rows) for step in steps[:AHEAD])
        try:
            for step in steps:
                made = ahead.popleft().result()
                if step + AHEAD in steps:
                    ahead.append(pool.submit(sampler.batch, step + AHEAD, rows))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)


def _by_processes(sampler: Sampler, steps: range, rows: range, workers: int) -> Iterator[NDArray[np.uint8]]:
    from torch.utils.data import DataLoader

    loader: DataLoader[NDArray[np.uint8] | PixeltrailError] = DataLoader(
        _Steps(sampler, rows), sampler=steps, batch_size=None, collate_fn=_as_it_is, num_workers=workers,
        multiprocessing_context=_context(), worker_init_fn=_ignore_signals, timeout=PATIENCE,
    )  # fmt: skip
    made = iter(loader)
    for _ in steps:
        try:
            frames = next(made)
        except RuntimeError as error:
            raise PixeltrailError(
                f"training: a loader process died ({str(error).splitlines()[0]}); try workers = 0"
            ) from error
        if isinstance(frames, PixeltrailError):
            raise frames
        yield frames


def _context() -> BaseContext:
    """Not "fork", which copies the locks of threads that it does not copy."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pixeltrail.training.data", __name__])  # imported once for all workers
    return context


class _Steps(torch.utils.data.Dataset[NDArray[np.uint8] | PixeltrailError]):
    def __init__(self, sampler: Sampler, rows: range) -> None:
        self.sampler, self.rows = sampler, rows

    def __getitem__(self, step: int) -> NDArray[np.uint8] | PixeltrailError:
        try:
            return self.sampler.batch(step, self.rows)
        except PixeltrailError as error:  # raised where its message stays one line
            return error


def _as_it_is(made: Any) -> Any:
    return made


def _ignore_signals(_: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach every process of the group; the first one alone decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
