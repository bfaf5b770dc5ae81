"""NRRD volumes, through SimpleITK, which refuses a truncated one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.spacing import in_micrometres
from nnunet_neuro.volumes.volume import Region, Volume

NRRD_SUFFIXES = (".nrrd", ".nhdr")


def open_nrrd_channels(path: Path) -> tuple[Volume, ...]:
    """The channels of an NRRD, each (z, y, x).

    Where the file names an anatomical space, its voxel size is in millimetres and there is an affine; else the voxel size is in
    micrometres if the file states units, and unknown otherwise.

    Raises:
        ValueError: damaged, or not three-dimensional.
    """
    import SimpleITK as sitk

    reader = _reader(path)
    if reader.GetDimension() != 3:
        raise ValueError(f"{path} has {reader.GetDimension()} axes; expected (z, y, x), or a list of channels for each voxel")
    shape = tuple(int(length) for length in reader.GetSize()[::-1])
    names = {name: reader.GetMetaData(name).strip() for name in reader.GetMetaDataKeys() if name.startswith("NRRD_")}
    pixel = sitk.Image([1] * 3, reader.GetPixelID(), reader.GetNumberOfComponents())
    dtype = sitk.GetArrayViewFromImage(pixel).dtype
    spacing = tuple(float(size) for size in reader.GetSpacing()[::-1])
    affine = None
    if "NRRD_space" in names:
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
        affine[:3, 3] = reader.GetOrigin()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's world is LPS
    else:
        spacing = in_micrometres(spacing, [names.get(f"NRRD_units[{axis}]") for axis in (2, 1, 0)])
    return tuple(Volume(path, shape, np.dtype(dtype), spacing, partial(_read_nrrd, channel), affine)
                 for channel in range(reader.GetNumberOfComponents()))


def _reader(path: Path | str):
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"{path} is not a readable NRRD: {_last_line(error)}; copy it again") from error
    return reader


def _read_nrrd(channel: int, path: Path | str, region: Region) -> np.ndarray:
    import SimpleITK as sitk

    try:
        array = sitk.GetArrayFromImage(_reader(path).Execute())
    except RuntimeError as error:
        raise ValueError(f"{path} is truncated or damaged: {_last_line(error)}; copy it again") from error
    return array[(*region, channel) if array.ndim == 4 else region]


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1]  # ITK's one exception; its message has many lines
