"""Order of the axes in a stored array, and how channels and (z, y, x) regions are cut from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.volumes.volume import Region, Source, Volume

# an unnamed leading axis longer than this is hardly one of channels
MOST_CHANNELS = 16


@dataclass(frozen=True)
class StoredArray:
    """What the header of an array in a container says.

    Attributes:
        path: the file, folder or address.
        shape: in the array's own order.
        dtype: of its elements; whatever its byte order, they are read in that of the machine.
        axes: one of t, c, z, y, x for each axis.
        spacing: (z, y, x) in micrometres, or None.
    """

    path: Path | str
    shape: tuple[int, ...]
    dtype: np.dtype
    axes: str
    spacing: tuple[float, ...] | None


def guess_axes(path: Path | str, shape: Sequence[int]) -> str:
    """Axes of an array that does not name them: (z, y, x), with channels in front.

    Raises:
        ValueError: neither 2, 3 nor 4 axes, or a leading axis too long for channels.
    """
    if len(shape) == 4 and shape[0] > MOST_CHANNELS:
        raise ValueError(f"{path} has shape {tuple(shape)}; expected (z, y, x) or (channels, z, y, x) with at most {MOST_CHANNELS} "
                         "channels: store the channels in front, or each as an array of its own")
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"{path} has {len(shape)} axes of shape {tuple(shape)}; expected (z, y, x) or (channels, z, y, x)")
    return "czyx"[4 - len(shape):]


def check_elements(path: Path | str, dtype: np.dtype) -> None:
    """Refuse elements that are no numbers of a voxel: complex, text, records, ...

    Raises:
        ValueError: neither boolean, integers nor floats of up to 64 bits.
    """
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise ValueError(f"{path} holds elements of type {dtype}; expected integers or floats of up to 64 bits")


def channels_of(stored: StoredArray, open_array: Callable[[Path | str], Any],
                lister: Callable[[Callable, Path | str, Region], list[Source]] | None = None) -> tuple[Volume, ...]:
    """One volume per channel of a stored array.

    Args:
        stored: its header.
        open_array: path -> something that is sliced like an ndarray in the order of `stored.axes`; a function of a module, or a
            `functools.partial` of one. Called for each region that is read.
        lister: (region of a channel -> region of the array, path, region) -> files of a region; None where the path is the only one.

    Raises:
        ValueError: axes that are no volume, several time points, or elements that are no numbers.
    """
    _check_axes(stored)
    length_of = dict(zip(stored.axes, stored.shape))
    shape = tuple(length_of.get(axis, 1) for axis in "zyx")
    dtype = stored.dtype.newbyteorder("=")
    volumes = []
    for channel in range(length_of.get("c", 1)):
        cut = partial(_cut, stored.axes, channel)
        volumes.append(Volume(stored.path, shape, dtype, stored.spacing, partial(_read, open_array, stored.axes, cut),
                              lister=lister and partial(lister, cut)))
    return tuple(volumes)


def _check_axes(stored: StoredArray) -> None:
    if len(set(stored.axes)) != len(stored.axes) or not {"y", "x"} <= set(stored.axes) <= set("tczyx"):
        raise ValueError(f"{stored.path} has axes {', '.join(stored.axes)}; expected z, y, x, and perhaps c and t, once each")
    if any(length < 1 for length in stored.shape):
        raise ValueError(f"{stored.path} has shape {stored.shape} and so holds no voxel; expected a volume")
    times = dict(zip(stored.axes, stored.shape)).get("t", 1)
    if times > 1:
        raise ValueError(f"{stored.path} has {times} time points; expected one: save the one you want as a volume of its own")
    check_elements(stored.path, stored.dtype)


def _cut(axes: str, channel: int, region: Region) -> tuple[slice, ...]:
    """The part of the stored array that holds a (z, y, x) region of a channel."""
    place = {"c": slice(channel, channel + 1), "t": slice(0, 1), **dict(zip("zyx", region))}
    return tuple(place[axis] for axis in axes)


def _read(open_array: Callable, axes: str, cut: Callable, path: Path | str, region: Region) -> np.ndarray:
    array = np.asarray(open_array(path)[cut(region)])
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # SimpleITK takes no other byte order
    spatial = [axis for axis in axes if axis in "zyx"]
    array = array.reshape([length for axis, length in zip(axes, array.shape) if axis in "zyx"])
    array = array.transpose([spatial.index(axis) for axis in "zyx" if axis in spatial])
    return array if "z" in spatial else array[None]
