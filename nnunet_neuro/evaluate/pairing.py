"""Predictions paired with their references, checked before anything is measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_neuro.volumes import IMAGE_SUFFIXES, NIFTI_SUFFIXES, TIFF_SUFFIXES, Volume, open_volume, strip_suffix

_SUFFIXES = (*TIFF_SUFFIXES, *NIFTI_SUFFIXES, *IMAGE_SUFFIXES)
_FIRST_CHANNEL = "_0000"


@dataclass(frozen=True)
class LabelNames:
    """The labels of a dataset.json.

    Attributes:
        classes: name to label value, without background and ignore label.
        ignore: value of the ignore label, or None.
        source: the dataset.json.
    """

    classes: dict[str, int]
    ignore: int | None
    source: Path

    @property
    def known(self) -> list[int]:
        """Every value a label volume may hold, sorted."""
        return sorted({0, *self.classes.values(), *([] if self.ignore is None else [self.ignore])})


@dataclass(frozen=True)
class Pair:
    """The files of one case.

    Attributes:
        case: nnU-Net's case identifier, the file name without its ending.
        prediction: label volume of the model.
        reference: label volume it is compared with.
        image: first channel of the raw image, or None.
    """

    case: str
    prediction: Volume
    reference: Volume
    image: Volume | None = None


def read_label_names(path: str | Path) -> LabelNames:
    """Read the labels of nnU-Net's dataset.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, no labels, labels that are not whole numbers, or regions.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no dataset.json at {path}; check the path")
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
        items = list(labels.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} holds no labels; expected nnU-Net\'s "labels": {{"background": 0, "NAME": 1, ...}}') from error
    values = {}
    for name, value in items:
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, list):
            raise ValueError(
                f"label {name!r} of {path} is a region of labels {value}; expected one number per label, as "
                "region-based "
                "labels are not measured: give --dataset-json a file with plain labels"
            )
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"label {name!r} of {path} is {value!r}; expected a whole number, as nnU-Net v2 writes it")
        values[name] = value
    ignore = values.pop("ignore", None)
    classes = {name: value for name, value in values.items() if value != 0}
    if not classes:
        raise ValueError(f"{path} names no label besides background; expected at least one class to measure")
    return LabelNames(classes, ignore, path)


def find_label_names(predictions: Path, references: Path, dataset_json: Path | None = None) -> LabelNames:
    """The labels from `dataset_json`, else from the dataset.json beside the predictions or above the references.

    Raises:
        FileNotFoundError: no dataset.json found.
        ValueError: a bad one, or two that disagree.
    """
    if dataset_json is not None:
        return read_label_names(dataset_json)
    candidates = dict.fromkeys([predictions / "dataset.json", references.resolve().parent / "dataset.json"])
    found = [read_label_names(path) for path in candidates if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"no dataset.json found as {' or '.join(map(str, candidates))}; give the one that names the labels with --dataset-json"
        )
    if any((other.classes, other.ignore) != (found[0].classes, found[0].ignore) for other in found):
        raise ValueError(
            f"{found[0].source} says labels {_label_text(found[0])}, {found[1].source} says {_label_text(found[1])}; "
            "expected the same: choose one with --dataset-json"
        )
    return found[0]


def pair_cases(
    predictions: Path, references: Path, *, images: Path | None = None, only_predicted: bool = False
) -> tuple[list[Pair], list[str]]:
    """Pair the files of two folders by case name and check that each pair lies on one voxel grid.

    Only headers are read.

    Args:
        predictions: folder of label volumes.
        references: folder of label volumes.
        images: nnU-Net folder of raw images `CASE_0000.tif`.
        only_predicted: leave out references without a prediction instead of raising.

    Returns:
        The pairs sorted by case, and the cases left out.

    Raises:
        FileNotFoundError: no folder, an empty one, a prediction without reference, a reference without prediction, no
        image. ValueError: two files of one case, or files of a case with other shape, voxel size or orientation.
    """
    predicted, referenced = _files_by_case(predictions, "prediction"), _files_by_case(references, "reference")
    _refuse_unpaired(predicted, referenced, f"no reference for prediction {{}}; expected a file of that name in {references}")
    left_out = sorted(referenced.keys() - predicted.keys())
    if not only_predicted:
        _refuse_unpaired(
            referenced,
            predicted,
            f"no prediction for reference {{}}; expected a file of that name in {predictions}: predict it, or leave "
            "out such "
            "references with --only-predicted",
        )
    imaged = None if images is None else _first_channels(images)
    pairs = []
    for case in sorted(predicted):
        if imaged is not None and case not in imaged:
            raise FileNotFoundError(f"no image of case {case} in {images}; expected a file {case}{_FIRST_CHANNEL}.tif")
        pair = Pair(
            case,
            open_volume(predicted[case]),
            open_volume(referenced[case]),
            None if imaged is None else open_volume(imaged[case]),
        )
        _check_grid(pair.prediction, pair.reference)
        if pair.image is not None:
            _check_grid(pair.image, pair.reference)
        pairs.append(pair)
    return pairs, left_out


def read_labels(volume: Volume, names: LabelNames) -> np.ndarray:
    """The voxels of a label volume as (z, y, x) integers; a flat image becomes one plane.

    Raises:
        ValueError: NaN, fractions, or values that the dataset.json does not name.
    """
    voxels = volume.read()
    found = np.unique(voxels)  # NaN sorts last
    if np.issubdtype(found.dtype, np.inexact) and not np.array_equal(found, np.round(found)):
        odd = found[~(found == np.round(found))]
        raise ValueError(
            f"{volume.path} holds the value {odd[0]:g}; expected whole label numbers {_numbers(names.known)}: give the "
            "segmentation, not probabilities or an interpolated image"
        )
    unknown = [value for value in found if value not in names.known]
    if unknown:
        raise ValueError(
            f"{volume.path} holds label {_numbers(unknown)}; {names.source} knows {_numbers(names.known)}: correct the "
            "file, or "
            "name its labels with --dataset-json"
        )
    return as_zyx(voxels).astype(np.min_scalar_type(max(names.known)), copy=False)


def check_ignored(prediction: np.ndarray, reference: np.ndarray, pair: Pair, names: LabelNames) -> None:
    """Refuse a prediction that says "ignore" where the reference is annotated: no class was predicted there."""
    if names.ignore is None:
        return
    number = np.count_nonzero((prediction == names.ignore) & (reference != names.ignore))
    if number:
        raise ValueError(
            f"{pair.prediction.path} holds the ignore label {names.ignore} in {number} voxels that "
            f"{pair.reference.path.name} "
            "annotates; expected a class or background there: predict again, or swap the two folders"
        )


def as_zyx(voxels: np.ndarray) -> np.ndarray:
    """A flat image as a volume of one plane."""
    return voxels[None] if voxels.ndim == 2 else voxels


def as_zyx_shape(volume: Volume) -> tuple[int, ...]:
    """(z, y, x) of a volume; a flat image has one plane."""
    return volume.shape if len(volume.shape) == 3 else (1, *volume.shape)


def spacing_zyx(volume: Volume) -> tuple[float, float, float] | None:
    """Voxel size of a volume, or None where it is not known for all three axes."""
    return volume.spacing if volume.spacing is not None and len(volume.spacing) == 3 else None


def _files_by_case(folder: Path, role: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; expected the folder of {role}s")
    by_case: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(_SUFFIXES) or not path.is_file():
            continue
        case = strip_suffix(path)
        if case in by_case:
            raise ValueError(f"{by_case[case].name} and {path.name} in {folder} are both case {case}; keep one of them")
        by_case[case] = path
    if not by_case:
        raise FileNotFoundError(f"no {role} in {folder}; expected files ending in {', '.join(_SUFFIXES)}")
    return by_case


def _first_channels(folder: Path) -> dict[str, Path]:
    files = _files_by_case(folder, "image")
    return {name[: -len(_FIRST_CHANNEL)]: path for name, path in files.items() if name.endswith(_FIRST_CHANNEL)}


def _refuse_unpaired(files: dict[str, Path], others: dict[str, Path], sentence: str) -> None:
    missing = sorted(files.keys() - others.keys())
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(sentence.format(f"{files[missing[0]]}{more}"))


def _check_grid(volume: Volume, reference: Volume) -> None:
    shape, expected = as_zyx_shape(volume), as_zyx_shape(reference)
    if shape != expected:
        raise ValueError(
            f"{volume.path} has shape {shape}, but {reference.path} has {expected}; expected the same voxels: use the "
            "files of one "
            "dataset"
        )
    sizes = spacing_zyx(volume), spacing_zyx(reference)
    if None not in sizes and not np.allclose(*sizes, rtol=1e-3, atol=0):
        raise ValueError(
            f"{volume.path} has voxels of {_numbers(sizes[0])}, but {reference.path} of {_numbers(sizes[1])} (z, y, "
            "x); expected the "
            "same: correct the voxel size in the one that is wrong"
        )
    affines = volume.affine, reference.affine
    if all(affine is not None for affine in affines) and not np.allclose(*affines, rtol=1e-3, atol=1e-2):
        raise ValueError(
            f"{volume.path} is placed or oriented in space unlike {reference.path}; expected the same affine in both "
            "headers: "
            "resample one onto the other"
        )


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _label_text(names: LabelNames) -> str:
    named = {**names.classes, **({} if names.ignore is None else {"ignore": names.ignore})}
    return ", ".join(f"{value} {name}" for name, value in named.items())
