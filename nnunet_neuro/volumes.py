"""Volumes on disk, opened lazily as (z, y, x) with their voxel size.

`open_volume` reads headers only. A TIFF is checked for being whole when it is opened, because tifffile returns fewer pages from a truncated
one without an error; a NIfTI when it is read, through nibabel, because SimpleITK fills a truncated one with zeros.
"""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

TIFF_SUFFIXES = (".tif", ".tiff")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (".png", ".bmp")

_MICROMETRES = {
    "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3, "cm": 1e4, "m": 1e6,
    "inch": 25400.0,
}  # fmt: skip


@dataclass(frozen=True)
class Volume:
    """An image or label volume whose voxels are read only when asked for.

    Attributes:
        path: the file, or the folder of slices.
        shape: (z, y, x), or (y, x) for a flat image.
        dtype: type of the voxels on disk.
        spacing: voxel size in the order of `shape`, micrometres for microscopy and millimetres for NIfTI; None if the file does
            not say.
        affine: (4, 4) voxel (x, y, z) to world matrix of a NIfTI, else None.
        reader: gives the voxels; picklable, so that a worker can call it.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    spacing: tuple[float, ...] | None
    reader: Callable[[Path], np.ndarray]
    affine: np.ndarray | None = None

    def read(self) -> np.ndarray:
        """All voxels, in the shape and type announced.

        Raises:
            ValueError: the file holds something else than its header said.
        """
        array = self.reader(self.path)
        if array.shape != self.shape:
            raise ValueError(f"{self.path} gave voxels of shape {array.shape}, but its header says {self.shape}; the file changed "
                             "or is damaged, copy it again")
        return array

    def files(self) -> list[Path]:
        """The files the voxels come from, sorted."""
        return slice_files(self.path) if self.path.is_dir() else [self.path]


def open_volume(path: str | Path) -> Volume:
    """Open a TIFF, a folder of slice TIFFs, a NIfTI or a PNG without reading its voxels (but those of a PNG, for their type).

    A `.json` file of nnU-Net's Tiff3DIO beside a TIFF (`{"spacing": [z, y, x]}`) comes before the TIFF's own metadata.

    Args:
        path: file or folder.

    Returns:
        The volume; axes (z, y, x), or (y, x) for a PNG.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a format this function knows, truncated, colour, or not three-dimensional.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}; check the path")
    if path.is_dir():
        return _open_slices(path)
    name = path.name.lower()
    if name.endswith(TIFF_SUFFIXES):
        return _open_tiff(path)
    if name.endswith(NIFTI_SUFFIXES):
        return _open_nifti(path)
    if name.endswith(IMAGE_SUFFIXES):
        return _open_image(path)
    raise ValueError(f"{path} is not a volume this program reads; expected one of "
                     f"{', '.join((*TIFF_SUFFIXES, *NIFTI_SUFFIXES, *IMAGE_SUFFIXES))} or a folder of slice TIFFs")


def empty_label(image: Volume) -> Volume:
    """A label volume of zeros (uint8) for an image that shows nothing of the structure; its file is the image's."""
    return replace(image, dtype=np.dtype(np.uint8), reader=partial(_zeros, image.shape))


def _zeros(shape: tuple[int, ...], path: Path) -> np.ndarray:
    return np.zeros(shape, np.uint8)


def strip_suffix(path: Path) -> str:
    """File name without its volume suffix (`.nii.gz` counts as one)."""
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else Path(name).stem


def slice_files(folder: Path) -> list[Path]:
    """The slice TIFFs of a folder by the last number in their names; names of 4 and 5 digits sort rightly.

    Raises:
        ValueError: none there, a name without a number, or a number missing or given twice.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in TIFF_SUFFIXES and not path.name.startswith(".")]
    if not files:
        raise ValueError(f"{folder} holds no slice TIFF; expected files such as 0000.tif")
    by_number: dict[int, Path] = {}
    for path in sorted(files):
        number = last_number(path.stem)
        if number is None:
            raise ValueError(f"slice {path} has no number in its name; expected names such as 0000.tif")
        if number in by_number:
            raise ValueError(f"{by_number[number].name} and {path.name} in {folder} are both slice {number}; keep one of them")
        by_number[number] = path
    missing = sorted(set(range(min(by_number), max(by_number) + 1)) - by_number.keys())
    if missing:
        raise ValueError(f"{folder} has slices {min(by_number)} to {max(by_number)} without {missing[0]} "
                         f"({len(missing)} missing); copy the folder again")
    return [by_number[number] for number in sorted(by_number)]


def last_number(stem: str) -> int | None:
    """The last run of digits in a file's stem, or None."""
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else None


def spacing_sidecar(path: Path) -> Path:
    """Where nnU-Net's Tiff3DIO looks for the voxel size of a label `CASE.tif` (or of images `CASE_0000.tif`, without the channel)."""
    return path.with_name(re.sub(r"_\d{4}$", "", path.stem) + ".json") if _is_channel_file(path) else path.with_suffix(".json")


def _is_channel_file(path: Path) -> bool:
    return re.search(r"_\d{4}$", path.stem) is not None and not path.with_suffix(".json").exists()


def _open_tiff(path: Path) -> Volume:
    state = path.stat()
    volume = _checked_tiff(path, state.st_size, state.st_mtime_ns)
    spacing = _sidecar_spacing(path)
    return replace(volume, spacing=spacing) if spacing else volume


@lru_cache(maxsize=4096)
def _checked_tiff(path: Path, size: int, mtime_ns: int) -> Volume:
    """Remembered as long as the file stays as it was: a conversion opens every file twice, and 150 pages take 5 ms."""
    import tifffile

    with _damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        series = _one_stack(path, tif)
        _check_pages(path, tif)
        shape = series[0].shape if len(series) == 1 else (len(series), *series[0].shape)
        shape = (1, *shape) if len(shape) == 2 else shape
        return Volume(path, shape, np.dtype(series[0].dtype), _ome_spacing(tif) or _imagej_spacing(tif), _read_tiff)


def _read_tiff(path: Path) -> np.ndarray:
    import tifffile

    with _damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        series = _one_stack(path, tif)
        array = series[0].asarray() if len(series) == 1 else np.stack([plane.asarray() for plane in series])
    return array[None] if array.ndim == 2 else array


def _one_stack(path: Path, tif) -> list:
    """The TIFF's series: one of axes (z, y, x) or (y, x), or one plane each, as programs write that save plane after plane.

    Raises:
        ValueError: colour, several channels or time points, or several images in one file.
    """
    if not tif.series:
        raise ValueError(f"{path} holds no image; copy it again")
    if tif.pages[0].samplesperpixel > 1:
        raise ValueError(f"{path} is a colour image with {tif.pages[0].samplesperpixel} samples per pixel; expected one grey value per "
                         "voxel: convert it to grey, or save each channel as a file")
    if tif.ome_metadata and "FileName=" in tif.ome_metadata:
        raise ValueError(f"{path} is one part of an OME-TIFF of several files; save the volume as one file")
    series = list(tif.series)
    for one in series:
        axes = "".join(axis for axis, length in zip(one.axes, one.shape) if length > 1 or axis in "YX")
        if len(one.shape) > 3 or set(axes) & set("CTSHRVPM"):
            raise ValueError(f"{path} has axes {one.axes} of shape {one.shape}; expected (z, y, x) of one channel and one time point: "
                             "save each channel as a file of its own (in Fiji, planes called t can be renamed to z with Properties)")
    if len(series) > 1 and any(len(one.shape) != 2 or one.shape != series[0].shape or one.dtype != series[0].dtype for one in series):
        raise ValueError(f"{path} holds {len(series)} separate images of shapes {', '.join(str(one.shape) for one in series[:3])}...; "
                         "expected one volume in a file")
    return series


def _check_pages(path: Path, tif) -> None:
    """A cut file lacks pages that its description announces, or page data lies behind the end of the file."""
    tif.pages.useframes = True  # of the further pages only the position of their voxels is wanted; a fifth of the time
    found, size = len(tif.pages), path.stat().st_size
    announced = _announced_pages(tif)
    first = tif.pages[0]
    contiguous = announced is not None and found == 1 and announced > 1
    if contiguous:  # ImageJ and tifffile write one page header in front of all planes
        found = int((size - first.dataoffsets[0]) // max(1, sum(first.databytecounts) // max(1, _planes_in_page(first))))
    if announced is not None and found < announced:
        raise ValueError(f"{path} is truncated: {found} pages found, {announced} expected from its header; copy it again")
    for number, page in enumerate(tif.pages):
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if offset + count > size:
                raise ValueError(f"{path} is truncated: page {number} ends at byte {offset + count}, the file at byte {size}; copy it "
                                 "again")


def _planes_in_page(page) -> int:
    return page.imagedepth if page.imagedepth > 1 else 1


def _announced_pages(tif) -> int | None:
    if tif.imagej_metadata and "images" in tif.imagej_metadata:
        return int(tif.imagej_metadata["images"])
    if tif.shaped_metadata:
        shape = tif.shaped_metadata[0].get("shape", ())
        return int(np.prod(shape[:-2])) if len(shape) > 2 and tif.pages[0].imagedepth == 1 else None
    if tif.ome_metadata:
        sizes = [re.search(rf'Size{axis}="(\d+)"', tif.ome_metadata) for axis in "ZCT"]
        return int(np.prod([int(match.group(1)) for match in sizes if match]))
    return None


@contextmanager
def _damage_is_an_error(path: Path):
    """tifffile reports damage through logging and goes on; here the first such report is an error."""
    reports: list[str] = []
    handler = logging.Handler(level=logging.WARNING)
    handler.emit = lambda record: reports.append(record.getMessage())
    logger = logging.getLogger("tifffile")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
        if reports:
            raise ValueError(f"{path} is damaged: {reports[0]}; copy it again")
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # a cut header ends in struct.error, IndexError, KeyError, ... anywhere in tifffile
        ours = isinstance(error, ValueError) and str(error).startswith(str(path))
        if ours or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ValueError(f"{path} cannot be read as one stack of planes ({type(error).__name__}: {error}); copy it again, or, where it "
                         "opens elsewhere, save it as a plain multi-page TIFF") from error
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _sidecar_spacing(path: Path) -> tuple[float, ...] | None:
    sidecar = spacing_sidecar(path)
    if not sidecar.is_file():
        return None
    try:
        return tuple(float(value) for value in json.loads(sidecar.read_text())["spacing"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{sidecar} is no spacing file of nnU-Net; expected {{"spacing": [z, y, x]}}') from error


def _ome_spacing(tif) -> tuple[float, float, float] | None:
    if not tif.ome_metadata:
        return None
    description = html.unescape(tif.ome_metadata)
    spacing = []
    for axis in "ZYX":
        size = re.search(rf'PhysicalSize{axis}="([^"]+)"', description)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', description)
        factor = _MICROMETRES.get(unit.group(1).lower()) if unit else 1.0  # micrometres are the default of OME
        if size is None or factor is None:
            return None
        spacing.append(float(size.group(1)) * factor)
    return tuple(spacing)


def _imagej_spacing(tif) -> tuple[float, float, float] | None:
    metadata = tif.imagej_metadata or {}
    factor = _MICROMETRES.get(str(metadata.get("unit", "")).lower())
    tags = tif.pages[0].tags
    if factor is None or "spacing" not in metadata or "XResolution" not in tags or "YResolution" not in tags:
        return None
    (x_pixels, x_length), (y_pixels, y_length) = tags["XResolution"].value, tags["YResolution"].value
    if not x_pixels or not y_pixels:
        return None
    spacing = (float(metadata["spacing"]), y_length / y_pixels, x_length / x_pixels)
    # a TIFF stores the resolution as a fraction of 32-bit integers, which is 1.625 only to nine digits
    return tuple(float(f"{size * factor:.7g}") for size in spacing)


def _open_slices(folder: Path) -> Volume:
    files = slice_files(folder)
    planes = [_slice_header(path) for path in files]
    for path, plane in zip(files, planes):
        if plane != planes[0]:
            raise ValueError(f"slice {path} is {plane[0]} {plane[1]}, but {files[0].name} is {planes[0][0]} {planes[0][1]}; all slices of "
                             "a volume must be alike")
    return Volume(folder, (len(files), *planes[0][0]), planes[0][1], None, _read_slices)


def _slice_header(path: Path) -> tuple[tuple[int, int], np.dtype]:
    import tifffile

    # one page, whatever an OME header says of the other files
    with _damage_is_an_error(path), tifffile.TiffFile(path, is_ome=False) as tif:
        page = tif.pages[0]
        if len(tif.pages) > 1 or len(page.shape) != 2:
            raise ValueError(f"slice {path} has {len(tif.pages)} pages of shape {page.shape}; expected one grey plane")
        _check_pages(path, tif)
        return page.shape, np.dtype(page.dtype)


def _read_slices(folder: Path) -> np.ndarray:
    import tifffile

    planes = []
    for path in slice_files(folder):
        with _damage_is_an_error(path), tifffile.TiffFile(path, is_ome=False) as tif:
            planes.append(tif.pages[0].asarray())
    return np.stack(planes)


def _open_nifti(path: Path) -> Volume:
    import nibabel

    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a readable NIfTI: {error}; copy it again") from error
    if len(image.shape) != 3:
        raise ValueError(f"{path} has shape {image.shape}; expected three axes: split it into one file per channel")
    spacing = tuple(float(size) for size in image.header.get_zooms()[::-1])
    scaled = image.dataobj.slope != 1 or image.dataobj.inter != 0  # then the voxels that are read are not what the header says
    dtype = np.dtype(np.float64) if scaled else image.get_data_dtype()
    return Volume(path, tuple(image.shape[::-1]), dtype, spacing, _read_nifti, np.asarray(image.affine))


def _read_nifti(path: Path) -> np.ndarray:
    import nibabel

    try:
        image = nibabel.load(path)
        # integers without a scale stay integers; labels above 2**24 would not survive a float
        array = np.asarray(image.dataobj)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}; copy it again") from error
    return array.transpose(2, 1, 0)


def _open_image(path: Path) -> Volume:
    from PIL import Image

    with Image.open(path) as image:
        if len(image.getbands()) != 1:
            raise ValueError(f"{path} is a colour image with bands {''.join(image.getbands())}; expected one grey value per pixel")
        width, height = image.size
    array = _read_image(path)
    return Volume(path, (height, width), array.dtype, None, _read_image)


def _read_image(path: Path) -> np.ndarray:
    from skimage import io

    try:
        return io.imread(path)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}; copy it again") from error
