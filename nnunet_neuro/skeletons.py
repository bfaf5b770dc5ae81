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

import numpy as np

Box = tuple[slice, ...]


def skeleton_overlap(prediction: np.ndarray, reference: np.ndarray, annotated: np.ndarray, *, tolerance: float,
                     spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> dict[str, int]:
    """Count the skeleton voxels of each mask and how many of them the other mask holds.

    Args:
        prediction: (z, y, x) bool.
        reference: (z, y, x) bool.
        annotated: (z, y, x) bool; voxels outside are seen by nobody.
        tolerance: in the unit of `spacing`; a skeleton voxel is a tolerant hit if the other mask has an annotated voxel at most this far
            (Euclidean, in the same annotated piece) away.
        spacing: voxel size (z, y, x).

    Returns:
        `skeleton_prediction`, `skeleton_reference`, and of each the `..._hit` and `..._hit_tolerant`.
    """
    totals = dict.fromkeys(
        (f"skeleton_{mask}{hit}" for mask in ("prediction", "reference") for hit in ("", "_hit", "_hit_tolerant")), 0
    )
    for box, flat_axis in annotated_pieces(annotated):
        seen = annotated[box]
        masks = {"prediction": prediction[box] & seen, "reference": reference[box] & seen}
        crop = bounding_box(masks["prediction"] | masks["reference"])
        if crop is None:
            continue
        masks = {name: mask[crop] if flat_axis is None else mask[crop].squeeze(flat_axis) for name, mask in masks.items()}
        for name, other in (("prediction", "reference"), ("reference", "prediction")):
            skeleton = skeletonise(masks[name])
            totals[f"skeleton_{name}"] += int(np.count_nonzero(skeleton))
            totals[f"skeleton_{name}_hit"] += int(np.count_nonzero(skeleton & masks[other]))
            near = _within(masks[other], tolerance, [size for axis, size in enumerate(spacing) if axis != flat_axis])
            totals[f"skeleton_{name}_hit_tolerant"] += int(np.count_nonzero(skeleton & near))
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


def _within(mask: np.ndarray, tolerance: float, spacing: Sequence[float]) -> np.ndarray:
    from scipy import ndimage

    if not mask.any():  # the distance to nothing is not defined
        return mask
    # a tolerance of two voxels must hold at a distance of two voxels, however their size was rounded
    return ndimage.distance_transform_edt(~mask, sampling=spacing) <= tolerance * (1 + 1e-6)


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
