"""nnneuro_evaluate: single volumes of any format, folds, ids of objects and probabilities."""

import json

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.evaluate import main
from nnunet_neuro.evaluate.fields import DEFAULT
from nnunet_neuro.evaluate.run import Choice, evaluate_folders
from tests.evaluation_cases import LABELS, SHAPE, Cases, labels, refused


@pytest.fixture
def cases(tmp_path):
    return Cases(tmp_path)


# --- what is compared ---


def as_zarr(path, voxels):
    import zarr

    zarr.save_array(str(path), voxels)


def as_hdf5(path, voxels):
    import h5py

    with h5py.File(path, "w") as file:
        file["labels"] = voxels


def as_nifti(path, voxels):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([0.5, 0.5, 2.0, 1])), path)


def as_slices(path, voxels):
    path.mkdir()
    for number, plane in enumerate(voxels):
        tifffile.imwrite(path / f"slice_{number:03d}.tif", plane)


def as_tiff(path, voxels):
    tifffile.imwrite(path, voxels)


@pytest.mark.parametrize(("name", "write"), [("brain.zarr", as_zarr), ("brain.h5", as_hdf5), ("brain.nii.gz", as_nifti),
                                             ("brain", as_slices), ("brain.tif", as_tiff)])
def test_single_volumes_of_any_format(cases, name, write):
    expected = cases.evaluate(choice=Choice(measures=("overlap",)))
    folder = cases.root / "volumes"
    (folder / "references").mkdir(parents=True)
    write(folder / name, tifffile.imread(cases.predictions / "brain_0.tif"))
    write(folder / "references" / name, tifffile.imread(cases.references / "brain_0.tif"))
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    slices = ["--slices"] if write is as_slices else []
    assert main([str(folder / name), str(folder / "references" / name), "--measures", "overlap", "--format", "json",
                 "--out", str(folder / "out"), *slices]) == 0
    scores = json.loads((folder / "out" / "scores.json").read_text())
    assert [case["case"] for case in scores["cases"]] == ["brain"]
    assert scores["cases"][0]["classes"]["soma"]["measures"] == expected.cases[0].values["soma"]
    assert len(scores["cases"][0]["reference"]["sha256"]) == 64


def test_folder_of_slices_against_a_volume_needs_no_word(cases):
    as_slices(cases.root / "stack", tifffile.imread(cases.predictions / "brain_0.tif"))
    found = evaluate_folders(cases.root / "stack", cases.references / "brain_0.tif", progress=False)
    assert found.pooled["axon"]["Dice"] == cases.evaluate().cases[0].values["axon"]["Dice"]
    assert [case.pair.case for case in found.cases] == ["stack"]


def test_zarr_folders_are_cases_like_files(cases):
    expected = cases.evaluate(choice=Choice(measures=("overlap",)))
    for folder in (cases.predictions, cases.references):
        for path in sorted(folder.glob("*.tif")):
            as_zarr(path.with_suffix(".zarr"), tifffile.imread(path))
            path.unlink()
    found = cases.evaluate(choice=Choice(measures=("overlap",)))
    assert found.pooled == expected.pooled and [case.pair.case for case in found.cases] == ["brain_0", "brain_1", "brain_2"]


def test_reference_behind_an_address(cases, boss_server, monkeypatch):
    monkeypatch.setenv("NNNEURO_BOSSDB_HOST", boss_server.address)
    monkeypatch.setenv("NNNEURO_CACHE", str(cases.root / "cache"))
    boss_server.add_channel("lab/brain/labels", tifffile.imread(cases.references / "brain_0.tif"), voxel_size=(500, 500, 2000))
    assert main([str(cases.predictions / "brain_0.tif"), "bossdb://lab/brain/labels", "--format", "json", "--dataset-json",
                 str(cases.root / "dataset.json"), "--measures", "overlap", "--out", str(cases.root / "out")]) == 0
    scores = json.loads((cases.root / "out" / "scores.json").read_text())
    expected = cases.evaluate(choice=Choice(measures=("overlap",))).cases[0].values["axon"]
    assert scores["cases"][0]["classes"]["axon"]["measures"] == expected
    assert scores["references"] == "bossdb://lab/brain/labels" and len(scores["cases"][0]["reference"]["sha256"]) == 64


def test_prediction_of_nnneuro_predict_with_its_probabilities(cases):
    from nnunet_neuro.predict.store import LabelStore
    from nnunet_neuro.predict.store_layout import FurtherArray, StoreLayout

    layout = StoreLayout(SHAPE, spacing=(2.0, 0.5, 0.5), chunk=(4, 8, 8), classes=LABELS,
                         further=(FurtherArray("probabilities", "float16", tuple(LABELS)),))
    store = LabelStore.create(cases.root / "brain_0.zarr", layout)
    store.write(None, tifffile.imread(cases.predictions / "brain_0.tif"))
    store.write(None, np.load(cases.predictions / "brain_0.npz")["probabilities"], "probabilities")
    found = evaluate_folders(cases.root / "brain_0.zarr", cases.references / "brain_0.tif", progress=False,
                             probabilities=cases.root / "brain_0.zarr" / "probabilities")
    expected = cases.evaluate(probabilities=cases.predictions).cases[0].values
    for name in ("axon", "soma"):
        assert found.pooled[name] == pytest.approx(expected[name], abs=1e-3, nan_ok=True)
        assert found.pooled[name]["Dice"] == expected[name]["Dice"]


def test_folds_of_a_results_folder(cases, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    expected = cases.evaluate()
    results = cases.root / "nnUNet_results" / "Dataset001_Brain" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    truth = cases.root / "nnUNet_preprocessed" / "Dataset001_Brain" / "gt_segmentations"
    truth.mkdir(parents=True)
    for number in range(3):
        validation = results / f"fold_{number}" / "validation"
        validation.mkdir(parents=True)
        for source, folder in ((cases.predictions, validation), (cases.references, truth)):
            for ending in ("tif", "json"):
                (folder / f"brain_{number}.{ending}").write_bytes((source / f"brain_{number}.{ending}").read_bytes())
        (validation / f"brain_{number}.npz").write_bytes((cases.predictions / f"brain_{number}.npz").read_bytes())
    (results / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".tif"}))
    assert main([str(results), "--format", "json", "--probabilities"]) == 0
    scores = json.loads((results / "evaluation" / "scores.json").read_text())
    assert [case["fold"] for case in scores["cases"]] == ["0", "1", "2"]
    for name in expected.measured:
        assert scores["pooled"]["axon"][name] == expected.pooled["axon"][name]
    assert any(one["family"] == "calibration" for one in scores["measures"].values())


def test_folder_without_references_that_is_no_results_folder_is_refused(cases, capsys):
    assert "give the folder of references as the second argument" in refused(capsys, [cases.predictions])
    assert "has no references" in refused(capsys, [cases.predictions / "brain_0.tif"])


def test_chunks_that_were_left_out_are_background_where_said(cases, capsys):
    import zarr

    for role, folder in (("prediction", cases.predictions), ("reference", cases.references)):
        voxels = tifffile.imread(folder / "brain_0.tif")
        voxels[:, :10, :12] = 0  # whole chunks, which zarr does not write by default
        np.save(cases.root / f"{role}.npy", voxels)
        store = zarr.open_array(str(cases.root / f"{role}.zarr"), mode="w", shape=SHAPE, chunks=(6, 10, 12), dtype="uint8", fill_value=0)
        store[:] = voxels
    paths = {kind: [cases.root / f"{role}.{kind}" for role in ("prediction", "reference")] for kind in ("zarr", "npy")}
    assert "--missing-chunks zero" in refused(capsys, paths["zarr"])
    assert main([*map(str, paths["zarr"]), "--missing-chunks", "zero", "--format", "json", "--out", str(cases.root / "out")]) == 0
    found, expected = (evaluate_folders(*paths[kind], missing_are_zero=True, progress=False) for kind in ("zarr", "npy"))
    assert found.pooled_counts == expected.pooled_counts


def test_folder_of_cases_beside_a_volume_is_refused(cases, capsys):
    np.save(cases.root / "one.npy", labels(0))
    (cases.root / "arrays").mkdir()
    np.save(cases.root / "arrays" / "one.npy", labels(0))
    for words in ((cases.root / "arrays", cases.root / "one.npy"), (cases.root / "one.npy", cases.root / "arrays")):
        assert f"{cases.root / 'arrays'} is a folder without slices" in refused(capsys, words)


def test_instances_take_every_number_for_an_object(cases, capsys):
    ids = np.zeros(SHAPE, np.uint32)
    ids[:, 2:8, 2:20], ids[:, 8:14, 2:20] = 70_000, 9
    cases.write("brain_0", ids, ids.clip(0, 2))
    for case in ("brain_1", "brain_2"):
        for path in [*cases.predictions.glob(f"{case}.*"), *cases.references.glob(f"{case}.*")]:
            path.unlink()
    np.save(cases.predictions / "brain_0.npy", ids)
    (cases.predictions / "brain_0.tif").unlink()
    assert "--instances" in refused(capsys, [cases.predictions, cases.references])
    assert cases.run("--instances", "--measures", "overlap,objects") == 0
    assert cases.scores["pooled"]["object"]["object_F1_IoU50"] == 1
    assert "ids of objects have no classes" in refused(capsys, [cases.predictions, cases.references, "--instances", "--classes", "axon"])


# --- probabilities ---


def test_probabilities_add_the_calibration(cases):
    found = cases.evaluate(probabilities=cases.predictions)
    assert {one.family for one in found.measured.values()} == {*DEFAULT.families, "calibration"}
    assert cases.run("--probabilities", cases.predictions) == 0
    assert all(isinstance(number, int | float) for number in cases.scores["pooled_counts"]["axon"].values())


def test_probabilities_of_volumes_equal_those_of_npz(cases):
    import zarr

    expected = cases.evaluate(probabilities=cases.predictions)
    stored = cases.root / "probabilities"
    stored.mkdir()
    for path in cases.predictions.glob("*.npz"):
        zarr.save_array(str(stored / f"{path.stem}.zarr"), np.load(path)["probabilities"])
    assert cases.evaluate(probabilities=stored).pooled == expected.pooled


def test_probability_of_a_region_is_the_sum_of_its_labels(cases):
    choice = Choice(regions={"tissue": ("axon", "soma")}, measures=("calibration",))
    found = cases.evaluate(probabilities=cases.predictions, choice=choice)
    for case in ("brain_0", "brain_1", "brain_2"):
        saved = np.load(cases.predictions / f"{case}.npz")["probabilities"]
        cases.save(case, np.stack([saved[1] + saved[2], saved[2]]))
    cases.describe({"labels": {"background": 0, "tissue": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
    as_regions = cases.evaluate(probabilities=cases.predictions, choice=Choice(measures=("calibration",)))
    assert as_regions.pooled["tissue"] == found.pooled["tissue"]


def other_shape(cases):
    cases.save("brain_1", np.zeros((3, 6, 20, 23), np.float32))
    return "brain_1.npz has probabilities of shape (6, 20, 23)", "(6, 20, 24)"


def other_channels(cases):
    cases.save("brain_1", np.zeros((5, *SHAPE), np.float32))
    return "brain_1.npz has 5 channels", "expected 3"


def logits(cases):
    cases.save("brain_1", np.full((3, *SHAPE), -4.5, np.float32))
    return "brain_1.npz holds the number -4.5", "not logits"


def no_number(cases):
    cases.save("brain_1", np.full((3, *SHAPE), np.nan, np.float32))
    return "brain_1.npz holds the number nan", "from 0 to 1"


def no_file(cases):
    (cases.predictions / "brain_1.npz").unlink()
    return "no probabilities of case brain_1", "--save_probabilities"


def damaged(cases):
    path = cases.predictions / "brain_1.npz"
    path.write_bytes(path.read_bytes()[:-400])
    return "brain_1.npz is damaged", "copy it again"


def other_array(cases):
    np.savez(cases.predictions / "brain_1.npz", features=np.zeros(3))
    return "brain_1.npz holds features.npy", "'probabilities'"


def array_of_objects(cases):
    np.savez(cases.predictions / "brain_1.npz", probabilities=np.array([None, "x"], dtype=object))
    return "brain_1.npz holds no array of numbers", "'probabilities'"


def complex_numbers(cases):
    cases.save("brain_1", np.zeros((3, *SHAPE), np.complex64))
    return "brain_1.npz holds an array of complex64", "floating-point"


@pytest.mark.parametrize("spoil", [other_shape, other_channels, logits, no_number, no_file, damaged, other_array, array_of_objects,
                                   complex_numbers],
                         ids=lambda spoil: spoil.__name__)
def test_probabilities_that_do_not_fit_end_in_one_sentence(cases, capsys, spoil):
    expected = spoil(cases)
    sentence = refused(capsys, [cases.predictions, cases.references, "--probabilities", cases.predictions])
    for words in expected:
        assert words in sentence
    assert not (cases.predictions / "evaluation").exists()


def test_measures_that_need_probabilities_say_so(cases, capsys):
    sentence = refused(capsys, [cases.predictions, cases.references, "--measures", "calibration"])
    assert "give them with --probabilities" in sentence
