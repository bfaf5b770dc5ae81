"""Overlap of two masks, from the four counts of voxels.

The names of the thalamus benchmark (MICLab-Unicamp) are those of SimpleITK's LabelOverlapMeasuresImageFilter as it was then: what it calls
false-positive error is called false discovery rate since ITK 5.3 (ITK #3490).

Accuracy and specificity count the background too. Where structures are thin nearly all voxels are background, and both are
close to 1 for any prediction; balanced accuracy is not.
"""

from __future__ import annotations

import math

import numpy as np

from nnunet_neuro.evaluate.measures.registry import Counts, Masks, count_step, measure

_TAHA = "Taha and Hanbury, BMC Medical Imaging 2015"
_TUSTISON = "Tustison and Gee, Insight Journal 2009"


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


@measure("Dice", overlap_counts, reference_empty=0.0, also_called=("F1", "Sørensen-Dice coefficient"), source=_TAHA)
def dice(counts: Counts) -> float:
    """Overlap of prediction and reference: twice the shared voxels over the sum of both. The same number as F1.

    One voxel of shift costs a thin structure much and a thick one little; read it together with the tolerant clDice.
    """
    shared = 2 * counts["true_positive"]
    return shared / (shared + counts["false_positive"] + counts["false_negative"])


@measure("IoU", overlap_counts, reference_empty=0.0, also_called=("Jaccard index",), source=_TAHA)
def iou(counts: Counts) -> float:
    """Intersection over union, also called Jaccard index: shared voxels over the voxels of either.

    Always at most Dice: IoU = Dice / (2 - Dice).
    """
    return counts["true_positive"] / (counts["true_positive"] + counts["false_positive"] + counts["false_negative"])


@measure("precision", overlap_counts, reference_empty=0.0, also_called=("positive predictive value",), source=_TAHA)
def precision(counts: Counts) -> float:
    """Share of the predicted voxels that the reference holds too; low when the prediction invents structure."""
    return counts["true_positive"] / (counts["true_positive"] + counts["false_positive"])


@measure("recall", overlap_counts, reference_empty=math.nan, also_called=("sensitivity", "true positive rate"), source=_TAHA)
def recall(counts: Counts) -> float:
    """Share of the reference's voxels that were predicted; low when the prediction misses structure."""
    return counts["true_positive"] / (counts["true_positive"] + counts["false_negative"])


@measure("specificity", overlap_counts, reference_empty=math.nan, prediction_empty=1.0, also_called=("true negative rate",), source=_TAHA)
def specificity(counts: Counts) -> float:
    """Share of the annotated background that was left alone; NaN where every annotated voxel belongs to the reference.

    Falls with the size of the background that is looked at, so it compares predictions of the same volumes only.
    """
    background = counts["true_negative"] + counts["false_positive"]
    return counts["true_negative"] / background if background else math.nan


@measure("accuracy", overlap_counts, reference_empty=math.nan, prediction_empty=math.nan, source=_TAHA)
def accuracy(counts: Counts) -> float:
    """Share of the annotated voxels, background included, that prediction and reference agree on.

    Says little about a small structure: without any prediction it is the share of background. Undefined where either mask is empty.
    """
    right = counts["true_positive"] + counts["true_negative"]
    return right / (right + counts["false_positive"] + counts["false_negative"])


@measure("balanced_accuracy", overlap_counts, reference_empty=math.nan, prediction_empty=0.5, source="Brodersen et al., ICPR 2010")
def balanced_accuracy(counts: Counts) -> float:
    """Mean of recall and specificity; 0.5 is what guessing, or predicting nothing or everything, gets."""
    return (recall(counts) + specificity(counts)) / 2


@measure("false_negative_error", overlap_counts, reference_empty=math.nan, prediction_empty=1.0, best=0.0, higher_is_better=False,
         also_called=("miss rate", "SimpleITK FalseNegativeError"), source=_TUSTISON)
def false_negative_error(counts: Counts) -> float:
    """Share of the reference's voxels that were missed: 1 - recall."""
    return counts["false_negative"] / (counts["true_positive"] + counts["false_negative"])


@measure("false_positive_error", overlap_counts, reference_empty=1.0, prediction_empty=1.0, best=0.0, higher_is_better=False,
         also_called=("false discovery rate", "SimpleITK FalseDiscoveryRate"), source=_TUSTISON)
def false_positive_error(counts: Counts) -> float:
    """Share of the predicted voxels that the reference does not hold: 1 - precision, as in the thalamus benchmark.

    What SimpleITK calls FalsePositiveError since ITK 5.3 is another number, 1 - specificity.
    """
    return counts["false_positive"] / (counts["true_positive"] + counts["false_positive"])


@measure("volume_similarity_signed", overlap_counts, reference_empty=2.0, prediction_empty=-2.0, best=0.0, higher_is_better=None,
         limits=(-2.0, 2.0), also_called=("SimpleITK VolumeSimilarity",), source=_TUSTISON)
def volume_similarity_signed(counts: Counts) -> float:
    """Difference of the volumes over their mean, 2 (P - R) / (P + R): above 0 the prediction is too large, below it too small.

    Looks at sizes only, not at places: two masks of equal size get 0 wherever they lie.
    """
    return 2 * (counts["false_positive"] - counts["false_negative"]) / _sum_of_volumes(counts)


@measure("volume_similarity", overlap_counts, reference_empty=0.0, source=_TAHA)
def volume_similarity(counts: Counts) -> float:
    """How equal the two volumes are, 1 - |volume_similarity_signed| / 2; never below Dice, and blind to places as that one is."""
    return 1 - abs(counts["false_positive"] - counts["false_negative"]) / _sum_of_volumes(counts)


def _sum_of_volumes(counts: Counts) -> int:
    return 2 * counts["true_positive"] + counts["false_positive"] + counts["false_negative"]
