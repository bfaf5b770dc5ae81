"""The image and label volumes of a task: cutouts of BossDB, or what was downloaded before."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from nnunet_neuro.bossdb import BossAccess, fetch, open_cutout
from nnunet_neuro.task_config import PARTS, Box, Range, Task
from nnunet_neuro.volumes import Region, Volume, derived, open_volume, strip_suffix

# value of an unlabelled voxel in the label volumes of this module; far above every class of the two systems
UNLABELLED = 255

_SAVED = {"image": "images", "annotation": "labels"}  # in the names of the systems' own .npy files
_SINGLE = {"image": "image", "annotation": "labels"}  # in the names of one file per cutout


@dataclass(frozen=True)
class TaskSource:
    """Where the voxels of a task are.

    Attributes:
        task: with the ranges as they were downloaded.
        spacing: voxel size (z, y, x) in micrometres; holds whatever a file or BossDB says.
        access: to BossDB.
        folder: with downloaded files instead; None for BossDB. Either the arrays that the systems' scripts saved,
            `<name><part>images.npy` and `<name><part>labels.npy`, in which the cutouts of all regions follow each other along z; or a
            file of any volume format for each cutout, `<region>_image.*` and `<region>_labels.*`, with the planes of `zrange`.
    """

    task: Task
    spacing: tuple[float, float, float]
    access: BossAccess | None
    folder: Path | None

    def open(self, what: Literal["image", "annotation"], box: Box, z: Range, *, may_be_empty: bool = False) -> Volume:
        """The volume (z, y, x) of a cutout's planes `z`, counted as the task counts them; voxels are not read.

        Args:
            what: which of the two channels.
            box: one of the task's.
            z: half-open.
            may_be_empty: whether the cutout may be zero throughout.

        Raises:
            OSError: not there, or BossDB cannot be reached.
            ValueError: not of the shape that the task promises.
        """
        if self.folder is None:
            volume = self._open_cutout(what, box, z, may_be_empty)
        elif self.folder.is_dir():
            volume = self._open_single(what, box, z) or self._open_saved(what, box, z)
        else:
            raise FileNotFoundError(f"no folder {self.folder}; expected one with {self._expected(what, box)}")
        if volume.spacing and not np.allclose(volume.spacing, self.spacing, rtol=1e-3):
            source = str(volume.path).partition("?")[0]
            note(f"{source} states a voxel size of {volume.spacing} um; the published {self.spacing} um is used")
        return replace(volume, spacing=self.spacing)

    def fetch(self, volumes: Collection[Volume]) -> None:
        """Download what is not in the cache yet, with a progress bar; nothing where the files are local."""
        if self.folder is None:
            fetch(list(volumes), self.access)

    def _open_cutout(self, what: str, box: Box, z: Range, may_be_empty: bool) -> Volume:
        channel = self.task.image if what == "image" else self.task.annotation
        ranges = f"z={z[0]}:{z[1]}&y={box.y[0]}:{box.y[1]}&x={box.x[0]}:{box.x[1]}"
        return open_cutout(f"{channel}?{ranges}", self.access, may_be_empty=may_be_empty)

    def _open_single(self, what: str, box: Box, z: Range) -> Volume | None:
        name = f"{box.name}_{_SINGLE[what]}"
        found = [path for path in sorted(self.folder.iterdir()) if strip_suffix(path) == name]
        if not found:
            return None
        if len(found) > 1:
            raise ValueError(f"{self.folder} holds both {found[0].name} and {found[1].name}; keep one of them")
        volume = open_volume(found[0])
        return _planes(volume, (self.task.z[1] - self.task.z[0], *box.shape), z[0] - self.task.z[0], z[1] - z[0],
                       f"planes {self.task.z[0]} to {self.task.z[1]} of {box.name}")

    def _open_saved(self, what: str, box: Box, z: Range) -> Volume:
        part = next((part for part in PARTS if self.task.part(part)[0] <= z[0] and z[1] <= self.task.part(part)[1]), None)
        if part is None:
            raise FileNotFoundError(f"{self.folder} has no {box.name}_{_SINGLE[what]}.*, and planes {z[0]} to {z[1]} are in no single part "
                                    f"of task {self.task.name}, so in no array that its script saved; put such a file there")
        path = self.folder / f"{self.task.name}{part}{_SAVED[what]}.npy"
        if not path.is_file():
            there = ", ".join(sorted(other.name for other in self.folder.glob("*.npy"))) or "no .npy file"
            raise FileNotFoundError(f"no file {path}; expected {self._expected(what, box)}, found {there} (the file given to --task-config "
                                    "decides the name)")
        first, stop = self.task.part(part)
        shape = (len(self.task.boxes) * (stop - first), *box.shape)
        start = self.task.boxes.index(box) * (stop - first) + z[0] - first
        return _planes(open_volume(path), shape, start, z[1] - z[0], f"planes {first} to {stop} of "
                       f"{', '.join(each.name for each in self.task.boxes)}, one after another")

    def _expected(self, what: str, box: Box) -> str:
        return f"{self.task.name}train{_SAVED[what]}.npy or {box.name}_{_SINGLE[what]}.tif (or .npy, .nii.gz, .h5 ...)"


@functools.cache
def note(sentence: str) -> None:
    """Tell the user something that is no error, once, on stderr."""
    print(f"note: {sentence}", file=sys.stderr)


def _planes(volume: Volume, shape: tuple[int, ...], start: int, count: int, meaning: str) -> Volume:
    if volume.shape != shape:
        raise ValueError(f"{volume.path} has shape {volume.shape}, expected {shape} ({meaning}); give the task file that it was made with")
    return volume.crop((slice(start, start + count), slice(0, shape[1]), slice(0, shape[2])))


def class_labels(labels: Volume, unlabelled_planes: Collection[int] = ()) -> Volume:
    """The labels as uint8, with some planes unlabelled.

    Args:
        labels: (z, y, x), integers; BossDB has uint64.
        unlabelled_planes: z indices in `labels`; they become UNLABELLED.

    Returns:
        The volume; reading it raises ValueError where a label has a value of UNLABELLED or more.
    """
    return derived(labels, partial(_read_classes, frozenset(unlabelled_planes)), np.uint8)


def _read_classes(unlabelled_planes: frozenset[int], base: Volume, region: Region) -> np.ndarray:
    array = base.read(region)
    if array.size and (array.max() >= UNLABELLED or array.min() < 0):
        value = int(array.max() if array.max() >= UNLABELLED else array.min())
        raise ValueError(f"labels {base.path} hold the value {value}; expected class numbers from 0 to {UNLABELLED - 1}, not ids of single "
                         "objects")
    array = array.astype(np.uint8)
    for plane in range(region[0].start, region[0].stop):
        if plane in unlabelled_planes:
            array[plane - region[0].start] = UNLABELLED
    return array


def foreground(labels: Volume, threshold: float | None, *, advice: str) -> Volume:
    """A mask 0 or 1 (uint8) of labels of any type.

    Args:
        labels: (z, y, x), integers, booleans or floats.
        threshold: what lies above it is 1; None takes the labels as they are, which must then be 0 and 1.
        advice: end of the error message for other values: what to do.

    Returns:
        The volume; reading it raises ValueError for NaN, or for other values than 0 and 1 without a threshold.
    """
    return derived(labels, partial(_read_foreground, threshold, advice), np.uint8)


def _read_foreground(threshold: float | None, advice: str, base: Volume, region: Region) -> np.ndarray:
    array = base.read(region)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError(f"labels {base.path} hold NaN; expected numbers")
    if threshold is not None:
        return (array > threshold).astype(np.uint8)
    strange = (array != 0) & (array != 1)
    if strange.any():
        raise ValueError(f"labels {base.path} hold the value {array[strange][0]:g}, expected 0 and 1 without a threshold; {advice}")
    return array.astype(np.uint8)
