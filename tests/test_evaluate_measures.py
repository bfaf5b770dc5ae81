"""Measures: a contract that every registered one keeps, hand-computed values, and independent formulas."""

import inspect
import math

import numpy as np
import pytest

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import MEASURES, Masks
from nnunet_neuro.evaluate.measures.overlap import overlap_counts
from nnunet_neuro.skeletons import annotated_pieces, skeletonise


def masks_of(prediction, reference, annotated=None, *, tolerance=2, spacing=(1.0, 1.0, 1.0)):
    from scipy.ndimage import gaussian_filter

    annotated = np.ones(reference.shape, bool) if annotated is None else np.broadcast_to(annotated, reference.shape)
    probability = 0.1 + 0.8 * gaussian_filter(prediction.astype(np.float32), 0.5)
    return Masks(np.broadcast_to(prediction, reference.shape), reference, annotated, tolerance, spacing, probability=probability)


def measured(prediction, reference, annotated=None, **options):
    return measures.values(measures.count(masks_of(prediction, reference, annotated, **options)))


def blobs(seed, *, shape=(12, 20, 22), share=0.12):
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return smooth > np.quantile(smooth, 1 - share)


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
    assert all(isinstance(value, float) for value in (one.best, one.both_empty, one.prediction_empty))


@every_measure
@pytest.mark.parametrize("seed", range(3))
def test_perfect_prediction_gets_the_best_value(name, seed):
    mask = blobs(seed)
    assert measured(mask, mask)[name] == MEASURES[name].best


@every_measure
@pytest.mark.parametrize("seed", range(3))
def test_value_lies_in_its_range_and_below_the_best(name, seed):
    value = measured(blobs(seed), blobs(seed + 10), np.random.default_rng(seed).random((12, 20, 22)) < 0.8)[name]
    lowest, highest = MEASURES[name].limits
    assert lowest <= value <= highest and value < math.inf
    assert value != MEASURES[name].best


@every_measure
def test_order_of_the_axes_does_not_matter(name):
    reference = lines()
    prediction = np.roll(reference, 1, axis=1)
    prediction[4, 4, 12:] = False
    expected = measured(prediction, reference)[name]
    assert 0 < measured(prediction, reference, tolerance=1)["clDice_tolerant"] < 1
    for order in ((1, 2, 0), (2, 1, 0), (0, 2, 1)):
        assert measured(prediction.transpose(order), reference.transpose(order))[name] == pytest.approx(expected)


@every_measure
@pytest.mark.parametrize("kind", ["random voxels", "half", "planes", "slabs and a plane"])
def test_prediction_in_ignored_voxels_never_matters(name, kind):
    reference, prediction = blobs(1), blobs(2) | blobs(1, share=0.06)
    annotated = annotations(kind, reference.shape)
    noise = np.random.default_rng(3).random(reference.shape) < 0.5
    values = [
        measured(np.where(annotated, prediction, other), np.where(annotated, reference, another), annotated)[name]
        for other, another in ((prediction, reference), (noise, reference), (False, ~noise), (True, False))
    ]
    assert len(set(values)) == 1 and values[0] not in (MEASURES[name].best, *MEASURES[name].limits)


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
        assert measured(prediction, reference)[name] == pytest.approx(expected, nan_ok=True)
    assert measured(some, some, none)[name] == pytest.approx(one.both_empty, nan_ok=True)  # nothing annotated


@every_measure
def test_disjoint_masks_get_a_finite_value(name):
    first, second = np.zeros((2, 5, 30, 30), bool)
    first[2, 3, 2:28] = second[2, 25, 2:28] = True
    assert math.isfinite(measured(first, second)[name])


@every_measure
def test_doubling_every_case_keeps_the_pooled_value(name):
    counts = measures.count(masks_of(blobs(1), blobs(2)))
    twice = measures.added(counts, counts)
    assert MEASURES[name].value(twice) == pytest.approx(MEASURES[name].value(counts))


@every_measure
def test_value_scales_with_the_voxel_size_by_its_dimension(name):
    prediction, reference = blobs(1), blobs(1) | blobs(2, share=0.06)
    small, large = (measured(prediction, reference, spacing=(2 * size, size, size), tolerance=2 * size)[name] for size in (1.0, 3.0))
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


def test_skeleton_measures_by_hand():
    """The reference is a line of 10 voxels; 6 are predicted in place, 4 others one voxel beside it, 5 far away."""
    reference, prediction = np.zeros((2, 5, 20, 30), bool)
    reference[2, 5, 5:15] = True
    prediction[2, 5, 5:11] = True
    prediction[2, 15, 5:10] = True
    strict = measured(prediction, reference, tolerance=1)
    assert strict["clPrecision"] == pytest.approx(6 / 11)
    assert strict["clRecall"] == pytest.approx(6 / 10)
    assert strict["clDice"] == pytest.approx(2 * (6 / 11) * (6 / 10) / (6 / 11 + 6 / 10))
    for tolerance, hits in ((0, 6), (1, 7), (2, 8), (3, 9), (4, 10), (9, 10)):
        found = measured(prediction, reference, tolerance=tolerance)
        assert found["clRecall_tolerant"] == pytest.approx(hits / 10)
        assert found["clPrecision_tolerant"] == pytest.approx(6 / 11)
    assert measured(prediction, reference, tolerance=10)["clPrecision_tolerant"] == 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tolerance", [0, 1, 2])
def test_skeleton_measures_equal_a_plain_loop(seed, tolerance):
    from skimage.morphology import skeletonize

    prediction, reference = kept(blobs(seed)), kept(blobs(seed, share=0.08) | blobs(seed + 7))
    found = measured(prediction, reference, tolerance=tolerance)

    def share(mask, other, reach):
        centres, targets = np.argwhere(skeletonize(mask)), np.argwhere(other)
        hits = [min(((targets - centre) ** 2).sum(axis=1)) <= reach**2 for centre in centres]
        return sum(hits) / len(hits)

    precision, recall = share(prediction, reference, 0), share(reference, prediction, 0)
    assert found["clPrecision"] == pytest.approx(precision)
    assert found["clRecall"] == pytest.approx(recall)
    assert found["clDice"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["clPrecision_tolerant"] == pytest.approx(share(prediction, reference, tolerance))
    assert found["clRecall_tolerant"] == pytest.approx(share(reference, prediction, tolerance))


def kept(mask):
    """The mask without the objects that scikit-image erases (its issue #3757), which `skeletonise` treats otherwise."""
    from scipy.ndimage import label
    from skimage.morphology import skeletonize

    objects, _ = label(mask, np.ones((3, 3, 3)))
    left = np.unique(objects[skeletonize(mask).astype(bool)])
    assert len(left) > 3
    return np.isin(objects, left)


def test_zero_tolerance_is_the_strict_measure():
    found = measured(blobs(1), blobs(2), tolerance=0)
    for name in ("clDice", "clPrecision", "clRecall"):
        assert found[name] == found[f"{name}_tolerant"]


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("height", [1, 2, 4, 7])
def test_straight_rods_of_any_thickness_have_a_centre_line(width, height):
    """scikit-image erases most even ones: its issue #3757."""
    rod = np.zeros((20, 20, 50), bool)
    rod[6 : 6 + width, 6 : 6 + height, 5:45] = True
    skeleton = skeletonise(rod)
    assert not (skeleton & ~rod).any()
    assert 40 - max(width, height) <= skeleton.sum() <= 44


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 1, 1), (8, 8, 8), (2, 2), (1, 5)])
def test_no_object_is_without_a_skeleton(shape):
    assert skeletonise(np.ones(shape, bool)).any()


def test_annotated_planes_are_thinned_in_the_plane():
    """Of a thick tube each annotated plane shows a strip; every strip has a centre line of its own."""
    tube = np.zeros((15, 15, 40), bool)
    tube[4:11, 4:11, 2:38] = True
    annotated = np.zeros_like(tube)
    annotated[[6, 9]] = True
    found = measures.count(Masks(tube, tube, annotated))
    in_plane = sum(int(skeletonise(tube[z]).sum()) for z in (6, 9))
    assert found["skeleton_reference"] == found["skeleton_prediction"] == in_plane > 50


def test_tolerance_does_not_reach_into_another_annotated_plane():
    prediction, reference = np.zeros((2, 7, 12, 12), bool)
    reference[2, 5, 2:10] = True
    prediction[4, 5, 2:10] = True
    annotated = np.zeros_like(reference)
    annotated[[2, 4]] = True
    found = measured(prediction, reference, annotated, tolerance=2)
    assert found["clDice_tolerant"] == 0
    assert measured(prediction, reference, tolerance=2)["clDice_tolerant"] == 1


def test_annotated_pieces():
    everything = np.ones((4, 5, 6), bool)
    assert [axis for _, axis in annotated_pieces(everything)] == [None]
    assert annotated_pieces(~everything) == []
    assert [axis for _, axis in annotated_pieces(np.ones((1, 5, 6), bool))] == [0]
    for axis in range(3):
        mask = np.zeros((9, 9, 9), bool)
        np.moveaxis(mask, axis, 0)[[1, 4, 5, 6]] = True
        pieces = annotated_pieces(mask)
        assert [flat for _, flat in pieces] == [axis, None]
        assert sum(mask[box].sum() for box, _ in pieces) == mask.sum()
