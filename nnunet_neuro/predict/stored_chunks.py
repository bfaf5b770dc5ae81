"""How a volume is cut into chunks on disk, so that reading decodes each of them about once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_neuro.volumes.hdf5 import dataset_name, split_hdf5
from nnunet_neuro.volumes.volume import Region, Volume
from nnunet_neuro.volumes.zarr_store import is_zarr

# formats without chunks are read plane by plane, so that any plane is a good place to stop
_PLANE = 1


@dataclass(frozen=True)
class StoredChunks:
    """Chunks along each axis (z, y, x) of a volume.

    Attributes:
        lengths: voxels of a chunk.
        offsets: how many voxels of the first chunk lie before the volume, as for a cutout of a larger one.
    """

    lengths: tuple[int, ...]
    offsets: tuple[int, ...]

    def round_up(self, stop: int, axis: int, length: int) -> int:
        """The end of the chunk that holds voxel `stop` - 1 along an axis of `length` voxels."""
        chunk, offset = self.lengths[axis], self.offsets[axis]
        return min(length, -(-(stop + offset) // chunk) * chunk - offset)

    def round_down(self, voxel: int, axis: int) -> int:
        """The first voxel of the chunk that holds a voxel; below 0 where that one lies before the volume."""
        chunk, offset = self.lengths[axis], self.offsets[axis]
        return (voxel + offset) // chunk * chunk - offset


def stored_chunks(volumes: Sequence[Volume]) -> StoredChunks:
    """Chunks of the first volume; the other channels are taken to be stored alike."""
    volume = volumes[0]
    corner = volume.corner or (0,) * len(volume.shape)
    lengths = _chunk_lengths(volume)
    return StoredChunks(lengths, tuple(first % length for first, length in zip(corner, lengths)))


def tiles(region: Region, chunks: StoredChunks, most_voxels: int) -> Iterator[Region]:
    """Parts of a region of whole chunks, each of about `most_voxels` voxels at most, or of one chunk."""
    size = [min(part.stop - part.start, chunk) for part, chunk in zip(region, chunks.lengths)]
    for axis in (2, 1, 0):  # whole rows first, then whole planes, which plain files give fastest
        voxels = size[0] * size[1] * size[2] // size[axis]
        whole = region[axis].stop - region[axis].start
        size[axis] = max(size[axis], min(whole, most_voxels // max(1, voxels) // size[axis] * size[axis]))
    for z in _parts(region[0], chunks, 0, size[0]):
        for y in _parts(region[1], chunks, 1, size[1]):
            for x in _parts(region[2], chunks, 2, size[2]):
                yield z, y, x


def _parts(part: slice, chunks: StoredChunks, axis: int, size: int) -> Iterator[slice]:
    chunk, offset = chunks.lengths[axis], chunks.offsets[axis]
    start = part.start
    while start < part.stop:
        stop = (start + size + offset) // chunk * chunk - offset  # the last face of a chunk within reach
        stop = min(part.stop, stop if stop > start else chunks.round_up(start + 1, axis, part.stop))
        yield slice(start, stop)
        start = stop


def _chunk_lengths(volume: Volume) -> tuple[int, ...]:
    plain = (_PLANE, *volume.shape[1:])
    if volume.base is not None:
        return _chunk_lengths(volume.base)
    stored = _array_chunks(volume.path)
    # axes of an array are z, y, x with channels in front nearly always; where not, reading decodes chunks more often but gives the same
    return tuple(map(int, stored[-3:])) if stored is not None and len(stored) >= 3 else plain


def _array_chunks(path: Path | str) -> tuple[int, ...] | None:
    inside = split_hdf5(Path(path))
    if inside is not None:
        import h5py

        file, name = inside
        with h5py.File(file, "r") as content:
            return content[name or dataset_name(Path(path), file)].chunks
    if is_zarr(Path(path)):
        import zarr

        return zarr.open_array(str(path), mode="r").chunks
    return None
