"""Zarr v2 and v3 arrays, and OME-Zarr images and labels (NGFF 0.4 and 0.5).

A chunk whose file is missing would be read as the fill value; it is refused unless the caller says that such chunks were left out on
purpose. Zarr v3 needs Python 3.11, because the zarr package that reads it does.
"""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.volumes.axes import StoredArray, channels_of, guess_axes
from nnunet_neuro.volumes.spacing import in_micrometres
from nnunet_neuro.volumes.volume import Region, Source, Volume

_ARRAY_FILES = ("zarr.json", ".zarray")
_GROUP_FILES = ("zarr.json", ".zgroup")


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((folder / name).is_file() for name in (*_ARRAY_FILES, *_GROUP_FILES))


def open_zarr_channels(folder: Path, *, missing_are_zero: bool = False) -> tuple[Volume, ...]:
    """The channels of an array, each (z, y, x).

    Args:
        folder: an array; or an OME-Zarr image, of which the finest level is opened; or a group with one array.
        missing_are_zero: read chunks that were never written as the fill value.

    Raises:
        ValueError: damaged, several arrays to choose from, not a volume of numbers, or (when it is read) a missing chunk.
    """
    level, axes, spacing = _find(folder)
    array = _open(level)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{level} holds elements of type {array.dtype}; expected integers or floats")
    axes = axes or guess_axes(level, array.shape)
    if len(axes) != len(array.shape):
        raise ValueError(f"{level} has shape {array.shape}, but its group's metadata name the axes {', '.join(axes)}; correct one of them")
    stored = StoredArray(level, array.shape, array.dtype, axes, spacing)
    return channels_of(stored, partial(_Opened, missing_are_zero), partial(_sources, missing_are_zero))


class _Opened:
    """An array that reads a region after it has seen that the region's chunks are there."""

    def __init__(self, missing_are_zero: bool, path: Path | str):
        self._array, self._path, self._missing_are_zero = _open(Path(path)), Path(path), missing_are_zero

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        _chunk_files(self._array, self._path, region, self._missing_are_zero)
        try:
            return self._array[region]
        except Exception as error:  # every codec has its own way to complain
            raise ValueError(f"a chunk of {self._path} in region {region} is damaged ({type(error).__name__}: {error}); copy it "
                             "again") from error


def _sources(missing_are_zero: bool, cut, path: Path | str, region: Region) -> list[Source]:
    files = _chunk_files(_open(Path(path)), Path(path), cut(region), missing_are_zero)
    metadata = [Path(path) / name for name in _ARRAY_FILES if (Path(path) / name).is_file()]
    return [Source(str(file), file) for file in (*metadata, *files)]


def _chunk_files(array, path: Path, region: tuple[slice, ...], missing_are_zero: bool) -> list[Path]:
    """The files that hold a region.

    Raises:
        ValueError: one is missing and that is not allowed, or one is empty.
    """
    lengths = getattr(array, "shards", None) or array.chunks
    numbers = [range(part.start // length, (part.stop - 1) // length + 1) for part, length in zip(region, lengths)]
    files = {place: path / _chunk_key(array, place) for place in itertools.product(*numbers)}
    there = {place: file for place, file in files.items() if file.is_file()}
    if len(there) < len(files) and not missing_are_zero:
        first = next(file for place, file in files.items() if place not in there)
        raise ValueError(f"{path} lacks {len(files) - len(there)} of {len(files)} chunks, the first of them {first.relative_to(path)}, "
                         f"which would be read as {array.fill_value}; copy it again, or, where empty chunks were left out on "
                         "purpose (zarr's default), say --missing-chunks zero")
    if not there:
        return []
    return list(there.values())


def _chunk_key(array, place: tuple[int, ...]) -> str:
    if hasattr(array, "metadata"):
        return array.metadata.encode_chunk_key(place)
    return array._chunk_key(place)  # zarr 2, the last for Python 3.10


def _open(path: Path):
    import zarr

    if (path / "zarr.json").is_file() and int(zarr.__version__.split(".")[0]) < 3:
        raise ValueError(f"{path} is Zarr v3, which needs Python 3.11 or newer with zarr 3; this is zarr {zarr.__version__}")
    try:
        return zarr.open_array(str(path), mode="r")
    except Exception as error:  # JSON errors, unknown codecs, missing keys, ...
        raise ValueError(f"{path} cannot be opened as a Zarr array ({type(error).__name__}: {error}); copy it again") from error


def _find(folder: Path) -> tuple[Path, str | None, tuple[float, ...] | None]:
    """The array's folder with the axes and voxel size that OME-Zarr metadata of it or of its group state."""
    if _is_array(folder):
        for group in folder.parents:
            if not is_zarr(group):
                break
            if found := _ome_level(group, folder):
                return found
        return folder, None, _named_spacing(folder)
    if found := _ome_level(folder, None):
        return found
    arrays = sorted(child for child in folder.iterdir() if child.is_dir() and is_zarr(child) and _is_array(child))
    if len(arrays) != 1:
        names = ", ".join(array.name for array in arrays[:9]) or "none"
        raise ValueError(f"{folder} is a Zarr group of {len(arrays)} arrays ({names}); name one of them, or give an OME-Zarr image")
    return arrays[0], None, _named_spacing(arrays[0])


def _is_array(folder: Path) -> bool:
    return (folder / ".zarray").is_file() or _json(folder / "zarr.json").get("node_type") == "array"


def _attributes(folder: Path) -> dict[str, Any]:
    attributes = _json(folder / ".zattrs") or _json(folder / "zarr.json").get("attributes", {})
    return {**attributes, **attributes["ome"]} if isinstance(attributes.get("ome"), dict) else attributes


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); copy the Zarr folder again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object; copy the Zarr folder again")
    return content


def _ome_level(group: Path, wanted: Path | None) -> tuple[Path, str, tuple[float, ...] | None] | None:
    """The wanted level of an OME-Zarr image (the finest for None); None where the group is no image, or has no such level."""
    multiscales = _attributes(group).get("multiscales")
    if not multiscales:
        return None
    try:
        image = multiscales[0]
        names = [axis if isinstance(axis, str) else axis["name"] for axis in image["axes"]]
        units = {name: axis.get("unit") if isinstance(axis, dict) else None for name, axis in zip(names, image["axes"])}
        level = next((one for one in image["datasets"] if wanted in (None, group / one["path"])), None)
        if level is None:
            return None
        scale = _scale_of(level) and [a * b for a, b in zip(_scale_of(level), _scale_of(image) or [1.0] * len(names))]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{group} has OME-Zarr metadata without {error}; expected multiscales with axes and datasets") from error
    folder = group / level["path"]
    if not _is_array(folder):
        raise ValueError(f"{group} names a level {level['path']!r}, but there is no array in {folder}; copy it again")
    axes = "".join(name if len(name) == 1 else "?" for name in names).lower()
    size_of = dict(zip(axes, scale or ()))
    spacing = in_micrometres([size_of[axis] for axis in "zyx"], [units[axis] for axis in "zyx"]) if set("zyx") <= size_of.keys() else None
    return folder, axes, spacing


def _scale_of(holder: dict[str, Any]) -> list[float] | None:
    return next((one["scale"] for one in holder.get("coordinateTransformations", ()) if one.get("type") == "scale"), None)


def _named_spacing(folder: Path) -> tuple[float, ...] | None:
    """The attribute `resolution` of plain arrays, (z, y, x) in nanometres, as CREMI-like Zarr files have it."""
    sizes = _attributes(folder).get("resolution")
    if isinstance(sizes, list) and len(sizes) == 3 and all(isinstance(size, int | float) for size in sizes):
        return in_micrometres(sizes, ["nm"] * 3)
    return None
