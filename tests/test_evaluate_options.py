"""nnneuro_evaluate: single volumes, folds, regions, classes, fields of use, probabilities, workers and formats."""

import csv
import json
import math
import os

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.evaluate import main
from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.fields import DEFAULT, FIELDS, headlines
from nnunet_neuro.evaluate.measures import MEASURES, families
from nnunet_neuro.evaluate.run import Choice, evaluate_folders
from nnunet_neuro.evaluate.summary import summary_text

SHAPE = (6, 20, 24)
LABELS = {"background": 0, "axon": 1, "soma": 2}


def labels(seed):
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    return np.digitize(smooth, np.quantile(smooth, [0.8, 0.93])).astype(np.uint8)


class Cases:
    """Three cases in micrometres and their predictions with probabilities."""

    def __init__(self, root):
        self.root, self.predictions, self.references = root, root / "predictions", root / "labelsTs"
        self.predictions.mkdir(), self.references.mkdir()
        self.describe({"labels": LABELS})
        for number in range(3):
            self.write(f"brain_{number}", labels(number), np.roll(labels(number), 1, axis=1))

    def describe(self, dataset):
        (self.root / "dataset.json").write_text(json.dumps({"file_ending": ".tif", **dataset}))

    def write(self, case, reference, prediction, *, spacing=(2.0, 0.5, 0.5)):
        for folder, voxels in ((self.references, reference), (self.predictions, prediction)):
            tifffile.imwrite(folder / f"{case}.tif", voxels)
            (folder / f"{case}.json").write_text(json.dumps({"spacing": spacing}))
        probabilities = np.full((3, *voxels.shape), 0.15, np.float32)
        np.put_along_axis(probabilities, prediction[None].astype(int), np.float32(0.7), axis=0)
        self.save(case, probabilities)

    def save(self, case, probabilities):
        np.savez_compressed(self.predictions / f"{case}.npz", probabilities=probabilities)

    def evaluate(self, **options):
        return evaluate_folders(self.predictions, self.references, progress=False, **options)

    def run(self, *options):
        return main([str(self.predictions), str(self.references), "--format", "json,csv", *map(str, options)])

    @property
    def scores(self):
        return json.loads((self.predictions / "evaluation" / "scores.json").read_text())


@pytest.fixture
def cases(tmp_path):
    return Cases(tmp_path)


def refused(capsys, arguments):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("error: ") == 1
    return printed.err.strip().splitlines()[-1]


# --- what is measured ---


@pytest.mark.parametrize("field", list(FIELDS))
def test_field_of_use_chooses_families_and_headlines(cases, capsys, field):
    assert cases.run("--for", field) == 0
    found = cases.scores
    assert found["field_of_use"] == field
    assert {one["family"] for one in found["measures"].values()} == set(FIELDS[field].families)
    printed = capsys.readouterr().err
    for name in FIELDS[field].headlines:
        assert name in MEASURES and name.partition("_")[0] in printed


def test_usual_measures_and_those_asked_for(cases):
    usual = cases.evaluate().measured
    assert {one.family for one in usual.values()} == set(DEFAULT.families)
    chosen = cases.evaluate(choice=Choice(measures=("overlap", "clDice")))
    assert list(chosen.measured) == [*(one.name for one in families()["overlap"]), "clDice"]
    assert set(chosen.cases[0].values["axon"]) == set(chosen.measured)
    assert headlines({"VOI": MEASURES["VOI"]}) == ["VOI"]


def test_unknown_measure_class_and_format_are_refused_with_the_choices(cases, capsys):
    folders = [cases.predictions, cases.references]
    assert "'Dize'" in (sentence := refused(capsys, [*folders, "--measures", "Dize"])) and "Dice" in sentence
    assert "no class 'glia'" in (sentence := refused(capsys, [*folders, "--classes", "glia"])) and "axon, soma" in sentence
    assert "no format 'xml'" in refused(capsys, [*folders, "--format", "xml"])
    assert "is made of 'glia'" in refused(capsys, [*folders, "--regions", "all=axon+glia"])
    assert "has the name of a label" in refused(capsys, [*folders, "--regions", "axon=1+2"])
    assert "0 workers" in refused(capsys, [*folders, "--workers", "0"])


def test_chosen_class_has_the_scores_it_has_among_all(cases):
    both, one = cases.evaluate(), cases.evaluate(choice=Choice(classes=("soma",)))
    assert list(one.names.classes) == ["soma"] and one.pooled["soma"] == both.pooled["soma"]


def test_region_is_measured_as_its_labels_joined(cases, tmp_path):
    found = cases.evaluate(choice=Choice(regions={"tissue": ("axon", "2")}))
    for folder in (cases.predictions, cases.references):
        for path in folder.glob("*.tif"):
            tifffile.imwrite(path, (tifffile.imread(path) > 0).astype(np.uint8))
    joined = cases.evaluate()
    assert found.pooled["tissue"] == joined.pooled["axon"]
    assert cases.run("--regions", "tissue=1+2", "--classes", "tissue") == 0
    assert cases.scores["classes"] == {"tissue": [1, 2]}


def test_regions_of_nnunet_are_measured(cases):
    expected = cases.evaluate(choice=Choice(regions={"whole": ("1", "2")}))
    cases.describe({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
    found = cases.evaluate()
    assert found.pooled["whole"] == expected.pooled["whole"] and found.pooled["core"] == expected.pooled["soma"]
    assert found.names.classes == {"whole": 1, "core": 2}  # as nnU-Net paints them
    cases.describe({"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [2, 1]})
    assert cases.evaluate().pooled["core"] == expected.pooled["soma"]


# --- tolerance and units ---


def test_tolerance_is_a_length_and_two_voxels_by_default(cases):
    two, micrometre, wide = (cases.evaluate(tolerance=tolerance) for tolerance in (None, 1.0, 3.0))
    assert two.tolerance_of(two.cases[0]) == 1.0
    assert two.pooled == micrometre.pooled
    assert wide.pooled["axon"]["clDice_tolerant"] > two.pooled["axon"]["clDice_tolerant"]


def test_lengths_are_in_the_unit_of_the_voxel_size(cases):
    small = cases.evaluate()
    for path in [*cases.predictions.glob("*.json"), *cases.references.glob("*.json")]:
        path.write_text('{"spacing": [6.0, 1.5, 1.5]}')
    large = cases.evaluate()
    for name, one in small.measured.items():
        assert large.mean["axon"][name] == pytest.approx(small.mean["axon"][name] * 3**one.dimension, nan_ok=True)


def test_unknown_voxel_size_and_empty_references_are_told(cases, capsys):
    for path in [*cases.predictions.glob("brain_1.json"), *cases.references.glob("brain_1.json")]:
        path.unlink()
    tifffile.imwrite(cases.references / "brain_2.tif", np.where(labels(2) == 2, 1, labels(2)).astype(np.uint8))
    assert cases.run() == 0
    printed = capsys.readouterr().err
    assert "warning: the voxel size of brain_1 is not known" in printed
    assert "warning: no annotated voxel of soma in the reference of brain_2" in printed
    assert len(cases.scores["warnings"]) == 2 and cases.scores["cases"][1]["spacing_zyx"] is None


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
    assert "expected an nnU-Net results folder" in refused(capsys, [cases.predictions])
    assert "has no references" in refused(capsys, [cases.predictions / "brain_0.tif"])


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


@pytest.mark.parametrize("spoil", [other_shape, other_channels, logits, no_number, no_file, damaged, other_array],
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


# --- how ---


def test_scores_do_not_depend_on_the_number_of_workers(cases, capsys):
    one = cases.evaluate(probabilities=cases.predictions)
    two = cases.evaluate(probabilities=cases.predictions, choice=Choice(workers=2))
    assert [case.values for case in one.cases] == [case.values for case in two.cases]
    assert [case.sha256 for case in one.cases] == [case.sha256 for case in two.cases]
    assert one.pooled == two.pooled
    tifffile.imwrite(cases.references / "brain_1.tif", np.full(SHAPE, 9, np.uint8))
    assert "holds label 9" in refused(capsys, [cases.predictions, cases.references, "--workers", "2"])


def test_small_memory_measures_in_blocks_with_the_same_overlap(cases, capsys):
    assert cases.run() == 0
    whole = cases.scores
    assert cases.run("--memory", "0.2M") == 0
    assert "left out: clDice" in capsys.readouterr().err
    parts = cases.scores
    assert parts["cases"][0]["blocks"] > 1 and "clDice" in parts["left_out_measures"]
    for name in parts["measures"]:
        assert parts["pooled"]["axon"][name] == whole["pooled"]["axon"][name]


def test_only_the_formats_asked_for_are_written(cases):
    out = cases.predictions / "evaluation"
    assert main([str(cases.predictions), str(cases.references), "--format", "csv"]) == 0
    assert os.listdir(out) == ["scores.csv"]
    with (out / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["row"] for row in rows} == {"case", "mean_over_cases", "cases_in_mean", "pooled"}


def test_pooled_and_mean_cannot_be_confused(cases):
    """Two cases of unlike size: the two numbers differ, and each stands under its own name."""
    cases.write("brain_3", np.ones((5, 9, 9), np.uint8), np.zeros((5, 9, 9), np.uint8))
    assert cases.run() == 0
    scores, found = cases.scores, cases.evaluate()
    assert scores["mean_over_cases"]["axon"]["Dice"] == found.mean["axon"]["Dice"]
    assert scores["pooled"]["axon"]["Dice"] == found.pooled["axon"]["Dice"] > found.mean["axon"]["Dice"]
    assert scores["deviation_over_cases"]["axon"]["Dice"] == pytest.approx(
        np.std([case.values["axon"]["Dice"] for case in found.cases], ddof=1))
    assert "Dice" not in scores


def test_summary_holds_the_headlines_of_every_class(cases):
    text = summary_text(cases.evaluate())
    assert text.startswith("3 cases, tolerance two voxels")
    for word in ("axon", "soma", "mean", "pooled", "Dice", "more measures are in the files"):
        assert word in text
    assert max(map(len, text.splitlines())) < 120


def test_counts_of_every_measure_can_be_added_and_written(cases):
    found = cases.evaluate(choice=Choice(measures=tuple(families())), probabilities=cases.predictions)
    twice = {name: measures.added(counts, counts) for name, counts in found.pooled_counts.items()}
    assert set(twice) == {"axon", "soma"}
    assert all(not math.isinf(value) for value in found.pooled["axon"].values())
    assert cases.run("--measures", ",".join(families()), "--probabilities", cases.predictions) == 0
