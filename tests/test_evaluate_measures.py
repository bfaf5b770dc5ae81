"""Measures: a contract that every registered one keeps, hand-computed values, and independent formulas."""

import inspect
import math

import numpy as np
import pytest

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import MEASURES, Masks
from nnunet_neuro.evaluate.measures.overlap import overlap_counts


def masks_of(prediction, reference, annotated=None, *, tolerance=2, spacing=(1.0, 1.0, 1.0), certain=False):
    """Masks with probabilities: 0 and 1 for a certain prediction, else smooth and, outside of what is annotated, anything."""
    from scipy.ndimage import gaussian_filter

    annotated = np.ones(reference.shape, bool) if annotated is None else np.broadcast_to(annotated, reference.shape)
    probability = np.broadcast_to(prediction, reference.shape).astype(np.float32)
    if not certain:
        probability = np.where(annotated, 0.1 + 0.8 * gaussian_filter(probability * annotated, 0.5), probability)
    return Masks(np.broadcast_to(prediction, reference.shape), reference, annotated, tolerance, spacing, probability=probability)


def measured(prediction, reference, annotated=None, **options):
    return measures.values(measures.count(masks_of(prediction, reference, annotated, **options)))


def value_of(name, prediction, reference, annotated=None, **options):
    """One measure; measures of the same step share what was counted of the same masks."""
    masks = masks_of(prediction, reference, annotated, **options)
    voxels = [np.ascontiguousarray(mask).tobytes() for mask in (masks.prediction, masks.reference, masks.annotated)]
    key = (MEASURES[name].counts, masks.reference.shape, masks.tolerance, masks.spacing, *voxels)
    if key not in _COUNTED:
        _COUNTED[key] = measures.count(masks, {name: MEASURES[name]})
    return MEASURES[name].value(_COUNTED[key])


_COUNTED = {}


def blobs(seed, *, shape=(12, 20, 22), share=0.12):
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return smooth > np.quantile(smooth, 1 - share)


def walls(seed, *, shape=(12, 20, 22), cells=8):
    """Membranes between cells: voxels that are about as near to one centre as to another."""
    from scipy.spatial.distance import cdist

    centres = np.random.default_rng(seed).random((cells, 3)) * shape
    nearest, second = np.sort(cdist(np.argwhere(np.ones(shape)), centres), axis=1)[:, :2].T
    return (second - nearest < 2).reshape(shape)


def wiring():
    """Prediction and reference of two long bars: one has a gap, of the other the end is missed; they are bridged; a bar lies far away."""
    reference, prediction = np.zeros((2, 10, 192, 22), bool)
    reference[1:9, 5:90, 1:3] = reference[1:9, 5:90, 8:10] = True
    prediction[1:9, 5:40, 1:3] = prediction[1:9, 60:90, 1:3] = prediction[1:9, 5:75, 8:10] = True
    prediction[1:9, 20:22, 1:10] = prediction[1:9, 150:170, 4:8] = True
    return prediction, reference


def pictures(seed):
    """Pairs of a prediction and a reference: other objects everywhere, in one half, membranes with a gap and one too many, and wiring."""
    mask, other = blobs(seed), blobs(seed + 10)
    half_right, membranes = np.concatenate([other[:, :10], mask[:, 10:]], axis=1), walls(seed)
    membranes[:, 6:14, 4:10] = False
    membranes[:, :, 5] = True
    return [(mask, other), (half_right, other), (membranes, walls(seed)), wiring()]


def lines(*, shape=(9, 21, 23)):
    """Straight lines one voxel thin, each its own skeleton whatever the order of the axes."""
    mask = np.zeros(shape, bool)
    mask[4, 3, 2:20] = True
    mask[1:8, 10, 5] = True
    mask[6, 5:18, 15] = True
    return mask


every_measure = pytest.mark.parametrize("name", list(MEASURES))


@every_measure
def test_measure_is_documented_and_declares_what_it_returns(name):
    one = MEASURES[name]
    assert inspect.getdoc(one.formula).strip().endswith(".")
    assert one.dimension in range(-3, 4) and one.limits[0] <= one.best <= one.limits[1]
    assert all(isinstance(value, float) for value in (one.best, one.both_empty))
    assert all(value is None or isinstance(value, float) for value in (one.prediction_empty, one.reference_empty))


@every_measure
@pytest.mark.parametrize("seed", range(3))
def test_perfect_prediction_gets_the_best_value(name, seed):
    mask = blobs(seed)
    assert value_of(name, mask, mask, certain=True) == MEASURES[name].best


@every_measure
@pytest.mark.parametrize("seed", range(3))
def test_value_lies_in_its_range_and_below_the_best(name, seed):
    found = [
        value_of(name, prediction, reference, np.random.default_rng(seed).random(reference.shape) < 0.8)
        for prediction, reference in pictures(seed)
    ]
    lowest, highest = MEASURES[name].limits
    assert all(lowest <= value <= highest and value < math.inf for value in found)
    assert any(value != MEASURES[name].best for value in found)


@every_measure
def test_order_of_the_axes_does_not_matter(name):
    reference = lines()
    prediction = np.roll(reference, 1, axis=1)
    prediction[4, 4, 12:] = False
    expected = value_of(name, prediction, reference)
    assert 0 < value_of("clDice_tolerant", prediction, reference, tolerance=1) < 1
    for order in ((1, 2, 0), (2, 1, 0), (0, 2, 1)):
        assert value_of(name, prediction.transpose(order), reference.transpose(order)) == pytest.approx(expected)


@every_measure
@pytest.mark.parametrize("kind", ["random voxels", "half", "planes", "slabs and a plane"])
def test_prediction_in_ignored_voxels_never_matters(name, kind):
    found = set()
    for prediction, reference in [(blobs(2) | blobs(1, share=0.06), blobs(1)), *pictures(1)]:
        annotated = annotations(kind, reference.shape)
        noise = np.random.default_rng(3).random(reference.shape) < 0.5
        values = [
            value_of(name, np.where(annotated, prediction, other), np.where(annotated, reference, another), annotated)
            for other, another in ((prediction, reference), (noise, reference), (False, ~noise), (True, False))
        ]
        assert len(set(values)) == 1
        found.add(values[0])
    assert found - {MEASURES[name].best, *MEASURES[name].limits}


def annotations(kind, shape):
    annotated = np.zeros(shape, bool)
    if kind == "random voxels":
        return np.random.default_rng(0).random(shape) < 0.7
    if kind == "half":
        annotated[:, :, : shape[2] // 2] = True
    elif kind == "planes":
        annotated[[2, 6, 9]] = True
    else:
        annotated[[1, 2, 3, 8]] = True
    return annotated


@every_measure
def test_empty_masks_give_the_declared_values(name):
    some, none = blobs(0), np.zeros((12, 20, 22), bool)
    one = MEASURES[name]
    for prediction, reference, expected in (
        (none, none, one.both_empty),
        (none, some, one.prediction_empty),
        (some, none, one.reference_empty),
    ):
        found = value_of(name, prediction, reference)
        assert found > one.best if expected is None else found == pytest.approx(expected, nan_ok=True)
    assert value_of(name, some, some, none) == pytest.approx(one.both_empty, nan_ok=True)  # nothing annotated


@every_measure
def test_disjoint_masks_get_a_finite_value(name):
    first, second = np.zeros((2, 5, 30, 30), bool)
    first[2, 3, 2:28] = second[2, 25, 2:28] = True
    assert math.isfinite(value_of(name, first, second))


@every_measure
def test_doubling_every_case_keeps_the_pooled_value(name):
    """From eight cases to sixteen; a percentile between two neighbouring distances still moves where cases are few."""
    counts = measures.count(masks_of(blobs(1), blobs(2)), {name: MEASURES[name]})
    for _ in range(3):
        counts = measures.added(counts, counts)
    twice = measures.added(counts, counts)
    assert MEASURES[name].value(twice) == pytest.approx(MEASURES[name].value(counts))


@every_measure
def test_value_scales_with_the_voxel_size_by_its_dimension(name):
    prediction, reference = blobs(1), blobs(1) | blobs(2, share=0.06)
    small, large = (
        value_of(name, prediction, reference, spacing=(2 * size, size, size), tolerance=2 * size) for size in (1.0, 3.0)
    )
    assert large == pytest.approx(small * 3.0 ** MEASURES[name].dimension)


def test_two_measures_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two measures are called Dice"):
        measures.measure("Dice", overlap_counts, reference_empty=0.0)(lambda counts: 0.0)


def test_overlap_measures_by_hand():
    reference = np.array([[[1, 1, 1, 1, 0, 0, 0, 0]]], bool)
    prediction = np.array([[[1, 1, 0, 0, 1, 0, 0, 0]]], bool)
    found = measured(prediction, reference)
    assert found["Dice"] == pytest.approx(4 / 7)
    assert found["IoU"] == pytest.approx(2 / 5)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 4)


@pytest.mark.parametrize("seed", range(4))
def test_overlap_measures_equal_scikit_learn(seed):
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

    prediction, reference = blobs(seed), blobs(seed) ^ blobs(seed + 5, share=0.05)
    annotated = np.random.default_rng(seed).random(reference.shape) < 0.6
    found = measured(prediction, reference, annotated)
    for name, function in (
        ("Dice", f1_score),
        ("IoU", jaccard_score),
        ("precision", precision_score),
        ("recall", recall_score),
    ):
        assert found[name] == pytest.approx(function(reference[annotated], prediction[annotated]))


def test_counts_equal_those_of_nnunet():
    from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn

    prediction, reference = blobs(1), blobs(2)
    annotated = np.random.default_rng(0).random(reference.shape) < 0.6
    found = overlap_counts(Masks(prediction, reference, annotated))
    assert tuple(found.values()) == compute_tp_fp_fn_tn(reference, prediction, ignore_mask=~annotated)
