"""`nnneuro_models finetune`: the whole command, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger

from nnunet_neuro.commands.models import main
from nnunet_neuro.models.pretrained import load_pretrained
from tests.finetuning import TUNING, described
from tests.tiny_models import tiny_model


class Threads:
    """In place of the module multiprocessing, where nnU-Net makes a pool of it whose workers import everything again."""

    Pool = ThreadPool

    @classmethod
    def get_context(cls, method: str) -> type[Threads]:
        return cls


@pytest.fixture
def in_process(monkeypatch) -> list[str]:
    """nnU-Net's commands run in this process; the lines that ran."""
    from nnunetv2.evaluation import evaluate_predictions
    from nnunetv2.experiment_planning import plan_and_preprocess_entrypoints as planning
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
    from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import entry_point_move_plans_between_datasets
    from nnunetv2.preprocessing.preprocessors import default_preprocessor
    from nnunetv2.run.run_training import run_training_entry
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

    for module in (evaluate_predictions, fingerprint_extractor, default_preprocessor, trainer_module):
        monkeypatch.setattr(module, "multiprocessing", Threads)
    extractor, extract = fingerprint_extractor.DatasetFingerprintExtractor, fingerprint_extractor.DatasetFingerprintExtractor.run

    def extract_from_few_voxels(self, **options) -> dict:
        self.num_foreground_voxels_for_intensitystats = 1000  # not 100 million
        return extract(self, **options)

    monkeypatch.setattr(extractor, "run", extract_from_few_voxels)
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda self, folder: None)
    entries = {"nnUNetv2_move_plans_between_datasets": entry_point_move_plans_between_datasets,
               "nnUNetv2_extract_fingerprint": planning.extract_fingerprint_entry, "nnUNetv2_preprocess": planning.preprocess_entry,
               "nnUNetv2_train": run_training_entry}
    ran: list[str] = []

    def run(command, *, log, say, variables=None) -> None:
        ran.append(" ".join(command))
        threads = torch.get_num_threads()
        with pytest.MonkeyPatch.context() as patch, log.open("w") as stream, contextlib.redirect_stdout(stream):
            patch.setattr(sys, "argv", list(command))
            for name, value in (variables or {}).items():
                patch.setenv(name, value)
            entries[command[0]]()
        torch.set_num_threads(threads)

    monkeypatch.setattr("nnunet_neuro.models.finetune.run_command", run)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("NNNEURO_ITERATIONS", "1")
    monkeypatch.setenv("NNNEURO_VAL_ITERATIONS", "1")
    return ran


def write_dataset(raw: Path, *, channels: int = 2, labels: dict | None = None) -> Path:
    folder = raw / "Dataset321_Tuned"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    rng = np.random.default_rng(0)
    for case in ("a", "b", "c"):
        mask = np.zeros((14, 20, 20), np.uint8)
        mask[3:7, 4:9, 4:9], mask[8:12, 10:16, 8:12] = 1, 2
        for channel in range(channels):
            image = SimpleITK.GetImageFromArray(rng.normal(mask * 3, 1).astype(np.float32))
            SimpleITK.WriteImage(image, str(folder / "imagesTr" / f"{case}_{channel:04}.nii.gz"))
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(mask), str(folder / "labelsTr" / f"{case}.nii.gz"))
    (folder / "dataset.json").write_text(json.dumps(described(
        channels, labels or {"background": 0, "edge": 1, "soma": 2}, numTraining=3) | {"file_ending": ".nii.gz"}))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))
    return folder


TUNE = ("-d", "321", "-device", "cpu", "--epochs", "1")


@pytest.mark.slow
def test_one_command_does_it_all_and_repeats_nothing(small_models, nnunet_folders, in_process, capsys):
    write_dataset(nnunet_folders.raw)
    command = ["finetune", str(small_models["one"]), *TUNE]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in in_process] == [
        "nnUNetv2_move_plans_between_datasets", "nnUNetv2_extract_fingerprint", "nnUNetv2_preprocess", "nnUNetv2_train"]
    assert all(line in printed.err for line in in_process), "each is printed"
    assert "1 to 2 channels: repeated, divided by 2" in printed.err and "background, edge carried over, soma new" in printed.err
    results = nnunet_folders.results / "Dataset321_Tuned"
    fold = results / f"{TUNING}__nnUNetPlansTinyFromTiny__3d_fullres" / "fold_0"
    assert printed.out == f"{fold}\n"
    assert (fold / "validation" / "summary.json").is_file() and (fold / "checkpoint_final.pth").is_file()
    log = next(fold.glob("training_log*")).read_text()
    assert "Segmentation heads: those of" in log and "Learning rate: from 0.001 on (set by the trainer)" in log
    assert json.loads((fold.parent / "plans.json").read_text())["image_reader_writer"] == "SimpleITKIO", "the model's was another"
    assert (nnunet_folders.preprocessed / "Dataset321_Tuned" / "splits_final.json").is_file()

    in_process.clear()
    assert main(command) == 0 and in_process == []
    assert capsys.readouterr().err.count("done already") == 5

    (fold / "validation" / "summary.json").unlink()
    assert main(command) == 0
    assert [line.split()[0] for line in in_process] == ["nnUNetv2_train"] and in_process[0].endswith("--val")
    in_process.clear()
    (fold / "checkpoint_final.pth").rename(fold / "checkpoint_latest.pth")
    assert main([*command[:-1], "2"]) == 0
    assert len(in_process) == 1 and in_process[0].endswith("--c")
    assert torch.load(fold / "checkpoint_final.pth", weights_only=False)["current_epoch"] == 2

    capsys.readouterr()
    assert main(["finetune", str(small_models["two"]), *TUNE]) == 2, "another model for the same plans"
    assert "is there already, made from another model" in capsys.readouterr().err


@pytest.fixture
def broken(small_models, tmp_path) -> Path:
    """A checkpoint without the plans that belong to it."""
    content = torch.load(small_models["one"] / "fold_0" / "checkpoint_final.pth", weights_only=False)
    content["init_args"] = {name: value for name, value in content["init_args"].items() if name != "plans"}
    torch.save(content, tmp_path / "alone.pth")
    return tmp_path / "alone.pth"


@pytest.mark.parametrize(("source", "options", "sentence"), [
    ("no_such_model", (), "no model 'no_such_model' is listed"),
    ("nowhere/checkpoint.pth", (), "no model nowhere/checkpoint.pth; expected a checkpoint"),
    ("one", ("-d", "999"), "there is no dataset '999'"),
    ("one", ("-c", "3d_lowres"), "have no configuration '3d_lowres', only 3d_fullres, 2d"),
    ("one", ("-c", "2d"), "is 3D, configuration 3d_fullres, and 2d is 2D"),
    ("one", ("-tr", "nnUNetTrainerNo"), "there is no trainer nnUNetTrainerNo"),
    ("one", ("-tr", "nnUNetTrainer"), "nnUNetTrainer does not read the number of epochs"),
    ("one", ("-tr", "nnUNetTrainerAttentionUNet"), "it is of another architecture"),
    ("one", ("--patch", "15,24,20"), "the network takes 3 axes of multiples of 2, 4, 4"),
    ("one", ("--patch", "16,24"), "the network takes 3 axes"),
    ("one", ("-p", "a__b"), "the new plans would be called 'a__b'"),
    ("one", ("-f", "first"), "the fold is 'first'"),
    ("other", (), "it is of another architecture: .* layers do not fit, such as .*, found .*, expected .*"),
    ("broken", (), "no plans that belong to the checkpoint"),
    ("empty", (), "has a checkpoint_final.pth; expected the folder"),
])
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(
        source, options, sentence, small_models, broken, nnunet_folders, tmp_path, capsys):
    write_dataset(nnunet_folders.raw)
    one = tmp_path / "one"
    both = tmp_path / "both"
    for folder in (one, both):
        tiny_model(folder)
    flat = json.loads((small_models["flat"] / "plans.json").read_text())
    plans = json.loads((one / "plans.json").read_text())
    plans["configurations"]["2d"] = flat["configurations"]["2d"]
    (one / "plans.json").write_text(json.dumps(plans))
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 12]
    (both / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "empty").mkdir()
    given = {"one": one, "other": both, "broken": broken, "empty": tmp_path / "empty"}.get(source, source)
    assert main(["finetune", str(given), *TUNE, *options]) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("nnneuro_models: error: ")]
    assert re.search(sentence, line) and printed.out == "" and printed.err.endswith(line + "\n")
    assert not list(nnunet_folders.preprocessed.iterdir()) and not list(nnunet_folders.results.iterdir())


@pytest.mark.parametrize(("content", "sentence"), [
    ("{", "dataset.json is no JSON"), ("{}", "lacks channel_names or labels"), (None, "expected a raw dataset of nnU-Net"),
])
def test_bad_descriptions_are_refused(content, sentence, small_models, nnunet_folders, capsys):
    path = write_dataset(nnunet_folders.raw) / "dataset.json"
    path.unlink() if content is None else path.write_text(content)
    assert main(["finetune", str(small_models["one"]), *TUNE]) == 2
    assert sentence in capsys.readouterr().err and not list(nnunet_folders.results.iterdir())


def test_plans_that_name_a_program_are_refused(small_models, tmp_path):
    folder = shutil.copytree(small_models["one"], tmp_path / small_models["one"].name)
    plans = json.loads((folder / "plans.json").read_text())
    for configuration in plans["configurations"].values():
        configuration["architecture"]["arch_kwargs"]["nonlin"] = "subprocess.Popen"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="'subprocess.Popen'; expected network parts"):
        load_pretrained(str(folder))


def test_a_dataset_without_images_or_with_another_split_is_refused(small_models, nnunet_folders, in_process, capsys):
    raw = write_dataset(nnunet_folders.raw)
    preprocessed = nnunet_folders.preprocessed / raw.name
    preprocessed.mkdir()
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": ["a", "c"], "val": ["b"]}]))
    assert main(["finetune", str(small_models["one"]), *TUNE]) == 2
    assert "splits the cases otherwise than" in capsys.readouterr().err
    for image in (raw / "imagesTr").iterdir():
        image.unlink()
    assert main(["finetune", str(small_models["one"]), *TUNE]) == 2
    assert "no training images in" in capsys.readouterr().err and in_process == []


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_missing_folders_are_named(variable, small_models, nnunet_folders, monkeypatch, capsys):
    write_dataset(nnunet_folders.raw)
    monkeypatch.delenv(variable)
    assert main(["finetune", str(small_models["one"]), *TUNE]) == 2
    assert f"the environment variable {variable} is not set; export {variable}=FOLDER" in capsys.readouterr().err
