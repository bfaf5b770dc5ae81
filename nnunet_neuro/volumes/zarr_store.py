"""Zarr v2 and v3 arrays, and OME-Zarr images and labels (NGFF 0.4 and 0.5).

A chunk whose file is missing, or that its shard's index calls empty, would be read as the fill value; it is refused unless the caller says
that such chunks were left out on purpose. Zarr v3 needs Python 3.11, because the zarr package that reads it does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.volumes.axes import StoredArray, channels_of, check_elements, guess_axes
from nnunet_neuro.volumes.spacing import in_micrometres
from nnunet_neuro.volumes.volume import Region, Source, Volume, describe_region

_ARRAY_FILES = ("zarr.json", ".zarray")
_GROUP_FILES = ("zarr.json", ".zgroup")
# missing chunks are not counted further
_MANY = 1000


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
    check_elements(level, array.dtype)
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
            raise ValueError(f"a chunk of {self._path} in region {describe_region(region)} is damaged ({_reason(error)}); copy it "
                             "again") from error


def _sources(missing_are_zero: bool, cut, path: Path | str, region: Region) -> list[Source]:
    files = _chunk_files(_open(Path(path)), Path(path), cut(region), missing_are_zero)
    metadata = [Path(path) / name for name in _ARRAY_FILES if (Path(path) / name).is_file()]
    return [Source(str(file), file) for file in (*metadata, *files)]


def _chunk_files(array, path: Path, region: tuple[slice, ...], missing_are_zero: bool) -> list[Path]:
    """The files that hold a region.

    Raises:
        ValueError: one is missing or lacks a part, and that is not allowed, or one is empty.
    """
    lengths = getattr(array, "shards", None) or array.chunks
    numbers = [range(part.start // length, (part.stop - 1) // length + 1) for part, length in zip(region, lengths)]
    blosc = lengths == array.chunks and _is_blosc(array)
    there, missing = [], []
    for place in _places(numbers):
        file = path / _chunk_key(array, place)
        if not file.is_file():
            missing.append(file)
            if len(missing) == _MANY and not missing_are_zero:
                break
            continue
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty; copy {path} again")
        if blosc and file.stat().st_size < _blosc_length(file):
            raise ValueError(f"{file} is truncated: {file.stat().st_size} bytes of {_blosc_length(file)}; copy {path} again")
        if not missing_are_zero and lengths != array.chunks:
            held = _held_by_shard(array, path, place, file, region)
            if not held.all():
                raise _lacks(array, path, f"{np.count_nonzero(~held)} of {held.size} chunks of its shard {file.relative_to(path)}")
        there.append(file)
    if missing and not missing_are_zero:
        count = f"{len(missing)}{' or more' if len(missing) == _MANY else ''} of {math.prod(map(len, numbers))} chunks"
        raise _lacks(array, path, f"{count}, the first of them {missing[0].relative_to(path)}")
    return there


def _is_blosc(array) -> bool:
    """Whether Blosc made the bytes of a chunk's file; it reads beyond the end of truncated ones without an error."""
    compressors = array.compressors if hasattr(array, "compressors") else (array.compressor,)
    return bool(compressors) and "Blosc" in type(compressors[-1]).__name__


def _blosc_length(file: Path) -> int:
    """Bytes that the header of a Blosc chunk promises."""
    with file.open("rb") as stream:
        header = stream.read(16)
    return int.from_bytes(header[12:16], "little") if len(header) == 16 else 16


def _places(numbers: Sequence[range]) -> Iterator[tuple[int, ...]]:
    """As itertools.product, which first makes lists of its arguments: a damaged shape may speak of more chunks than fit the memory."""
    if not numbers:
        yield ()
        return
    for first in numbers[0]:
        for others in _places(numbers[1:]):
            yield first, *others


def _lacks(array, path: Path, what: str) -> ValueError:
    return ValueError(f"{path} lacks {what}, which would be read as {array.fill_value}; copy it again, or, where empty chunks were left "
                      "out on purpose (zarr's default), say --missing-chunks zero")


def _held_by_shard(array, path: Path, place: tuple[int, ...], file: Path, region: tuple[slice, ...]) -> np.ndarray:
    """Which of the chunks of a region a shard holds, by its index, which zarr keeps to itself.

    The index, at the shard's end or start, has the offset and the length of each chunk as 64-bit numbers, all ones for one left out.
    """
    sharding = _json(path / "zarr.json")["codecs"][0]["configuration"]
    counts = [shard // chunk for shard, chunk in zip(array.shards, array.chunks)]
    length = 16 * math.prod(counts)
    with file.open("rb") as stream:
        if sharding.get("index_location", "end") == "end":
            checksum = 4 if "crc32c" in str(sharding.get("index_codecs")) else 0
            stream.seek(max(0, file.stat().st_size - length - checksum))
        index = stream.read(length)
    if len(index) < length:
        raise ValueError(f"{file} is truncated: {file.stat().st_size} bytes, its index alone takes {length}; copy {path} again")
    held = (np.frombuffer(index, np.uint64).reshape(*counts, 2) != 2**64 - 1).any(axis=-1)
    within = [slice(max(0, part.start - number * shard) // chunk, -(-min(part.stop - number * shard, shard) // chunk))
              for part, number, shard, chunk in zip(region, place, array.shards, array.chunks)]
    return held[tuple(within)]


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
        raise ValueError(f"{path} cannot be opened as a Zarr array ({_reason(error)}); copy it again") from error


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
    attributes = _json(folder / ".zattrs") or _json(folder / "zarr.json").get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ValueError(f"{folder} has attributes that are no JSON object; copy it again")
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
        names = [(axis if isinstance(axis, str) else axis["name"]).lower() for axis in image["axes"]]
        units = {name: axis.get("unit") if isinstance(axis, dict) else None for name, axis in zip(names, image["axes"])}
        axes = "".join(name if len(name) == 1 else "?" for name in names)
        level = next((one for one in image["datasets"] if wanted in (None, group / one["path"])), None)
        if level is None:
            return None
        scale = _scale_of(level)
        size_of = {axis: a * b for axis, a, b in zip(axes, scale or (), _scale_of(image) or [1.0] * len(names))}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{group} has OME-Zarr metadata that cannot be followed ({_reason(error)}); expected multiscales with axes, and "
                         "datasets with a path and a scale for each axis") from error
    if scale and len(scale) != len(names):
        raise ValueError(f"{group} gives {len(scale)} scales for the axes {', '.join(names)} in its OME-Zarr metadata; correct them")
    folder = group / level["path"]
    if not _is_array(folder):
        raise ValueError(f"{group} names a level {level['path']!r}, but there is no array in {folder}; copy it again")
    spacing = in_micrometres([size_of[axis] for axis in "zyx"], [units[axis] for axis in "zyx"]) if set("zyx") <= size_of.keys() else None
    return folder, axes, spacing


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _scale_of(holder: dict[str, Any]) -> list[float] | None:
    return next((one["scale"] for one in holder.get("coordinateTransformations", ()) if one.get("type") == "scale"), None)


def _named_spacing(folder: Path) -> tuple[float, ...] | None:
    """The attribute `resolution` of plain arrays, (z, y, x) in nanometres, as CREMI-like Zarr files have it."""
    sizes = _attributes(folder).get("resolution")
    if isinstance(sizes, list) and len(sizes) == 3 and all(isinstance(size, int | float) for size in sizes):
        return in_micrometres(sizes, ["nm"] * 3)
    return None
