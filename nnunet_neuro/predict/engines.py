"""Engines that compute the blocks of an output: this process, worker processes of this machine, or an existing dask cluster.

All call the same function for the same blocks, so the output is the same. As a predictor keeps windows from one block of a column to the
next, a worker is given consecutive blocks: a local one a share of them all, one of a cluster runs of blocks that get shorter towards the
end, so that no worker waits long for another. Each block is claimed before it is computed and marked when it is written, by the process
that computes it. So a lost worker costs the block that it was at, and several programs may work on one output, each with an engine of its
own, or each on a `shard` of the blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nnunet_neuro.predict.dask_engine import compute_on_cluster
from nnunet_neuro.predict.local_workers import compute_with_workers
from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.runs import BlockTask, close_tasks, compute_run, runs_of, unfinished
from nnunet_neuro.predict.windows import Block

# seconds between two looks at what is finished
_PATIENCE = 0.5


def compute_blocks(task: BlockTask, blocks: Sequence[Block], state: RunState, *, workers: int = 1, devices: Sequence[str] = (),
                   scheduler: str | None = None, progress: bool = True) -> None:
    """Compute every block that is not finished; ends when all are, also those that another program has claimed.

    Args:
        task: what to do with a block.
        blocks: of the whole output, or a `shard` of them.
        state: where finished blocks are kept.
        workers: processes; 1 computes in this one.
        devices: for several workers, values for CUDA_VISIBLE_DEVICES that they take in turn; empty leaves it as it is.
        scheduler: address of a dask cluster that sees the same file system, such as "tcp://host:8786"; used instead of workers.
        progress: show a bar in voxels on stderr.

    Raises:
        OSError: a worker was lost twice at one block, the cluster is not there, or what the task raises; what is finished stays.
        KeyboardInterrupt: interrupted; what is finished stays.
    """
    measured = _Progress(blocks, state)
    with measured.shown(progress):
        try:
            if scheduler is not None:
                compute_on_cluster(task, blocks, state, measured.look, address=scheduler, patience=_PATIENCE)
            elif workers > 1:
                compute_with_workers(task, blocks, state, measured.look, count=workers, devices=devices, patience=_PATIENCE)
            else:
                _compute_here(task, blocks, state, measured.look)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted after {measured.count()} of {len(blocks)} blocks; run the same command again to "
                                    "continue") from None
    state.tidy()


def _compute_here(task: BlockTask, blocks: Sequence[Block], state: RunState, look: Callable[[], object]) -> None:
    try:
        while missing := unfinished(blocks, state):
            if not sum(compute_run(task, run, state, look) for run in runs_of(missing, 1)):
                time.sleep(_PATIENCE)  # others have claimed all that is left
    finally:
        close_tasks()


class _Progress:
    """Counts what is finished on the disk, by whichever process."""

    def __init__(self, blocks: Sequence[Block], state: RunState):
        self._voxels = {block.index: math.prod(part.stop - part.start for part in block.region) for block in blocks}
        self._state = state
        self._last_look = 0.0
        self.bar: Any = None

    def count(self) -> int:
        """Blocks that are finished."""
        return len(self._voxels.keys() & self._state.finished())

    def voxels(self) -> int:
        """Voxels that are finished."""
        return sum(self._voxels[index] for index in self._voxels.keys() & self._state.finished())

    def look(self) -> None:
        """Bring the bar up to date, unless that was just done: the folder may have many entries."""
        if time.monotonic() - self._last_look > _PATIENCE:
            self.bar.update(self.voxels() - self.bar.n)
            self._last_look = time.monotonic()

    @contextmanager
    def shown(self, progress: bool) -> Iterator[None]:
        """Show the bar on stderr while the block runs."""
        from tqdm import tqdm

        with tqdm(total=sum(self._voxels.values()), initial=self.voxels(), desc="predicting", unit="voxel", unit_scale=True,
                  disable=not progress) as self.bar:
            yield
            self.bar.update(self.voxels() - self.bar.n)
