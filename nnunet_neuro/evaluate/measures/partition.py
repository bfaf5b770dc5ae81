"""Do two divisions of the voxels into objects agree? Variation of information and adapted Rand error.

These measures weigh an object by its voxels (variation of information) or by their square (Rand), and need no matching of objects. The
connectomics challenges count only the foreground of the reference: an object that is predicted in the background costs nothing, and a
voxel of an object that the prediction calls background is a voxel of the wrong object. Two conventions exist for such missed voxels.
scikit-image, and CREMI for the variation of information, take all of them as one more predicted object; CREMI's and ISBI 2012's Rand
formula takes each as an object of its own.

Pooled over cases the sums are those of one volume in which the objects of different cases, and their backgrounds, are different objects.
"""

from __future__ import annotations

import math

import numpy as np

from nnunet_neuro.contingency import Contingency
from nnunet_neuro.evaluate.measures.registry import Counts, Masks, count_step, measure

_MEILA = "Meila, Journal of Multivariate Analysis 98:873, 2007"
_RAND = "Arganda-Carreras et al., Frontiers in Neuroanatomy 9:142, 2015"
_CREMI = "CREMI challenge, cremi.org, 2016"
_NO_LIMIT = (0.0, math.inf)


def _finish(amounts: Counts) -> dict[str, int | float]:
    table = amounts["partition"]
    foreground = table.selected(table.reference != 0)
    return {
        **size_logarithms(foreground, "foreground"),
        **size_logarithms(table, "annotated"),
        **size_squares(foreground, "foreground"),
        **size_squares(foreground, "foreground_missed_apart", missed_apart=True),
    }


@count_step(finish=_finish)
def partition_counts(masks: Masks) -> dict[str, Contingency]:
    """Annotated voxels of each pair of a predicted and a reference object; in blocks, the ids must hold in the whole volume."""
    return {"partition": Contingency.of(*masks.objects, masks.annotated)}


@measure("VOI", partition_counts, best=0.0, higher_is_better=False, limits=_NO_LIMIT, prediction_empty=math.nan, reference_empty=math.nan,
         also_called=("variation of information", "VI"), source=_MEILA)
def voi(counts: Counts) -> float:
    """Bits by which prediction and reference differ as divisions of the reference's foreground: VOI_split + VOI_merge.

    0 is perfect; cutting every object into two equal halves, or joining all objects to pairs of equal ones, costs 1 bit. Missed voxels
    count as one more predicted object (CREMI's convention). Undefined where either has no voxel, as there is no upper limit.
    """
    return voi_split(counts) + voi_merge(counts)


@measure("VOI_split", partition_counts, best=0.0, higher_is_better=False, limits=_NO_LIMIT, prediction_empty=math.nan,
         reference_empty=math.nan, also_called=("H(prediction | reference)", "over-segmentation"), source=_MEILA)
def voi_split(counts: Counts) -> float:
    """False splits in bits, H(prediction | reference): what is still to be said of a voxel's predicted object if its true one is known.

    The first number of scikit-image's `variation_of_information(reference, prediction)` and of CREMI's. High where objects are cut.
    """
    return split_bits(counts, "foreground")


@measure("VOI_merge", partition_counts, best=0.0, higher_is_better=False, limits=_NO_LIMIT, prediction_empty=math.nan,
         reference_empty=math.nan, also_called=("H(reference | prediction)", "under-segmentation"), source=_MEILA)
def voi_merge(counts: Counts) -> float:
    """False merges in bits, H(reference | prediction): what is still to be said of a voxel's true object if its predicted one is known.

    The second number of scikit-image's `variation_of_information(reference, prediction)` and of CREMI's. High where objects are joined.
    """
    return merge_bits(counts, "foreground")


@measure("VOI_with_background", partition_counts, best=0.0, higher_is_better=False, limits=_NO_LIMIT, prediction_empty=math.nan,
         reference_empty=math.nan, source=_MEILA)
def voi_with_background(counts: Counts) -> float:
    """Variation of information over all annotated voxels, in bits, the background being one object of either side.

    Unlike VOI it sees what is predicted in the background; where objects are few it says mostly how well background is told from objects.
    """
    return voi_split_with_background(counts) + voi_merge_with_background(counts)


@measure("VOI_split_with_background", partition_counts, best=0.0, higher_is_better=False, limits=_NO_LIMIT, prediction_empty=math.nan,
         reference_empty=math.nan, source=_MEILA)
def voi_split_with_background(counts: Counts) -> float:
    """H(prediction | reference) over all annotated voxels, in bits; an object predicted in the background is a split of the background."""
    return split_bits(counts, "annotated")


@measure("VOI_merge_with_background", partition_counts, best=0.0, higher_is_better=False, limits=_NO_LIMIT, prediction_empty=math.nan,
         reference_empty=math.nan, source=_MEILA)
def voi_merge_with_background(counts: Counts) -> float:
    """H(reference | prediction) over all annotated voxels, in bits; a missed object is merged into the background."""
    return merge_bits(counts, "annotated")


@measure("adapted_Rand_error", partition_counts, best=0.0, higher_is_better=False, prediction_empty=1.0, reference_empty=math.nan,
         also_called=("ARAND", "adapted_rand_error of scikit-image"), source=_RAND)
def adapted_rand_error(counts: Counts) -> float:
    """1 minus the harmonic mean of adapted_Rand_precision and adapted_Rand_recall: share of wrongly joined or parted pairs of voxels.

    0 is perfect. Large objects dominate: an object of twice the voxels weighs four times. scikit-image's convention: pairs of different
    voxels in the reference's foreground, missed voxels are one more predicted object.
    """
    return 1 - rand_f_score(counts, "foreground", itself=False)


@measure("adapted_Rand_precision", partition_counts, reference_empty=math.nan, source=_RAND)
def adapted_rand_precision(counts: Counts) -> float:
    """Share of the pairs of voxels in one predicted object that are in one reference object; low where objects are merged.

    1 where no predicted object has two voxels. scikit-image 0.26 returns it as recall, against its own documentation.
    """
    return rand_precision(counts, "foreground", itself=False)


@measure("adapted_Rand_recall", partition_counts, reference_empty=math.nan, source=_RAND)
def adapted_rand_recall(counts: Counts) -> float:
    """Share of the pairs of voxels in one reference object that are in one predicted object; low where objects are split.

    1 where no reference object has two voxels. scikit-image 0.26 returns it as precision, against its own documentation.
    """
    return rand_recall(counts, "foreground", itself=False)


@measure("adapted_Rand_error_CREMI", partition_counts, best=0.0, higher_is_better=False, prediction_empty=1.0, reference_empty=math.nan,
         source=_CREMI)
def adapted_rand_error_cremi(counts: Counts) -> float:
    """The adapted Rand error as CREMI and SNEMI3D compute it: each missed voxel is a predicted object of its own.

    Missed voxels lower the recall alone, where scikit-image's form takes them for a false merge. Each voxel is also a pair with itself.
    """
    return 1 - rand_f_score(counts, "foreground_missed_apart")


@measure("CREMI_score", partition_counts, best=0.0, higher_is_better=False, limits=_NO_LIMIT, prediction_empty=math.nan,
         reference_empty=math.nan, source=_CREMI)
def cremi_score(counts: Counts) -> float:
    """Geometric mean of VOI and adapted_Rand_error_CREMI, by which the CREMI challenge ranks; 0 is perfect."""
    return math.sqrt(voi(counts) * adapted_rand_error_cremi(counts))


# --- sums over a table, and formulas of them ------------------------------------------------------------------------------------------


def size_logarithms(table: Contingency, name: str, *, missed_apart: bool = False) -> dict[str, int | float]:
    """Sums of n log2 n over the sizes n of the overlaps, the predicted and the reference objects; they add up over cases.

    Args:
        table: overlaps.
        name: first part of the counts' names.
        missed_apart: take each voxel without predicted object as an object of its own; else all of them as one object.
    """
    predicted = table.selected(table.prediction != 0) if missed_apart else table  # 1 log2 1 = 0 for each missed voxel
    return {
        f"{name}_voxels": table.total,
        f"{name}_logarithms_overlap": sum_of_logarithms(predicted.voxels),
        f"{name}_logarithms_prediction": sum_of_logarithms(predicted.prediction_sizes[1]),
        f"{name}_logarithms_reference": sum_of_logarithms(table.reference_sizes[1]),
    }


def size_squares(table: Contingency, name: str, *, missed_apart: bool = False) -> dict[str, int]:
    """Sums of n^2 over the sizes n of the overlaps, the predicted and the reference objects; else as `size_logarithms`."""
    predicted = table.selected(table.prediction != 0) if missed_apart else table
    alone = table.total - predicted.total
    return {
        f"{name}_voxels": table.total,
        f"{name}_squares_overlap": _sum_of_squares(predicted.voxels) + alone,
        f"{name}_squares_prediction": _sum_of_squares(predicted.prediction_sizes[1]) + alone,
        f"{name}_squares_reference": _sum_of_squares(table.reference_sizes[1]),
    }


def sum_of_logarithms(sizes: np.ndarray) -> float:
    """Sum of n log2 n, 0 for n = 0; rounded once, so that the same sizes in another order, as of the same objects with other ids, give
    the same sum.

    Args:
        sizes: (n,) integers.
    """
    return math.fsum(size * math.log2(size) for size in sizes.tolist() if size)


def split_bits(counts: Counts, name: str) -> float:
    """H(prediction | reference); NaN without any voxel."""
    return _bits(counts, name, "reference")


def merge_bits(counts: Counts, name: str) -> float:
    """H(reference | prediction); NaN without any voxel."""
    return _bits(counts, name, "prediction")


def rand_precision(counts: Counts, name: str, *, itself: bool = True) -> float:
    """Pairs in one object of both over pairs in one predicted object, ordered; `itself` lets a voxel be a pair with itself."""
    both, predicted, _ = _pairs(counts, name, itself)
    return both / predicted if predicted else 1.0


def rand_recall(counts: Counts, name: str, *, itself: bool = True) -> float:
    """Pairs in one object of both over pairs in one reference object; see `rand_precision`."""
    both, _, referenced = _pairs(counts, name, itself)
    return both / referenced if referenced else 1.0


def rand_f_score(counts: Counts, name: str, *, itself: bool = True) -> float:
    """Harmonic mean of `rand_precision` and `rand_recall`."""
    both, predicted, referenced = _pairs(counts, name, itself)
    return 2 * both / (predicted + referenced) if predicted + referenced else 1.0


def _sum_of_squares(sizes: np.ndarray) -> int:
    return sum(size * size for size in sizes.tolist())  # Python's integers: squares of billions of voxels are beyond 64 bits


def _bits(counts: Counts, name: str, given: str) -> float:
    if not counts[f"{name}_voxels"]:
        return math.nan
    return max(0.0, (counts[f"{name}_logarithms_{given}"] - counts[f"{name}_logarithms_overlap"]) / counts[f"{name}_voxels"])


def _pairs(counts: Counts, name: str, itself: bool) -> tuple[int, int, int]:
    alone = 0 if itself else counts[f"{name}_voxels"]
    return tuple(counts[f"{name}_squares_{which}"] - alone for which in ("overlap", "prediction", "reference"))
