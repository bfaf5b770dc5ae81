"""What a label tile says about its tissue: vessels, axons, and the number, size and distance of cells (MTNeuro's task 3).

Quesada et al., MTNeuro, NeurIPS 2022 Datasets and Benchmarks. Differs from its features.py: the distance to the nearest neighbour leaves
out the cell itself, whose distance of 0 halved every mean there; a distance needs two cells and an area one, else there is none (there 64
and 0); a tile without vessels has the fraction 0 (there an error); fractions are of 1, lengths in micrometres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TissueFeatures:
    """The read-out features of one flat tile.

    Attributes:
        vessel_fraction, axon_fraction: of the tile's pixels.
        cell_count: cells with a pixel in the tile.
        cell_distance_um: mean distance of the cells' centroids, each within the tile, to their nearest neighbour; None below two cells.
        cell_area_um2: mean area of the cells within the tile; None without a cell.
    """

    vessel_fraction: float
    cell_count: int
    cell_distance_um: float | None
    cell_area_um2: float | None
    axon_fraction: float


def number_cells(labels: np.ndarray, cell: int) -> np.ndarray:
    """Every cell of a volume with a number of its own, 6 neighbours, so that a cell keeps its number from plane to plane.

    Args:
        labels: (z, y, x) integers, of one region: cells of two regions must not touch.
        cell: value of the class.

    Returns:
        (z, y, x) int32, 0 outside.
    """
    from scipy import ndimage

    return ndimage.label(labels == cell)[0]


def tissue_features(labels: np.ndarray, cells: np.ndarray, *, vessel: int, axon: int, spacing_yx: tuple[float, float]) -> TissueFeatures:
    """The features of a tile.

    Args:
        labels: (y, x) integers.
        cells: (y, x) numbers of the cells, as `number_cells` gives them.
        vessel, axon: values of the classes in `labels`.
        spacing_yx: size of a pixel in micrometres.
    """
    y, x = np.nonzero(cells)
    numbers, cell_of, areas = np.unique(cells[y, x], return_inverse=True, return_counts=True)
    centroids = np.stack([np.bincount(cell_of, positions * size) / areas for positions, size in zip((y, x), spacing_yx)], axis=1) \
        if len(numbers) else np.zeros((0, 2))
    return TissueFeatures(
        vessel_fraction=float(np.count_nonzero(labels == vessel) / labels.size),
        cell_count=len(numbers),
        cell_distance_um=_mean_nearest_distance(centroids) if len(numbers) > 1 else None,
        cell_area_um2=float(areas.mean() * spacing_yx[0] * spacing_yx[1]) if len(numbers) else None,
        axon_fraction=float(np.count_nonzero(labels == axon) / labels.size),
    )


def _mean_nearest_distance(centroids: np.ndarray) -> float:
    from scipy.spatial import cKDTree

    distances, _ = cKDTree(centroids).query(centroids, k=2)
    return float(distances[:, 1].mean())  # the first is the cell itself
