"""nnU-Net's model zip, as `nnUNetv2_export_model_to_zip` writes it, read as if a stranger had made it.

Nothing is written before every member was looked at: names, kinds, sizes and places in the file. Only what predicting and fine-tuning need
is unpacked; pickles, predictions of the cross-validation and files beside the model folders stay in the archive. Members that nnU-Net does
not write are refused.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 32 * 1024**3  # five folds of nnU-Net's largest preset, with optimizer state, take about a fifth of it
MOST_MEMBERS = 20_000  # the predictions of a cross-validation may be thousands
MOST_RATIO = 200  # of real and packed size; weights have less than 2, tables of scores less than 30
_SMALL = 1024**2  # may be packed as well as it can be

_DATASET = r"Dataset\d{3}_[\w.+-]+"
_FOLDER = rf"{_DATASET}/[\w.+-]+?__[\w.+-]+?__[\w.+-]+"
_WANTED = re.compile(
    rf"(?P<folder>{_FOLDER})/(?P<inner>(?:plans|dataset|dataset_fingerprint)\.json"
    r"|fold_(?:\d+|all)/(?:[\w.+-]+\.pth|debug\.json|progress\.png|network_architecture\.pdf|validation/summary\.json)"
    r"|crossval_results_folds_[\w]+/(?:summary|postprocessing)\.json)", re.ASCII)
# what nnU-Net and this package write besides, and what nobody needs to predict
_LEFT_OUT = re.compile(
    rf"{_DATASET}/(?:inference_information\.(?:json|txt)|ensembles/.+"
    r"|[\w.+-]+?__[\w.+-]+?__[\w.+-]+/(?:nnneuro_model\.json|fold_(?:\d+|all)/(?:validation/[^/]+|training_log_[\w.-]+\.txt)"
    r"|crossval_results_folds_[\w]+/[^/]+))", re.ASCII)
_FOLDERS = re.compile(rf"{_DATASET}/(?:ensembles/(?:[^/]+/)*|[\w.+-]+?__[\w.+-]+?__[\w.+-]+/"
                      r"(?:(?:fold_(?:\d+|all)|crossval_results_folds_[\w]+)/(?:validation/)?)?)?", re.ASCII)
_LAYOUT = "DatasetNNN_Name/TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and fold_0/checkpoint_final.pth"


@dataclass(frozen=True)
class ModelArchive:
    """A zip whose members were looked at.

    Attributes:
        path: the zip.
        dataset: the only dataset folder in it.
        models: the model folders in that one, by name, with the paths of their files in there.
        left_out: members that are not unpacked.
    """

    path: Path
    dataset: str
    models: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]

    def unpack(self, target: Path, *, progress: Callable[[int], object] = lambda count: None) -> None:
        """Write the model folders into a new folder; checks sizes and checksums while it reads.

        Args:
            target: takes the model folders; does not exist.
            progress: is told how many bytes were written.

        Raises:
            ValueError: a member is not what the archive says of it.
            OSError: no space, or no permission.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                for model, files in self.models.items():
                    for name in files:
                        _unpack_one(archive, f"{self.dataset}/{model}/{name}", target / model / name, self.path, progress)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ValueError(f"{self.path} is damaged ({str(error) or type(error).__name__}); copy or download it again") from error

    @property
    def bytes(self) -> int:
        """What `unpack` writes."""
        with zipfile.ZipFile(self.path) as archive:
            return sum(archive.getinfo(f"{self.dataset}/{model}/{name}").file_size
                       for model, files in self.models.items() for name in files)


def open_archive(path: Path) -> ModelArchive:
    """Look at every member of a model zip; writes nothing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no zip, truncated, or a member that no model zip of nnU-Net has.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a zip that nnUNetv2_export_model_to_zip made")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OSError) as error:
        raise ValueError(f"{path} is no complete zip ({error}); expected a whole file that nnUNetv2_export_model_to_zip made, so copy or "
                         "download it again") from error
    wrong = next(filter(None, (_what_is_wrong(member) for member in members[:MOST_MEMBERS])), None) or _wrong_together(path, members)
    if wrong:
        raise ValueError(f"{path} was refused: {wrong}; expected a zip that nnUNetv2_export_model_to_zip made")
    return _sorted_out(path, [member.filename for member in members if not member.is_dir()])


def is_model_file(name: str) -> bool:
    """Whether this is the path, inside a model folder, of a file that a model has."""
    return _WANTED.fullmatch(f"Dataset001_Any/a__b__c/{name}") is not None


def _what_is_wrong(member: zipfile.ZipInfo) -> str | None:
    """Why one member is refused, in a few words; None where it is not."""
    name = member.orig_filename  # as it stands in the file; zipfile changes some of them
    shown = ascii(name)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if "\\" in name:
        return f"its member {shown} has a backslash in its name"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in name):
        return f"its member {shown} has a control character in its name"
    if name.startswith("/"):
        return f"its member {shown} has an absolute path"
    if re.match(r"[A-Za-z]:", name):
        return f"its member {shown} names a drive"
    if {".", "..", ""} & set(name.removesuffix("/").split("/")):
        return f"its member {shown} climbs out of its folder, or has an empty name"
    if kind == stat.S_IFLNK:
        return f"its member {shown} is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"its member {shown} is a device, a pipe or a socket"
    if (kind == stat.S_IFDIR) != name.endswith("/") and kind:
        return f"its member {shown} is a folder by one mark and a file by another"
    if member.flag_bits & 0x1:
        return f"its member {shown} is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"its member {shown} is packed by a method that nnU-Net does not use"
    if name.endswith("/"):
        known = _FOLDERS.fullmatch(name) and not member.file_size
    else:
        known = _WANTED.fullmatch(name) or _LEFT_OUT.fullmatch(name)
    if not known:
        return f"its member {shown} does not belong to {_LAYOUT}"
    if member.file_size > _SMALL and member.file_size > MOST_RATIO * member.compress_size and _WANTED.fullmatch(name):
        return f"its member {shown} grows from {member.compress_size} to {member.file_size} bytes, as a zip bomb does"
    return None


def _wrong_together(path: Path, members: list[zipfile.ZipInfo]) -> str | None:
    """Why all members together are refused; None where they are not."""
    if len(members) > MOST_MEMBERS:
        return f"it has {len(members)} members, more than {MOST_MEMBERS}"
    names: dict[str, str] = {}
    for member in members:
        # what a file system that ignores case, or how an accent is written, takes for one file
        key = unicodedata.normalize("NFC", member.filename.rstrip("/")).casefold()
        if key in names:
            same = names[key] == member.filename
            return f"its member {ascii(member.filename)} is there twice" if same else (
                f"its members {ascii(names[key])} and {ascii(member.filename)} differ by upper and lower case only")
        names[key] = member.filename
    total = sum(member.file_size for member in members if _WANTED.fullmatch(member.filename))
    if total > MOST_BYTES:
        return f"it would grow to {total} bytes, more than {MOST_BYTES}"
    ends = sorted((member.header_offset, member.header_offset + 30 + member.compress_size) for member in members)
    if any(end > start for (_, end), (start, _) in zip(ends, ends[1:])) or (ends and ends[-1][1] > path.stat().st_size):
        return "its members overlap, as those of a zip bomb do"
    return None


def _sorted_out(path: Path, names: list[str]) -> ModelArchive:
    datasets = sorted({name.partition("/")[0] for name in names})
    if len(datasets) > 1:
        raise ValueError(f"{path} was refused: it holds the datasets {', '.join(datasets)}; expected one, so export them one by one")
    models: dict[str, list[str]] = {}
    for name in names:
        if match := _WANTED.fullmatch(name):
            models.setdefault(match["folder"].partition("/")[2], []).append(match["inner"])
    if not models:
        raise ValueError(f"{path} holds no model; expected {_LAYOUT}")
    for model, files in models.items():
        missing = [needed for needed in ("plans.json", "dataset.json") if needed not in files]
        missing += [] if any(file.endswith(".pth") for file in files) else ["fold_0/checkpoint_final.pth"]
        if missing:
            raise ValueError(f"{path} was refused: its model {datasets[0]}/{model} lacks {', '.join(missing)}; export it again with "
                             "nnUNetv2_export_model_to_zip")
    left_out = tuple(sorted(name for name in names if not _WANTED.fullmatch(name)))
    return ModelArchive(path, datasets[0], {model: tuple(sorted(files)) for model, files in sorted(models.items())}, left_out)


def _unpack_one(archive: zipfile.ZipFile, name: str, file: Path, path: Path, progress: Callable[[int], object]) -> None:
    member, written = archive.getinfo(name), 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as packed, file.open("xb") as unpacked:
        while block := packed.read(1024**2):
            written += len(block)
            if written > member.file_size:
                break
            unpacked.write(block)
            progress(len(block))
        unpacked.flush()
        os.fsync(unpacked.fileno())  # else a power cut can leave the name without the content
    if written != member.file_size:
        raise ValueError(f"{path} was refused: its member {ascii(name)} has not the {member.file_size} bytes that it announces, so copy or "
                         "download it again")
