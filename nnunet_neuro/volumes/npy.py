"""NumPy's `.npy` files, mapped and not loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.axes import StoredArray, channels_of, guess_axes
from nnunet_neuro.volumes.volume import Volume


def open_npy_channels(path: Path) -> tuple[Volume, ...]:
    """The channels of an array (z, y, x) or (channels, z, y, x).

    Raises:
        ValueError: truncated, not an array of numbers, or of another number of axes.
    """
    array = _mapped(path)
    return channels_of(StoredArray(path, array.shape, array.dtype, guess_axes(path, array.shape), None), _mapped)


def _mapped(path: Path | str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        if isinstance(error, ValueError) and "pickle" in str(error).lower() or "object" in str(error).lower():
            raise ValueError(f"{path} is no plain array of numbers; save it with numpy.save") from error
        raise ValueError(f"{path} is truncated or damaged ({error}); copy it again") from error
