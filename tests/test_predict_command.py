"""`nnneuro_predict`: every input, output and engine gives the labels of nnU-Net, whoever dies meanwhile."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cc3d
import nibabel
import numpy as np
import pytest
import tifffile

from nnunet_neuro.predict.store import LabelStore
from nnunet_neuro.volumes import open_volume
from tests.predict_road import (
    SHAPE,
    arguments,
    check_clean,
    expected,
    files_in,
    image,
    labels_in,
    model,
    names_in,
    run,
    summary_of,
    write_tiff,
)
from tests.test_volumes import FORMATS
from tests.tiny_models import nnunet_labels

SEVERAL_FOLDS = (0, 1)


@pytest.fixture
def brain(tmp_path) -> Path:
    """A TIFF of one channel."""
    return write_tiff(tmp_path / "brain.tif", image()[0])


# --- inputs ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_input_gives_nnunets_labels(tmp_path, kind, capsys):
    (tmp_path / "in").mkdir()
    source = FORMATS[kind][0](tmp_path / "in", image()[0])
    assert run(source, tmp_path / "out.zarr", model(), "--spacing", "1,1,1") == 0
    np.testing.assert_array_equal(labels_in(tmp_path / "out.zarr"), expected(model()))
    shown = capsys.readouterr()
    assert shown.out == f"{tmp_path / 'out.zarr'}\n" and "labels equal nnUNetv2_predict's" in shown.err
    assert ("is used instead" in shown.err) == (FORMATS[kind][1] not in (None, (1.0, 1.0, 1.0)))


def test_channels_are_several_inputs_or_an_axis(tmp_path):
    import zarr

    first, second = image(2)
    zarr.save_array(str(tmp_path / "both.zarr"), np.stack([first, second]))
    tifffile.imwrite(tmp_path / "both.tif", np.stack([first, second], 1), imagej=True, metadata={"axes": "ZCYX"})
    ways = {"files": [write_tiff(tmp_path / "a.tif", first), write_tiff(tmp_path / "b.tif", second)],
            "axis": tmp_path / "both.zarr", "tiff": tmp_path / "both.tif"}
    for name, inputs in ways.items():
        assert run(inputs, tmp_path / f"{name}.out.zarr", model(channels=2), "--spacing", "1,1,1") == 0
        np.testing.assert_array_equal(labels_in(tmp_path / f"{name}.out.zarr"), expected(model(channels=2), 2))


def test_a_part_is_predicted_as_a_volume_of_its_own(tmp_path, brain):
    assert run(brain, tmp_path / "part.zarr", model(), "--roi", "6:38,2:26,0:21") == 0
    part = image()[:, 6:38, 2:26, 0:21]
    np.testing.assert_array_equal(labels_in(tmp_path / "part.zarr"), nnunet_labels(model(), part))
    assert LabelStore.open(tmp_path / "part.zarr").layout.corner == (6, 2, 0)


def test_a_cutout_of_bossdb(tmp_path, boss_server, monkeypatch):
    monkeypatch.setenv("NNNEURO_BOSSDB_HOST", boss_server.address)
    monkeypatch.setenv("NNNEURO_CACHE", str(tmp_path / "cache"))
    boss_server.add_channel("lab/brain/image", image()[0], voxel_size=(1000, 1000, 1000))
    assert run("bossdb://lab/brain/image", tmp_path / "out.zarr", model()) == 0
    np.testing.assert_array_equal(labels_in(tmp_path / "out.zarr"), expected(model()))
    assert LabelStore.open(tmp_path / "out.zarr").layout.spacing == (1, 1, 1)


def test_a_flat_image_is_a_stack_of_one_plane(tmp_path):
    import skimage.io

    flat = model(patch=(24, 20))
    skimage.io.imsave(tmp_path / "plane.png", image()[0, 20], check_contrast=False)
    assert run(tmp_path / "plane.png", tmp_path / "out.zarr", flat) == 0
    np.testing.assert_array_equal(labels_in(tmp_path / "out.zarr"), nnunet_labels(flat, image()[:, 20:21]))


# --- outputs -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options", [("out.tif", ()), ("slices", ("--format", "tiff-slices")), ("out.nii.gz", ()), ("out.nii", ()),
                                           ("cells", ("--format", "precomputed"))])
def test_every_output_has_the_labels_and_nothing_else_stays(tmp_path, brain, name, options):
    if "precomputed" in options:
        pytest.importorskip("tensorstore")
    (tmp_path / "made").mkdir()
    output = tmp_path / "made" / name
    assert run(brain, output, model(), "--spacing", "1,1,1", *options) == 0
    np.testing.assert_array_equal(labels_in(output), expected(model()))
    sidecar = ["out.json"] if name == "out.tif" else []
    assert names_in(tmp_path / "made") == sorted([name, f"{name}.summary.json", *sidecar])
    if name == "slices":
        assert names_in(output) == [f"{number:04d}.tiff" for number in range(SHAPE[0])]


def test_nifti_keeps_the_affine_of_the_part(tmp_path):
    affine = np.array([[0, 0, -1, 5], [-1, 0, 0, 7], [0, 1, 0, -3], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(image()[0].T, affine), tmp_path / "brain.nii.gz")
    assert run(tmp_path / "brain.nii.gz", tmp_path / "labels.nii.gz", model(), "--roi", "4:40,1:26,2:22") == 0
    there = nibabel.load(tmp_path / "labels.nii.gz")
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [2, 1, 4]
    np.testing.assert_allclose(there.affine, moved)
    np.testing.assert_array_equal(np.asarray(there.dataobj).T, nnunet_labels(model(), image()[:, 4:40, 1:26, 2:22]))


def test_probabilities_and_uncertainty_of_both_types(tmp_path, brain):
    folder = model(folds=SEVERAL_FOLDS)
    labels, probabilities = nnunet_labels(folder, image(), folds=SEVERAL_FOLDS, probabilities=True)
    arrays = {}
    for kind in ("uint8", "float16"):
        output = tmp_path / f"{kind}.zarr"
        assert run(brain, output, folder, "--probabilities", "--uncertainty", "--probability-type", kind) == 0
        np.testing.assert_array_equal(labels_in(output), labels)
        store = LabelStore.open(output)
        arrays[kind] = {name: store.read(None, name) for name in ("probabilities", "entropy", "disagreement")}
        assert all(str(array.dtype) == kind for array in arrays[kind].values())
        assert (output / "entropy" / "1").is_dir() and store.layout.array("probabilities").channels == ("background", "axon", "edge")
    inside = image()[0] > 0
    assert np.abs(arrays["float16"]["probabilities"] - probabilities)[:, inside].max() < 2e-3
    for name, array in arrays["uint8"].items():
        assert np.abs(array / 255.0 - arrays["float16"][name]).max() <= 0.5 / 255 + 1e-3
    assert 0 < arrays["float16"]["disagreement"].mean() < 1 and 0 < arrays["float16"]["entropy"].mean() < 1


def test_further_arrays_are_exported_too(tmp_path, brain):
    assert run(brain, tmp_path / "made" / "out.nii.gz", model(), "--probabilities", "--uncertainty", "--instances", "components") == 0
    assert names_in(tmp_path / "made") == [
        "out.entropy.nii.gz", "out.instances.nii.gz", "out.nii.gz", "out.nii.gz.objects.csv", "out.nii.gz.summary.json",
        "out.probabilities_0_background.nii.gz", "out.probabilities_1_axon.nii.gz", "out.probabilities_2_edge.nii.gz"]
    shares = np.stack([labels_in(tmp_path / "made" / f"out.probabilities_{number}_{name}.nii.gz")
                       for number, name in enumerate(("background", "axon", "edge"))])
    most = shares.max(axis=0) - np.take_along_axis(shares, expected(model())[None].astype(int), 0)[0]
    assert most.max() <= 1  # rounded to 255 steps, the label's share is the largest
    assert open_volume(tmp_path / "made" / "out.instances.nii.gz").dtype == np.uint64


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_instances_are_consistent_over_block_faces(tmp_path, brain, method):
    output = tmp_path / "out.zarr"
    assert run(brain, output, model(), "--instances", method, "--minimum-size", "5") == 0
    labels, ids = labels_in(output), LabelStore.open(output).read(None, "instances")
    with (tmp_path / "out.objects.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert ids.dtype == np.uint64 and np.array_equal(np.unique(ids[ids > 0]), np.arange(1, len(table) + 1))
    assert [int(row["voxels"]) for row in table] == np.bincount(ids[ids > 0].astype(int))[1:].tolist()
    assert min(int(row["voxels"]) for row in table) >= 5
    for row in table:
        box = tuple(slice(int(row[f"{axis}_start"]), int(row[f"{axis}_stop"])) for axis in "zyx")
        voxels = ids[box] == int(row["id"])
        assert voxels.sum() == int(row["voxels"]) and set(labels[box][voxels]) == {int(row["class"])}
    if method == "components":  # those of the whole volume, with other numbers
        whole = cc3d.connected_components(labels, connectivity=26)
        sizes = np.bincount(whole.ravel())
        whole[sizes[whole] < 5] = 0
        whole[labels == 0] = 0
        pairs = set(zip(whole.ravel().tolist(), ids.ravel().tolist()))
        assert len(pairs) == len(set(whole.ravel().tolist())) == len(table) + 1
    assert (output / "instances" / "1").is_dir() and summary_of(output)["objects"] == len(table)


def test_other_instances_and_a_preview_are_added_to_a_finished_run(tmp_path, brain, capsys):
    output = tmp_path / "out.zarr"
    counts = []
    for options in ((), ("--instances", "components", "--preview"), ("--instances", "components", "--minimum-size", "50")):
        assert run(brain, output, model(), *options) == 0
        assert "is finished already" not in capsys.readouterr().err
        counts.append(summary_of(output)["objects"])
        ids = LabelStore.open(output).read(None, "instances") if options else None
        if options:
            assert len(np.unique(ids)) - 1 == counts[-1]
            coarse = open_volume(output / "instances" / "1").read()
            assert set(np.unique(coarse)) <= set(np.unique(ids))  # no pyramid of the objects before
    assert counts[0] is None and counts[1] > counts[2]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert summary_of(output)["blocks_of_earlier_runs"] == 3


def test_the_summary_says_what_was_done(tmp_path, brain):
    assert run(brain, tmp_path / "out.zarr", model(), "--fast", "--background", "10") == 0
    found = summary_of(tmp_path / "out.zarr")
    assert found["output"] == str(tmp_path / "out.zarr") and found["input"] == [str(brain)] and found["shape"] == list(SHAPE)
    assert len(found["models"][0]["sha256"]) == 64 and found["models"][0]["folds"] == [0]
    assert found["options"]["step"] == 0.75 and found["options"]["background"] == 10 and found["options"]["batch"] == 2
    assert found["blocks"] == 3 and found["windows"] > 0 and found["seconds"] >= found["seconds_of_blocks"] > 0


def test_what_is_not_exact_and_what_is_saved_is_said_first(tmp_path, brain, capsys):
    assert run(brain, tmp_path / "out.zarr", model(mirroring=True), "--fast") == 0
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert "not exact: " in first and "windows go through the network at once" in first
    assert second.endswith("% of the network's passes are saved by step and mirroring, and what is background besides")


# --- several models ----------------------------------------------------------------------------------------------------------------


def mean_of_nnunet(folders: list[Path]) -> np.ndarray:
    """The labels that nnUNetv2_ensemble gives."""
    return (sum(nnunet_labels(folder, image(), probabilities=True)[1] for folder in folders) / len(folders)).argmax(0)


def views() -> list[Path]:
    return [model(patch=(24, 20), transpose=transpose) for transpose in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]


@pytest.mark.parametrize("folders", [pytest.param(lambda: [model(), model(patch=(24, 20))], id="2d and 3d"),
                                     pytest.param(views, id="three views")])
def test_several_models_are_averaged(tmp_path, brain, folders, capsys):
    folders = folders()
    options = [word for folder in folders[1:] for word in ("--model", str(folder))]
    assert run(brain, tmp_path / "out.zarr", folders[0], "--spacing", "1,1,1", "--uncertainty", *options) == 0
    np.testing.assert_array_equal(labels_in(tmp_path / "out.zarr"), mean_of_nnunet(folders))
    assert "labels equal nnUNetv2_ensemble's" in capsys.readouterr().err
    disagreement = LabelStore.open(tmp_path / "out.zarr").read(None, "disagreement")
    assert set(np.unique(disagreement)) <= {round(255 * votes / len(folders)) for votes in range(len(folders) + 1)}


@pytest.mark.parametrize("transpose", [(1, 0, 2), (2, 0, 1)])
def test_one_view_is_exact(tmp_path, brain, transpose):
    folder = model(patch=(24, 20), transpose=transpose)
    assert run(brain, tmp_path / "out.zarr", folder, "--spacing", "1,1,1") == 0
    np.testing.assert_array_equal(labels_in(tmp_path / "out.zarr"), expected(folder))


# --- engines -----------------------------------------------------------------------------------------------------------------------


def of_one_process(tmp_path: Path, brain: Path) -> tuple[str, dict[str, bytes]]:
    output = tmp_path / "one" / "out.zarr"
    assert run(brain, output, model()) == 0
    return summary_of(output)["sha256_of_voxels"], files_in(output)


def test_three_shards_in_any_order(tmp_path, brain, capsys):
    digest, files = of_one_process(tmp_path, brain)
    output = tmp_path / "shards" / "out.zarr"
    capsys.readouterr()
    for i in (2, 0, 1):
        assert not output.with_name("out.summary.json").exists()
        assert run(brain, output, model(), "--shard", f"{i}/3") == 0
        shown = capsys.readouterr()
        assert shown.out == ("" if i != 1 else f"{output}\n") and ("left to other shards" in shown.err) == (i != 1)
    assert summary_of(output)["sha256_of_voxels"] == digest and files_in(output) == files
    check_clean(output)


def test_two_workers_give_the_same(tmp_path, brain):
    digest, files = of_one_process(tmp_path, brain)
    output = tmp_path / "two" / "out.zarr"
    assert run(brain, output, model(), "--workers", "2") == 0
    assert summary_of(output)["sha256_of_voxels"] == digest and files_in(output) == files
    check_clean(output)


@pytest.mark.slow
def test_a_dask_cluster_of_which_a_worker_is_killed(tmp_path, brain, monkeypatch):
    distributed = pytest.importorskip("distributed")
    digest, files = of_one_process(tmp_path, brain)
    output = tmp_path / "dask" / "out.zarr"
    monkeypatch.chdir(tmp_path)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        monkeypatch.chdir(tmp_path / "one")  # paths are relative to the command's folder, not to the workers'
        program = "import sys\nfrom nnunet_neuro.commands.predict import main\nsys.exit(main(sys.argv[1:]))"
        command = subprocess.Popen([sys.executable, "-c", program, *arguments(
            Path("../brain.tif"), Path("../dask/out.zarr"), model(), "--scheduler", cluster.scheduler_address)])
        deadline = time.monotonic() + 90
        while not any((output / ".nnneuro" / "claims").glob("*.lock")):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        assert command.wait(120) == 0
    assert summary_of(output)["sha256_of_voxels"] == digest and files_in(output) == files
    check_clean(output)
