"""Worker processes of this machine, each of which can be lost without the others."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures import TimeoutError as NotStarted
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.runs import BlockTask, compute_run, unfinished
from nnunet_neuro.predict.shares import Shares
from nnunet_neuro.predict.windows import Block
from nnunet_neuro.raw_dataset import worker_pool
from nnunet_neuro.volumes import describe_region

# a block that ends its worker so often is not tried again
_MOST_DEATHS = 2
# a process that does not start is not waited for longer, in seconds
_LONGEST_START = 30


def compute_with_workers(task: BlockTask, blocks: Sequence[Block], state: RunState, look: Callable[[], object], *, count: int,
                         devices: Sequence[str], patience: float) -> None:
    """Compute all blocks that are not finished.

    Args:
        task, blocks, state: as for `compute_blocks`.
        look: called every now and then.
        count: of processes.
        devices: values for CUDA_VISIBLE_DEVICES that they take in turn.
        patience: seconds between two looks.

    Raises:
        OSError: a block ended its worker twice.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // count) if hasattr(os, "sched_getaffinity") else None
    workers = [_Worker(threads, devices[i % len(devices)] if devices else None) for i in range(count)]
    deaths: Counter[int] = Counter()
    try:
        while missing := unfinished(blocks, state):
            if not _compute_shares(workers, missing, task, state, look, patience, deaths):
                time.sleep(patience)  # others have claimed all that is left
            look()
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    finally:
        for worker in workers:
            worker.end()


def _compute_shares(workers: Sequence[_Worker], blocks: Sequence[Block], task: BlockTask, state: RunState, look: Callable[[], object],
                    patience: float, deaths: Counter[int]) -> int:
    """Compute what no other program has claimed; gives how many blocks that were."""
    shares, computed = Shares(blocks, len(workers)), 0
    pending: dict[Future, tuple[int, Block]] = {}
    idle = list(range(len(workers)))
    while True:
        for number in idle.copy():
            block = shares.next(number)
            if block is not None:
                idle.remove(number)
                pending[workers[number].submit(compute_run, task, [block], state)] = number, block
        if not pending:
            return computed
        for future in wait(pending, timeout=patience, return_when=FIRST_COMPLETED).done:
            number, block = pending.pop(future)
            idle.append(number)
            try:
                done = future.result()
            except BrokenProcessPool:
                workers[number].restart()
                if state.is_finished(block.index):
                    continue
                deaths[block.index] += 1
                _check_deaths(block, deaths[block.index])
                shares.give_back(number, block)
                continue
            computed += done
            if not done and not state.is_finished(block.index):
                shares.claimed(number)
        look()


def _check_deaths(block: Block, deaths: int) -> None:
    if deaths >= _MOST_DEATHS:
        raise OSError(f"block {block.index} (region {describe_region(block.region)}) ended its worker {deaths} times, killed or for want "
                      "of memory; what is finished stays: run the same command again with fewer workers or less --memory")


class _Worker:
    """One process that can be lost without the others."""

    def __init__(self, threads: int | None, device: str | None):
        self._settings = threads, device
        self._pool: ProcessPoolExecutor | None = None
        self._process: Future[int] | None = None

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """Call in the process, which is started when it is needed."""
        if self._pool is None:
            self._pool = worker_pool(1)
            self._process = self._pool.submit(_prepare_worker, *self._settings)
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:  # lost while it had nothing to do
            self.restart()
            return self.submit(function, *arguments)

    def restart(self) -> None:
        """Replace a lost process."""
        self.end()
        self._pool = None

    def kill(self) -> None:
        """End the process in the middle of a block."""
        if self._process is not None:
            with suppress(BrokenProcessPool, NotStarted, ProcessLookupError):  # it ended by itself, or never began
                os.kill(self._process.result(timeout=_LONGEST_START), signal.SIGTERM)

    def end(self) -> None:
        """Wait for the process to end."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _prepare_worker(threads: int | None, device: str | None) -> int:
    """Settings that must be made before torch is imported; gives the process' id."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all processes; the first one ends the others
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    return os.getpid()
