"""Geometry of the blocks that objects are found in, and of how blocks touch; pure numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from nnunet_neuro.volumes import Region

# how many axes two voxels may differ in and still touch
AXES_OF = {6: 1, 18: 2, 26: 3}
Offset = tuple[int, int, int]


@dataclass(frozen=True)
class BlockGrid:
    """Blocks of one size, numbered in the order of the axes; the last of an axis may be smaller.

    Attributes:
        shape: (z, y, x) of the volume.
        block: (z, y, x) of a block.
    """

    shape: tuple[int, int, int]
    block: tuple[int, int, int]

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or len(self.block) != 3 or min(*self.shape, *self.block) < 1:
            raise ValueError(f"cannot cut shape {self.shape} into blocks of {self.block}; both must be three positive lengths (z, y, x)")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Blocks along each axis."""
        return tuple(-(-length // size) for length, size in zip(self.shape, self.block))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def place(self, index: int) -> tuple[int, int, int]:
        """Position (z, y, x) of a block among the blocks."""
        _, rows, columns = self.counts
        return index // (rows * columns), index // columns % rows, index % columns

    def region(self, index: int) -> Region:
        """The voxels of a block."""
        return tuple(slice(i * size, min((i + 1) * size, length)) for i, size, length in zip(self.place(index), self.block, self.shape))

    def voxels(self, index: int) -> int:
        """How many voxels a block has."""
        return math.prod(part.stop - part.start for part in self.region(index))

    def neighbours(self, index: int, connectivity: int) -> Iterator[tuple[Offset, int]]:
        """The blocks that touch this one, with the step to each; of two blocks only one has the other among its neighbours."""
        _, rows, columns = self.counts
        for step in _half_neighbourhood(connectivity):
            there = tuple(i + one for i, one in zip(self.place(index), step))
            if all(0 <= i < count for i, count in zip(there, self.counts)):
                yield step, (there[0] * rows + there[1]) * columns + there[2]


def voxel_shifts(step: Offset, connectivity: int) -> list[Offset]:
    """How far from each other, within the plane, edge or corner that two blocks have in common, voxels of both lie that touch.

    Args:
        step: from the first block to the second, -1 to 1 along each axis.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        Shifts (z, y, x), 0 along the axes of the step.
    """
    crossed = sum(map(abs, step))
    free = product(*((0,) if one else (-1, 0, 1) for one in step))
    return [shift for shift in free if crossed + sum(map(abs, shift)) <= AXES_OF[connectivity]]


def check_connectivity(connectivity: int) -> None:
    """Refuse a neighbourhood that there is none of.

    Raises:
        ValueError: not 6, 18 or 26.
    """
    if connectivity not in AXES_OF:
        raise ValueError(f"connectivity {connectivity} is not possible; choose 6 (faces), 18 (and edges) or 26 (and corners)")


def _half_neighbourhood(connectivity: int) -> list[Offset]:
    return [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0) and sum(map(abs, step)) <= AXES_OF[connectivity]]
