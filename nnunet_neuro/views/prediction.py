"""Prediction of volumes by the views, through nnUNetv2_predict, and its fusion."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_neuro.plain_commands import run_command
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.views.fusion import check_method, fuse_files
from nnunet_neuro.views.models import ViewModel, find_dataset, trained_models
from nnunet_neuro.views.scheme import CONFIGURATION, checked_views, plans_name

_VIEWS_FOLDER = "views"
_REQUEST = "request.json"


def predict_views(images: str | Path, output: str | Path, dataset: str, *, views: Sequence[str], folds: Sequence[str] | None = None,
                  trainer: str = "nnUNetTrainer", method: str = "mean", device: str, keep_views: bool = False, progress: bool = True,
                  say: Callable[[str], None]) -> list[Path]:
    """Predict every case of a folder by each view and fuse the views.

    The probabilities of the views lie in `output/views/VIEW` meanwhile, 4 bytes per voxel and class before compression. What an
    interrupted run predicted there is used if models and images are still the same.

    Args:
        images: nnU-Net's input folder, files CASE_0000 and so on.
        output: folder for CASE, in the format of the dataset.
        dataset: id or name.
        views: names, see `scheme.VIEWS`.
        folds: whose networks are averaged within each view; None takes every fold that is trained in all views.
        trainer: name of the trainer class.
        method: see `fusion.METHODS`.
        device: nnU-Net's `-device`.
        keep_views: leave the predictions of the views in `output/views`.
        progress: show a progress bar on stderr.
        say: takes each line for the user.

    Returns:
        The fused files.

    Raises:
        FileNotFoundError, ValueError: bad input, or a command that failed.
    """
    images, output = Path(images).resolve(), Path(output).resolve()
    models, folds = trained_models(find_dataset(dataset), views=checked_views(views), folds=folds, trainer=trainer)
    dataset_json = models[0].dataset_json()
    check_method(method, models[0].plans().get_label_manager(dataset_json))
    cases = _cases(images, dataset_json)
    work = output / _VIEWS_FOLDER
    _prepare(work, _request(models, folds, cases))
    for model in models:
        say(f"\nPredict by the view {model.view}")
        _predict(model, images, work / model.view, folds=folds, cases=list(cases), device=device, say=say)
    say(f"\nFuse {', '.join(model.view for model in models)}: {method}")
    made = fuse_cases({case: [work / model.view / f"{case}.npz" for model in models] for case in cases}, output, model=models[0],
                      method=method, progress=progress)
    write_json(output / "dataset.json", dataset_json)  # where nnneuro_evaluate looks for the names of the labels
    write_json(output / "fusion.json", {"fusion": method, "views": [model.view for model in models], "dataset": models[0].dataset,
                                        "trainer": trainer, "folds": list(folds)})
    if not keep_views:
        shutil.rmtree(work)
    return made


def fuse_cases(files: dict[str, list[Path]], output: Path, *, model: ViewModel, method: str, progress: bool = True) -> list[Path]:
    """Fuse cases and write them with the dataset's own writer, so that each keeps its geometry.

    Args:
        files: case to the probabilities of each view, `CASE.npz` with nnU-Net's `CASE.pkl` beside it.
        output: folder for `CASE` with the dataset's file ending; each appears when it is complete.
        model: one of the views' models, for labels and file format.
        method: see `fusion.METHODS`.
        progress: show a progress bar on stderr.

    Returns:
        The files, in the order of the cases.
    """
    from batchgenerators.utilities.file_and_folder_operations import load_pickle
    from tqdm import tqdm

    dataset_json, plans = model.dataset_json(), model.plans()
    label_manager, writer = plans.get_label_manager(dataset_json), plans.image_reader_writer_class()
    output.mkdir(parents=True, exist_ok=True)
    made = []
    for case, probabilities in tqdm(files.items(), desc="fusing", unit="case", disable=not progress):
        labels = fuse_files(probabilities, method=method, label_manager=label_manager)
        with tempfile.TemporaryDirectory(prefix=".fusing-", dir=output) as scratch:
            name = f"{case}{dataset_json['file_ending']}"
            writer.write_seg(labels, str(Path(scratch, name)), load_pickle(str(probabilities[0].with_suffix(".pkl"))))
            for path in sorted(Path(scratch).iterdir()):  # for TIFF the voxel size is a second file
                os.replace(path, output / path.name)
        made.append(output / name)
    return made


def _cases(images: Path, dataset_json: dict) -> dict[str, list[Path]]:
    """Case to its channels, all there."""
    from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

    if not images.is_dir():
        raise FileNotFoundError(f"no folder {images}; expected nnU-Net's input files CASE_0000{dataset_json['file_ending']}")
    ending, channels = dataset_json["file_ending"], dataset_json.get("channel_names") or dataset_json["modality"]
    cases = {str(case): [images / f"{case}_{channel:04d}{ending}" for channel in range(len(channels))]
             for case in get_identifiers_from_splitted_dataset_folder(str(images), ending)}
    if not cases:
        raise FileNotFoundError(f"no file CASE_0000{ending} in {images}; expected one per case for the channels "
                                f"{', '.join(channels.values())}")
    missing = [path for files in cases.values() for path in files if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"no file {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}; expected one per case for "
                                f"the channels {', '.join(channels.values())}")
    return cases


def _request(models: Sequence[ViewModel], folds: Sequence[str], cases: dict[str, list[Path]]) -> dict:
    """What the views' predictions depend on; they are used again where it is the same."""
    checkpoints = {model.view: [_state(model.fold_folder(fold) / "checkpoint_final.pth") for fold in folds] for model in models}
    return {"checkpoints": checkpoints, "images": {case: [_state(path) for path in files] for case, files in cases.items()}}


def _state(path: Path) -> list:
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns]


def _prepare(work: Path, request: dict) -> None:
    noted = work / _REQUEST
    if work.exists():
        if not noted.is_file():
            raise FileExistsError(f"{work} exists and is no folder of nnneuro_views; choose another output folder")
        if json.loads(noted.read_text(encoding="utf-8")) == request:
            return
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_json(noted, request)


def _predict(model: ViewModel, images: Path, folder: Path, *, folds: Sequence[str], cases: Sequence[str], device: str,
             say: Callable[[str], None]) -> None:
    ending = model.dataset_json()["file_ending"]
    command = ["nnUNetv2_predict", "-i", str(images), "-o", str(folder), "-d", model.dataset, "-p", plans_name(model.view),
               "-tr", model.trainer, "-c", CONFIGURATION, "-f", *folds, "-device", device, "--save_probabilities"]
    # nnU-Net writes the labels after the probabilities
    done = [case for case in cases if all((folder / f"{case}{end}").is_file() for end in (".npz", ".pkl", ending))]
    if len(done) == len(cases):
        say(f"  done already: {shlex.join(command)}")
        return
    if done:
        command.append("--continue_prediction")
    say(f"  $ {shlex.join(command)}")
    run_command(command, log=folder.parent / f"{model.view}.log", say=say)
    missing = [case for case in cases if not (folder / f"{case}.npz").is_file()]
    if missing:
        raise ValueError(f"nnUNetv2_predict ended without probabilities of {missing[0]} in {folder}; its output is in "
                         f"{folder.parent / f'{model.view}.log'}")
