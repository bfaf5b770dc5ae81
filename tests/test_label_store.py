"""The store of a prediction and its pyramid."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy import ndimage

from nnunet_neuro.predict import pyramid
from nnunet_neuro.predict.pyramid import build_pyramid, level_sizes, pool_labels, pool_means
from nnunet_neuro.predict.store import FurtherArray, LabelStore, StoreLayout
from nnunet_neuro.volumes import open_channels, open_volume

SHAPE = (60, 90, 50)
CLASSES = {"background": 0, "axon": 1, "soma": 2}
PROBABILITIES = FurtherArray("probabilities", channels=("background", "axon"))
LAYOUT = StoreLayout(SHAPE, spacing=(5.0, 1.625, 1.625), chunk=(32, 32, 32), classes=CLASSES,
                     further=(PROBABILITIES, FurtherArray("entropy", "float16")))
ALL = (slice(None),) * 3


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, SHAPE, dtype=np.uint8)


@pytest.fixture
def store(tmp_path, labels) -> LabelStore:
    made = LabelStore.create(tmp_path / "brain.zarr", LAYOUT)
    made.write(ALL, labels)
    return made


def chunk_files(folder) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_labels_come_back_with_voxel_size_through_any_level(store, labels):
    assert build_pyramid(store, progress=False) == 3
    volume = open_volume(store.path)
    assert np.array_equal(volume.read(), labels) and volume.dtype == np.uint8
    spacings = [open_volume(store.path / str(level)).spacing for level in range(3)]
    assert spacings == [(5.0, 1.625, 1.625), (5.0, 3.25, 3.25), (10.0, 6.5, 6.5)]


def test_metadata_follow_ngff(store):
    build_pyramid(store, progress=False)
    attributes = json.loads((store.path / ".zattrs").read_text())
    image = attributes["multiscales"][0]
    assert image["version"] == "0.4" and [axis["name"] for axis in image["axes"]] == ["z", "y", "x"]
    assert {axis["unit"] for axis in image["axes"]} == {"micrometer"} and {axis["type"] for axis in image["axes"]} == {"space"}
    last = image["datasets"][2]["coordinateTransformations"]
    # the centre of the first voxel of the level lies at the mean of the centres of those pooled into it
    assert last == [{"type": "scale", "scale": [10.0, 6.5, 6.5]}, {"type": "translation", "translation": [2.5, 2.4375, 2.4375]}]
    label = attributes["image-label"]
    assert {one["label-value"]: one["class"] for one in label["properties"]} == {0: "background", 1: "axon", 2: "soma"}
    assert [one["label-value"] for one in label["colors"]] == [0, 1, 2] and label["colors"][0]["rgba"][3] == 0
    assert json.loads((store.path / "0" / ".zarray").read_text())["zarr_format"] == 2


def test_opening_gives_the_layout_back(store):
    assert LabelStore.open(store.path).layout == LAYOUT
    assert LabelStore.create_or_open(store.path, LAYOUT).layout == LAYOUT


@pytest.mark.parametrize("layout", [StoreLayout((3, 4, 5)), StoreLayout((3, 4, 5), "uint16", (1.25, 1, 1), "millimeter"),
                                    StoreLayout((3, 4, 5), spacing=(2, 0.3, 0.3), corner=(10, 7, 3))])
def test_layouts_without_spacing_in_millimetres_and_of_a_part(tmp_path, layout):
    LabelStore.create(tmp_path / "x.zarr", layout)
    assert LabelStore.open(tmp_path / "x.zarr").layout == layout


def test_a_part_is_placed_where_it_was_cut(tmp_path):
    LabelStore.create(tmp_path / "x.zarr", StoreLayout((3, 4, 5), spacing=(2, 0.5, 0.5), corner=(10, 7, 3)))
    place = json.loads((tmp_path / "x.zarr" / ".zattrs").read_text())["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert place[1] == {"type": "translation", "translation": [20.0, 3.5, 1.5]}


@pytest.mark.parametrize(("change", "word"), [({"shape": (60, 90, 51)}, "shape"), ({"chunk": (16, 32, 32)}, "chunk"),
                                              ({"classes": {"background": 0, "axon": 2}}, "classes"),
                                              ({"further": (FurtherArray("disagreement"),)}, "further")])
def test_another_layout_is_refused_by_name(store, change, word):
    with pytest.raises(ValueError, match=rf"has {word} .*, but this prediction has .*choose another output"):
        LabelStore.create_or_open(store.path, StoreLayout(**{**vars(LAYOUT), **change}))


def test_an_array_added_later_does_not_stop_a_run(store):
    ids = np.random.default_rng(1).integers(0, 2**40, SHAPE, dtype=np.uint64)
    instances = FurtherArray("instances", "uint64", labels=True)
    store.add(instances).add(instances).write(ALL, ids, "instances")
    again = LabelStore.create_or_open(store.path, LAYOUT)
    assert np.array_equal(again.read(name="instances"), ids)
    with pytest.raises(ValueError, match="another array called 'instances'"):
        again.add(FurtherArray("instances", "uint32", labels=True))


def test_several_processes_may_create_one_store(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: LabelStore.create_or_open(tmp_path / "x.zarr", LAYOUT), range(8)))
    assert {one.path for one in stores} == {tmp_path / "x.zarr"} and os.listdir(tmp_path) == ["x.zarr"]
    with pytest.raises(FileExistsError, match="exists already"):
        LabelStore.create(tmp_path / "x.zarr", LAYOUT)


def test_other_folders_are_no_store(tmp_path):
    with pytest.raises(ValueError, match="is no prediction of this program"):
        LabelStore.create_or_open(tmp_path, LAYOUT)
    with pytest.raises(FileNotFoundError, match="no prediction"):
        LabelStore.open(tmp_path / "nothing")


def test_writing_touches_the_chunks_of_the_region_only(store, labels):
    before = chunk_files(store.path)
    time.sleep(0.01)
    region = (slice(32, 60), slice(64, 90), slice(0, 32))
    store.write(region, labels[region] * 0)
    after = chunk_files(store.path)
    assert {name for name in after if after[name] != before.get(name)} == {os.path.join("0", "1", "2", "0")}
    labels[region] = 0
    assert np.array_equal(store.read(), labels)


def test_background_is_stored_and_what_was_not_written_is_refused(tmp_path):
    store = LabelStore.create(tmp_path / "x.zarr", LAYOUT)
    first = (slice(0, 32),) * 3
    store.write(first, np.zeros((32, 32, 32), np.uint8))
    assert store.holds(first) and not store.read(first).any()
    with pytest.raises(ValueError, match="lacks 11 of 12 chunks"):
        store.read()
    with pytest.raises(ValueError, match="not complete"):
        build_pyramid(store, progress=False)


@pytest.mark.parametrize(("region", "shape", "dtype", "word"), [
    ((slice(0, 16), slice(0, 32), slice(0, 32)), (16, 32, 32), "uint8", "whole chunks"),
    ((slice(8, 40), slice(0, 32), slice(0, 32)), (32, 32, 32), "uint8", "whole chunks"),
    ((slice(64, 96), slice(0, 32), slice(0, 32)), (32, 32, 32), "uint8", "whole chunks"),
    ((slice(0, 32), slice(0, 32), slice(0, 32)), (32, 32, 31), "uint8", r"expected \(32, 32, 32\)"),
    ((slice(0, 32), slice(0, 32), slice(0, 32)), (32, 32, 32), "uint16", "the store holds uint8"),
])
def test_what_would_damage_neighbours_or_numbers_is_refused(store, labels, region, shape, dtype, word):
    with pytest.raises(ValueError, match=word):
        store.write(region, np.ones(shape, dtype))
    assert np.array_equal(store.read(), labels)


def test_probabilities_are_shares_of_255_and_floats_stay_floats(store):
    shares = np.random.default_rng(2).random((2, *SHAPE)).astype(np.float16)
    store.write(ALL, shares, "probabilities")
    store.write(ALL, shares[0], "entropy")
    assert np.abs(store.read(name="probabilities") / 255 - shares.astype(float)).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(store.read(name="entropy"), shares[0])
    assert len(open_channels(store.path / "probabilities")) == 2 and open_channels(store.path / "entropy")[0].spacing == LAYOUT.spacing
    with pytest.raises(ValueError, match="no array 'margin'; it has labels, entropy, probabilities"):
        store.read(name="margin")


def test_a_worker_is_sent_the_path_only(store, labels):
    sent = pickle.dumps(store)
    assert len(sent) < 2000
    region = (slice(0, 32),) * 3
    pickle.loads(sent).write(region, labels[region])
    assert np.array_equal(store.read(region), labels[region])


@pytest.mark.parametrize(("number", "word"), [(errno.ENOSPC, "^no space left .*what is finished stays"),
                                              (errno.EROFS, "cannot be written to")])
def test_a_full_or_read_only_disk_ends_in_one_sentence(store, number, word):
    class Failing:
        def __setitem__(self, region, array):
            raise OSError(number, os.strerror(number))

    store._arrays["labels"] = Failing()
    with pytest.raises(OSError, match=word):
        store.write(ALL, np.zeros(SHAPE, np.uint8))


_ENDLESS_WRITER = """
import sys
import numpy as np
from nnunet_neuro.predict.store import LabelStore
store = LabelStore.open(sys.argv[1])
print("ready", flush=True)
for value in range(10**9):
    store.write((slice(None),) * 3, np.full(store.layout.shape, value % 250, np.uint8))
"""


def test_a_killed_writer_leaves_whole_chunks(tmp_path):
    store = LabelStore.create(tmp_path / "x.zarr", LAYOUT)
    for delay in (0.05, 0.2):
        process = subprocess.Popen([sys.executable, "-c", _ENDLESS_WRITER, str(store.path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.kill()
        process.communicate()
    store.remove_leftovers()
    assert not list(tmp_path.rglob("*.partial"))
    assert list((store.path / "0").glob("*/*/*"))
    for file in (store.path / "0").glob("*/*/*"):
        region = tuple(slice(int(place) * 32, min(int(place) * 32 + 32, length)) for place, length in zip(file.parts[-3:], SHAPE))
        assert len(np.unique(store.read(region))) == 1


def test_leftovers_of_killed_processes_are_found(store, labels):
    (store.path / "0" / "0" / "0" / "0.abc.partial").write_bytes(b"x")
    (store.path.parent / ".brain.zarr.abc.partial").mkdir()
    assert np.array_equal(store.read(), labels)
    assert store.remove_leftovers() == 2 and os.listdir(store.path.parent) == ["brain.zarr"]


def most_frequent(values: np.ndarray) -> int:
    """By the words of the docstring: background only where nothing else is, the higher of equally frequent labels."""
    found, counts = np.unique(values[values > 0], return_counts=True)
    return int(found[counts == counts.max()].max()) if found.size else 0


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 2), (2, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "uint64"])
def test_pooled_labels_are_the_most_frequent_foreground(factors, dtype):
    random = np.random.default_rng(3)
    labels = (random.integers(0, 4, (5, 6, 7)) * random.integers(0, 2, (5, 6, 7))).astype(dtype)
    if dtype == "uint64":
        labels[labels > 0] += np.uint64(2**40)
    pooled = pool_labels(labels, factors)
    assert pooled.dtype == dtype
    for place in np.ndindex(pooled.shape):
        group = labels[tuple(slice(number * factor, (number + 1) * factor) for number, factor in zip(place, factors))]
        assert pooled[place] == most_frequent(group)


def test_pooled_images_are_means():
    image = np.random.default_rng(5).integers(0, 255, (2, 5, 6, 4)).astype(np.uint8)
    pooled = pool_means(image, (1, 2, 2))
    assert np.array_equal(pooled, np.rint(image.reshape(2, 5, 3, 2, 2, 2).mean(axis=(3, 5))).astype(np.uint8))
    assert np.array_equal(pool_means(np.full((3, 3, 3), 7.0, np.float16), (2, 2, 2)), np.full((2, 2, 2), 7.0, np.float16))


def test_block_wise_pyramid_equals_pooling_the_whole(store, labels):
    build_pyramid(store, progress=False)
    first = pool_labels(labels, (1, 2, 2))
    assert np.array_equal(store.read(level=1), first)
    assert np.array_equal(store.read(level=2), pool_labels(first, (2, 2, 2)))


def test_pyramid_of_channels(store):
    shares = np.random.default_rng(2).random((2, *SHAPE)).astype(np.float32)
    store.write(ALL, shares, "probabilities")
    build_pyramid(store, "probabilities", progress=False)
    assert np.array_equal(store.read(name="probabilities", level=1), pool_means(store.read(name="probabilities"), (1, 2, 2)))


def test_a_thin_oblique_axon_stays_connected_at_every_level(tmp_path):
    line = np.linspace((1, 3, 2), (126, 90, 120), 2000).astype(int)
    labels = np.zeros((128, 128, 128), np.uint8)
    labels[tuple(line.T)] = 1
    store = LabelStore.create(tmp_path / "x.zarr", StoreLayout(labels.shape, chunk=(16, 16, 16), classes={"background": 0, "axon": 1}))
    store.write(ALL, labels)
    for level in range(build_pyramid(store, progress=False)):
        coarse = store.read(level=level)
        assert ndimage.label(coarse, np.ones((3, 3, 3)))[1] == 1
        assert set(map(tuple, line >> level)) == set(map(tuple, np.argwhere(coarse)))


def test_long_voxels_are_not_halved_before_the_others_are_as_long():
    levels = level_sizes((100, 1000, 1000), (5.0, 1.0, 1.0), (64, 64, 64))
    assert levels[1] == ((100, 500, 500), (5.0, 2.0, 2.0)) and levels[2] == ((100, 250, 250), (5.0, 4.0, 4.0))
    assert levels[3] == ((50, 125, 125), (10.0, 8.0, 8.0)) and levels[-1][0] == (25, 63, 63)
    assert level_sizes((1, 300, 300), (1.0, 1.0, 1.0), (64, 64, 64))[-1][0] == (1, 38, 38)
    assert len(level_sizes((64, 64, 64), (9.0, 1.0, 1.0), (64, 64, 64))) == 1


def test_an_interrupted_pyramid_goes_on_where_it_was(tmp_path, monkeypatch):
    labels = np.random.default_rng(0).integers(0, 3, (128, 64, 64), dtype=np.uint8)
    store = LabelStore.create(tmp_path / "x.zarr", StoreLayout(labels.shape, chunk=(16, 16, 16), classes=CLASSES))
    store.write(ALL, labels)
    pooled = []

    def counting(array, factors, *, most):
        if len(pooled) == most:
            raise KeyboardInterrupt
        pooled.append(array.shape)
        return pool_labels(array, factors)

    monkeypatch.setattr(pyramid, "pool_labels", lambda array, factors: counting(array, factors, most=1))
    with pytest.raises(KeyboardInterrupt):
        build_pyramid(store, progress=False)
    assert not (store.path / "1").exists() and len(store.spacings()) == 1
    monkeypatch.setattr(pyramid, "pool_labels", lambda array, factors: counting(array, factors, most=10**6))
    levels = build_pyramid(store, progress=False)
    complete = len(pooled)
    assert sum(int(np.prod(shape)) for shape in pooled) == sum(store.read(level=level).size for level in range(levels - 1))
    build_pyramid(store, progress=False)
    assert len(pooled) == complete and len(store.spacings()) == levels
    assert np.array_equal(store.read(level=1), pool_labels(labels, (2, 2, 2)))
    assert {path.name for path in store.path.iterdir()} == {".zgroup", ".zattrs", *map(str, range(levels))}
