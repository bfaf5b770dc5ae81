"""One image or label file in each format that nnU-Net's own readers take."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.nifti import orthogonal_axes


@dataclass(frozen=True)
class RawFormat:
    """A file ending with the nnU-Net reader for it.

    Attributes:
        reader: name of nnU-Net's reader/writer; always written into dataset.json, because the automatic choice takes a TIFF of shape
            (z, y, 3) for a colour image.
        image_dtypes: kinds (numpy `dtype.kind`) that images may have.
        write: (path, array, spacing, affine) -> None.
        sidecar: whether the voxel size stands in a `.json` beside the file.
        dimensions: number of axes of an image.
        largest_item: bytes that a voxel of an image may have at most.
    """

    reader: str
    image_dtypes: str
    write: Callable[[Path, np.ndarray, tuple[float, ...], np.ndarray | None], None]
    sidecar: bool
    dimensions: int
    largest_item: int = 8


def write_tiff(path: Path, array: np.ndarray, spacing: tuple[float, ...], affine: np.ndarray | None) -> None:
    """Multi-page TIFF, one deflate-compressed page per plane; the voxel size goes to the sidecar."""
    import tifffile

    tifffile.imwrite(path, array, photometric="minisblack", compression="zlib", metadata={"axes": "ZYX"})


def write_nifti(path: Path, array: np.ndarray, spacing: tuple[float, ...], affine: np.ndarray | None) -> None:
    """NIfTI through SimpleITK, which writes sform and qform alike.

    Args:
        path: of the file, ending on .nii or .nii.gz.
        array: (z, y, x).
        spacing: (z, y, x); counts only where there is no affine.
        affine: (4, 4) voxel (x, y, z) to world (RAS) matrix, as nibabel gives it; kept to the precision of the file's 32-bit numbers.

    Raises:
        ValueError: sheared axes, which ITK could not read again.
        OSError: not written.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    if affine is None:
        image.SetSpacing([float(size) for size in spacing[::-1]])
    else:
        to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=float)
        sizes, directions = orthogonal_axes(to_lps)
        image.SetSpacing(sizes.tolist())
        image.SetOrigin(to_lps[:3, 3].tolist())
        image.SetDirection(directions.ravel().tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:  # ITK's one exception; its message has many lines
        raise OSError(f"{path} could not be written: {str(error).strip().splitlines()[-1]}") from error


def write_png(path: Path, array: np.ndarray, spacing: tuple[float, ...], affine: np.ndarray | None) -> None:
    """Grey PNG of 8 or 16 bits."""
    from skimage import io

    io.imsave(path, array, check_contrast=False)


FORMATS = {
    ".tif": RawFormat("Tiff3DIO", "uif", write_tiff, sidecar=True, dimensions=3),
    ".nii.gz": RawFormat("SimpleITKIO", "uif", write_nifti, sidecar=False, dimensions=3),
    ".png": RawFormat("NaturalImage2DIO", "u", write_png, sidecar=False, dimensions=2, largest_item=2),
}


def smallest_label_dtype(largest: int) -> np.dtype:
    """The smallest unsigned integer type that holds `largest`."""
    return np.min_scalar_type(largest)


def write_json(path: Path, content: object) -> None:
    """JSON under its final name only when complete."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file under its final name only when complete."""
    with complete_file(path, path.with_name(f".{path.name}.partial"), len(text)) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def complete_file(final: Path, partial: Path, size: int) -> Iterator[Path]:
    """Let the block write `partial`; rename it to `final` when the block ends well, remove it when not.

    Args:
        final: name of the finished file.
        partial: name to write to, on the same file system.
        size: bytes that it may need at most.

    Raises:
        OSError: no space, before or while writing; one sentence that names the file.
    """
    free = shutil.disk_usage(partial.parent).free
    try:
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield partial
        partial.replace(final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"no space left for {final}: it needs up to {size} bytes, {free} were free; make room and run the same command "
                          "again to continue") from error
        raise
    finally:
        partial.unlink(missing_ok=True)
