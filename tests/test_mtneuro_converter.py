"""`nnneuro_convert mtneuro`: regions, parts, classes and read-out of MTNeuro, from a BossDB on loopback and from saved arrays."""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.convert import main
from nnunet_neuro.converters import load_converter
from nnunet_neuro.raw_dataset import Case
from nnunet_neuro.task_volumes import note
from tests.boss_server import BossServer
from tests.fake_sources.mtneuro import (
    AREAS,
    IMAGE,
    PIXELS,
    PLANES,
    REGIONS,
    SIDE,
    add,
    areas,
    grey,
    options,
    serve,
    small_task,
    task_files,
    tissue,
    write_source,
    write_task,
)

mtneuro = load_converter("mtneuro")
NAME_OF = {"cor": "cortex", "stri": "striatum", "vp": "vp", "zi": "zi"}
SEGMENTATION = {"2d-3class": "task2_2D_3class.json", "2d-4class": "task2_2D_4class.json", "3d-3class": "task2_3D_3class.json",
                "3d-4class": "task2_3D_4class.json"}
FILES = {**SEGMENTATION, "regions": "task1.json", "readout": "task3.json"}


@pytest.fixture(scope="module", autouse=True)
def no_proxy():
    """A proxy of the environment shall not stand before the loopback service."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1")
        yield


@pytest.fixture(autouse=True)
def notes_are_said_again():
    """A process says a note once; a test is to hear it although another one did."""
    note.cache_clear()


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Chunks shared by the tests of this module, as by the runs of a user."""
    return tmp_path_factory.mktemp("chunks")


@pytest.fixture
def boss(tmp_path):
    """An empty service of its own, with the options for it."""
    with BossServer() as server:
        server.options = ["--bossdb-host", server.address, "--cache", str(tmp_path / "own_chunks")]
        yield server


def parsed(*words: str) -> argparse.Namespace:
    """The options as the command parses them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    mtneuro.add_arguments(parser)
    parser.add_argument("--variant", choices=mtneuro.VARIANTS, default=next(iter(mtneuro.VARIANTS)))
    parser.add_argument("--name", default=mtneuro.DEFAULT_NAME)
    return parser.parse_args(words)


def cases_of(*words: str) -> dict[str, Case]:
    """The cases by identifier."""
    return {case.identifier: case for case in mtneuro.cases(parsed(*words))}


def info_of(*words: str):
    return mtneuro.dataset_info(parsed(*words))


@pytest.fixture
def task(tmp_path, cache):
    """(file name, changes) -> the options for such a task file with small cutouts at the real coordinates."""

    def write(file_name: str, **changes) -> list[str]:
        return ["--task-config", str(write_task(tmp_path / "tasks", small_task(file_name, **changes))), *options(cache)]

    return write


def labels_in_dataset(case: Case) -> np.ndarray:
    """What the writer writes."""
    raw = case.label.read()
    mapped = np.zeros_like(raw)
    for value in np.unique(raw):
        mapped[raw == value] = case.label_values[int(value)]
    return mapped


def expected_pixels(suffix: str, z: int) -> np.ndarray:
    return tissue(suffix)[z - PLANES[0]]


# --- official tasks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "counts"), [
    ("2d-3class", (1076, 116, 200)), ("2d-4class", (807, 87, 150)), ("3d-3class", (4, 4, 4)), ("3d-4class", (3, 3, 3)),
    ("regions", (1076, 116, 200)), ("readout", (5760, 0, 0)),
])
def test_official_task_has_the_official_parts(task, variant, counts):
    words = task(FILES[variant])
    found = cases_of(*words)
    split = Counter(case.split for case in found.values())
    assert tuple(split[part] for part in ("train", "val", "test")) == counts
    assert mtneuro._plan(parsed(*words)).variant == variant
    for case in found.values():
        first = case.notes.get("first_plane", case.notes.get("plane"))
        stop = first + case.notes.get("planes", 1)
        low, high = {"train": (110, 470 if variant == "readout" else 379), "val": (380, 409), "test": (420, 470)}[case.split]
        assert low <= first < stop <= high


@pytest.mark.parametrize("variant", mtneuro.VARIANTS)
def test_built_in_task_is_the_official_file(variant, tmp_path):
    path = write_task(tmp_path, task_files()[FILES[variant]])
    built_in, read = (mtneuro._plan(parsed(*words)) for words in (["--variant", variant], ["--task-config", str(path)]))
    assert (built_in.variant, built_in.boxes, built_in.parts, built_in.task.tile, built_in.task.image, built_in.task.annotation) == \
        (read.variant, read.boxes, read.parts, read.task.tile, read.task.image, read.task.annotation)
    assert built_in.task.merge_axon == read.task.merge_axon


def test_first_task2_json_has_all_classes_and_regions(task):
    found = cases_of(*task("task2.json"))
    assert {case.notes["region"] for case in found.values()} == set(NAME_OF.values()) and len(found) == 1076 + 116 + 200
    assert list(info_of(*task("task2.json")).labels) == ["background", "vessel", "cell", "axon"]


@pytest.mark.parametrize("variant", SEGMENTATION)
def test_voxels_and_classes(task, variant):
    found = cases_of(*task(SEGMENTATION[variant]))
    classes = info_of(*task(SEGMENTATION[variant])).labels
    merged = variant.endswith("3class")
    assert list(classes) == ["background", "vessel", "cell", *([] if merged else ["axon"])]
    for suffix in ("cor", "vp"):
        if variant.startswith("3d"):
            case = found[f"{NAME_OF[suffix]}_val"]
            raw = tissue(suffix)[380 - PLANES[0] : 409 - PLANES[0]]
        else:
            case = found[f"{NAME_OF[suffix]}_z385"]
            raw = expected_pixels(suffix, 385)
        np.testing.assert_array_equal(labels_in_dataset(case), np.where(raw == 3, 0, raw) if merged else raw)
        image = grey(tissue(suffix))
        np.testing.assert_array_equal(case.channels[0].read(),
                                      image[380 - PLANES[0] : 409 - PLANES[0]] if variant.startswith("3d") else image[385 - PLANES[0]])
        assert case.spacing == (1.17,) * len(image.shape if variant.startswith("3d") else image.shape[1:])


def test_volume_never_straddles_two_regions(task):
    for identifier, case in cases_of(*task("task2_3D_3class.json")).items():
        suffix = next(s for s, name in NAME_OF.items() if name == case.notes["region"])
        first = case.notes["first_plane"] - PLANES[0]
        np.testing.assert_array_equal(case.label.read(), tissue(suffix)[first : first + case.notes["planes"]], err_msg=identifier)
        assert case.group == f"{case.notes['region']}/{case.split}"


def test_no_group_is_in_two_parts(task):
    for file_name in ("task2_2D_4class.json", "task2_3D_3class.json"):
        parts = {}
        for case in cases_of(*task(file_name)).values():
            parts.setdefault(case.group, set()).add(case.split)
        assert all(len(found) == 1 for found in parts.values())


def test_gap_is_taken_from_train(task):
    found = cases_of(*task("task2_3D_3class.json"), "--gap", "10")
    assert (found["vp_train"].notes["planes"], found["vp_val"].notes["planes"]) == (260, 29)


def test_tiles_cut_the_plane(task):
    found = cases_of(*task("task2_2D_3class.json", tile_size=[SIDE // 2, SIDE]))
    assert len(found) == 2 * (1076 + 116 + 200)
    tile = found[f"zi_z300_y0_x{SIDE // 2}"]
    np.testing.assert_array_equal(tile.label.read(), expected_pixels("zi", 300)[:, SIDE // 2 :])


# --- what is unlabelled ------------------------------------------------------------------------------------------------------------


def test_unlabelled_test_planes_become_ignore(task):
    found = cases_of(*task("task1.json"))
    classes = info_of(*task("task1.json")).labels
    assert list(classes)[-1] == "ignore" and classes["ignore"] == 9
    for name in NAME_OF.values():
        for z in (459, 460, 469):
            case = found[f"{name}_z{z}"]
            assert (labels_in_dataset(case) == 9).all() == (z >= 460)
            assert (case.notes["area"] is None) == (z >= 460)


def test_unlabelled_pixel_planes_become_ignore_where_the_data_say_so(boss, tmp_path):
    labels = tissue("vp").copy()
    labels[462 - PLANES[0] :] = 0
    labels[300 - PLANES[0]] = 0  # before 460 a plane without labels is taken as it is
    offset = (PLANES[0], *REGIONS["vp"][0])
    add(boss, IMAGE, grey(labels), offset)
    add(boss, PIXELS, labels.astype(np.uint64), offset)
    words = ["--task-config", str(write_task(tmp_path, only("vp", "task2_2D_3class.json"))), *boss.options]
    found = cases_of(*words)
    assert [z for z in range(420, 470) if (labels_in_dataset(found[f"vp_z{z}"]) == 3).all()] == list(range(462, 470))
    assert (labels_in_dataset(found["vp_z300"]) == 0).all()
    assert "vp_z300" not in cases_of(*words, "--unlabelled-from", "300")


def only(suffix: str, file_name: str, **changes) -> dict:
    """A small task of one region."""
    content = small_task(file_name, **changes)
    return {key: value for key, value in content.items() if "range_" not in key or key.endswith(f"_{suffix}")}


def test_doubtful_planes_are_named(boss, tmp_path, capsys):
    labels = tissue("vp").copy()
    labels[300 - PLANES[0]] = 0
    offset = (PLANES[0], *REGIONS["vp"][0])
    add(boss, IMAGE, grey(labels), offset)
    add(boss, PIXELS, labels.astype(np.uint64), offset)
    cases_of("--task-config", str(write_task(tmp_path, only("vp", "task2_2D_3class.json"))), *boss.options)
    assert "planes of vp without any label, taken as background: 1, the first at z 300" in capsys.readouterr().err


def test_human_planes_only_in_2d(task):
    found = cases_of(*task("task2_2D_3class.json"), "--human-only")
    planes = {split: sorted({case.notes["plane"] for case in found.values() if case.split == split}) for split in ("train", "val")}
    assert planes == {"train": list(range(140, 379, 30)), "val": [380]}
    test = {z: labels_in_dataset(found[f"cortex_z{z}"]) for z in range(420, 470)}
    assert [z for z, labels in test.items() if not (labels == 3).any()] == [440]
    assert all((labels == 3).all() for z, labels in test.items() if z != 440)
    assert found["vp_z200"].notes["human"] and not found["vp_z441"].notes["human"]


def test_human_planes_only_in_3d(task):
    found = cases_of(*task("task2_3D_4class.json"), "--human-only")
    labels = labels_in_dataset(found["striatum_train"])
    kept = [z + 110 for z in range(labels.shape[0]) if (labels[z] != 4).any()]
    assert kept == list(range(140, 379, 30))
    np.testing.assert_array_equal(labels[200 - 110], expected_pixels("stri", 200))
    assert (labels[201 - 110] == 4).all()


def test_human_areas_are_cross_validated_over_planes(task):
    found = cases_of(*task("task1.json"), "--human-only")
    train = [case for case in found.values() if case.split != "test"]
    assert {case.split for case in train} == {"train"} and {case.notes["plane"] for case in train} == {159, 209, 259, 309, 359}
    groups = {case.notes["plane"]: case.group for case in train}
    assert len(set(groups.values())) == 5 and all(case.group == groups[case.notes["plane"]] for case in train)


# --- areas and read-out ------------------------------------------------------------------------------------------------------------


def test_area_of_tile_and_of_voxel(task):
    nine, four = (cases_of(*task("task1.json"), "--areas", areas) for areas in ("9", "4"))
    for suffix, area in (("cor", "CTX"), ("stri", "STR"), ("vp", "VP"), ("zi", "ZI")):
        raw = areas(suffix)[200 - PLANES[0]]
        identifier = f"{NAME_OF[suffix]}_z200"
        assert nine[identifier].notes["area"] == four[identifier].notes["area"] == area
        np.testing.assert_array_equal(labels_in_dataset(nine[identifier]), raw)
        assert (labels_in_dataset(four[identifier])[raw == 6] == 4).all()
    assert list(info_of(*task("task1.json"), "--areas", "4").labels) == ["background", "CTX", "STR", "VP", "ZI", "ignore"]
    assert nine["vp_z200"].notes["most_frequent_area"] == "VP"


def test_clear_is_background_per_voxel_and_cortex_per_tile(boss, tmp_path):
    labels = np.zeros((PLANES[1] - PLANES[0], SIDE, SIDE), np.uint8)
    labels[:, :4] = 1
    offset = (PLANES[0], *REGIONS["cor"][0])
    add(boss, IMAGE, grey(np.zeros_like(labels)), offset)
    add(boss, AREAS, labels.astype(np.uint64), offset)
    case = cases_of("--task-config", str(write_task(tmp_path, only("cor", "task1.json"))), *boss.options, "--areas", "4")["cortex_z120"]
    assert case.notes["area"] == "CTX" and case.notes["most_frequent_area"] == "clear"
    np.testing.assert_array_equal(labels_in_dataset(case), labels[0])


def test_quadrants_and_their_features(task):
    found = cases_of(*task("task3.json"))
    half = SIDE // 2
    corners = {"TL": (0, 0), "TR": (0, half), "BL": (half, 0), "BR": (half, half)}
    for name, (y, x) in corners.items():
        case = found[f"zi_z333_{name}"]
        raw = expected_pixels("zi", 333)[y : y + half, x : x + half]
        np.testing.assert_array_equal(case.label.read(), raw)
        assert case.notes["vessel_fraction"] == pytest.approx((raw == 1).mean())
        assert case.notes["axon_fraction"] == pytest.approx((raw == 3).mean())
    counts = [case.notes["cell_count"] for case in found.values()]
    assert 0 in counts and max(counts) > 1
    for case in found.values():
        assert (case.notes["cell_distance_um"] is None) == (case.notes["cell_count"] < 2)
        assert (case.notes["cell_area_um2"] is None) == (case.notes["cell_count"] < 1)
        if case.notes["cell_count"]:
            pixels = np.count_nonzero(case.label.read() == 2)
            assert case.notes["cell_area_um2"] * case.notes["cell_count"] == pytest.approx(pixels * 1.17**2)
        if case.notes["plane"] > 130:
            break


def test_readout_is_cross_validated_in_blocks(task):
    group_of, planes_of = {}, {}
    for case in cases_of(*task("task3.json")).values():
        assert group_of.setdefault(case.notes["plane"], case.group) == case.group
        planes_of.setdefault(case.group, set()).add(case.notes["plane"])
    assert sorted(len(planes) for planes in planes_of.values()) == [72] * 5
    assert all(max(planes) - min(planes) == 71 for planes in planes_of.values())


def test_readout_sets_aside_the_encoder_by_name(boss, tmp_path, capsys):
    serve(boss, suffixes=("vp",), with_areas=False)
    cases_of("--task-config", str(write_task(tmp_path, only("vp", "task3.json"))), *boss.options)
    said = capsys.readouterr().err
    assert "key encoder_type of" in said and "key encoder_path of" in said


# --- numbering of the labels -------------------------------------------------------------------------------------------------------


RENUMBERED = {"mtneuro": [0, 1, 2, 3], "xray-thc-readme": [0, 2, 1, 3], "xray-thc-masks": [0, 2, 3, 1]}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Services whose labels are numbered in the three ways, with the options for each."""
    servers, words = [], {}
    for name, values in RENUMBERED.items():
        servers.append(BossServer().__enter__())
        for suffix in ("cor", "vp"):
            offset = (PLANES[0], *REGIONS[suffix][0])
            labels = tissue(suffix)
            add(servers[-1], IMAGE, grey(labels), offset)
            add(servers[-1], PIXELS, np.array(values, np.uint64)[labels], offset)
        folder = tmp_path_factory.mktemp("numbered")
        content = small_task("task2_3D_4class.json")
        content = {key: value for key, value in content.items() if not key.endswith(("_stri", "_zi"))}
        words[name] = ["--task-config", str(write_task(folder, content)), "--bossdb-host", servers[-1].address, "--cache", str(folder)]
    yield words
    for server in servers:
        server.stop()


@pytest.mark.parametrize("chosen", RENUMBERED)
@pytest.mark.parametrize("true", RENUMBERED)
def test_numbering_that_contradicts_the_labels_is_refused_and_the_right_one_named(numbered, true, chosen):
    words = [*numbered[true], "--label-map", chosen]
    if true == chosen:
        found = cases_of(*words)
        np.testing.assert_array_equal(labels_in_dataset(found["vp_val"]), tissue("vp")[380 - PLANES[0] : 409 - PLANES[0]])
        return
    with pytest.raises(ValueError, match=f"contradict --label-map {chosen}.*--label-map {true} fits") as error:
        cases_of(*words)
    assert "\n" not in str(error.value)


def test_contradiction_can_be_overruled(numbered, capsys):
    assert cases_of(*numbered["mtneuro"], "--label-map", "xray-thc-masks", "--skip-label-check")
    assert "contradict --label-map xray-thc-masks" in capsys.readouterr().err


def test_labels_that_no_numbering_fits(boss, tmp_path):
    labels = np.where(np.random.default_rng(0).random((PLANES[1] - PLANES[0], SIDE, SIDE)) < 0.3, 2, 0)
    offset = (PLANES[0], *REGIONS["cor"][0])
    add(boss, IMAGE, grey(np.zeros_like(labels)), offset)
    add(boss, PIXELS, labels.astype(np.uint64), offset)
    with pytest.raises(ValueError, match="no known label map fits"):
        cases_of("--task-config", str(write_task(tmp_path, only("cor", "task2_2D_3class.json"))), *boss.options)


def test_few_planes_do_not_tell_vessels_from_cells(task, capsys):
    cases_of(*task("task2_2D_3class.json", z_train=[140, 160], z_test=[440, 450]))
    assert "vessels and cells could not be told apart" in capsys.readouterr().err


def test_unknown_label_value_names_its_place(boss, tmp_path):
    labels = tissue("vp").copy()
    labels[200 - PLANES[0], 3, 3] = 7
    offset = (PLANES[0], *REGIONS["vp"][0])
    add(boss, IMAGE, grey(np.zeros_like(labels)), offset)
    add(boss, PIXELS, labels.astype(np.uint64), offset)
    with pytest.raises(ValueError, match=r"hold the value 7 in vp \(plane 200\), expected 0 to 3"):
        cases_of("--task-config", str(write_task(tmp_path, only("vp", "task2_2D_3class.json"))), *boss.options)


# --- options -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file_name", "changes", "words", "message"), [
    ("task2_2D_3class.json", {}, ["--variant", "3d-4class"], "describes the variant 2d-3class, but 3d-4class is asked for"),
    ("task1.json", {"volume_z": 8}, [], "variant regions is flat; expected 1"),
    ("task3.json", {"volume_z": 8}, ["--variant", "readout"], "variant readout is flat; expected 1"),
    ("task1.json", {"task_type": "3class", "combine_ax_and_bg": 1}, [], "has area labels .* but classes of pixels"),
    ("task3.json", {}, ["--variant", "2d-4class"], "z_train .* and z_val .* overlap"),
    ("task3.json", {"tile_size": [1, 1]}, [], "expected even numbers for quadrants"),
    ("task2_2D_3class.json", {}, ["--gap", "-1"], "--gap and --unlabelled-from count planes"),
    ("task2_2D_3class.json", {}, ["--gap", "400"], "a gap of 400 planes leaves nothing"),
])
def test_contradictory_options_are_refused(task, file_name, changes, words, message):
    with pytest.raises(ValueError, match=message):
        cases_of(*task(file_name, **changes), *words)


def test_other_channels(boss, tmp_path):
    labels = tissue("vp")
    offset = (PLANES[0], *REGIONS["vp"][0])
    add(boss, "mylab/scan/grey", grey(labels), offset)
    add(boss, "mylab/scan/corrected", labels.astype(np.uint64), offset)
    words = ["--task-config", str(write_task(tmp_path, only("vp", "task2_2D_3class.json"))), *boss.options,
             "--image-channel", "bossdb://mylab/scan/grey", "--label-channel", "bossdb://mylab/scan/corrected"]
    assert len(cases_of(*words)) == 269 + 29 + 50
    assert info_of(*words).sources == ("bossdb://mylab/scan/grey", "bossdb://mylab/scan/corrected")


def test_channel_with_ranges_is_refused(capsys):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed("--image-channel", "bossdb://a/b/c?z=0:1")


def test_another_voxel_size_is_said(boss, tmp_path, capsys):
    labels = tissue("vp")
    for path, array in ((IMAGE, grey(labels)), (PIXELS, labels.astype(np.uint64))):
        boss.add_channel(path, array, (PLANES[0], *REGIONS["vp"][0]), voxel_size=(1000, 1000, 1000))
    found = cases_of("--task-config", str(write_task(tmp_path, only("vp", "task2_3D_3class.json"))), *boss.options)
    assert found["vp_val"].spacing == (1.17,) * 3 and "states a voxel size of (1.0, 1.0, 1.0)" in capsys.readouterr().err


def test_place_outside_the_labelled_tissue_is_refused(task):
    with pytest.raises(ValueError, match="zero everywhere"):
        cases_of(*task("task2_2D_3class.json", xrange_vp=[100, 132], yrange_vp=[100, 132]))


# --- saved arrays ------------------------------------------------------------------------------------------------------------------


def save_arrays(folder: Path, content: dict) -> Path:
    """What MTNeuro's scripts leave behind: per part the cutouts of all regions one after another."""
    folder.mkdir(exist_ok=True)
    for part in ("train", "val", "test"):
        first, stop = (z - PLANES[0] for z in content[f"z_{part}"])
        labels = np.concatenate([tissue(suffix)[first:stop] for suffix in REGIONS])
        np.save(folder / f"{content['name']}{part}images.npy", grey(labels))
        np.save(folder / f"{content['name']}{part}labels.npy", labels.astype(np.uint64))
    return folder


@pytest.mark.parametrize("file_name", ["task2_2D_3class.json", "task2_3D_4class.json", "task3.json"])
def test_saved_arrays_give_what_bossdb_gives(task, tmp_path, file_name):
    from_boss = cases_of(*task(file_name))
    folder = save_arrays(tmp_path / "saved", small_task(file_name))
    local = cases_of(*task(file_name), "--local", str(folder))
    assert local.keys() == from_boss.keys()
    for identifier in list(local)[:: max(1, len(local) // 9)]:
        np.testing.assert_array_equal(local[identifier].label.read(), from_boss[identifier].label.read())
        assert local[identifier].channels[0].shape == from_boss[identifier].channels[0].shape
        assert local[identifier].notes == from_boss[identifier].notes and local[identifier].group == from_boss[identifier].group


def test_files_of_single_cutouts(task, tmp_path):
    folder = tmp_path / "cutouts"
    folder.mkdir()
    for suffix, name in NAME_OF.items():
        tifffile.imwrite(folder / f"{name}_image.tif", grey(tissue(suffix)), photometric="minisblack")
        np.save(folder / f"{name}_labels.npy", tissue(suffix).astype(np.uint16))
    found = cases_of(*task("task2_3D_3class.json"), "--local", str(folder), "--gap", "5")
    np.testing.assert_array_equal(found["zi_val"].label.read(), tissue("zi")[380 - PLANES[0] : 409 - PLANES[0]])
    assert info_of(*task("task2_3D_3class.json"), "--local", str(folder)).sources == (str(folder),)


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (lambda folder: None, FileNotFoundError, "no folder"),
    (lambda folder: folder.mkdir(), FileNotFoundError, "expected task2_2D_3classtrainimages.npy or cortex_image.tif.*found no .npy file"),
    (lambda folder: save_arrays(folder, small_task("task2_2D_4class.json")), FileNotFoundError, "found task2_2D_4classtestimages.npy"),
    (lambda folder: save_arrays(folder, small_task("task2_2D_3class.json", z_train=[110, 370])), ValueError, "has shape .* expected"),
])
def test_saved_arrays_that_do_not_fit(task, tmp_path, spoil, error, message):
    spoil(tmp_path / "saved")
    with pytest.raises(error, match=message):
        cases_of(*task("task2_2D_3class.json"), "--local", str(tmp_path / "saved"))


def test_readout_from_arrays_of_parts_is_refused(task, tmp_path):
    content = small_task("task3.json", z_train=[110, 379])
    folder = save_arrays(tmp_path / "saved", content)
    with pytest.raises(FileNotFoundError, match="planes 110 to 470 are in no single part of task task3"):
        cases_of(*task("task3.json", z_train=[110, 379]), "--local", str(folder))


# --- the command -------------------------------------------------------------------------------------------------------------------


def test_command_writes_parts_table_and_splits(nnunet_folders, task):
    words = task("task3.json", zrange=[300, 310], z_train=[300, 310], z_val=[300, 303], z_test=[305, 310])
    assert main(["mtneuro", *words]) == 0
    dataset = nnunet_folders.raw / "Dataset702_MTNeuro"
    with (dataset / "cases.csv").open(newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 4 * 4 * 10
    empty = [row for row in rows.values() if row["cell_count"] == "0"]
    assert empty and all(row["cell_distance_um"] == row["cell_area_um2"] == "" for row in empty)
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert len(folds) == 5 and all(len(fold["val"]) == 2 * 16 for fold in folds)


def test_official_split_is_the_only_fold(nnunet_folders, task):
    words = task("task2_2D_3class.json", z_train=[140, 150], z_val=[151, 154], z_test=[440, 442])
    assert main(["mtneuro", *words]) == 0
    dataset = nnunet_folders.raw / "Dataset702_MTNeuro"
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert len(folds) == 1 and {name[-3:] for name in folds[0]["val"]} == {"151", "152", "153"} and len(folds[0]["train"]) == 40
    assert len(list((dataset / "imagesTs").iterdir())) == len(list((dataset / "labelsTs").iterdir())) == 8


def test_command_refuses_in_one_sentence(nnunet_folders, task, capsys):
    assert main(["mtneuro", *task("task2_2D_3class.json", tile_size=[5, 5])]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "does not divide" in said[-1] and not list(nnunet_folders.raw.iterdir())


def test_second_run_asks_bossdb_for_nothing(nnunet_folders, tmp_path):
    from tests.fake_sources.mtneuro import server

    words = write_source(tmp_path / "source")
    assert main(["mtneuro", *words]) == 0
    asked = len(server().requests)
    mtneuro._inspect.cache_clear()
    assert main(["mtneuro", *words]) == 0
    assert len(server().requests) == asked


@pytest.mark.slow
def test_whole_cutout_with_the_official_ranges(nnunet_folders, tmp_path, boss):
    """256 x 256 pixels and 348 planes of one region."""
    serve(boss, side=256, suffixes=("vp",), with_areas=False)
    content = {key: value for key, value in task_files()["task2_3D_4class.json"].items() if not key.endswith(("_cor", "_stri", "_zi"))}
    assert main(["mtneuro", "--task-config", str(write_task(tmp_path, content)), *boss.options]) == 0
    dataset = nnunet_folders.raw / "Dataset702_MTNeuro"
    labels = tissue("vp", side=256)
    for folder, part, (first, stop) in (("Tr", "train", (0, 269)), ("Tr", "val", (270, 299)), ("Ts", "test", (310, 360))):
        np.testing.assert_array_equal(tifffile.imread(dataset / f"labels{folder}" / f"vp_{part}.tif"), labels[first:stop])
        np.testing.assert_array_equal(tifffile.imread(dataset / f"images{folder}" / f"vp_{part}_0000.tif"), grey(labels)[first:stop])


# --- real data ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(shared_data, boss, tmp_path):
    """(numbering) -> options for a task of the tile of VP that people labelled in four planes."""
    folder = shared_data / "xray_mtneuro"
    cube = json.loads((folder / "coordinates.json").read_text())["2"]
    offset = (cube["z0"], cube["y0"], cube["x0"])
    image = tifffile.imread(folder / "sparse_3d" / "images" / "cube2_z180-304.tif")
    labels = tifffile.imread(folder / "sparse_3d" / "labels" / "cube2_z180-304.tif")
    labels[labels == 4] = 0  # BossDB has no value for unlabelled
    ys, xs = np.nonzero(labels.any(axis=0))

    def options_of(file_name: str, numbering: str = "mtneuro") -> list[str]:
        add(boss, IMAGE, image, offset)
        add(boss, PIXELS, np.array(RENUMBERED[numbering], np.uint64)[labels], offset)
        x, y = ([int(first + found.min()), int(first + found.max()) + 1] for first, found in ((cube["x0"], xs), (cube["y0"], ys)))
        content = only("vp", file_name) | {"xrange_vp": x, "yrange_vp": y, "tile_size": [x[1] - x[0], y[1] - y[0]], "zrange": [180, 305],
                                           "z_train": [180, 245], "z_val": [246, 275], "z_test": [276, 305]}
        return ["--task-config", str(write_task(tmp_path, content)), *boss.options]

    return options_of


@pytest.mark.parametrize("variant", ["2d-3class", "3d-4class"])
def test_real_labels_of_vp(real, variant, nnunet_folders):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    assert main(["mtneuro", *real(FILES[variant]), "--human-only"]) == 0
    dataset = nnunet_folders.raw / "Dataset702_MTNeuro"
    verify_dataset_integrity(str(dataset), num_processes=1)
    cases = json.loads((dataset / "dataset.json").read_text())["provenance"]["cases"]
    if variant == "2d-3class":
        assert {name for name, case in cases.items() if not case["label_voxels"]["ignore"]} == {f"vp_z{z}" for z in (200, 230, 260, 290)}
        assert cases["vp_z200"]["label_voxels"] == {"background": 6807 + 3079, "vessel": 331, "cell": 195, "ignore": 0}
    else:
        axons = {name: case["label_voxels"]["axon"] for name, case in cases.items()}
        assert axons == {"vp_train": 3079 + 5665, "vp_val": 1467, "vp_test": 4290}
        assert cases["vp_val"]["label_voxels"]["ignore"] == 28 * 76 * 137


def test_real_labels_in_the_masks_numbering(real):
    words = real("task2_2D_4class.json", "xray-thc-masks")
    with pytest.raises(ValueError, match="contradict --label-map mtneuro.*--label-map xray-thc-masks fits"):
        cases_of(*words)
    assert cases_of(*words, "--label-map", "xray-thc-masks")
