"""From the parts in blocks to objects of the whole volume: which parts are one object, and the objects' numbers.

Parts without a seed that touch across a block's face, edge or corner and are of one class are one object. Parts of one seed are one object
wherever they lie, and two seeds never are. An object without a seed that touches seeded parts goes to the seed with which it shares the
most pairs of touching voxels, of equal ones to the lowest id: the flood of `watershed` did not reach it, its seed lies beyond the halo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_neuro.components.grid import BlockGrid, voxel_shifts
from nnunet_neuro.components.parts import Measures, SavedParts
from nnunet_neuro.raw_formats import complete_file

_OBJECTS = "objects.npz"


@dataclass(frozen=True)
class Merged:
    """Objects, numbered from 1 by their first voxel in the order z, y, x, however the volume was cut.

    Attributes:
        starts: (blocks + 1,) int64; the parts of block i are `id_of[starts[i]:starts[i + 1]]`.
        id_of: (parts,) uint64 object of each part, 0 for one that is too small to keep.
        objects: measures of object 1, 2, ...
    """

    starts: np.ndarray
    id_of: np.ndarray
    objects: Measures


def merge_parts(grid: BlockGrid, open_parts: Callable[[int], SavedParts], *, connectivity: int, minimum_voxels: int = 1,
                seeded_only: bool = False) -> Merged:
    """Merge the parts of all blocks.

    Args:
        grid: the blocks.
        open_parts: gives the parts of a block, closed after use.
        connectivity: 6, 18 or 26 neighbours.
        minimum_voxels: smaller objects are dropped.
        seeded_only: drop objects that no seed reaches and that touch none that one does.
    """
    starts, parts = _all_measures(grid, open_parts)
    contacts, voxel_pairs = _all_contacts(grid, open_parts, starts, parts.class_of, connectivity)
    object_of = _objects_of(contacts, voxel_pairs, parts.seed_of)
    objects = _summed(parts, object_of)
    kept = objects.voxels >= minimum_voxels
    if seeded_only:
        kept &= objects.seed_of > 0
    order = np.argsort(objects.first, kind="stable")
    order = order[kept[order]]
    id_of_object = np.zeros(len(kept), np.uint64)
    id_of_object[order] = np.arange(1, len(order) + 1)
    return Merged(starts, id_of_object[object_of], Measures(**{name: array[order] for name, array in objects.__dict__.items()}))


def save_merged(folder: Path, merged: Merged) -> None:
    """Keep it in a folder; `is_saved` from then on."""
    for name in ("id_of", "starts"):
        array = getattr(merged, name)
        with complete_file(folder / f"{name}.npy", folder / f".{name}.partial", array.nbytes) as partial, partial.open("wb") as stream:
            np.save(stream, array)
    size = sum(array.nbytes for array in merged.objects.__dict__.values())
    with complete_file(folder / _OBJECTS, folder / f".{_OBJECTS}.partial", size) as partial, partial.open("wb") as stream:
        np.savez(stream, **merged.objects.__dict__)


def is_saved(folder: Path) -> bool:
    """Whether `save_merged` came to its end."""
    return (folder / _OBJECTS).is_file()


def load_merged(folder: Path) -> Merged:
    """What `save_merged` kept."""
    with np.load(folder / _OBJECTS) as objects:
        return Merged(np.load(folder / "starts.npy"), np.load(folder / "id_of.npy"), Measures(**objects))


def load_ids(folder: Path, index: int) -> np.ndarray:
    """(parts + 1,) uint64 object of each part of a block, 0 for part 0; nothing else is read."""
    first, stop = np.load(folder / "starts.npy", mmap_mode="r")[index:index + 2].tolist()
    return np.concatenate([np.zeros(1, np.uint64), np.load(folder / "id_of.npy", mmap_mode="r")[first:stop]])


# --- what the blocks hold ----------------------------------------------------------------------------------------------------------


def _all_measures(grid: BlockGrid, open_parts: Callable[[int], SavedParts]) -> tuple[np.ndarray, Measures]:
    of_blocks = []
    for index in range(len(grid)):
        saved = open_parts(index)
        of_blocks.append(saved.measures())
        saved.close()
    starts = np.cumsum([0, *(len(one.voxels) for one in of_blocks)], dtype=np.int64)
    return starts, Measures(**{name: np.concatenate([getattr(one, name) for one in of_blocks]) for name in Measures.__dataclass_fields__})


def _all_contacts(grid: BlockGrid, open_parts: Callable[[int], SavedParts], starts: np.ndarray, class_of: np.ndarray,
                  connectivity: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (m, 2) of parts of one class that touch across blocks, and (m,) by how many pairs of voxels."""
    found = [(np.zeros((0, 2), np.int64), np.zeros(0, np.int64))]
    for index in range(len(grid)):
        here = open_parts(index)
        for step, other in grid.neighbours(index, connectivity):
            there = open_parts(other)
            for one, two in _touching(here.border(step), there.border(tuple(-i for i in step)), voxel_shifts(step, connectivity)):
                pairs = np.stack([one + (starts[index] - 1), two + (starts[other] - 1)], axis=1)
                found.append(np.unique(pairs[class_of[pairs[:, 0]] == class_of[pairs[:, 1]]], axis=0, return_counts=True))
            there.close()
        here.close()
    return np.concatenate([pairs for pairs, _ in found]), np.concatenate([counts for _, counts in found])


def _touching(here: np.ndarray, there: np.ndarray, shifts: list[tuple[int, ...]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts on both sides of a border, of each pair of voxels that touch."""
    for shift in shifts:
        one = here[tuple(slice(max(0, -by), max(0, length - max(0, by))) for by, length in zip(shift, here.shape))]
        two = there[tuple(slice(max(0, by), max(0, length - max(0, -by))) for by, length in zip(shift, there.shape))]
        both = (one > 0) & (two > 0)
        if both.any():
            yield one[both].astype(np.int64), two[both].astype(np.int64)


# --- which parts are one object ----------------------------------------------------------------------------------------------------


def _objects_of(contacts: np.ndarray, voxel_pairs: np.ndarray, seed_of: np.ndarray) -> np.ndarray:
    """(parts,) number of the object of each part, from 0 on."""
    seeded = seed_of > 0
    joined = contacts[~seeded[contacts].any(axis=1)]
    object_of = _connected(len(seed_of), np.concatenate([joined, _chains(seed_of)]))
    mixed = seeded[contacts].sum(axis=1) == 1
    if not mixed.any():
        return object_of
    ends = contacts[mixed]
    seed_first = seeded[ends[:, 0]]
    seeds = seed_of[np.where(seed_first, ends[:, 0], ends[:, 1])]
    lost = object_of[np.where(seed_first, ends[:, 1], ends[:, 0])]
    adopter = _most_touched(lost, seeds, voxel_pairs[mixed])
    object_of_seed = dict(zip(seed_of[seeded].tolist(), object_of[seeded].tolist()))
    new_number = np.arange(object_of.max() + 1)
    new_number[list(adopter)] = [object_of_seed[seed] for seed in adopter.values()]
    return np.unique(new_number[object_of], return_inverse=True)[1].ravel()


def _connected(count: int, pairs: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # floats, because a pair that occurs twice is added up
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _chains(seed_of: np.ndarray) -> np.ndarray:
    """Pairs (m, 2) that join all parts of each seed."""
    order = np.argsort(seed_of, kind="stable")
    pairs = np.stack([order[:-1], order[1:]], axis=1)
    return pairs[(seed_of[pairs[:, 0]] == seed_of[pairs[:, 1]]) & (seed_of[pairs[:, 0]] > 0)]


def _most_touched(lost: np.ndarray, seeds: np.ndarray, voxel_pairs: np.ndarray) -> dict[int, int]:
    """The seed for each object without one."""
    names, index = np.unique(np.stack([lost.astype(np.uint64), seeds], axis=1), axis=0, return_inverse=True)
    totals = np.bincount(index.ravel(), voxel_pairs)
    best: dict[int, tuple[float, int]] = {}
    for (one, seed), total in zip(names.tolist(), totals.tolist()):
        if one not in best or total > best[one][0]:  # in the order of seeds: of equal ones the lowest stays
            best[one] = (total, seed)
    return {one: seed for one, (_, seed) in best.items()}


def _summed(parts: Measures, object_of: np.ndarray) -> Measures:
    """The measures of each object from those of its parts."""
    if not len(object_of):
        return parts
    order = np.argsort(object_of, kind="stable")
    firsts = np.flatnonzero(np.diff(object_of[order], prepend=-1))
    how = {"voxels": np.add, "sums": np.add, "first": np.minimum, "lowest": np.minimum, "highest": np.maximum, "class_of": np.maximum,
           "seed_of": np.maximum}  # a part that a seed adopted has none
    return Measures(**{name: join.reduceat(getattr(parts, name)[order], firsts, axis=0) for name, join in how.items()})
