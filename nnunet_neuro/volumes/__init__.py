"""Volumes on disk or behind an address, opened lazily as (z, y, x) with their voxel size.

Opening reads headers only and refuses what is damaged, truncated or no volume; voxels are read region by region.
"""

from __future__ import annotations

from pathlib import Path

from nnunet_neuro.volumes.axes import MOST_CHANNELS
from nnunet_neuro.volumes.hdf5 import HDF5_SUFFIXES, open_hdf5_channels, split_hdf5
from nnunet_neuro.volumes.images import IMAGE_SUFFIXES, SLICE_SUFFIXES, last_number, open_image, open_slices, slice_files
from nnunet_neuro.volumes.nifti import NIFTI_SUFFIXES, open_nifti_channels
from nnunet_neuro.volumes.npy import open_npy_channels
from nnunet_neuro.volumes.nrrd import NRRD_SUFFIXES, open_nrrd_channels
from nnunet_neuro.volumes.tensor_store import PRECOMPUTED, is_n5, is_precomputed, open_n5_channels, open_precomputed_channels
from nnunet_neuro.volumes.tiff import TIFF_SUFFIXES, open_tiff_channels
from nnunet_neuro.volumes.volume import Region, Source, Volume, derived, describe_region, empty_label, full_region, grown
from nnunet_neuro.volumes.zarr_store import is_zarr, open_zarr_channels

__all__ = [
    "IMAGE_SUFFIXES", "NIFTI_SUFFIXES", "Region", "SLICE_SUFFIXES", "Source", "TIFF_SUFFIXES", "Volume", "derived", "describe_region",
    "empty_label", "full_region", "grown", "last_number", "open_channels", "open_slices", "open_volume", "slice_files", "strip_suffix",
]  # fmt: skip

KNOWN_FORMATS = (".tif", ".png", ".bmp", ".nii", ".nii.gz", ".mgz", ".nrrd", ".npy", ".h5 or .h5/dataset",
                 "Zarr, OME-Zarr, N5 or neuroglancer precomputed folders", "folders of slice TIFFs or PNGs")


def open_volume(path: str | Path, *, missing_are_zero: bool = False) -> Volume:
    """Open a volume of one channel; `open_channels` tells what is read and what is refused.

    Raises:
        ValueError: also where there are several channels.
    """
    channels = open_channels(path, missing_are_zero=missing_are_zero)
    if len(channels) > 1:
        raise ValueError(f"{path} has {len(channels)} channels; expected a volume of one channel")
    return channels[0]


def open_channels(path: str | Path, *, missing_are_zero: bool = False) -> tuple[Volume, ...]:
    """Open every channel of a volume without reading its voxels.

    A `.json` file of nnU-Net's Tiff3DIO beside a TIFF (`{"spacing": [z, y, x]}`) comes before the TIFF's own metadata.

    Args:
        path: a file, a folder, a dataset within an HDF5 file or Zarr group (`FILE.h5/dataset`), `precomputed://ADDRESS`, or a
            cutout of BossDB (see `bossdb.parse_address`; service, token and cache are those of the environment).
        missing_are_zero: read chunks of a Zarr, N5, HDF5 or precomputed volume that are not there as zeros instead of refusing them.

    Returns:
        One volume per channel; axes (z, y, x), or (y, x) for a PNG.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a format this function knows, truncated, colour, several time points, or not three-dimensional.
    """
    if str(path).startswith(PRECOMPUTED):
        return open_precomputed_channels(str(path), missing_are_zero=missing_are_zero)
    if str(path).startswith("bossdb://"):
        from nnunet_neuro.bossdb import BossAccess, open_cutout

        return (open_cutout(str(path), BossAccess.from_environment()),)
    if "://" in str(path):
        raise ValueError(f"{path} is not an address this program reads here; expected a path, bossdb://... or {PRECOMPUTED}ADDRESS")
    channels = _open_path(Path(path), missing_are_zero)
    if len(channels) > MOST_CHANNELS:
        raise ValueError(f"{path} has {len(channels)} channels; expected at most {MOST_CHANNELS}: if they are time points, save the ones "
                         "you want as volumes of their own")
    return channels


def _open_path(path: Path, missing_are_zero: bool) -> tuple[Volume, ...]:
    inside = split_hdf5(path)
    if inside is not None:
        return open_hdf5_channels(*inside, missing_are_zero=missing_are_zero)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; check the path")
    return _open_folder(path, missing_are_zero) if path.is_dir() else _open_file(path)


def _open_folder(path: Path, missing_are_zero: bool) -> tuple[Volume, ...]:
    for is_one, open_channels_of in ((is_zarr, open_zarr_channels), (is_n5, open_n5_channels), (is_precomputed, open_precomputed_channels)):
        if is_one(path):
            return open_channels_of(path, missing_are_zero=missing_are_zero)
    return (open_slices(path),)


def _open_file(path: Path) -> tuple[Volume, ...]:
    name = path.name.lower()
    for suffixes, open_channels_of in ((TIFF_SUFFIXES, open_tiff_channels), (NIFTI_SUFFIXES, open_nifti_channels),
                                       (NRRD_SUFFIXES, open_nrrd_channels), ((".npy",), open_npy_channels)):
        if name.endswith(suffixes):
            return open_channels_of(path)
    if name.endswith(IMAGE_SUFFIXES):
        return (open_image(path),)
    raise ValueError(f"{path} is not a volume this program reads; expected one of {', '.join(KNOWN_FORMATS)}")


def strip_suffix(path: Path) -> str:
    """File name without its volume suffix (`.nii.gz` and `.ome.tif` count as one)."""
    name = path.name
    endings = (".nii.gz", ".ome.tif", ".ome.tiff", ".ome.zarr", *TIFF_SUFFIXES, *NIFTI_SUFFIXES, *NRRD_SUFFIXES, *IMAGE_SUFFIXES,
               *HDF5_SUFFIXES, ".npy", ".zarr", ".n5")
    ending = next((ending for ending in endings if name.lower().endswith(ending)), path.suffix)
    return name[: len(name) - len(ending)] if ending else name
