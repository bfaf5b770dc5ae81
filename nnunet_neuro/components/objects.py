"""Objects of a label volume of any size: connected components or seeded watershed, block by block.

One pass finds the parts of objects in each block and keeps them in a work folder; merging needs only the faces of blocks and a few numbers
per part; a second pass writes each block with the ids of whole objects. Memory is that of one block (per worker), about 40 bytes per voxel
for components and 60 for a watershed, halo included, and 250 bytes per part while they are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.components.grid import BlockGrid, check_connectivity
from nnunet_neuro.components.labelling import components_of_classes
from nnunet_neuro.components.merging import Merged, is_saved, load_ids, load_merged, merge_parts, save_merged
from nnunet_neuro.components.parts import measure_parts, save_parts
from nnunet_neuro.components.table import ObjectTable
from nnunet_neuro.components.watershed import Landscape, flooded_parts
from nnunet_neuro.components.work_folder import WorkFolder, opened
from nnunet_neuro.volumes import Region, Volume

BlockWriter = Callable[[Region, np.ndarray], None]
# region -> parts 1 to n of the block; class and seed of each
_PartFinder = Callable[[Region], tuple[np.ndarray, np.ndarray, np.ndarray]]
_SEED_CHUNK = 64
DEFAULT_BLOCK = (256, 256, 256)
DEFAULT_HALO = (32, 32, 32)


@dataclass(frozen=True)
class Run:
    """How a volume is gone through.

    Attributes:
        work: folder that keeps finished blocks; begun or continued, and removed at the end.
        block: (z, y, x) voxels; where the output has chunks, a multiple of them, so that no two blocks share a chunk.
        workers: processes.
        progress: show bars on stderr.
        source: names the voxels, such as their hash; a work folder is not continued with another.
    """

    work: Path
    block: tuple[int, int, int] = DEFAULT_BLOCK
    workers: int = 1
    progress: bool = True
    source: str = ""


def label_components(labels: Volume, write: BlockWriter, run: Run, *, connectivity: int = 26, minimum_voxels: int = 1,
                     spacing: Sequence[float] | None = None, unit: str = "um", table: Path | None = None) -> ObjectTable:
    """Write the connected components of each class; whatever the blocks and workers, the ids are those of the whole volume.

    Ids go from 1 on in the order of the objects' first voxels (z, y, x), over all classes; objects of different classes never join.

    Args:
        labels: (z, y, x) integers, 0 for background; picklable where there are several workers.
        write: takes a region and its (z, y, x) uint64 ids; calling it twice with the same must give the same.
        run: blocks, work folder, workers.
        connectivity: 6, 18 or 26 neighbours.
        minimum_voxels: smaller objects become background and get no id.
        spacing: voxel size (z, y, x) for the table; that of `labels`, or else 1, for None.
        unit: of the spacing.
        table: CSV file to write, before the work folder goes.

    Returns:
        The objects.

    Raises:
        ValueError: labels that are no integers, or a work folder of something else.
        OSError: no space, or a worker died; what is finished stays.
        KeyboardInterrupt: interrupted; what is finished stays.
    """
    identity = {"method": "components", "source": run.source}
    finder = partial(_component_parts, labels, connectivity)
    with _begun(labels, run, identity, connectivity, minimum_voxels) as folder:
        merged = _find_and_write(finder, write, folder, run, connectivity, minimum_voxels, seeded_only=False)
        return _tabled(merged, labels, spacing, unit, table)


def label_watershed(landscape: Landscape, write: BlockWriter, run: Run, *, halo: tuple[int, int, int] = DEFAULT_HALO, connectivity: int = 6,
                    minimum_voxels: int = 1, seeded_only: bool = False, spacing: Sequence[float] | None = None, unit: str = "um",
                    table: Path | None = None) -> ObjectTable:
    """Write the objects of a seeded watershed; see `watershed` for what depends on the halo. Ids and arguments as in `label_components`.

    Args:
        landscape: labels, seeds and elevation.
        write, run, minimum_voxels, spacing, unit, table: as in `label_components`; block sizes with few divisors make it slow.
        halo: voxels (z, y, x) that are flooded around each block; the largest distance from a voxel to its seed is enough.
        connectivity: 6, 18 or 26 neighbours, of seeds, flood and parts.
        seeded_only: drop what touches no seeded object, instead of making it an object of its own.
    """
    options = {"method": "watershed", "source": run.source, "halo": list(map(int, halo)), "seeded_only": seeded_only,
               "rule": landscape.rule}
    with _begun(landscape.labels, run, options, connectivity, minimum_voxels) as folder:
        finder = partial(_flooded, landscape, _seeds(landscape.seeds, folder, run, connectivity), halo, connectivity)
        merged = _find_and_write(finder, write, folder, run, connectivity, minimum_voxels, seeded_only=seeded_only)
        return _tabled(merged, landscape.labels, spacing, unit, table)


def _begun(labels: Volume, run: Run, options: dict[str, Any], connectivity: int,
           minimum_voxels: int) -> AbstractContextManager[WorkFolder]:
    """The work folder, for what makes a difference to the finished blocks."""
    check_connectivity(connectivity)
    if labels.dtype.kind not in "uib":
        raise ValueError(f"{labels.path} holds {labels.dtype} voxels; expected integers, 0 for background and one value for each class")
    grid = BlockGrid(tuple(map(int, labels.shape)), tuple(map(int, run.block)))
    identity = {**options, "input": str(labels.path), "shape": grid.shape, "block": grid.block, "connectivity": connectivity,
                "minimum_voxels": minimum_voxels}
    return opened(Path(run.work), grid, identity)


def _tabled(merged: Merged, labels: Volume, spacing: Sequence[float] | None, unit: str, table: Path | None) -> ObjectTable:
    objects = ObjectTable.of(merged.objects, spacing=spacing or labels.spacing or (1.0, 1.0, 1.0), unit=unit)
    if table is not None:
        objects.write(table)
    return objects


# --- the passes --------------------------------------------------------------------------------------------------------------------


def _seeds(seeds: Volume, folder: WorkFolder, run: Run, connectivity: int) -> Volume:
    """The id of the seed of each seed voxel, as an array in the work folder, which is made once."""
    import zarr

    ids, done = folder.path / "seeds", folder.path / "seeded"
    if not done.is_dir():
        chunks = tuple(map(_chunk_of, folder.grid.block))
        zarr.open_array(str(ids), mode="a", shape=seeds.shape, chunks=chunks, dtype="uint64", fill_value=0)
        inner = WorkFolder(folder.path / "seed_parts", folder.grid)
        inner.path.mkdir(exist_ok=True)
        finder = partial(_component_parts, seeds, connectivity)
        _find_and_write(finder, partial(_write_zarr, ids), inner, run, connectivity, 1, what="seeds")
        done.mkdir()
    return Volume(ids, seeds.shape, np.dtype(np.uint64), None, _read_zarr)


def _find_and_write(finder: _PartFinder, write: BlockWriter, folder: WorkFolder, run: Run, connectivity: int, minimum_voxels: int, *,
                    seeded_only: bool = False, what: str = "objects") -> Merged:
    options = {"workers": run.workers, "progress": run.progress}
    folder.for_each_block(partial(_find_block, finder, folder), folder.parts_file, f"finding {what}", **options)
    if not is_saved(folder.path):
        save_merged(folder.path, merge_parts(folder.grid, folder.open_parts, connectivity=connectivity, minimum_voxels=minimum_voxels,
                                             seeded_only=seeded_only))
    folder.for_each_block(partial(_write_block, write, folder), folder.written_file, f"writing {what}", **options)
    return load_merged(folder.path)


def _find_block(finder: _PartFinder, folder: WorkFolder, index: int) -> None:
    region = folder.grid.region(index)
    parts, class_of, seed_of = finder(region)
    save_parts(folder.parts_file(index), parts, measure_parts(parts, class_of, seed_of, region, folder.grid.shape))


def _write_block(write: BlockWriter, folder: WorkFolder, index: int) -> None:
    saved = folder.open_parts(index)
    write(folder.grid.region(index), load_ids(folder.path, index)[saved.labels()])
    saved.close()
    folder.written_file(index).touch()


def _component_parts(labels: Volume, connectivity: int, region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    components, class_of = components_of_classes(labels.read(region), connectivity=connectivity)
    return components, class_of, np.zeros(len(class_of), np.uint64)


def _flooded(landscape: Landscape, seed_ids: Volume, halo: Sequence[int], connectivity: int,
             region: Region) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return flooded_parts(landscape, seed_ids, region, halo=halo, connectivity=connectivity)


def _chunk_of(length: int) -> int:
    """Along one axis: the longest chunk of at most 64 voxels that divides a block, or else the block."""
    longest = next(chunk for chunk in range(min(length, _SEED_CHUNK), 0, -1) if length % chunk == 0)
    return longest if longest >= _SEED_CHUNK // 4 else length


def _write_zarr(path: Path, region: Region, array: np.ndarray) -> None:
    import zarr

    zarr.open_array(str(path), mode="r+")[region] = array


def _read_zarr(path: Path | str, region: Region) -> np.ndarray:
    import zarr

    return zarr.open_array(str(path), mode="r")[region]
