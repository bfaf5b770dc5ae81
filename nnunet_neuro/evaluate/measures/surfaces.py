"""How far apart are the surfaces of two masks? Distances in the unit of the voxel size, and the share of surface that is near enough.

Surfaces, their elements and what an ignored voxel does to them: see `nnunet_neuro.surfaces`. Distances are straight lines and may cross
ignored voxels. They are kept as a histogram of squared distances, so that pooled values are those of all surfaces together. Where
the other mask has no surface in the case, there is no distance; such voxels are in no mean, percentile or maximum, but their area counts as
not near in NSD.

Names that other tools use for other numbers:
    HD95 is the larger of the two directed percentiles (MONAI, MetricsReloaded); medpy's `hd95` is HD95_pooled here. surface-distance's
    `compute_robust_hausdorff` takes the larger too, but of elements weighted by their area, at the corners of voxels.
    ASSD is the mean over both surfaces together (MONAI with `symmetric=True`); medpy's `assd` is MASD here.
    HD and HD95 look at surfaces only (MONAI, medpy); SimpleITK's and scikit-image's Hausdorff distances are HD_voxels here.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from nnunet_neuro.evaluate.measures.registry import Counts, Masks, NeedsMoreSurroundings, count_step, measure
from nnunet_neuro.surfaces import border_voxels, element_areas, squared_distances, squared_distances_to_the_unseen, surface_elements

_NIKOLOV = "Nikolov et al. 2018, arXiv:1809.04430"
_REINKE = "Reinke et al., Nature Methods 2024"
_DUBUISSON = "Dubuisson and Jain, ICPR 1994"
_DISTANCE = {"reference_empty": math.nan, "prediction_empty": math.nan, "best": 0.0, "higher_is_better": False, "dimension": 1,
             "limits": (0.0, math.inf)}


@count_step(surroundings="halo")
def border_distances(masks: Masks) -> dict[str, int | Counter]:
    """Border voxels of each mask, and how many lie how far (squared) from the nearest border voxel of the other."""
    _check_inner(masks)
    borders = [border_voxels(mask, masks.annotated, masks.unseen_sides) for mask in (masks.prediction, masks.reference)]
    counts: dict[str, int | Counter] = {}
    for name, own, other in (("prediction", *borders), ("reference", *reversed(borders))):
        own = own[_is_inner(own, masks)]
        counts[f"border_{name}"] = len(own)
        counts[f"border_{name}_distances"] = _histogram(own, other, masks)
    return counts


@count_step(surroundings="halo")
def voxel_distances(masks: Masks) -> dict[str, Counter]:
    """How many voxels of each mask lie how far (squared) from the nearest voxel of the other; 0 where they share it."""
    both = {"prediction": masks.prediction & masks.annotated, "reference": masks.reference & masks.annotated}
    inner = masks.inner or (slice(None),) * masks.reference.ndim
    start = [part.indices(size)[0] for part, size in zip(inner, masks.reference.shape, strict=True)]
    everything = np.ones_like(masks.annotated)
    counts = {}
    for name, other in (("prediction", "reference"), ("reference", "prediction")):
        own = both[name][inner]
        apart = own & ~both[other][inner]
        points = np.stack(np.unravel_index(np.flatnonzero(apart), apart.shape), axis=1) + start
        # the nearest voxel of a mask to a voxel outside it is always one of its border
        counts[f"voxels_{name}_distances"] = _histogram(points, border_voxels(both[other], everything, masks.unseen_sides), masks)
        shared = int(np.count_nonzero(own)) - len(points)
        if shared:
            counts[f"voxels_{name}_distances"][0.0] += shared
    return counts


def _summed_areas(amounts: Counts) -> dict[str, float]:
    return {name: math.fsum(area * number for area, number in amount.items()) for name, amount in amounts.items()}


@count_step(surroundings="halo", finish=_summed_areas)
def surface_areas(masks: Masks) -> dict[str, Counter]:
    """Surface elements of each mask by their area: all, and those within the tolerance of the other mask's surface."""
    _check_inner(masks)
    sides, spacing, areas = masks.unseen_sides, masks.spacing, element_areas(masks.spacing)
    within = (masks.tolerance * (1 + 1e-6)) ** 2  # two voxels must hold at a distance of two voxels, however their size was rounded
    elements = [surface_elements(mask, masks.annotated, sides) for mask in (masks.prediction, masks.reference)]
    counts = {}
    for name, (corners, codes), (others, _) in (("prediction", *elements), ("reference", *reversed(elements))):
        counted = _is_inner(corners, masks, corners=True)
        corners, codes = corners[counted], codes[counted]
        near = squared_distances(corners, others, spacing, at_most=masks.tolerance) <= within
        unseen = squared_distances_to_the_unseen(corners[~near], masks.reference.shape, spacing, sides)
        if (unseen < within).any():
            raise NeedsMoreSurroundings("what is seen ends nearer to a surface than the tolerance; show more around the block")
        counts[f"area_{name}"] = _by_area(codes, areas)
        counts[f"area_{name}_near"] = _by_area(codes[near], areas)
    return counts


@measure("NSD", surface_areas, reference_empty=0.0, also_called=("surface Dice", "normalised surface Dice"), source=_NIKOLOV)
def normalised_surface_dice(counts: Counts) -> float:
    """Share of both surfaces' area that lies within the tolerance of the other surface.

    Read it as the part of an outline that nobody would have to correct; choose the tolerance as large as annotators differ. 1 says
    that no surface is farther off, not that the masks are equal. NaN where neither mask has a surface among the annotated voxels.
    """
    area = counts["area_prediction"] + counts["area_reference"]
    return (counts["area_prediction_near"] + counts["area_reference_near"]) / area if area else math.nan


@measure("HD", border_distances, **_DISTANCE, also_called=("Hausdorff distance", "maximum surface distance"), source=_REINKE)
def hausdorff(counts: Counts) -> float:
    """Largest distance from any border voxel of one mask to the border of the other.

    One wrong voxel far away decides it; read it together with HD95.
    """
    return _larger_percentile(counts, "border", 1.0)


@measure("HD95", border_distances, **_DISTANCE, also_called=("95th percentile Hausdorff distance",), source=_REINKE)
def hausdorff_95(counts: Counts) -> float:
    """Distance that 95 % of the border voxels keep, for the worse of the two masks: the maximum of both directed 95th percentiles.

    Percentiles are interpolated between neighbouring distances, as NumPy and MONAI do.
    """
    return _larger_percentile(counts, "border", 0.95)


@measure("HD95_pooled", border_distances, **_DISTANCE, also_called=("medpy hd95",))
def hausdorff_95_pooled(counts: Counts) -> float:
    """Distance that 95 % of all border voxels of both masks keep, counted together.

    The larger surface weighs more: a small one that is far off hides behind it, which HD95 does not allow.
    """
    first, second = _both(counts, "border")
    return _percentile(first + second, 0.95) if first and second else math.nan


@measure("ASSD", border_distances, **_DISTANCE, also_called=("average symmetric surface distance",), source="Heimann et al., IEEE TMI 2009")
def average_symmetric_surface_distance(counts: Counts) -> float:
    """Mean distance of all border voxels of both masks to the other's border; every border voxel weighs the same."""
    first, second = _both(counts, "border")
    return _mean(first + second) if first and second else math.nan


@measure("MASD", border_distances, **_DISTANCE, also_called=("mean average surface distance", "medpy assd"), source=_REINKE)
def mean_average_surface_distance(counts: Counts) -> float:
    """Mean of the two directed mean distances between borders; both masks weigh the same, whatever their size."""
    return sum(_mean(histogram) for histogram in _both(counts, "border")) / 2


@measure("AHD", voxel_distances, **_DISTANCE, also_called=("average Hausdorff distance", "SimpleITK AverageHausdorffDistance"),
         source=_DUBUISSON)
def average_hausdorff(counts: Counts) -> float:
    """Mean distance from the voxels of one mask to the nearest voxel of the other, averaged over the two directions.

    Shared voxels count with distance 0, so a thick object gets a lower value than a thin one with the same outline error. The number
    of SimpleITK's HausdorffDistanceImageFilter, which the thalamus benchmark reports.
    """
    return sum(_mean(histogram) for histogram in _both(counts, "voxels")) / 2


@measure("HD_voxels", voxel_distances, **_DISTANCE, also_called=("SimpleITK HausdorffDistance", "scikit-image hausdorff_distance"),
         source="Huttenlocher et al., IEEE PAMI 1993")
def hausdorff_of_voxels(counts: Counts) -> float:
    """Largest distance from any voxel of one mask to the nearest voxel of the other, in voxels of the whole masks, not of their borders.

    0 for the part of a mask inside the other one, where HD measures how deep its border lies.
    """
    return _larger_percentile(counts, "voxels", 1.0)


def _histogram(points: np.ndarray, targets: np.ndarray, masks: Masks) -> Counter:
    squared = squared_distances(points, targets, masks.spacing)
    last = [size - 1 for size in masks.reference.shape]
    if (squared > squared_distances_to_the_unseen(points, last, masks.spacing, masks.unseen_sides)).any():
        raise NeedsMoreSurroundings("the nearest voxel of the other mask may lie beyond what is seen; show more around the block")
    values, numbers = np.unique(squared[np.isfinite(squared)], return_counts=True)
    return Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))


def _by_area(codes: np.ndarray, areas: np.ndarray) -> Counter:
    numbers: Counter = Counter()
    for code, number in enumerate(np.bincount(codes).tolist()):
        if number:
            numbers[float(areas[code])] += number
    return numbers


def _check_inner(masks: Masks) -> None:
    """What is a surface shows only with one voxel around it."""
    inner = masks.inner or (slice(None),) * masks.reference.ndim
    for part, size, (before, behind) in zip(inner, masks.reference.shape, masks.unseen_sides, strict=True):
        start, stop, _ = part.indices(size)
        if (before and start == 0) or (behind and stop == size):
            raise NeedsMoreSurroundings("nothing is seen around the block; show at least one voxel")


def _is_inner(points: np.ndarray, masks: Masks, *, corners: bool = False) -> np.ndarray:
    """Whether the block counts these points; a corner belongs to the voxel behind it, the last one of the volume to the voxel before it."""
    counted = np.ones(len(points), bool)
    for axis, (part, size) in enumerate(zip(masks.inner or (), masks.reference.shape, strict=False)):
        start, stop, _ = part.indices(size)
        counted &= (points[:, axis] >= start) & (points[:, axis] < stop + (corners and stop == size))
    return counted


def _both(counts: Counts, kind: str) -> tuple[Counter, Counter]:
    return counts[f"{kind}_prediction_distances"], counts[f"{kind}_reference_distances"]


def _larger_percentile(counts: Counts, kind: str, share: float) -> float:
    first, second = _both(counts, kind)
    return max(_percentile(first, share), _percentile(second, share)) if first and second else math.nan


def _mean(histogram: Counter) -> float:
    number = sum(histogram.values())
    return math.fsum(math.sqrt(squared) * times for squared, times in histogram.items()) / number if number else math.nan


def _percentile(histogram: Counter, share: float) -> float:
    squared = sorted(histogram)
    ranks = np.cumsum([histogram[value] for value in squared])
    position = share * (int(ranks[-1]) - 1)
    lower, upper = (math.sqrt(squared[np.searchsorted(ranks, rank, side="right")]) for rank in (math.floor(position), math.ceil(position)))
    return lower + (upper - lower) * (position - math.floor(position))
