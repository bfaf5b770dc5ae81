"""A prediction in the formats of other programs: slice TIFFs, one TIFF, NIfTI, neuroglancer precomputed.

Read and written slab by slab, in memory that does not grow with the number of planes.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from nnunet_neuro.predict.complete import appearing, leftovers_beside, remove
from nnunet_neuro.predict.precomputed import write_precomputed
from nnunet_neuro.predict.store import LABELS, LabelStore
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.volumes import Volume
from nnunet_neuro.volumes.spacing import spacing_sidecar

# of a slab of planes; where fewer planes than a chunk has fit it, chunks are decoded more than once
_SLAB_BYTES = 256_000_000
# above it, offsets of 32 bits may not suffice; compressed data can be a little longer than the voxels
_CLASSIC_TIFF = 3_500_000_000
_OME_UNITS = {"micrometer": "µm", "millimeter": "mm"}
# OME knows no 64-bit integers and no 16-bit floats
_NOT_OME = ("uint64", "float16")
_NIFTI_UNITS = {"micrometer": "micron", "millimeter": "mm"}
_LONGEST_NIFTI_1 = 32767


def export(store: LabelStore, path: str | Path, kind: str, *, name: str = LABELS, channel: int = 0, affine: np.ndarray | None = None,
           progress: bool = True) -> Path:
    """Write an array of a store in another format; it appears under its name only when complete.

    Args:
        store: with all chunks of the array.
        path: of the file or folder to make.
        kind: one of `KINDS`.
        name: "labels" or a further array, such as "probabilities", of which D-LMBmap's slices hold channel 1.
        channel: of an array with channels.
        affine: (4, 4) voxel (x, y, z) to world (RAS, millimetres) matrix of the input, for NIfTI.
        progress: show a progress bar on stderr.

    Returns:
        The path.

    Raises:
        FileExistsError: something is there already.
        ValueError: another kind, or the array is not complete.
        OSError: disk full or read-only.
    """
    path = Path(path)
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no format of an export; expected one of {', '.join(KINDS)}")
    store.check_finished(name)
    for leftover in leftovers_beside(path):
        remove(leftover)
    with appearing(path) as unfinished:
        KINDS[kind](store, unfinished, path, name, channel, affine, progress)
    return path


def _write_slices(store: LabelStore, folder: Path, final: Path, name: str, channel: int, affine: np.ndarray | None,
                  progress: bool) -> None:
    """`NNNN.tiff` from 0000 on, as D-LMBmap writes; more digits where there are more than 10,000 planes."""
    import tifffile

    volume = store.volumes(name)[channel]
    digits = max(4, len(str(volume.shape[0] - 1)))
    folder.mkdir()
    for number, plane in enumerate(_planes(volume, store.chunk[0], final, progress)):
        tifffile.imwrite(folder / f"{number:0{digits}d}.tiff", plane, photometric="minisblack", compression="zlib")


def _write_tiff(store: LabelStore, file: Path, final: Path, name: str, channel: int, affine: np.ndarray | None, progress: bool) -> None:
    """Multi-page OME-TIFF, BigTIFF where needed, with the `.json` of nnU-Net's Tiff3DIO for the voxel size beside it."""
    import tifffile

    volume, spacing = store.volumes(name)[channel], store.layout.spacing
    ome = str(volume.dtype) not in _NOT_OME
    metadata = {"axes": "ZYX"}
    if ome and spacing:
        unit = _OME_UNITS[store.layout.unit]
        metadata |= {key: value for axis, size in zip("ZYX", spacing)
                     for key, value in ((f"PhysicalSize{axis}", size), (f"PhysicalSize{axis}Unit", unit))}
    with tifffile.TiffWriter(file, bigtiff=_bytes_of(volume) > _CLASSIC_TIFF, ome=ome) as tif:
        tif.write(_planes(volume, store.chunk[0], final, progress), shape=volume.shape, dtype=volume.dtype, photometric="minisblack",
                  compression="zlib", metadata=metadata)
    if spacing:
        write_json(spacing_sidecar(final), {"spacing": list(spacing)})


def _write_nifti(store: LabelStore, file: Path, final: Path, name: str, channel: int, affine: np.ndarray | None, progress: bool) -> None:
    volume = store.volumes(name)[channel]
    # NIfTI has no 16-bit floats
    dtype = np.dtype(np.float32) if volume.dtype == np.float16 else volume.dtype
    with _opened(file, compressed=final.name.lower().endswith(".gz")) as stream:
        stream.write(_nifti_header(store, volume.shape, dtype, affine))
        for plane in _planes(volume, store.chunk[0], final, progress):
            stream.write(np.ascontiguousarray(plane, dtype.newbyteorder("<")).data)


def _nifti_header(store: LabelStore, shape: tuple[int, ...], dtype: np.dtype, affine: np.ndarray | None) -> bytes:
    """Header and empty extension; the voxels follow, x fastest."""
    import io

    import nibabel

    kind = nibabel.Nifti2Header if max(shape) > _LONGEST_NIFTI_1 else nibabel.Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape[::-1])
    if affine is None:
        affine, unit = np.diag([*store.layout.voxel[::-1], 1.0]), _NIFTI_UNITS.get(store.layout.unit, "unknown")
    else:
        unit = "mm"
    header.set_qform(affine, code="scanner")
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units(xyz=unit)
    header["magic"] = header.single_magic
    header["vox_offset"] = header.single_vox_offset
    header.set_slope_inter(1, 0)
    stream = io.BytesIO()
    header.write_to(stream)
    return stream.getvalue().ljust(int(header.single_vox_offset), b"\0")


@contextmanager
def _opened(file: Path, *, compressed: bool) -> Iterator[IO[bytes]]:
    with file.open("wb") as stream:
        if not compressed:
            yield stream
            return
        # without name and time, so that equal labels give equal bytes
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=4, mtime=0) as packed:
            yield packed


def _write_precomputed(store: LabelStore, folder: Path, final: Path, name: str, channel: int, affine: np.ndarray | None,
                       progress: bool) -> None:
    write_precomputed(store, folder, name=name, channel=channel, progress=progress)


def _planes(volume: Volume, depth: int, final: Path, progress: bool) -> Iterator[np.ndarray]:
    from tqdm import tqdm

    planes, height, width = volume.shape
    step = int(np.clip(_SLAB_BYTES // (height * width * volume.dtype.itemsize), 1, depth))
    with tqdm(total=planes, desc=f"writing {final.name}", unit="plane", disable=not progress, file=sys.stderr) as bar:
        for first in range(0, planes, step):
            slab = volume.read((slice(first, min(first + step, planes)), slice(0, height), slice(0, width)))
            yield from slab
            bar.update(len(slab))


def _bytes_of(volume: Volume) -> int:
    return int(np.prod(volume.shape, dtype=object)) * volume.dtype.itemsize


KINDS: dict[str, Callable[..., None]] = {"tiff-slices": _write_slices, "tiff": _write_tiff, "nifti": _write_nifti,
                                         "precomputed": _write_precomputed}
