"""Skeletons of two masks, compared where the reference is annotated.

Thinning is scikit-image's: Lee et al. 1994 in three dimensions, Zhang and Suen 1984 in the plane, as in the clDice
paper (Shit et al., CVPR 2021, arXiv:2003.07311). Two things differ from a bare call:

Partly annotated references. Both masks are cut to the annotated voxels before they are thinned, so that what a
prediction says elsewhere cannot move its skeleton. Where single planes are annotated, a thinned plane and the centre
line of a solid object are different things; there both masks are thinned plane by plane in two dimensions. See
`annotated_pieces`.

Vanishing objects. scikit-image erases straight bodies of even thickness altogether (scikit-image #3757: a 2 x 2 x 40
rod leaves nothing); `skeletonise` gives them a skeleton.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from nnunet_neuro.skeleton_graph import skeleton_graph

if TYPE_CHECKING:
    from scipy.spatial import KDTree

Box = tuple[slice, ...]


def compare_skeletons(prediction: np.ndarray, reference: np.ndarray, annotated: np.ndarray, *, tolerance: float,
                      spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> dict[str, float]:
    """Centre lines of two masks: how much of each the other mask holds, in voxels and in length, and where they are cut or joined.

    Args:
        prediction: (z, y, x) bool.
        reference: (z, y, x) bool.
        annotated: (z, y, x) bool; voxels outside are seen by nobody.
        tolerance: in the unit of `spacing`; a skeleton voxel is a tolerant hit if the other mask has an annotated voxel at most this far
            (Euclidean, in the same annotated piece) away.
        spacing: voxel size (z, y, x).

    Returns:
        `skeleton_prediction` and `skeleton_reference`, in voxels, and of each the `..._hit`, the `..._hit_tolerant`, the `..._length` and
        the `..._length_beyond` the tolerance; `breaks` of the reference's lines (see `SkeletonGraph.interruptions`); `false_merges` (see
        `_false_merges`). Lengths are in the unit of `spacing`.
    """
    totals: dict[str, float] = {}
    for mask in ("prediction", "reference"):
        totals |= {f"skeleton_{mask}": 0, f"skeleton_{mask}_hit": 0, f"skeleton_{mask}_hit_tolerant": 0, f"skeleton_{mask}_length": 0.0,
                   f"skeleton_{mask}_length_beyond": 0.0}
    totals |= {"breaks": 0, "false_merges": 0}
    for box, flat_axis in annotated_pieces(annotated):
        seen = annotated[box]
        masks = [prediction[box] & seen, reference[box] & seen]
        crop = bounding_box(masks[0] | masks[1])
        if crop is None:
            continue
        predicted, referenced = (mask[crop] if flat_axis is None else mask[crop].squeeze(flat_axis) for mask in masks)
        lengths = [size for axis, size in enumerate(spacing) if axis != flat_axis]
        for name, number in _compare_piece(predicted, referenced, tolerance, lengths).items():
            totals[name] += number
    return totals


def annotated_pieces(annotated: np.ndarray) -> list[tuple[Box, int | None]]:
    """Boxes of the volume to be thinned on their own, each with the axis along which it is one voxel thin, or None.

    The first axis along which an annotated plane stands alone (no annotated voxel in the planes before and after)
    divides the volume: every such plane is a flat piece, every run of neighbouring annotated planes a solid one.
    Without such a plane the volume is one solid piece. A flat image is one flat piece. Planes that cross each other
    stay one solid piece.

    Args:
        annotated: (z, y, x) bool.
    """
    if not annotated.any():
        return []
    whole = (slice(None),) * annotated.ndim
    for axis in range(annotated.ndim):
        other_axes = tuple(other for other in range(annotated.ndim) if other != axis)
        runs = _runs(annotated.any(axis=other_axes))
        if any(stop - start == 1 for start, stop in runs):
            return [
                ((*whole[:axis], slice(start, stop), *whole[axis + 1 :]), axis if stop - start == 1 else None) for start, stop in runs
            ]
    return [(whole, None)]


def skeletonise(mask: np.ndarray) -> np.ndarray:
    """Thin a mask to its centre lines; every connected object keeps at least one voxel.

    An object that scikit-image erases is thinned again after growing by one voxel towards higher indices, which makes
    its thickness odd; of that skeleton the voxels inside the object are kept. Should this leave nothing either, the
    object's voxel nearest its centroid stands for it.

    Args:
        mask: (y, x) or (z, y, x) bool.

    Returns:
        bool, same shape.
    """
    from scipy import ndimage
    from skimage.morphology import skeletonize

    skeleton = skeletonize(mask).astype(bool)  # bytes of 0 and 255 from scikit-image 0.19
    objects, number = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    left = np.zeros(number + 1, bool)
    left[objects[skeleton]] = True
    boxes = ndimage.find_objects(objects)
    for label in range(1, number + 1):
        if not left[label]:
            box = boxes[label - 1]
            skeleton[box] |= _skeleton_of_vanished(objects[box] == label)
    return skeleton


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around the true voxels, or None if there are none."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not filled.size:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _runs(filled: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], filled, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _compare_piece(prediction: np.ndarray, reference: np.ndarray, tolerance: float, spacing: Sequence[float]) -> dict[str, float]:
    """The counts of `compare_skeletons`, of masks that are thinned in one piece."""
    counts: dict[str, float] = {}
    for name, mask, other in (("prediction", prediction, reference), ("reference", reference, prediction)):
        skeleton = skeletonise(mask)
        graph = skeleton_graph(skeleton, spacing)
        near = _nearest(graph.voxels, other, tolerance, spacing)
        covered = near[:, 0] >= 0
        counts |= {
            f"skeleton_{name}": len(covered),
            f"skeleton_{name}_hit": int(np.count_nonzero(skeleton & other)),
            f"skeleton_{name}_hit_tolerant": int(np.count_nonzero(covered)),
            f"skeleton_{name}_length": graph.length,
            f"skeleton_{name}_length_beyond": graph.length_at(~covered),
        }
    # of the reference, which came last
    counts["breaks"] = graph.interruptions(covered)
    counts["false_merges"] = _false_merges(prediction, reference, graph.voxels[covered], near[covered], tolerance, spacing)
    return counts


def _nearest(voxels: np.ndarray, mask: np.ndarray, tolerance: float, spacing: Sequence[float]) -> np.ndarray:
    """Of each voxel the nearest voxel of a mask, or a row of -1 where none lies within the tolerance.

    Args:
        voxels: (n, axes) integers.
    """
    from scipy import ndimage
    from scipy.spatial import KDTree

    nearest = np.where(mask[tuple(voxels.T)][:, None], voxels, -1)
    outside = nearest[:, 0] < 0
    # seen from outside, the nearest voxel of a mask is on its border
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask)) if outside.any() else voxels[:0]
    if len(border):
        found = KDTree(border * spacing).query(voxels[outside] * spacing, distance_upper_bound=_just_over(tolerance))[1]
        nearest[outside] = np.vstack([border, np.full_like(border[:1], -1)])[found]  # none found is the row after the last
    return nearest


def _false_merges(prediction: np.ndarray, reference: np.ndarray, lines: np.ndarray, nearest: np.ndarray, tolerance: float,
                  spacing: Sequence[float]) -> int:
    """How many cuts the predicted objects need until none stands for two objects of the reference.

    A predicted object stands for those objects of the reference on whose centre line it is the nearest one within the tolerance. Objects
    of the reference that are no further than the tolerance apart count as one. Objects are connected components (26 neighbours).

    Args:
        lines: (n, axes) voxels of the reference's skeleton that have a predicted voxel within the tolerance.
        nearest: (n, axes) that voxel.
    """
    from scipy import ndimage

    touching = np.ones((3,) * reference.ndim)
    predicted = ndimage.label(prediction, structure=touching)[0][tuple(nearest.T)]
    objects = ndimage.label(reference, structure=touching)[0]
    pairs = np.unique(np.stack([predicted, objects[tuple(lines.T)]], axis=1), axis=0)
    stood_for = np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1)
    boxes = ndimage.find_objects(objects) if any(len(joined) > 1 for joined in stood_for) else []
    return sum(_groups(joined, objects, boxes, tolerance, spacing) - 1 for joined in stood_for if len(joined) > 1)


def _groups(joined: np.ndarray, objects: np.ndarray, boxes: list[Box], tolerance: float, spacing: Sequence[float]) -> int:
    """Number of these objects, of which those within the tolerance of each other count as one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    corners = np.array([[(side.start, side.stop - 1) for side in boxes[label - 1]] for label in joined])  # (objects, axes, 2)
    apart = np.maximum(corners[:, None, :, 0] - corners[None, :, :, 1], 0) * spacing
    apart = np.maximum(apart, apart.transpose(1, 0, 2))
    candidates = np.argwhere(np.triu(np.sqrt((apart**2).sum(axis=2)) < _just_over(tolerance), 1))
    trees = {}
    for row in np.unique(candidates):
        box = boxes[joined[row] - 1]
        trees[row] = KDTree((np.argwhere(objects[box] == joined[row]) + [side.start for side in box]) * spacing)
    close = np.array([pair for pair in candidates if _are_close(trees[pair[0]], trees[pair[1]], tolerance)]).reshape(-1, 2)
    return connected_components(coo_array((np.ones(len(close)), close.T), shape=(len(joined),) * 2), directed=False)[0]


def _are_close(first: KDTree, second: KDTree, tolerance: float) -> bool:
    few, many = (first, second) if first.n < second.n else (second, first)
    return bool(np.isfinite(many.query(few.data, distance_upper_bound=_just_over(tolerance))[0]).any())


def _just_over(tolerance: float) -> float:
    """A tolerance of two voxels must hold at a distance of two voxels, however their size was rounded."""
    return tolerance * (1 + 1e-6)


def _skeleton_of_vanished(body: np.ndarray) -> np.ndarray:
    from skimage.morphology import skeletonize

    for growth in sorted(product((1, 0), repeat=body.ndim), key=sum, reverse=True)[:-1]:
        grown = np.pad(body, [(0, step) for step in growth])
        for axis, step in enumerate(growth):
            if step:
                grown = grown | np.roll(grown, 1, axis)  # the padded last plane is empty: nothing wraps
        inside = tuple(slice(0, size) for size in body.shape)
        skeleton = skeletonize(grown).astype(bool)[inside] & body
        if skeleton.any():
            return skeleton
    voxels = np.argwhere(body)
    nearest = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
    skeleton = np.zeros_like(body)
    skeleton[tuple(nearest)] = True
    return skeleton
