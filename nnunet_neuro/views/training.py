"""Training of the views through nnU-Net's own commands; what is finished is not done again."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_neuro.plain_commands import run_command
from nnunet_neuro.views.models import ViewModel, find_dataset, nnunet_folder
from nnunet_neuro.views.orientation import orientation_note
from nnunet_neuro.views.planner import DATASET_KEY, MEMORY_KEY, dataset_digest
from nnunet_neuro.views.scheme import CONFIGURATION, checked_views, planner_name, plans_name

Say = Callable[[str], None]


def train_views(dataset: str, *, views: Sequence[str], folds: Sequence[str] | None = None, trainer: str = "nnUNetTrainer", device: str,
                gpu_memory: float | None = None, say: Say) -> list[ViewModel]:
    """Plan, preprocess and train each view, each step as a plain command that is printed before it runs.

    A view is planned anew where its plans were made from another state of the dataset. A training that was begun goes on from its last
    checkpoint; a finished one without validation probabilities is only validated. Nothing that was trained is ever removed.

    Args:
        dataset: id or name of a raw dataset.
        views: names, see `scheme.VIEWS`.
        folds: folds of the cross-validation, or "all"; None takes those of the dataset's splits_final.json, else 0 to 4.
        trainer: name of the trainer class.
        device: nnU-Net's `-device`.
        gpu_memory: gigabytes that patch and batch are planned for; None takes the planner's.
        say: takes each line for the user.

    Returns:
        The models.

    Raises:
        FileNotFoundError, ValueError: bad input, or a command that failed; one sentence, and the end of the command's output.
    """
    views, name = checked_views(views), find_dataset(dataset)
    raw = nnunet_folder("nnUNet_raw") / name
    images = _training_images(raw)
    _refuse_flat_images(raw, images)
    reader = json.loads((raw / "dataset.json").read_text(encoding="utf-8")).get("overwrite_image_reader_writer", "")
    if note := orientation_note({case: files[0] for case, files in images.items()}, reader=reader):
        say(f"Note: {note}.")
    logs = nnunet_folder("nnUNet_results") / name / "views" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    models = [ViewModel(view, name, trainer) for view in views]
    for model in models:
        _refuse_other_dataset(model, raw)
    for view in views:
        say(f"\nPlan and preprocess the view {view}")
        _plan(raw, view, sorted(images), gpu_memory=gpu_memory, logs=logs, say=say)
    for model in models:
        _refuse_other_plans(model)
        for fold in folds or _folds_of(raw):
            say(f"\nTrain fold {fold} of the view {model.view}")
            _train(model, fold, device=device, logs=logs, say=say)
    return models


def _training_images(raw: Path) -> dict[str, list[Path]]:
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    if not (raw / "dataset.json").is_file():
        raise FileNotFoundError(f"no {raw / 'dataset.json'}; expected a raw dataset of nnU-Net, such as nnneuro_convert makes")
    found = get_filenames_of_train_images_and_targets(str(raw)) if (raw / "imagesTr").is_dir() or _lists_files(raw) else {}
    if not found:
        raise FileNotFoundError(f"no training images in {raw / 'imagesTr'}; expected files CASE_0000 with the ending of dataset.json")
    missing = [path for case in found.values() for path in (*case["images"], case["label"]) if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"no file {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}; every training case needs "
                                f"its channels and its label: complete the dataset")
    return {str(case): [Path(path) for path in files["images"]] for case, files in found.items()}


def _lists_files(raw: Path) -> bool:
    return "dataset" in json.loads((raw / "dataset.json").read_text(encoding="utf-8"))


def _refuse_flat_images(raw: Path, images: dict[str, list[Path]]) -> None:
    """As the planner does, but before minutes are spent on the fingerprint."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    dataset_json = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    first = str(next(iter(images.values()))[0])
    reader = determine_reader_writer_from_dataset_json(dataset_json, first, verbose=False)
    shape = reader().read_images((first,))[0].shape[1:]
    if min(shape) == 1:
        raise ValueError(f"{first} is a single slice, of shape {', '.join(map(str, shape))} (z, y, x); views are planes of volumes: train "
                         f"this dataset with nnUNetv2_train and the configuration 2d")


def _folds_of(raw: Path) -> tuple[str, ...]:
    splits = (raw / "splits_final.json", nnunet_folder("nnUNet_preprocessed") / raw.name / "splits_final.json")
    number = next((len(json.loads(path.read_text(encoding="utf-8"))) for path in splits if path.is_file()), 5)
    return tuple(map(str, range(number)))


# --- planning ----------------------------------------------------------------------------------------------------------------------


def _plan(raw: Path, view: str, cases: Sequence[str], *, gpu_memory: float | None, logs: Path, say: Say) -> None:
    from nnunetv2.configuration import default_num_processes
    from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id

    folder = nnunet_folder("nnUNet_preprocessed") / raw.name
    plans_file = folder / f"{plans_name(view)}.json"
    plans = json.loads(plans_file.read_text(encoding="utf-8")) if plans_file.is_file() else {}
    holds = plans.get(DATASET_KEY) == dataset_digest(raw)
    if holds and gpu_memory not in (None, plans[MEMORY_KEY]):
        raise ValueError(f"the plans {plans_file} were made for {plans[MEMORY_KEY]:g} GB, and {gpu_memory:g} GB are wanted; leave out "
                         f"--gpu-memory, or remove the plans and what was trained with them")
    if holds:
        gpu_memory = plans[MEMORY_KEY]
    processes = str(default_num_processes)
    command = ["nnUNetv2_plan_and_preprocess", "-d", str(convert_dataset_name_to_id(raw.name)), "-pl", planner_name(view),
               "-c", CONFIGURATION, "-npfp", processes, "-np", processes, "--verify_dataset_integrity"]
    if gpu_memory is not None:
        command += ["-gpu_memory_target", f"{gpu_memory:g}"]
    if plans and not holds:
        command += ["--clean"]  # nnU-Net would keep the fingerprint of the dataset as it was
    if holds and _is_preprocessed(folder, plans, cases):
        say(f"  done already: {shlex.join(command)}")
        return
    say(f"  $ {shlex.join(command)}")
    # nnU-Net 2.8.1 sets torch's threads to this number while it plans; 0, which is right for training, is an error there
    variables = {"nnUNet_n_proc_DA": "1"} if os.environ.get("nnUNet_n_proc_DA") == "0" else {}
    run_command(command, log=logs / f"plan_{view}.log", say=say, variables=variables)


def _is_preprocessed(folder: Path, plans: dict, cases: Sequence[str]) -> bool:
    data = folder / plans["configurations"][CONFIGURATION]["data_identifier"]
    # the last of a case's files that nnU-Net writes
    return all((data / f"{case}.pkl").is_file() for case in cases)


# --- training ----------------------------------------------------------------------------------------------------------------------


def _refuse_other_dataset(model: ViewModel, raw: Path) -> None:
    """Before the dataset is planned anew: a model that would no longer fit."""
    plans = _trained_plans(model)
    if plans is not None and plans.get(DATASET_KEY) != dataset_digest(raw):
        raise ValueError(f"{model.folder} was trained before {raw / 'dataset.json'} changed; move the folder away to train anew, or "
                         f"restore the dataset")


def _refuse_other_plans(model: ViewModel) -> None:
    """A model of other plans, which new folds would not fit."""
    plans = _trained_plans(model)
    current = nnunet_folder("nnUNet_preprocessed") / model.dataset / f"{plans_name(model.view)}.json"
    if plans is not None and plans != json.loads(current.read_text(encoding="utf-8")):
        raise ValueError(f"{model.folder} was trained with other plans than {current}; move the folder away to train anew, or restore the "
                         f"plans")


def _trained_plans(model: ViewModel) -> dict | None:
    """The plans of a model that has at least one checkpoint."""
    plans = model.folder / "plans.json"
    trained = plans.is_file() and any(model.folder.glob("fold_*/checkpoint_*.pth"))
    return json.loads(plans.read_text(encoding="utf-8")) if trained else None


def _train(model: ViewModel, fold: str, *, device: str, logs: Path, say: Say) -> None:
    folder = model.fold_folder(fold)
    command = ["nnUNetv2_train", model.dataset, CONFIGURATION, fold, "-tr", model.trainer, "-p", plans_name(model.view), "-device", device,
               "--npz"]
    if (folder / "checkpoint_final.pth").is_file():
        if _is_validated(model, fold):
            say(f"  done already: {shlex.join(command)}")
            return
        command.append("--val")
    elif any((folder / f"checkpoint_{name}.pth").is_file() for name in ("latest", "best")):
        command.append("--c")
    say(f"  $ {shlex.join(command)}")
    run_command(command, log=logs / f"{model.trainer}_{model.view}_fold_{fold}.log", say=say)


def _is_validated(model: ViewModel, fold: str) -> bool:
    """Whether every validation case has its probabilities; nnU-Net writes the summary last."""
    validation = model.fold_folder(fold) / "validation"
    if not (validation / "summary.json").is_file():
        return False
    ending = model.dataset_json()["file_ending"]
    summary = json.loads((validation / "summary.json").read_text(encoding="utf-8"))
    names = [Path(case["prediction_file"]).name.removesuffix(ending) for case in summary["metric_per_case"]]
    return all((validation / f"{name}.npz").is_file() for name in names)
