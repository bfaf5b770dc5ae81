"""NRRD volumes, through SimpleITK, which refuses a truncated one; the checksum of a compressed one is checked here, as ITK does not."""

from __future__ import annotations

import gzip
import math
import zlib
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.nifti import orthogonal_axes
from nnunet_neuro.volumes.spacing import in_micrometres
from nnunet_neuro.volumes.volume import Region, Source, Volume

NRRD_SUFFIXES = (".nrrd", ".nhdr")
# deflate packs no more than that many bytes into one
_LARGEST_DEFLATE_RATIO = 1032
_RAW, _GZIP, _TEXT = ("raw",), ("gzip", "gz"), ("ascii", "text", "txt", "hex")


def open_nrrd_channels(path: Path) -> tuple[Volume, ...]:
    """The channels of an NRRD, each (z, y, x).

    Where the file names an anatomical space, its voxel size is in millimetres and there is an affine; else the voxel size is in
    micrometres if the file states units, and unknown otherwise.

    Raises:
        ValueError: damaged, truncated, compressed by bzip2, sheared, or not three-dimensional.
    """
    import SimpleITK as sitk

    reader = _reader(path)
    fields, _ = _fields(path)
    _check_kind(path, reader, fields)
    shape, components = tuple(int(length) for length in reader.GetSize()[::-1]), reader.GetNumberOfComponents()
    dtype = sitk.GetArrayViewFromImage(sitk.Image([1] * 3, reader.GetPixelID(), components)).dtype
    spacing, affine = _spacing_and_affine(path, reader, fields)
    expected = math.prod(shape) * components * dtype.itemsize
    _check_length(path, expected)
    return tuple(Volume(path, shape, np.dtype(dtype), spacing, partial(_read_nrrd, channel, expected), affine,
                        lister=_sources if "data file" in fields else None) for channel in range(components))


def _check_kind(path: Path, reader, fields: dict[str, str]) -> None:
    import SimpleITK as sitk

    if _encoding(fields) not in (*_RAW, *_GZIP, *_TEXT):
        raise ValueError(f"{path} is of encoding {_encoding(fields)}, which ITK does not read; save it as raw or gzip")
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if "complex" in kind:
        raise ValueError(f"{path} holds elements of type {kind}; expected integers or floats of up to 64 bits")
    if reader.GetDimension() != 3:
        raise ValueError(f"{path} has {reader.GetDimension()} axes; expected (z, y, x), or a list of channels for each voxel")


def _spacing_and_affine(path: Path, reader, fields: dict[str, str]) -> tuple[tuple[float, ...] | None, np.ndarray | None]:
    """Millimetres with an affine in an anatomical space, else micrometres or None without one."""
    spacing = tuple(float(size) for size in reader.GetSpacing()[::-1])
    if "NRRD_space" in reader.GetMetaDataKeys():
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
        affine[:3, 3] = reader.GetOrigin()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's world is LPS
        orthogonal_axes(affine, where=str(path))
        return spacing, affine
    if fields.get("spacings", "").lower().count("nan") > int(fields["dimension"]) - 3:
        return None, None  # unknown; ITK makes 1 of it
    units = [f"NRRD_units[{axis}]" for axis in (2, 1, 0)]
    return in_micrometres(spacing, [reader.GetMetaData(unit).strip() if unit in reader.GetMetaDataKeys() else None for unit in units]), None


def _reader(path: Path | str):
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ValueError(f"{path} is not a readable NRRD: {_last_line(error)}; copy it again") from error
    return reader


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, and where the voxels begin that stand behind it."""
    fields = {}
    with path.open("rb") as stream:
        while line := stream.readline().strip():
            name, colon, value = line.decode("utf-8", errors="replace").partition(":")
            if colon and not value.startswith("="):  # `key:=value` is a remark
                fields[name.lower().replace("datafile", "data file")] = value.strip()
        return fields, stream.tell()


def _encoding(fields: dict[str, str]) -> str:
    return fields.get("encoding", "").lower()


def _voxel_bytes(path: Path, encodings: tuple[str, ...]) -> tuple[Path, int] | None:
    """File and offset of the voxels; None for another encoding, several files, or something in front that ITK is told to skip."""
    fields, start = _fields(path)
    if _encoding(fields) not in encodings or "line skip" in fields or "byte skip" in fields:
        return None
    if "data file" not in fields:
        return path, start
    file = path.parent / fields["data file"]
    return (file, 0) if file.is_file() else None


def _check_length(path: Path, expected: int) -> None:
    for encodings, ratio in ((_RAW, 1), (_GZIP, _LARGEST_DEFLATE_RATIO)):
        place = _voxel_bytes(path, encodings)
        if place is None:
            continue
        size = place[0].stat().st_size - place[1]
        if size * ratio < expected or (ratio == 1 and size > expected):
            raise ValueError(f"{path} has {size} bytes of voxels, but its header promises {expected}; copy it again")


def _check_compressed(path: Path, expected: int) -> None:
    place = _voxel_bytes(path, _GZIP)
    if place is not None:
        state = place[0].stat()
        _check_checksum(path, *place, expected, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _check_checksum(path: Path, file: Path, start: int, expected: int, size: int, mtime_ns: int) -> None:
    """Remembered as long as the file stays as it was: each region that is read reads the whole file."""
    found = 0
    try:
        with file.open("rb") as stream:
            stream.seek(start)
            with gzip.open(stream) as unpacked:
                while block := unpacked.read(1 << 22):
                    found += len(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}; copy it again") from error
    if found != expected:
        raise ValueError(f"{path} has {found} bytes of voxels, but its header promises {expected}; copy it again")


def _sources(path: Path | str, region: Region) -> list[Source]:
    """A header with the file of its voxels; where they are several files, the voxels themselves are hashed."""
    fields, _ = _fields(Path(path))
    voxels = Path(path).parent / fields["data file"]
    return [Source(str(file), file) for file in (Path(path), voxels)] if voxels.is_file() else [Source(str(path), None)]


def _read_nrrd(channel: int, expected: int, path: Path | str, region: Region) -> np.ndarray:
    import SimpleITK as sitk

    _check_compressed(Path(path), expected)
    try:
        array = sitk.GetArrayFromImage(_reader(path).Execute())
    except RuntimeError as error:
        raise ValueError(f"{path} is truncated or damaged: {_last_line(error)}; copy it again") from error
    return array[(*region, channel) if array.ndim == 4 else region]


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1]  # ITK's one exception; its message has many lines
