"""NIfTI and FreeSurfer's MGH volumes, through nibabel, because SimpleITK fills a truncated file with zeros.

Where a file's sform and qform disagree, the sform counts, as in nibabel and FSL; a file with neither gets nibabel's default orientation.
Lengths are converted to millimetres where the header names another unit, as ITK does.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from nnunet_neuro.volumes.volume import Region, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".mgh", ".mgz")

# cosines between two axes: up to the first they stay as they are, up to the second they are taken for orthogonal, which moves no voxel by
# more than a thousandth of the volume's extent; ITK itself allows 1e-4
_NOISE = 1e-6
_NEARLY_ORTHOGONAL = 1e-3
_MILLIMETRES = {"meter": 1e3, "micron": 1e-3}
# deflate packs no more than that many bytes into one
_LARGEST_DEFLATE_RATIO = 1032


def open_nifti(path: str | Path) -> Volume:
    """Open a NIfTI or MGH file of one volume without reading its voxels; trailing axes of length 1 do not count.

    Returns:
        The volume; axes (z, y, x), spacing and affine in millimetres. Voxels with a scale in the header are float64.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: damaged, truncated, not three-dimensional, colour, complex, or with an affine that is none.
    """
    channels = open_nifti_channels(path)
    if len(channels) > 1:
        raise ValueError(f"{path} has {len(channels)} volumes along its fourth axis; expected one volume of three axes: split the file "
                         "into one per channel")
    return channels[0]


def open_nifti_channels(path: str | Path) -> tuple[Volume, ...]:
    """Open a NIfTI or MGH file; the fourth axis, if there is one, holds the channels.

    An uncompressed file is checked for its length when it is opened, a compressed one for its checksum when it is read.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: as `open_nifti`, but for several channels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; check the path")
    with _damage_is_an_error(path):
        stored = _read_header(path)
    shape = stored.shape[2::-1]
    sizes, directions = orthogonal_axes(stored.affine, where=str(path))
    affine = stored.affine.copy()
    affine[:3, :3] = directions * sizes
    # a header holds 32-bit numbers, which are 0.84375 only to seven digits
    spacing = tuple(float(f"{size:.7g}") for size in sizes[::-1])
    return tuple(Volume(path, shape, stored.read_dtype, spacing, partial(_read_nifti, channel), affine)
                 for channel in range(stored.channels))


def orthogonal_axes(affine: np.ndarray, *, where: str = "the volume") -> tuple[np.ndarray, np.ndarray]:
    """Voxel size and directions of the axes of an affine.

    Axes that miss orthogonality by a header's rounding (cosines up to 1e-3) are replaced by the nearest orthogonal ones, because ITK
    refuses them; the first voxel keeps its place.

    Args:
        affine: (4, 4) voxel (x, y, z) to world matrix.
        where: the file's name in an error message.

    Returns:
        (3,) voxel size of x, y, z in the unit of the affine, and (3, 3) directions, one unit vector per column.

    Raises:
        ValueError: NaN, an axis of length 0, or sheared axes.
    """
    linear = np.asarray(affine, dtype=float)[:3, :3]
    if not np.isfinite(affine).all():
        raise ValueError(f"the affine of {where} holds NaN or infinite numbers; expected a voxel-to-world matrix: repair the header")
    sizes = np.linalg.norm(linear, axis=0)
    if not (sizes > 0).all():
        raise ValueError(f"the affine of {where} gives a voxel size of {', '.join(f'{size:g}' for size in sizes)} (x, y, z); expected "
                         "positive numbers: repair the header")
    directions = linear / sizes
    deviation = np.abs(directions.T @ directions - np.eye(3)).max()
    if deviation > _NEARLY_ORTHOGONAL:
        raise ValueError(f"the affine of {where} is sheared (two axes enclose {np.degrees(np.arccos(min(deviation, 1.0))):.1f} degrees), "
                         "and ITK keeps only rotations: resample the volume to orthogonal axes first")
    if deviation > _NOISE:
        left, _, right = np.linalg.svd(directions)
        directions = left @ right
    return sizes, directions


@dataclass(frozen=True)
class _Stored:
    """What a header says of the voxels behind it."""

    shape: tuple[int, ...]  # x, y, z, and channels where there are several
    dtype: np.dtype
    offset: int
    slope: float
    inter: float
    affine: np.ndarray  # in millimetres

    @property
    def channels(self) -> int:
        return self.shape[3] if len(self.shape) > 3 else 1

    @property
    def channel_bytes(self) -> int:
        return int(np.prod(self.shape[:3], dtype=object)) * self.dtype.itemsize

    @property
    def read_dtype(self) -> np.dtype:
        """Native byte order; integers without a scale stay integers, because labels above 2**24 would not survive a float."""
        return np.dtype(np.float64) if (self.slope, self.inter) != (1, 0) else self.dtype.newbyteorder("=")


@contextmanager
def _damage_is_an_error(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # a damaged header ends in HeaderDataError, struct.error, zlib.error, EOFError, ... anywhere in nibabel
        ours = isinstance(error, ValueError) and str(error).startswith(str(path))
        if ours or (isinstance(error, OSError) and error.errno is not None):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} is no whole NIfTI or MGH file ({reason[0]}); copy it again") from error


def _read_header(path: Path) -> _Stored:
    import nibabel

    image = nibabel.load(path)
    if isinstance(image, nibabel.Nifti1Image):
        _check_stored_header(path, type(image.header))
    elif not isinstance(image, nibabel.MGHImage):
        raise ValueError(f"{path} is of type {type(image).__name__}; expected a single-file NIfTI or MGH file: convert it first")
    voxels = image.dataobj
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    _check_kind(path, shape, voxels.dtype)
    stored = _Stored(shape, voxels.dtype, int(voxels.offset), voxels.slope, voxels.inter, _affine_in_millimetres(image))
    _check_length(path, stored)
    return stored


def _check_stored_header(path: Path, header_class: type) -> None:
    """What nibabel mends in a damaged header without more than a log line, as a voxel size of 0, which becomes 1."""
    with _opened(path) as stream:
        header = header_class(stream.read(header_class.sizeof_hdr), check=False)
    if header["sizeof_hdr"] != header_class.sizeof_hdr or not bytes(header["magic"]).startswith(b"n+"):
        raise ValueError(f"{path} has a header of size {header['sizeof_hdr']} and kind {bytes(header['magic'])!r}; expected "
                         f"{header_class.sizeof_hdr} and {header_class.single_magic!r}, a NIfTI in a single file: copy it again")
    sizes = header["pixdim"][1:4]
    if header["sform_code"] == 0 and not (np.isfinite(sizes) & (sizes != 0)).all():
        raise ValueError(f"{path} has a voxel size of {', '.join(f'{size:g}' for size in sizes)} (x, y, z); expected positive numbers: "
                         "repair the header")


def _check_kind(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"{path} has shape {shape}; expected three axes (x, y, z), or four with the channels last, of one voxel or more")
    if dtype.fields is not None:
        raise ValueError(f"{path} is a colour image with values {', '.join(dtype.names)}; expected one number per voxel: convert it to "
                         "grey, or save each channel as a file")
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise ValueError(f"{path} holds voxels of type {dtype}; expected integers or floats of up to 64 bits: convert it first")


def _affine_in_millimetres(image) -> np.ndarray:
    affine = np.array(image.affine, dtype=float)
    unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    affine[:3] *= _MILLIMETRES.get(unit, 1.0)
    return affine


def _check_length(path: Path, stored: _Stored) -> None:
    expected, size = stored.offset + stored.channel_bytes * stored.channels, path.stat().st_size
    if _is_compressed(path):
        size *= _LARGEST_DEFLATE_RATIO
    if size < expected:
        raise ValueError(f"{path} is truncated: its header promises {expected} bytes, and it holds at most {size}; copy it again")


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if _is_compressed(path) else path.open("rb")


def _is_compressed(path: Path | str) -> bool:
    return str(path).lower().endswith((".gz", ".mgz"))


def _read_nifti(channel: int, path: Path | str, region: Region) -> np.ndarray:
    from nibabel.arrayproxy import ArrayProxy

    path = Path(path)
    with _damage_is_an_error(path):
        stored = _read_header(path)
        place = stored.offset + channel * stored.channel_bytes
        layout = (stored.shape[:3], stored.dtype, place, stored.slope, stored.inter)
        if _is_compressed(path):
            with _opened(path) as stream:
                array = np.asarray(ArrayProxy(stream, layout))
                while stream.read(1 << 20):  # to the end, where the checksum stands
                    pass
            part = array[region[::-1]]
            array = array if part.shape == array.shape else part.copy()  # a part alone would keep the whole in memory
        else:
            array = ArrayProxy(path, layout, mmap=False)[region[::-1]]
    return array.transpose(2, 1, 0).astype(stored.read_dtype, copy=False)
