"""Probabilities of the classes of one case: nnU-Net's `CASE.npz`, or a volume with a channel for each label."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_neuro.evaluate.label_names import LabelNames
from nnunet_neuro.volumes import Region, Volume, open_channels

_KEYS = ("probabilities", "softmax")


@dataclass(frozen=True)
class ClassProbabilities:
    """Probabilities that are read region by region.

    Attributes:
        path: file or folder; error messages name it.
        names: the classes, and what each channel stands for.
        channels: (z, y, x) each, sliced like arrays; integers are shares of the largest one of their type.
    """

    path: Path | str
    names: LabelNames
    channels: Sequence[_VolumeChannel | np.ndarray]

    def of(self, name: str, region: Region) -> np.ndarray:
        """(z, y, x) float32 probability of a class or region.

        Raises:
            ValueError: NaN, or numbers outside 0 to 1.
        """
        total = sum(self._channel(index, region) for index in self._channels_of(name))
        return np.clip(total, 0, 1)  # shares in few bits can add up to a little more than 1

    def _channels_of(self, name: str) -> list[int]:
        values, meaning = self.names.values_of(name), self.names.channels
        if len(self.channels) == 1 and values == meaning[-1]:
            return [0]
        if values in meaning:
            return [meaning.index(values)]
        if all((value,) in meaning for value in values):
            return [meaning.index((value,)) for value in values]
        raise ValueError(f"{self.path} gives no probability of {name!r}, because nnU-Net predicted regions; leave out that region, or "
                         "--probabilities")

    def _channel(self, index: int, region: Region) -> np.ndarray:
        stored = np.asarray(self.channels[index][region])
        found = stored.astype(np.float32)
        if stored.dtype.kind in "ui":
            found /= np.iinfo(stored.dtype).max
        lowest, highest = found.min(), found.max()  # NaN if there is one
        if not -0.001 <= lowest <= highest <= 1.001:
            raise ValueError(f"{self.path} holds the number {lowest if not lowest >= -0.001 else highest:g} in channel {index}; expected "
                             "probabilities from 0 to 1, not logits: save them with nnUNetv2_predict --save_probabilities")
        return found


def open_probabilities(path: Path | str, names: LabelNames, shape: Sequence[int], scratch: Path) -> ClassProbabilities:
    """Open the probabilities of a case.

    Args:
        path: `CASE.npz`, or a volume of several channels.
        names: the classes.
        shape: (z, y, x) of the case.
        scratch: an empty folder; a packed file is unpacked there, so that regions of it can be read.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: damaged, of another shape, or with channels for other labels.
    """
    if str(path).endswith(".npz"):
        channels = _unpacked(Path(path), scratch)
        found = channels.shape[1:]
    else:
        volumes = open_channels(path)
        channels, found = [_VolumeChannel(volume) for volume in volumes], volumes[0].shape
    if tuple(found[-3:]) not in (tuple(shape), tuple(shape[1:]) if shape[0] == 1 else None):
        raise ValueError(f"{path} has probabilities of shape {tuple(found)} (z, y, x), but the reference has {tuple(shape)}; expected the "
                         "same voxels: save them from the same images")
    expected = len(names.channels)
    if len(channels) != expected and not (len(channels) == 1 and expected == 2):
        raise ValueError(f"{path} has {len(channels)} channels of probabilities; expected {expected} for the labels of {names.source}: "
                         "background and each class, or each region")
    return ClassProbabilities(path, names, channels)


@dataclass(frozen=True)
class _VolumeChannel:
    """A volume that is sliced like an array."""

    volume: Volume

    def __getitem__(self, region: Region) -> np.ndarray:
        return self.volume.read(region) if len(self.volume.shape) == 3 else self.volume.read(region[1:])[None]


def _unpacked(path: Path, scratch: Path) -> np.ndarray:
    """(c, z, y, x) array on disk."""
    if not path.is_file():
        raise FileNotFoundError(f"no probabilities {path}; save them with nnUNetv2_predict --save_probabilities")
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((f"{key}.npy" for key in _KEYS if f"{key}.npy" in archive.namelist()), None)
            if name is None:
                raise ValueError(f"{path} holds {', '.join(archive.namelist()) or 'nothing'}; expected nnU-Net's array 'probabilities'")
            with archive.open(name) as packed, (scratch / name).open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error
    try:
        found = np.load(scratch / name, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} holds no array of numbers ({error}); expected nnU-Net's array 'probabilities'") from error
    if found.dtype.kind not in "fui":
        raise ValueError(f"{path} holds an array of {found.dtype}; expected probabilities as floating-point numbers")
    if found.ndim != 4:
        raise ValueError(f"{path} has probabilities of shape {found.shape}; expected (channels, z, y, x)")
    return found
