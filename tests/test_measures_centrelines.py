"""Centre-line measures: hand-computed values, a plain loop, tolerances as lengths, the thinning itself, and the length of skeletons."""

import math
from itertools import combinations

import numpy as np
import pytest

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import Masks
from nnunet_neuro.skeleton_graph import skeleton_graph
from nnunet_neuro.skeletons import annotated_pieces, skeletonise
from tests.test_evaluate_measures import blobs

CENTRELINES = measures.selected(["centrelines"])


def measured(prediction, reference, annotated=None, **options):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return measures.values(measures.count(Masks(prediction, reference, annotated, **options), CENTRELINES), CENTRELINES)


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


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.65, 0.65), (0.04, 0.004, 0.005)])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_skeleton_measures_equal_a_plain_loop(seed, steps, spacing):
    from skimage.morphology import skeletonize

    tolerance = steps * spacing[1]
    prediction, reference = kept(blobs(seed)), kept(blobs(seed, share=0.08) | blobs(seed + 7))
    found = measured(prediction, reference, tolerance=tolerance, spacing=spacing)

    def share(mask, other, reach):
        centres, targets = np.argwhere(skeletonize(mask)), np.argwhere(other)
        hits = [min((((targets - centre) * spacing) ** 2).sum(axis=1)) <= reach**2 * (1 + 1e-9) for centre in centres]
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


def test_tolerance_is_a_length():
    """A line drawn one slice or three pixels beside the reference is 3 away where a slice is 3 thick; ten pixels are 10 away."""
    reference = np.zeros((5, 20, 30), bool)
    reference[2, 5, 5:25] = True
    for shift, axis, distance in ((1, 0, 3), (3, 1, 3), (10, 1, 10)):
        prediction = np.roll(reference, shift, axis)
        for tolerance in (distance - 0.1, distance, distance + 0.1):
            found = measured(prediction, reference, tolerance=tolerance, spacing=(3.0, 1.0, 1.0))
            assert found["clDice"] == 0
            assert found["clDice_tolerant"] == (tolerance >= distance)


@pytest.mark.parametrize("size", [0.65, 0.1, 0.007, 3.3e-5, 1 / 3])
def test_tolerance_of_some_voxels_reaches_as_many_voxels(size):
    """Whatever the rounding of the voxel size does to the product."""
    reference = np.zeros((1, 20, 30), bool)
    reference[0, 5, 5:25] = True
    for voxels in range(1, 10):
        prediction = np.roll(reference, voxels, 1)
        assert measured(prediction, reference, tolerance=voxels * size, spacing=(1.0, size, size))["clDice_tolerant"] == 1
        assert measured(prediction, reference, tolerance=(voxels - 0.01) * size, spacing=(1.0, size, size))["clDice_tolerant"] == 0


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
    found = measures.count(Masks(tube, tube, annotated), CENTRELINES)
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


# --- length of a skeleton -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis, expected", [(0, 4 * 3.0), (1, 4 * 0.5), (2, 4 * 0.25)])
def test_length_of_a_straight_line_is_that_between_its_ends(axis, expected):
    mask = np.zeros((7, 7, 7), bool)
    mask[tuple(slice(1, 6) if other == axis else 3 for other in range(3))] = True
    assert skeleton_graph(mask, (3.0, 0.5, 0.25)).length == pytest.approx(expected)


def test_length_of_oblique_lines():
    spacing = (3.0, 0.5, 0.25)
    diagonal, steps = np.zeros((2, 8, 8, 8), bool)
    for i in range(1, 6):
        diagonal[i, i, i] = steps[2, i, 7 - i] = True
    assert skeleton_graph(diagonal, spacing).length == pytest.approx(4 * math.sqrt(9 + 0.25 + 0.0625))
    assert skeleton_graph(steps, spacing).length == pytest.approx(4 * math.sqrt(0.25 + 0.0625))


def test_corner_is_not_cut_short_or_counted_twice():
    """An L of 4 + 3 steps: the diagonal past the corner is an edge of no length."""
    mask = np.zeros((6, 6), bool)
    mask[1, 1:6] = mask[1:5, 1] = True
    graph = skeleton_graph(mask, (1.0, 1.0))
    assert graph.length == 7
    assert len(graph.edges) == 8 and np.count_nonzero(graph.lengths == 0) == 1


def test_three_voxels_that_touch_by_edges_are_two_steps():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[1, 0, 1] = True
    assert skeleton_graph(mask, (1.0, 1.0, 1.0)).length == pytest.approx(2 * math.sqrt(2))
    mask[1, 1, 0] = True  # a tetrahedron
    assert skeleton_graph(mask, (1.0, 1.0, 1.0)).length == pytest.approx(3 * math.sqrt(2))


def test_a_ring_has_the_length_of_all_its_steps():
    ring = np.zeros((8, 8), bool)
    ring[1:7, 1] = ring[1:7, 6] = ring[1, 1:7] = ring[6, 1:7] = True
    assert skeleton_graph(ring, (1.0, 2.0)).length == 2 * 5 + 2 * 5 * 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (4.0, 0.5, 0.5), (0.3, 1.0, 2.0)])
@pytest.mark.parametrize("seed", range(3))
def test_length_equals_a_plain_loop(seed, spacing):
    skeleton = skeletonise(blobs(seed))
    places = [tuple(place) for place in np.argwhere(skeleton).tolist()]
    there = set(places)

    def length(first, second):
        return round(math.dist(np.multiply(first, spacing), np.multiply(second, spacing)), 9)

    def touching(first, second):
        return max(abs(a - b) for a, b in zip(first, second)) == 1

    total, edges = 0.0, 0
    for first, second in combinations(places, 2):
        if not touching(first, second):
            continue
        edges += 1
        between = [third for third in there if touching(first, third) and touching(second, third)]
        rank = (length(first, second), first, second)
        if not any(max((length(*pair), *pair) for pair in (sorted((first, third)), sorted((third, second)))) < rank for third in between):
            total += length(first, second)
    graph = skeleton_graph(skeleton, spacing)
    assert graph.length == pytest.approx(total)
    assert len(graph.edges) == edges > len(places) / 2


@pytest.mark.parametrize("seed", range(3))
def test_lengths_of_parts_add_up(seed):
    graph = skeleton_graph(skeletonise(blobs(seed)), (2.0, 1.0, 0.5))
    chosen = np.random.default_rng(seed).random(len(graph.voxels)) < 0.4
    assert 0 < graph.length_at(chosen) < graph.length
    assert graph.length_at(chosen) + graph.length_at(~chosen) == pytest.approx(graph.length)


def test_no_shortcut_separates_what_is_connected():
    from scipy.ndimage import label
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    mask = np.random.default_rng(0).random((9, 9, 9)) < 0.12
    graph = skeleton_graph(mask, (1.0, 1.0, 1.0))
    steps = graph.edges[graph.lengths > 0]
    number = connected_components(coo_array((np.ones(len(steps)), steps.T), shape=(len(graph.voxels),) * 2), directed=False)[0]
    assert number == label(mask, np.ones((3, 3, 3)))[1] > 10
    assert len(steps) < len(graph.edges)
