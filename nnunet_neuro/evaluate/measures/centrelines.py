"""Are the centre lines of thin structures found? clDice and its parts, strict and with a tolerance (Shit et al., CVPR 2021).

The tolerance is a length, in the unit of the voxel size: it reaches fewer voxels along a coarse axis than along a fine one.
"""

from __future__ import annotations

import math

from nnunet_neuro.evaluate.measures.registry import Counts, Masks, count_step, measure
from nnunet_neuro.skeletons import compare_skeletons

_SOURCE = "Shit et al., clDice - a novel topology-preserving loss function for tubular structure segmentation, CVPR 2021"


@count_step(surroundings="whole")
def skeleton_counts(masks: Masks) -> dict[str, float]:
    """Skeletons of prediction and reference, and how much of them the other mask holds.

    Thinning sees the whole mask: a skeleton that was made block by block has other ends and loops where blocks meet. The lengths, which
    the family `axons` reads, are counted here too, because thinning takes most of the time.
    """
    compared = compare_skeletons(masks.prediction, masks.reference, masks.annotated, tolerance=masks.tolerance, spacing=masks.spacing)
    return compared | {"skeleton_cases": 1}


@measure("clDice", skeleton_counts, reference_empty=0.0, source=_SOURCE)
def cl_dice(counts: Counts) -> float:
    """Are the centre lines right, at any thickness? Harmonic mean of clPrecision and clRecall (Shit et al., 2021).

    A process counts by the voxels of its centre line, thin or thick; the family `axons` counts by length.
    """
    return _harmonic_mean(cl_precision(counts), cl_recall(counts))


@measure("clPrecision", skeleton_counts, reference_empty=0.0, also_called=("topology precision",), source=_SOURCE)
def cl_precision(counts: Counts) -> float:
    """Share of the prediction's skeleton that lies inside the reference."""
    return counts["skeleton_prediction_hit"] / counts["skeleton_prediction"]


@measure("clRecall", skeleton_counts, reference_empty=math.nan, also_called=("topology sensitivity",), source=_SOURCE)
def cl_recall(counts: Counts) -> float:
    """Share of the reference's skeleton that lies inside the prediction."""
    return counts["skeleton_reference_hit"] / counts["skeleton_reference"]


@measure("clDice_tolerant", skeleton_counts, reference_empty=0.0, source=_SOURCE)
def cl_dice_tolerant(counts: Counts) -> float:
    """clDice that forgives a small shift: a skeleton voxel is right if the other mask has a voxel centre within the tolerance.

    A strict clDice far below it says that lines were found but drawn beside the reference.
    """
    return _harmonic_mean(cl_precision_tolerant(counts), cl_recall_tolerant(counts))


@measure("clPrecision_tolerant", skeleton_counts, reference_empty=0.0, source=_SOURCE)
def cl_precision_tolerant(counts: Counts) -> float:
    """Share of the prediction's skeleton with a voxel of the reference within the tolerance."""
    return counts["skeleton_prediction_hit_tolerant"] / counts["skeleton_prediction"]


@measure("clRecall_tolerant", skeleton_counts, reference_empty=math.nan, source=_SOURCE)
def cl_recall_tolerant(counts: Counts) -> float:
    """Share of the reference's skeleton with a voxel of the prediction within the tolerance."""
    return counts["skeleton_reference_hit_tolerant"] / counts["skeleton_reference"]


def _harmonic_mean(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0
