"""Surface measures: hand-computed values, four independent implementations, annotations, and blocks against the whole."""

import math
import warnings
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from nnunet_neuro import surfaces
from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import MEASURES, Masks, NeedsMoreSurroundings

SURFACES = measures.selected(["surfaces"])
STEPS = list({one.counts: None for one in SURFACES.values()})
CLOSED = ((False, False),) * 3
SPACINGS = [(1.0, 1.0, 1.0), (2.0, 0.65, 0.65), (0.04, 0.004, 0.005)]


def measured(prediction, reference, annotated=None, **options):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return measures.values(measures.count(Masks(prediction, reference, annotated, **options), SURFACES), SURFACES)


def blobs(seed, *, shape=(16, 22, 24), share=0.15):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return smooth > np.quantile(smooth, 1 - share)


def pair(seed):
    """Two masks that share most, with some objects of one only, reaching the ends of the volume."""
    return blobs(seed) ^ blobs(seed + 20, share=0.03), blobs(seed) | blobs(seed + 40, share=0.03)


def box(*bounds, shape=(12, 12, 12)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*bound) for bound in bounds)] = True
    return mask


def test_single_voxels_by_hand():
    """Two voxels, 2 planes, 1 row and 2 columns apart: 6 x 0.5, 1 x 2 and 2 x 1 of length, in all directions the same distance."""
    prediction, reference = box((2, 3), (5, 6), (5, 6)), box((8, 9), (6, 7), (7, 8))
    found = measured(prediction, reference, spacing=(0.5, 2.0, 1.0), tolerance=2.6)
    for name in ("HD", "HD95", "HD95_pooled", "ASSD", "MASD", "AHD", "HD_voxels"):
        assert found[name] == pytest.approx(math.sqrt(9 + 4 + 4))
    # surface elements stand at the corners of the voxels, the nearest of which are 5 planes, no row and 1 column apart
    assert found["NSD"] == 0 < measured(prediction, reference, spacing=(0.5, 2.0, 1.0), tolerance=math.sqrt(2.5**2 + 1))["NSD"] < 1
    assert measured(prediction, reference, spacing=(0.5, 2.0, 1.0), tolerance=math.sqrt(17))["NSD"] == 1


def test_shifted_plate_by_hand():
    """A plate one voxel thick against the same plate three planes higher: every distance is three planes."""
    found = measured(box((2, 3), (3, 9), (3, 9)), box((5, 6), (3, 9), (3, 9)), spacing=(0.7, 1, 1))
    for name in ("HD", "HD95", "HD95_pooled", "ASSD", "MASD", "AHD", "HD_voxels"):
        assert found[name] == pytest.approx(2.1)


def test_inside_and_far_away_by_hand():
    """The prediction is the reference, a plate of 1 x 10 x 10, and one voxel more, 4 voxels beside it."""
    reference = box((5, 6), (1, 11), (1, 11), shape=(12, 12, 20))
    prediction = reference | box((5, 6), (5, 6), (14, 15), shape=(12, 12, 20))
    found = measured(prediction, reference)
    assert found["HD"] == found["HD_voxels"] == 4
    assert found["HD95"] == found["HD95_pooled"] == 0
    assert found["ASSD"] == pytest.approx(4 / 201)
    assert found["MASD"] == found["AHD"] == pytest.approx(4 / 101 / 2)


def test_core_against_hollow_tells_borders_from_voxels():
    """A solid ball against the same ball without its core: all its voxels are near, the core's border is not matched."""
    solid = box((2, 11), (2, 11), (2, 11), shape=(13, 13, 13))
    found = measured(solid & ~box((6, 7), (6, 7), (6, 7), shape=(13, 13, 13)), solid)
    assert found["HD"] == 3 and found["HD_voxels"] == 1 and found["AHD"] == pytest.approx(1 / 9**3 / 2)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(2))
def test_equal_to_monai(seed, spacing):
    monai = pytest.importorskip("monai.metrics")
    import torch

    prediction, reference = pair(seed)
    found = measured(prediction, reference, spacing=spacing, tolerance=1.3 * spacing[1])
    one_hot = [torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32)) for mask in (prediction, reference)]
    options = {"include_background": False, "spacing": spacing}
    assert found["HD"] == pytest.approx(float(monai.compute_hausdorff_distance(*one_hot, **options)), rel=1e-5)
    assert found["HD95"] == pytest.approx(float(monai.compute_hausdorff_distance(*one_hot, percentile=95, **options)), rel=1e-5)
    assert found["ASSD"] == pytest.approx(float(monai.compute_average_surface_distance(*one_hot, symmetric=True, **options)), rel=1e-5)
    directed = [float(monai.compute_average_surface_distance(*masks, **options)) for masks in (one_hot, one_hot[::-1])]
    assert found["MASD"] == pytest.approx(sum(directed) / 2, rel=1e-5)
    theirs = monai.compute_surface_dice(*one_hot, class_thresholds=[1.3 * spacing[1]], use_subvoxels=True, **options)
    assert found["NSD"] == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.5])
def test_equal_to_surface_distance(spacing, tolerance):
    theirs = pytest.importorskip("surface_distance.metrics")
    prediction, reference = pair(3)
    length = tolerance * spacing[1] * 1.01  # not a distance between voxels, which may round either way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks SciPy for names of older versions
        distances = theirs.compute_surface_distances(reference, prediction, spacing)
    found = measured(prediction, reference, spacing=spacing, tolerance=length)
    assert 0 < found["NSD"] < 1
    assert found["NSD"] == pytest.approx(theirs.compute_surface_dice_at_tolerance(distances, length))


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.5])
def test_a_flat_image_is_measured_by_its_contours(tolerance):
    theirs = pytest.importorskip("surface_distance.metrics")
    prediction, reference = (mask[7:8] for mask in pair(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = theirs.compute_surface_distances(reference[0], prediction[0], (1.0, 1.5))
    found = measured(prediction, reference, spacing=(3.0, 1.0, 1.5), tolerance=tolerance)
    assert 0 < found["NSD"] < 1
    assert found["NSD"] == pytest.approx(theirs.compute_surface_dice_at_tolerance(distances, tolerance))
    solid = np.ones((1, 7, 7), bool)
    assert len(surfaces.border_voxels(solid, solid, CLOSED)) == 24  # the inner 25 voxels see no background in the plane


@pytest.mark.parametrize("spacing", SPACINGS)
def test_equal_to_simpleitk(spacing):
    sitk = pytest.importorskip("SimpleITK")
    prediction, reference = pair(1)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (prediction, reference)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    theirs, found = sitk.HausdorffDistanceImageFilter(), measured(prediction, reference, spacing=spacing)
    theirs.Execute(*images)
    assert found["AHD"] == pytest.approx(theirs.GetAverageHausdorffDistance(), rel=1e-5)
    assert found["HD_voxels"] == pytest.approx(theirs.GetHausdorffDistance(), rel=1e-5)


def test_equal_to_scikit_image():
    from skimage.metrics import hausdorff_distance

    for seed in range(3):
        found = measured(*pair(seed))
        assert found["HD_voxels"] == pytest.approx(hausdorff_distance(*pair(seed)))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(2))
def test_equal_to_two_distance_transforms(seed, spacing):
    """The form of medpy: distance transforms of the whole volume, percentile of both directions together."""
    prediction, reference = pair(seed)
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, reference)]
    first, second = (
        ndimage.distance_transform_edt(~other, sampling=spacing)[own] for own, other in (borders, reversed(borders))
    )
    found, both = measured(prediction, reference, spacing=spacing), np.concatenate([first, second])
    assert found["HD"] == pytest.approx(both.max())
    assert found["HD95_pooled"] == pytest.approx(np.percentile(both, 95))
    assert found["MASD"] == pytest.approx((first.mean() + second.mean()) / 2)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_tree_and_distance_transform_give_the_same_numbers(spacing, monkeypatch):
    generator = np.random.default_rng(0)
    points, targets = (np.argwhere(generator.random((20, 21, 22)) < share) for share in (0.02, 0.05))
    found, shared = [], (points[:, None] == targets).all(axis=2).any(axis=1)
    assert shared.any()
    for limit in (0, math.inf):
        monkeypatch.setattr(surfaces, "_TRANSFORM_PAYS_BELOW", limit)
        found.append(surfaces.squared_distances(points, targets, spacing))
        near = surfaces.squared_distances(points, targets, spacing, at_most=0)
        assert np.array_equal(near == 0, shared)
        reach = 2 * min(spacing)
        near = surfaces.squared_distances(points, targets, spacing, at_most=reach)
        assert np.array_equal(near <= reach**2 * (1 + 1e-6), found[-1] <= reach**2 * (1 + 1e-6))
    assert np.array_equal(*found)
    plain = (((points[:, None] - targets) * spacing) ** 2).sum(axis=2).min(axis=1)
    assert np.allclose(found[0], plain)


def area_of(mask, annotated, spacing, *, columns=slice(None)):
    """Area of the surface, of all elements or of those at some corners along x."""
    corners, codes = surfaces.surface_elements(mask, annotated, CLOSED)
    return surfaces.element_areas(spacing)[codes[np.isin(corners[:, 2], np.arange(mask.shape[2] + 1)[columns])]].sum()


def test_an_annotated_plane_is_measured_like_a_flat_image():
    prediction, reference = pair(5)
    annotated = np.zeros_like(reference)
    annotated[7] = True
    flat = measured(prediction[7:8], reference[7:8], spacing=(3.0, 1.0, 1.5), tolerance=1.5)
    assert measured(prediction, reference, annotated, spacing=(3.0, 1.0, 1.5), tolerance=1.5) == pytest.approx(flat)


def test_surface_area_of_bodies_by_hand():
    """A box that grows by one voxel gets the area of a ring of its faces, less what bevelling the four edges saves."""
    small, large = box((3, 7), (3, 8), (3, 9)), box((3, 8), (3, 8), (3, 9))
    everything = np.ones((12, 12, 12), bool)
    areas = [area_of(mask, everything, (2.0, 1.0, 0.5)) for mask in (small, large)]
    ring, bevel = 2 * 5 * 1 + 2 * 6 * 0.5, 0.5 + 0.25 - math.hypot(0.5, 0.25)
    assert areas[1] - areas[0] == pytest.approx(2 * (ring - 4 * bevel))  # the ring is 2 high
    assert area_of(~small, everything, (2.0, 1.0, 0.5)) == pytest.approx(areas[0] + area_of(everything, everything, (2.0, 1.0, 0.5)))


def test_a_border_to_ignored_voxels_is_no_surface():
    """A rod that runs out of the annotated part: its cut end is not known to be an end."""
    rod = box((4, 7), (4, 7), (2, 12))
    annotated = np.ones(rod.shape, bool)
    annotated[:, :, 8:] = False
    border = surfaces.border_voxels(rod, annotated, CLOSED)
    assert [5, 5, 2] in border.tolist() and [5, 5, 7] not in border.tolist() and border[:, 2].max() == 7
    unit, everything = (1.0, 1.0, 1.0), np.ones_like(annotated)
    assert area_of(rod, annotated, unit, columns=slice(0, 8)) == pytest.approx(area_of(rod, everything, unit, columns=slice(0, 8)))
    # the walls of the rod go straight on to the annotated end: one more ring of elements, like every other
    ring, last = (area_of(rod, annotated, unit, columns=slice(column, column + 1)) for column in (6, 8))
    assert last == pytest.approx(ring) and area_of(rod, annotated, unit, columns=slice(9, None)) == 0


def test_what_ends_at_ignored_voxels_costs_nothing():
    reference, annotated = box((4, 7), (4, 7), (2, 12)), np.ones((12, 12, 12), bool)
    annotated[:, :, 8:] = False
    shorter = reference & box((4, 7), (4, 7), (2, 9))
    found = measured(shorter, reference, annotated, tolerance=0)
    assert all(found[name] == MEASURES[name].best for name in SURFACES)


def test_masks_without_any_surface_are_undefined_not_perfect():
    """Every annotated voxel belongs to both masks, and ignored ones surround them."""
    mask = box((2, 9), (2, 9), (2, 9))
    found = measured(np.ones_like(mask), mask, mask)
    assert all(math.isnan(found[name]) for name in ("HD", "HD95", "HD95_pooled", "ASSD", "MASD", "NSD"))
    assert found["AHD"] == found["HD_voxels"] == 0


def test_a_surface_without_counterpart_is_far_in_nsd_and_in_no_distance():
    """Pooled with a perfect case, a case without prediction halves the area that is near and leaves the distances alone."""
    mask, nothing = blobs(0), np.zeros_like(blobs(0))
    everything = np.ones_like(mask)
    perfect, missed = (measures.count(Masks(prediction, mask, everything), SURFACES) for prediction in (mask, nothing))
    pooled = measures.values(measures.added(perfect, missed), SURFACES)
    assert pooled["NSD"] == pytest.approx(2 / 3)
    assert pooled["HD"] == pooled["ASSD"] == pooled["AHD"] == 0


def test_pooled_values_are_those_of_all_surfaces_together():
    """Two cases far apart in one volume are the two cases pooled."""
    cases = [pair(seed) for seed in (1, 2)]
    apart = [np.concatenate([np.pad(masks[number], [(60, 60), (1, 1), (1, 1)]) for masks in cases]) for number in (0, 1)]
    alone = [[np.pad(mask, 1) for mask in masks] for masks in cases]
    everything = np.ones(alone[0][0].shape, bool)
    counts = [measures.count(Masks(*masks, everything, spacing=(2, 1, 1)), SURFACES) for masks in alone]
    pooled = measures.values(measures.added(*counts), SURFACES)
    assert pooled == pytest.approx(measured(*apart, spacing=(2, 1, 1)))


def test_percentiles_of_histograms_equal_numpys():
    lengths = [np.random.default_rng(seed).integers(0, 30, number) for seed, number in ((0, 41), (1, 60))]
    first, second = (Counter((one.astype(float) ** 2).tolist()) for one in lengths)
    counts = {"border_prediction_distances": first, "border_reference_distances": second}
    assert MEASURES["HD95_pooled"].formula(counts) == pytest.approx(np.percentile(np.concatenate(lengths), 95))
    assert MEASURES["HD95"].formula(counts) == pytest.approx(max(np.percentile(one, 95) for one in lengths))
    assert MEASURES["HD"].formula(counts) == max(map(max, lengths))


def blocks_of(shape, size, halo):
    """Boxes that cover a volume once: what is seen, the inner part of it, and where the volume goes on."""
    for starts in product(*(range(0, length, step) for length, step in zip(shape, size, strict=True))):
        stops = [min(start + step, length) for start, step, length in zip(starts, size, shape, strict=True)]
        seen = [(max(0, start - halo), min(length, stop + halo)) for start, stop, length in zip(starts, stops, shape, strict=True)]
        inner = tuple(slice(start - low, stop - low) for start, stop, (low, _) in zip(starts, stops, seen, strict=True))
        sides = tuple((low > 0, high < length) for (low, high), length in zip(seen, shape, strict=True))
        yield tuple(slice(*bounds) for bounds in seen), inner, sides


def counted_in_blocks(step, masks, size, halo):
    """The counts of a step, block by block; every block sees as much as it asks for."""
    total = None
    for number, _ in enumerate(list(blocks_of(masks.reference.shape, size, 0))):
        reach = halo
        while True:
            seen, inner, sides = list(blocks_of(masks.reference.shape, size, reach))[number]
            block = Masks(masks.prediction[seen], masks.reference[seen], masks.annotated[seen], masks.tolerance, masks.spacing, inner=inner,
                          open_sides=sides)
            try:
                amounts = step.tally(block)
                break
            except NeedsMoreSurroundings:
                assert any(map(any, sides))  # with the whole volume in view nothing is missing
                reach = 2 * reach + 1
        total = amounts if total is None else measures.added(total, amounts)
    return step.finish(total)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.tally.__name__)
@pytest.mark.parametrize("annotated", ["all", "some", "half"])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_give_exactly_the_counts_of_the_whole(step, annotated, seed):
    generator = np.random.default_rng(seed)
    prediction, reference = pair(seed)
    seen = {"all": np.ones(reference.shape, bool), "some": ~blobs(seed + 60, share=0.1), "half": np.ones(reference.shape, bool)}[annotated]
    if annotated == "half":
        seen[:, 11:] = False
    masks = Masks(prediction, reference, seen, tolerance=2.0, spacing=SPACINGS[seed])
    size = generator.integers(4, 13, 3).tolist()
    assert counted_in_blocks(step, masks, size, halo=int(generator.integers(0, 3))) == step(masks)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.tally.__name__)
def test_blocks_of_a_flat_image_give_the_counts_of_the_whole(step):
    prediction, reference = (mask[7:8] for mask in pair(5))
    masks = Masks(prediction, reference, np.ones_like(reference), tolerance=2.0)
    assert counted_in_blocks(step, masks, (1, 9, 10), halo=1) == step(masks)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.tally.__name__)
def test_a_halo_that_is_too_narrow_is_refused(step):
    """Two plates 6 planes apart, seen from a block that holds the first: 5 planes of halo do not reach the second."""
    prediction, reference = box((3, 4), (2, 10), (2, 10), shape=(20, 12, 12)), box((9, 10), (2, 10), (2, 10), shape=(20, 12, 12))
    annotated = np.ones_like(reference)

    def tally(halo):
        seen, inner, sides = slice(5 + halo), (slice(0, 5), slice(None), slice(None)), ((False, True), *CLOSED[1:])
        return step.tally(Masks(prediction[seen], reference[seen], annotated[seen], tolerance=6, inner=inner, open_sides=sides))

    for halo in (0, 1, 4):
        with pytest.raises(NeedsMoreSurroundings, match="show"):
            tally(halo)
    tally(7)
    everything = step.tally(Masks(prediction, reference, annotated, tolerance=6, inner=(slice(0, 5), slice(None), slice(None)),
                                  open_sides=CLOSED))
    assert everything == tally(7)


def test_what_lies_beyond_the_tolerance_needs_no_wider_halo():
    """NSD is sure of a surface as soon as the tolerance around it is seen; a distance is not."""
    prediction, reference = box((3, 4), (2, 10), (2, 10), shape=(40, 12, 12)), box((30, 31), (2, 10), (2, 10), shape=(40, 12, 12))
    block = Masks(prediction[:12], reference[:12], np.ones((12, 12, 12), bool), tolerance=3, inner=(slice(0, 5), slice(None), slice(None)))
    amounts = MEASURES["NSD"].counts.tally(block)
    assert sum(amounts["area_prediction"].values()) and not amounts["area_prediction_near"]
    with pytest.raises(NeedsMoreSurroundings):
        MEASURES["HD"].counts.tally(block)


@pytest.mark.parametrize("mirrored", [False, True])
def test_where_a_block_cuts_a_body_is_no_surface(mirrored):
    """Whether the outermost voxels of a body have a face on background is not known where the volume goes on."""
    body, side, last = np.ones((8, 5, 5), bool), (True, False) if mirrored else (False, True), 0 if mirrored else 7
    border = surfaces.border_voxels(body, body, (side, *CLOSED[1:]))
    corners, _ = surfaces.surface_elements(body, body, (side, *CLOSED[1:]))
    assert len(border) == 5 * 5 + 6 * 16 and last not in border[:, 0]  # the other end, and the walls between
    assert set(corners[:, 0].tolist()) == set(range(9)) - {0 if mirrored else 8}
