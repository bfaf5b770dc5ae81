"""Blocks shared out among workers, so that each goes on where it was as long as it can."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from nnunet_neuro.predict.windows import Block


class Shares:
    """A consecutive share of the blocks for each worker; who is done with its own takes half of the longest one that is left.

    A predictor keeps windows from one block of a column to the next, so each place where a worker begins costs windows that are computed
    twice. Handing out single blocks in turn would begin everywhere; even shares begin once per worker, and what is taken over later begins
    once more, as late as possible.

    Args:
        blocks: those to be computed, in the order of their indices.
        workers: numbered from 0.
    """

    def __init__(self, blocks: Sequence[Block], workers: int):
        cuts = [_at_column(blocks, len(blocks) * number // workers, len(blocks) // (4 * workers)) for number in range(1, workers)]
        self._shares = [deque(blocks[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(blocks)])]

    def next(self, worker: int) -> Block | None:
        """The block that a worker is to compute now; None when nothing is left for it."""
        if not self._shares[worker]:
            self._take_over(worker)
        return self._shares[worker].popleft() if self._shares[worker] else None

    def claimed(self, worker: int) -> None:
        """Another program computes what the worker was given, and is likely to go on from there: leave it the first half of the share."""
        share = self._shares[worker]
        for _ in range(-(-len(share) // 2)):
            share.popleft()

    def give_back(self, worker: int, block: Block) -> None:
        """The worker was lost with a block, which is next again."""
        self._shares[worker].appendleft(block)

    def _take_over(self, worker: int) -> None:
        longest = max(self._shares, key=len)
        if len(longest) < 2:  # its worker is sooner there than one that has to begin
            return
        blocks = list(longest)
        cut = _at_column(blocks, len(blocks) // 2, len(blocks) // 4)
        longest.clear()
        longest.extend(blocks[:cut])
        self._shares[worker].extend(blocks[cut:])


def _at_column(blocks: Sequence[Block], cut: int, most: int) -> int:
    """The place nearest to a cut, and at most so far away, where a column begins; the cut itself where there is none."""
    for distance in range(most + 1):
        for place in (cut - distance, cut + distance):
            if 0 < place < len(blocks) and blocks[place].column != blocks[place - 1].column:
                return place
    return cut
