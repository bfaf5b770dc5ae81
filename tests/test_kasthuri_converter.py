"""`nnneuro_convert kasthuri`: membranes and synapses of AC4, from a BossDB on loopback and from saved arrays."""

from __future__ import annotations

import argparse
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
from tests.fake_sources.kasthuri import (
    CORNER,
    EM,
    EXTENT,
    MEMBRANE,
    SIDE,
    SYNAPSE,
    block,
    options,
    serve,
    small_task,
    task_files,
    write_task,
)

kasthuri = load_converter("kasthuri")
SPACING = (0.03, 0.006, 0.006)


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
    kasthuri.add_arguments(parser)
    parser.add_argument("--variant", choices=kasthuri.VARIANTS, default=next(iter(kasthuri.VARIANTS)))
    parser.add_argument("--name", default=kasthuri.DEFAULT_NAME)
    return parser.parse_args(words)


def cases_of(*words: str) -> dict[str, Case]:
    """The cases by identifier."""
    return {case.identifier: case for case in kasthuri.cases(parsed(*words))}


@pytest.fixture
def task(tmp_path, cache):
    """(kinds, changes) -> the options for task files of the filled pixels."""

    def write(*kinds: str, **changes) -> list[str]:
        paths = [write_task(tmp_path / "tasks", small_task(kind, **changes)) for kind in kinds]
        return [*(word for path in paths for word in ("--task-config", str(path))), *options(cache)]

    return write


def labels_of(kind: str) -> np.ndarray:
    """(z, y, x) what the labels of the filled pixels should be."""
    _, membrane, synapse = block()
    if kind == "both":
        return np.where(synapse, 2, membrane)
    return membrane if kind == "membrane" else synapse


# --- tasks -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["membrane", "synapse"])
def test_built_in_task_is_the_official_file(name, tmp_path):
    path = write_task(tmp_path, task_files()[f"{name}_task.json"])
    built_in, read = (kasthuri._plan(parsed(*words)) for words in (["--variant", name], ["--task-config", str(path)]))
    assert (built_in.tasks, built_in.is_3d) == (read.tasks, read.is_3d)


@pytest.mark.parametrize("kinds", [("membrane",), ("synapse",), ("synapse", "membrane")])
def test_tiles_of_every_plane(task, kinds):
    found = cases_of(*task(*kinds))
    split = Counter(case.split for case in found.values())
    assert (split["train"], split["val"], split["test"]) == (320, 40, 40)
    expected = labels_of("both" if len(kinds) == 2 else kinds[0])
    image = block()[0]
    covered = np.zeros((EXTENT[0], SIDE, SIDE), int)
    for case in found.values():
        z, y, x = case.notes["plane"], case.notes["first_y"] - CORNER[0], case.notes["first_x"] - CORNER[1]
        covered[z, y : y + 64, x : x + 64] += 1
        if z % 17 == 0:
            np.testing.assert_array_equal(case.label.read(), expected[z, y : y + 64, x : x + 64])
            np.testing.assert_array_equal(case.channels[0].read(), image[z, y : y + 64, x : x + 64])
    assert (covered == 1).all()


@pytest.mark.parametrize("kinds", [("membrane",), ("synapse",), ("membrane", "synapse")])
def test_a_volume_per_part(task, kinds):
    found = cases_of(*task(*kinds, volume_z=8))
    expected = labels_of("both" if len(kinds) == 2 else kinds[0])
    assert {name: case.split for name, case in found.items()} == {f"ac4_{part}": part for part in ("train", "val", "test")}
    for part, (first, stop) in {"train": (0, 80), "val": (80, 90), "test": (90, 100)}.items():
        np.testing.assert_array_equal(found[f"ac4_{part}"].label.read(), expected[first:stop])
        assert found[f"ac4_{part}"].spacing == SPACING and found[f"ac4_{part}"].group == f"ac4/{part}"


def test_synapse_stands_before_membrane(task):
    _, membrane, synapse = block()
    shared = (membrane == 1) & (synapse == 1)
    assert shared[:80].any()
    assert (cases_of(*task("membrane", "synapse", volume_z=8))["ac4_train"].label.read()[shared[:80]] == 2).all()
    names = {source.name.split("/")[4] for source in cases_of(*task("membrane", "synapse"))["ac4_z05_y0244_x0244"].label.sources()}
    assert names == {"membrane", "synapse"}
    assert kasthuri.dataset_info(parsed(*task("membrane", "synapse"))).labels == {"background": 0, "membrane": 1, "synapse": 2}


def test_whole_plane_by_default_for_both_and_on_request(tmp_path):
    where = ["--cache", str(tmp_path)]
    assert kasthuri._plan(parsed(*where)).box.shape == (512, 512)
    for words in (["--full"], ["--variant", "both"], ["--variant", "both-3d"]):
        plan = kasthuri._plan(parsed(*words, *where))
        assert plan.box.shape == (1024, 1024) and plan.box.y == plan.box.x == (0, 1024)
    assert plan.classes == ("membrane", "synapse") and plan.is_3d


def test_place_without_membranes_is_refused(boss, tmp_path):
    em, membrane, _ = block(planes=12, side=512)
    membrane[:, 256:, :256] = 0
    serve(boss, (em, membrane), corner=(0, 0))
    content = small_task("membrane", xrange_vol=[0, 512], yrange_vol=[0, 512], z_train=[0, 8], z_val=[8, 10], z_test=[10, 12])
    with pytest.raises(ValueError, match="holds no membrane at y 256 to 512, x 0 to 256 of the cutout in any train plane"):
        cases_of("--task-config", str(write_task(tmp_path, content)), *boss.options)


def test_gap(task):
    found = cases_of(*task("membrane", volume_z=2), "--gap", "3")
    assert [found[f"ac4_{part}"].notes["planes"] for part in ("train", "val", "test")] == [77, 7, 10]


@pytest.mark.parametrize(("kinds", "changes", "words", "message"), [
    (("membrane",), {}, ["--variant", "synapse"], "describes the variant membrane, but synapse is asked for; leave out --variant"),
    (("membrane",), {}, ["--variant", "both"], "give a task file for each class"),
    (("membrane",), {"volume_z": 4}, ["--variant", "synapse-3d"], "describes the variant membrane-3d"),
    (("membrane", "membrane"), {}, [], "expected one file, or one of membrane and one of synapse"),
    (("membrane",), {}, ["--gap", "-2"], "--gap counts planes"),
    (("membrane",), {}, ["--gap", "10"], "a gap of 10 planes leaves nothing of z_val"),
    (("membrane",), {}, ["--full", "--membrane-channel", "bossdb://Kasthuri/ac4/nothing"], "nothing"),
])
def test_contradictory_options_are_refused(task, kinds, changes, words, message):
    with pytest.raises((ValueError, OSError), match=message):
        cases_of(*task(*kinds, **changes), *words)


@pytest.mark.parametrize(("changes", "key"), [
    ({"xrange_vol": [244, 308]}, "xrange_vol"), ({"z_val": [80, 85]}, "z_val"), ({"tile_size": [32, 64]}, "tile_size"),
    ({"volume_z": 4}, "volume_z is 1"), ({"image_chan": "bossdb://Kasthuri/ac4/em2"}, "image_chan"),
])
def test_two_task_files_must_agree(task, tmp_path, changes, key):
    other = write_task(tmp_path / "other", small_task("synapse", **changes))
    with pytest.raises(ValueError, match=f"the task files differ in {key}"):
        cases_of(*task("membrane"), "--task-config", str(other))


def test_the_two_official_files_differ_in_their_box(tmp_path, cache):
    paths = [write_task(tmp_path, content) for content in task_files().values()]
    with pytest.raises(ValueError, match="differ in xrange_vol .*--variant both without task files"):
        cases_of("--task-config", str(paths[0]), "--task-config", str(paths[1]), *options(cache))


# --- values ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "words", "message"), [
    (255, [], "hold the value 255, expected 0 and 1 without a threshold; give --membrane-threshold V"),
    (77, [], "hold the value 77"),
    (255, ["--membrane-threshold", "128"], None),
    (1, ["--membrane-threshold", "1"], "holds no membrane at y 0"),
])
def test_values_of_membranes(boss, tmp_path, factor, words, message):
    em, membrane, synapse = block()
    serve(boss, (em, membrane * np.uint64(factor), synapse))
    words = ["--task-config", str(write_task(tmp_path, small_task("membrane", volume_z=8))), *boss.options, *words]
    if message is None:
        np.testing.assert_array_equal(cases_of(*words)["ac4_val"].label.read(), membrane[80:90])
    else:
        with pytest.raises(ValueError, match=message):
            cases_of(*words)


def test_synapse_ids_become_one_class_by_the_threshold(boss, tmp_path):
    em, membrane, synapse = block()
    serve(boss, (em, membrane, synapse * (1 + np.arange(SIDE, dtype=np.uint64))))
    words = ["--task-config", str(write_task(tmp_path, small_task("synapse", volume_z=8))), *boss.options]
    np.testing.assert_array_equal(cases_of(*words)["ac4_train"].label.read(), synapse[:80])


def test_no_synapse_at_all_is_refused(boss, tmp_path):
    em, membrane, synapse = block()
    serve(boss, (em, membrane, synapse * np.uint64(0)))
    with pytest.raises(ValueError, match="holds no synapse in the training planes 0 to 80"):
        cases_of("--task-config", str(write_task(tmp_path, small_task("synapse"))), *boss.options)


def test_fractions_in_saved_arrays_need_the_threshold(task, tmp_path):
    em, _, synapse = block()
    folder = tmp_path / "saved"
    folder.mkdir()
    for part, (first, stop) in {"train": (0, 80), "val": (80, 90), "test": (90, 100)}.items():
        np.save(folder / f"synapse_task{part}images.npy", em[first:stop])
        np.save(folder / f"synapse_task{part}labels.npy", (0.9 * synapse[first:stop] + 0.05).astype(np.float32))
    found = cases_of(*task("synapse", volume_z=8), "--local", str(folder))
    np.testing.assert_array_equal(found["ac4_test"].label.read(), synapse[90:])
    without = write_task(tmp_path / "other", small_task("synapse", threshold=False))
    with pytest.raises(ValueError, match="hold the value 0.95, expected 0 and 1 without a threshold; give --synapse-threshold V"):
        cases_of("--task-config", str(without), "--local", str(folder))


def test_empty_image_is_refused(boss, tmp_path, nnunet_folders, capsys):
    em, membrane, synapse = block()
    serve(boss, (em * np.uint8(0), membrane, synapse))
    assert main(["kasthuri", "--task-config", str(write_task(tmp_path, small_task("membrane"))), *boss.options]) == 2
    assert "zero everywhere" in capsys.readouterr().err
    assert not list(nnunet_folders.raw.rglob("dataset.json"))


# --- the command, the planner, real data -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_anisotropy_reaches_the_planner(nnunet_folders, task):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    planes = {"z_train": [0, 40], "z_val": [40, 60], "z_test": [60, 70]}
    assert main(["kasthuri", *task("membrane", "synapse", volume_z=8, **planes)]) == 0
    dataset = nnunet_folders.raw / "Dataset703_KasthuriAC4"
    assert json.loads((dataset / "imagesTr" / "ac4_train.json").read_text()) == {"spacing": list(SPACING)}
    extract_fingerprints([703], num_processes=1, check_dataset_integrity=True)
    plan_experiments([703])
    plans = json.loads((nnunet_folders.preprocessed / dataset.name / "nnUNetPlans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    assert configuration["spacing"] == pytest.approx(list(SPACING))
    architecture = configuration["architecture"]["arch_kwargs"]
    depth, height, width = configuration["patch_size"]
    assert depth < height and height == width
    assert architecture["kernel_sizes"][0] == [1, 3, 3]  # planes are kept apart at first
    pooled = np.prod(architecture["strides"], axis=0)
    assert pooled[0] < pooled[1] == pooled[2]
    assert architecture["strides"][1] == [1, 2, 2]


def test_command_writes_parts(nnunet_folders, task):
    assert main(["kasthuri", *task("membrane", "synapse", z_train=[0, 6], z_val=[6, 8], z_test=[8, 10])]) == 0
    dataset = nnunet_folders.raw / "Dataset703_KasthuriAC4"
    folds = json.loads((dataset / "splits_final.json").read_text())
    assert len(folds) == 1 and (len(folds[0]["train"]), len(folds[0]["val"])) == (24, 8)
    assert len(list((dataset / "labelsTs").iterdir())) == 8
    description = json.loads((dataset / "dataset.json").read_text())
    voxels = Counter()
    for case in description["provenance"]["cases"].values():
        voxels.update(case["label_voxels"])
    assert voxels["synapse"] == np.count_nonzero(block()[2][:10])


def serve_stack(boss: BossServer, image: np.ndarray, membrane: np.ndarray, synapse: np.ndarray | None) -> None:
    for path, array in ((EM, image), (MEMBRANE, membrane.astype(np.uint64)),
                        *([(SYNAPSE, synapse.astype(np.uint64))] if synapse is not None else [])):
        boss.add_channel(path, array, extent=EXTENT, voxel_size=(6, 6, 30))


def verify(dataset: Path) -> dict:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    verify_dataset_integrity(str(dataset), num_processes=1)
    return json.loads((dataset / "dataset.json").read_text())["provenance"]["cases"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_real_membranes_and_synapses(shared_data, nnunet_folders, boss, tmp_path, depth):
    """Drosophila VNC, 14 x 1024 x 1024, of which a part laid out as the block is."""
    folder = shared_data / "em_vnc_sstem"
    image, labels = (tifffile.imread(folder / kind / "vnc_z00-13.tif")[:, :512, :512] for kind in ("images", "labels"))
    serve_stack(boss, image, np.isin(labels, (1, 3)), labels == 3)
    changes = {"xrange_vol": [0, 512], "yrange_vol": [0, 512], "tile_size": [256, 256], "volume_z": depth,
               "z_train": [0, 10], "z_val": [10, 12], "z_test": [12, 14]}
    paths = [write_task(tmp_path, small_task(kind, **changes)) for kind in ("membrane", "synapse")]
    assert main(["kasthuri", *(word for path in paths for word in ("--task-config", str(path))), *boss.options]) == 0
    cases = verify(nnunet_folders.raw / "Dataset703_KasthuriAC4")
    assert len(cases) == (3 if depth > 1 else 4 * 14)
    for name, value in (("membrane", 1), ("synapse", 3)):
        assert sum(case["label_voxels"][name] for case in cases.values()) == np.count_nonzero(labels == value)


def test_real_membranes_of_isbi(shared_data, nnunet_folders, boss, tmp_path):
    folder = shared_data / "em_isbi2012"
    image, labels = (tifffile.imread(folder / kind / "isbi_z00-19.tif") for kind in ("images", "labels"))
    serve_stack(boss, image, labels, None)
    changes = {"xrange_vol": [0, 512], "yrange_vol": [0, 512], "tile_size": [256, 256],
               "z_train": [0, 14], "z_val": [14, 17], "z_test": [17, 20]}
    assert main(["kasthuri", "--task-config", str(write_task(tmp_path, small_task("membrane", **changes))), *boss.options]) == 0
    cases = verify(nnunet_folders.raw / "Dataset703_KasthuriAC4")
    assert sum(case["label_voxels"]["membrane"] for case in cases.values()) == np.count_nonzero(labels)
