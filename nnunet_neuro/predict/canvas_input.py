"""The normalised input of a column of blocks, read plane by plane as the windows move on.

Raw planes are read in whole stored chunks along the axis that the windows move along, so that each chunk of the column is decoded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_neuro.predict.network_grid import NetworkGrid
from nnunet_neuro.predict.normalisation import Normalisation
from nnunet_neuro.predict.resampling import Resampling
from nnunet_neuro.predict.statistics import read_checked
from nnunet_neuro.predict.stored_chunks import stored_chunks
from nnunet_neuro.volumes.volume import Region, Volume

PLANES_AT_ONCE = 8
# more, because each part needs 16 voxels before and behind it once more
RESAMPLED_PLANES_AT_ONCE = 32


class CanvasInput:
    """The canvas below the windows of a column, one layer of windows at a time.

    Args:
        volumes: the channels.
        grid: from the input to the canvas.
        normalisations: of each channel.
        section: (y, x) part of the canvas, those of the transposed axes, that the column's windows cover.
        resampling: from the box to the plan's voxel size; None where nothing is resampled.
    """

    def __init__(self, volumes: Sequence[Volume], grid: NetworkGrid, normalisations: Sequence[Normalisation], section: Region,
                 resampling: Resampling | None):
        self._grid, self._normalisations, self._section, self._resampling = grid, normalisations, section, resampling
        # of the resampled box, below the section
        self._wanted = [slice(max(0, part.start - pad), min(length, part.stop - pad))
                        for part, pad, length in zip(section, grid.padding[1:], grid.resampled[1:])]
        source = self._wanted if resampling is None else resampling.needed((slice(0, 1), *self._wanted))[1:]
        self._source = tuple(source)
        self._raw = _RawPlanes(volumes, grid, self._source)
        shape = [part.stop - part.start for part in section]
        self._planes = np.zeros((len(volumes), grid.patch[0], *shape), np.float32)
        self._first: int | None = None

    def layer(self, start: int) -> np.ndarray:
        """The canvas planes that the windows which begin at plane `start` need; call it from front to back.

        Returns:
            (channels, patch, y, x) float32, valid until the next call.
        """
        depth = self._planes.shape[1]
        kept = 0
        if self._first is not None and self._first <= start < self._first + depth:
            kept = self._first + depth - start
            shift_planes(self._planes, start - self._first)
        self._first = start
        self._fill(start + kept, start + depth)
        return self._planes

    def _fill(self, first: int, last: int) -> None:
        self._planes[:, first - self._first:last - self._first] = 0
        pad, length = self._grid.padding[0], self._grid.resampled[0]
        first, last = max(0, first - pad), min(length, last - pad)
        if first >= last:
            return
        # where the resampled box lies in the buffer
        rows = tuple(slice(part.start + margin - whole.start, part.stop + margin - whole.start)
                     for part, margin, whole in zip(self._wanted, self._grid.padding[1:], self._section))
        for start, stop in self._steps(first, last):
            place = slice(start + pad - self._first, stop + pad - self._first)
            for channel, voxels in enumerate(self._normalised(slice(start, stop))):
                self._planes[(channel, place, *rows)] = voxels

    def _steps(self, first: int, last: int) -> list[tuple[int, int]]:
        """Few planes at a time, since they are in memory once more while they are normalised."""
        count = PLANES_AT_ONCE if self._resampling is None else RESAMPLED_PLANES_AT_ONCE
        return [(start, min(start + count, last)) for start in range(first, last, count)]

    def _normalised(self, planes: slice) -> list[np.ndarray]:
        if self._resampling is None:
            return self._normalise(self._raw.read(planes))
        wanted = (planes, *self._wanted)
        source = self._resampling.needed(wanted)
        first = [part.start for part in source]
        resampled = []
        for normalisation, voxels in zip(self._normalisations, self._normalise(self._raw.read(source[0]))):
            spline = self._resampling(voxels, first, wanted)
            numbers = normalisation.statistics
            bounds = sorted((normalisation.level(numbers.minimum), normalisation.level(numbers.maximum)))
            resampled.append(np.clip(spline, *_with_zero(bounds, normalisation)))
        return resampled

    def _normalise(self, raw: list[np.ndarray]) -> list[np.ndarray]:
        mask = None
        if any(normalisation.masked for normalisation in self._normalisations):
            mask = np.any([voxels != 0 for voxels in raw], axis=0)
        return [normalisation(voxels.astype(np.float32), mask) for normalisation, voxels in zip(self._normalisations, raw)]


def shift_planes(planes: np.ndarray, count: int) -> None:
    """Move planes along the second axis `count` places to the front, in place; the places at the end keep what they had."""
    length = planes.shape[1]
    if count:
        for first in range(0, length - count, count):
            last = min(first + count, length - count)
            planes[:, first:last] = planes[:, first + count:last + count]


def _with_zero(bounds: list[float], normalisation: Normalisation) -> list[float]:
    """A masked channel also holds zeros, those outside the mask."""
    return [min(0.0, bounds[0]), max(0.0, bounds[1])] if normalisation.masked else bounds


class _RawPlanes:
    """Planes of a section of the box as they are stored, transposed; kept as long as a next one may need them."""

    def __init__(self, volumes: Sequence[Volume], grid: NetworkGrid, section: Region):
        self._volumes, self._grid, self._section = volumes, grid, section
        self._chunks = stored_chunks(volumes)
        self._first = self._last = 0
        self._planes: list[np.ndarray] = []

    def read(self, planes: slice) -> list[np.ndarray]:
        """Each channel's planes of the box, (planes, y, x) of the transposed axes, as they are stored."""
        if not (self._planes and self._first <= planes.start <= self._last):
            self._first = self._last = planes.start
            self._planes = []
        if planes.stop > self._last:
            box = self._grid.box[0]
            stop = self._chunks.round_up(box.start + planes.stop, self._grid.rolling_axis, box.stop) - box.start
            read = [self._read(volume, slice(self._last, stop)) for volume in self._volumes]
            kept = [voxels[planes.start - self._first:] for voxels in self._planes]
            self._planes = [np.concatenate(pair) if len(pair[0]) else pair[1] for pair in zip(kept, read)] if kept else read
            self._first, self._last = (planes.start if kept else self._first), stop
        return [voxels[planes.start - self._first:planes.stop - self._first] for voxels in self._planes]

    def _read(self, volume: Volume, planes: slice) -> np.ndarray:
        transposed = tuple(slice(part.start + box.start, part.stop + box.start)
                           for part, box in zip((planes, *self._section), self._grid.box))
        return read_checked(volume, self._grid.untransposed(transposed)).transpose(self._grid.axes)
