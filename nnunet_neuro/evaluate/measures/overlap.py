"""Overlap of two masks, from the four counts of voxels."""

from __future__ import annotations

import math

import numpy as np

from nnunet_neuro.evaluate.measures.registry import Counts, Masks, count_step, measure


@count_step()
def overlap_counts(masks: Masks) -> dict[str, int]:
    """Annotated voxels by what prediction and reference say about them."""
    prediction, reference = masks.prediction & masks.annotated, masks.reference & masks.annotated
    both, predicted, referenced, annotated = (
        int(np.count_nonzero(mask)) for mask in (prediction & reference, prediction, reference, masks.annotated)
    )
    return {
        "true_positive": both,
        "false_positive": predicted - both,
        "false_negative": referenced - both,
        "true_negative": annotated - predicted - referenced + both,
    }


@measure("Dice", overlap_counts, reference_empty=0.0)
def dice(counts: Counts) -> float:
    """Overlap of prediction and reference: twice the shared voxels over the sum of both. The same number as F1.

    One voxel of shift costs a thin structure much and a thick one little; read it together with the tolerant clDice.
    """
    shared = 2 * counts["true_positive"]
    return shared / (shared + counts["false_positive"] + counts["false_negative"])


@measure("IoU", overlap_counts, reference_empty=0.0)
def iou(counts: Counts) -> float:
    """Intersection over union, also called Jaccard index: shared voxels over the voxels of either.

    Always at most Dice: IoU = Dice / (2 - Dice).
    """
    return counts["true_positive"] / (counts["true_positive"] + counts["false_positive"] + counts["false_negative"])


@measure("precision", overlap_counts, reference_empty=0.0)
def precision(counts: Counts) -> float:
    """Share of the predicted voxels that the reference holds too; low when the prediction invents structure."""
    return counts["true_positive"] / (counts["true_positive"] + counts["false_positive"])


@measure("recall", overlap_counts, reference_empty=math.nan)
def recall(counts: Counts) -> float:
    """Share of the reference's voxels that were predicted; low when the prediction misses structure."""
    return counts["true_positive"] / (counts["true_positive"] + counts["false_negative"])
