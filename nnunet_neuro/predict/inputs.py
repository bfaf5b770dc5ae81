"""The channels of what is predicted: named on the command line, opened in every process that reads them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnunet_neuro.volumes import Region, Volume, describe_region, full_region, open_channels

# what a folder of chunks says about itself; the chunks are too many to look at each
_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json", "attributes.json", "info")


class Channels(Protocol):
    """What gives the volumes to predict; picklable, and equal to itself after a journey."""

    def open(self) -> tuple[Volume, ...]:
        """One volume for each channel, all of one shape (z, y, x)."""

    def identity(self) -> dict[str, Any]:
        """What distinguishes this input from another one, as JSON values."""


@dataclass(frozen=True)
class NamedChannels:
    """Channels in files, folders or behind addresses.

    Attributes:
        names: what `open_channels` opens; the channels of each follow each other. Paths are made absolute.
        roi: part to predict, as (start, stop) of z, y and x; None for everything.
        missing_are_zero: take chunks that are not there for zeros.
    """

    names: tuple[str, ...]
    roi: tuple[tuple[int, int], ...] | None = None
    missing_are_zero: bool = False

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(map(_absolute, self.names)))  # a worker may be in another folder

    def open(self) -> tuple[Volume, ...]:
        """Open the headers; see `open_channels` for what is refused.

        Raises:
            ValueError: also where the part lies outside, or the voxels are flat images.
        """
        volumes = [volume for name in self.names for volume in open_channels(name, missing_are_zero=self.missing_are_zero)]
        return tuple(_part(_as_stack(volume), self.roi) for volume in volumes)

    def identity(self) -> dict[str, Any]:
        """Names, shapes, and what tells without reading voxels that a file is another one than before."""
        volumes = self.open()
        return {"names": list(self.names), "roi": self.roi and [list(part) for part in self.roi],
                "shapes": [list(volume.shape) for volume in volumes], "types": [str(volume.dtype) for volume in volumes],
                "files": [_fingerprint(name) for name in self.names], "missing_are_zero": self.missing_are_zero}


@dataclass(frozen=True, eq=False)
class ArrayChannels:
    """Channels in memory or in any array that is sliced, for `predict_volume`; they stay in this process.

    Attributes:
        arrays: (z, y, x) each.
        spacing: voxel size.
    """

    arrays: tuple[Any, ...]
    spacing: tuple[float, ...] | None = None

    def open(self) -> tuple[Volume, ...]:
        """The arrays as volumes."""
        return tuple(Volume(f"array {number}", tuple(map(int, array.shape)), np.dtype(array.dtype), self.spacing,
                            partial(_read_array, array)) for number, array in enumerate(self.arrays))

    def identity(self) -> dict[str, Any]:
        """Shapes and types only."""
        return {"shapes": [list(map(int, array.shape)) for array in self.arrays], "types": [str(array.dtype) for array in self.arrays]}


def parse_roi(text: str) -> tuple[tuple[int, int], ...]:
    """`0:64,100:200,0:512` as (start, stop) of z, y and x, half open; every bound is given.

    Raises:
        ValueError: not of that form.
    """
    try:
        parts = tuple(tuple(int(bound) for bound in part.split(":")) for part in text.split(","))
    except ValueError:
        parts = ()
    if len(parts) != 3 or any(len(part) != 2 or not 0 <= part[0] < part[1] for part in parts):
        raise ValueError(f"{text!r} is not a region; expected z0:z1,y0:y1,x0:x1 in voxels, half open, such as 0:64,100:200,0:512")
    return parts


def _part(volume: Volume, roi: tuple[tuple[int, int], ...] | None) -> Volume:
    return volume if roi is None else volume.crop(tuple(slice(*part) for part in roi))


def _as_stack(volume: Volume) -> Volume:
    """A flat image is a stack of one plane."""
    if len(volume.shape) == 3:
        return volume
    if len(volume.shape) != 2:
        raise ValueError(f"{volume.path} has axes {volume.shape}; expected (z, y, x)")
    spacing = None if volume.spacing is None else (max(volume.spacing), *volume.spacing)
    return replace(volume, shape=(1, *volume.shape), spacing=spacing, corner=None, plane_of=False, lister=None, base=None, margin=(),
                   reader=partial(_read_plane, volume))


def _read_plane(volume: Volume, path: Path | str, region: Region) -> np.ndarray:
    return volume.read(region[1:])[None]


def _read_array(array: Any, path: Path | str, region: Region) -> np.ndarray:
    region = full_region(array.shape, region)
    voxels = np.asarray(array[region])
    if voxels.dtype.kind not in "uifb":
        raise ValueError(f"{path} gives {voxels.dtype} at {describe_region(region)}; expected numbers")
    return voxels


def _absolute(name: str) -> str:
    return name if "://" in name else str(Path(name).absolute())


def _fingerprint(name: str) -> str | None:
    """Size and time of a file; the metadata of a folder of chunks, or names, sizes and times of the files of a folder of slices."""
    if "://" in name:
        return None
    path = next((one for one in (Path(name), *Path(name).parents) if one.exists()), Path(name))  # FILE.h5/dataset
    if path.is_file():
        return _facts(path)
    metadata = [path / one for one in _METADATA if (path / one).is_file()]
    if metadata:
        return hashlib.sha256(b"".join(one.read_bytes() for one in metadata)).hexdigest()
    files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    return hashlib.sha256("\n".join(f"{one.name} {_facts(one)}" for one in files).encode()).hexdigest()


def _facts(file: Path) -> str:
    facts = file.stat()
    return f"{facts.st_size} bytes of {facts.st_mtime_ns}"
