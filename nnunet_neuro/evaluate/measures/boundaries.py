"""Does a predicted boundary, such as a membrane, part the right objects? Rand and information scores after thinning, as in ISBI 2012.

The class is taken for the boundary; the objects are the connected components of what lies between (faces touching). Boundaries of a width
of their own would be punished for it, so the predicted one is first thinned to a line of one voxel: its objects grow into it until they
meet. The reference stays as it was drawn, and only voxels outside its boundary are counted (foreground restriction); where the thinned
line runs within the drawn boundary, its place costs nothing. A predicted gap of one voxel joins two objects and costs all their voxels,
which the overlap of boundaries hardly sees. For a class that is no boundary these measures make no sense.

Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics, Frontiers in Neuroanatomy 9:142,
2015. The measures with `_2D` look at each plane z alone, with 4 neighbours, as that challenge did with its sections; the others take the
volume as a whole. A voxel of the thinned line is an object of its own, and the counts of all planes are pooled, as there. Their script
also looks for the best of ten thresholds of a probability, where ours takes the prediction as it is.

Entropies are those of the object of a voxel whose case, and in 2D plane, is known; else every further plane would raise the information
score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnunet_neuro.contingency import Contingency
from nnunet_neuro.evaluate.measures.partition import (
    merge_bits,
    rand_f_score,
    rand_precision,
    rand_recall,
    size_logarithms,
    size_squares,
    split_bits,
    sum_of_logarithms,
)
from nnunet_neuro.evaluate.measures.registry import Counts, Masks, count_step, measure

_ISBI = "Arganda-Carreras et al., Frontiers in Neuroanatomy 9:142, 2015"
_VOLUME, _PLANES = "thinned", "thinned_2D"


def boundary_objects(mask: np.ndarray, *, annotated: np.ndarray | None = None, spacing: Sequence[float] | None = None, thin: bool = True,
                     in_planes: bool = False) -> np.ndarray:
    """The objects that a boundary parts, numbered from 1: connected components of the rest, by faces.

    Thinning is a watershed of the distance to the objects, so that they meet halfway; the line where they meet, one voxel wide, stays 0,
    and so does what no object can reach. A boundary that does not part anything vanishes.

    Args:
        mask: (z, y, x) bool, true on the boundary.
        annotated: bool of the same shape; what lies outside is seen by nobody and stays 0. None for everything.
        spacing: voxel size (z, y, x); None for cubes.
        thin: let the objects grow into the boundary.
        in_planes: take each plane z alone; no object then has voxels in two planes.

    Returns:
        (z, y, x) int64.
    """
    seen = np.ones(mask.shape, bool) if annotated is None else annotated
    spacing = (1.0,) * mask.ndim if spacing is None else tuple(spacing)
    if not in_planes:
        return _objects_between(mask, seen, spacing, thin)
    objects = np.zeros(mask.shape, np.int64)
    last = 0
    for plane, boundary, seen_here in zip(objects, mask, seen, strict=True):
        found = _objects_between(boundary, seen_here, spacing[1:], thin)
        plane[...] = np.where(found, found + last, 0)
        last += int(found.max(initial=0))
    return objects


def _finish_volume(amounts: Counts) -> dict[str, int | float]:
    return _sums(amounts, _VOLUME)


def _finish_planes(amounts: Counts) -> dict[str, int | float]:
    return _sums(amounts, _PLANES)


@count_step(surroundings="whole", finish=_finish_volume)
def boundary_counts(masks: Masks) -> dict[str, Contingency]:
    """Overlaps of the objects that the predicted boundary and the reference's part, in the volume as a whole."""
    return _overlaps(masks, _VOLUME, in_planes=False)


@count_step(surroundings="whole", finish=_finish_planes)
def plane_boundary_counts(masks: Masks) -> dict[str, Contingency]:
    """Overlaps of the objects that the predicted boundary and the reference's part, in each plane z alone."""
    return _overlaps(masks, _PLANES, in_planes=True)


@measure("Rand_F_thinned", boundary_counts, reference_empty=math.nan, source=_ISBI)
def rand_f_thinned(counts: Counts) -> float:
    """Are the right objects parted? Harmonic mean of Rand_precision_thinned and Rand_recall_thinned, in the volume as a whole.

    In three dimensions one gap anywhere joins two objects; with thick sections see Rand_F_thinned_2D.
    """
    return rand_f_score(counts, _VOLUME)


@measure("Rand_precision_thinned", boundary_counts, reference_empty=math.nan, also_called=("Rand merge score",), source=_ISBI)
def rand_precision_thinned(counts: Counts) -> float:
    """Share of the pairs of voxels in one predicted object that are in one reference object; low where boundaries have gaps."""
    return rand_precision(counts, _VOLUME)


@measure("Rand_recall_thinned", boundary_counts, reference_empty=math.nan, also_called=("Rand split score",), source=_ISBI)
def rand_recall_thinned(counts: Counts) -> float:
    """Share of the pairs of voxels in one reference object that are in one predicted object; low where boundaries are invented."""
    return rand_recall(counts, _VOLUME)


@measure("Info_F_thinned", boundary_counts, reference_empty=math.nan, source=_ISBI)
def info_f_thinned(counts: Counts) -> float:
    """What prediction and reference tell of each other's objects: twice their mutual information over the sum of their entropies.

    1 is perfect. Small objects weigh more than in the Rand score. 0 where the reference has one object only and the prediction splits it.
    """
    return _information_f_score(counts, _VOLUME)


@measure("VOI_thinned", boundary_counts, best=0.0, higher_is_better=False, limits=(0.0, math.inf), prediction_empty=math.nan,
         reference_empty=math.nan, source=_ISBI)
def voi_thinned(counts: Counts) -> float:
    """Variation of information of the objects that the boundaries part, in bits: VOI_split_thinned + VOI_merge_thinned."""
    return voi_split_thinned(counts) + voi_merge_thinned(counts)


@measure("VOI_split_thinned", boundary_counts, best=0.0, higher_is_better=False, limits=(0.0, math.inf), prediction_empty=math.nan,
         reference_empty=math.nan, source=_ISBI)
def voi_split_thinned(counts: Counts) -> float:
    """H(prediction | reference) of the objects that the boundaries part, in bits; high where boundaries are invented."""
    return split_bits(counts, _VOLUME)


@measure("VOI_merge_thinned", boundary_counts, best=0.0, higher_is_better=False, limits=(0.0, math.inf), prediction_empty=math.nan,
         reference_empty=math.nan, source=_ISBI)
def voi_merge_thinned(counts: Counts) -> float:
    """H(reference | prediction) of the objects that the boundaries part, in bits; high where boundaries have gaps."""
    return merge_bits(counts, _VOLUME)


@measure("Rand_F_thinned_2D", plane_boundary_counts, reference_empty=math.nan, also_called=("V_Rand", "V_Rand (thinned)"), source=_ISBI)
def rand_f_thinned_2d(counts: Counts) -> float:
    """ISBI 2012's foreground-restricted Rand score after border thinning: Rand_F_thinned with the objects of each plane z alone."""
    return rand_f_score(counts, _PLANES)


@measure("Rand_precision_thinned_2D", plane_boundary_counts, reference_empty=math.nan, also_called=("V_Rand merge",), source=_ISBI)
def rand_precision_thinned_2d(counts: Counts) -> float:
    """Rand_precision_thinned with the objects of each plane z alone; low where boundaries have gaps."""
    return rand_precision(counts, _PLANES)


@measure("Rand_recall_thinned_2D", plane_boundary_counts, reference_empty=math.nan, also_called=("V_Rand split",), source=_ISBI)
def rand_recall_thinned_2d(counts: Counts) -> float:
    """Rand_recall_thinned with the objects of each plane z alone; low where boundaries are invented."""
    return rand_recall(counts, _PLANES)


@measure("Info_F_thinned_2D", plane_boundary_counts, reference_empty=math.nan, also_called=("V_Info", "V_Info (thinned)"), source=_ISBI)
def info_f_thinned_2d(counts: Counts) -> float:
    """ISBI 2012's foreground-restricted information score after border thinning: Info_F_thinned with the objects of each plane alone."""
    return _information_f_score(counts, _PLANES)


def _overlaps(masks: Masks, name: str, *, in_planes: bool) -> dict[str, Contingency | float]:
    """The table, and the sum of n log2 n over the planes, or of the whole volume."""
    options = {"annotated": masks.annotated, "spacing": masks.spacing, "in_planes": in_planes}
    counted = masks.annotated & ~masks.reference
    table = Contingency.of(boundary_objects(masks.prediction, **options), boundary_objects(masks.reference, thin=False, **options), counted)
    return {name: table, _whole(name): sum_of_logarithms(counted.sum(axis=(1, 2)) if in_planes else counted.sum(keepdims=True).ravel())}


def _sums(amounts: Counts, name: str) -> dict[str, int | float]:
    table = amounts[name]
    sums = size_logarithms(table, name, missed_apart=True) | size_squares(table, name, missed_apart=True)
    return {**sums, _whole(name): amounts[_whole(name)]}


def _whole(name: str) -> str:
    return f"{name}_logarithms_whole"


def _information_f_score(counts: Counts, name: str) -> float:
    if not counts[f"{name}_voxels"]:
        return math.nan
    whole, *of_objects = (counts[f"{name}_logarithms_{which}"] for which in ("whole", "prediction", "reference", "overlap"))
    predicted, referenced, overlap = (max(0.0, whole - objects) for objects in of_objects)
    if not predicted + referenced:
        return 1.0  # one object each
    return min(1.0, max(0.0, 2 * (predicted + referenced - overlap) / (predicted + referenced)))


def _objects_between(mask: np.ndarray, seen: np.ndarray, spacing: tuple[float, ...], thin: bool) -> np.ndarray:
    """The objects of a volume, or of a plane; int64."""
    import cc3d

    objects = cc3d.connected_components(seen & ~mask, connectivity=2 * mask.ndim).astype(np.int64)
    return _grown(objects, seen, spacing) if thin and objects.any() and (objects == 0).any() else objects


def _grown(objects: np.ndarray, seen: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt
    from skimage.segmentation import watershed

    distance = distance_transform_edt(objects == 0, sampling=spacing)
    # watershed_line=True of scikit-image 0.26 does not end on some volumes, in growing memory
    grown = watershed(distance, objects, mask=seen, connectivity=1).astype(np.int64)
    return np.where(_meeting_line(grown, distance), 0, grown)


def _meeting_line(grown: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """One voxel wide: of two that touch and belong to different objects, the one further from where these began; else the higher number."""
    line = np.zeros(grown.shape, bool)
    for axis in range(grown.ndim):
        for here, there in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            own, other = (tuple(part if one == axis else slice(None) for one in range(grown.ndim)) for part in (here, there))
            later = (distance[own] > distance[other]) | (distance[own] == distance[other]) & (grown[own] > grown[other])
            line[own] |= (grown[other] != 0) & (grown[own] != grown[other]) & later
    return line
