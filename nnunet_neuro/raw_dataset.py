"""nnU-Net raw datasets: the only writer of their files, their `dataset.json` and their folds.

A run checks the headers of all cases first, then writes case by case: files appear under their final names when complete, then a
record of the case, and `dataset.json` last of all. Without `dataset.json` nnU-Net refuses the folder, so an interrupted conversion
never looks whole, and the next run writes only cases without a valid record.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.augment.quantiles import describe_references
from nnunet_neuro.raw_case import PARTS, read_record, summarised_sources, write_case
from nnunet_neuro.raw_formats import FORMATS, write_json, write_text
from nnunet_neuro.splits import fixed_split, grouped_folds
from nnunet_neuro.volumes import Volume

_LOCK = ".conversion.lock"
_VOXEL_FOLDERS = ("imagesTr", "labelsTr", "instancesTr", "imagesTs", "labelsTs", "instancesTs")
NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
IGNORE = "ignore"
CASE_TABLE = "cases.csv"
# between the voxel grids of image and label, in voxels; programs that store an affine in other forms round it
_MOST_SHIFT = 0.05
_TABLE_COLUMNS = ("case", "split", "group", "z", "y", "x")


@dataclass(frozen=True)
class Case:
    """One case of a dataset, still on the user's disk.

    Attributes:
        identifier: file name in the dataset, letters, digits, `-` and `_`; the same for the same source in every run.
        channels: one volume per channel, all of one shape (z, y, x), or (y, x) for PNG.
        label: label volume of the same shape; None only where split is "test".
        spacing: voxel size in the order of the axes, micrometres for microscopy, millimetres for MRI.
        group: cases of one group show the same tissue and stay in one fold.
        split: "train", "val" (the source fixes it) or "test" (imagesTs, with its label in labelsTs).
        label_values: value in the label file -> value in the dataset; None keeps the values. A value without an entry is an error.
        instances: segment ids of the same shape for the analysis of objects; kept as they are in instancesTr or instancesTs.
        notes: further facts for the provenance block; numbers and words among them become columns of `cases.csv`.
    """

    identifier: str
    channels: tuple[Volume, ...]
    label: Volume | None
    spacing: tuple[float, ...]
    group: str
    split: str = "train"
    label_values: Mapping[int, int] | None = None
    instances: Volume | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def volumes(self) -> list[Volume]:
        """Channels, then label and instances where there are any."""
        return [*self.channels, *(volume for volume in (self.label, self.instances) if volume is not None)]


@dataclass(frozen=True)
class DatasetInfo:
    """What is true of a dataset as a whole.

    Attributes:
        name: the part after `DatasetXXX_`.
        channel_names: nnU-Net picks the normalisation by name (`ct`, `nonorm`, `zscore`, `rescale_to_0_1`; else z-score).
        labels: class name -> value; background 0, consecutive; a class `ignore` must have the highest value.
        file_ending: a key of raw_formats.FORMATS.
        licence: of the source data.
        reference: citation or address of the source data.
        converter: word after `nnneuro_convert`.
        settings: every option that shapes all files; another value is another dataset. What differs from case to case stands in the
            case, so that a further source can join a dataset.
        sources: folders or addresses given by the user.
        histogram_references: cubes of another brain whose intensities trainers with AxonAugment match to; their voxels are read when
            dataset.json is written.
    """

    name: str
    channel_names: tuple[str, ...]
    labels: Mapping[str, int]
    file_ending: str
    licence: str
    reference: str
    converter: str
    settings: Mapping[str, Any]
    sources: tuple[str, ...]
    histogram_references: tuple[Case, ...] = ()


def write_raw_dataset(
    cases: Callable[[], Iterable[Case]],
    info: DatasetInfo,
    *,
    dataset_id: int,
    raw_folder: str | Path,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write, complete or refresh `DatasetXXX_Name` below `raw_folder`.

    Args:
        cases: gives the cases; called twice (headers, then voxels), so that a bad header is found before anything is written and
            no list of cases is held.
        info: what is true of all of them.
        dataset_id: 1 to 999.
        raw_folder: nnU-Net's nnUNet_raw.
        workers: processes that read and write; each holds one case in memory.
        overwrite: replace a dataset that was made with other settings, or by hand, and drop cases that the source has no more.
        progress: show progress bars on stderr.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: a case or the dataset's description is not consistent.
        FileExistsError: the id or the folder belongs to something else.
        OSError: no space, or a worker died.
        KeyboardInterrupt: interrupted; what is complete is kept.
    """
    folder = dataset_folder(info, dataset_id, raw_folder)
    remote: list[Volume] = []
    split_of, group_of = check_headers(lambda: noting_remote(cases(), remote, Case.volumes), info, dataset_id=dataset_id,
                                       raw_folder=raw_folder, progress=progress)
    fetch_remote(remote, progress)
    with _lock(folder):
        _prepare_folder(folder, info, overwrite)
        _drop_stale_cases(folder, split_of.keys(), overwrite)
        _write_cases(lambda: _checked_again(cases(), info, split_of), info, folder, len(split_of), workers, progress)
        _check_no_strangers(folder)
        _write_description(folder, info, split_of, group_of)
        (folder / "provenance" / "partial").rmdir()
    return folder


def dataset_folder(info: DatasetInfo, dataset_id: int, raw_folder: str | Path) -> Path:
    """Where the dataset is or will be."""
    return Path(raw_folder) / f"Dataset{dataset_id:03d}_{info.name}"


def noting_remote(cases: Iterable[Case], remote: list[Volume], volumes_of: Callable[[Case], list[Volume]]) -> Iterator[Case]:
    """The cases, with those of their volumes that BossDB holds added to `remote` as they pass."""
    for case in cases:
        remote.extend(volume for volume in volumes_of(case) if str(volume.path).startswith("bossdb://"))
        yield case


def fetch_remote(volumes: list[Volume], progress: bool = True) -> None:
    """Download at once, with a progress bar, what volumes of BossDB need."""
    if volumes:
        from nnunet_neuro.bossdb import fetch

        fetch(volumes, progress=progress)


def raw_folder_from_environment() -> Path:
    """nnU-Net's raw folder.

    Raises:
        ValueError: nnUNet_raw is not set.
    """
    value = os.environ.get("nnUNet_raw")
    if not value:
        raise ValueError("nnUNet_raw is not set; set nnU-Net's three folders first, for example "
                         "export nnUNet_raw=$PWD/raw nnUNet_preprocessed=$PWD/preprocessed nnUNet_results=$PWD/results")
    return Path(value)


# --- checks before anything is written ---------------------------------------------------------------------------------------------


def _check_info(info: DatasetInfo, dataset_id: int) -> None:
    if not 1 <= dataset_id <= 999:
        raise ValueError(f"dataset id {dataset_id} is not possible; nnU-Net takes 1 to 999")
    if not re.fullmatch(r"[A-Za-z0-9]+(_[A-Za-z0-9]+)*", info.name):
        raise ValueError(f"dataset name {info.name!r} is not possible; use letters, digits and single underscores")
    if info.file_ending not in FORMATS:
        raise ValueError(f"file ending {info.file_ending!r} is unknown; choose one of {', '.join(FORMATS)}")
    values = list(info.labels.values())
    if sorted(values) != list(range(len(values))) or info.labels.get("background") != 0:
        raise ValueError(f"labels {dict(info.labels)} do not run from background=0 without gaps")
    if IGNORE in info.labels and info.labels[IGNORE] != max(values):
        raise ValueError(f"labels {dict(info.labels)}: nnU-Net wants the ignore label to have the highest value")


def _check_id_is_free(dataset_id: int, folder: Path) -> None:
    places = {folder.parent, *(Path(os.environ[name]) for name in NNUNET_FOLDERS if os.environ.get(name))}
    for place in places:
        for other in sorted(place.glob(f"Dataset{dataset_id:03d}_*")) if place.is_dir() else ():
            if other.name != folder.name:
                raise FileExistsError(f"id {dataset_id} is taken by {other}, wanted for {folder.name}; choose another id with -d")


def check_headers(cases: Callable[[], Iterable[Case]], info: DatasetInfo, *, dataset_id: int, raw_folder: str | Path,
                  progress: bool = True) -> tuple[dict[str, str], dict[str, str]]:
    """Check the dataset's description and the headers of all its cases; nothing is written.

    Returns:
        Split and group of each case identifier.

    Raises:
        ValueError: a case or the dataset's description is not consistent.
        FileExistsError: the id belongs to another dataset.
    """
    _check_info(info, dataset_id)
    folder = dataset_folder(info, dataset_id, raw_folder)
    _check_id_is_free(dataset_id, folder)
    split_of: dict[str, str] = {}
    group_of: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for case in progress_bar(cases(), "checking headers", progress):
        _check_case(case, info)
        inside = [path for volume in case.volumes() if "://" not in str(volume.path)
                  for path in (Path(volume.path).resolve(),) if folder.resolve() in path.parents]
        if inside:
            raise ValueError(f"{inside[0]} lies in the dataset {folder} that is to be written; move the source elsewhere")
        other = spelled.setdefault(case.identifier.casefold(), case.identifier)
        if case.identifier in split_of or other != case.identifier:
            raise ValueError(f"two cases are called {case.identifier} (the second from {case.channels[0].path}); identifiers must be "
                             "unique, whatever their case: rename one source")
        split_of[case.identifier], group_of[case.identifier] = case.split, case.group
    if "train" not in split_of.values():
        raise ValueError(f"found no training case in {', '.join(info.sources)}; expected at least one")
    return split_of, group_of


def _checked_again(cases: Iterable[Case], info: DatasetInfo, split_of: Mapping[str, str]) -> Iterator[Case]:
    """The second pass: what changed on the disk since the first is an error, not a wrong dataset."""
    seen = set()
    for case in cases:
        _check_case(case, info)
        if split_of.get(case.identifier) != case.split:
            raise ValueError(f"case {case.identifier} appeared at {case.channels[0].path} while the dataset was being written; run the "
                             "same command again")
        seen.add(case.identifier)
        yield case
    if missing := split_of.keys() - seen:
        raise ValueError(f"the source of case {min(missing)} disappeared while the dataset was being written; run the same command again")


def _check_case(case: Case, info: DatasetInfo) -> None:
    image = case.channels[0]
    expected = FORMATS[info.file_ending]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", case.identifier):
        raise ValueError(f"case name {case.identifier!r} (from {image.path}) is not possible; use letters, digits, - and _")
    assert not set(case.notes) & set(_TABLE_COLUMNS), f"the notes of {case.identifier} use a column name of {CASE_TABLE}"
    if case.split not in PARTS:
        raise ValueError(f"case {case.identifier} has split {case.split!r}; choose one of {', '.join(PARTS)}")
    if len(case.channels) != len(info.channel_names):
        raise ValueError(f"case {case.identifier} has {len(case.channels)} channels, expected {len(info.channel_names)} "
                         f"({', '.join(info.channel_names)})")
    if len(image.shape) != expected.dimensions:
        raise ValueError(f"{image.path} has shape {image.shape}; {info.file_ending} datasets take {expected.dimensions} axes")
    if len(case.spacing) != len(image.shape) or not all(np.isfinite(size) and size > 0 for size in case.spacing):
        raise ValueError(f"voxel size {case.spacing} of {image.path} is not {len(image.shape)} positive numbers")
    for volume in case.channels:
        if volume.dtype.kind not in expected.image_dtypes:
            raise ValueError(f"{volume.path} holds {volume.dtype} voxels; {info.file_ending} images take "
                             f"kinds {', '.join(expected.image_dtypes)} (u unsigned, i signed, f float): convert it first")
        if volume.dtype.itemsize > expected.largest_item:
            raise ValueError(f"{volume.path} holds {volume.dtype} voxels; {info.file_ending} images take at most "
                             f"{8 * expected.largest_item} bits: convert it first")
    if case.label is None and case.split != "test":
        raise ValueError(f"case {case.identifier} (from {image.path}) has no label; only test cases may lack one")
    if case.label is not None and case.label.dtype.kind not in "uib":
        raise ValueError(f"label {case.label.path} holds {case.label.dtype} voxels; expected integers: save it as uint8 or uint16")
    if case.instances is not None and case.instances.dtype.kind not in "ui":
        raise ValueError(f"{case.instances.path} holds {case.instances.dtype} voxels; expected integer segment ids")
    for other in case.volumes()[1:]:
        if other.shape != image.shape:
            raise ValueError(f"{other.path} has shape {other.shape}, but its image {image.path} has {image.shape}; "
                             "they must be cut from the same place")
        if other.spacing and not np.allclose(other.spacing, case.spacing, rtol=1e-3):
            raise ValueError(f"{other.path} has voxel size {other.spacing}, but its image {image.path} has {tuple(case.spacing)}; "
                             "correct one of them")
        if other.affine is not None and image.affine is not None and _shift(image, other) > _MOST_SHIFT:
            raise ValueError(f"{other.path} lies elsewhere in space than its image {image.path} (their affines differ); resample it onto "
                             "the image's grid")


def _shift(image: Volume, other: Volume) -> float:
    """The most by which two affines put a corner of the volume apart, in voxels of the image along any axis."""
    corners = np.array(list(itertools.product(*((0, length - 1) for length in image.shape[::-1]))))
    difference = other.affine - image.affine
    apart = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(np.abs(np.linalg.solve(image.affine[:3, :3], apart.T)).max())


# --- the folder --------------------------------------------------------------------------------------------------------------------


def _identity_of(info: DatasetInfo) -> dict[str, Any]:
    # through JSON, so that a tuple equals the list that was read back
    return json.loads(json.dumps({"converter": info.converter, "settings": dict(info.settings), "labels": dict(info.labels),
                                  "channel_names": list(info.channel_names), "file_ending": info.file_ending}))


def check_replaceable(folder: Path, info: DatasetInfo, *, overwrite: bool = False) -> bool:
    """Whether what is in the folder has to be replaced to write this dataset; nothing is changed.

    Raises:
        FileExistsError: it has to be, and `overwrite` is not set.
    """
    if not folder.is_dir() or not any(path.name != _LOCK for path in folder.iterdir()):
        return False
    found, wanted = _read_identity(folder / "provenance" / "identity.json"), _identity_of(info)
    if found == wanted:
        return False
    if not overwrite:
        raise FileExistsError(f"{folder} exists and was {_difference(found, wanted)}; choose another id with -d, or replace it with "
                              "--overwrite")
    return True


def _prepare_folder(folder: Path, info: DatasetInfo, overwrite: bool) -> None:
    if check_replaceable(folder, info, overwrite=overwrite):
        # first, so that whatever happens now it does not look whole
        for name in ("dataset.json", "splits_final.json", CASE_TABLE):
            (folder / name).unlink(missing_ok=True)
        for name in (*_VOXEL_FOLDERS, "provenance"):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    shutil.rmtree(folder / "provenance" / "partial", ignore_errors=True)
    for name in ("imagesTr", "labelsTr", "provenance/cases", "provenance/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    identity_file = folder / "provenance" / "identity.json"
    if not identity_file.is_file():
        write_json(identity_file, _identity_of(info))


def _read_identity(identity_file: Path) -> dict[str, Any] | None:
    try:
        identity = json.loads(identity_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keeps a second conversion out of the folder; the system lifts the lock of a process that dies."""
    from filelock import FileLock, Timeout

    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            try:
                yield
            finally:
                (folder / _LOCK).unlink(missing_ok=True)
    except Timeout as error:
        raise FileExistsError(f"another conversion is writing {folder}; wait until it is done") from error
    finally:
        if not existed and set(folder.iterdir()) <= {folder / _LOCK}:
            shutil.rmtree(folder)


def _check_no_strangers(folder: Path) -> None:
    """nnU-Net takes every image of imagesTr for a case: a file without a record is an error."""
    records = (read_record(record) for record in (folder / "provenance" / "cases").glob("*.json"))
    recorded = {name for record in records if record for name in record["outputs"]}
    for name in _VOXEL_FOLDERS:
        for path in sorted((folder / name).iterdir()) if (folder / name).is_dir() else ():
            if f"{name}/{path.name}" not in recorded and not path.name.startswith("."):
                raise FileExistsError(f"{path} belongs to no case of this conversion; nnU-Net would take it for one: delete it and run "
                                      "the same command again")


def _difference(found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> str:
    if found is None:
        return "not made by nnneuro_convert"
    for key, value in wanted.items():
        if found.get(key) != value:
            if isinstance(value, dict) and isinstance(found.get(key), dict):
                inner = next(k for k in {**found[key], **value} if found[key].get(k) != value.get(k))
                return f"made with {inner}={found[key].get(inner)!r}, now asked for {inner}={value.get(inner)!r}"
            return f"made with {key}={found.get(key)!r}, now asked for {key}={value!r}"
    return "made by another version"


def _drop_stale_cases(folder: Path, identifiers: Iterable[str], overwrite: bool) -> None:
    present = set(identifiers)
    for record_file in sorted((folder / "provenance" / "cases").glob("*.json")):
        if record_file.stem in present:
            continue
        if not overwrite:
            raise FileExistsError(f"case {record_file.stem} in {folder} has no source any more; put its files back (or name all sources "
                                  "in one command, with no smaller --limit), or drop it with --overwrite")
        (folder / "dataset.json").unlink(missing_ok=True)
        for output in (read_record(record_file) or {"outputs": ()})["outputs"]:
            (folder / output).unlink(missing_ok=True)
        record_file.unlink()


def _write_description(folder: Path, info: DatasetInfo, split_of: dict[str, str], group_of: dict[str, str]) -> None:
    from nnunet_neuro import __version__

    training = {identifier: group for identifier, group in group_of.items() if split_of[identifier] != "test"}
    fixed = any(split == "val" for split in split_of.values())
    folds = fixed_split({i: split_of[i] for i in training}, training) if fixed else grouped_folds(training)
    splits_file = folder / "splits_final.json"
    if folds:
        write_json(splits_file, folds)
    else:
        splits_file.unlink(missing_ok=True)
    record_files = sorted((folder / "provenance" / "cases").glob("*.json"))
    records = {record_file.stem: read_record(record_file) for record_file in record_files}
    _write_table(folder / CASE_TABLE, records)
    for record in records.values():
        record["sources"] = summarised_sources(record["sources"])
        del record["outputs"]
    content = {
        "channel_names": {str(i): name for i, name in enumerate(info.channel_names)},
        "labels": dict(info.labels),
        "numTraining": len(training),
        "file_ending": info.file_ending,
        "overwrite_image_reader_writer": FORMATS[info.file_ending].reader,
        "name": folder.name,
        "licence": info.licence,
        "reference": info.reference,
        "provenance": {"program": "nnunet_neuro", "version": __version__, "converter": info.converter, "sources": list(info.sources),
                       "settings": dict(info.settings), "cases": records},
    }
    if info.histogram_references:
        content["histogram_references"] = describe_references(info.histogram_references)
    write_json(folder / "dataset.json", content)
    _warn_of_folds(folder, folds)


def _write_table(file: Path, records: Mapping[str, dict[str, Any]]) -> None:
    """One row per case: part, group, size, voxels of each class, and whatever numbers and words its converter noted."""
    import csv
    import io

    rows = []
    for identifier, record in records.items():
        depth, height, width = ((1, *record["shape"]) if len(record["shape"]) == 2 else record["shape"])
        notes = {key: value for key, value in record.items() if isinstance(value, str | int | float) and key not in ("split", "group")}
        voxels = {f"voxels_{name}": count for name, count in record["label_voxels"].items()}
        fixed = zip(_TABLE_COLUMNS, (identifier, record["split"], record["group"], depth, height, width))
        rows.append({**dict(fixed), **voxels, **notes})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, text.getvalue())


def _warn_of_folds(folder: Path, folds: list) -> None:
    if not folds:
        print(f"warning: all cases of {folder.name} are of one group, so no fold could be validated on other tissue; train with fold "
              "`all`", file=sys.stderr)
    preprocessed = os.environ.get("nnUNet_preprocessed")
    copied = Path(preprocessed) / folder.name / "splits_final.json" if preprocessed else None
    if copied and copied.is_file() and _copied_folds(copied, len(folds)) != folds:
        print(f"warning: {copied} was made from other cases; nnU-Net stops at the difference: delete that folder and plan again",
              file=sys.stderr)


def _copied_folds(copied: Path, number: int) -> list | None:
    """The folds that nnU-Net copied; it may have appended random ones. None where they cannot be read."""
    try:
        return json.loads(copied.read_text(encoding="utf-8"))[: number or None]
    except (OSError, ValueError, TypeError, KeyError):
        return None


# --- the cases ---------------------------------------------------------------------------------------------------------------------


def _write_cases(cases: Callable, info: DatasetInfo, folder: Path, total: int, workers: int, progress: bool) -> None:
    done: list[str] = []
    bar = progress_bar(None, "writing cases", progress, total)
    try:
        for identifier, state in _results(cases, info, folder, workers):
            done.append(identifier)
            bar.set_postfix_str(f"{identifier} {state}", refresh=False)
            bar.update()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted after {len(done)} of {total} cases; {folder} is not complete (it has no dataset.json): "
                                "run the same command again to continue") from None
    except BrokenProcessPool as error:
        raise OSError(f"a worker died after {len(done)} of {total} cases, killed or for want of memory; run the same command again with "
                      "--workers 1 to continue") from error
    finally:
        bar.close()


def _results(cases: Callable, info: DatasetInfo, folder: Path, workers: int) -> Iterator[tuple[str, str]]:
    if workers <= 1:
        for case in cases():
            yield write_case(case, info, folder)
        return
    pool = worker_pool(workers)
    pending: set[Future] = set()
    try:
        for case in cases():
            pending.add(pool.submit(write_case, case, info, folder))
            if len(pending) >= 2 * workers:  # bounded, so that a million cases never wait in memory
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        for future in pending:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end when this one is killed."""
    # not fork: tensorstore refuses it, and a child would inherit the folder's lock
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A killed parent would leave its workers waiting for ever: they hold both ends of the queue."""
    parent = multiprocessing.parent_process()

    def wait_and_leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_leave, daemon=True).start()


def progress_bar(iterable: Iterable | None, title: str, progress: bool, total: int | None = None):
    """A bar of cases on stderr that goes when it is done."""
    from tqdm import tqdm

    return tqdm(iterable, desc=title, total=total, unit="case", disable=not progress, leave=False)
