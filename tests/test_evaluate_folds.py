"""Cross-validations gathered from nnU-Net's folders."""

import json
import shutil
from pathlib import Path

import pytest

from nnunet_neuro.evaluate.folds import FoldCase, cross_validation_pairs, validation_predictions

DATASET = "Dataset007_Axons"
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
SPLITS = [["a", "d"], ["b"], ["c"]]


class CrossValidation:
    """A model of three folds with the folders that nnU-Net keeps around it."""

    def __init__(self, raw: Path, preprocessed: Path, results: Path):
        self.raw, self.preprocessed, self.model = raw / DATASET, preprocessed / DATASET, results / DATASET / MODEL
        for folder in (self.raw / "labelsTr", self.preprocessed / "gt_segmentations", self.model):
            folder.mkdir(parents=True)
        cases = sorted(case for split in SPLITS for case in split)
        splits = [{"train": [case for case in cases if case not in split], "val": split} for split in SPLITS]
        (self.preprocessed / "splits_final.json").write_text(json.dumps(splits))
        (self.model / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "axon": 1}, "file_ending": ".nii.gz"}))
        (self.model / "plans.json").write_text(json.dumps({"dataset_name": DATASET}))
        for case in cases:
            (self.raw / "labelsTr" / f"{case}.nii.gz").touch()
            (self.preprocessed / "gt_segmentations" / f"{case}.nii.gz").touch()
        for fold, split in enumerate(SPLITS):
            for case in split:
                self.predict(fold, case)
            (self.validation(fold) / "summary.json").touch()

    def validation(self, fold) -> Path:
        return self.model / f"fold_{fold}" / "validation"

    def predict(self, fold, case) -> None:
        self.validation(fold).mkdir(parents=True, exist_ok=True)
        for ending in ("nii.gz", "npz", "pkl"):
            (self.validation(fold) / f"{case}.{ending}").touch()


@pytest.fixture
def trained(nnunet_folders):
    return CrossValidation(nnunet_folders.raw, nnunet_folders.preprocessed, nnunet_folders.results)


def test_every_case_comes_from_the_fold_that_did_not_train_on_it(trained):
    cases, dataset_json = cross_validation_pairs(str(trained.model))
    assert dataset_json == trained.model / "dataset.json"
    assert [(one.case, one.fold) for one in cases] == [("a", "0"), ("b", "1"), ("c", "2"), ("d", "0")]
    assert cases[3] == FoldCase("d", trained.validation(0) / "d.nii.gz", trained.preprocessed / "gt_segmentations" / "d.nii.gz", "0")
    assert all(one.prediction.is_file() and one.reference.is_file() for one in cases)


def test_raw_labels_are_the_references_where_nothing_is_preprocessed(trained):
    shutil.rmtree(trained.preprocessed)
    cases, _ = cross_validation_pairs(trained.model)
    assert {one.reference.parent for one in cases} == {trained.raw / "labelsTr"}


def test_raw_labels_are_the_references_where_a_preprocessed_one_is_missing(trained):
    (trained.preprocessed / "gt_segmentations" / "c.nii.gz").unlink()
    assert {one.reference.parent for one in cross_validation_pairs(trained.model)[0]} == {trained.raw / "labelsTr"}


@pytest.mark.parametrize("prefix", ["", "nnUNet_"])
def test_folders_beside_the_results_are_found_without_environment(tmp_path, monkeypatch, prefix):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}", raising=False)
    made = CrossValidation(*(tmp_path / f"{prefix}{name}" for name in ("raw", "preprocessed", "results")))
    assert {one.reference.parent for one in cross_validation_pairs(made.model)[0]} == {made.preprocessed / "gt_segmentations"}
    monkeypatch.chdir(made.model.parent)
    assert len(cross_validation_pairs(MODEL)[0]) == 4, "a relative path will do"


def test_model_outside_of_its_dataset_folder_knows_its_dataset(trained, tmp_path):
    moved = trained.model.rename(tmp_path / "best_model")
    assert len(cross_validation_pairs(moved)[0]) == 4
    (moved / "plans.json").unlink()
    with pytest.raises(ValueError, match="names no dataset"):
        cross_validation_pairs(moved)


def test_one_fixed_split_is_a_cross_validation_of_one_fold(trained):
    (trained.preprocessed / "splits_final.json").write_text(json.dumps([{"train": ["b", "c"], "val": ["a", "d"]}]))
    for fold in (1, 2):
        shutil.rmtree(trained.model / f"fold_{fold}")
    (trained.model / "fold_all" / "validation").mkdir(parents=True)
    assert [one.case for one in cross_validation_pairs(trained.model)[0]] == ["a", "d"]


def test_folds_can_be_chosen(trained):
    shutil.rmtree(trained.model / "fold_0")
    assert [one.case for one in cross_validation_pairs(trained.model, folds=["1", "2"])[0]] == ["b", "c"]


def test_validation_predictions_are_the_label_files_alone(trained):
    assert list(validation_predictions(trained.model / "fold_0", ".nii.gz")) == ["a", "d"]
    assert validation_predictions(trained.model / "fold_9", ".nii.gz") == {}


def no_fold(trained):
    shutil.rmtree(trained.model / "fold_1")
    return FileNotFoundError, "no predictions of fold 1 in .*fold_1/validation; .* train the fold or .*--val; .*--only-predicted"


def no_validation(trained):
    shutil.rmtree(trained.validation(2))
    return FileNotFoundError, "no predictions of fold 2"


def missing_case(trained):
    (trained.validation(0) / "d.nii.gz").unlink()
    return FileNotFoundError, "no prediction of d in .*fold_0/validation, which splits_final.json has in fold 0"


def case_of_another_split(trained):
    trained.predict(1, "x")
    return ValueError, "has a prediction of x, which splits_final.json does not have in fold 1"


def case_in_two_folds(trained):
    (trained.preprocessed / "splits_final.json").unlink()
    trained.predict(2, "a")
    return ValueError, "case a is validated in fold_0 and in fold_2"


def fold_beyond_the_splits(trained):
    trained.predict(3, "b")
    return ValueError, "case b is validated in fold_1 and in fold_3"


def only_all(trained):
    for fold in (1, 2):
        shutil.rmtree(trained.model / f"fold_{fold}")
    (trained.model / "fold_0").rename(trained.model / "fold_all")
    return FileNotFoundError, "has only fold_all, which was trained on its own validation cases"


def nothing_trained(trained):
    for fold in range(3):
        shutil.rmtree(trained.model / f"fold_{fold}")
    return FileNotFoundError, r"has no fold_\*"


def no_references(trained):
    shutil.rmtree(trained.preprocessed / "gt_segmentations")
    shutil.rmtree(trained.raw)
    return FileNotFoundError, "no references of Dataset007_Axons; expected nnUNet_preprocessed/Dataset007_Axons/gt_segmentations"


def missing_references(trained):
    for folder in (trained.preprocessed / "gt_segmentations", trained.raw / "labelsTr"):
        for case in ("b", "c"):
            (folder / f"{case}.nii.gz").unlink()
    return FileNotFoundError, r"no reference of b \(and 1 more\) in .*gt_segmentations or .*labelsTr; expected a file b.nii.gz"


def bad_splits(trained):
    (trained.preprocessed / "splits_final.json").write_text('{"val": []}')
    return ValueError, "splits_final.json holds no splits"


def bad_dataset_json(trained):
    (trained.model / "dataset.json").write_text("{}")
    return ValueError, "has no file_ending"


def no_dataset_json(trained):
    (trained.model / "dataset.json").unlink()
    return FileNotFoundError, "no dataset.json in .*; expected an nnU-Net results folder"


@pytest.mark.parametrize("spoil", [no_fold, no_validation, missing_case, case_of_another_split, case_in_two_folds, fold_beyond_the_splits,
                                   only_all, nothing_trained, no_references, missing_references, bad_splits, bad_dataset_json,
                                   no_dataset_json])
def test_incomplete_cross_validations_are_refused(trained, spoil):
    kind, sentence = spoil(trained)
    with pytest.raises(kind, match=sentence) as refused:
        cross_validation_pairs(trained.model)
    assert "\n" not in str(refused.value)


def test_fold_all_is_refused(trained):
    with pytest.raises(ValueError, match="fold_all of .* was trained on its own validation cases"):
        cross_validation_pairs(trained.model, folds=["all"])
