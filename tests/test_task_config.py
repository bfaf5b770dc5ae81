"""The task files of MTNeuro and the Kasthuri Challenge: accepted as they are, and refused in one sentence where they are wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_neuro.task_config import KASTHURI, MTNEURO, Box, channel_address, parse_task, read_task, tiles, with_gap
from nnunet_neuro.task_volumes import UNLABELLED, class_labels, foreground
from nnunet_neuro.volumes import open_volume
from tests.fake_sources import kasthuri, mtneuro

OFFICIAL = {**{name: (content, MTNEURO) for name, content in mtneuro.task_files().items()},
            **{name: (content, KASTHURI) for name, content in kasthuri.task_files().items()}}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_file_is_read_with_every_value(name, tmp_path):
    content, dialect = OFFICIAL[name]
    path = tmp_path / name
    path.write_text(json.dumps(content, indent=4))
    task = read_task(path, dialect)
    assert (task.name, task.image, task.annotation) == (content["name"], content["image_chan"], content["annotation_chan"])
    for part in ("train", "val", "test"):
        assert list(task.part(part)) == content[f"z_{part}"]
    for box, suffix in zip(task.boxes, dialect.boxes, strict=True):
        assert [list(box.x), list(box.y)] == [content[f"xrange_{suffix}"], content[f"yrange_{suffix}"]]
    assert list(task.z) == content.get("zrange", [0, 100])
    assert task.depth == content["volume_z"] and task.tile == (256, 256)
    assert task.kind == content.get("task_type")
    assert task.merge_axon == bool(content.get("combine_ax_and_bg")) and task.drop_zona_incerta == bool(content.get("noZI"))
    assert task.threshold == (0.1 if content.get("threshold") else None)
    assert [sentence.split()[1] for sentence in task.set_aside] == [key for key in content if key.startswith("encoder")]


def test_the_july_version_of_task3_is_read_too():
    content = {key: value for key, value in mtneuro.task_files()["task3.json"].items() if not key.startswith("encoder")}
    assert parse_task({**content, "z_train": [110, 379]}, MTNEURO, where="task3.json").train == (110, 379)


def test_tile_size_is_x_then_y():
    content = mtneuro.small_task("task2_2D_3class.json", tile_size=[16, 32])
    assert parse_task(content, MTNEURO, where="here").tile == (32, 16)


def test_a_region_can_be_left_out():
    content = mtneuro.task_files()["task1.json"]
    del content["xrange_stri"], content["yrange_stri"]
    assert [box.name for box in parse_task(content, MTNEURO, where="here").boxes] == ["cortex", "vp", "zi"]


WITHOUT = object()

BAD = {
    "unknown key": ({"z_tran": [0, 1]}, "unknown key z_tran"),
    "key of the other system": ({"threshold": True}, "unknown key threshold"),
    "missing key": ({"z_val": WITHOUT}, "lacks the key z_val"),
    "missing axis": ({"yrange_vp": WITHOUT}, "no yrange_vp"),
    "no region": ({f"{axis}range_{suffix}": WITHOUT for axis in "xy" for suffix in MTNEURO.boxes}, "names no cutout"),
    "name is a number": ({"name": 3}, "name of here is 3; expected a text"),
    "empty name": ({"name": " "}, "expected a text"),
    "channel without scheme": ({"image_chan": "prasad/prasad2020/image"}, "image_chan of here"),
    "channel with too few parts": ({"image_chan": "bossdb://prasad/image"}, "2 parts"),
    "channel with ranges": ({"annotation_chan": "bossdb://a/b/c?z=0:5"}, "resolution or ranges"),
    "channel with a resolution": ({"annotation_chan": "bossdb://a/b/c/1"}, "resolution or ranges"),
    "channel is a list": ({"image_chan": ["bossdb://a/b/c"]}, "image_chan of here is"),
    "range of three": ({"z_train": [0, 1, 2]}, "two integers"),
    "range of texts": ({"zrange": ["110", "471"]}, "two integers"),
    "range of floats": ({"z_train": [110.0, 379.0]}, "two integers"),
    "range of booleans": ({"z_train": [False, True]}, "two integers"),
    "range is null": ({"xrange_vp": None}, "two integers"),
    "negative bound": ({"xrange_cor": [-1, 255]}, "no negative bound"),
    "reversed range": ({"z_test": [470, 420]}, "smaller bound first"),
    "empty range": ({"z_test": [420, 420]}, "smaller bound first"),
    "train and val overlap": ({"z_val": [370, 409]}, r"z_train \[110, 379\] and z_val \[370, 409\] of here overlap"),
    "val and test overlap": ({"z_test": [408, 470]}, "z_val .* and z_test .* overlap"),
    "train and test overlap": ({"z_test": [200, 240]}, "z_train .* and z_test .* overlap"),
    "part leaves the cutout": ({"z_test": [420, 472]}, r"z_test \[420, 472\] of here leaves zrange \[110, 471\]"),
    "part begins before the cutout": ({"z_train": [100, 379]}, "leaves zrange"),
    "volume_z is zero": ({"volume_z": 0}, "volume_z of here is 0; expected a positive integer"),
    "volume_z is a fraction": ({"volume_z": 1.5}, "positive integer"),
    "volume_z is true": ({"volume_z": True}, "positive integer"),
    "volume_z beyond a part": ({"volume_z": 30}, "z_val of here has 29 planes"),
    "tile of one number": ({"tile_size": 256}, "two positive integers"),
    "tile of zero": ({"tile_size": [256, 0]}, "two positive integers"),
    "tile does not divide": ({"tile_size": [256, 100]}, "tile_size of here is 100 along y"),
    "tile larger than the cutout": ({"tile_size": [512, 256]}, "tile_size of here is 512 along x"),
    "unknown task_type": ({"task_type": "4class"}, "one of 3class, noZI, normal"),
    "flag is two": ({"noZI": 2}, "noZI of here is 2; expected 0 or 1"),
    "flag is a text": ({"noZI": "no"}, "expected 0 or 1"),
    "3class with axons": ({"combine_ax_and_bg": 0}, "task_type 3class of here means combine_ax_and_bg 1"),
    "noZI with axons as background": ({"task_type": "noZI", "noZI": 1}, "means combine_ax_and_bg 0"),
    "noZI with the zona incerta": ({"task_type": "noZI", "combine_ax_and_bg": 0}, "means noZI 1"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_file_is_refused_in_one_sentence(what):
    changes, message = BAD[what]
    content = {key: value for key, value in (mtneuro.task_files()["task2_2D_3class.json"] | changes).items() if value is not WITHOUT}
    with pytest.raises(ValueError, match=message) as error:
        parse_task(content, MTNEURO, where="here")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


BAD_KASTHURI = {
    "no threshold value": ({"threshold": True}, "no threshold_value"),
    "threshold value is a text": ({"threshold_value": "0.1"}, "expected a number"),
    "threshold value is true": ({"threshold_value": True}, "expected a number"),
    "labels of the other class": ({"annotation_chan": "bossdb://Kasthuri/ac4/synapse"}, "task_type of here is membrane, but"),
    "key of MTNeuro": ({"zrange": [0, 100]}, "unknown key zrange"),
    "no task_type": ({"task_type": WITHOUT}, "lacks the key task_type"),
}


@pytest.mark.parametrize("what", BAD_KASTHURI)
def test_bad_file_of_kasthuri_is_refused(what):
    changes, message = BAD_KASTHURI[what]
    content = {key: value for key, value in (kasthuri.task_files()["membrane_task.json"] | changes).items() if value is not WITHOUT}
    with pytest.raises(ValueError, match=message):
        parse_task(content, KASTHURI, where="here")


def test_file_of_the_other_system_says_whose_it_is():
    with pytest.raises(ValueError, match="task file of the Kasthuri Challenge.*nnneuro_convert kasthuri"):
        parse_task(kasthuri.task_files()["membrane_task.json"], MTNEURO, where="here")
    with pytest.raises(ValueError, match="task file of MTNeuro.*nnneuro_convert mtneuro"):
        parse_task(mtneuro.task_files()["task1.json"], KASTHURI, where="here")


@pytest.mark.parametrize(("text", "message"), [
    ("{", "no JSON: .* in line 1"),
    ("[1, 2]", "expected a JSON object"),
    ('{"name": "a", "name": "b"}', "the key name twice"),
    ("\x00\x01", "no JSON"),
    ("", "no JSON"),
])
def test_file_that_is_no_task(tmp_path, text, message):
    path = tmp_path / "task.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_task(path, MTNEURO)


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "task.json"
    path.write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        read_task(path, MTNEURO)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no task file"):
        read_task(tmp_path / "task.json", MTNEURO)


def test_channel_address_in_one_spelling():
    assert channel_address("bossdb://Kasthuri/ac4/em/") == channel_address("bossdb://Kasthuri/ac4/em/0") == "bossdb://Kasthuri/ac4/em"


# --- geometry ----------------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40))
def test_tiles_cover_every_pixel_once(rows, columns, height, width):
    box = Box("here", y=(7, 7 + rows * height), x=(3, 3 + columns * width))
    covered = np.zeros(box.shape, int)
    for y, x in tiles(box, (height, width)):
        covered[y : y + height, x : x + width] += 1
    assert (covered == 1).all()


@given(st.permutations(["train", "val", "test"]), st.lists(st.integers(12, 40), min_size=3, max_size=3),
       st.lists(st.integers(0, 4), min_size=2, max_size=2), st.integers(0, 5))
def test_gap_leaves_planes_between_parts_and_test_alone(order, lengths, spaces, gap):
    parts, z = {}, 110
    for name, length, space in zip(order, lengths, [*spaces, 0]):
        parts[f"z_{name}"] = [z, z + length]
        z += length + space
    task = parse_task(mtneuro.small_task("task2_2D_3class.json", **parts), MTNEURO, where="here")
    apart = with_gap(task, gap)
    for name in ("train", "val", "test"):
        first, stop = apart.part(name)
        assert task.part(name)[0] <= first < stop <= task.part(name)[1]
        for other in {"train", "val", "test"} - {name}:
            assert apart.part(other)[0] - stop >= gap or first - apart.part(other)[1] >= gap
    assert apart.test == task.test


def test_gap_that_leaves_nothing():
    task = parse_task(kasthuri.task_files()["membrane_task.json"], KASTHURI, where="here")
    with pytest.raises(ValueError, match="a gap of 10 planes leaves nothing of z_val"):
        with_gap(task, 10)


# --- labels ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    def save(array: np.ndarray):
        np.save(tmp_path / "labels.npy", array)
        return open_volume(tmp_path / "labels.npy")

    return save


def test_class_labels_of_any_region_equal_those_of_the_whole(saved):
    array = np.random.default_rng(0).integers(0, 9, (6, 5, 4)).astype(np.uint64)
    labels = class_labels(saved(array), {1, 4})
    whole = labels.read()
    assert whole.dtype == np.uint8 and (whole[[1, 4]] == UNLABELLED).all()
    np.testing.assert_array_equal(whole[[0, 2, 3, 5]], array[[0, 2, 3, 5]])
    np.testing.assert_array_equal(labels.crop((slice(3, 6), slice(1, 4), slice(0, 2))).read(), whole[3:6, 1:4, 0:2])
    np.testing.assert_array_equal(labels.plane(4).read(), whole[4])
    np.testing.assert_array_equal(labels.plane(3).crop((slice(1, 3), slice(2, 4))).read(), whole[3, 1:3, 2:4])


@pytest.mark.parametrize("value", [255, 2**40, -1])
def test_ids_are_no_class_labels(saved, value):
    array = np.zeros((2, 3, 3), np.int64)
    array[1, 1, 1] = value
    with pytest.raises(ValueError, match=f"hold the value {value}"):
        class_labels(saved(array)).read()


@pytest.mark.parametrize(("values", "threshold", "expected"), [
    (np.array([0, 1, 1], np.uint64), None, [0, 1, 1]),
    (np.array([0, 1, 0], np.float32), None, [0, 1, 0]),
    (np.array([0.05, 0.1, 0.11], np.float64), 0.1, [0, 0, 1]),
    (np.array([0, 255, 128], np.uint8), 128, [0, 1, 0]),
    (np.array([0, 7, 2**40], np.uint64), 0.1, [0, 1, 1]),
    (np.array([False, True, True]), None, [0, 1, 1]),
])
def test_foreground(saved, values, threshold, expected):
    mask = foreground(saved(values.reshape(1, 1, 3)), threshold, advice="")
    assert mask.dtype == mask.read().dtype == np.uint8
    assert mask.read().ravel().tolist() == expected


@pytest.mark.parametrize("values", [[0, 255], [0, 2], [0, 0.5], [0, -1]])
def test_foreground_without_threshold_wants_zero_and_one(saved, values):
    with pytest.raises(ValueError, match="hold the value .*, expected 0 and 1 without a threshold; do this"):
        foreground(saved(np.array(values).reshape(1, 1, 2)), None, advice="do this").read()


def test_foreground_of_nan(saved):
    with pytest.raises(ValueError, match="hold NaN"):
        foreground(saved(np.array([0, np.nan]).reshape(1, 1, 2)), 0.1, advice="").read()
