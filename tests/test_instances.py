"""Classes from instance ids: properties that hold for any volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy import ndimage

from nnunet_neuro import instances
from nnunet_neuro.blocks import tile
from nnunet_neuro.instances import (
    BOUNDARY,
    INTERIOR,
    boundary_classes,
    boundary_label,
    class_label,
    classes_of_instances,
    foreground_label,
)
from nnunet_neuro.volumes import Volume

FULL = np.ones((3, 3, 3), bool)
# ids of which float64 would make one, of which uint32 would make 5 and 0, and of which uint16 would make 0
LARGE_IDS = np.array([0, 65536, 70000, 2**32, 2**33 + 5, 2**53, 2**53 + 1, 2**64 - 1], np.uint64)


def in_memory(array: np.ndarray) -> Volume:
    return Volume(Path("memory"), array.shape, array.dtype, None, lambda path, region: array[region])


def blobs(seed: int, shape: tuple[int, int, int] = (12, 20, 22), ids: np.ndarray = LARGE_IDS) -> np.ndarray:
    """Touching objects with large ids in some background."""
    generator = np.random.default_rng(seed)
    seeds = np.zeros(shape, int)
    seeds[tuple(generator.integers(0, length, 14) for length in shape)] = np.arange(14)
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return ids[seeds[tuple(nearest)] % len(ids)]


volumes = st_numpy.arrays(np.uint64, st_numpy.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7),
                          elements=st.sampled_from([0, 0, *LARGE_IDS.tolist()]))
spacings = st.sampled_from([(1.0, 1.0, 1.0), (0.03, 0.008, 0.008), (0.008, 0.03, 0.016)])
widths = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3])  # in voxels of the finest axis


@settings(max_examples=150, deadline=None)
@given(ids=volumes, spacing=spacings, width=widths, in_plane=st.booleans())
def test_every_object_voxel_is_interior_or_boundary_and_interiors_of_two_objects_never_touch(ids, spacing, width, in_plane):
    classes = boundary_classes(ids, spacing=spacing, width=width * min(spacing), in_plane=in_plane)
    assert ((classes != 0) == (ids != 0)).all()
    structure = FULL.copy()
    if in_plane:
        structure[[0, 2]] = False
    components, count = ndimage.label(classes == INTERIOR, structure)
    for number in range(1, count + 1):
        assert len(np.unique(ids[components == number])) == 1


@settings(max_examples=150, deadline=None)
@given(ids=volumes, spacing=spacings, width=widths, in_plane=st.booleans())
def test_boundary_is_what_its_definition_says(ids, spacing, width, in_plane):
    """Against a plain loop over all pairs of voxels."""
    width *= min(spacing)
    places = np.argwhere(np.ones(ids.shape, bool))
    steps = places[:, None] - places[None]
    distances = np.sqrt(((steps * np.array(spacing)) ** 2).sum(-1))
    same_plane = (steps[..., 0] == 0) | (not in_plane)
    flat = ids.ravel()
    differ = (flat[:, None] != flat[None]) & same_plane
    touch = (np.abs(steps).max(-1) == 1) & (flat[:, None] != 0) & (flat[None] != 0)
    expected = (differ & ((distances <= width * (1 + 1e-6)) | touch)).any(1) & (flat != 0)
    found = boundary_classes(ids, spacing=spacing, width=width, in_plane=in_plane)
    assert ((found == BOUNDARY).ravel() == expected).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.tuples(st.integers(2, 12), st.integers(3, 20), st.integers(3, 22)), spacing=spacings,
       width=widths, in_plane=st.booleans())
def test_blocks_give_what_the_whole_volume_gives(seed, size, spacing, width, in_plane):
    ids = blobs(seed)
    width *= min(spacing)
    label = boundary_label(in_memory(ids), spacing=spacing, width=width, in_plane=in_plane)
    whole = boundary_classes(ids, spacing=spacing, width=width, in_plane=in_plane)
    for region in tile(ids.shape, size):
        assert (label.crop(region).read() == whole[region]).all()
    assert (label.read() == whole).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), width=widths, permutation=st.permutations(range(1, len(LARGE_IDS))))
def test_renumbering_objects_changes_nothing(seed, width, permutation):
    ids = blobs(seed)
    renumbered = np.zeros_like(ids)
    for old, new in zip(LARGE_IDS[1:], LARGE_IDS[permutation]):
        renumbered[ids == old] = new
    one, other = (boundary_classes(array, spacing=(1, 1, 1), width=width) for array in (ids, renumbered))
    assert (one == other).all()


def test_wider_boundaries_contain_narrower_ones():
    ids = blobs(3)
    narrow, wide = (boundary_classes(ids, spacing=(3, 1, 1), width=width) == BOUNDARY for width in (1, 3))
    assert narrow.any() and (wide >= narrow).all() and wide.sum() > narrow.sum()


def test_thick_sections_get_no_boundary_of_a_whole_plane():
    ids = np.zeros((7, 30, 30), np.uint32)
    ids[2:5, 5:25, 5:25] = 70000
    thick = boundary_classes(ids, spacing=(0.03, 0.008, 0.008), width=0.016)
    assert (thick[2] == thick[3]).all() and (thick[2, 7:23, 7:23] == INTERIOR).all()
    isotropic = boundary_classes(ids, spacing=(0.008, 0.008, 0.008), width=0.008)
    assert (isotropic[2, 5:25, 5:25] == BOUNDARY).all() and (isotropic[3, 6:24, 6:24] == INTERIOR).all()


def test_zero_width_separates_touching_objects_only():
    ids = np.zeros((3, 9, 9), np.uint16)
    ids[:, 2:7, 2:5], ids[:, 2:7, 5:7] = 1, 2
    classes = boundary_classes(ids, spacing=(1, 1, 1), width=0)
    assert (classes[:, 2:7, 4:6] == BOUNDARY).all() and (classes == BOUNDARY).sum() == 3 * 5 * 2


def test_a_volume_without_objects_is_background():
    empty = in_memory(np.zeros((3, 4, 5), np.uint64))
    for label in (boundary_label(empty, spacing=(1, 1, 1), width=2), foreground_label(empty), class_label(empty, {})):
        assert label.read().shape == (3, 4, 5) and not label.read().any()


def test_ids_that_float64_cannot_tell_apart_are_two_objects():
    ids = np.full((1, 4, 6), 2**53, np.uint64)
    ids[..., 3:] = 2**53 + 1
    classes = boundary_classes(ids, spacing=(1, 1, 1), width=1)
    assert (classes[..., 2:4] == BOUNDARY).all() and (classes[..., [0, 1, 4, 5]] == INTERIOR).all()


def test_foreground_is_every_object():
    ids = blobs(5)
    assert (foreground_label(in_memory(ids)).read() == (ids != 0)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_])
def test_voxels_that_are_no_ids_are_refused(dtype):
    with pytest.raises(ValueError, match="expected integer instance ids"):
        foreground_label(in_memory(np.zeros((2, 2, 2), dtype)))


def test_negative_ids_are_refused():
    ids = np.zeros((2, 3, 3), np.int64)
    ids[0, 1, 1] = -1
    with pytest.raises(ValueError, match="instance id -1"):
        boundary_label(in_memory(ids), spacing=(1, 1, 1), width=1).read()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_class_of_an_instance_is_the_majority_of_its_voxels(seed):
    ids = blobs(seed)
    codes = np.random.default_rng(seed).choice(np.array([0, 22241, 23299, 23300], np.uint16), ids.shape)
    found = classes_of_instances(in_memory(ids), in_memory(codes))
    assert list(found) == sorted(set(np.unique(ids).tolist()) - {0})
    for identifier, code in found.items():
        counts = [np.count_nonzero(codes[ids == np.uint64(identifier)] == other) for other in (22241, 23299, 23300)]
        assert code == ((22241, 23299, 23300)[int(np.argmax(counts))] if any(counts) else 0)


def test_votes_are_gathered_over_slabs(monkeypatch):
    """A neurite that is an axon in 2 of its 5 planes and dendrite in 3."""
    ids = np.full((5, 2, 2), 2**33 + 5, np.uint64)
    codes = np.full((5, 2, 2), 23300, np.uint16)
    codes[:2] = 23299
    monkeypatch.setattr(instances, "_SLAB_VOXELS", 4)
    assert classes_of_instances(in_memory(ids), in_memory(codes)) == {2**33 + 5: 23300}


def test_an_unlabelled_majority_does_not_outvote_a_class_and_none_at_all_is_zero():
    ids = np.array([[[7, 7, 7, 70000]]], np.uint32)
    codes = np.array([[[0, 0, 23299, 0]]], np.uint16)
    assert classes_of_instances(in_memory(ids), in_memory(codes)) == {7: 23299, 70000: 0}


def test_class_label_maps_large_ids_exactly():
    ids = blobs(8)
    value_of = {int(identifier): number for number, identifier in enumerate(LARGE_IDS[1:], start=1)}
    label = class_label(in_memory(ids), value_of)
    expected = np.zeros(ids.shape, np.uint16)
    for identifier, value in value_of.items():
        expected[ids == np.uint64(identifier)] = value
    region = (slice(2, 9), slice(3, 17), slice(0, 22))
    assert (label.read() == expected).all() and (label.crop(region).read() == expected[region]).all()


def test_classes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="cut from the same place"):
        classes_of_instances(in_memory(np.ones((2, 3, 3), np.uint16)), in_memory(np.ones((2, 3, 4), np.uint16)))
