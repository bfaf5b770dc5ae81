"""An existing dask cluster; its workers see the same file system, and have this package installed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.runs import BlockTask, close_tasks, compute_run, runs_of, unfinished
from nnunet_neuro.predict.windows import Block
from nnunet_neuro.volumes import describe_region

# a cluster that grows on demand has none at first
_FEWEST_WORKERS = 4
_LONGEST_CONNECTING = "10s"


def compute_on_cluster(task: BlockTask, blocks: Sequence[Block], state: RunState, look: Callable[[], object], *, address: str,
                       patience: float) -> None:
    """Compute all blocks that are not finished. What a lost worker had is given out again by the scheduler.

    Args:
        task, blocks, state: as for `compute_blocks`.
        look: called every now and then.
        address: of the scheduler.
        patience: seconds between two looks.

    Raises:
        ValueError: dask is not installed, or the address is none.
        OSError: no scheduler there or it was lost, or one run of blocks ended more workers than the scheduler allows (`allowed-failures`,
            3 unless configured).
    """
    with _client(address) as client:
        try:
            while missing := unfinished(blocks, state):
                runs = runs_of(missing, max(_FEWEST_WORKERS, sum(client.nthreads().values())))
                if not _compute_runs(client, task, runs, state, look, patience):
                    time.sleep(patience)  # others have claimed all that is left
        finally:
            if client.status == "running":
                client.run(close_tasks)


def _client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("dask.distributed is not installed; pip install 'nnunet_neuro[cluster]'") from error
    try:
        return Client(address, timeout=_LONGEST_CONNECTING)
    except OSError as error:
        raise OSError(f"no dask scheduler answers at {address} ({error}); check the address, and that the scheduler runs") from error


def _compute_runs(client: Any, task: BlockTask, runs: list[list[Block]], state: RunState, look: Callable[[], object],
                  patience: float) -> int:
    """How many blocks were computed."""
    from distributed import CancelledError, Event, KilledWorker, wait
    from distributed import TimeoutError as NothingDone

    stop = Event(f"nnunet_neuro-stop-{uuid.uuid4().hex}", client=client)
    futures = {client.submit(_compute_run, task, run, state, stop.name, pure=False): run for run in runs}
    pending, computed = set(futures), 0
    try:
        while pending:
            try:
                done = wait(pending, timeout=patience, return_when="FIRST_COMPLETED").done
            except NothingDone:
                done = set()
            for future in done:
                pending.remove(future)
                try:
                    computed += future.result()
                except KilledWorker as error:
                    raise OSError(_killed(unfinished(futures[future], state) or futures[future])) from error
                except CancelledError as error:
                    raise OSError("the dask scheduler was lost; what is finished stays: run the same command again to continue") from error
            look()
    finally:
        if pending and client.status == "running":
            stop.set()  # a run that has begun cannot be cancelled
            client.cancel(list(pending), force=True)
    return computed


def _compute_run(task: BlockTask, blocks: list[Block], state: RunState, stop: str) -> int:
    """On a worker: as `compute_run`, until the event of that name is set."""
    from distributed import Event

    return compute_run(task, blocks, state, Event(stop).is_set)


def _killed(blocks: list[Block]) -> str:
    return (f"block {blocks[0].index} (region {describe_region(blocks[0].region)}) ended every dask worker that tried it, killed or for "
            "want of memory; what is finished stays: run the same command again with more memory per worker or less --memory")
