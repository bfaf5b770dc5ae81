"""Runs of blocks: what is handed out to whoever computes blocks, and the one function that computes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from nnunet_neuro.predict.run_state import BlockReport, RunState
from nnunet_neuro.predict.windows import Block

# thread -> the task that it has open and the function that the task gave
_OPEN: dict[int, tuple[BlockTask, Callable[[Block], BlockReport]]] = {}


class BlockTask(Protocol):
    """What a worker is sent: picklable, and equal to itself after a journey, as a frozen dataclass of paths and options is."""

    def open(self) -> Callable[[Block], BlockReport]:
        """Called once per worker, which may load a model; the function computes and writes a block, for which it may keep what it needs."""


def shard(blocks: Sequence[Block], which: str) -> list[Block]:
    """The share `i/N` of the blocks, for `i` from 0 to N - 1: together they are every block once.

    Shares are consecutive and differ by at most one block, so that few columns are cut.

    Raises:
        ValueError: not of that form.
    """
    number, slash, count = which.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"shard {which!r} is not possible; expected i/N with i from 0 to N-1, such as 0/8 to 7/8")
    bounds = [len(blocks) * i // int(count) for i in (int(number), int(number) + 1)]
    return list(blocks[bounds[0]:bounds[1]])


def runs_of(blocks: Sequence[Block], workers: int) -> list[list[Block]]:
    """Runs of consecutive blocks of a column, to be handed out in this order; together they are all blocks.

    A run is at most half of a worker's share of what is not handed out yet, so the last ones are single blocks.
    """
    runs: list[list[Block]] = []
    longest = 0
    for done, block in enumerate(blocks):
        last = runs[-1][-1] if runs else None
        if last and len(runs[-1]) < longest and last.column == block.column and last.index + 1 == block.index:
            runs[-1].append(block)
        else:
            longest = -(-(len(blocks) - done) // (2 * workers))
            runs.append([block])
    return runs


def compute_run(task: BlockTask, blocks: Sequence[Block], state: RunState, after_block: Callable[[], bool | None] | None = None) -> int:
    """Compute the blocks of a run in order, up to one that another process has claimed: it is likely to go on to those behind it.

    Args:
        task: opened unless this thread has it open.
        blocks: of one column; finished ones are passed over.
        state: of the run.
        after_block: called after each block that was computed; True ends the run early.

    Returns:
        How many blocks were computed.
    """
    count = 0
    for block in blocks:
        claim = state.claim(block.index)
        if claim is None:
            if state.is_finished(block.index):
                continue
            break
        with claim:
            state.mark_finished(block.index, _opened(task)(block))
        count += 1
        if after_block and after_block():
            break
    return count


def unfinished(blocks: Sequence[Block], state: RunState) -> list[Block]:
    """Those that are not finished."""
    finished = state.finished()
    return [block for block in blocks if block.index not in finished]


def close_tasks() -> None:
    """Give back what the tasks of this process hold, such as a model."""
    _OPEN.clear()


def _opened(task: BlockTask) -> Callable[[Block], BlockReport]:
    """The task's function; one per thread, since it may keep something from one block to the next."""
    thread = threading.get_ident()
    if thread not in _OPEN or _OPEN[thread][0] != task:
        _OPEN.pop(thread, None)  # the old one goes before the new one needs its memory
        _OPEN[thread] = task, task.open()
    return _OPEN[thread][1]
