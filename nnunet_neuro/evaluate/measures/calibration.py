"""Can the probabilities be believed? Calibration of the probability of one class, voxel by voxel.

Every annotated voxel is a yes-or-no forecast: the probability of the class against whether the reference holds it. Where most of a volume
is clear background, most forecasts are right and sure, and the errors of calibration are small numbers; compare models on the same data,
and look at the reliability diagram, whose points are given by `reliability`.

The bins are those of Guo et al., On Calibration of Modern Neural Networks, ICML 2017: 15 of equal width, each with its upper edge. They
bin the probability of the predicted class; for one class out of several we bin the probability of that class, as scikit-learn's
`calibration_curve` does, so that too high and too low forecasts of the class are told apart.

Probabilities are summed as whole multiples of 2^-24, the precision of float32 just below 1, so that the sums of blocks are those of the
whole to the last bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from nnunet_neuro.evaluate.measures.registry import Counts, Masks, count_step, measure

BINS = 15
_UNIT = 2.0**-24
# voxels counted at once: bounds the memory, and keeps sums of floats that are whole numbers exact
_VOXELS_AT_ONCE = 1 << 22
_GUO = "Guo et al., On Calibration of Modern Neural Networks, ICML 2017"
_BRIER = "Brier, Monthly Weather Review 78:1, 1950"


class Reliability(NamedTuple):
    """Points of a reliability diagram, one for each bin that holds voxels.

    Attributes:
        predicted: (n,) float64 mean probability of the voxels in the bin.
        observed: (n,) float64 share of them that the reference holds; equal to `predicted` where the forecasts are calibrated.
        voxels: (n,) int64.
    """

    predicted: np.ndarray
    observed: np.ndarray
    voxels: np.ndarray


@count_step(needs=("probability",))
def calibration_counts(masks: Masks) -> dict[str, np.ndarray | int]:
    """Annotated voxels by the bin of their probability: (15,) int64 voxels, voxels of the reference, and summed probability.

    Also the summed squared error and the summed negative log-likelihood of all of them; sums are in units of 2^-24.
    """
    probability, reference = masks.probability[masks.annotated], masks.reference[masks.annotated]
    if not (probability.min(initial=0) >= 0 and probability.max(initial=0) <= 1):
        raise ValueError(f"probabilities go from {probability.min():g} to {probability.max():g}; expected 0 to 1: give those after the "
                         "softmax or sigmoid, without NaN")
    sums = _empty()
    for start in range(0, len(probability), _VOXELS_AT_ONCE):
        part = slice(start, start + _VOXELS_AT_ONCE)
        found = _counts_of(probability[part].astype(np.float64), reference[part])
        sums = {name: number + found[name] for name, number in sums.items()}
    return sums


@measure("ECE", calibration_counts, best=0.0, higher_is_better=False, prediction_empty=math.nan, reference_empty=math.nan,
         also_called=("expected calibration error",), source=_GUO)
def expected_calibration_error(counts: Counts) -> float:
    """How far the probability of the class is from how often it is true, on average over voxels, in 15 bins.

    0.05 says that forecasts are off by five percentage points. A model that always says the share of the class in the volume has 0 too,
    so read it together with Dice.
    """
    gaps, voxels = _gaps(counts)
    return float(np.sum(gaps * voxels) / np.sum(voxels)) if len(voxels) else math.nan


@measure("MCE", calibration_counts, best=0.0, higher_is_better=False, prediction_empty=math.nan, reference_empty=math.nan,
         also_called=("maximum calibration error",), source=_GUO)
def maximum_calibration_error(counts: Counts) -> float:
    """The largest gap between mean probability and observed share in any of the 15 bins; a bin of few voxels can be the one."""
    gaps, _ = _gaps(counts)
    return float(np.max(gaps)) if len(gaps) else math.nan


@measure("Brier_score", calibration_counts, best=0.0, higher_is_better=False, prediction_empty=math.nan, reference_empty=math.nan,
         also_called=("mean squared error of the probability",), source=_BRIER)
def brier_score(counts: Counts) -> float:
    """Mean squared difference between the probability of the class and the truth (0 or 1); rewards being right and knowing it.

    Always saying 0.5 gives 0.25.
    """
    return _mean(counts, "calibration_squared_error")


@measure("negative_log_likelihood", calibration_counts, best=0.0, higher_is_better=False, limits=(0.0, -math.log(_UNIT)),
         prediction_empty=math.nan, reference_empty=math.nan, also_called=("binary cross-entropy", "log loss"), source=_GUO)
def negative_log_likelihood(counts: Counts) -> float:
    """Mean of minus the natural logarithm of the probability given to the truth; punishes being sure and wrong most.

    Always saying 0.5 gives 0.69. Probabilities below 2^-24 are taken as that, so a voxel costs at most 16.6.
    """
    return _mean(counts, "calibration_log_likelihood")


def reliability(counts: Counts) -> Reliability:
    """The points of the reliability diagram of these counts, of one case or summed over cases, by rising probability."""
    voxels = np.asarray(counts["calibration_voxels"])
    filled = voxels > 0
    return Reliability(
        np.asarray(counts["calibration_probability"])[filled] * _UNIT / voxels[filled],
        np.asarray(counts["calibration_reference"])[filled] / voxels[filled],
        voxels[filled],
    )


def _empty() -> dict[str, np.ndarray | int]:
    return _counts_of(np.zeros(0), np.zeros(0, bool))


def _counts_of(probability: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray | int]:
    """Of at most `_VOXELS_AT_ONCE` voxels.

    Args:
        probability: (n,) float64.
        reference: (n,) bool.
    """
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], probability)
    squared_error = (probability - reference) ** 2
    of_truth = np.where(reference, probability, 1 - probability)
    return {
        "calibration_voxels": np.bincount(bins, minlength=BINS),
        "calibration_reference": np.bincount(bins[reference], minlength=BINS),
        "calibration_probability": np.bincount(bins, np.rint(probability / _UNIT), minlength=BINS).astype(np.int64),
        "calibration_squared_error": int(np.rint(squared_error / _UNIT).sum()),
        "calibration_log_likelihood": int(np.rint(-np.log(np.maximum(of_truth, _UNIT)) / _UNIT).sum()),
    }


def _gaps(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    points = reliability(counts)
    return np.abs(points.predicted - points.observed), points.voxels


def _mean(counts: Counts, name: str) -> float:
    voxels = int(np.sum(counts["calibration_voxels"]))
    return counts[name] * _UNIT / voxels if voxels else math.nan
