"""Label volumes with their values changed as they are read; for `volumes.derived`."""

from __future__ import annotations

import math

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
        ValueError: NaN in the label, or a threshold that is no finite number.
    """
    if not math.isfinite(threshold):
        raise ValueError(f"a threshold of {threshold} makes one class of everything in {base.path}; give a number")
    label = base.read(region)
    if label.dtype.kind == "f" and np.isnan(label).any():
        raise ValueError(f"label {base.path} holds NaN, which is neither foreground nor background; replace it first")
    return (label > threshold).astype(np.uint8)


def whole_numbers(base: Volume, region: Region) -> np.ndarray:
    """A label that was saved as floats, as FSL and others do, as int64.

    Raises:
        ValueError: a value that is no whole number.
    """
    values = base.read(region)
    broken = values[(values != np.rint(values)) | (np.abs(values) > np.iinfo(np.int32).max)]  # NaN differs from itself
    if broken.size:
        raise ValueError(f"label {base.path} holds {broken[0]:g}, which is no code; expected integers: resample labels by nearest "
                         "neighbour, and threshold probabilities (--variant foreground)")
    return values.astype(np.int64)
