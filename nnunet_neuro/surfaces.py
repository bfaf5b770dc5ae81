"""Surfaces of a mask, and distances from points to points, in the unit of the voxel size.

A mask has two surfaces here. Its border voxels are those with a face on background, and stand at their centres; this is the surface of
medpy, MONAI and scikit-image's `find_boundaries`. Its surface elements stand at the corners of voxels, each with the area that the surface
has between the eight voxels around it (Nikolov et al. 2018, arXiv:1809.04430); areas are those of classic marching cubes (Lorensen and
Cline 1987), of which an ambiguous element takes the smaller surface, as that paper's surface-distance library does.

Only annotated voxels make a surface. A face between the mask and a voxel that nobody annotated is no surface: what lies behind it is not
known. The end of the volume is one, as in the libraries above, except across the only plane of a flat image, which has contours then. In a
surface element some of whose voxels are not annotated, those take the value of the nearest annotated ones of the element, so that
the surface goes straight on into them; a single annotated plane is measured by its contours too.

Distances come from a k-d tree on the points, or from a distance transform where points are so dense that it is faster. Both give the same
numbers: distances are computed anew from whole steps between voxels, and so do not depend on where a block begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from nnunet_neuro.skeletons import bounding_box

Sides = tuple[tuple[bool, bool], ...]
_TRANSFORM_PAYS_BELOW = 7  # voxels of the box around all points, for each point to be measured; benchmarks/surfaces.py


def border_voxels(mask: np.ndarray, annotated: np.ndarray, open_sides: Sides) -> np.ndarray:
    """The annotated voxels of a mask with a face on annotated background or on the end of the volume.

    Args:
        mask: (z, y, x) bool.
        annotated: (z, y, x) bool.
        open_sides: per axis, whether the volume goes on before and behind the arrays; of the outermost plane there nothing is known, and
            none of its voxels is in the result.

    Returns:
        (n, 3) int64 indices, sorted.
    """
    crop = _Crop.around(mask, annotated, open_sides)
    if crop is None:
        return np.zeros((0, mask.ndim), np.int64)
    border = crop.border()
    return border[_is_known(border, [size - 1 for size in mask.shape], open_sides)]


def surface_elements(mask: np.ndarray, annotated: np.ndarray, open_sides: Sides) -> tuple[np.ndarray, np.ndarray]:
    """The corners of voxels through which the surface of a mask passes, and how it passes there.

    Args:
        mask: (z, y, x) bool.
        annotated: (z, y, x) bool.
        open_sides: as for `border_voxels`; the outermost corners there are not in the result.

    Returns:
        (n, 3) int64 indices, sorted, from 0 to the number of voxels: corner i lies between voxels i - 1 and i; (n,) uint8 codes of the
        voxels around it, for `element_areas`.
    """
    crop = _Crop.around(mask, annotated, open_sides)
    if crop is None:
        return np.zeros((0, mask.ndim), np.int64), np.zeros(0, np.uint8)
    corners, codes = crop.corners()
    kept = _is_known(corners, mask.shape, open_sides)
    return corners[kept], codes[kept]


@cache
def element_areas(spacing: tuple[float, ...]) -> np.ndarray:
    """(256,) float64: area of the surface element of each code, in the square of the unit of `spacing` (z, y, x).

    Bit 4z + 2y + x of a code says whether the voxel towards higher (1) or lower (0) z, y and x is inside.
    """
    from skimage.measure import marching_cubes, mesh_surface_area

    areas = np.zeros(256)
    for code in range(1, 255):
        voxels = (code >> np.arange(8) & 1).reshape(2, 2, 2).astype(np.float32)
        ways = []
        for side in (voxels, 1 - voxels):
            vertices, faces, *_ = marching_cubes(side, 0.5, method="lorensen")
            ways.append(mesh_surface_area(vertices * np.array(spacing), faces))
        areas[code] = min(ways)
    return areas


def squared_distances(points: np.ndarray, targets: np.ndarray, spacing: Sequence[float], *, at_most: float = math.inf) -> np.ndarray:
    """From each point the squared distance to the nearest target.

    Args:
        points: (n, 3) integer indices.
        targets: (m, 3) integer indices.
        spacing: voxel size (z, y, x).
        at_most: farther targets need not be found; a small one saves time.

    Returns:
        (n,) float64, in the square of the unit of `spacing`; infinite where there is no target, or none that near.
    """
    if not len(points) or not len(targets):
        return np.full(len(points), math.inf)
    low = np.minimum(points.min(axis=0), targets.min(axis=0))
    high = np.maximum(points.max(axis=0), targets.max(axis=0))
    if math.prod((high - low + 1).tolist()) < _TRANSFORM_PAYS_BELOW * len(points):
        return _squared(points - _nearest_by_transform(points - low, targets - low, high - low + 1, spacing) - low, spacing)
    nearest = _nearest_by_tree(points, targets, spacing, at_most)
    found = nearest < len(targets)
    distances = np.full(len(points), math.inf)
    distances[found] = _squared(points[found] - targets[nearest[found]], spacing)
    return distances


def squared_distances_to_the_unseen(points: np.ndarray, last: Sequence[int], spacing: Sequence[float], open_sides: Sides) -> np.ndarray:
    """From each point the squared distance to the nearest plane of which nothing is known; infinite if everything is seen.

    Args:
        points: (n, 3) integer indices.
        last: index of the last plane along each axis; the first is 0.
        spacing: voxel size (z, y, x).
        open_sides: as for `border_voxels`.

    Returns:
        (n,) float64.
    """
    nearest = np.full(len(points), math.inf)
    for axis, (before, behind) in enumerate(open_sides):
        for is_open, steps in ((before, points[:, axis]), (behind, last[axis] - points[:, axis])):
            if is_open:
                nearest = np.minimum(nearest, (steps * float(spacing[axis])) ** 2)
    return nearest


class _Crop:
    """The box of a mask with a rim of one voxel, flattened so that neighbours are found by adding to an index.

    Attributes:
        inside: (n,) bool, annotated voxels of the mask.
        outside: (n,) bool, annotated background, also beyond the end of the volume.
        steps: of an index, per axis, to the next voxel.
    """

    def __init__(self, mask: np.ndarray, annotated: np.ndarray, box: tuple[slice, ...], open_sides: Sides) -> None:
        parts = [slice(max(0, one.start - 1), min(size, one.stop + 1)) for one, size in zip(box, mask.shape, strict=True)]
        mask, seen = mask[tuple(parts)], annotated[tuple(parts)]
        self._shape = tuple(size + 2 for size in mask.shape)
        self._start = [part.start - 1 for part in parts]
        core = (slice(1, -1),) * mask.ndim
        inside, outside = np.zeros((2, *self._shape), bool)
        np.logical_and(mask, seen, out=inside[core])
        np.greater(seen, mask, out=outside[core])
        flat = [size == 1 and not any(sides) for size, sides in zip(annotated.shape, open_sides, strict=True)]
        for axis in range(mask.ndim):
            if not flat[axis]:  # beyond the end lies background, where the last voxel was annotated
                planes, own = np.moveaxis(outside, axis, 0), np.moveaxis(inside, axis, 0)
                planes[0], planes[-1] = planes[1] | own[1], planes[-2] | own[-2]
        self.inside, self.outside = inside.ravel(), outside.ravel()
        self.steps = [math.prod(self._shape[axis + 1 :]) for axis in range(mask.ndim)]

    @classmethod
    def around(cls, mask: np.ndarray, annotated: np.ndarray, open_sides: Sides) -> _Crop | None:
        box = bounding_box(mask if annotated.all() else mask & annotated)
        return None if box is None else cls(mask, annotated, box, open_sides)

    def border(self) -> np.ndarray:
        voxels = np.flatnonzero(self.inside)
        return self._indices(voxels[_any_at(self.outside, voxels, self._faces())])

    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of corners whose eight voxels differ, and their codes."""
        voxels = np.flatnonzero(self.inside)
        voxels = voxels[_any_at(~self.inside, voxels, self._faces())]
        offsets = [sum(step for axis, step in enumerate(self.steps) if bit >> (len(self.steps) - 1 - axis) & 1) for bit in range(8)]
        touched = np.zeros(self.inside.size, bool)
        for offset in offsets:
            touched[voxels - offset] = True
        corners = np.flatnonzero(touched)
        codes, seen = np.zeros((2, corners.size), np.uint8)
        for bit, offset in enumerate(offsets):
            codes |= self.inside[corners + offset].view(np.uint8) << bit
            seen |= (self.inside[corners + offset] | self.outside[corners + offset]).view(np.uint8) << bit
        codes = _completions()[seen, codes]
        differ = (codes != 0) & (codes != 255)
        return self._indices(corners[differ]) + 1, codes[differ]

    def _faces(self) -> list[int]:
        return [sign * step for step in self.steps for sign in (-1, 1)]

    def _indices(self, flat: np.ndarray) -> np.ndarray:
        return np.stack(np.unravel_index(flat, self._shape), axis=1) + self._start


def _any_at(mask: np.ndarray, indices: np.ndarray, offsets: Sequence[int]) -> np.ndarray:
    found = np.zeros(indices.size, bool)
    for offset in offsets:
        found |= mask[indices + offset]
    return found


def _is_known(points: np.ndarray, last: Sequence[int], open_sides: Sides) -> np.ndarray:
    known = np.ones(len(points), bool)
    for axis, (before, behind) in enumerate(open_sides):
        if before:
            known &= points[:, axis] > 0
        if behind:
            known &= points[:, axis] < last[axis]
    return known


def _squared(steps: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Squared lengths of whole steps; equal lengths of different steps are the same number, however the voxel size was rounded."""
    unit = min(spacing)
    return np.round(((steps * (np.asarray(spacing, float) / unit)) ** 2).sum(axis=1), 9) * unit**2


def _nearest_by_transform(points: np.ndarray, targets: np.ndarray, shape: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    from scipy import ndimage

    elsewhere = np.ones(shape, bool)
    elsewhere[tuple(targets.T)] = False
    nearest = ndimage.distance_transform_edt(elsewhere, sampling=spacing, return_distances=False, return_indices=True)
    return nearest[(slice(None), *points.T)].T


def _nearest_by_tree(points: np.ndarray, targets: np.ndarray, spacing: Sequence[float], at_most: float) -> np.ndarray:
    from scipy.spatial import cKDTree

    # targets are sorted voxels: cutting boxes in the middle builds in half the time and answers as fast
    tree = cKDTree(targets * np.asarray(spacing, float), balanced_tree=False, compact_nodes=False)
    beyond = max(at_most, 0.5 * min(spacing)) * (1 + 1e-5)  # the tree wants a bound that the farthest target to be found lies below
    return tree.query(points * np.asarray(spacing, float), distance_upper_bound=beyond)[1]


@cache
def _completions() -> np.ndarray:
    """(256, 256) uint8: of the annotated voxels of an element and those inside, the voxels inside with the others filled in."""
    bits = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(bool)
    filled = np.zeros((256, 256, 8), bool)
    for voxel in range(8):
        hops = np.array([(voxel ^ other).bit_count() for other in range(8)])
        for hop in (3, 2, 1, 0):  # the nearest annotated voxels decide, and overwrite what farther ones said
            seen = bits & (hops == hop)
            number = seen.sum(axis=1)
            inside = (seen[:, None] & bits[None]).sum(axis=2)
            filled[..., voxel] = np.where(number[:, None] > 0, 2 * inside >= number[:, None], filled[..., voxel])
    return np.packbits(filled, axis=2, bitorder="little")[..., 0]
