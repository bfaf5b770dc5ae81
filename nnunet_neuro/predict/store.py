"""The OME-Zarr folder that the blocks of a prediction are written to.

    OUTPUT/0              labels (z, y, x), the finest level; `pyramid.build_pyramid` adds 1, 2, ...
    OUTPUT/NAME/0         a further array, such as probabilities (c, z, y, x) or entropy (z, y, x)

Every chunk is stored, also one of background only: a chunk that is not there was never written, and readers refuse it. A background chunk
takes one block of the file system. zarr writes a chunk under a temporary name and renames it, so that a killed process leaves whole chunks
only, and perhaps a `*.partial` file that no reader sees; `LabelStore.remove_leftovers` deletes those.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.predict.complete import appearing, leftovers_beside, remove, writing
from nnunet_neuro.predict.ome_metadata import spacings_in
from nnunet_neuro.predict.store_layout import LABELS, FurtherArray, StoreLayout, attributes_of, read_attributes, read_layout
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.volumes import Region, Volume, describe_region, full_region, open_channels

__all__ = ["LABELS", "FurtherArray", "LabelStore", "StoreLayout", "create_array", "open_for_writing"]


class LabelStore:
    """A store on disk; picklable, several processes may write different regions at once.

    Attributes:
        path: the folder.
        layout: what it is made of.
    """

    def __init__(self, path: Path, layout: StoreLayout):
        self.path, self.layout = path, layout
        self._arrays: dict[str, Any] = {}

    @classmethod
    def create(cls, path: str | Path, layout: StoreLayout) -> LabelStore:
        """Make an empty store; it appears under its name with all its metadata at once.

        Raises:
            FileExistsError: something is there already.
            OSError: the place cannot be written to.
        """
        path = Path(path)
        with appearing(path) as unfinished:
            _write_group(unfinished, layout, LABELS)
            for one in layout.further:
                _write_group(unfinished / one.name, layout, one.name)
        return cls(path, layout)

    @classmethod
    def open(cls, path: str | Path) -> LabelStore:
        """Open a store that `create` made.

        Raises:
            FileNotFoundError: nothing there.
            ValueError: no store of this program.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no prediction {path}; check the path")
        return cls(path, read_layout(path))

    @classmethod
    def create_or_open(cls, path: str | Path, layout: StoreLayout) -> LabelStore:
        """Open the store at `path`, or make it where there is none; two processes may do so at once.

        Arrays that were added since, such as instances, do not matter.

        Raises:
            ValueError: what is there has another layout, or is no store.
        """
        if not Path(path).exists():
            try:
                return cls.create(path, layout)
            except FileExistsError:
                pass
        store = cls.open(path)
        for name in StoreLayout.__dataclass_fields__:
            there, wanted = getattr(store.layout, name), getattr(layout, name)
            if there != wanted and not (name == "further" and set(wanted) <= set(there)):
                raise ValueError(f"{path} has {name} {there}, but this prediction has {wanted}; choose another output, or remove it")
        return store

    @property
    def chunk(self) -> tuple[int, int, int]:
        """(z, y, x) of a stored chunk."""
        return self.layout.chunk

    def write(self, region: Region, array: np.ndarray, name: str = LABELS) -> None:
        """Write whole chunks; no other chunk is touched, and each appears complete or not at all.

        Args:
            region: (z, y, x); its faces lie at multiples of `chunk` or at the end of the volume.
            array: (z, y, x), or (c, z, y, x) for an array with channels. Floats for an array of integers are shares from 0 to 1.
            name: "labels" or a further array.

        Raises:
            ValueError: a face within a chunk, another shape, or numbers that the store's type cannot hold.
            OSError: disk full or read-only.
        """
        further = self.layout.array(name)
        region = full_region(self.layout.shape, region)
        self._check_faces(region)
        channels = _channel_axis(further)
        expected = (*channels, *(part.stop - part.start for part in region))
        if array.shape != expected:
            raise ValueError(f"{name} of region {describe_region(region)} have shape {array.shape}; expected {expected}")
        stored = _stored(array, further.dtype if further else self.layout.dtype, name)
        if name not in self._arrays:
            self._arrays[name] = open_for_writing(self.folder(name) / "0")
        with writing(self.path):
            self._arrays[name][(*(slice(None) for _ in channels), *region)] = stored

    def read(self, region: Region | None = None, name: str = LABELS, *, level: int = 0) -> np.ndarray:
        """The stored numbers of a region, all of them for None.

        Args:
            region: (z, y, x) in the voxels of the level.
            name: "labels" or a further array.
            level: of the pyramid.

        Returns:
            (z, y, x), or (c, z, y, x) for an array with channels.

        Raises:
            ValueError: a chunk of the region was not written yet, or is damaged.
        """
        volumes = self.volumes(name, level=level)
        return np.stack([volume.read(region) for volume in volumes]) if _channel_axis(self.layout.array(name)) else volumes[0].read(region)

    def volumes(self, name: str = LABELS, *, level: int = 0) -> tuple[Volume, ...]:
        """An array as volumes, one per channel; their voxel size is in micrometres."""
        return open_channels(self.folder(name) / str(level))

    def folder(self, name: str = LABELS) -> Path:
        """The OME-Zarr group of an array."""
        return self.path if self.layout.array(name) is None else self.path / name

    def holds(self, region: Region, name: str = LABELS, *, folder: Path | None = None) -> bool:
        """Whether every chunk of a region is there; nothing is decoded.

        Args:
            region: (z, y, x).
            name: "labels" or a further array.
            folder: of the Zarr array, for one with the same chunks as the finest level; None for that level.
        """
        numbers = [range(part.start // length, -(-part.stop // length)) for part, length in zip(region, self.chunk)]
        channels = [range(count) for count in _channel_axis(self.layout.array(name))]
        folder = folder or self.folder(name) / "0"
        return all(folder.joinpath(*map(str, place)).is_file() for place in itertools.product(*channels, *numbers))

    def check_finished(self, name: str = LABELS) -> None:
        """Refuse an array of which chunks are missing.

        Raises:
            ValueError: the prediction did not come to its end.
        """
        if not self.holds(full_region(self.layout.shape, None), name):
            raise ValueError(f"the {name} in {self.path} are not complete; run nnneuro_predict once more with the same options to finish "
                             "them")

    def add(self, further: FurtherArray) -> LabelStore:
        """The store with one more array, which is made unless it is there.

        Raises:
            ValueError: there is another array of that name.
        """
        layout = StoreLayout(**{**vars(self.layout), "further": (*self.layout.further, further)})
        with suppress(FileExistsError), appearing(self.path / further.name) as unfinished:
            _write_group(unfinished, layout, further.name)
        store = LabelStore.open(self.path)
        if store.layout.array(further.name) != further:
            raise ValueError(f"{self.path} has another array called {further.name!r} already; remove it, or choose another output")
        return store

    def spacings(self, name: str = LABELS) -> list[tuple[float, ...]]:
        """(z, y, x) voxel size of every level that is there, in the unit of the layout; where no size is known, in finest voxels."""
        return spacings_in(read_attributes(self.folder(name)))

    def set_spacings(self, spacings: list[tuple[float, ...]], name: str = LABELS) -> None:
        """Announce the levels of an array, the finest first."""
        with writing(self.path):
            write_json(self.folder(name) / ".zattrs", attributes_of(self.layout, name, spacings))

    def remove_leftovers(self) -> int:
        """Delete the temporary files of killed processes, only while nobody writes; gives how many there were."""
        leftovers = [*self.path.rglob("*.partial"), *leftovers_beside(self.path)]
        for leftover in leftovers:
            remove(leftover)
        return len(leftovers)

    def _check_faces(self, region: Region) -> None:
        for part, length, chunk in zip(region, self.layout.shape, self.chunk):
            whole = part.start % chunk == 0 and (part.stop % chunk == 0 or part.stop == length)
            if not (0 <= part.start < part.stop <= length and whole):
                raise ValueError(f"region {describe_region(region)} does not consist of whole chunks of {self.path}, whose shape is "
                                 f"{self.layout.shape} and whose chunks are {self.chunk}; write whole chunks")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": {}}


def open_for_writing(folder: Path) -> Any:
    """A zarr array that stores every chunk that is written to it, also one of zeros."""
    import zarr

    if _is_zarr_2(zarr):  # does so by itself
        return zarr.open_array(str(folder), mode="r+")
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(str(folder), mode="r+")


def create_array(folder: Path, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str) -> None:
    """An empty Zarr v2 array with chunks in nested folders, so that no folder gets more entries than a row has chunks."""
    import zarr
    from numcodecs import Blosc

    version = {} if _is_zarr_2(zarr) else {"zarr_format": 2}
    zarr.create(shape, chunks=chunk, dtype=dtype, compressor=Blosc("zstd", clevel=3, shuffle=Blosc.BITSHUFFLE), fill_value=0, order="C",
                store=str(folder), dimension_separator="/", **version)


def _is_zarr_2(zarr: Any) -> bool:
    """The last for Python 3.10; it knows neither zarr 3's configuration nor another format."""
    return int(zarr.__version__.split(".")[0]) < 3


def _write_group(folder: Path, layout: StoreLayout, name: str) -> None:
    further = layout.array(name)
    leading = _channel_axis(further)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / ".zgroup", {"zarr_format": 2})
    write_json(folder / ".zattrs", attributes_of(layout, name))
    create_array(folder / "0", (*leading, *layout.shape), (*(1 for _ in leading), *layout.chunk),
                 further.dtype if further else layout.dtype)


def _channel_axis(further: FurtherArray | None) -> tuple[int, ...]:
    """The length of the channel axis, or nothing."""
    return (len(further.channels),) if further and further.channels else ()


def _stored(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    wanted = np.dtype(dtype)
    if array.dtype.kind == "f" and wanted.kind == "u":
        return np.rint(np.clip(array.astype(np.float32), 0, 1) * np.iinfo(wanted).max).astype(wanted)
    if not np.can_cast(array.dtype, wanted, "same_kind" if wanted.kind == "f" else "safe"):
        raise ValueError(f"{name} are of type {array.dtype}, but the store holds {wanted}; give numbers of that type")
    return array.astype(wanted, copy=False)
