"""Axon measures: hand-computed lengths, breaks and false merges, and plain loops over voxels."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import Masks
from nnunet_neuro.skeleton_graph import skeleton_graph
from nnunet_neuro.skeletons import skeletonise

AXONS = measures.selected(["axons"])


def measured(prediction, reference, annotated=None, **options):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return measures.values(measures.count(Masks(prediction, reference, annotated, **options), AXONS), AXONS)


def line_mask(*, shape=(5, 30, 60), y=10, x=(5, 45)):
    mask = np.zeros(shape, bool)
    mask[2, y, slice(*x)] = True
    return mask


# --- missed and extra -----------------------------------------------------------------------------------------------------------------


def test_missed_and_extra_length_by_hand():
    """A line of 40 voxels, 39 steps of 0.5; its last 10 voxels are missed, and a line of 8 voxels is far away."""
    reference = line_mask()
    prediction = line_mask(x=(5, 35)) | line_mask(y=25, x=(5, 13))
    found = measured(prediction, reference, tolerance=0, spacing=(2.0, 1.0, 0.5))
    assert found["missed_length"] == pytest.approx((9 + 0.5) * 0.5)  # the step to the first missed voxel is half missed
    assert found["missed_length_share"] == pytest.approx(9.5 / 39)
    assert found["extra_length"] == pytest.approx(7 * 0.5)
    assert found["extra_length_share"] == pytest.approx(7 / (29 + 7))
    assert found["breaks"] == found["false_merges"] == 0
    tolerant = measured(prediction, reference, tolerance=2.0, spacing=(2.0, 1.0, 0.5))  # 4 voxels along the line
    assert tolerant["missed_length"] == pytest.approx((5 + 0.5) * 0.5)


def test_coarse_axis_weighs_by_its_length():
    """Of two lines of 8 steps, one across slices of 5 is missed, one within a slice of 0.5 is found."""
    reference = np.zeros((11, 12, 20), bool)
    reference[1:10, 3, 3] = reference[5, 8, 6:15] = True
    prediction = reference.copy()
    prediction[:, 3] = False
    found = measured(prediction, reference, tolerance=0.5, spacing=(5.0, 0.5, 0.5))
    assert found["missed_length"] == pytest.approx(8 * 5.0)
    assert found["missed_length_share"] == pytest.approx(40 / 44)


def test_thickness_does_not_change_the_lengths():
    reference = np.zeros((9, 30, 60), bool)
    reference[3:6, 9:12, 5:45] = True
    found = measured(reference & (np.arange(60) < 30), reference, tolerance=0)
    thin = measured(line_mask(x=(5, 30)), line_mask(), tolerance=0)
    assert found["missed_length"] == pytest.approx(thin["missed_length"], abs=2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7)])
def test_lengths_breaks_and_merges_equal_plain_loops(seed, spacing):
    prediction, reference = speckles(seed), speckles(seed) & ~speckles(seed + 9, share=0.1)
    tolerance = spacing[1]
    found = measured(prediction, reference, tolerance=tolerance, spacing=spacing)
    assert found["extra_length"] == pytest.approx(length_beyond(prediction, reference, tolerance, spacing))
    assert found["false_merges"] == merges_by_loop(prediction, reference, tolerance, spacing) > 1
    found = measured(reference, prediction, tolerance=0, spacing=spacing)
    assert found["breaks"] == breaks_by_walking(prediction, reference, 0, spacing) > 0
    assert found["missed_length"] == pytest.approx(length_beyond(prediction, reference, 0, spacing))
    assert found["missed_length"] > 0


def speckles(seed, *, share=0.15):
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(10, 24, 26)), 1.0)
    return smooth > np.quantile(smooth, 1 - share)


def length_beyond(mask, other, tolerance, spacing):
    graph, targets = skeleton_graph(skeletonise(mask), spacing), np.argwhere(other)
    beyond = [int(distance_to(voxel, targets, spacing) > tolerance * (1 + 1e-9)) for voxel in graph.voxels]
    return sum(length * (beyond[low] + beyond[high]) / 2 for (low, high), length in zip(graph.edges, graph.lengths))


def distance_to(voxel, targets, spacing):
    return np.sqrt((((targets - voxel) * spacing) ** 2).sum(axis=1)).min()


def groups_of(voxels):
    """Connected sets of voxels, by walking."""
    left, groups = set(voxels), []
    while left:
        group, reached = set(), [left.pop()]
        while reached:
            place = reached.pop()
            group.add(place)
            near = {tuple(np.add(place, step)) for step in product((-1, 0, 1), repeat=3)} & left
            left -= near
            reached += near
        groups.append(group)
    return groups


def breaks_by_walking(reference, prediction, tolerance, spacing):
    targets = np.argwhere(prediction)
    lines = [tuple(voxel) for voxel in np.argwhere(skeletonise(reference)).tolist()]
    covered = {voxel for voxel in lines if distance_to(voxel, targets, spacing) <= tolerance * (1 + 1e-9)}
    found = 0
    for gap in groups_of(set(lines) - covered):
        around = {tuple(np.add(place, step)) for place in gap for step in product((-1, 0, 1), repeat=3)}
        found += max(len(groups_of(around & covered)) - 1, 0)
    return found


def merges_by_loop(prediction, reference, tolerance, spacing):
    lines = {tuple(voxel) for voxel in np.argwhere(skeletonise(reference)).tolist()}
    predicted = groups_of([tuple(voxel) for voxel in np.argwhere(prediction).tolist()])
    objects = groups_of([tuple(voxel) for voxel in np.argwhere(reference).tolist()])
    joined = [set() for _ in predicted]
    for index, one in enumerate(objects):
        for voxel in one & lines:
            distances = [distance_to(voxel, np.array(sorted(group)), spacing) for group in predicted]
            if min(distances) <= tolerance * (1 + 1e-9):
                joined[int(np.argmin(distances))].add(index)
    cuts = 0
    for indices in joined:
        clusters = [{index} for index in indices]
        for first, second in combinations(indices, 2):
            apart = min(distance_to(voxel, np.array(sorted(objects[second])), spacing) for voxel in objects[first])
            if apart <= tolerance * (1 + 1e-9):
                together = [cluster for cluster in clusters if first in cluster or second in cluster]
                clusters = [cluster for cluster in clusters if cluster not in together] + [set().union(*together)]
        cuts += max(len(clusters) - 1, 0)
    return cuts


# --- breaks ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaps, tolerance, expected", [
    ([], 0, 0),
    ([(20, 21)], 0, 1),
    ([(20, 25)], 2, 1),  # the middle one of five is 3 away from either side
    ([(20, 24)], 2, 0),  # four are bridged
    ([(15, 20), (30, 36)], 1, 2),
    ([(5, 15)], 1, 0),  # the start is missed, nothing is taken up again
    ([(5, 15), (40, 45), (20, 30)], 1, 1),
])
def test_breaks_of_a_line_by_hand(gaps, tolerance, expected):
    reference, prediction = line_mask(), line_mask()
    for start, stop in gaps:
        prediction[2, 10, start:stop] = False
    found = measured(prediction, reference, tolerance=tolerance, spacing=(1.0, 1.0, 1.0))
    assert found["breaks"] == expected
    assert found["breaks_per_length"] == pytest.approx(expected / 39)


def test_tolerance_bridges_a_length_not_a_number_of_voxels():
    reference, prediction = line_mask(), line_mask()
    prediction[2, 10, 20:25] = False
    assert measured(prediction, reference, tolerance=1.0, spacing=(1.0, 1.0, 0.25))["breaks"] == 0
    assert measured(prediction, reference, tolerance=1.0, spacing=(1.0, 1.0, 0.5))["breaks"] == 1


def y_junction():
    mask = np.zeros((3, 40, 40), bool)
    for i in range(1, 16):
        mask[1, 20 - i, 20 - i] = mask[1, 20 - i, 20 + i] = True
    mask[1, 20:36, 20] = True
    return mask


def test_y_junction_by_hand():
    """Three arms of 15 steps, two of them oblique."""
    reference = y_junction()
    y, x = np.mgrid[:40, :40]
    arms = 15 + 2 * 15 * math.sqrt(2)
    near = np.maximum(abs(y - 20), abs(x - 20)) <= 3
    without_junction = measured(reference & ~near, reference, tolerance=0)
    assert without_junction["breaks"] == 2
    assert without_junction["missed_length"] == pytest.approx(3.5 * (1 + 2 * math.sqrt(2)))
    assert without_junction["missed_length_share"] == pytest.approx(3.5 / 15) and arms > 50
    without_arm = measured(reference & (y <= 20), reference, tolerance=0)
    assert without_arm["breaks"] == 0
    assert without_arm["missed_length"] == pytest.approx(14.5)
    cut_in_two_arms = measured(reference & (abs(y - 20) != 8), reference, tolerance=0)
    assert cut_in_two_arms["breaks"] == 3


def test_ring_that_is_opened_is_left_once():
    reference = np.zeros((1, 30, 30), bool)
    reference[0, 5:25, 5] = reference[0, 5:25, 24] = reference[0, 5, 5:25] = reference[0, 24, 5:25] = True
    prediction = reference.copy()
    prediction[0, 5, 10:16] = False
    assert measured(prediction, reference, tolerance=1)["breaks"] == 1
    prediction[0, 24, 10:16] = False
    assert measured(prediction, reference, tolerance=1)["breaks"] == 2


def test_corner_that_is_cut_is_no_interruption():
    corner = np.zeros((30, 30), bool)
    corner[5, 5:20] = corner[5:20, 5] = True
    graph = skeleton_graph(corner, (1.0, 1.0))

    def without(*missed):
        return graph.interruptions(~(graph.voxels[:, None] == missed).all(axis=2).any(axis=1))

    assert without((5, 5)) == 0  # its two neighbours touch
    assert without((5, 5), (5, 6)) == 1
    assert without((9, 5)) == 1
    assert without((19, 5)) == without((-1, -1)) == 0


# --- false merges ---------------------------------------------------------------------------------------------------------------------


def parallel(*rows):
    mask = np.zeros((3, 40, 40), bool)
    for row in rows:
        mask[1, row, 5:35] = True
    return mask


def test_bridge_between_two_lines_is_one_merge():
    reference = parallel(10, 20)
    bridged = reference.copy()
    bridged[1, 10:21, 18] = True
    assert measured(reference, reference)["false_merges"] == 0
    found = measured(bridged, reference, spacing=(1.0, 0.5, 0.5), tolerance=1.0)
    assert found["false_merges"] == 1
    assert found["false_merges_per_length"] == pytest.approx(1 / (2 * 29 * 0.5))
    assert found["missed_length"] == found["breaks"] == 0
    assert found["extra_length"] == pytest.approx(5 * 0.5)  # of 9 voxels between the lines the middle 5 are further than 2 voxels away


def test_one_object_over_many_lines_needs_as_many_cuts_as_gaps():
    reference = parallel(5, 12, 19, 26)
    slab = np.zeros_like(reference)
    slab[1, 3:29, 5:35] = True
    assert measured(slab, reference)["false_merges"] == 3
    slab[1, 15] = False
    assert measured(slab, reference)["false_merges"] == 2


def test_lines_no_further_apart_than_the_tolerance_are_one():
    reference = parallel(10, 13)
    bridged = reference.copy()
    bridged[1, 10:14, 18] = True
    assert measured(bridged, reference, tolerance=2)["false_merges"] == 1
    assert measured(bridged, reference, tolerance=3)["false_merges"] == 0
    assert measured(bridged, reference, tolerance=3, spacing=(1.0, 1.1, 1.0))["false_merges"] == 1


def test_boxes_that_overlap_do_not_make_lines_close():
    """An L and a line inside its box."""
    reference = np.zeros((1, 40, 40), bool)
    reference[0, 5, 5:35] = reference[0, 5:35, 5] = reference[0, 20, 15:35] = True
    prediction = reference.copy()
    prediction[0, 5:21, 25] = True
    assert measured(prediction, reference, tolerance=2)["false_merges"] == 1


def test_neighbour_that_is_missed_is_not_merged():
    """The prediction is one of two lines, thick; the other line is not near it."""
    prediction = parallel(9, 10, 11)
    assert measured(prediction, parallel(10, 20), tolerance=2)["false_merges"] == 0


# --- annotation -----------------------------------------------------------------------------------------------------------------------


def test_ignored_voxels_hide_lines_breaks_and_merges():
    reference = parallel(10, 20)
    prediction = reference.copy()
    prediction[1, 10:21, 30] = True
    prediction[1, 10, 20:27] = False
    annotated = np.ones_like(reference)
    annotated[:, :, 18:] = False
    assert measured(prediction, reference, tolerance=1)["breaks"] == measured(prediction, reference, tolerance=1)["false_merges"] == 1
    found = measured(prediction, reference, annotated, tolerance=1)
    assert all(value == 0 for value in found.values())


def test_single_annotated_planes_have_lines_of_their_own():
    """Two planes of three show a line each, of which one lacks its end; nothing is measured across planes."""
    reference = np.zeros((5, 30, 60), bool)
    reference[:, 10, 5:45] = True
    prediction = reference.copy()
    prediction[2, 10, 35:] = False
    annotated = np.zeros_like(reference)
    annotated[[0, 2]] = True
    found = measured(prediction, reference, annotated, tolerance=0, spacing=(9.0, 1.0, 0.5))
    assert found["missed_length"] == pytest.approx(9.5 * 0.5)
    assert found["missed_length_share"] == pytest.approx(9.5 / (2 * 39))


def test_pooled_values_are_those_of_the_average_case():
    reference = line_mask()
    counts = [measures.count(Masks(line_mask(x=(5, stop)), reference, np.ones_like(reference), 0), AXONS) for stop in (25, 35)]
    pooled = measures.values(measures.added(*counts), AXONS)
    assert pooled["missed_length"] == pytest.approx((19.5 + 9.5) / 2)
    assert pooled["missed_length_share"] == pytest.approx((19.5 + 9.5) / (2 * 39))


def test_single_voxels_have_no_length():
    dot = np.zeros((3, 9, 9), bool)
    dot[1, 4, 4] = True
    found = measured(dot, dot)
    assert found["missed_length"] == found["extra_length"] == 0
    assert math.isnan(found["missed_length_share"]) and math.isnan(found["breaks_per_length"])


def test_lengths_of_an_empty_mask_are_those_of_the_other():
    line, nothing = np.zeros((2, 5, 9, 30), bool)
    line[2, 4, 3:24] = True
    for prediction, reference, name in ((nothing, line, "missed_length"), (line, nothing, "extra_length")):
        counts = measures.count(Masks(prediction, reference, np.ones_like(line), spacing=(1.0, 1.0, 0.5)), measures.selected([name]))
        assert measures.MEASURES[name].value(counts) == pytest.approx(20 * 0.5)
