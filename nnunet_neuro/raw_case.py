"""The files of one case of a raw dataset, written completely or not at all, and the record that says so."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_neuro.raw_formats import FORMATS, complete_file, smallest_label_dtype, write_json, write_tiff

if TYPE_CHECKING:
    from nnunet_neuro.raw_dataset import Case, DatasetInfo
    from nnunet_neuro.volumes import Source, Volume

# of a case that dataset.json names one by one
_MOST_SOURCES = 16
# split of a case -> folders of its images, labels and instances; nnU-Net leaves the last one alone
PARTS = {"train": ("imagesTr", "labelsTr", "instancesTr"), "val": ("imagesTr", "labelsTr", "instancesTr"),
         "test": ("imagesTs", "labelsTs", "instancesTs")}


def write_case(case: Case, info: DatasetInfo, folder: Path) -> tuple[str, str]:
    """Write the files of one case, then its record; do nothing where the record says that they are already there.

    Returns:
        The identifier with "written" or "unchanged".
    """
    record_file = folder / "provenance" / "cases" / f"{case.identifier}.json"
    known = read_record(record_file)
    sources = _hash_sources(case, known)
    facts = {
        "group": case.group,
        "split": case.split,
        "shape": list(case.channels[0].shape),
        "spacing": [float(size) for size in case.spacing],
        "places": [volume.place() for volume in case.volumes()],
        "label_values": {str(k): v for k, v in case.label_values.items()} if case.label_values is not None else None,
        **json.loads(json.dumps(dict(case.notes))),
    }
    if known is not None and _same(known, sources, facts) and _outputs_are_there(folder, known):
        return case.identifier, "unchanged"

    (folder / "dataset.json").unlink(missing_ok=True)  # until everything is written again
    record_file.unlink(missing_ok=True)
    label, voxels_of = read_label(case, info)
    outputs, objects = _write_files(case, info, folder, label)
    for name in known["outputs"] if known else ():  # a case that was a training case may be a test case now
        if name not in outputs:
            (folder / name).unlink(missing_ok=True)
    record = {"sources": sources, **facts, **objects, "label_voxels": voxels_of, "outputs": outputs}
    write_json(record_file, record)
    return case.identifier, "written"


def _same(known: Mapping[str, Any], sources: list[dict], facts: Mapping[str, Any]) -> bool:
    content = [(source["path"], source["sha256"]) for source in sources]
    return content == [(s["path"], s["sha256"]) for s in known["sources"]] and all(known.get(k) == v for k, v in facts.items())


def _outputs_are_there(folder: Path, known: Mapping[str, Any]) -> bool:
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in known["outputs"].items())


def _hash_sources(case: Case, known: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    before = {source["path"]: source for source in known["sources"]} if known else {}
    hashed: dict[str, dict[str, Any]] = {}
    for volume in case.volumes():
        for source in volume.sources():
            if source.name not in hashed:
                hashed[source.name] = _hash_source(source, volume, before.get(source.name, {}))
    return list(hashed.values())


def _hash_source(source: Source, volume: Volume, before: Mapping[str, Any]) -> dict[str, Any]:
    if source.file is None:
        voxels = volume.read()
        return {"path": source.name, "bytes": voxels.nbytes, "sha256": hashlib.sha256(np.ascontiguousarray(voxels)).hexdigest()}
    state = source.file.stat()
    if (before.get("bytes"), before.get("mtime_ns")) == (state.st_size, state.st_mtime_ns):
        return dict(before)
    digest = _sha256(source.file, state.st_size, state.st_mtime_ns)
    return {"path": source.name, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest}


@lru_cache(maxsize=65536)
def _sha256(file: Path, size: int, mtime_ns: int) -> str:
    """Remembered as long as the file stays as it was: all cases cut from one file have it for a source."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_label(case: Case, info: DatasetInfo) -> tuple[np.ndarray | None, dict[str, int]]:
    """The label in the dataset's values and smallest type, with the number of voxels of each class.

    Raises:
        ValueError: a value that the case does not know.
    """
    if case.label is None:
        return None, {}
    label = case.label.read()
    values = case.label_values if case.label_values is not None else {value: value for value in info.labels.values()}
    count_of = _count_values(label, values)
    unknown = [value for value in count_of if value not in values]
    if unknown:
        raise ValueError(f"label {case.label.path} holds the value {unknown[0]} ({count_of[unknown[0]]} voxels), expected one of "
                         f"{sorted(values)}; choose another variant (nnneuro_convert {info.converter} --help) or correct the label")
    voxels_of = dict.fromkeys(info.labels, 0)
    name_of = {value: name for name, value in info.labels.items()}
    for value, count in count_of.items():
        voxels_of[name_of[values[value]]] += count
    return _map_values(label, {value: values[value] for value in count_of}, smallest_label_dtype(max(info.labels.values()))), voxels_of


def _count_values(label: np.ndarray, expected: Iterable[int]) -> dict[int, int]:
    """Voxels per value that occurs; the expected ones are counted first, since sorting 150^3 uint8 takes 36 ms, not 1.4."""
    limits = (0, 1) if label.dtype.kind == "b" else (np.iinfo(label.dtype).min, np.iinfo(label.dtype).max)
    counts = {value: int(np.count_nonzero(label == value)) for value in expected if limits[0] <= value <= limits[1]}
    if sum(counts.values()) == label.size:
        return {value: count for value, count in counts.items() if count}
    found, numbers = np.unique(label, return_counts=True)
    return {int(value): int(number) for value, number in zip(found, numbers)}


def _map_values(label: np.ndarray, values: Mapping[int, int], dtype: np.dtype) -> np.ndarray:
    if all(value == mapped for value, mapped in values.items()):
        return label.astype(dtype, copy=False)
    mapped = np.zeros(label.shape, dtype)
    for value, target in values.items():
        if target:
            np.copyto(mapped, target, where=label == value)
    return mapped


def _write_files(case: Case, info: DatasetInfo, folder: Path, label: np.ndarray | None) -> tuple[dict[str, int], dict[str, int]]:
    """Size in bytes of every file, and what there is to say of the instances."""
    form = FORMATS[info.file_ending]
    images, labels, instances = PARTS[case.split]
    outputs: dict[str, int] = {}
    objects: dict[str, int] = {}

    def write(name: str, array: np.ndarray, affine: np.ndarray | None) -> None:
        outputs[name] = _write_complete(folder, name, array, lambda path: form.write(path, array, case.spacing, affine))

    for number, volume in enumerate(case.channels):
        image = volume.read()
        if image.dtype.kind == "f":
            if not np.isfinite(image).all():
                raise ValueError(f"{volume.path} holds NaN or infinite voxels; nnU-Net cannot normalise them: replace them first")
            image = image.astype(np.float32, copy=False)
        write(f"{images}/{case.identifier}_{number:04d}{info.file_ending}", image, case.channels[0].affine)
    if label is not None:
        write(f"{labels}/{case.identifier}{info.file_ending}", label, case.channels[0].affine)
    if case.instances is not None:
        ids = case.instances.read()
        objects = _describe_instances(ids)
        name = f"{instances}/{case.identifier}.tif"  # a TIFF keeps 64-bit ids, whatever the dataset's own format can hold
        outputs[name] = _write_complete(folder, name, ids, lambda path: write_tiff(path, ids, case.spacing, None))
    if form.sidecar:
        for part in (images, *([labels] if label is not None else []), *([instances] if case.instances is not None else [])):
            sidecar = folder / part / f"{case.identifier}.json"
            write_json(sidecar, {"spacing": [float(size) for size in case.spacing]})
            outputs[f"{part}/{case.identifier}.json"] = sidecar.stat().st_size
    return outputs, objects


def _describe_instances(ids: np.ndarray) -> dict[str, int]:
    found, sizes = np.unique(ids[ids != 0], return_counts=True)
    return {"instances": len(found), "largest_id": int(found.max(initial=0)), "smallest_instance": int(sizes.min()) if len(sizes) else 0}


def _write_complete(folder: Path, name: str, array: np.ndarray, write: Callable[[Path], None]) -> int:
    """Write to a partial name, rename when complete; gives the size in bytes."""
    final = folder / name
    partial = folder / "provenance" / "partial" / final.name.replace(".", f"-{os.getpid()}.", 1)
    final.parent.mkdir(exist_ok=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(final, partial, array.nbytes):
        write(partial)
    return final.stat().st_size


def read_record(record_file: Path) -> dict[str, Any] | None:
    """The record of a case; None where there is none, or where a power cut or a person left one that cannot be right."""
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("sources"), list) or not isinstance(record.get("outputs"), dict):
        return None
    whole = all(isinstance(source, dict) and {"path", "bytes", "sha256"} <= source.keys() for source in record["sources"])
    return record if whole and {"group", "split", "shape", "label_voxels"} <= record.keys() else None


def summarised_sources(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sources of a case for `dataset.json`, which nnU-Net parses often: of many files, those of one folder become one entry.

    Such an entry has the folder as its path, the number of files, their bytes, and the SHA-256 of their names and hashes in order. The
    record of the case keeps each file.
    """
    sources = [{key: value for key, value in source.items() if key != "mtime_ns"} for source in sources]
    if len(sources) <= _MOST_SOURCES:
        return sources
    of_folder: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        of_folder.setdefault(_container(source["path"]), []).append(source)
    return [files[0] if len(files) == 1 else
            {"path": folder, "files": len(files), "bytes": sum(file["bytes"] for file in files), "sha256": _digest_of_list(files)}
            for folder, files in of_folder.items()]


def _container(path: str) -> str:
    """The channel of a cached chunk, the array of a Zarr chunk, the folder of a slice."""
    if "://" in path:
        return path.partition("?")[0]
    parts = Path(path).parts
    store = next((i for i, part in enumerate(parts[:-1]) if part.lower().endswith((".zarr", ".n5"))), None)
    return str(Path(*parts[: store + 1])) if store is not None else str(Path(path).parent)


def _digest_of_list(files: list[dict[str, Any]]) -> str:
    return hashlib.sha256("".join(f"{file['path']} {file['sha256']}\n" for file in files).encode()).hexdigest()
