"""Flat images, and folders that hold a volume slice by slice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.axes import check_elements
from nnunet_neuro.volumes.tiff import TIFF_SUFFIXES, check_pages, damage_is_an_error
from nnunet_neuro.volumes.volume import Region, Source, Volume

IMAGE_SUFFIXES = (".png", ".bmp")
SLICE_SUFFIXES = (*TIFF_SUFFIXES, *IMAGE_SUFFIXES)
_DTYPES = {"L": np.uint8, "1": np.bool_, "I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16, "I": np.int32, "F": np.float32}


def open_image(path: Path, *, rgb_ids: bool = False) -> Volume:
    """A PNG or BMP as (y, x).

    Args:
        path: the file.
        rgb_ids: take a colour image for segment ids, red * 65536 + green * 256 + blue, as VAST exports them.

    Raises:
        ValueError: damaged, or colour without `rgb_ids`.
    """
    shape, dtype = _plane_header(path, rgb_ids)
    return Volume(path, shape, dtype, None, partial(_read_image, rgb_ids))


def open_slices(folder: Path, *, rgb_ids: bool = False) -> Volume:
    """A folder of slice TIFFs or PNGs as (z, y, x), in the order of the last number in their names.

    Raises:
        ValueError: no slices, a missing or repeated number, or slices that differ.
    """
    files = slice_files(folder)
    planes = [_plane_header(path, rgb_ids) for path in files]
    for path, plane in zip(files, planes):
        if plane != planes[0]:
            raise ValueError(f"slice {path} is {plane[0]} {plane[1]}, but {files[0].name} is {planes[0][0]} {planes[0][1]}; all slices of "
                             "a volume must be alike")
    return Volume(folder, (len(files), *planes[0][0]), planes[0][1], None, partial(_read_slices, rgb_ids), lister=_slice_sources)


def slice_files(folder: Path) -> list[Path]:
    """The slices of a folder by the last number in their names; names of 4 and 5 digits sort rightly.

    Raises:
        ValueError: none there, both TIFFs and PNGs, a name without a number, or a number missing or given twice.
    """
    files = [path for path in folder.iterdir() if path.suffix.lower() in SLICE_SUFFIXES and not path.name.startswith(".")]
    if not files:
        raise ValueError(f"{folder} holds no slice TIFF or PNG, nor the metadata of a Zarr, N5 or precomputed volume; expected files such "
                         "as 0000.tif")
    kinds = {path.suffix.lower() for path in files}
    if len(kinds) > 1 and not kinds <= set(TIFF_SUFFIXES):
        raise ValueError(f"{folder} holds slices of several kinds ({', '.join(sorted(kinds))}); keep one")
    by_number: dict[int, Path] = {}
    for path in sorted(files):
        number = last_number(path.stem)
        if number is None:
            raise ValueError(f"slice {path} has no number in its name; expected names such as 0000.tif")
        if number in by_number:
            raise ValueError(f"{by_number[number].name} and {path.name} in {folder} are both slice {number}; keep one of them")
        by_number[number] = path
    first, last = min(by_number), max(by_number)
    missing = last - first + 1 - len(by_number)
    if missing:
        absent = next(number for number in range(first, last) if number not in by_number)
        raise ValueError(f"{folder} has slices {first} to {last} without {absent} ({missing} missing); copy the folder again")
    return [by_number[number] for number in sorted(by_number)]


def last_number(stem: str) -> int | None:
    """The last run of digits in a file's stem, or None."""
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else None


def _plane_header(path: Path, rgb_ids: bool) -> tuple[tuple[int, int], np.dtype]:
    state = path.stat()
    return _checked_plane(path, rgb_ids, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=65536)
def _checked_plane(path: Path, rgb_ids: bool, size: int, mtime_ns: int) -> tuple[tuple[int, int], np.dtype]:
    """Remembered as long as the file stays as it was: a conversion opens every slice twice."""
    if path.suffix.lower() in TIFF_SUFFIXES:
        return _tiff_plane_header(path)
    from PIL import Image

    try:
        with _images_of_any_size(), Image.open(path, formats=("PNG", "BMP")) as image:
            mode, (width, height), frames = image.mode, image.size, getattr(image, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no readable PNG or BMP ({error}); copy it again") from error
    if frames > 1:
        raise ValueError(f"{path} holds {frames} frames; expected one image: save each as a file of its own")
    if rgb_ids:
        if mode != "RGB":
            raise ValueError(f"{path} has bands {mode}; segment ids packed in colours need an RGB image")
        return (height, width), np.dtype(np.uint32)
    if mode not in _DTYPES:
        what = "an indexed-colour" if mode == "P" else "a colour"
        raise ValueError(f"{path} is {what} image (bands {mode}); expected one grey value per pixel: convert it to grey")
    return (height, width), np.dtype(_DTYPES[mode])


@contextmanager
def _images_of_any_size() -> Iterator[None]:
    """Pillow takes more than 179 megapixels for an attack; a section of electron microscopy has as many."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _tiff_plane_header(path: Path) -> tuple[tuple[int, int], np.dtype]:
    import tifffile

    # one page, whatever an OME header says of the other files
    with damage_is_an_error(path), tifffile.TiffFile(path, is_ome=False) as tif:
        page = tif.pages[0]
        if len(tif.pages) > 1 or len(page.shape) != 2:
            raise ValueError(f"{path} has {len(tif.pages)} pages of shape {page.shape}; expected a slice of one grey plane")
        check_elements(path, np.dtype(page.dtype))
        check_pages(path, tif)
        return page.shape, np.dtype(page.dtype)


def _slice_sources(folder: Path, region: Region) -> list[Source]:
    return [Source(str(path), path) for path in slice_files(folder)[region[0]]]


def _read_slices(rgb_ids: bool, folder: Path, region: Region) -> np.ndarray:
    z, y, x = region
    return np.stack([_read_plane(path, rgb_ids)[y, x] for path in slice_files(folder)[z]])


def _read_image(rgb_ids: bool, path: Path, region: Region) -> np.ndarray:
    return _read_plane(path, rgb_ids)[region]


def _read_plane(path: Path, rgb_ids: bool) -> np.ndarray:
    if path.suffix.lower() in TIFF_SUFFIXES:
        import tifffile

        with damage_is_an_error(path), tifffile.TiffFile(path, is_ome=False) as tif:
            return tif.pages[0].asarray()
    import imagecodecs
    from PIL import Image

    try:
        with _images_of_any_size(), Image.open(path) as image:
            # Pillow fills up a PNG of too few rows with zeros; libpng refuses it
            array = imagecodecs.png_decode(path.read_bytes()) if image.format == "PNG" else np.asarray(image)
    except (OSError, SyntaxError, ValueError, imagecodecs.PngError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    if rgb_ids:
        red, green, blue = (array[..., band].astype(np.uint32) for band in range(3))
        return (red << 16) | (green << 8) | blue
    grey = array if array.ndim == 2 else array[..., 0]  # libpng adds a band for a transparent grey
    return grey.astype(_DTYPES[image.mode], copy=False)
