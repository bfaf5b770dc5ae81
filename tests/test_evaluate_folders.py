"""nnneuro_evaluate on folders: the scores it writes and the input it refuses."""

import csv
import errno
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from nnunet_neuro.commands.evaluate import main
from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.pairing import pair_volumes
from nnunet_neuro.evaluate.run import Choice, evaluate_folders

WITH_SURFACES = Choice(measures=("overlap", "centrelines", "surfaces"))
LABELS = {"background": 0, "axon": 1, "soma": 2, "ignore": 3}


def volume(seed, *, shape=(6, 24, 26)):
    """Labels 0, 1, 2 and, in one corner, 3 for ignore."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    labels = np.digitize(smooth, np.quantile(smooth, [0.8, 0.93])).astype(np.uint8)
    labels[:, :6, :8] = 3
    return labels


class Folders:
    """A dataset of two cases as nnU-Net lays it out, and predictions of it."""

    def __init__(self, root: Path):
        self.predictions, self.dataset = root / "predictions", root / "Dataset001_Axons"
        self.references, self.images = self.dataset / "labelsTs", self.dataset / "imagesTs"
        for folder in (self.predictions, self.references, self.images):
            folder.mkdir(parents=True)
        self.write_labels(self.dataset, LABELS)
        for number, case in enumerate(("brain_1", "brain_2")):
            reference = volume(number)
            prediction = np.where(reference == 3, 1, np.roll(reference, 1, axis=2))
            prediction[prediction == 3] = 0
            self.write(self.references, case, reference)
            self.write(self.predictions, case, prediction.astype(np.uint8))
            tifffile.imwrite(self.images / f"{case}_0000.tif", reference * np.uint16(1000))

    @staticmethod
    def write_labels(folder: Path, labels: dict) -> None:
        (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".tif"}))

    @staticmethod
    def write(folder: Path, case: str, voxels: np.ndarray, *, spacing=(2.0, 1.0, 1.0)) -> None:
        tifffile.imwrite(folder / f"{case}.tif", voxels)
        if spacing is not None:
            (folder / f"{case}.json").write_text(json.dumps({"spacing": spacing}))

    @property
    def out(self) -> Path:
        return self.predictions / "evaluation"

    def run(self, *options) -> int:
        return main([str(self.predictions), str(self.references), *map(str, options)])


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


def test_writes_scores_and_report_and_prints_their_paths(folders, capsys):
    assert folders.run("--images", folders.images) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(folders.out / name) for name in ("scores.json", "scores.csv", "report.html")]
    assert "pooled" in printed.err and "axon" in printed.err and "measuring" in printed.err
    assert sorted(path.name for path in folders.out.iterdir()) == ["report.html", "scores.csv", "scores.json"]


def test_pooled_is_the_measure_of_summed_counts_and_mean_the_mean_of_cases(folders):
    found = evaluate_folders(folders.predictions, folders.references, progress=False)
    for name in ("axon", "soma"):
        both = [case.counts[name] for case in found.cases]
        summed = measures.added(*both)
        for key, one in found.measured.items():
            assert found.pooled[name][key] == one.value(summed)
            assert found.mean[name][key] == pytest.approx(np.mean([case.values[name][key] for case in found.cases]), nan_ok=True)
    assert found.files == []


def test_pooled_and_mean_of_one_case_are_that_case(folders):
    (folders.predictions / "brain_2.tif").unlink()
    found = evaluate_folders(folders.predictions, folders.references, only_predicted=True, progress=False)
    assert found.pooled == found.mean == found.cases[0].values
    assert found.left_out == ["brain_2"]


def test_surfaces_are_measured_where_borders_are_annotated_or_when_asked_for(folders):
    usual = evaluate_folders(folders.predictions, folders.references, progress=False)
    assert "NSD" not in usual.measured and "ignore label" in usual.left_out_measures["NSD"]
    assert "NSD" in evaluate_folders(folders.predictions, folders.references, choice=WITH_SURFACES, progress=False).measured
    folders.write_labels(folders.dataset, {name: label for name, label in LABELS.items() if name != "ignore"} | {"other": 3})
    assert "NSD" in evaluate_folders(folders.predictions, folders.references, progress=False).measured


def test_perfect_predictions_get_the_best_values_even_with_the_ignore_label_in_them(folders):
    found = evaluate_folders(folders.references, folders.references, choice=WITH_SURFACES, progress=False)
    for name in ("axon", "soma"):
        best = {key: one.best for key, one in found.measured.items()}
        assert found.pooled[name] == found.mean[name] == best


def test_case_empty_on_both_sides_is_left_out_of_the_mean_and_said_so(folders):
    before = evaluate_folders(folders.predictions, folders.references, choice=WITH_SURFACES, progress=False)
    for folder in (folders.predictions, folders.references):
        folders.write(folder, "brain_3", np.zeros((6, 24, 26), np.uint8))
    found = evaluate_folders(folders.predictions, folders.references, out=folders.out, choice=WITH_SURFACES, progress=False)
    assert found.mean["axon"]["Dice"] == before.mean["axon"]["Dice"]
    for key in ("Dice", "IoU", "precision", "recall", "clDice", "NSD", "HD95"):
        assert found.pooled["axon"][key] == before.pooled["axon"][key]
    assert found.pooled["axon"]["accuracy"] > before.pooled["axon"]["accuracy"]  # which counts background
    assert found.cases_in_mean["axon"]["Dice"] == 2
    scores = json.loads((folders.out / "scores.json").read_text())
    assert scores["cases"][2]["classes"]["axon"]["measures"]["Dice"] is None
    assert "2 of 3" in (folders.out / "report.html").read_text()


def test_empty_prediction_counts_as_zero(folders):
    folders.write(folders.predictions, "brain_1", np.zeros((6, 24, 26), np.uint8))
    found = evaluate_folders(folders.predictions, folders.references, choice=WITH_SURFACES, progress=False)
    for key, one in found.measured.items():
        if one.prediction_empty is not None:
            assert found.cases[0].values["axon"][key] == pytest.approx(one.prediction_empty, nan_ok=True)
    assert found.cases[0].values["axon"]["Dice"] == 0
    assert found.mean["axon"]["Dice"] == found.cases[1].values["axon"]["Dice"] / 2


def test_scores_files_agree_and_record_what_was_compared(folders):
    found = evaluate_folders(folders.predictions, folders.references, images=folders.images, out=folders.out, choice=WITH_SURFACES,
                             progress=False)
    scores = json.loads((folders.out / "scores.json").read_text())
    assert scores["classes"] == {"axon": 1, "soma": 2} and scores["ignore_label"] == 3
    assert scores["tolerance"] is None and [case["tolerance"] for case in scores["cases"]] == [2.0, 2.0]
    assert {"nnunet_neuro", "scikit-image", "numpy", "python"} <= scores["made_with"].keys()
    assert scores["pooled"] == found.pooled and scores["mean_over_cases"] == found.mean
    assert not {"mean", "average"} & scores.keys()
    for counts in [*scores["pooled_counts"].values(), *(case["classes"]["axon"]["counts"] for case in scores["cases"])]:
        assert "true_positive" in counts and all(isinstance(number, int | float) for number in counts.values())
    for case in scores["cases"]:
        assert case["spacing_zyx"] == [2.0, 1.0, 1.0]
        assert case["annotated_voxels"] == case["voxels"] - 6 * 6 * 8
        for role in ("prediction", "reference", "image"):
            content = Path(case[role]["path"]).read_bytes()
            assert case[role]["sha256"] == hashlib.sha256(content).hexdigest()
    rows = list(csv.DictReader((folders.out / "scores.csv").open()))
    assert [row["row"] for row in rows] == ["case"] * 4 + ["mean_over_cases"] * 2 + ["cases_in_mean"] * 2 + ["pooled"] * 2
    assert float(rows[-1]["Dice"]) == pytest.approx(found.pooled["soma"]["Dice"], abs=1e-5)
    assert int(rows[-1]["true_positive"]) == sum(int(row["true_positive"]) for row in rows[:4] if row["class"] == "soma")


def test_what_is_predicted_in_ignored_voxels_changes_no_score(folders):
    before = evaluate_folders(folders.predictions, folders.references, choice=WITH_SURFACES, progress=False)
    for case in ("brain_1", "brain_2"):
        prediction = tifffile.imread(folders.predictions / f"{case}.tif")
        prediction[:, :6, :8] = np.random.default_rng(0).integers(0, 3, (6, 6, 8))
        folders.write(folders.predictions, case, prediction)
    after = evaluate_folders(folders.predictions, folders.references, choice=WITH_SURFACES, progress=False)
    assert [case.counts for case in before.cases] == [case.counts for case in after.cases]


def test_tolerance_changes_the_tolerant_measures_only(folders):
    wide, none = (
        evaluate_folders(folders.predictions, folders.references, tolerance=tolerance, choice=WITH_SURFACES, progress=False).pooled["axon"]
        for tolerance in (3, 0)
    )
    changed = {key for key in wide if wide[key] != none[key]}
    assert changed == {key for key in wide if key.endswith("_tolerant")} | {"NSD"}


def test_flat_png_images(tmp_path):
    from skimage.io import imsave

    (tmp_path / "predictions").mkdir()
    (tmp_path / "labelsTr").mkdir()
    Folders.write_labels(tmp_path, {"background": 0, "myelin": 1})
    reference = np.zeros((30, 40), np.uint8)
    reference[10:13, 5:35] = 1
    for folder in ("predictions", "labelsTr"):
        imsave(tmp_path / folder / "slice.png", reference, check_contrast=False)
    found = evaluate_folders(tmp_path / "predictions", tmp_path / "labelsTr", out=tmp_path / "scores", progress=False)
    assert found.pooled["myelin"]["clDice"] == found.pooled["myelin"]["Dice"] == 1


def test_nifti_with_whole_numbers_in_floats_gives_the_scores_of_the_tiff(folders):
    import nibabel

    expected = evaluate_folders(folders.predictions, folders.references, progress=False)
    for path in [*folders.predictions.glob("*.tif"), *folders.references.glob("*.tif")]:
        voxels = tifffile.imread(path).transpose(2, 1, 0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, 2, 1])), path.with_suffix(".nii.gz"))
        path.unlink()
    found = evaluate_folders(folders.predictions, folders.references, progress=False)
    assert found.pooled_counts == expected.pooled_counts


# --- input that is refused: exit code 2, one sentence, nothing written ---


def missing_reference(folders):
    (folders.references / "brain_2.tif").unlink()
    return "no reference for prediction", "brain_2.tif"


def missing_prediction(folders):
    (folders.predictions / "brain_2.tif").unlink()
    return "no prediction for reference", "brain_2.tif", "--only-predicted"


def other_shape(folders):
    folders.write(folders.predictions, "brain_2", np.zeros((6, 24, 25), np.uint8))
    return "predictions/brain_2.tif has shape (6, 24, 25)", "(6, 24, 26)"


def other_spacing(folders):
    (folders.predictions / "brain_1.json").write_text('{"spacing": [2.0, 1.5, 1.0]}')
    return "predictions/brain_1.tif", "2, 1.5, 1", "2, 1, 1"


def unknown_label(folders):
    folders.write(folders.predictions, "brain_2", np.full((6, 24, 26), 7, np.uint8))
    return "predictions/brain_2.tif holds label 7", "0, 1, 2, 3"


def unknown_reference_label(folders):
    folders.write(folders.references, "brain_2", np.full((6, 24, 26), 255, np.uint8))
    return "labelsTs/brain_2.tif holds label 255", "0, 1, 2, 3"


def not_a_number(folders):
    folders.write(folders.predictions, "brain_1", np.full((6, 24, 26), np.nan, np.float32))
    return "predictions/brain_1.tif holds the value nan", "whole label numbers"


def fractions(folders):
    folders.write(folders.predictions, "brain_1", np.full((6, 24, 26), 0.25, np.float32))
    return "predictions/brain_1.tif holds the value 0.25", "whole label numbers"


def ignored_by_the_prediction(folders):
    folders.write(folders.predictions, "brain_1", np.full((6, 24, 26), 3, np.uint8))
    return "predictions/brain_1.tif holds the ignore label 3 in 3456 voxels", "brain_1.tif"


def no_predictions(folders):
    for path in folders.predictions.glob("*.tif"):
        path.unlink()
    return "no prediction in", "predictions", ".tif"


def no_folder(folders):
    folders.references.rename(folders.dataset / "elsewhere")
    return "no folder", "labelsTs"


def two_files_of_a_case(folders):
    folders.write(folders.references, "brain_1", volume(0))
    os.link(folders.references / "brain_1.tif", folders.references / "brain_1.tiff")
    return "brain_1.tif and brain_1.tiff", "both case brain_1"


def no_dataset_json(folders):
    (folders.dataset / "dataset.json").unlink()
    return "no dataset.json", "--dataset-json"


def dataset_json_without_labels(folders):
    (folders.dataset / "dataset.json").write_text("{}")
    return "dataset.json holds no labels", "background"


def labels_with_fractions(folders):
    folders.write_labels(folders.dataset, {"background": 0, "whole": [1, 2.5]})
    return "label 'whole'", "whole number"


def labels_as_text(folders):
    folders.write_labels(folders.dataset, {"0": "background", "1": "axon"})
    return "label '0'", "whole number"


def dataset_jsons_that_disagree(folders):
    folders.write_labels(folders.predictions, {"background": 0, "soma": 1, "axon": 2, "ignore": 3})
    return "1 soma, 2 axon", "1 axon, 2 soma", "--dataset-json"


def two_names_of_a_label(folders):
    folders.write_labels(folders.dataset, {"background": 0, "axon": 1, "fibre": 1, "soma": 2})
    return "calls label 1 both 'axon' and 'fibre'", "one name for each label"


def truncated_prediction(folders):
    path = folders.predictions / "brain_2.tif"
    path.write_bytes(path.read_bytes()[:-2000])
    return "predictions/brain_2.tif", "truncated"


BAD_INPUT = [
    missing_reference,
    missing_prediction,
    other_shape,
    other_spacing,
    unknown_label,
    unknown_reference_label,
    not_a_number,
    fractions,
    ignored_by_the_prediction,
    no_predictions,
    no_folder,
    two_files_of_a_case,
    no_dataset_json,
    dataset_json_without_labels,
    labels_with_fractions,
    labels_as_text,
    dataset_jsons_that_disagree,
    two_names_of_a_label,
    truncated_prediction,
]


def refused(folders, capsys, *options) -> str:
    """The one sentence of a refusal."""
    capsys.readouterr()
    assert folders.run(*options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    sentences = [line for line in printed.err.splitlines() if line.startswith("nnneuro_evaluate: error: ")]
    assert len(sentences) == 1 and printed.err.endswith(f"{sentences[0]}\n")
    assert "Traceback" not in printed.err
    assert not folders.out.exists()
    return sentences[0]


@pytest.mark.parametrize("spoil", BAD_INPUT, ids=lambda spoil: spoil.__name__)
def test_bad_input_ends_in_one_sentence(folders, capsys, spoil):
    expected = spoil(folders)
    sentence = refused(folders, capsys)
    for words in expected:
        assert words in sentence


def test_nifti_with_another_orientation_is_refused(folders, capsys):
    import nibabel

    for folder, affine in ((folders.predictions, [1, 1, 2, 1]), (folders.references, [-1, 1, 2, 1])):
        for path in folder.glob("*.tif"):
            path.unlink()
        nibabel.save(nibabel.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.diag(affine)), folder / "brain.nii.gz")
    assert "oriented in space unlike" in refused(folders, capsys)


def test_missing_image_is_refused(folders, capsys):
    (folders.images / "brain_2_0000.tif").unlink()
    sentence = refused(folders, capsys, "--images", folders.images)
    assert "no image of case brain_2" in sentence and "brain_2_0000.tif" in sentence


def test_folder_without_training_logs_is_refused(folders, capsys):
    assert "no training log in" in refused(folders, capsys, "--training", folders.images)


def test_negative_tolerance_is_refused(folders, capsys):
    assert "tolerance is -1" in refused(folders, capsys, "--tolerance", "-1")


def test_file_as_out_is_refused_before_anything_is_measured(folders, capsys):
    path = folders.dataset / "dataset.json"
    before = path.read_bytes()
    assert "is a file" in refused(folders, capsys, "--out", path)
    assert path.read_bytes() == before


def test_folder_that_cannot_be_written_is_refused_before_anything_is_measured(folders, capsys, monkeypatch):
    def measure(*arguments, **options):
        raise AssertionError("measured first")

    monkeypatch.setattr("nnunet_neuro.evaluate.run.score_cases", measure)
    inside = folders.dataset / "dataset.json" / "deep" / "scores"
    assert f"{folders.dataset / 'dataset.json'} is a file; expected a folder" in refused(folders, capsys, "--out", inside)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(folders.predictions))
    assert f"no permission to write into {folders.predictions}" in refused(folders, capsys)


def test_failure_while_writing_ends_in_one_sentence(folders, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    capsys.readouterr()
    assert folders.run("--format", "json") == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "could not be written into" in sentence and "No space left" in sentence and "--out" in sentence
    assert list(folders.out.iterdir()) == []


@pytest.mark.parametrize("change", [np.diag([-1, 1, 1, 1]), np.eye(4) + np.outer([1, 0, 0, 0], [0, 0, 0, 5])], ids=["flipped", "moved"])
def test_micrometres_written_in_millimetres_are_compared_by_voxels(tmp_path, change):
    nibabel = pytest.importorskip("nibabel")
    affine, voxels = np.diag([0.001, 0.001, 0.001, 1]), np.ones((4, 5, 6), np.uint8)
    paths = [tmp_path / f"{name}.nii.gz" for name in ("prediction", "nearly", "other")]
    for path, placed in zip(paths, (affine, affine + 1e-9, affine @ change), strict=True):
        nibabel.save(nibabel.Nifti1Image(voxels, placed), path)
    assert pair_volumes(paths[0], paths[1]).pairs
    with pytest.raises(ValueError, match="placed or oriented in space unlike"):
        pair_volumes(paths[0], paths[2])


def test_unknown_voxel_size_on_one_side_is_allowed(folders):
    for path in folders.references.glob("*.json"):
        path.unlink()
    assert folders.run("--format", "json,csv") == 0


def test_explicit_dataset_json_comes_before_those_found(folders, tmp_path):
    labels_as_text(folders)
    (tmp_path / "chosen").mkdir()
    folders.write_labels(tmp_path / "chosen", LABELS)
    assert folders.run("--dataset-json", tmp_path / "chosen" / "dataset.json", "--format", "json") == 0


def test_failed_second_run_leaves_the_first_results_untouched(folders, capsys):
    assert folders.run("--format", "json,csv") == 0
    before = {path.name: path.read_bytes() for path in folders.out.iterdir()}
    unknown_label(folders)
    assert folders.run("--format", "json,csv") == 2
    assert {path.name: path.read_bytes() for path in folders.out.iterdir()} == before


def test_interruption_leaves_nothing(folders, capsys, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert folders.run("--format", "json,csv") == 2
    assert list(folders.out.iterdir()) == []


def test_real_axons_with_three_annotated_planes(shared_data, tmp_path):
    """A threshold scores in a sane range, a copy scores 1; what is said in unlabelled planes changes nothing."""
    source = shared_data / "ls_trailmap_axons"
    case = "train_original"
    image, reference = (tifffile.imread(source / kind / f"{case}.tif") for kind in ("images", "labels"))
    folders = Folders(tmp_path)
    for path in [*folders.predictions.iterdir(), *folders.references.iterdir(), *folders.images.iterdir()]:
        path.unlink()
    folders.write_labels(folders.dataset, {"background": 0, "axon": 1, "edge": 2, "ignore": 3})
    folders.write(folders.references, case, reference)
    tifffile.imwrite(folders.images / f"{case}_0000.tif", image)
    threshold = np.percentile(image, 80)
    folders.write(folders.predictions, case, (image > threshold).astype(np.uint8))
    found = evaluate_folders(folders.predictions, folders.references, images=folders.images, out=folders.out, progress=False)
    assert 0.3 < found.pooled["axon"]["Dice"] < 0.8
    assert found.pooled["axon"]["clDice"] < found.pooled["axon"]["clDice_tolerant"] < 1
    assert found.cases[0].annotated == 3 * 120 * 120
    unseen = np.where(reference == 3, 0, image > threshold).astype(np.uint8)
    folders.write(folders.predictions, case, unseen)
    again = evaluate_folders(folders.predictions, folders.references, progress=False)
    assert again.pooled == found.pooled
    perfect = evaluate_folders(folders.references, folders.references, progress=False)
    assert all(math.isclose(value, perfect.measured[key].best) for key, value in perfect.pooled["axon"].items())
