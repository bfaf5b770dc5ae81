"""The cross-validation of a trained model: each case's prediction by the fold that did not train on it, with its reference."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ALL = "all"


@dataclass(frozen=True)
class FoldCase:
    """One validation case.

    Attributes:
        case: nnU-Net's case identifier.
        prediction: file in `fold_X/validation`.
        reference: file in `gt_segmentations` or `labelsTr`.
        fold: name of the fold that validated it, such as "0".
    """

    case: str
    prediction: Path
    reference: Path
    fold: str


def cross_validation_pairs(folder: str | Path, *, folds: Sequence[str] | None = None) -> tuple[list[FoldCase], Path]:
    """Pair the validation predictions of all folds with their references, which nnU-Net's folders tell.

    The references are those of `nnUNet_preprocessed/DATASET/gt_segmentations`, or else of `nnUNet_raw/DATASET/labelsTr`; where the
    environment variables are not set, folders `nnUNet_preprocessed`, `preprocessed`, `nnUNet_raw` and `raw` beside the results folder are
    looked at. `splits_final.json`, where there is one, says which folds there are and what each validates.

    Args:
        folder: nnU-Net results folder `DatasetNNN_NAME/TRAINER__PLANS__CONFIGURATION`.
        folds: names of the folds wanted; None takes all of the cross-validation.

    Returns:
        The cases sorted by name, and the dataset.json that names their labels.

    Raises:
        FileNotFoundError: no such model, a fold or a case without prediction, or without reference.
        ValueError: a case in two folds, a prediction that is not of its fold's split, or fold "all", which trained on every case.
    """
    folder = Path(folder)
    dataset_json = folder / "dataset.json"
    if not dataset_json.is_file():
        raise FileNotFoundError(f"no dataset.json in {folder}; expected an nnU-Net results folder "
                                "DatasetNNN_NAME/TRAINER__PLANS__CONFIGURATION with fold_* in it")
    ending, dataset = _file_ending(dataset_json), _dataset_name(folder)
    places = _dataset_folders(folder, dataset)
    splits = _splits(places)
    fold_of: dict[str, str] = {}
    predictions: dict[str, Path] = {}
    for fold in _folds(folder, splits) if folds is None else folds:
        if fold == _ALL:
            raise ValueError(f"fold_{_ALL} of {folder} was trained on its own validation cases; give folds of the cross-validation")
        found = validation_predictions(folder / f"fold_{fold}", ending)
        _check_fold(found, fold, folder, splits)
        for case, path in found.items():
            if case in fold_of:
                raise ValueError(f"case {case} is validated in fold_{fold_of[case]} and in fold_{fold} of {folder}; expected each case in "
                                 "one fold: remove the folder of the fold that was trained with another splits_final.json")
            fold_of[case], predictions[case] = fold, path
    references = _references(list(predictions), ending, places, dataset)
    return [FoldCase(case, predictions[case], references[case], fold_of[case]) for case in sorted(predictions)], dataset_json


def validation_predictions(fold_folder: Path, file_ending: str) -> dict[str, Path]:
    """Case to its label file of a fold's validation folder, sorted; empty where the fold was not validated."""
    return {path.name.removesuffix(file_ending): path for path in sorted((fold_folder / "validation").glob(f"*{file_ending}"))}


def _file_ending(dataset_json: Path) -> str:
    try:
        return str(json.loads(dataset_json.read_text(encoding="utf-8"))["file_ending"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{dataset_json} has no file_ending; expected nnU-Net's dataset.json of the trained model") from error


def _dataset_name(folder: Path) -> str:
    name = folder.resolve().parent.name
    if name.startswith("Dataset"):
        return name
    try:
        return str(json.loads((folder / "plans.json").read_text(encoding="utf-8"))["dataset_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} does not lie in a folder DatasetNNN_NAME and its plans.json names no dataset; expected the model's "
                         "folder in nnUNet_results") from error


def _dataset_folders(folder: Path, dataset: str) -> dict[str, list[Path]]:
    """Places of the preprocessed and of the raw dataset, those that exist."""
    around = folder.resolve().parents
    beside = around[2] if len(around) > 2 else around[-1]
    places = {}
    for name in ("preprocessed", "raw"):
        told = os.environ.get(f"nnUNet_{name}")
        roots = [Path(told)] if told else [beside / f"nnUNet_{name}", beside / name]
        places[name] = [root / dataset for root in roots if (root / dataset).is_dir()]
    return places


def _splits(places: dict[str, list[Path]]) -> list[dict[str, list[str]]] | None:
    for dataset in (*places["preprocessed"], *places["raw"]):
        path = dataset / "splits_final.json"
        if path.is_file():
            try:
                splits = json.loads(path.read_text(encoding="utf-8"))
                return [{"val": [str(case) for case in split["val"]]} for split in splits]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f'{path} holds no splits; expected nnU-Net\'s list of {{"train": [...], "val": [...]}}') from error
    return None


def _folds(folder: Path, splits: list | None) -> list[str]:
    """The folds that the cross-validation must have, and whatever else was trained of it."""
    there = {path.name.removeprefix("fold_") for path in folder.glob("fold_*") if path.is_dir()}
    numbers = {int(fold) for fold in there if fold.isdecimal()}
    if not numbers:
        only = f"only fold_{_ALL}, which was trained on its own validation cases" if _ALL in there else "no fold_*"
        raise FileNotFoundError(f"{folder} has {only}; expected the folds of a cross-validation, fold_0 and so on: train them, or measure "
                                "a folder of predictions by giving the references too")
    return [str(number) for number in sorted(numbers | set(range(len(splits or ()))))]


def _check_fold(found: dict[str, Path], fold: str, folder: Path, splits: list[dict[str, list[str]]] | None) -> None:
    validation = folder / f"fold_{fold}" / "validation"
    retry = f"run nnUNetv2_train with fold {fold} and --val"
    if not found:
        raise FileNotFoundError(f"no predictions of fold {fold} in {validation}; expected those of its validation cases: train the fold or "
                                f"{retry}; to measure one fold alone, give its validation folder, the references and --only-predicted")
    if splits is None or not fold.isdecimal() or int(fold) >= len(splits):
        return
    expected = set(splits[int(fold)]["val"])
    missing, extra = sorted(expected - found.keys()), sorted(found.keys() - expected)
    if missing:
        raise FileNotFoundError(f"no prediction of {_named(missing)} in {validation}, which splits_final.json has in fold {fold}; {retry}")
    if extra:
        raise ValueError(f"{validation} has a prediction of {_named(extra)}, which splits_final.json does not have in fold {fold}; "
                         "expected the split the fold was trained with: train it again, or put back its splits_final.json")


def _references(cases: list[str], ending: str, places: dict[str, list[Path]], dataset: str) -> dict[str, Path]:
    folders = [*(place / "gt_segmentations" for place in places["preprocessed"]), *(place / "labelsTr" for place in places["raw"])]
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise FileNotFoundError(f"no references of {dataset}; expected nnUNet_preprocessed/{dataset}/gt_segmentations or "
                                f"nnUNet_raw/{dataset}/labelsTr: export nnUNet_preprocessed=FOLDER or nnUNet_raw=FOLDER")
    lacks = {}
    for folder in folders:
        files = {case: folder / f"{case}{ending}" for case in cases}
        lacks = {case: path for case, path in files.items() if not path.is_file()}
        if not lacks:
            return files
    raise FileNotFoundError(f"no reference of {_named(sorted(lacks))} in {' or '.join(map(str, folders))}; expected a file "
                            f"{min(lacks)}{ending}")


def _named(cases: list[str]) -> str:
    return f"{cases[0]}{f' (and {len(cases) - 1} more)' if len(cases) > 1 else ''}"
