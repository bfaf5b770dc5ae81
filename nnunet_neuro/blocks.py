"""Geometry of cutting a volume into parts; pure numbers, nothing is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_neuro.volumes.volume import Region

# more would not fit a folder, and a header that claims so much is damaged
_MOST_REGIONS = 1_000_000


def even_parts(length: int, longest: int) -> list[tuple[int, int]]:
    """The fewest parts of at most `longest` that cover 0..length exactly once, as even as whole voxels allow.

    Raises:
        ValueError: a length that is not positive.
    """
    if length < 1 or longest < 1:
        raise ValueError(f"cannot cut a length of {length} into parts of {longest}; both must be positive")
    count = -(-length // longest)
    bounds = [round(i * length / count) for i in range(count + 1)]
    return list(zip(bounds, bounds[1:]))


def tile(shape: Sequence[int], size: Sequence[int]) -> list[Region]:
    """Regions of at most `size` that cover every voxel of `shape` exactly once, in the order of the axes.

    They are as even as possible: 100 voxels with a size of 40 give 33, 34 and 33, not 40, 40 and 20.

    Raises:
        ValueError: a length that is not positive, or more than a million regions.
    """
    count = math.prod(-(-length // longest) for length, longest in zip(shape, size, strict=True) if longest > 0)
    if count > _MOST_REGIONS:
        raise ValueError(f"cannot cut shape {tuple(shape)} into {count} parts of {tuple(size)}; choose larger ones, and check that the "
                         "volume is so large")
    regions: list[Region] = [()]
    for length, longest in zip(shape, size, strict=True):
        regions = [(*region, slice(*part)) for region in regions for part in even_parts(length, longest)]
    return regions


def separated_slabs(shape: Sequence[int], count: int, gap: int) -> list[Region]:
    """`count` slabs along the longest axis with `gap` voxels left out between neighbours, so that no tissue at their faces is shared.

    Raises:
        ValueError: the axis is too short.
    """
    axis = max(range(len(shape)), key=lambda i: shape[i])
    usable = shape[axis] - gap * (count - 1)
    if count < 1 or gap < 0 or usable < count:
        raise ValueError(f"cannot cut the longest axis of shape {tuple(shape)} into {count} slabs with {gap} voxels between them; ask for "
                         "fewer slabs or a smaller gap")
    bounds = [round(i * usable / count) for i in range(count + 1)]
    return [tuple(slice(first + i * gap, last + i * gap) if other == axis else slice(0, length) for other, length in enumerate(shape))
            for i, (first, last) in enumerate(zip(bounds, bounds[1:]))]


def size_for(shape: Sequence[int], voxels: int) -> tuple[int, ...]:
    """A case size, as near to a cube as the shape allows, of at most `voxels` voxels, which are at least 1."""
    size = [1] * len(shape)
    remaining = voxels
    for done, axis in enumerate(sorted(range(len(shape)), key=lambda i: shape[i])):
        size[axis] = min(shape[axis], round(remaining ** (1 / (len(shape) - done))))
        remaining //= size[axis]  # in whole numbers, so that the product stays within the limit
    return tuple(size)
