"""HDF5 volumes, addressed as `FILE.h5/dataset`, or `FILE.h5` where it holds one volume."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes.axes import StoredArray, channels_of, check_elements, guess_axes
from nnunet_neuro.volumes.spacing import in_micrometres
from nnunet_neuro.volumes.volume import Region, Source, Volume

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")


def split_hdf5(path: Path) -> tuple[Path, str] | None:
    """The file and the dataset's name in it, or None if no part of the path is an HDF5 file."""
    for file in (path, *path.parents):
        if file.name.lower().endswith(HDF5_SUFFIXES) and file.is_file():
            return file, path.relative_to(file).as_posix().strip(".")
    return None


def open_hdf5_channels(file: Path, name: str, *, missing_are_zero: bool = False) -> tuple[Volume, ...]:
    """The channels of a dataset, each (z, y, x).

    The voxel size is taken from the attribute `element_size_um` (micrometres), or `resolution` (nanometres, as CREMI has it).

    Args:
        file: the HDF5 file.
        name: of the dataset in it; empty where it holds only one volume.
        missing_are_zero: accept chunks that were never written, and datasets whose voxels lie in other files; HDF5 reads what is not
            there as its fill value.

    Raises:
        ValueError: damaged or truncated, no such dataset, several to choose from, never written, spread over other files, or compressed in
            a way that h5py does not know.
    """
    import h5py

    with _damage_is_an_error(file), h5py.File(file, "r") as content:
        dataset = _find(file, content, name)
        address = file / dataset.name.lstrip("/")
        check_elements(address, dataset.dtype)
        axes = guess_axes(address, dataset.shape or ())
        _check_filters(address, dataset)
        if not missing_are_zero:
            _check_written(address, dataset)
        stored = StoredArray(address, dataset.shape, dataset.dtype, axes, _spacing(dataset))
        files = dict.fromkeys((file, Path(dataset.file.filename)))  # another one behind an external link
    return channels_of(stored, partial(_Opened, str(file), dataset_name(address, file)), partial(_sources, tuple(files)))


@contextmanager
def _damage_is_an_error(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:  # h5py has no error of its own
        ours = isinstance(error, ValueError) and str(error).startswith(str(path))
        if ours or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise ValueError(f"{path} is damaged, truncated or no HDF5 file ({_reason(error)}); copy it again") from error


def dataset_name(address: Path, file: Path) -> str:
    """The name of a dataset within its file."""
    return address.relative_to(file).as_posix()


class _Opened:
    """The dataset, opened for each region that is read: h5py's handles do not survive a fork."""

    def __init__(self, file: str, name: str, path: Path | str):
        self._file, self._name, self._path = file, name, path

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        import h5py

        with _damage_is_an_error(self._path), h5py.File(self._file, "r") as content:
            return content[self._name][region]


def _sources(files: tuple[Path, ...], cut, path: Path | str, region: Region) -> list[Source]:
    return [Source(str(file), file) for file in files]


def _find(file: Path, content, name: str):
    import h5py

    if name:
        found = content.get(name)
        if isinstance(found, h5py.Dataset):
            return found
        link = content.get(name, getlink=True)
        if found is None and isinstance(link, h5py.SoftLink | h5py.ExternalLink):
            target = f"{link.filename}/{link.path}" if isinstance(link, h5py.ExternalLink) else link.path
            raise ValueError(f"{file} has a link {name!r} to {target}, which is not there; copy that too")
        names = _volumes(content)
        raise ValueError(f"{file} holds no dataset {name!r}; it holds {', '.join(names) or 'no volume'}")
    names = _volumes(content)
    if len(names) != 1:
        raise ValueError(f"{file} holds {len(names)} volumes; expected one, or its name behind the file"
                         + (f", for example {file}/{names[0]}: it has {', '.join(names[:20])}" if names else ""))
    return content[names[0]]


def _volumes(content) -> list[str]:
    import h5py

    names: list[str] = []
    content.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and item.ndim >= 3 else None)
    return names


def _check_filters(address: Path, dataset) -> None:
    from h5py import h5z

    pipeline = dataset.id.get_create_plist()
    for number in range(pipeline.get_nfilters()):
        code, _, _, name = pipeline.get_filter(number)
        if not h5z.filter_avail(code):
            raise ValueError(f"{address} is compressed by the filter {code} ({name.decode(errors='replace')}), which h5py does not know; "
                             "save it with gzip, for example by h5repack -f GZIP=4")


def _check_written(address: Path, dataset) -> None:
    """HDF5 gives its fill value for what was never written, as when a program died, and for files that it does not find."""
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{address} is put together from other files, of which HDF5 reads as zeros what is not there; save its voxels as "
                         "a dataset of their own, or, where all files are there, say --missing-chunks zero")
    if dataset.chunks is None:
        if dataset.id.get_storage_size() == 0 and dataset.size:
            raise ValueError(f"{address} was never written (it takes no space in the file); write it again")
        return
    expected = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks))
    found = dataset.id.get_num_chunks()
    if found < expected:
        raise ValueError(f"{address} lacks {expected - found} of {expected} chunks, which would be read as zeros; write them, or, where "
                         "empty chunks were left out on purpose, say --missing-chunks zero")


def _spacing(dataset) -> tuple[float, ...] | None:
    for attribute, unit in (("element_size_um", "um"), ("resolution", "nm")):
        if attribute in dataset.attrs:
            sizes = np.ravel(dataset.attrs[attribute])
            if len(sizes) == 3 and sizes.dtype.kind in "iuf":
                return in_micrometres([float(size) for size in sizes], [unit] * 3)
    return None


def _reason(error: Exception) -> str:
    return " ".join(str(error).strip("'\"").split()) or type(error).__name__
