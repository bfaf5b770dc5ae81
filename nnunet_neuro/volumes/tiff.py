"""TIFF volumes: multi-page files of any common writer, one or several channels.

A file is checked for being whole when it is opened, because tifffile returns fewer pages from a truncated one without an error.
"""

from __future__ import annotations

import html
import logging
import math
import re
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.axes import check_elements
from nnunet_neuro.volumes.spacing import in_micrometres, micrometres_per, positive, sidecar_spacing
from nnunet_neuro.volumes.volume import Region, Volume

TIFF_SUFFIXES = (".tif", ".tiff")


def open_tiff_channels(path: Path) -> tuple[Volume, ...]:
    """The channels of a TIFF, each (z, y, x); a `.json` file of nnU-Net's Tiff3DIO comes before the TIFF's own voxel size.

    The voxels of an indexed-colour TIFF are the indices, because ImageJ saves a stack with a lookup table so.

    Raises:
        ValueError: truncated, damaged, with strips or tiles left out, colour, several time points, complex numbers, or several images of
            different shapes in one file.
    """
    state = path.stat()
    channels = _checked_channels(path, state.st_size, state.st_mtime_ns)
    spacing = sidecar_spacing(path)
    return tuple(replace(channel, spacing=spacing) for channel in channels) if spacing else channels


@lru_cache(maxsize=4096)
def _checked_channels(path: Path, size: int, mtime_ns: int) -> tuple[Volume, ...]:
    """Remembered as long as the file stays as it was: a conversion opens every file twice, and 150 pages take 5 ms."""
    import tifffile

    with damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        series = _one_image(path, tif)
        check_pages(path, tif)
        axes, shape = _axes_and_shape(series)
        if math.prod(shape[:-2]) < len(tif.pages):
            raise ValueError(f"{path} holds {len(tif.pages)} pages, but its description speaks of {math.prod(shape[:-2])}; save it again "
                             "as a plain multi-page TIFF")
        check_elements(path, np.dtype(series[0].dtype))
        channels = shape[axes.index("C")] if "C" in axes else 1
        zyx = (shape[axes.index("Z")] if "Z" in axes else 1, *shape[-2:])
        spacing = _ome_spacing(tif) or _imagej_spacing(tif)
        return tuple(Volume(path, zyx, np.dtype(series[0].dtype), spacing, partial(_read_tiff, channel)) for channel in range(channels))


def _axes_and_shape(series: list) -> tuple[str, tuple[int, ...]]:
    """Axes out of C, Z, Y, X with a length for each; an unnamed leading axis is z."""
    if len(series) > 1:
        return "ZYX", (len(series), *series[0].shape)
    kept = [(axis, length) for axis, length in zip(series[0].axes, series[0].shape) if length > 1 or axis in "YX"]
    axes = "".join(axis if axis in "CYX" else "Z" for axis, _ in kept)
    return axes, tuple(length for _, length in kept)


def _read_tiff(channel: int, path: Path, region: Region) -> np.ndarray:
    import tifffile

    z, y, x = region
    with damage_is_an_error(path), tifffile.TiffFile(path) as tif:
        series = _one_image(path, tif)
        if len(series) > 1:
            return np.stack([series[number].asarray()[y, x] for number in range(z.start, z.stop)])
        axes, shape = _axes_and_shape(series)
        planes = _plane_numbers(axes, shape, channel)[z]
        one = series[0]
        if len(planes) == int(np.prod(shape[:-2])):
            return one.asarray().reshape(-1, *shape[-2:])[:, y, x]
        if one.dataoffset is not None:  # uncompressed and in one piece
            whole = np.memmap(path, one.dtype.newbyteorder(tif.byteorder), "r", one.dataoffset, (int(np.prod(shape[:-2])), *shape[-2:]))
            return np.stack([whole[number, y, x] for number in planes]).astype(one.dtype, copy=False)
        if len(one.pages) == int(np.prod(shape[:-2])):
            return np.stack([one.pages[int(number)].asarray()[y, x] for number in planes])
        return one.asarray().reshape(-1, *shape[-2:])[planes][:, y, x]


def _plane_numbers(axes: str, shape: tuple[int, ...], channel: int) -> np.ndarray:
    """Position in the file of every z plane of a channel."""
    numbers = np.arange(int(np.prod(shape[:-2]))).reshape(shape[:-2])
    if "C" in axes:
        numbers = np.take(numbers, channel, axis=axes.index("C"))
    return numbers.reshape(-1)


def _one_image(path: Path, tif) -> list:
    """The TIFF's series: one of axes (c, z, y, x) in any order, or one plane each, as programs write that save plane after plane.

    Raises:
        ValueError: colour, time points, or several images in one file.
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
        unnamed = [axis for axis in axes if axis not in "CYX"]
        if set(axes) & set("TSHRVPM") or len(unnamed) > 1 or not axes.endswith("YX"):
            raise ValueError(f"{path} has axes {one.axes} of shape {one.shape}; expected (z, y, x), or with channels, of one time point: "
                             "save each channel as a file of its own (in Fiji, planes called t can be renamed to z with Properties)")
    if len(series) > 1 and any(len(one.shape) != 2 or one.shape != series[0].shape or one.dtype != series[0].dtype for one in series):
        raise ValueError(f"{path} holds {len(series)} separate images of shapes {', '.join(str(one.shape) for one in series[:3])}...; "
                         "expected one volume in a file")
    return series


def check_pages(path: Path, tif) -> None:
    """A cut file lacks pages that its description announces, or page data lies behind the end of the file.

    tifffile reads a strip or tile without an offset or of no bytes as zeros, as GDAL leaves them out; here it is an error.

    Raises:
        ValueError: truncated, or with strips or tiles left out.
    """
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
        _check_segments(path, number, page, page.keyframe or first)


def _check_segments(path: Path, number: int, page, header) -> None:
    """Every strip or tile of a page is there, and together they are as long as its header says."""
    offsets, counts = page.dataoffsets, page.databytecounts
    expected = math.prod(header.chunked)
    if len(offsets) < expected or 0 in offsets or 0 in counts:
        there = sum(1 for offset, count in zip(offsets, counts) if offset and count)
        raise ValueError(f"{path} lacks {expected - there} of {expected} strips or tiles of page {number}, which would be read as zeros; "
                         "copy it again, or save it as a plain multi-page TIFF")
    if header.compression == 1 and header.bitspersample >= 8 and sum(counts) < header.nbytes:
        raise ValueError(f"{path} has {sum(counts)} bytes of voxels in page {number}, expected {header.nbytes}; copy it again")
    if header.is_contiguous and any(offset + count != after for offset, count, after in zip(offsets, counts, offsets[1:])):
        raise ValueError(f"{path} has page {number} in scattered strips, which tifffile would misread; save it as a plain multi-page TIFF")


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
def damage_is_an_error(path: Path):
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


def _ome_spacing(tif) -> tuple[float, ...] | None:
    if not tif.ome_metadata:
        return None
    description = html.unescape(tif.ome_metadata)
    sizes = [re.search(rf'PhysicalSize{axis}="([^"]+)"', description) for axis in "ZYX"]
    units = [re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', description) for axis in "ZYX"]
    if any(size is None for size in sizes):
        return None
    # micrometres are the default of OME
    return in_micrometres([float(size.group(1)) for size in sizes], [unit.group(1) if unit else "um" for unit in units])


def _imagej_spacing(tif) -> tuple[float, ...] | None:
    metadata = tif.imagej_metadata or {}
    factor = micrometres_per(str(metadata.get("unit", "")))
    tags = tif.pages[0].tags
    if factor is None or "spacing" not in metadata or "XResolution" not in tags or "YResolution" not in tags:
        return None
    (x_pixels, x_length), (y_pixels, y_length) = tags["XResolution"].value, tags["YResolution"].value
    if not x_pixels or not y_pixels:
        return None
    try:
        spacing = (float(metadata["spacing"]), y_length / y_pixels, x_length / x_pixels)
    except ValueError:
        return None
    if not positive(spacing):
        return None
    # a TIFF stores the resolution as a fraction of 32-bit integers, which is 1.625 only to nine digits
    return tuple(float(f"{size * factor:.7g}") for size in spacing)
