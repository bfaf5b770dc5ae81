"""Objects over blocks: what is found block by block is what the whole volume has."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cc3d
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops
from skimage.segmentation import watershed

from nnunet_neuro.components import (
    Run,
    depth_landscape,
    interior_landscape,
    label_components,
    label_watershed,
    probability_landscape,
)
from nnunet_neuro.volumes import Volume, open_volume


def in_memory(array: np.ndarray, read=None, spacing=None) -> Volume:
    return Volume("memory", array.shape, array.dtype, spacing, partial(read or _read, array))


def _read(array, path, region):
    return array[region]


def _set(array, region, block):
    array[region] = block


def _set_in_zarr(path, region, block):
    zarr.open_array(str(path), mode="r+")[region] = block


def components(labels: np.ndarray, block, work: Path, **options):
    ids = np.zeros(labels.shape, np.uint64)
    table = label_components(in_memory(labels), partial(_set, ids), Run(work / "work", block, progress=False), **options)
    assert not (work / "work").exists()
    return ids, table


def flooded(landscape, block, work: Path, **options):
    ids = np.zeros(landscape.labels.shape, np.uint64)
    table = label_watershed(landscape, partial(_set, ids), Run(work / "work", block, progress=False), **options)
    assert not (work / "work").exists()
    return ids, table


def by_first_voxel(labels: np.ndarray) -> np.ndarray:
    """Renumbered from 1 in the order of the first voxels."""
    found, first = np.unique(labels, return_index=True)
    order = found[found > 0][np.argsort(first[found > 0])]
    numbers = np.zeros(int(labels.max()) + 1, np.uint64)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers[labels]


def random_classes(shape, density, seed=0, classes=3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.integers(1, classes + 1, shape) * (generator.random(shape) < density)).astype(np.uint8)


def balls(shape, centres, radius) -> np.ndarray:
    """1 within `radius` of any centre."""
    places = np.stack(np.indices(shape), axis=-1)
    return np.logical_or.reduce([np.linalg.norm(places - centre, axis=-1) <= radius for centre in centres]).astype(np.uint8)


# --- connected components ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 18)] * 3), block=st.tuples(*[st.integers(2, 20)] * 3), connectivity=st.sampled_from([6, 18, 26]),
       density=st.floats(0, 1), classes=st.integers(1, 3), seed=st.integers(0, 999))
def test_blocks_give_the_components_of_the_whole(tmp_path_factory, shape, block, connectivity, density, classes, seed):
    labels = random_classes(shape, density, seed, classes)
    ids, table = components(labels, block, tmp_path_factory.mktemp("objects"), connectivity=connectivity)
    expected = by_first_voxel(cc3d.connected_components(labels, connectivity=connectivity))
    np.testing.assert_array_equal(ids, expected)
    assert len(table) == expected.max()


def test_the_components_are_those_of_scipy_too(tmp_path):
    labels = random_classes((20, 21, 22), 0.3, classes=1)
    for connectivity, rank in ((6, 1), (18, 2), (26, 3)):
        expected = by_first_voxel(ndimage.label(labels, ndimage.generate_binary_structure(3, rank))[0])
        np.testing.assert_array_equal(components(labels, (7, 6, 9), tmp_path, connectivity=connectivity)[0], expected)


@pytest.mark.parametrize("block", [(16, 16, 16), (150, 40, 64), (64, 64, 64)])
def test_axons_of_a_brain_have_the_components_of_the_whole(tmp_path, shared_data, block):
    label = open_volume(sorted((shared_data / "ls_dlmbmap_axons").glob("labels/*.tif*"))[0]).read()[:96]
    labels = (label > 0).astype(np.uint8)
    ids, table = components(labels, block, tmp_path, spacing=(1, 1, 1))
    np.testing.assert_array_equal(ids, by_first_voxel(cc3d.connected_components(labels, connectivity=26)))
    assert len(table) > 1


def test_a_thread_through_every_block_is_one_object(tmp_path):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[range(40), range(40), range(39, -1, -1)] = 1  # crosses edges and corners of blocks
    assert components(labels, (8, 8, 8), tmp_path, connectivity=26)[0].max() == 1
    assert components(labels, (8, 8, 8), tmp_path, connectivity=18)[0].max() == 40


def test_classes_that_touch_are_objects_of_their_own(tmp_path):
    labels = np.ones((4, 4, 8), np.uint8)
    labels[..., 4:] = 2
    ids, table = components(labels, (4, 4, 4), tmp_path)
    assert ids.dtype == np.uint64 and table.class_of.tolist() == [1, 2]
    np.testing.assert_array_equal(ids, labels)


def test_small_objects_get_no_id(tmp_path):
    labels = random_classes((24, 24, 24), 0.15)
    whole = cc3d.connected_components(labels, connectivity=26)
    small = np.bincount(whole.ravel()) < 5
    ids, table = components(labels, (10, 7, 24), tmp_path, minimum_voxels=5)
    np.testing.assert_array_equal(ids, by_first_voxel(np.where(small[whole], 0, whole)))
    assert table.voxels.min() >= 5 and small[1:].any()


def test_no_object_gives_an_empty_table(tmp_path):
    ids, table = components(np.zeros((9, 9, 9), np.uint8), (4, 4, 4), tmp_path, table=tmp_path / "objects.csv")
    assert not ids.any() and len(table) == 0
    assert len((tmp_path / "objects.csv").read_text().splitlines()) == 1


def test_table_is_what_regionprops_measures(tmp_path):
    labels = random_classes((20, 22, 24), 0.12, seed=3)
    spacing = (2.0, 0.5, 0.25)
    ids, _ = components(labels, (6, 8, 7), tmp_path, spacing=spacing, table=tmp_path / "objects.csv")
    with (tmp_path / "objects.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    expected = regionprops(ids.astype(np.int64), spacing=spacing)
    assert [int(row["id"]) for row in rows] == [one.label for one in expected]
    for row, one in zip(rows, expected):
        z, y, x = one.coords[0]
        assert int(row["class"]) == labels[z, y, x]
        assert int(row["voxels"]) == one.num_pixels
        assert float(row["volume_um3"]) == pytest.approx(one.area)
        assert [int(row[f"{axis}_{end}"]) for end in ("start", "stop") for axis in "zyx"] == list(one.bbox)
        assert [float(row[f"{axis}_um"]) for axis in "zyx"] == pytest.approx(one.centroid)
        assert [float(row[f"{axis}_centroid"]) for axis in "zyx"] == pytest.approx(one.coords.mean(axis=0))


def test_two_workers_give_what_one_gives(tmp_path):
    labels = random_classes((32, 32, 32), 0.2)
    np.save(tmp_path / "labels.npy", labels)
    zarr.open_array(str(tmp_path / "ids"), mode="w", shape=labels.shape, chunks=(16, 16, 16), dtype="uint64", fill_value=0)
    run = Run(tmp_path / "work", (16, 16, 16), workers=2, progress=False)
    label_components(open_volume(tmp_path / "labels.npy"), partial(_set_in_zarr, tmp_path / "ids"), run)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "ids"), mode="r")[:],
                                  components(labels, (32, 32, 32), tmp_path)[0])


def test_no_more_than_a_block_is_read_at_once(tmp_path):
    labels, sizes = random_classes((30, 30, 30), 0.2), []

    def read(array, path, region):
        sizes.append(array[region].size)
        return array[region]

    ids = np.zeros(labels.shape, np.uint64)
    label_components(in_memory(labels, read), partial(_set, ids), Run(tmp_path / "work", (10, 10, 10), progress=False))
    assert max(sizes) == 1000 and sum(sizes) == labels.size  # each voxel once


# --- interruptions and bad input ---------------------------------------------------------------------------------------------------


def test_interrupted_search_goes_on_where_it_stopped(tmp_path):
    labels = random_classes((24, 24, 24), 0.2)
    ids, read, written = np.zeros(labels.shape, np.uint64), [], []

    def reading(array, path, region):
        read.append(region)
        if len(read) == 5:
            raise KeyboardInterrupt
        return array[region]

    def writing(region, block):
        written.append(region)
        if len(written) == 3:
            raise OSError("disk full")
        ids[region] = block

    run = Run(tmp_path / "work", (8, 12, 24), progress=False)
    with pytest.raises(KeyboardInterrupt, match="interrupted after 4 of 6 blocks"):
        label_components(in_memory(labels, reading), writing, run)
    with pytest.raises(OSError, match="disk full"):
        label_components(in_memory(labels, reading), writing, run)
    label_components(in_memory(labels, reading), writing, run)
    np.testing.assert_array_equal(ids, components(labels, (24, 24, 24), tmp_path)[0])
    assert len(read) == 6 + 1 and len(written) == 6 + 1  # only what was in flight twice


@pytest.mark.slow
def test_killed_search_goes_on_and_gives_the_same(tmp_path):
    labels = random_classes((64, 64, 64), 0.1)
    np.save(tmp_path / "labels.npy", labels)
    zarr.open_array(str(tmp_path / "ids"), mode="w", shape=labels.shape, chunks=(16, 16, 16), dtype="uint64", fill_value=0)
    code = ("import sys\nfrom functools import partial\nfrom pathlib import Path\n"
            "from nnunet_neuro.components import Run, label_components\n"
            "from nnunet_neuro.volumes import open_volume\nfrom tests.test_components import _set_in_zarr\n"
            "folder = Path(sys.argv[1])\nprint('begun', flush=True)\n"
            "label_components(open_volume(folder / 'labels.npy'), partial(_set_in_zarr, folder / 'ids'),\n"
            "                 Run(folder / 'work', (16, 16, 16), progress=False), table=folder / 'objects.csv')\n")
    generator = np.random.default_rng(0)
    kills = 0
    for _ in range(50):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begun\n"
        time.sleep(generator.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        kills += process.wait(60) == -signal.SIGKILL
        if not kills or process.returncode == 0:
            break
    assert kills
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, stdout=subprocess.DEVNULL)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "ids"), mode="r")[:], components(labels, (64, 64, 64), tmp_path)[0])
    assert {path.name for path in tmp_path.iterdir()} == {"labels.npy", "ids", "objects.csv"}


def test_work_folder_of_another_search_is_refused(tmp_path):
    labels = random_classes((12, 12, 12), 0.2)

    def full(region, block):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        label_components(in_memory(labels), full, Run(tmp_path / "work", (6, 6, 6), progress=False), connectivity=26)
    with pytest.raises(ValueError, match="begun with connectivity 26, now asked for 6"):
        label_components(in_memory(labels), full, Run(tmp_path / "work", (6, 6, 6), progress=False), connectivity=6)
    with pytest.raises(ValueError, match="begun with source '', now asked for 'other'"):
        label_components(in_memory(labels), full, Run(tmp_path / "work", (6, 6, 6), progress=False, source="other"))


def test_a_folder_with_other_things_is_no_work_folder(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds something else"):
        components(np.ones((3, 3, 3), np.uint8), (3, 3, 3), tmp_path)
    assert (tmp_path / "work" / "thesis.tex").is_file()


def test_two_searches_in_one_folder_are_refused(tmp_path):
    labels = np.ones((4, 4, 4), np.uint8)

    def second_search(region, block):
        with pytest.raises(FileExistsError, match="another process is finding objects"):
            components(labels, (4, 4, 4), tmp_path)

    label_components(in_memory(labels), second_search, Run(tmp_path / "work", (4, 4, 4), progress=False))


@pytest.mark.parametrize("labels, block, options, sentence", [
    (np.ones((4, 4, 4), np.float32), (4, 4, 4), {}, "holds float32 voxels; expected integers"),
    (np.ones((4, 4, 4), np.uint8), (4, 4, 4), {"connectivity": 8}, "connectivity 8 is not possible; choose 6"),
    (np.ones((4, 4), np.uint8), (4, 4), {}, "three positive lengths"),
    (np.ones((4, 4, 4), np.uint8), (4, 0, 4), {}, "three positive lengths"),
])
def test_bad_input_ends_in_one_sentence(tmp_path, labels, block, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        components(labels, block, tmp_path, **options)
    assert not (tmp_path / "work").exists()


# --- watershed ---------------------------------------------------------------------------------------------------------------------

TOUCHING = [(12, 12, 12), (12, 12, 22), (12, 36, 12), (22, 36, 12), (36, 20, 36), (36, 30, 36)]


def test_depth_seeds_tell_touching_balls_apart(tmp_path):
    mask = balls((48, 48, 48), TOUCHING, 6)
    assert components(mask, (48, 48, 48), tmp_path)[1].voxels.size == 3
    ids, table = flooded(depth_landscape(in_memory(mask), spacing=(1, 1, 1), depth=4), (16, 16, 16), tmp_path, halo=(16, 16, 16))
    assert len(table) == len({ids[centre] for centre in TOUCHING}) == 6
    np.testing.assert_array_equal(ids > 0, mask > 0)
    for (_, centre), centroid in zip(sorted((ids[one], one) for one in TOUCHING), table.centroid):
        np.testing.assert_allclose(centroid, centre, atol=0.6)


@pytest.mark.parametrize("connectivity, rank", [(6, 1), (26, 3)])
def test_one_block_is_the_watershed_of_scikit_image(tmp_path, connectivity, rank):
    mask = (ndimage.gaussian_filter(np.random.default_rng(1).random((40, 40, 40)), 2.5) > 0.505).astype(np.uint8)
    distance = ndimage.distance_transform_edt(mask)
    seeds = by_first_voxel(cc3d.connected_components(distance >= 3, connectivity=connectivity)).astype(np.int32)
    expected = watershed(-np.minimum(distance, 3), seeds, mask=mask > 0, connectivity=rank)
    landscape = depth_landscape(in_memory(mask), spacing=(1, 1, 1), depth=3)
    ids, _ = flooded(landscape, (40, 40, 40), tmp_path, connectivity=connectivity, seeded_only=True)
    assert seeds.max() > 3
    np.testing.assert_array_equal(ids, by_first_voxel(expected))


@pytest.mark.parametrize("block", [(16, 16, 16), (7, 48, 20), (25, 13, 48)])
def test_objects_within_the_halo_are_those_of_the_whole(tmp_path, block):
    landscape = depth_landscape(in_memory(balls((48, 48, 48), TOUCHING, 6)), spacing=(1, 1, 1), depth=4)
    whole, table = flooded(landscape, (48, 48, 48), tmp_path)
    ids, of_blocks = flooded(landscape, block, tmp_path, halo=(22, 22, 22))
    np.testing.assert_array_equal(ids, whole)
    np.testing.assert_array_equal(of_blocks.centroid, table.centroid)


def test_objects_larger_than_the_halo_have_the_same_seeds_and_nearly_the_same_voxels(tmp_path):
    mask = (ndimage.gaussian_filter(np.random.default_rng(2).random((64, 64, 64)), 3) > 0.5).astype(np.uint8)  # one sponge
    landscape = depth_landscape(in_memory(mask), spacing=(1, 1, 1), depth=4)
    whole, table = flooded(landscape, (64, 64, 64), tmp_path, seeded_only=True)
    ids, of_blocks = flooded(landscape, (32, 32, 32), tmp_path, halo=(12, 12, 12), seeded_only=True)
    assert len(table) > 5
    assert abs(len(of_blocks) - len(table)) <= 1
    deep = ndimage.distance_transform_edt(mask) >= 4
    pairs = np.unique(np.stack([whole[deep], ids[deep]]), axis=1)
    assert pairs.shape[1] == len(table)  # each seed is one object in both
    same = dict(pairs.T.tolist())
    renamed = np.array([same.get(one, 0) for one in range(len(table) + 1)])[whole]
    assert np.mean(renamed[mask > 0] == ids[mask > 0]) > 0.97


def test_seeds_do_not_depend_on_the_blocks(tmp_path):
    mask = balls((48, 48, 48), TOUCHING, 6)
    seeds = depth_landscape(in_memory(mask), spacing=(1, 0.5, 1), depth=2.4).seeds
    whole = seeds.read()
    expected = ndimage.distance_transform_edt(mask, sampling=(1, 0.5, 1)) >= 2.4
    np.testing.assert_array_equal(whole, expected)
    for z in range(0, 48, 7):
        part = (slice(z, min(z + 7, 48)), slice(3, 20), slice(10, 41))
        np.testing.assert_array_equal(seeds.read(part), whole[part])


def test_what_lies_beyond_the_halo_goes_to_the_object_it_touches(tmp_path):
    mask = balls((20, 20, 120), [(10, 10, 10)], 7)
    mask[10, 10, 10:115] = 1  # a long tail, thinner than any seed
    mask[3, 3, 60:118] = 1  # a fibre that touches nothing
    landscape = depth_landscape(in_memory(mask), spacing=(1, 1, 1), depth=4)
    for block in ((20, 20, 120), (20, 20, 16), (5, 20, 30)):
        ids, table = flooded(landscape, block, tmp_path, halo=(4, 4, 4))
        assert len(table) == 2
        assert ids[10, 10, 114] == ids[10, 10, 10] != ids[3, 3, 100]
        assert set(ids[3, 3, 60:118].tolist()) == {ids[3, 3, 60]}
    ids, table = flooded(landscape, (5, 20, 30), tmp_path, halo=(4, 4, 4), seeded_only=True)
    assert len(table) == 1 and ids[3, 3, 100] == 0 and ids[10, 10, 114] == 1


def test_interior_and_boundary_classes_become_whole_objects(tmp_path):
    mask = np.zeros((12, 24, 40), np.uint8)
    mask[2:10, 2:22, 2:38] = 2
    mask[4:8, 4:20, 4:18] = 1
    mask[4:8, 4:20, 22:36] = 1
    for block in ((12, 24, 40), (6, 10, 13)):
        ids, table = flooded(interior_landscape(in_memory(mask)), block, tmp_path, halo=(8, 8, 8))
        np.testing.assert_array_equal(ids > 0, mask > 0)
        assert len(table) == 2 and table.class_of.tolist() == [1, 1]
        assert (ids[2:10, 2:22, 2:19] == 1).all() and (ids[2:10, 2:22, 21:38] == 2).all()


def test_probability_seeds_tell_objects_apart(tmp_path):
    labels = np.zeros((10, 10, 40), np.uint8)
    labels[2:8, 2:8, 2:38] = 3
    probability = np.broadcast_to(np.abs(np.cos(np.arange(40) * np.pi / 20)).astype(np.float32), labels.shape)  # low at 10 and 30
    landscape = probability_landscape(in_memory(labels), in_memory(probability), threshold=0.8)
    for block in ((10, 10, 40), (10, 5, 8)):
        ids, table = flooded(landscape, block, tmp_path, halo=(6, 6, 12))
        assert table.class_of.tolist() == [3, 3, 3]
        assert [ids[5, 5, x] for x in (4, 9, 11, 29, 31, 36)] == [1, 1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="must be of the same volume"):
        probability_landscape(in_memory(labels), in_memory(probability[1:]), threshold=0.8)


def test_classes_are_flooded_apart(tmp_path):
    labels = np.zeros((16, 16, 32), np.uint8)
    labels[2:14, 2:14, 2:16], labels[2:14, 2:14, 16:30] = 1, 2
    ids, table = flooded(depth_landscape(in_memory(labels), spacing=(1, 1, 1), depth=3), (16, 8, 12), tmp_path, halo=(8, 8, 8))
    assert table.class_of.tolist() == [1, 2]
    np.testing.assert_array_equal(ids, labels)


def test_interrupted_watershed_goes_on(tmp_path):
    landscape = depth_landscape(in_memory(balls((48, 48, 48), TOUCHING, 6)), spacing=(1, 1, 1), depth=4)
    expected, _ = flooded(landscape, (24, 24, 24), tmp_path)
    ids, calls = np.zeros(expected.shape, np.uint64), []

    def writing(region, block):
        calls.append(region)
        if len(calls) in (1, 4):
            raise KeyboardInterrupt
        ids[region] = block

    run = Run(tmp_path / "work", (24, 24, 24), progress=False)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match="writing objects"):
            label_watershed(landscape, writing, run)
    label_watershed(landscape, writing, run)
    np.testing.assert_array_equal(ids, expected)
    assert len(calls) == 8 + 2


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="must be positive"):
        depth_landscape(in_memory(np.ones((3, 3, 3), np.uint8)), spacing=(1, 1, 1), depth=0)
