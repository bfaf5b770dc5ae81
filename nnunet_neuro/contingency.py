"""How the objects of two volumes of ids overlap: a sparse table of voxels that adds up over blocks.

scikit-image's `contingency_table` has a row for every number up to the largest id and takes one whole image; ids of connectomes reach far
beyond what such a table can hold, and volumes beyond what fits in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Contingency:
    """The voxels of each pair of ids that occurs; `+` joins the tables of two blocks with ids that hold in both.

    Attributes:
        prediction: (n,) uint64 ids, 0 for background, in rising order.
        reference: (n,) uint64 ids, 0 for background, in rising order for one id of the prediction; no pair occurs twice.
        voxels: (n,) int64, positive.
    """

    prediction: np.ndarray
    reference: np.ndarray
    voxels: np.ndarray

    @classmethod
    def of(cls, prediction: np.ndarray, reference: np.ndarray, where: np.ndarray) -> Contingency:
        """Count the pairs of ids at the voxels that are true in `where`.

        Time goes with the number of voxels, and that of sorting with the number of runs of equal pairs along the last axis.

        Args:
            prediction: (z, y, x) integer ids, 0 for background.
            reference: ids of the same shape.
            where: bool of the same shape.

        Raises:
            ValueError: the shapes differ, or the ids are no integers.
        """
        if not prediction.shape == reference.shape == where.shape:
            raise ValueError(f"ids of the prediction have shape {prediction.shape}, of the reference {reference.shape}, the counted voxels "
                             f"{where.shape}; expected the same: cut all three from the same place")
        if prediction.dtype.kind not in "ui" or reference.dtype.kind not in "ui":
            raise ValueError(f"ids are {prediction.dtype} and {reference.dtype}; expected integers: a float cannot tell large ids apart, "
                             "and a mask has none, label its objects first")
        flat = [np.ravel(array) for array in (prediction, reference, where)]
        if not flat[0].size:
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))
        changes = np.zeros(flat[0].size - 1, bool)
        for array in flat:
            changes |= array[1:] != array[:-1]
        starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
        lengths = np.diff(starts, append=flat[0].size)
        counted = flat[2][starts]
        return cls._summed(*(array[starts[counted]].astype(np.uint64) for array in flat[:2]), lengths[counted])

    def __add__(self, other: Contingency) -> Contingency:
        joined = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("prediction", "reference", "voxels"))
        return self._summed(*joined)

    def selected(self, pairs: np.ndarray) -> Contingency:
        """The table of some pairs.

        Args:
            pairs: (n,) bool.
        """
        return Contingency(self.prediction[pairs], self.reference[pairs], self.voxels[pairs])

    @property
    def total(self) -> int:
        """Voxels of all pairs."""
        return int(self.voxels.sum())

    @cached_property
    def prediction_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the prediction in rising order, and the voxels of each."""
        return _sizes(self.prediction, self.voxels)

    @cached_property
    def reference_sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the reference in rising order, and the voxels of each."""
        return _sizes(self.reference, self.voxels)

    @classmethod
    def _summed(cls, prediction: np.ndarray, reference: np.ndarray, voxels: np.ndarray) -> Contingency:
        """From pairs in any order that may occur more than once."""
        order = np.lexsort((reference, prediction))
        prediction, reference = prediction[order], reference[order]
        first = np.ones(len(order), bool)
        first[1:] = (prediction[1:] != prediction[:-1]) | (reference[1:] != reference[:-1])
        return cls(prediction[first], reference[first], _sum_from(np.flatnonzero(first), voxels[order]))


def _sizes(ids: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(ids, kind="stable")
    found, starts = np.unique(ids[order], return_index=True)
    return found, _sum_from(starts, voxels[order])


def _sum_from(starts: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return np.add.reduceat(voxels, starts) if len(starts) else np.zeros(0, np.int64)
