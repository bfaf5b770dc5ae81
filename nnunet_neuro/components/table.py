"""The table of objects."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_neuro.components.parts import Measures
from nnunet_neuro.raw_formats import complete_file

# of a row, at most
_BYTES_PER_ROW = 300
_ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class ObjectTable:
    """The objects of a volume; row i has the id i + 1.

    Attributes:
        class_of: (n,) int64 class of each.
        voxels: (n,) int64.
        lowest, highest: (n, 3) int64 first and last voxel along z, y, x.
        centroid: (n, 3) float64 mean z, y, x of the voxels.
        spacing: voxel size (z, y, x), so that the centre of voxel i lies at i times the spacing.
        unit: of the spacing, such as "um" or "mm"; it names columns of the file.
    """

    class_of: np.ndarray
    voxels: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    centroid: np.ndarray
    spacing: tuple[float, float, float]
    unit: str

    @classmethod
    def of(cls, objects: Measures, *, spacing: Sequence[float], unit: str) -> ObjectTable:
        """The table of measured objects."""
        return cls(objects.class_of, objects.voxels, objects.lowest, objects.highest, objects.sums / objects.voxels[:, None],
                   tuple(map(float, spacing)), unit)

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def volume(self) -> np.ndarray:
        """(n,) float64 in the unit to the third power."""
        return self.voxels * np.prod(self.spacing)

    @property
    def position(self) -> np.ndarray:
        """(n, 3) float64 centroid z, y, x in the unit."""
        return self.centroid * self.spacing

    def columns(self) -> dict[str, np.ndarray]:
        """Column name -> values; boxes are half open, in voxels."""
        by_axis = {"start": self.lowest, "stop": self.highest + 1, "centroid": self.centroid, self.unit: self.position}
        return {"id": np.arange(1, len(self) + 1), "class": self.class_of, "voxels": self.voxels, f"volume_{self.unit}3": self.volume,
                **{f"{axis}_{name}": values[:, i] for name, values in by_axis.items() for i, axis in enumerate("zyx")}}

    def write(self, path: str | Path) -> Path:
        """Write a CSV file; it appears when it is complete.

        Raises:
            OSError: no space left, or not allowed.
        """
        path = Path(path)
        columns = self.columns()
        with complete_file(path, path.with_name(f".{path.name}.partial"), _BYTES_PER_ROW * len(self)) as partial:
            with partial.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(columns)
                for first in range(0, len(self), _ROWS_AT_ONCE):
                    writer.writerows(zip(*(values[first:first + _ROWS_AT_ONCE].tolist() for values in columns.values())))
        return path
