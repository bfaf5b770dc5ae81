"""Any volume as an OME-Zarr image that is computed when a viewer asks for a chunk of it.

Coarser levels are every second, fourth, ... voxel, so that a viewer that shows all of a brain reads few planes.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import numpy as np

from nnunet_neuro.predict.ome_metadata import image_attributes
from nnunet_neuro.predict.pyramid import level_sizes
from nnunet_neuro.volumes import Region, Volume

# flat, because most formats are stored plane by plane
CHUNK = (16, 128, 128)
# a volume up to that size is read once and kept; of a larger one so much is kept
_KEPT_BYTES = 512_000_000
# neuroglancer shows no other types
_SHOWN = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
_HIGHEST = 65535


class VolumeZarr:
    """Answers for the keys of a Zarr v2 group (`.zattrs`, `0/.zarray`, `0/3/1/4`, ...) from a volume.

    Attributes:
        volume: what is shown, (z, y, x).
    """

    def __init__(self, volume: Volume, spacing: tuple[float, float, float], unit: str | None, name: str):
        """Prepare the metadata; nothing is read.

        Args:
            volume: (z, y, x).
            spacing: (z, y, x) voxel size in `unit`.
            unit: "micrometer", "millimeter" or None.
            name: of the image.
        """
        self.volume = volume
        self._levels = level_sizes(volume.shape, spacing, CHUNK)
        self._dtype = np.dtype(str(volume.dtype) if str(volume.dtype) in _SHOWN else np.uint8 if volume.dtype == bool else np.float32)
        self._attributes = image_attributes(name, [size for _, size in self._levels], unit, (), _HIGHEST)
        self._whole = int(np.prod(volume.shape, dtype=object)) * volume.dtype.itemsize <= _KEPT_BYTES
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: str) -> bytes | None:
        """The bytes of a key; None where there is no such key.

        Raises:
            ValueError, OSError: the volume cannot be read.
        """
        if key == ".zgroup":
            return _json({"zarr_format": 2})
        if key == ".zattrs":
            return _json(self._attributes)
        level, *rest = key.split("/")
        if not level.isdecimal() or int(level) >= len(self._levels):
            return None
        if rest == [".zarray"]:
            return _json(self._array(int(level)))
        if len(rest) != 3 or not all(part.isdecimal() for part in rest):
            return None
        return self._chunk(int(level), tuple(int(part) for part in rest))

    def _array(self, level: int) -> dict[str, Any]:
        return {"zarr_format": 2, "shape": list(self._levels[level][0]), "chunks": list(CHUNK), "dtype": self._dtype.newbyteorder("<").str,
                "compressor": None, "fill_value": 0, "order": "C", "filters": None, "dimension_separator": "/"}

    def _chunk(self, level: int, place: tuple[int, ...]) -> bytes | None:
        shape, size = self._levels[level]
        region = tuple(slice(number * length, min((number + 1) * length, end)) for number, length, end in zip(place, CHUNK, shape))
        if any(part.start >= part.stop for part in region):
            return None
        factors = tuple(round(coarse / fine) for coarse, fine in zip(size, self._levels[0][1]))
        with self._lock:  # neuroglancer asks for many chunks of a slab at once; the first reads it for all
            voxels = self._sampled(region, factors)
        chunk = np.zeros(CHUNK, self._dtype.newbyteorder("<"))
        chunk[tuple(slice(0, length) for length in voxels.shape)] = voxels
        return chunk.tobytes()

    def _sampled(self, region: Region, factors: tuple[int, ...]) -> np.ndarray:
        z, y, x = region
        plane_bytes = int(np.prod(self.volume.shape[1:], dtype=object)) * self.volume.dtype.itemsize
        if self._whole:
            whole = self._keep(None, self.volume.read)
            return whole[tuple(_steps(part, factor) for part, factor in zip(region, factors))]
        # formats of whole planes read all of a plane for a chunk: keep it for the others
        if plane_bytes * CHUNK[0] <= _KEPT_BYTES // 2:
            slab = self._keep((z.start, factors), lambda: self._planes((z, slice(0, None), slice(0, None)), factors))
            return slab[:, y, x]
        return self._planes(region, factors)

    def _planes(self, region: Region, factors: tuple[int, ...]) -> np.ndarray:
        z, *in_plane = region
        rows, columns = (slice(part.start * factor, length if part.stop is None else min(part.stop * factor, length))
                         for part, factor, length in zip(in_plane, factors[1:], self.volume.shape[1:]))
        if factors[0] == 1:
            return self.volume.read((z, rows, columns))[:, ::factors[1], ::factors[2]]
        planes = [self.volume.read((slice(number, number + 1), rows, columns))[0, ::factors[1], ::factors[2]]
                  for number in range(z.start * factors[0], min(z.stop * factors[0], self.volume.shape[0]), factors[0])]
        return np.stack(planes)

    def _keep(self, key: Hashable, read) -> np.ndarray:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        array = self._kept[key] = read()
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return array


def _steps(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor, factor)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()
