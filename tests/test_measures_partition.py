"""Variation of information and Rand scores of objects and of what boundaries part: other implementations, plain loops, and by hand."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from nnunet_neuro.contingency import Contingency
from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import Masks
from nnunet_neuro.evaluate.measures.boundaries import boundary_objects
from nnunet_neuro.evaluate.measures.partition import partition_counts

PARTITION, BOUNDARIES = (measures.selected([family]) for family in ("partition", "boundaries"))


def ids_of(seed, *, shape=(6, 12, 14), objects=6, background=0.3):
    """Random blobs of ids with a background, sizes of all kinds."""
    random = np.random.default_rng(seed)
    centres = random.random((objects, 3)) * shape
    squares = ((np.argwhere(np.ones(shape))[:, None] - centres) ** 2).sum(axis=2)
    ids = (1 + squares.argmin(axis=1)).reshape(shape)
    ids[squares.min(axis=1).reshape(shape) > np.quantile(squares.min(axis=1), 1 - background)] = 0
    return ids


def masks_of_ids(prediction, reference, annotated=None, inner=None):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return Masks(prediction != 0, reference != 0, annotated, inner=inner, object_ids=(prediction, reference))


def measured(prediction, reference, annotated=None):
    return measures.values(measures.count(masks_of_ids(prediction, reference, annotated), PARTITION), PARTITION)


def line(*ids):
    return np.array(ids)[None, None]


def cases():
    for seed in range(3):
        annotated = np.random.default_rng(seed).random((6, 12, 14)) < 0.7
        yield ids_of(seed + 10, objects=9), ids_of(seed), annotated


# --- the table ------------------------------------------------------------------------------------------------------------------------


def table_of(contingency):
    return dict(zip(zip(contingency.prediction.tolist(), contingency.reference.tolist()), contingency.voxels.tolist()))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_contingency_counts_every_pair(dtype):
    for prediction, reference, annotated in cases():
        found = Contingency.of(prediction.astype(dtype), reference.astype(dtype), annotated)
        assert table_of(found) == Counter(zip(prediction[annotated].tolist(), reference[annotated].tolist()))
        assert found.total == annotated.sum()
        for (ids, voxels), volume in ((found.prediction_sizes, prediction), (found.reference_sizes, reference)):
            assert dict(zip(ids.tolist(), voxels.tolist())) == Counter(volume[annotated].tolist())


def test_contingency_tells_neighbouring_large_ids_apart():
    reference = np.array([[[2**63, 2**63 + 1, 2**63 + 1]]], np.uint64)
    assert table_of(Contingency.of(np.ones_like(reference), reference, np.ones(reference.shape, bool))) == {
        (1, 2**63): 1, (1, 2**63 + 1): 2}


def test_contingency_of_blocks_adds_up():
    for prediction, reference, annotated in cases():
        total = Contingency.of(*(volume[:0] for volume in (prediction, reference, annotated)))
        assert total.total == 0
        for box in blocks(reference.shape, (4, 5, 6)):
            total = total + Contingency.of(prediction[box], reference[box], annotated[box])
        whole = Contingency.of(prediction, reference, annotated)
        for name in ("prediction", "reference", "voxels"):
            np.testing.assert_array_equal(getattr(total, name), getattr(whole, name))


def blocks(shape, size):
    starts = product(*(range(0, length, step) for length, step in zip(shape, size)))
    return [tuple(slice(at, at + step) for at, step in zip(start, size)) for start in starts]


def test_contingency_refuses_what_holds_no_ids():
    ids, mask = np.ones((2, 3, 4), int), np.ones((2, 3, 4), bool)
    for prediction, found in ((ids[:1], "shape"), (ids.astype(float), "float64"), (mask, "bool")):
        with pytest.raises(ValueError, match=rf"{found}.*; expected"):
            Contingency.of(prediction, ids, mask)


# --- objects --------------------------------------------------------------------------------------------------------------------------


def test_split_and_merge_by_hand():
    """Two objects of four voxels; one is cut into halves: half of the voxels need one more bit."""
    reference, prediction = line(1, 1, 1, 1, 2, 2, 2, 2), line(7, 7, 8, 8, 9, 9, 9, 9)
    cut, joined = measured(prediction, reference), measured(reference, prediction)
    assert (cut["VOI_split"], cut["VOI_merge"], cut["VOI"]) == (0.5, 0, 0.5)
    assert (joined["VOI_split"], joined["VOI_merge"]) == (0, 0.5)
    # ordered pairs of different voxels: 12 + 12 in the reference; 2 + 2 + 12 in the prediction, all of them right
    assert cut["adapted_Rand_precision"] == 1 and cut["adapted_Rand_recall"] == pytest.approx(16 / 24)
    assert cut["adapted_Rand_error"] == pytest.approx(1 - 2 * 16 / 40)
    assert joined["adapted_Rand_precision"] == pytest.approx(16 / 24) and joined["adapted_Rand_recall"] == 1
    # with itself: 16 + 16 in the reference; 4 + 4 + 16 in the prediction
    assert cut["adapted_Rand_error_CREMI"] == pytest.approx(1 - 2 * 24 / 56)
    assert cut["CREMI_score"] == pytest.approx(math.sqrt(0.5 * (1 - 2 * 24 / 56)))


def test_missed_and_extra_voxels_by_hand():
    """Half of either object is missed; an extra object lies in the background."""
    reference, prediction = line(1, 1, 2, 2, 0, 0, 0, 0), line(1, 0, 2, 0, 3, 3, 0, 0)
    found = measured(prediction, reference)
    # missed voxels are one object with a voxel of each: it needs a bit, and so do the halves of each object
    assert (found["VOI_split"], found["VOI_merge"]) == (1, 0.5)
    # of the pairs with itself: reference 4 + 4, prediction and both 1 + 1 and a missed voxel alone 1 + 1
    assert found["adapted_Rand_error_CREMI"] == pytest.approx(1 - 2 * 4 / 12)
    assert found["adapted_Rand_precision"] == 0 and found["adapted_Rand_recall"] == 0
    # 8 voxels: background 4 with 2 of object 3; predicted background holds 4 voxels, of 0 (2), 1 and 2
    assert found["VOI_split_with_background"] == pytest.approx((2 + 2 + 4) / 8)
    assert found["VOI_merge_with_background"] == pytest.approx((2 * 1 + 2 * 2) / 8)


def test_partition_measures_equal_scikit_image():
    from skimage.metrics import adapted_rand_error, variation_of_information

    for prediction, reference, annotated in cases():
        found = measured(prediction, reference, annotated)
        seen = reference[annotated], prediction[annotated]
        assert [found["VOI_split"], found["VOI_merge"]] == pytest.approx(variation_of_information(*seen, ignore_labels=(0,)))
        assert [found["VOI_split_with_background"], found["VOI_merge_with_background"]] == pytest.approx(variation_of_information(*seen))
        error, first, second = adapted_rand_error(*seen)
        assert found["adapted_Rand_error"] == pytest.approx(error)
        assert sorted([found["adapted_Rand_precision"], found["adapted_Rand_recall"]]) == pytest.approx(sorted([first, second]))


def test_partition_measures_equal_scikit_learn():
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    for prediction, reference, annotated in cases():
        found = measured(prediction, reference, annotated)
        counted = annotated & (reference != 0)
        truth, seen = reference[counted], prediction[counted]
        (_, wrongly_joined), (wrongly_parted, both) = pair_confusion_matrix(truth, seen)
        assert found["adapted_Rand_precision"] == pytest.approx(both / (both + wrongly_joined))
        assert found["adapted_Rand_recall"] == pytest.approx(both / (both + wrongly_parted))
        shared = mutual_info_score(truth, seen) / math.log(2)
        assert found["VOI_split"] == pytest.approx(entropy(seen) - shared)
        assert found["VOI_merge"] == pytest.approx(entropy(truth) - shared)


def entropy(ids):
    return -sum(n / len(ids) * math.log2(n / len(ids)) for n in Counter(ids.tolist()).values())


def test_cremi_measures_equal_plain_loops():
    """Each missed voxel is an object of its own in the Rand error, all of them are one in the variation of information."""
    for prediction, reference, annotated in cases():
        found = measured(prediction, reference, annotated)
        counted = annotated & (reference != 0)
        truth, seen = reference[counted].tolist(), prediction[counted].tolist()
        alone = [-place if identifier == 0 else identifier for place, identifier in enumerate(seen, 1)]
        pairs = [(truth[i] == truth[j], alone[i] == alone[j]) for i, j in product(range(len(truth)), repeat=2)]
        both, true, predicted = sum(t and p for t, p in pairs), sum(t for t, _ in pairs), sum(p for _, p in pairs)
        precision, recall = both / predicted, both / true
        error = 1 - 2 * precision * recall / (precision + recall)
        assert found["adapted_Rand_error_CREMI"] == pytest.approx(error)
        bits = 0.0
        for given, other in ((truth, seen), (seen, truth)):
            of_pair, of_given = Counter(zip(given, other)), Counter(given)
            bits -= sum(n / len(truth) * math.log2(n / of_given[one]) for (one, _), n in of_pair.items())
        assert found["VOI"] == pytest.approx(bits)
        assert found["CREMI_score"] == pytest.approx(math.sqrt(bits * error))


def test_other_numbers_of_the_same_objects_are_perfect_to_the_last_bit():
    for seed in range(5):
        reference = ids_of(seed, objects=30)
        renumbered = np.concatenate([[0], np.random.default_rng(seed).permutation(30) + 5])[reference]
        assert all(value == PARTITION[name].best for name, value in measured(renumbered, reference).items())


def test_partition_in_blocks_equals_the_whole():
    for prediction, reference, annotated in cases():
        whole = partition_counts(masks_of_ids(prediction, reference, annotated))
        amounts = [partition_counts.tally(masks_of_ids(prediction, reference, annotated, box).within())
                   for box in blocks(reference.shape, (4, 5, 6))]
        summed = amounts[0]
        for one in amounts[1:]:
            summed = measures.added(summed, one)
        assert partition_counts.finish(summed) == whole


def test_pooled_value_is_that_of_one_volume_with_different_objects():
    (first, first_reference, _), (second, second_reference, _), _ = cases()
    joined = np.concatenate([first, second + 100]), np.concatenate([first_reference, np.where(second_reference, second_reference + 100, 0)])
    counts = [measures.count(masks_of_ids(*pair), PARTITION) for pair in ((first, first_reference), (second, second_reference))]
    pooled = measures.values(measures.added(*counts), PARTITION)
    for name in ("VOI_split", "VOI_merge", "adapted_Rand_error", "adapted_Rand_precision", "adapted_Rand_recall"):
        assert pooled[name] == pytest.approx(measured(*joined)[name])


def test_objects_of_single_voxels_join_nothing():
    found = measured(line(1, 2, 3), line(4, 5, 6))
    assert found["adapted_Rand_error"] == 0 and found["adapted_Rand_precision"] == found["adapted_Rand_recall"] == 1


# --- boundaries -----------------------------------------------------------------------------------------------------------------------


def rooms(*, wall=slice(9, 10), shape=(4, 12, 20)):
    mask = np.zeros(shape, bool)
    mask[:, :, wall] = True
    return mask


def of_boundaries(prediction, reference, annotated=None, spacing=(1.0, 1.0, 1.0)):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return measures.values(measures.count(Masks(prediction, reference, annotated, spacing=spacing), BOUNDARIES), BOUNDARIES)


def test_width_of_a_boundary_costs_nothing():
    for reference, prediction in ((slice(9, 10), slice(7, 12)), (slice(7, 12), slice(9, 10)), (slice(7, 11), slice(8, 12))):
        found = of_boundaries(rooms(wall=prediction), rooms(wall=reference))
        assert all(value == BOUNDARIES[name].best for name, value in found.items())


def test_a_gap_of_one_voxel_joins_two_rooms():
    """The rooms have 9 and 10 columns; in 2D one plane of four is joined."""
    prediction = rooms()
    prediction[1, 5, 9] = False
    found = of_boundaries(prediction, rooms())
    assert found["Rand_recall_thinned"] == 1
    assert found["Rand_precision_thinned"] == pytest.approx((9**2 + 10**2) / 19**2)
    assert found["VOI_split_thinned"] == 0
    assert found["VOI_merge_thinned"] == pytest.approx(entropy(np.repeat([1, 2], [9, 10])))
    assert found["Info_F_thinned"] == 0
    assert found["Rand_recall_thinned_2D"] == 1
    assert found["Rand_precision_thinned_2D"] == pytest.approx(4 * (9**2 + 10**2) / (3 * (9**2 + 10**2) + 19**2))
    # three quarters of the voxels keep their whole information: I = 3/4 H, of 3/4 H and H
    assert found["Info_F_thinned_2D"] == pytest.approx(2 * 0.75 / 1.75)


def test_an_invented_boundary_parts_a_room():
    """The thinned line, column 14, lies in the second room; each of its voxels is alone."""
    prediction = rooms()
    prediction[:, :, 13:16] = True
    found = of_boundaries(prediction, rooms())
    columns, height = [9, 4, 5], 48
    both = sum((n * height) ** 2 for n in columns) + height
    assert found["Rand_precision_thinned"] == 1 and found["VOI_merge_thinned"] == 0
    assert found["Rand_recall_thinned"] == pytest.approx(both / ((9 * height) ** 2 + (10 * height) ** 2))


def test_scores_after_thinning_equal_the_formulas_of_isbi():
    """Rand and information scores plane by plane, from dense tables, with a term for voxels of the predicted line; pooled for Rand."""
    from skimage.measure import label

    reference = cells(1)
    prediction = cells(1)
    prediction[:, 8:16, 8:18] = False
    prediction[:, 16, :] = True
    squares, information = np.zeros(3), np.zeros(3)
    for z, (truth, thinned) in enumerate(zip(label_planes(reference), boundary_objects(prediction, in_planes=True))):
        assert truth.max() == label(~reference[z], connectivity=1).max() > 4
        table = np.zeros((truth.max() + 1, thinned.max() + 1))
        np.add.at(table, (truth.ravel(), thinned.ravel()), 1)
        table = table[1:]  # the reference's boundary is not counted
        n, line_voxels = table.sum(), table[:, 0].sum()
        share, rows, columns = table[:, 1:] / n, table.sum(axis=1) / n, table[:, 1:].sum(axis=0) / n
        squares += n**2 * (np.array([(share**2).sum(), (columns**2).sum(), 0]) + line_voxels / n**2)
        squares[2] += n**2 * (rows**2).sum() - line_voxels
        alone = line_voxels / n * math.log2(n)
        h_share, h_columns, h_rows = (-sum(p * math.log2(p) for p in part.ravel() if p) for part in (share, columns, rows))
        information += n * np.array([h_share + alone, h_columns + alone, h_rows])
    found = of_boundaries(prediction, reference)
    both, predicted, true = squares
    assert found["Rand_precision_thinned_2D"] == pytest.approx(both / predicted)
    assert found["Rand_recall_thinned_2D"] == pytest.approx(both / true)
    assert found["Rand_F_thinned_2D"] == pytest.approx(both / (0.5 * predicted + 0.5 * true))
    joint, of_prediction, of_reference = information
    assert found["Info_F_thinned_2D"] == pytest.approx(2 * (of_prediction + of_reference - joint) / (of_prediction + of_reference))
    assert all(0.3 < value < 1 for name, value in found.items() if name.endswith("_2D"))


def cells(seed, *, shape=(3, 24, 26)):
    """Membranes between columns of cells: the same in every plane."""
    centres = np.random.default_rng(seed).random((7, 2)) * shape[1:]
    distance = np.sort(np.sqrt(((np.argwhere(np.ones(shape[1:]))[:, None] - centres) ** 2).sum(axis=2)), axis=1)
    return np.broadcast_to((distance[:, 1] - distance[:, 0] < 2.5).reshape(shape[1:]), shape).copy()


def label_planes(mask):
    from scipy.ndimage import label

    return [label(~plane)[0] for plane in mask]


def test_one_plane_has_the_same_scores_in_2d_and_3d():
    prediction = cells(1, shape=(1, 24, 26))
    prediction[:, 8:16, 8:18] = False
    found = of_boundaries(prediction, cells(1, shape=(1, 24, 26)))
    for name in ("Rand_F_thinned", "Rand_precision_thinned", "Rand_recall_thinned", "Info_F_thinned"):
        assert found[name] == found[f"{name}_2D"]
    assert found["Rand_F_thinned"] < 1


def test_further_equal_planes_do_not_change_the_2d_scores():
    prediction = cells(1)
    prediction[:, 8:16, 8:18] = False
    few, many = (of_boundaries(np.tile(prediction, (n, 1, 1)), np.tile(cells(1), (n, 1, 1))) for n in (1, 4))
    for name in ("Rand_F_thinned_2D", "Info_F_thinned_2D"):
        assert many[name] == pytest.approx(few[name]) and few[name] < 1


def test_boundary_objects_meet_halfway():
    for wall, line_at in ((slice(6, 11), [8]), (slice(6, 10), [7, 8])):
        thinned = boundary_objects(rooms(wall=wall))
        assert set(np.unique(thinned)) == {0, 1, 2}
        for row in thinned.reshape(-1, 20):
            zeros = np.flatnonzero(row == 0)
            assert len(zeros) == 1 and zeros[0] in line_at
    assert not boundary_objects(rooms(wall=slice(6, 11)), thin=False)[:, :, 6:11].any()


def test_boundary_objects_grow_by_physical_distance():
    """A membrane of full thickness ends two planes below a lid: the nearer object fills the corner, whichever axis is the coarse one."""
    mask = np.ones((9, 1, 9), bool)
    mask[0], mask[:, :, 0] = False, False
    mask[0, :, :2] = mask[:2, :, 0] = True
    fine = boundary_objects(mask, spacing=(1, 1, 1))[:, 0]
    coarse = boundary_objects(mask, spacing=(4, 1, 1))[:, 0]
    lid, side = fine[0, 8], fine[8, 0]
    assert lid != side and fine[4, 8] == lid and fine[8, 4] == side
    assert (coarse == coarse[8, 0]).sum() > 1.2 * (fine == side).sum()


def test_boundary_that_parts_nothing_vanishes():
    mask = rooms()
    mask[:, :, 9] = False
    mask[1:3, 2:8, 5:15] = True
    assert (boundary_objects(mask) == 1).all()
    assert not boundary_objects(np.ones((2, 3, 4), bool)).any()


def test_boundary_objects_stay_where_the_reference_is_annotated():
    annotated = np.ones((4, 12, 20), bool)
    annotated[:, :, 5] = False
    objects = boundary_objects(rooms(), annotated=annotated)
    assert not objects[:, :, 5].any()
    assert len({objects[0, 0, 0], objects[0, 0, 7], objects[0, 0, 15]}) == 3


def test_objects_of_planes_have_numbers_of_their_own():
    objects = boundary_objects(rooms(), in_planes=True)
    assert [sorted(set(np.unique(plane)) - {0}) for plane in objects] == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_blobs_that_part_nothing_vanish_and_are_done_in_time():
    """scikit-image's own line between basins does not end on such volumes."""
    rng = np.random.default_rng(0)
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(rng.normal(size=(6, 80, 80)), (1, 6, 6))
    blobs = smooth > np.quantile(smooth, 0.95)
    objects = boundary_objects(blobs, spacing=(0.05, 0.0046, 0.0046))
    from scipy.ndimage import label

    for number in np.unique(objects[objects > 0]):
        assert label(objects == number)[1] == 1  # nothing was cut in two
    hollow = np.zeros((5, 9, 9), bool)
    hollow[1:4, 2:7, 2:7] = True
    hollow[2, 3:6, 3:6] = False
    assert sorted(np.unique(boundary_objects(hollow))) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_thinned_objects_never_touch_and_the_line_lies_in_the_boundary(seed):
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(10, 40, 40)), 2)
    boundary = np.abs(smooth) < np.quantile(np.abs(smooth), 0.3)
    objects = boundary_objects(boundary)
    assert not (~boundary & (objects == 0)).any()
    for axis in range(3):
        first, second = np.delete(objects, -1, axis), np.delete(objects, 0, axis)
        assert not ((first != second) & (first > 0) & (second > 0)).any()
    assert (objects == 0).sum() < boundary.sum()
