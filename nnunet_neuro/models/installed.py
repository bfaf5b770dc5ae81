"""What is installed in nnUNet_results, where a model's folder is, and whether its files are what they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nnunet_neuro.models.catalogue import catalogue, find
from nnunet_neuro.models.model_folder import RECORD, check_model, compare_hashes, recorded


def results_folder(given: str | Path | None = None) -> Path:
    """The folder given, else $nnUNet_results.

    Raises:
        ValueError: neither is there.
    """
    name = given or os.environ.get("nnUNet_results")
    if not name:
        raise ValueError("the environment variable nnUNet_results is not set; set it to where models are, or give --results FOLDER")
    return Path(name).expanduser().absolute()


def installed_models(results: Path) -> Iterator[tuple[Path, str | None]]:
    """Model folders that `install` made in a results folder, with the name of the catalogue where they have one."""
    for record in sorted(results.glob(f"Dataset[0-9][0-9][0-9]_*/*/{RECORD}")):
        if (content := recorded(record.parent)) is not None:
            yield record.parent, content.get("name")


def installed_folder(name: str, results: Path | None = None) -> Path | None:
    """Where a model of the catalogue is installed; None where it is not, or where no results folder is known."""
    if results is None and not os.environ.get("nnUNet_results"):
        return None
    return next((folder for folder, found in installed_models(results_folder(results)) if found == name), None)


def model_folder(name: str) -> Path:
    """A model's folder to predict with: the one that ships, else the installed one.

    Raises:
        ValueError: no such model, or it has to be installed first.
        FileNotFoundError: the files that ship are not there.
    """
    entry = find(name)
    if entry.folder is None:
        folder = installed_folder(name)
        if folder is None:
            raise ValueError(f"the model {name!r} is downloaded when it is installed; run nnneuro_models install {name} first, and set "
                             "nnUNet_results")
        return folder
    if not entry.folder.is_dir():
        raise FileNotFoundError(f"no folder {entry.folder} of the model {name!r}; install nnunet_neuro again")
    return entry.folder


def folders_to_verify(target: str, results: Path | None = None) -> list[Path]:
    """Every folder of a model of the catalogue: the one that ships and the installed one; or the folder given.

    Raises:
        ValueError: neither a name nor a folder, or a model that is not here.
    """
    entries = catalogue()
    if target not in entries and Path(target).is_dir():
        if not any((Path(target) / name).exists() for name in (RECORD, "plans.json", "dataset.json")):
            raise ValueError(f"{target} is no model; expected a folder TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and "
                             "fold_0, or one of " + ", ".join(entries))
        return [Path(target)]
    entry = entries.get(target) or find(target)
    folders = [folder for folder in (entry.folder, installed_folder(target, results)) if folder is not None]
    if not folders:
        raise ValueError(f"the model {target!r} is not installed; run nnneuro_models install {target}")
    return folders


def all_folders(results: Path | None = None) -> list[Path]:
    """Every model that ships, and every installed one."""
    shipped = [entry.folder for entry in catalogue().values() if entry.folder is not None]
    if results is not None and not results_folder(results).is_dir():
        raise FileNotFoundError(f"no folder {results}; expected the folder where models are installed: correct --results")
    if results is None and not os.environ.get("nnUNet_results"):
        return shipped
    return shipped + [folder for folder, _ in installed_models(results_folder(results))]


def verify(folder: Path) -> None:
    """Check the hashes of a model's files where they are known, and load its weights into the network of its plans.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is another one, damaged, needs code, or does not fit.
    """
    shipped = next((entry for entry in catalogue().values() if entry.folder is not None and entry.folder == folder.resolve()), None)
    record = recorded(folder)
    if shipped is not None:
        compare_hashes(folder, shipped.files, remedy="install nnunet_neuro again")
    elif record is not None:
        compare_hashes(folder, record["files"])
    elif (folder / RECORD).exists():
        raise ValueError(f"{folder / RECORD} is damaged; install the model again with --overwrite")
    check_model(folder)
