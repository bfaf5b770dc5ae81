"""Installation of a model into nnUNet_results: unpacked beside its place, checked, and moved there when it is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import nnunet_neuro
from nnunet_neuro.models.archive import is_model_file, open_archive
from nnunet_neuro.models.catalogue import ModelEntry, catalogue, find
from nnunet_neuro.models.download import downloaded
from nnunet_neuro.models.installed import results_folder
from nnunet_neuro.models.model_folder import RECORD, check_model, compare_hashes, hashes_of, recorded, sha256_of

STAGING = ".nnneuro_install"  # nnU-Net looks at folders that begin with Dataset only

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
Say = Callable[[str], object]


def install(what: str, *, sha256: str | None = None, overwrite: bool = False, results: str | Path | None = None,
            dataset_id: int | None = None, say: Say = lambda line: None) -> list[Path]:
    """Install a model, after which `nnUNetv2_predict -d` finds it.

    Args:
        what: a name of the catalogue, nnU-Net's model zip, or the address of one.
        sha256: that the zip must have; those of the catalogue are known.
        overwrite: replace the same model where it is installed.
        results: folder; None for $nnUNet_results.
        dataset_id: number of the dataset in place of the model's own.
        say: takes lines for the user.

    Returns:
        The model folders, `DatasetNNN_Name/TRAINER__PLANS__CONFIGURATION`.

    Raises:
        FileNotFoundError: no such file.
        FileExistsError: the model is installed already, or its dataset's number belongs to another dataset.
        ValueError: an unknown name, another hash, or an archive or a model that is refused; nothing is left behind.
        OSError: no connection, no space, or no permission.
    """
    place = _Place(results_folder(results), dataset_id, overwrite)
    sha256 = _checked_hash(sha256)
    if dataset_id is not None and not 1 <= dataset_id <= 999:
        raise ValueError(f"{dataset_id} is no number of a dataset; expected one from 1 to 999")
    entry = catalogue().get(what)
    if entry is not None and entry.folder is not None:
        if sha256 is not None:
            raise ValueError(f"--sha256 is of a zip, but {what} ships as a folder whose hashes are known; leave it out")
        return _install_folder(entry, place)
    if entry is not None:
        if sha256 not in (None, entry.sha256):
            raise ValueError(f"--sha256 {sha256} is not that of {what}, which is {entry.sha256}; leave it out")
        with downloaded(entry.url, entry.sha256) as path:
            return _install_zip(path, _Origin(entry.url, entry.sha256, what), place, say)
    if _ADDRESS.match(what):
        if not what.lower().startswith(("https://", "http://")):
            raise ValueError(f"{what} is no address of the web; expected https://..., a file, or a name that nnneuro_models list shows")
        with downloaded(what, sha256) as path:
            if sha256 is None:
                say(f"the file has the SHA-256 {sha256_of(path)}; give it as --sha256 where you know what it should be")
            return _install_zip(path, _Origin(what, sha256), place, say)
    if not Path(what).exists() and not (os.sep in what or what.lower().endswith(".zip")):
        find(what)  # says which names there are
    return _install_zip(Path(what), _Origin(str(Path(what).absolute()), sha256), place, say)


@dataclass(frozen=True)
class _Place:
    """Where to install.

    Attributes:
        results: folder.
        dataset_id: number of the dataset in place of the model's own.
        overwrite: whether the same model may be replaced.
    """

    results: Path
    dataset_id: int | None
    overwrite: bool


@dataclass(frozen=True)
class _Origin:
    """Where a model comes from.

    Attributes:
        source: file or address.
        sha256: that the zip must have; None where that is not known.
        name: in the catalogue.
    """

    source: str
    sha256: str | None = None
    name: str | None = None


def _checked_hash(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    digits = sha256.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(f"{sha256!r} is no SHA-256; expected 64 digits 0-9a-f")
    return digits


def _install_folder(entry: ModelEntry, place: _Place) -> list[Path]:
    if wrong := [name for name in entry.files if not is_model_file(name)]:
        raise ValueError(f"the model {entry.name!r} lists the file {wrong[0]!r}; expected plans.json, dataset.json, "
                         "fold_0/checkpoint_final.pth and others that nnU-Net writes into a model folder")
    with _staging(place.results) as staging:
        dataset, new = _free_dataset(place, entry.dataset, [entry.model]), staging / "new" / entry.model
        for name in entry.files:
            if not (entry.folder / name).is_file():
                raise FileNotFoundError(f"no {name} in {entry.folder}, where the model {entry.name!r} ships; install nnunet_neuro again")
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(entry.folder / name, target)
        with _named(new, str(entry.folder)):
            compare_hashes(new, entry.files, remedy="install nnunet_neuro again")
            check_model(new)
        _write_record(new, _Origin(f"nnunet_neuro {nnunet_neuro.__version__}", None, entry.name))
        return _put(staging, dataset)


def _install_zip(path: Path, origin: _Origin, place: _Place, say: Say) -> list[Path]:
    from tqdm import tqdm

    found = sha256_of(path) if path.is_file() else None
    if found and origin.sha256 not in (None, found):
        raise ValueError(f"{path} has the SHA-256 {found}, expected {origin.sha256}; copy or download it again")
    archive = open_archive(path)
    with _staging(place.results) as staging:
        dataset = _free_dataset(place, archive.dataset, list(archive.models))
        with tqdm(desc="unpacking", total=archive.bytes, unit="B", unit_scale=True, delay=1, file=sys.stderr) as bar:
            archive.unpack(staging / "new", progress=bar.update)
        for model in archive.models:
            with _named(staging / "new" / model, f"{path}/{archive.dataset}/{model}"):
                check_model(staging / "new" / model)
            _write_record(staging / "new" / model, replace(origin, sha256=found))
        if archive.left_out:
            say(f"left in the archive, as no prediction needs it: {', '.join(archive.left_out[:5])}"
                f"{' and more' if len(archive.left_out) > 5 else ''}")
        return _put(staging, dataset)


@contextmanager
def _named(folder: Path, shown: str) -> Iterator[None]:
    """A refusal names the model as the user knows it; the staging folder is gone when it is read."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{shown} was refused: {str(error).replace(str(folder), shown)}") from error


def _write_record(folder: Path, origin: _Origin) -> None:
    content = {**asdict(origin), "installed_on": time.strftime("%Y-%m-%d"), "nnunet_neuro": nnunet_neuro.__version__,
               "files": hashes_of(folder)}
    (folder / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _free_dataset(place: _Place, dataset: str, models: list[str]) -> Path:
    """The dataset folder to install to, after a look at what has that number already.

    Raises:
        FileExistsError: another dataset has it, or a model is there.
    """
    if place.dataset_id is not None:
        dataset = f"Dataset{place.dataset_id:03d}_{dataset.partition('_')[2]}"
    number = dataset[len("Dataset"):][:3]
    others = (Path(os.environ[name]) for name in ("nnUNet_raw", "nnUNet_preprocessed") if os.environ.get(name))
    for folder in (place.results, *others):
        other = next((path for path in sorted(folder.glob(f"Dataset{number}_*")) if path.name != dataset), None)
        if other is not None:
            raise FileExistsError(f"the number {number} of {dataset} belongs to {other} already, and nnU-Net needs one name for each; give "
                                  "another number with -d")
    for model in models:
        target = place.results / dataset / model
        if target.exists() and not place.overwrite:
            origin = "was installed before" if recorded(target) else "was trained here or copied by hand"
            raise FileExistsError(f"{target} is there already and {origin}; give --overwrite to replace it, or another number with -d")
    return place.results / dataset


@contextmanager
def _staging(results: Path) -> Iterator[Path]:
    """An empty folder beside the models for one installation at a time; removed afterwards, also after one that was killed."""
    from filelock import FileLock, Timeout

    if not results.parent.is_dir():
        raise FileNotFoundError(f"no folder {results.parent} for the results folder {results.name}; create it, or correct nnUNet_results")
    existed = results.exists()
    if existed and not results.is_dir():
        raise NotADirectoryError(f"{results} is a file; expected the folder where models are installed: correct --results or "
                                 "nnUNet_results")
    try:
        results.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(f"the results folder {results} could not be made ({error.strerror}); expected a place that this user may write: "
                      "give another with --results, or correct nnUNet_results") from error
    if not os.access(results, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write into the results folder {results}; give another with --results, or correct "
                              "nnUNet_results")
    lock = results / f"{STAGING}.lock"
    try:
        with FileLock(lock, timeout=0):
            try:
                _clean(results)
                (results / STAGING).mkdir()
                yield results / STAGING
            finally:
                _clean(results)
                lock.unlink(missing_ok=True)
    except Timeout as error:
        raise FileExistsError(f"another installation into {results} is running; wait until it is done") from error
    finally:
        if not existed and not any(results.iterdir()):
            results.rmdir()


def _clean(results: Path) -> None:
    """Remove the staging folder; a model that was taken away, and whose successor did not come, goes back first."""
    for replaced in sorted((results / STAGING / "replaced").glob("*/*")):
        target = results / replaced.parent.name / replaced.name
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            os.rename(replaced, target)
    if (results / STAGING).exists():
        shutil.rmtree(results / STAGING)


def _put(staging: Path, dataset: Path) -> list[Path]:
    """Move the whole models to their place; each is there whole, or not at all."""
    models = sorted(path.name for path in (staging / "new").iterdir())
    if not dataset.exists():
        os.rename(staging / "new", dataset)
        return [dataset / model for model in models]
    for model in models:
        if (dataset / model).exists():
            away = staging / "replaced" / dataset.name / model
            away.parent.mkdir(parents=True, exist_ok=True)
            os.rename(dataset / model, away)
        os.rename(staging / "new" / model, dataset / model)
    return [dataset / model for model in models]
