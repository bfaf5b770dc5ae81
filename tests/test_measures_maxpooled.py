"""D-LMBmap's measures: torch's pooling as its authors use it, hand-computed cases, and blocks against the whole."""

import math
from itertools import product

import numpy as np
import pytest

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import MEASURES, Masks, NeedsMoreSurroundings
from nnunet_neuro.evaluate.measures.maxpooled import soft_skeleton
from tests.test_evaluate_measures import annotations, blobs, wiring

POOLED = measures.selected(["maxpooled"])
WINDOWS = {"_maxpool5": (5, 1), "_maxpool10": (10, 1), "_maxpool15": (15, 1), "_maxpool5_strided": (5, 5), "_soft": (1, 1)}


def measured(prediction, reference, annotated=None):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return measures.values(measures.count(Masks(prediction, reference, annotated), POOLED), POOLED)


def tubes(seed, *, shape=(33, 41, 47)):
    """Thick and thin walks through a volume, a second one with parts shifted, cut and added."""
    generator = np.random.default_rng(seed)
    reference, prediction = np.zeros((2, *shape), bool)

    def walk(masks, length, thickness):
        place, heading = generator.random(3) * shape, generator.normal(size=3)
        for _ in range(length):
            heading += generator.normal(size=3) * 0.3
            place = np.clip(place + heading / np.linalg.norm(heading), 0, np.array(shape) - 1)
            for mask in masks:
                box = tuple(slice(int(start), int(start) + thickness) for start in place + generator.integers(0, 2, 3))
                mask[box] = True

    for thickness in (1, 1, 3, 7):
        walk([reference, prediction], 40, thickness)
    walk([reference], 40, 1)
    walk([prediction], 25, 2)
    return prediction, reference


def by_torch(prediction, reference, kernel, stride):
    """All values in single precision, from torch's max-pooling."""
    import torch
    from torch.nn.functional import max_pool3d

    def tensor(mask):
        return max_pool3d(torch.from_numpy(mask.astype(np.float32))[None, None], kernel, stride)

    def pool_of_lines(values):
        lines = [max_pool3d(values, size, 1, [length // 2 for length in size]) for size in ((3, 1, 1), (1, 3, 1), (1, 1, 3))]
        return torch.stack(lines).amax(0)

    def skeleton(values):
        for _ in range(5):
            eroded = -pool_of_lines(-values)
            values = (values - (max_pool3d(eroded, 3, 1, 1) - eroded).relu()).relu()
        return values

    def share(part, whole):
        return ((part * whole).sum() + 1e-12) / (part.sum() + 1e-12)

    first, second = tensor(prediction), tensor(reference)
    shared, total = (first * second).sum(), first.sum() + second.sum()
    ring = pool_of_lines(second) - second
    on_ring = (first * ring).sum()
    precision, recall = share(skeleton(first), second), share(skeleton(second), first)
    found = {
        "Dice": (2 * shared + 1) / (total + 1),
        "IoU": shared / (total - shared + 1e-8),
        "T-IoU": (shared + on_ring) / (total - shared + on_ring + 1e-8),
        "clDice": 2 * precision * recall / (precision + recall),
        "clPrecision": precision,
        "clRecall": recall,
        "precision": share(first, second),
        "recall": share(second, first),
    }
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("suffix", WINDOWS)
@pytest.mark.parametrize("seed", range(4))
def test_values_equal_those_by_torch(seed, suffix):
    prediction, reference = tubes(seed)
    expected = by_torch(prediction, reference, *WINDOWS[suffix])
    found = measured(prediction, reference)
    compared = 0
    for name, value in expected.items():
        key = "T-IoU" if (name, suffix) == ("T-IoU", "_soft") else f"{name}{suffix}"
        if key in found:
            assert found[key] == pytest.approx(value, rel=1e-6), key
            assert 0 < value < 1
            compared += 1
    assert compared == {"_soft": 4, "_maxpool5_strided": 6}.get(suffix, 8)


def test_masks_that_share_nothing_equal_torch():
    reference, prediction = np.zeros((2, 20, 60, 40), bool)
    reference[10, 5, 3:35] = prediction[10, 50, 3:35] = True
    found = measured(prediction, reference)
    for suffix in ("_maxpool5", "_maxpool10", "_maxpool15"):
        for name, value in by_torch(prediction, reference, *WINDOWS[suffix]).items():
            assert found[f"{name}{suffix}"] == pytest.approx(value, rel=1e-6, abs=1e-9)


def test_what_a_coarse_stride_drops_equals_torch():
    """The last 3 of 23 voxels are in no window; the prediction lies there alone."""
    reference, prediction = np.zeros((2, 23, 23, 23), bool)
    reference[4, 4, 2:20] = prediction[22, 22, 2:20] = True
    found = measured(prediction, reference)
    for name, value in by_torch(prediction, reference, 5, 5).items():
        if f"{name}_maxpool5_strided" in found:
            assert found[f"{name}_maxpool5_strided"] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def test_lines_that_are_beside_each_other_by_hand():
    """Two lines of 30 voxels, 2 rows apart, in 40 x 40 x 60: each becomes a bar of 5 x 5 x 34 voxels, 3 of 5 rows shared."""
    reference, prediction = np.zeros((2, 40, 40, 60), bool)
    reference[20, 20, 15:45] = prediction[20, 22, 15:45] = True
    found = measured(prediction, reference)
    each, shared, ring = 5 * 5 * 34, 5 * 3 * 34, 5 * 1 * 34
    assert found["Dice_maxpool5"] == pytest.approx((2 * shared + 1) / (2 * each + 1))
    assert found["IoU_maxpool5"] == pytest.approx(shared / (2 * each - shared))
    assert found["T-IoU_maxpool5"] == pytest.approx((shared + ring) / (2 * each - shared + ring))
    assert found["precision_maxpool5"] == found["recall_maxpool5"] == pytest.approx(3 / 5)
    assert found["T-IoU"] == 0  # the ring of the unpooled line does not reach so far


def test_ring_of_the_reference_counts_half():
    reference = np.zeros((1, 9, 30), bool)
    reference[0, 4, 5:25] = True
    prediction = reference | np.roll(reference, 1, 1)
    assert measured(prediction, reference)["T-IoU"] == pytest.approx((20 + 20) / (20 + 20 + 20))
    assert measured(reference, reference)["T-IoU"] == 1


def test_soft_skeleton_by_hand():
    """A bar 3 voxels wide leaves its middle row and the ends that erosion and dilation do not regain."""
    bar = np.zeros((9, 20), bool)
    bar[3:6, 4:16] = True
    skeleton = soft_skeleton(bar)
    assert skeleton[4, 5:15].all()
    assert not (skeleton[3] | skeleton[5]).any()
    line = np.zeros((9, 20), bool)
    line[4, 4:16] = True
    assert (soft_skeleton(line) == line).all()


def test_window_is_cut_to_an_axis_that_is_shorter():
    """One slice: only its plane is pooled."""
    flat = np.zeros((1, 40, 40), bool)
    flat[0, 10, 5:30] = True
    thick = np.zeros((10, 40, 40), bool)
    thick[:, 10, 5:30] = True
    shifted = np.roll(flat, 4, 1), np.roll(thick, 4, 1)
    found, expected = measured(shifted[0], flat), by_torch(shifted[1], thick, 10, 1)
    for name in ("Dice", "IoU", "T-IoU", "clDice", "precision", "recall"):
        assert found[f"{name}_maxpool10"] == pytest.approx(expected[name])


def test_blocks_add_up_to_the_whole():
    """Blocks of any size, each with a halo, cut anywhere, with ignored voxels."""
    prediction, reference = tubes(1)
    annotated = np.random.default_rng(0).random(reference.shape) < 0.9
    edges = [[0, 9, 33], [0, 20, 41], [0, 1, 30, 47]]
    for step in measures.steps_of({name: one for name, one in POOLED.items() if one.counts.surroundings == "halo"})[1:]:
        whole = step(Masks(prediction, reference, annotated))
        summed = None
        for inner in product(*([slice(a, b) for a, b in zip(axis, axis[1:])] for axis in edges)):
            counts = step.tally(with_halo(prediction, reference, annotated, inner, before=10, behind=24))
            summed = counts if summed is None else measures.added(summed, counts)
        assert step.finish(summed) == whole
        assert all(whole.values())


def with_halo(prediction, reference, annotated, inner, *, before, behind):
    shape = reference.shape
    seen = tuple(slice(max(part.start - before, 0), min(part.stop + behind, size)) for part, size in zip(inner, shape))
    local = tuple(slice(part.start - around.start, part.stop - around.start) for part, around in zip(inner, seen))
    sides = tuple((around.start > 0, around.stop < size) for around, size in zip(seen, shape))
    return Masks(prediction[seen], reference[seen], annotated[seen], inner=local, open_sides=sides)


@pytest.mark.parametrize("before, behind", [(9, 24), (10, 23), (0, 0)])
def test_too_narrow_a_halo_is_told(before, behind):
    prediction, reference = tubes(1)
    masks = with_halo(prediction, reference, np.ones_like(reference), (slice(0, 33), slice(0, 41), slice(15, 20)), before=before,
                      behind=behind)
    with pytest.raises(NeedsMoreSurroundings, match=f"sees {before} voxels before and {behind} behind itself; expected 10 and 24"):
        MEASURES["Dice_maxpool15"].counts.tally(masks)


def test_junk_ratio_of_cases_that_are_cubes_is_that_of_the_authors():
    """Wrong voxels of empty cubes over all wrong voxels, as the pooled value of the cases."""
    pairs = [(blobs(1), blobs(2)), (blobs(3), np.zeros((12, 20, 22), bool)), (np.zeros((12, 20, 22), bool), blobs(4))]
    wrong = [int((prediction ^ reference).sum()) for prediction, reference in pairs]
    counts = [measures.count(Masks(*pair, np.ones((12, 20, 22), bool)), {"junk_ratio": MEASURES["junk_ratio"]}) for pair in pairs]
    pooled = measures.added(measures.added(counts[0], counts[1]), counts[2])
    assert MEASURES["junk_ratio"].value(pooled) == pytest.approx(wrong[1] / sum(wrong))
    assert [MEASURES["junk_ratio"].value(one) for one in counts] == [0, 1, 0]


def test_junk_ratio_divides_a_large_case_into_cubes():
    prediction, reference = wiring()  # 192 voxels are two cubes; of the reference all, of the prediction not, is in the first
    assert not reference[:, 96:].any()
    wrong, far = int((prediction ^ reference).sum()), int(prediction[:, 96:].sum())
    assert measured(prediction, reference)["junk_ratio"] == pytest.approx(far / wrong)
    assert measured(prediction[:, :191], reference[:, :191])["junk_ratio"] == 0  # one cube
    annotated = np.ones_like(reference)
    annotated[:, :50] = False
    found = measured(prediction, reference, annotated)["junk_ratio"]
    assert found == pytest.approx(far / int((prediction ^ reference)[:, 50:].sum()))


def test_ignored_voxels_are_background_before_pooling():
    prediction, reference = tubes(2)
    annotated = annotations("half", reference.shape)
    found = measured(prediction, reference, annotated)
    assert found == measured(prediction & annotated, reference & annotated) != measured(prediction, reference)


def test_empty_masks():
    some, none = tubes(0)[0], np.zeros((33, 41, 47), bool)
    assert all(math.isnan(value) for value in measured(none, none).values())
    assert measured(none, some)["recall_maxpool10"] == 0
    assert math.isnan(measured(some, none)["clRecall_maxpool5"])
