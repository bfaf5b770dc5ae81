"""Label volumes with their values changed as they are read; for `volumes.derived`."""

from __future__ import annotations

import numpy as np

from nnunet_neuro.volumes.volume import Region, Volume


def remapped(values: tuple[tuple[int, int], ...], other: int, base: Volume, region: Region) -> np.ndarray:
    """The values of a map, and one value for all that it does not name.

    Args:
        values: (value in the file, value wanted) pairs.
        other: for every other value.
        base: integers.
        region: of `base`.

    Returns:
        uint16 of the region's shape.
    """
    label = base.read(region)
    found, place = np.unique(label, return_inverse=True)
    wanted = dict(values)
    return np.array([wanted.get(int(value), other) for value in found], np.uint16)[place].reshape(label.shape)


def foreground(threshold: float, base: Volume, region: Region) -> np.ndarray:
    """1 where the label is larger than a threshold, else 0, as uint8.

    Raises:
        ValueError: NaN in the label.
    """
    label = base.read(region)
    if label.dtype.kind == "f" and np.isnan(label).any():
        raise ValueError(f"label {base.path} holds NaN, which is neither foreground nor background; replace it first")
    return (label > threshold).astype(np.uint8)
