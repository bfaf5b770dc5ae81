"""Geometry of block-wise prediction: blocks of the volume, and nnU-Net's windows along each axis; pure numbers, nothing is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_neuro.blocks import even_parts
from nnunet_neuro.volumes.volume import Region

# more would not fit a folder of finished blocks, and a header that claims so much is damaged
_MOST_BLOCKS = 1_000_000


@dataclass(frozen=True)
class Block:
    """A part of the volume that is predicted, written and marked as finished at once.

    Attributes:
        index: consecutive, in the order in which blocks are best computed.
        column: blocks of one column follow each other along the axis that the grid was cut for; a predictor that keeps to a column
            computes no window twice.
        region: (z, y, x) slices in the voxels of the input volume, half open.
    """

    index: int
    column: int
    region: Region


def block_grid(shape: Sequence[int], *, chunk: Sequence[int], size: Sequence[int], axis: int = 0) -> list[Block]:
    """Blocks that cover every voxel exactly once and share no stored chunk.

    Args:
        shape: (z, y, x) of the volume.
        chunk: (z, y, x) of a stored chunk of the output; every inner face of a block lies at one of its multiples.
        size: (z, y, x) most voxels of a block, rounded down to whole chunks; a chunk at least.
        axis: along which the blocks of a column follow each other: nnU-Net's first one, `NetworkGrid.rolling_axis`.

    Returns:
        The blocks, column by column.

    Raises:
        ValueError: a length that is not positive, or more than a million blocks.
    """
    if min(*shape, *chunk, *size) < 1:
        raise ValueError(f"cannot cut shape {tuple(shape)} into blocks of {tuple(size)} in chunks of {tuple(chunk)}; all must be positive")
    parts = [_whole_chunks(*lengths) for lengths in zip(shape, chunk, size, strict=True)]
    count = math.prod(map(len, parts))
    if count > _MOST_BLOCKS:
        raise ValueError(f"cannot cut shape {tuple(shape)} into {count} blocks of {tuple(size)}; choose larger ones, and check that the "
                         "volume is so large")
    columns: list[tuple[slice, ...]] = [()]
    for other in _others(axis):
        columns = [(*column, part) for column in columns for part in parts[other]]
    regions = [(number, (*column[:axis], part, *column[axis:])) for number, column in enumerate(columns) for part in parts[axis]]
    return [Block(index, number, region) for index, (number, region) in enumerate(regions)]


def window_starts(length: int, patch: int, step: float) -> list[int]:
    """First voxel of nnU-Net's windows along an axis of a volume that is at least as long as the patch.

    Args:
        length: voxels along the axis.
        patch: voxels of a window; 1 for the axis of a 2D configuration along which it goes slice by slice.
        step: largest distance of two windows, as a share of the patch.
    """
    if patch == 1:  # nnU-Net's rule would give half steps, every slice twice
        return list(range(length))
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    return compute_steps_for_sliding_window((length,), (patch,), step)[0]


def windows_touching(starts: Sequence[int], patch: int, part: slice) -> list[int]:
    """Those of the windows along an axis that reach into a part of it."""
    return [start for start in starts if start < part.stop and start + patch > part.start]


def _whole_chunks(length: int, chunk: int, size: int) -> list[slice]:
    most = max(1, size // chunk) if size < length else -(-length // chunk)  # the last chunk need not be full
    bounds = even_parts(-(-length // chunk), most)
    return [slice(first * chunk, min(last * chunk, length)) for first, last in bounds]


def _others(axis: int) -> list[int]:
    return [other for other in range(3) if other != axis]
