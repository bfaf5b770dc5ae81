"""Coarser levels of the arrays of a prediction, for viewers.

Of the voxels that become one, the most frequent foreground label is kept, the higher value where two are equally frequent, and background
only where there is nothing else. With background among the candidates an axon one voxel thick, two voxels of eight, would be gone at
the first level; so it stays visible and connected at every level, and thick structures grow by less than one voxel of the level. Measure on
the finest level only. Images are averaged.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np

from nnunet_neuro.blocks import tile
from nnunet_neuro.predict.store import LABELS, LabelStore, create_array, open_for_writing
from nnunet_neuro.volumes import Region

# chunks along each axis of what is written at once: eight times as much is read, 16 MB of uint8 with the usual chunks
_CHUNKS = 2


def build_pyramid(store: LabelStore, name: str = LABELS, *, progress: bool = True) -> int:
    """Write the levels 1, 2, ... of an array until one chunk holds all of it.

    Read and written block by block, in memory that does not grow with the volume. What is there already is kept, so an interrupted call
    goes on where it was; two processes may do so at once.

    Args:
        store: all chunks of the array are written.
        name: "labels" or a further array.
        progress: show a progress bar on stderr.

    Returns:
        The number of levels, the finest included.

    Raises:
        ValueError: the finest level is not complete.
    """
    from filelock import FileLock

    store.check_finished(name)
    lock = store.folder(name) / ".pyramid.lock"
    with FileLock(lock):
        levels = _write_levels(store, name, progress)
        lock.unlink(missing_ok=True)
    return levels


def level_sizes(shape: Sequence[int], spacing: Sequence[float], chunk: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Shape and voxel size (z, y, x) of every level, the finest first.

    An axis is halved as long as its voxels are shorter than twice the shortest, so that they become cubes first; the last level fits one
    chunk.
    """
    levels = [(tuple(shape), tuple(float(size) for size in spacing))]
    while any(length > most for length, most in zip(levels[-1][0], chunk)):
        length, size = levels[-1]
        shortest = min(one for one, voxels in zip(size, length) if voxels > 1)
        factors = [2 if voxels > 1 and one < 2 * shortest else 1 for one, voxels in zip(size, length)]
        levels.append((tuple(-(-voxels // factor) for voxels, factor in zip(length, factors)),
                       tuple(one * factor for one, factor in zip(size, factors))))
    return levels


def pool_labels(labels: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """The most frequent foreground label of each group of voxels; the highest of equally frequent ones.

    Args:
        labels: (..., z, y, x) unsigned integers; a group at the far end may be cut.
        factors: voxels of a group along z, y and x.

    Returns:
        The same type, each axis divided by its factor and rounded up.
    """
    highest = labels.max(initial=0)
    groups = _grouped(labels, factors)
    if highest < 2 or groups.shape[-1] == 1:
        return groups.max(axis=-1)
    pooled = np.zeros(groups.shape[:-1], labels.dtype)
    occupied = groups.any(axis=-1)
    candidates = groups[occupied]
    counts = np.zeros(candidates.shape, np.uint8)
    for place in range(candidates.shape[-1]):
        counts += candidates == candidates[:, place:place + 1]
    counts[candidates == 0] = 0
    most = counts == counts.max(axis=-1, keepdims=True)
    pooled[occupied] = np.where(most, candidates, 0).max(axis=-1)
    return pooled


def pool_means(image: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """The mean of each group of voxels, as `pool_labels` groups them; integers are rounded."""
    sums = _grouped(image, factors).sum(axis=-1, dtype=np.float32)
    means = sums / _grouped(np.ones(image.shape, np.uint8), factors).sum(axis=-1, dtype=np.float32)
    return (np.rint(means) if image.dtype.kind in "ui" else means).astype(image.dtype)


def _grouped(array: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """The voxels of each group along a last axis; a cut group is filled up with zeros."""
    leading, shape = array.shape[:-3], array.shape[-3:]
    padded = np.pad(array, [(0, 0)] * len(leading) + [(0, -length % factor) for length, factor in zip(shape, factors)])
    counts = [-(-length // factor) for length, factor in zip(shape, factors)]
    split = padded.reshape(*leading, *(number for pair in zip(counts, factors) for number in pair))
    first = len(leading)
    order = [*range(first), *(first + axis for axis in (0, 2, 4, 1, 3, 5))]
    return split.transpose(order).reshape(*leading, *counts, math.prod(factors))


def _write_levels(store: LabelStore, name: str, progress: bool) -> int:
    from tqdm import tqdm

    levels = level_sizes(store.layout.shape, store.layout.voxel, store.chunk)
    spacings = store.spacings(name)
    blocks = [_blocks(shape, store.chunk) for shape, _ in levels]
    with tqdm(total=sum(map(len, blocks[1:])), desc=f"{name}, coarser levels", unit="block", disable=not progress, file=sys.stderr) as bar:
        for level in range(1, len(levels)):
            if (store.folder(name) / str(level)).exists():
                bar.update(len(blocks[level]))
            else:
                _write_level(store, name, level, levels, bar)
            if len(spacings) <= level:
                spacings.append(levels[level][1])
                store.set_spacings(spacings, name)
    return len(levels)


def _write_level(store: LabelStore, name: str, level: int, levels: list, bar) -> None:
    further = store.layout.array(name)
    shape, finer = levels[level][0], levels[level - 1][0]
    factors = [2 if fine > coarse else 1 for fine, coarse in zip(finer, shape)]
    pool = pool_labels if further is None or further.labels else pool_means
    unfinished = store.folder(name) / f".{level}.partial"
    channels = (len(further.channels),) if further and further.channels else ()
    if not (unfinished / ".zarray").is_file():
        dtype = further.dtype if further else store.layout.dtype
        create_array(unfinished, (*channels, *shape), (*(1 for _ in channels), *store.chunk), dtype)
    array = open_for_writing(unfinished)
    for region in _blocks(shape, store.chunk):
        if not store.holds(region, name, folder=unfinished):
            source = tuple(slice(part.start * factor, min(part.stop * factor, length))
                           for part, factor, length in zip(region, factors, finer))
            array[(*(slice(None) for _ in channels), *region)] = pool(store.read(source, name, level=level - 1), factors)
        bar.update()
    unfinished.replace(store.folder(name) / str(level))


def _blocks(shape: Sequence[int], chunk: Sequence[int]) -> list[Region]:
    """Regions of whole chunks that cover the level."""
    places = tile([-(-length // size) for length, size in zip(shape, chunk)], [_CHUNKS] * 3)
    return [tuple(slice(part.start * size, min(part.stop * size, length)) for part, size, length in zip(place, chunk, shape))
            for place in places]
