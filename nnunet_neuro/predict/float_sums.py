"""Mean and standard deviation of a volume that is read part by part, equal to NumPy's in 32 bits to the last bit.

nnU-Net calls `mean()` and `std()` of a float32 array in memory. What they give depends on the order of additions: NumPy halves an array
without gaps again and again and adds the halves (pairwise summation), and adds one row after the other, or as many as its buffer holds, to
the total where an array has gaps, as one that was cropped has. Both orders can be followed without having the array in memory. The second
one is that of NumPy 2.4; others may differ from it in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnunet_neuro.predict.stored_chunks import stored_chunks
from nnunet_neuro.volumes.volume import Region, Volume

_VOXELS_AT_ONCE = 2**22
# NumPy copies rows with gaps into a buffer of this many numbers, and adds as many rows at once as it holds
_BUFFER = 8192


def follows_numpy(box: Region, shape: tuple[int, ...]) -> bool:
    """Whether the order of additions of the NumPy that is installed is followed for a box cut from a volume."""
    whole_planes = all(part.stop - part.start == length for part, length in zip(box[1:], shape[1:]))
    return whole_planes or tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4)


class BoxReader:
    """The voxels of a box as one long row of float32, in their order in memory; parts of it are asked for from front to back."""

    def __init__(self, volume: Volume, box: Region, read: Callable[[Volume, Region], np.ndarray]):
        self._volume, self._box, self._read = volume, box, read
        self._chunks = stored_chunks([volume])
        self.shape = tuple(part.stop - part.start for part in box)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.has_gaps = self.shape[1:] != volume.shape[1:]
        self.row_without_gaps = self._row(volume)
        self._first, self._planes = 0, np.empty((0, *self.shape[1:]), volume.dtype)

    def flat(self, start: int, stop: int) -> np.ndarray:
        """Voxels `start` to `stop` of the row."""
        plane = self.shape[1] * self.shape[2]
        planes = self._read_planes(start // plane, -(-stop // plane))
        return planes.reshape(-1)[start - start // plane * plane:][: stop - start].astype(np.float32)

    def _row(self, volume: Volume) -> tuple[int, ...]:
        """Axes behind the first one of the cropped array, as NumPy sees it once it has joined axes without a gap between."""
        _, y, x = self.shape
        if x == volume.shape[2]:
            return (y * x,)
        return (x,) if y == volume.shape[1] else (y, x)

    def _read_planes(self, first: int, last: int) -> np.ndarray:
        if first < self._first:
            self._first, self._planes = first, self._planes[:0]
        held = self._first + len(self._planes)
        if last > held:
            start = max(first, held)
            corner = self._box[0].start
            stop = self._chunks.round_up(corner + last, 0, self._box[0].stop) - corner
            read = self._read(self._volume, (slice(corner + start, corner + stop), *self._box[1:]))
            kept = self._planes[min(len(self._planes), first - self._first):]
            self._planes = np.concatenate([kept, read]) if len(kept) else read
            self._first = start - len(kept)
        return self._planes[first - self._first: last - self._first]


def numpy_mean_and_deviation(box: BoxReader) -> tuple[float, float]:
    """What `array.mean()` and `array.std()` give for the box, cut from the volume as a float32 array; reads it twice."""
    total = _row_by_row(box) if box.has_gaps else _pairwise(box.flat, 0, box.size)
    mean = _divided(total, box.size)
    squares = _pairwise(_Squares(box, mean), 0, box.size)  # NumPy makes a new array of them, which has no gaps
    return float(mean), float(np.sqrt(_divided(squares, box.size)))


class _Squares:
    def __init__(self, box: BoxReader, mean: np.float32):
        self._box, self._mean = box, mean

    def __call__(self, start: int, stop: int) -> np.ndarray:
        difference = self._box.flat(start, stop) - self._mean
        return np.multiply(difference, difference, out=difference)


def _pairwise(flat: Callable[[int, int], np.ndarray], start: int, stop: int) -> np.float32:
    """NumPy's sum of an array without gaps: it is halved at multiples of eight until the halves are small."""
    if stop - start <= _VOXELS_AT_ONCE:
        return np.add.reduce(flat(start, stop))
    half = (stop - start) // 2
    half -= half % 8
    return np.float32(_pairwise(flat, start, start + half) + _pairwise(flat, start + half, stop))


def _row_by_row(box: BoxReader) -> np.float32:
    """NumPy's sum of an array with gaps, by NumPy itself on parts with the same gaps, each going on from the total before."""
    row = box.row_without_gaps
    size = int(np.prod(row, dtype=np.int64))
    rows = box.size // size
    at_once = max(1, _BUFFER // size)
    at_once *= max(1, _VOXELS_AT_ONCE // (at_once * size))
    total = np.float32(0)
    for start in range(0, rows, at_once):
        stop = min(rows, start + at_once)
        part = np.empty((stop - start, *(length + 1 for length in row)), np.float32)[(slice(None), *(slice(length) for length in row))]
        part[...] = box.flat(start * size, stop * size).reshape(part.shape)
        total = np.add.reduce(part, axis=None, initial=total)
    return total


def _divided(total: np.float32, count: int) -> np.float32:
    return total.dtype.type(total / np.intp(count))  # as numpy.mean does it
