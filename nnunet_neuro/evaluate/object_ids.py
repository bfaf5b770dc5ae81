"""Ids of objects that hold for a whole case, for measures of objects in blocks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from nnunet_neuro.components import Run, label_components
from nnunet_neuro.evaluate.sources import ROLES, CaseVoxels
from nnunet_neuro.volumes import Region


class ObjectIds:
    """The connected components (26 neighbours) of the annotated part of each mask, found block by block when they are first asked for.

    Args:
        case: the case.
        folder: an empty folder, which keeps the ids.
        block: (z, y, x) of the blocks.
    """

    def __init__(self, case: CaseVoxels, folder: Path, block: tuple[int, ...]):
        self._case, self._folder, self._block = case, folder, block
        self._found: dict[tuple[str, str], Path] = {}

    def of(self, name: str, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """(z, y, x) uint64 ids of prediction and reference in a region, 0 where there is no object of the class."""
        return tuple(_read(self._path(name, role), region) for role in ROLES)

    def _path(self, name: str, role: str) -> Path:
        if (name, role) not in self._found:
            self._found[name, role] = self._numbered(name, role, self._folder / f"{len(self._found)}")
        return self._found[name, role]

    def _numbered(self, name: str, role: str, path: Path) -> Path:
        import zarr

        # a block is a chunk, so that each is written and read once
        chunks = tuple(min(side, length) for side, length in zip(self._block, self._case.shape))
        zarr.open_array(str(path), mode="w", shape=self._case.shape, chunks=chunks, dtype="uint64", fill_value=0)
        run = Run(path.with_name(f"{path.name}.work"), block=self._block, progress=False)
        label_components(self._case.class_mask(name, role), partial(_write, path), run, connectivity=26)
        return path


def _write(path: Path, region: Region, ids: np.ndarray) -> None:
    import zarr

    zarr.open_array(str(path), mode="r+")[region] = ids


def _read(path: Path, region: Region) -> np.ndarray:
    import zarr

    return zarr.open_array(str(path), mode="r")[region]
