"""The parts of objects that lie in one block: their voxels, what is measured of them, and the file that keeps both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnunet_neuro.components.grid import Offset
from nnunet_neuro.raw_formats import complete_file
from nnunet_neuro.volumes import Region


@dataclass(frozen=True)
class Measures:
    """What is known of each of n parts or objects; all numbers are whole, so that sums over blocks are exact.

    Attributes:
        class_of: (n,) int64.
        seed_of: (n,) uint64 id of the seed that a part grew from, 0 for none.
        voxels: (n,) int64.
        first: (n,) int64, index of the first voxel in the order z, y, x of the whole volume.
        lowest, highest: (n, 3) int64 first and last voxel along z, y, x.
        sums: (n, 3) int64 sums of the voxels' z, y and x.
    """

    class_of: np.ndarray
    seed_of: np.ndarray
    voxels: np.ndarray
    first: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    sums: np.ndarray


def measure_parts(labels: np.ndarray, class_of: np.ndarray, seed_of: np.ndarray, region: Region, shape: tuple[int, ...]) -> Measures:
    """Measure the parts of one block.

    Args:
        labels: (z, y, x) integers 1 to n, each occurring, 0 for background.
        class_of, seed_of: (n,), of part 1 first.
        region: of the block in the volume.
        shape: of the volume.
    """
    count = len(class_of)
    start = np.array([part.start for part in region], np.int64)
    inside = np.flatnonzero(labels)
    part_of = labels.ravel()[inside].astype(np.int64) - 1
    places = np.unravel_index(inside, labels.shape)
    voxels = np.bincount(part_of, minlength=count).astype(np.int64)
    # bincount adds in float64, which is exact far beyond what a block can sum to
    sums = np.stack([np.bincount(part_of, along, minlength=count) for along in places], axis=1).astype(np.int64)
    first = np.zeros(count, np.int64)
    first[part_of[::-1]] = inside[::-1]  # of several numbers for one place the last is kept
    first_place = np.stack(np.unravel_index(first, labels.shape), axis=1) + start if count else np.zeros((0, 3), np.int64)
    boxes = np.array([[(one.start, one.stop - 1) for one in box] for box in ndimage.find_objects(labels)], np.int64).reshape(count, 3, 2)
    return Measures(class_of.astype(np.int64), seed_of.astype(np.uint64), voxels, np.ravel_multi_index(tuple(first_place.T), shape),
                    boxes[..., 0] + start, boxes[..., 1] + start, sums + voxels[:, None] * start)


def save_parts(path: Path, labels: np.ndarray, measures: Measures) -> None:
    """Write a block's file; it appears when it is complete.

    Raises:
        OSError: no space left.
    """
    labels = labels.astype(np.min_scalar_type(len(measures.voxels)))
    faces = {_face_key(axis, side): labels.take([side], axis) for axis in range(3) for side in (0, -1)}
    with complete_file(path, path.with_name(f".{path.name}.partial"), labels.nbytes) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, labels=labels, **faces, **measures.__dict__)


class SavedParts:
    """A block's file; each of its arrays is decoded when it is asked for."""

    def __init__(self, path: Path):
        self._arrays = np.load(path)

    def labels(self) -> np.ndarray:
        """(z, y, x) part of each voxel."""
        return self._arrays["labels"]

    def measures(self) -> Measures:
        """What is known of the parts."""
        return Measures(**{name: self._arrays[name] for name in Measures.__dataclass_fields__})

    def border(self, step: Offset) -> np.ndarray:
        """The parts in the plane, edge or corner that lies in the direction of `step`; three axes, of length 1 along the step."""
        axis = next(axis for axis, one in enumerate(step) if one)
        plane = self._arrays[_face_key(axis, _side(step[axis]))]
        for other in range(axis + 1, 3):
            if step[other]:
                plane = plane.take([_side(step[other])], other)
        return plane

    def close(self) -> None:
        """Give the file back."""
        self._arrays.close()


def _face_key(axis: int, side: int) -> str:
    return f"face_{axis}_{'first' if side == 0 else 'last'}"


def _side(step: int) -> int:
    return 0 if step < 0 else -1
