"""N5 and neuroglancer precomputed volumes, on disk or behind http(s), gs and s3 addresses; needs the extra `precomputed` (tensorstore).

tensorstore itself refuses a missing chunk when told so, which is done here.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.axes import StoredArray, channels_of
from nnunet_neuro.volumes.spacing import in_micrometres
from nnunet_neuro.volumes.volume import Region, Source, Volume

PRECOMPUTED = "precomputed://"


def is_n5(folder: Path) -> bool:
    """Whether a folder is an N5 array.

    Raises:
        ValueError: its attributes.json is damaged.
    """
    return "dimensions" in _attributes(folder)


def is_precomputed(folder: Path) -> bool:
    """Whether a folder is a neuroglancer precomputed volume."""
    info = folder / "info"
    return info.is_file() and '"scales"' in info.read_text(encoding="utf-8", errors="replace")


def open_n5_channels(folder: Path, *, missing_are_zero: bool = False) -> tuple[Volume, ...]:
    """The channels of an N5 array of axes x, y, z (, c), each (z, y, x).

    The voxel size is taken from `pixelResolution` with its unit, or from `resolution` in nanometres, as n5-viewer and Paintera have them.
    """
    store = _open("n5", missing_are_zero, folder)
    if store.rank not in (3, 4):
        raise ValueError(f"{folder} has {store.rank} axes of shape {store.shape}; expected x, y, z, and perhaps channels")
    return _channels(folder, store, "xyzc"[: store.rank], _n5_spacing(folder), partial(_open, "n5", missing_are_zero))


def open_precomputed_channels(address: Path | str, *, missing_are_zero: bool = False) -> tuple[Volume, ...]:
    """The channels of the finest scale of a neuroglancer precomputed volume, each (z, y, x); its resolution is in nanometres."""
    store = _open("neuroglancer_precomputed", missing_are_zero, address)
    units = store.dimension_units
    spacing = in_micrometres([units[axis].multiplier for axis in (2, 1, 0)], [units[axis].base_unit for axis in (2, 1, 0)])
    return _channels(address, store, "xyzc", spacing, partial(_open, "neuroglancer_precomputed", missing_are_zero))


def _channels(path: Path | str, store, axes: str, spacing, open_array) -> tuple[Volume, ...]:
    stored = StoredArray(path, tuple(store.shape), np.dtype(store.dtype.numpy_dtype), axes, spacing)
    return channels_of(stored, partial(_Opened, open_array), _sources)


class _Opened:
    """The array from its first voxel on, whatever origin its metadata give it."""

    def __init__(self, open_array, path: Path | str):
        self._store, self._path = open_array(path), path

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        origin = self._store.domain.origin
        shifted = tuple(slice(first + part.start, first + part.stop) for first, part in zip(origin, region))
        try:
            return self._store[shifted].read().result()
        except (ValueError, OSError) as error:
            hint = ", or, where empty chunks were left out on purpose, say --missing-chunks zero" if "NOT_FOUND" in str(error) or \
                "missing" in str(error).lower() else ""
            raise ValueError(f"a chunk of {self._path} is missing or damaged ({_first_line(error)}); copy it again{hint}") from error


def _sources(cut, path: Path | str, region: Region) -> list[Source]:
    """No files: which shards of which codec hold a region is tensorstore's business, so the voxels themselves are hashed."""
    return [Source(f"{path}[{','.join(f'{part.start}:{part.stop}' for part in region)}]", None)]


def _open(driver: str, missing_are_zero: bool, path: Path | str):
    try:
        import tensorstore
    except ImportError as error:
        raise ValueError(f"reading {path} needs tensorstore; install it with: pip install 'nnunet_neuro[precomputed]'") from error
    address = str(path).removeprefix(PRECOMPUTED)
    spec = {"driver": driver, "kvstore": address if "://" in address else {"driver": "file", "path": str(Path(address).absolute())},
            "fill_missing_data_reads": missing_are_zero}
    try:
        return tensorstore.open(spec, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be opened as {driver.removeprefix('neuroglancer_')} ({_first_line(error)}); check the address or "
                         "copy it again") from error


def _first_line(error: Exception) -> str:
    """Without tensorstore's dump of its own settings."""
    return re.split(r" \[(?:tensorstore_spec|source locations)=", str(error).splitlines()[0])[0][:600]


def _attributes(folder: Path) -> dict:
    file = folder / "attributes.json"
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); copy {folder} again") from error
    return content if isinstance(content, dict) else {}


def _n5_spacing(folder: Path) -> tuple[float, ...] | None:
    attributes = _attributes(folder)
    stated, unit = attributes.get("pixelResolution"), "um"
    if isinstance(stated, dict):
        stated, unit = stated.get("dimensions"), stated.get("unit", "um")
    if stated is None:
        stated, unit = attributes.get("resolution"), "nm"
    return in_micrometres(stated[2::-1], [unit] * 3) if isinstance(stated, list) and len(stated) >= 3 else None
