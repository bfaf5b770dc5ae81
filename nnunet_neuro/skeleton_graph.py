"""A skeleton as a graph: how long its lines are, and where they are interrupted.

Voxels are the nodes, neighbours (26 in space, 8 in the plane) the edges, the distance of two voxel centres the length of an edge. Where
three voxels are neighbours of each other, the longest of the three edges is a shortcut past the two others; it connects, but has no length
of its own, or every corner and every junction would be counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np


@dataclass(frozen=True)
class SkeletonGraph:
    """Voxels of a skeleton and what lies between neighbours.

    Attributes:
        voxels: (n, axes) integers, in the order of `np.argwhere`.
        edges: (m, 2) integers, rows of `voxels`, the lower first.
        lengths: (m,) float, in the unit of the voxel size; 0 for the shortcut of a triangle.
    """

    voxels: np.ndarray
    edges: np.ndarray
    lengths: np.ndarray

    @property
    def length(self) -> float:
        """Length of all lines; a voxel on its own has none."""
        return float(self.lengths.sum())

    def length_at(self, chosen: np.ndarray) -> float:
        """Length that belongs to some of the voxels: half of every edge belongs to each of its ends.

        Args:
            chosen: (n,) bool.
        """
        return float((self.lengths * chosen[self.edges].sum(axis=1)).sum() / 2)

    def interruptions(self, covered: np.ndarray) -> int:
        """How often the lines are left and taken up again, where only some of their voxels are covered.

        A connected run of voxels that are not covered, between k places that are, counts k - 1 times: once in the middle of a line, twice
        where it takes away a junction of three, not at all at the end of a line.

        Args:
            covered: (n,) bool.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        def components(edges: np.ndarray) -> np.ndarray:
            return connected_components(coo_array((np.ones(len(edges)), edges.T), shape=(len(covered),) * 2), directed=False)[1]

        ends = covered[self.edges]
        gap_of = components(self.edges[~ends.any(axis=1)])
        crossing = self.edges[ends[:, 0] != ends[:, 1]]
        first_is_covered = covered[crossing[:, 0]]
        shore = np.where(first_is_covered, crossing[:, 0], crossing[:, 1])
        gap = gap_of[np.where(first_is_covered, crossing[:, 1], crossing[:, 0])]
        beside: dict[int, set[int]] = {}
        for one, voxel in zip(gap.tolist(), shore.tolist(), strict=True):
            beside.setdefault(one, set()).add(voxel)
        held = np.unique(shore)
        neighbours: dict[int, list[int]] = {voxel: [] for voxel in held.tolist()}
        for low, high in self.edges[np.isin(self.edges, held).all(axis=1)].tolist():
            neighbours[low].append(high)
            neighbours[high].append(low)
        return sum(_places(voxels, neighbours) - 1 for voxels in beside.values())


def skeleton_graph(skeleton: np.ndarray, spacing: Sequence[float]) -> SkeletonGraph:
    """The graph of a skeleton.

    Args:
        skeleton: (y, x) or (z, y, x) bool.
        spacing: voxel size, of as many axes.
    """
    voxels = np.argwhere(skeleton)
    offsets = [step for step in product((-1, 0, 1), repeat=skeleton.ndim) if step > (0,) * skeleton.ndim]
    reach = np.sqrt(((np.array(offsets) * np.asarray(spacing, float)) ** 2).sum(axis=1))
    neighbour = _neighbours(voxels, offsets, skeleton.shape)
    shortcut = _shortcuts(neighbour, offsets, reach)
    which, low = np.nonzero(neighbour >= 0)
    return SkeletonGraph(
        voxels, np.stack([low, neighbour[which, low]], axis=1), np.where(shortcut[which, low], 0.0, reach[which])
    )


def _neighbours(voxels: np.ndarray, offsets: list[tuple[int, ...]], shape: tuple[int, ...]) -> np.ndarray:
    """(offsets, n) integers: the row of the voxel at this offset, -1 where there is none."""
    padded = tuple(size + 2 for size in shape)  # a step over the border must not arrive in the next row
    places = np.ravel_multi_index(tuple((voxels + 1).T), padded)
    neighbour = np.full((len(offsets), len(voxels)), -1)
    if not len(voxels):
        return neighbour
    steps = np.array(offsets) @ np.array([int(np.prod(padded[axis + 1 :])) for axis in range(len(padded))])
    for row, step in enumerate(steps.tolist()):
        found = np.minimum(np.searchsorted(places, places + step), len(places) - 1)
        there = places[found] == places + step
        neighbour[row, there] = found[there]
    return neighbour


def _shortcuts(neighbour: np.ndarray, offsets: list[tuple[int, ...]], reach: np.ndarray) -> np.ndarray:
    """(offsets, n) bool: edges that are the longest of a triangle.

    Of equally long ones the last, by lower and then by higher voxel: with one order for all triangles, what is connected stays so.
    """
    shortcut = np.zeros(neighbour.shape, bool)
    rank = np.round(reach / reach.max(), 9)  # equal lengths stay equal, however they were rounded
    row_of = {step: row for row, step in enumerate(offsets)}
    for first, second in combinations(range(len(offsets)), 2):
        third = row_of.get(tuple(b - a for a, b in zip(offsets[first], offsets[second], strict=True)))
        if third is None:
            continue
        corner = np.flatnonzero((neighbour[first] >= 0) & (neighbour[second] >= 0))
        sides = ((first, corner), (second, corner), (third, neighbour[first, corner]))
        longest = max(range(3), key=[(rank[row], order) for order, (row, _) in enumerate(sides)].__getitem__)
        shortcut[sides[longest]] = True
    return shortcut


def _places(voxels: set[int], neighbours: dict[int, list[int]]) -> int:
    """Connected groups of some voxels."""
    places, left = 0, set(voxels)
    while left:
        places += 1
        reached = [left.pop()]
        while reached:
            near = left.intersection(neighbours[reached.pop()])
            left -= near
            reached += near
    return places
