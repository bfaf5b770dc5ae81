"""The measures of a segmentation, one documented function each.

A measure is computed in two steps. A count step turns the masks of one case and class into named counts; a formula
turns counts into the value. Pooling is the formula on counts summed over cases, so a pooled value and a mean of values
come from the same function and cannot drift apart. To add a measure, write its formula with `@measure(...)`; a new kind
of count is one more count step. Scores, tables, the report and the contract test find it in `MEASURES`.

Empty masks are decided before the formula is asked, with the values the measure declares: a formula sees counts of a
prediction and a reference that both have voxels. NaN means that the measure is undefined there; such a case is left out
of the mean, and the number of cases in the mean is reported beside it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nnunet_neuro.skeletons import skeleton_overlap

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Masks:
    """One class of one case.

    Attributes:
        prediction: (z, y, x) bool.
        reference: (z, y, x) bool.
        annotated: (z, y, x) bool, false where the reference says "ignore"; such voxels count nowhere.
        tolerance: voxels, for the tolerant skeleton measures.
    """

    prediction: np.ndarray
    reference: np.ndarray
    annotated: np.ndarray
    tolerance: int = 2


@dataclass(frozen=True)
class Measure:
    """A formula with what is known about it.

    Attributes:
        name: key in scores.json, column in scores.csv.
        formula: counts to value; both masks have voxels.
        counts: the step that makes the counts.
        best: the value of a perfect prediction.
        higher_is_better: direction.
        dimension: physical dimension of the value, "" for a ratio.
        both_empty: value where neither mask has a voxel.
        prediction_empty: value where only the reference has voxels.
        reference_empty: value where only the prediction has voxels.
    """

    name: str
    formula: Callable[[Counts], float]
    counts: Callable[[Masks], dict[str, int]]
    best: float
    higher_is_better: bool
    dimension: str
    both_empty: float
    prediction_empty: float
    reference_empty: float

    @property
    def description(self) -> str:
        """The formula's docstring."""
        return inspect.getdoc(self.formula) or ""

    def value(self, counts: Counts) -> float:
        """The measure of these counts, of one case or summed over cases."""
        predicted = counts["true_positive"] + counts["false_positive"]
        referenced = counts["true_positive"] + counts["false_negative"]
        if not predicted and not referenced:
            return self.both_empty
        if not predicted:
            return self.prediction_empty
        if not referenced:
            return self.reference_empty
        return float(self.formula(counts))


MEASURES: dict[str, Measure] = {}


def measure(
    name: str,
    counts: Callable[[Masks], dict[str, int]],
    *,
    reference_empty: float,
    both_empty: float = math.nan,
    prediction_empty: float = 0.0,
    best: float = 1.0,
    higher_is_better: bool = True,
    dimension: str = "",
) -> Callable[[Callable[[Counts], float]], Callable[[Counts], float]]:
    """Register a formula as a measure; see `Measure` for the arguments."""

    def register(formula: Callable[[Counts], float]) -> Callable[[Counts], float]:
        if name in MEASURES:
            raise ValueError(f"two measures are called {name}; rename {formula.__module__}.{formula.__qualname__}")
        MEASURES[name] = Measure(
            name, formula, counts, best, higher_is_better, dimension, both_empty, prediction_empty, reference_empty
        )
        return formula

    return register


def count(masks: Masks) -> dict[str, int]:
    """All counts that the registered measures ask for; each count step runs once."""
    steps = dict.fromkeys([overlap_counts, *(one.counts for one in MEASURES.values())])
    return {name: number for step in steps for name, number in step(masks).items()}


def values(counts: Counts) -> dict[str, float]:
    """Every measure of these counts by name."""
    return {name: one.value(counts) for name, one in MEASURES.items()}


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


def skeleton_counts(masks: Masks) -> dict[str, int]:
    """Skeleton voxels of prediction and reference, and how many of them the other mask holds."""
    return skeleton_overlap(masks.prediction, masks.reference, masks.annotated, tolerance=masks.tolerance)


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


@measure("clDice", skeleton_counts, reference_empty=0.0)
def cl_dice(counts: Counts) -> float:
    """Are the centre lines right, at any thickness? Harmonic mean of clPrecision and clRecall (Shit et al., 2021).

    Every millimetre of a process counts the same, thin or thick.
    """
    return _harmonic_mean(cl_precision(counts), cl_recall(counts))


@measure("clPrecision", skeleton_counts, reference_empty=0.0)
def cl_precision(counts: Counts) -> float:
    """Share of the prediction's skeleton that lies inside the reference (topology precision)."""
    return counts["skeleton_prediction_hit"] / counts["skeleton_prediction"]


@measure("clRecall", skeleton_counts, reference_empty=math.nan)
def cl_recall(counts: Counts) -> float:
    """Share of the reference's skeleton that lies inside the prediction (topology sensitivity)."""
    return counts["skeleton_reference_hit"] / counts["skeleton_reference"]


@measure("clDice_tolerant", skeleton_counts, reference_empty=0.0)
def cl_dice_tolerant(counts: Counts) -> float:
    """clDice that forgives a small shift: a skeleton voxel is right if the other mask lies within the tolerance.

    A strict clDice far below it says that lines were found but drawn beside the reference.
    """
    return _harmonic_mean(cl_precision_tolerant(counts), cl_recall_tolerant(counts))


@measure("clPrecision_tolerant", skeleton_counts, reference_empty=0.0)
def cl_precision_tolerant(counts: Counts) -> float:
    """Share of the prediction's skeleton with a voxel of the reference within the tolerance."""
    return counts["skeleton_prediction_hit_tolerant"] / counts["skeleton_prediction"]


@measure("clRecall_tolerant", skeleton_counts, reference_empty=math.nan)
def cl_recall_tolerant(counts: Counts) -> float:
    """Share of the reference's skeleton with a voxel of the prediction within the tolerance."""
    return counts["skeleton_reference_hit_tolerant"] / counts["skeleton_reference"]


def _harmonic_mean(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0
