"""The counts of one case: in one piece where the memory allows it, else block by block with the same numbers.

Amounts of count steps add up, so that a case is the sum of its blocks. A step that must see surroundings is given a halo, which is doubled
until the step is sure; one that must see the whole case is left out where that does not fit into the memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.blocks import size_for
from nnunet_neuro.components.grid import BlockGrid
from nnunet_neuro.evaluate.measures import CountStep, Masks, Measure, NeedsMoreSurroundings, added, steps_of
from nnunet_neuro.evaluate.object_ids import ObjectIds
from nnunet_neuro.evaluate.sources import CasePart, CaseVoxels
from nnunet_neuro.volumes import Region, full_region, grown

# at the peak, by the surroundings of the step: labels, masks, and what the step makes of them (ids, distances, skeletons and thinned
# membranes); what benchmarks/evaluation.py saw for thin and for dense structures, and a little more
BYTES_PER_VOXEL = {"none": 40, "halo": 80, "whole": 130}
# of the first halo, in edges of the smallest voxel; it is at least twice the tolerance
_HALO = 12
# thinner slabs are mostly halo
_THINNEST_SLAB = 24
_Key = tuple[str, CountStep]


@dataclass
class CaseCounts:
    """What was counted of one case.

    Attributes:
        counts: class to named counts.
        annotated: voxels without the ignore label.
        blocks: how many blocks the case was cut into; 1 for one piece.
        left_out: measure to the reason why it was not counted, in one sentence.
        fullest: the block with most voxels of the reference.
    """

    counts: dict[str, dict[str, Any]]
    annotated: int
    blocks: int = 1
    left_out: dict[str, str] = field(default_factory=dict)
    fullest: Region | None = None


def count_case(case: CaseVoxels, measures: Mapping[str, Measure], *, memory: int, scratch: Path, block: Sequence[int] | None = None,
               progress: bool = False) -> CaseCounts:
    """Count a case.

    Args:
        case: the case.
        measures: what the counts are for.
        memory: bytes that may be used; a larger case goes by blocks.
        scratch: an empty folder.
        block: (z, y, x) of blocks; None chooses them, or one piece, by the memory.
        progress: show a bar of blocks on stderr.

    Raises:
        ValueError: labels or probabilities that cannot be.
    """
    kinds = {step.surroundings for step in steps_of(measures)}
    if block is None and all(_bytes(full_region(case.shape, None), kind) <= memory for kind in kinds):
        return _in_one_piece(case, measures)
    kind = "halo" if "halo" in kinds else "none"
    halo = _halo(case, _first_halo(case)) if kind == "halo" else (0, 0, 0)
    size = tuple(block) if block is not None else block_size(case.shape, memory // BYTES_PER_VOXEL[kind], halo=halo)
    return _Blocks(case, measures, BlockGrid(case.shape, size), memory, scratch).count(progress)


def block_size(shape: Sequence[int], most: int, *, halo: Sequence[int]) -> tuple[int, ...]:
    """(z, y, x) of blocks that have at most `most` voxels with their halo.

    Slabs of whole planes, which is how files give voxels fastest and of which two sides need a halo; cubes where those would be thin.
    """
    fitting = max(1, most)
    if math.prod(shape) <= fitting:
        return tuple(shape)
    planes = fitting // math.prod(shape[1:]) - 2 * halo[0]
    if planes >= min(_THINNEST_SLAB, shape[0]):
        return (min(planes, shape[0]), *shape[1:])
    # half of the voxels for the block and half for its halo, or as little as one voxel
    return tuple(max(1, min(length, max(side - 2 * more, side // 2)))
                 for side, more, length in zip(size_for(shape, fitting), halo, shape))


def _in_one_piece(case: CaseVoxels, measures: Mapping[str, Measure]) -> CaseCounts:
    part = case.read()
    counts = {}
    for name in case.names.classes:
        masks = part.masks(name)
        counts[name] = {key: number for step in steps_of(measures) for key, number in step(masks).items()}
    return CaseCounts(counts, int(np.count_nonzero(part.annotated)))


class _Blocks:
    """Counts a case block by block."""

    def __init__(self, case: CaseVoxels, measures: Mapping[str, Measure], grid: BlockGrid, memory: int, scratch: Path):
        self._case, self._measures, self._grid, self._memory = case, measures, grid, memory
        self._ids = ObjectIds(case, scratch, grid.block)
        self._amounts: dict[_Key, dict[str, Any]] = {}
        keys = [(name, step) for name in case.names.classes for step in steps_of(measures)]
        self._plain, self._halo, self._whole = ([key for key in keys if key[1].surroundings == kind] for kind in ("none", "halo", "whole"))
        if len(grid) == 1:
            self._halo, self._whole = [], self._halo + self._whole
        self._left_out: dict[CountStep, str] = {}
        self._last: tuple[Any, Masks | None] = (None, None)

    def count(self, progress: bool) -> CaseCounts:
        from tqdm import tqdm

        annotated, most, fullest = 0, -1, None
        for index in tqdm(range(len(self._grid)), desc=self._case.pair.case, unit="block", disable=not progress, leave=False):
            region = self._grid.region(index)
            part = self._count_with_halo(region) if self._halo else self._case.read(region)
            for key in self._plain:
                self._add(key, part, None)
            annotated += int(np.count_nonzero(part.annotated))
            found = int(np.count_nonzero((part.reference != 0) & part.annotated))
            if found > most:
                most, fullest = found, region
        self._count_whole()
        counts = {name: {} for name in self._case.names.classes}
        for (name, step), amounts in self._amounts.items():
            counts[name].update(step.finish(amounts))
        left_out = {name: self._left_out[one.counts] for name, one in self._measures.items() if one.counts in self._left_out}
        return CaseCounts(counts, annotated, len(self._grid), left_out, fullest)

    def _count_with_halo(self, region: Region) -> CasePart:
        """Widen what is seen around a block until every step is sure; one that would have to see the whole case goes to `_whole`.

        Returns:
            The block itself.
        """
        length, everything = _first_halo(self._case), full_region(self._case.shape, None)
        seen, pending, block = grown(region, _halo(self._case, length), self._case.shape), self._halo, None
        while pending and seen != everything and _bytes(seen, "halo") <= self._memory:
            part = self._case.read(seen)
            block = part.cut(region) if block is None else block
            pending = [key for key in pending if not self._add(key, part, region)]
            length *= 2
            seen = grown(region, _halo(self._case, length), self._case.shape)
        self._halo = [key for key in self._halo if key not in pending]
        self._whole += pending
        return self._case.read(region) if block is None else block

    def _count_whole(self) -> None:
        """The steps that see the whole case, if the memory allows it."""
        everything, part = full_region(self._case.shape, None), None
        for key in self._whole:
            self._amounts.pop(key, None)  # of the blocks before the one that needed the whole
            needed = _bytes(everything, key[1].surroundings)
            if needed > self._memory:
                self._left_out[key[1]] = self._reason(needed)
                continue
            part = self._case.read() if part is None else part
            self._add(key, part, None)
        for key in [key for key in self._amounts if key[1] in self._left_out]:
            del self._amounts[key]  # of classes that did not need the whole

    def _add(self, key: _Key, part: CasePart, inner: Region | None) -> bool:
        """Add the amounts of a part; false where more of its surroundings must be seen."""
        name, step = key
        if self._last[0] != (name, id(part)):  # the steps of a class see the same masks
            self._last = (name, id(part)), part.masks(name, inner=inner, find_objects=partial(self._ids.of, name))
        try:
            found = step.tally(self._last[1])
        except NeedsMoreSurroundings:
            return False
        self._amounts[key] = added(self._amounts[key], found) if key in self._amounts else found
        return True

    def _reason(self, needed: int) -> str:
        return (f"{self._case.pair.case} would have to be in memory as a whole, which takes about {needed / 2**30:.2g} GB of the "
                f"{self._memory / 2**30:.2g} GB allowed; give more with --memory")


def _bytes(region: Region, surroundings: str) -> int:
    return math.prod(part.stop - part.start for part in region) * BYTES_PER_VOXEL[surroundings]


def _first_halo(case: CaseVoxels) -> float:
    """Length."""
    return max(_HALO * min(case.spacing), 2 * case.tolerance)


def _halo(case: CaseVoxels, length: float) -> tuple[int, ...]:
    """(z, y, x) voxels of a halo of this length."""
    return tuple(math.ceil(length / size) for size in case.spacing)
