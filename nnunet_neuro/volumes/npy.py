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
        array = np.lib.format.open_memmap(path, mode="r")  # not numpy.load, which would take an archive or a pickle too
    except OSError:
        raise
    except Exception as error:  # a damaged header ends in tokenize.TokenError, OverflowError, SyntaxError, ...
        raise ValueError(f"{path} is truncated, damaged or no array of numbers saved by numpy.save ({_reason(error)}); copy it or save it "
                         "again") from error
    size, expected = Path(path).stat().st_size, array.offset + array.nbytes
    if size != expected:
        raise ValueError(f"{path} has {size} bytes, but its header promises {expected}; save one array to a file")
    return array


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
