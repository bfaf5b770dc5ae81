"""A volume on disk or behind an address: what its header says, and any part of its voxels when asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

# one slice without a step per axis, half-open, in the voxels of what is cut
Region = tuple[slice, ...]
Reader = Callable[["Path | str", Region], np.ndarray]


@dataclass(frozen=True)
class Source:
    """One file that voxels come from.

    Attributes:
        name: how the provenance calls it: the path, or the address of a cached download.
        file: where its bytes are; None where no file can be named, as for a remote address: then the voxels themselves are hashed.
    """

    name: str
    file: Path | None


@dataclass(frozen=True)
class Volume:
    """An image or label volume whose voxels are read only when asked for; picklable, so that a worker can read it.

    Attributes:
        path: the file, the folder, or an address such as `bossdb://...`; error messages name it.
        shape: (z, y, x), or (y, x) for a flat image.
        dtype: type of the voxels as they are read.
        spacing: voxel size in the order of `shape`, micrometres for microscopy and millimetres for MRI; None if the file does not say.
        reader: gives the voxels of a region of the whole file, a function of a module or a `functools.partial` of one.
        affine: (4, 4) voxel (x, y, z) to world (RAS) matrix of a NIfTI or NRRD, else None.
        corner: first voxel of this volume in the file; None for a volume that is the whole file.
        lister: gives the files that hold a region; None where `path` is the only one.
        plane_of: whether the file has a further leading axis of which `corner` holds the index, as for a plane cut from a stack.
        base: the volume that this one is computed from, see `derived`; it stands for the file then.
        margin: voxels beyond a region that the computation may read, per axis; they count among the sources.
    """

    path: Path | str
    shape: tuple[int, ...]
    dtype: np.dtype
    spacing: tuple[float, ...] | None
    reader: Reader
    affine: np.ndarray | None = None
    corner: tuple[int, ...] | None = None
    lister: Callable[[Path | str, Region], list[Source]] | None = None
    plane_of: bool = False
    base: Volume | None = None
    margin: tuple[int, ...] = ()

    def read(self, region: Region | None = None) -> np.ndarray:
        """The voxels of a region, or all of them.

        Args:
            region: in the voxels of this volume; None for all.

        Raises:
            ValueError: the region leaves the volume, or the file holds something else than its header said.
        """
        wanted = self._in_file(region)
        array = self.reader(self.path, wanted)
        expected = tuple(part.stop - part.start for part in wanted)
        if array.shape != expected:
            raise ValueError(f"{self.path} gave voxels of shape {array.shape}, but its header promised {expected}; the file changed or "
                             "is damaged, copy it again")
        return array[0] if self.plane_of else array

    def crop(self, region: Region) -> Volume:
        """The volume of a region; nothing is read.

        Raises:
            ValueError: the region is empty or leaves the volume.
        """
        wanted = self._in_file(region)
        shape = tuple(part.stop - part.start for part in wanted[self.plane_of:])
        affine = self.affine
        if affine is not None:
            first = [part.start for part in full_region(self.shape, region)][::-1]
            affine = affine.copy()
            affine[:3, 3] += affine[:3, :3] @ first
        return replace(self, shape=shape, corner=tuple(part.start for part in wanted), affine=affine)

    def plane(self, index: int) -> Volume:
        """The flat (y, x) image at a z index of a (z, y, x) volume; nothing is read."""
        cut = self.crop((slice(index, index + 1), *(slice(0, length) for length in self.shape[1:])))
        return replace(cut, shape=cut.shape[1:], spacing=cut.spacing and cut.spacing[1:], affine=None, plane_of=True)

    def sources(self) -> list[Source]:
        """The files that the voxels come from."""
        if self.base is not None:
            return self.base.crop(grown(self._in_file(None), self.margin, self.base.shape)).sources()
        if self.lister is None:
            return [Source(str(self.path), Path(self.path))]
        return self.lister(self.path, self._in_file(None))

    def place(self) -> str:
        """Which part of the file this is, `0:10,5:20,5:20`; empty for all of it."""
        if self.base is not None:
            return self.base.crop(self._in_file(None)).place()
        return "" if self.corner is None else describe_region(self._in_file(None))

    def _in_file(self, region: Region | None) -> Region:
        within = full_region(self.shape, region)
        for part, length in zip(within, self.shape):
            if not 0 <= part.start < part.stop <= length:
                raise ValueError(f"region {describe_region(within)} does not lie in {self.path}, whose shape is {self.shape}")
        if self.plane_of:
            within = (slice(0, 1), *within)
        if self.corner is None:
            return within
        return tuple(slice(start + part.start, start + part.stop) for start, part in zip(self.corner, within))


def full_region(shape: Sequence[int], region: Region | None) -> Region:
    """A region with every bound written out; all of `shape` for None."""
    if region is None:
        return tuple(slice(0, length) for length in shape)
    return tuple(slice(part.start or 0, length if part.stop is None else part.stop) for part, length in zip(region, shape, strict=True))


def grown(region: Region, margin: Sequence[int], shape: Sequence[int]) -> Region:
    """The region with `margin` voxels more on every side, as far as `shape` goes; no margin for an empty one."""
    return tuple(slice(max(0, part.start - more), min(length, part.stop + more))
                 for part, more, length in zip(region, margin or (0,) * len(shape), shape, strict=True))


def describe_region(region: Region) -> str:
    """`0:10,5:20,5:20`, as an error message or a provenance entry shows it."""
    return ",".join(f"{part.start}:{part.stop}" for part in region)


def derived(base: Volume, function: Callable[[Volume, Region], np.ndarray], dtype: np.dtype | type, *,
            margin: tuple[int, ...] = ()) -> Volume:
    """A volume computed from another one when it is read, for example a class mask from instance ids.

    Args:
        base: where the voxels come from; shape, voxel size and files stay.
        function: (base, region of base) -> array of the region's shape. It may read beyond the region, for a margin. A function of a
            module or a `functools.partial` of one, so that a worker can be sent it.
        dtype: of what it gives.
        margin: voxels beyond the region that the function may read, along each axis.
    """
    return Volume(base.path, base.shape, np.dtype(dtype), base.spacing, partial(_read_derived, base, function), base.affine, base=base,
                  margin=margin)


def _read_derived(base: Volume, function: Callable[[Volume, Region], np.ndarray], path: Path | str, region: Region) -> np.ndarray:
    return function(base, region)


def empty_label(image: Volume) -> Volume:
    """A label volume of zeros (uint8) for an image that shows nothing of the structure; its files are the image's."""
    return derived(image, _zeros, np.uint8)


def _zeros(base: Volume, region: Region) -> np.ndarray:
    return np.zeros(tuple(part.stop - part.start for part in region), np.uint8)
