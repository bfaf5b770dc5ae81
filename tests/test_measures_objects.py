"""Matching of objects: MONAI, plain loops over every pair, and by hand."""

from itertools import product

import numpy as np
import pytest

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import Masks
from nnunet_neuro.evaluate.measures.objects import matched_points, object_counts

OBJECTS = measures.selected(["objects"])


def balls(seed, *, shape=(10, 30, 32), objects=25, shift=0.0):
    """Ids of balls of several sizes, moved by up to `shift` voxels; some leave the volume, some are covered by others."""
    random = np.random.default_rng(seed)
    centres, radii = random.random((objects, 3)) * shape, 1.5 + 2.5 * random.random(objects)
    centres = centres + np.random.default_rng(seed + 1).uniform(-shift, shift, centres.shape)
    ids = np.zeros(shape, int)
    for identifier, (centre, radius) in enumerate(zip(centres, radii), 1):
        ids[((np.indices(shape).T - centre) ** 2).sum(axis=-1).T <= radius**2] = identifier
    return ids


def pair(seed):
    """Balls and moved balls, of which some are cut, joined, missed or extra."""
    reference, prediction = balls(seed), balls(seed, shift=1.0)
    prediction[:, :, 20:][prediction[:, :, 20:] == 5] = 70
    prediction[prediction == 6] = 7
    prediction[prediction == 8] = 0
    prediction[0:3, 0:3, 0:3] = 71
    return prediction, reference


def masks_of(prediction, reference, annotated=None, *, inner=None, tolerance=2, spacing=(1.0, 1.0, 1.0)):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return Masks(prediction != 0, reference != 0, annotated, tolerance, spacing, inner, (prediction, reference))


def measured(prediction, reference, annotated=None, **options):
    return measures.values(measures.count(masks_of(prediction, reference, annotated, **options), OBJECTS), OBJECTS)


def line(*ids):
    return np.array(ids)[None, None]


def test_object_measures_by_hand():
    """IoU 3/4, 1 and 1/3; one object is extra, one is missed."""
    reference = line(1, 1, 1, 1, 0, 2, 2, 0, 3, 3, 3, 0, 4, 0, 0)
    prediction = line(1, 1, 1, 0, 0, 2, 2, 0, 3, 0, 0, 0, 0, 0, 5)
    found = measured(prediction, reference)
    assert found["object_precision_IoU50"] == 2 / 4 and found["object_recall_IoU50"] == 2 / 4 and found["object_F1_IoU50"] == 2 / 4
    assert found["object_AP_IoU50"] == pytest.approx(2 / 6)
    assert found["object_F1_IoU75"] == 1 / 4 and found["object_AP_IoU75"] == pytest.approx(1 / 7)  # exactly 3/4 is not above it
    assert found["object_F1_mean"] == pytest.approx((5 * 2 / 4 + 5 * 1 / 4) / 10)
    assert found["object_AP_mean"] == pytest.approx((5 * 2 / 6 + 5 * 1 / 7) / 10)
    assert found["segmentation_quality"] == pytest.approx((3 / 4 + 1) / 2)
    assert found["panoptic_quality"] == pytest.approx((3 / 4 + 1) / 2 * 2 / 4)
    assert found["object_number_ratio"] == 1


def test_object_cut_into_equal_halves_matches_neither():
    found = measured(line(1, 1, 2, 2), line(9, 9, 9, 9))
    assert found["object_F1_IoU50"] == found["panoptic_quality"] == found["segmentation_quality"] == 0
    assert found["object_number_ratio"] == 2


@pytest.mark.parametrize("seed", range(3))
def test_object_measures_equal_a_plain_loop(seed):
    prediction, reference = pair(seed)
    annotated = np.random.default_rng(seed).random(reference.shape) < 0.8
    found = measured(prediction, reference, annotated)
    predicted, referenced = ([np.flatnonzero((ids == one) & annotated) for one in np.unique(ids[annotated & (ids > 0)])]
                             for ids in (prediction, reference))
    ious = [[len(np.intersect1d(p, r)) / len(np.union1d(p, r)) for r in referenced] for p in predicted]
    scores = []
    for threshold in np.arange(50, 100, 5) / 100:
        hits = sum(iou > threshold for row in ious for iou in row)
        extra, missed = sum(max(row) <= threshold for row in ious), sum(max(column) <= threshold for column in zip(*ious))
        f1, average_precision = 2 * hits / (2 * hits + extra + missed), hits / (hits + extra + missed)
        scores.append((f1, average_precision, hits / (hits + extra), hits / (hits + missed)))
    for index, percent in ((0, 50), (5, 75)):
        names = [f"object_{what}_IoU{percent}" for what in ("F1", "AP", "precision", "recall")]
        assert [found[name] for name in names] == pytest.approx(scores[index])
        assert 0 < found[names[0]] < 1
    assert [found["object_F1_mean"], found["object_AP_mean"]] == pytest.approx(np.mean(scores, axis=0)[:2])
    assert found["object_number_ratio"] == pytest.approx(len(predicted) / len(referenced))


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_equals_monai(seed):
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    prediction, reference = pair(seed)
    found = measured(prediction, reference)
    for name, theirs in (("panoptic_quality", "pq"), ("segmentation_quality", "sq"), ("object_F1_IoU50", "rq")):
        expected = monai.compute_panoptic_quality(torch.from_numpy(prediction), torch.from_numpy(reference), metric_name=theirs)
        assert found[name] == pytest.approx(float(expected), abs=1e-5) and 0 < found[name] < 1


def test_connected_components_are_the_objects_where_no_ids_are_given():
    reference, prediction = np.zeros((2, 3, 9, 9), bool)
    reference[1, 1:4, 1:4] = reference[1, 6:8, 6:8] = True
    prediction[1, 1:4, 1:4] = prediction[1, 4, 4] = True  # touches at a corner
    found = measures.count(Masks(prediction, reference, np.ones_like(reference)), OBJECTS)
    assert (found["objects_prediction"], found["objects_reference"], found["objects_matched_IoU85"]) == (1, 2, 1)
    assert found["objects_matched_iou"] == pytest.approx(9 / 10)


def test_object_without_annotated_voxels_does_not_count():
    reference, prediction = line(1, 1, 0, 2, 2), line(3, 3, 0, 0, 4)
    annotated = line(True, True, True, False, False)
    found = measures.count(masks_of(prediction, reference, annotated), OBJECTS)
    assert all(found[f"{what}_{side}"] == 1 for what in ("objects", "centroids") for side in ("prediction", "reference"))
    assert measures.values(found, OBJECTS)["object_F1_mean"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_objects_in_blocks_equal_the_whole(seed):
    prediction, reference = pair(seed)
    annotated = np.random.default_rng(seed).random(reference.shape) < 0.8
    boxes = [tuple(slice(at, at + size) for at, size in zip(start, (4, 7, 9)))
             for start in product(range(0, 10, 4), range(0, 30, 7), range(0, 32, 9))]
    amounts = [object_counts.tally(masks_of(prediction, reference, annotated, inner=box).within()) for box in boxes]
    summed = amounts[0]
    for one in amounts[1:]:
        summed = measures.added(summed, one)
    whole = object_counts(masks_of(prediction, reference, annotated))
    assert object_counts.finish(summed) == whole and whole["objects_matched_IoU50"] > 3


# --- centroids ------------------------------------------------------------------------------------------------------------------------


def test_detection_by_hand_with_anisotropic_voxels():
    """Object 1 is found 2 columns beside, object 2 one plane above: 0.5 and 2 units away; object 3 is missed."""
    reference, prediction = np.zeros((2, 5, 12, 40), int)
    reference[2, 1:4, 1:4], reference[2, 1:4, 20:23], reference[2, 8:11, 30:33] = 1, 2, 3
    prediction[2, 1:4, 3:6], prediction[3, 1:4, 20:23] = 7, 8
    for tolerance, matched in ((0.4, 0), (0.5, 1), (1.9, 1), (2, 2), (3, 2)):
        found = measured(prediction, reference, tolerance=tolerance, spacing=(2, 0.25, 0.25))
        assert found["detection_precision"] == matched / 2
        assert found["detection_recall"] == pytest.approx(matched / 3)
        assert found["detection_F1"] == pytest.approx(2 * matched / 5)


def test_nearest_first_is_not_the_best_matching():
    """The middle points are nearest to each other; only if they go to others all four are paired."""
    assert matched_points(np.array([[0.0], [2.1]]), np.array([[1.2], [3.0]]), tolerance=1.2) == 2
    assert matched_points(np.array([[0.0], [1.2]]), np.array([[1.3]]), tolerance=5) == 1


@pytest.mark.parametrize("seed", range(4))
def test_matched_points_equal_an_assignment_over_all_pairs(seed):
    from scipy.optimize import linear_sum_assignment

    first, second = np.random.default_rng(seed).random((30, 3)), np.random.default_rng(seed + 9).random((36, 3))
    apart = np.sqrt(((first[:, None] - second) ** 2).sum(axis=2))
    for tolerance in (0.1, 0.2, 0.3):
        near = apart <= tolerance
        rows, columns = linear_sum_assignment(near, maximize=True)
        assert matched_points(first, second, tolerance=tolerance) == near[rows, columns].sum() > 0


def test_no_points_match_nothing():
    assert matched_points(np.zeros((0, 3)), np.zeros((4, 3)), tolerance=1) == 0


@pytest.mark.parametrize("seed", range(2))
def test_centroids_equal_those_of_scipy(seed):
    from scipy.ndimage import center_of_mass

    prediction, reference = pair(seed)
    annotated = np.random.default_rng(seed).random(reference.shape) < 0.8
    spacing = np.array((3.0, 1.0, 0.5))
    centroids = [np.array([np.array(center_of_mass((ids == one) & annotated)) * spacing for one in np.unique(ids[annotated & (ids > 0)])])
                 for ids in (prediction, reference)]
    counts = measures.count(masks_of(prediction, reference, annotated, tolerance=1.5, spacing=tuple(spacing)), OBJECTS)
    assert counts["centroids_matched"] == matched_points(*centroids, tolerance=1.5)
    assert 3 < counts["centroids_matched"] < min(map(len, centroids))
