"""What must be known of a whole volume before any block of it is predicted: a streaming first pass.

nnU-Net crops to the box of what is not zero in any channel, and some of its normalisations need numbers of that box. The box is found from
the faces of the volume inwards, which reads little where there is no empty margin. The mean and standard deviation are nnU-Net's to the
last bit, as long as nnU-Net could predict the volume at all: they are added in the same order by `float_sums`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_neuro.predict.float_sums import BoxReader, numpy_mean_and_deviation
from nnunet_neuro.predict.stored_chunks import StoredChunks, stored_chunks, tiles
from nnunet_neuro.volumes.volume import Region, Volume, describe_region

# NumPy's order of additions in 32 bits is followed up to here; beyond, where it loses digits and nnU-Net would need 30 GB, 64 bits are used
MOST_VOXELS_AS_NUMPY = 2**30
_VOXELS_AT_ONCE = 2**22
# the first chunk of a face often tells already
_VOXELS_OF_A_FACE = 2**18


@dataclass(frozen=True)
class ChannelStatistics:
    """Numbers of a channel within the box; those that were not asked for are None.

    Attributes:
        mean: of the voxels, or of those that are not zero in every channel where the plan says so.
        deviation: standard deviation of the same voxels.
        minimum: of the voxels.
        maximum: of the voxels.
    """

    mean: float | None = None
    deviation: float | None = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class VolumeStatistics:
    """Result of the first pass.

    Attributes:
        box: (z, y, x) of what is not zero; the whole volume where everything is.
        channels: numbers of each channel.
    """

    box: Region
    channels: tuple[ChannelStatistics, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain lists and numbers, from which `from_json` makes an equal one."""
        return {"box": [[part.start, part.stop] for part in self.box], "channels": [vars(channel) for channel in self.channels]}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> VolumeStatistics:
        """What `to_json` gave."""
        return cls(tuple(slice(*bounds) for bounds in content["box"]), tuple(ChannelStatistics(**one) for one in content["channels"]))


def compute_statistics(volumes: Sequence[Volume], needs: Sequence[set[str]], *, masked: Sequence[bool] = (),
                       box: Region | None = None) -> VolumeStatistics:
    """Read the volumes as far as needed, in parts of bounded size.

    Args:
        volumes: the channels, of one shape.
        needs: for each channel, which of "mean" (with the deviation) and "range" are asked for; see `normalisation.needed_statistics`.
        masked: for each channel, whether its mean is that of the voxels that are not zero in some channel; none by default.
        box: what `nonzero_box` gave, where it was called already.

    Raises:
        ValueError: channels of different shapes, a voxel that is no finite number, or a damaged file.
    """
    check_shapes(volumes)
    box = box or nonzero_box(volumes)
    masked = tuple(masked) or (False,) * len(volumes)
    found = []
    for channel, (volume, need) in enumerate(zip(volumes, needs, strict=True)):
        numbers: dict[str, float] = {}
        if "mean" in need:
            mask_of = volumes if masked[channel] else None
            numbers["mean"], numbers["deviation"] = _mean_and_deviation(volume, box, mask_of)
        if "range" in need:
            numbers["minimum"], numbers["maximum"] = _range(volume, box)
        found.append(ChannelStatistics(**numbers))
    return VolumeStatistics(box, tuple(found))


def check_shapes(volumes: Sequence[Volume]) -> None:
    """Refuse channels that do not belong together.

    Raises:
        ValueError: not three axes, or of different shapes.
    """
    shapes = {volume.shape for volume in volumes}
    if len(shapes) != 1 or len(volumes[0].shape) != 3:
        listed = ", ".join(f"{volume.path}: {volume.shape}" for volume in volumes)
        raise ValueError(f"the channels have shapes that do not fit ({listed}); expected (z, y, x), the same for each")


def nonzero_box(volumes: Sequence[Volume]) -> Region:
    """The smallest box that holds every voxel that is not zero in some channel; the whole volume where there is none.

    Reads from each face inwards until something is found.
    """
    chunks = stored_chunks(volumes)
    box = [slice(0, length) for length in volumes[0].shape]
    for axis in range(3):
        first = _first_nonzero(volumes, chunks, tuple(box), axis)
        if first is None:
            return tuple(slice(0, length) for length in volumes[0].shape)  # nnU-Net keeps everything
        box[axis] = slice(first, box[axis].stop)
        box[axis] = slice(first, _last_nonzero(volumes, chunks, tuple(box), axis) + 1)
    return tuple(box)


def read_checked(volume: Volume, region: Region) -> np.ndarray:
    """The voxels of a region.

    Raises:
        ValueError: one is no finite number.
    """
    voxels = volume.read(region)
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        place = np.argwhere(~np.isfinite(voxels))[0] + [part.start for part in region]
        raise ValueError(f"{volume.path} holds {voxels[tuple(place - [part.start for part in region])]} at voxel {tuple(map(int, place))} "
                         "(z, y, x); expected finite numbers: replace such voxels first")
    return voxels


def _first_nonzero(volumes: Sequence[Volume], chunks: StoredChunks, box: Region, axis: int) -> int | None:
    start = box[axis].start
    while start < box[axis].stop:
        stop = chunks.round_up(start + 1, axis, box[axis].stop)
        best = None
        for tile in tiles(_replaced(box, axis, slice(start, stop)), chunks, _VOXELS_OF_A_FACE):
            hit = _nonzero_along(volumes, tile, axis)
            if hit.size and (best is None or tile[axis].start + hit[0] < best):
                best = tile[axis].start + int(hit[0])
                if best == start:
                    return best
        if best is not None:
            return best
        start = stop
    return None


def _last_nonzero(volumes: Sequence[Volume], chunks: StoredChunks, box: Region, axis: int) -> int:
    stop = box[axis].stop
    while True:  # there is something: the first one was found
        start = max(box[axis].start, chunks.round_down(stop - 1, axis))
        best = None
        for tile in tiles(_replaced(box, axis, slice(start, stop)), chunks, _VOXELS_OF_A_FACE):
            hit = _nonzero_along(volumes, tile, axis)
            if hit.size and (best is None or tile[axis].start + hit[-1] > best):
                best = tile[axis].start + int(hit[-1])
                if best == stop - 1:
                    return best
        if best is not None:
            return best
        stop = start


def _nonzero_along(volumes: Sequence[Volume], tile: Region, axis: int) -> np.ndarray:
    """Indices along an axis of a tile at which some channel is not zero."""
    others = tuple(other for other in range(3) if other != axis)
    return np.flatnonzero(np.any([(read_checked(volume, tile) != 0).any(axis=others) for volume in volumes], axis=0))


def _replaced(box: Region, axis: int, part: slice) -> Region:
    return (*box[:axis], part, *box[axis + 1:])


def _mean_and_deviation(volume: Volume, box: Region, mask_of: Sequence[Volume] | None) -> tuple[float, float]:
    voxels = math.prod(part.stop - part.start for part in box)
    if mask_of is None and voxels <= MOST_VOXELS_AS_NUMPY:
        return numpy_mean_and_deviation(BoxReader(volume, box, read_checked))
    return _mean_and_deviation_in_64_bits(volume, box, mask_of)


def _mean_and_deviation_in_64_bits(volume: Volume, box: Region, mask_of: Sequence[Volume] | None) -> tuple[float, float]:
    """In one pass, tiles joined by the formula of Chan and others, which loses no digits where the mean is large."""
    count, mean, squares = 0, 0.0, 0.0
    for tile in tiles(box, stored_chunks([volume]), _VOXELS_AT_ONCE):
        voxels = read_checked(volume, tile).astype(np.float64)
        if mask_of is not None:
            voxels = voxels[np.any([one.read(tile) != 0 for one in mask_of], axis=0)]
        if not voxels.size:
            continue
        tile_mean = float(voxels.mean())
        difference, total = tile_mean - mean, count + voxels.size
        squares += float(np.square(voxels - tile_mean).sum()) + difference**2 * count * voxels.size / total
        mean, count = mean + difference * voxels.size / total, total
    if not count:
        raise ValueError(f"{volume.path} is zero everywhere in {describe_region(box)}; expected an image to normalise")
    return float(np.float32(mean)), float(np.float32(math.sqrt(squares / count)))


def _range(volume: Volume, box: Region) -> tuple[float, float]:
    lows, highs = [], []
    for tile in tiles(box, stored_chunks([volume]), _VOXELS_AT_ONCE):
        voxels = read_checked(volume, tile)
        lows.append(voxels.min())
        highs.append(voxels.max())
    return float(np.float32(min(lows))), float(np.float32(max(highs)))
