"""Predictions paired with their references, checked before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_neuro.evaluate.label_names import LabelNames, find_label_names, read_label_names
from nnunet_neuro.volumes import IMAGE_SUFFIXES, NIFTI_SUFFIXES, TIFF_SUFFIXES, Region, Volume, open_channels, open_volume, strip_suffix
from nnunet_neuro.volumes.hdf5 import HDF5_SUFFIXES, split_hdf5
from nnunet_neuro.volumes.nrrd import NRRD_SUFFIXES
from nnunet_neuro.volumes.tensor_store import is_n5, is_precomputed
from nnunet_neuro.volumes.zarr_store import is_zarr

__all__ = ["LabelNames", "Pair", "Paired", "as_zyx", "as_zyx_shape", "check_ignored", "find_label_names", "holds_slices", "is_volume",
           "pair_cases", "pair_folds", "pair_volumes", "read_label_names", "read_labels", "spacing_zyx"]  # fmt: skip

_SUFFIXES = (*TIFF_SUFFIXES, *NIFTI_SUFFIXES, *IMAGE_SUFFIXES, *NRRD_SUFFIXES, *HDF5_SUFFIXES, ".npy")
_FIRST_CHANNEL = "_0000"


@dataclass(frozen=True)
class Pair:
    """The files of one case.

    Attributes:
        case: nnU-Net's case identifier, the file name without its ending.
        prediction: label volume of the model.
        reference: label volume it is compared with.
        image: first channel of the raw image, or None.
        probabilities: file or folder of the probabilities that the model gave, or None.
        fold: name of the fold that predicted it, such as "0"; None outside a cross-validation.
    """

    case: str
    prediction: Volume
    reference: Volume
    image: Volume | None = None
    probabilities: Path | str | None = None
    fold: str | None = None


@dataclass(frozen=True)
class Paired:
    """What is to be compared.

    Attributes:
        pairs: sorted by case.
        predictions: folder, or the volume.
        references: folder, or the volume.
        label_files: where a dataset.json may lie.
        left_out: references without prediction, left out on request.
    """

    pairs: list[Pair]
    predictions: Path
    references: Path
    label_files: list[Path]
    left_out: list[str] = field(default_factory=list)


def is_volume(path: str | Path) -> bool:
    """Whether this is one volume, and no folder of cases; a folder of slices is taken for cases."""
    if "://" in str(path):
        return True
    path = Path(path)
    return _is_store(path) or not path.is_dir() and (split_hdf5(path) is not None or path.is_file())


def holds_slices(folder: Path) -> bool:
    """Whether a folder has files that can be slices of a volume."""
    return any(path.name.lower().endswith((*TIFF_SUFFIXES, *IMAGE_SUFFIXES)) for path in folder.iterdir())


def pair_cases(predictions: Path, references: Path, *, images: Path | None = None, only_predicted: bool = False,
               probabilities: Path | None = None, missing_are_zero: bool = False) -> Paired:
    """Pair the files of two folders by case name and check that each pair lies on one voxel grid.

    Only headers are read.

    Args:
        predictions: folder of label volumes.
        references: folder of label volumes.
        images: nnU-Net folder of raw images `CASE_0000.tif`.
        only_predicted: leave out references without a prediction instead of raising.
        probabilities: folder of `CASE.npz` as nnU-Net saves them, or of volumes `CASE` with a channel for each label.
        missing_are_zero: chunks of label volumes that are not there are background; they are refused otherwise.

    Raises:
        FileNotFoundError: no folder, an empty one, a prediction without reference, a reference without prediction, no
            image, no probabilities.
        ValueError: two files of one case, or files of a case with other shape, voxel size or orientation.
    """
    predicted, referenced = _files_by_case(predictions, "prediction"), _files_by_case(references, "reference")
    _refuse_unpaired(predicted, referenced, f"no reference for prediction {{}}; expected a file of that name in {references}")
    if not only_predicted:
        _refuse_unpaired(referenced, predicted, f"no prediction for reference {{}}; expected a file of that name in {predictions}: predict "
                         "it, or leave out such references with --only-predicted")
    pairs = [Pair(case, *(open_volume(files[case], missing_are_zero=missing_are_zero) for files in (predicted, referenced)))
             for case in sorted(predicted)]
    labels = [predictions / "dataset.json", references.resolve().parent / "dataset.json"]
    return Paired(_completed(pairs, images, probabilities), predictions, references, labels, sorted(referenced.keys() - predicted.keys()))


def pair_volumes(prediction: str | Path, reference: str | Path, *, image: str | Path | None = None,
                 probabilities: str | Path | None = None, missing_are_zero: bool = False) -> Paired:
    """Pair two volumes of any format that is read here, also folders of slices and addresses; see `pair_cases` for what is refused."""
    channels = None if image is None else open_channels(image)[0]
    labels = (open_volume(path, missing_are_zero=missing_are_zero) for path in (prediction, reference))
    pair = Pair(_name_of(prediction), *labels, channels, probabilities)
    _check_pair(pair)
    folders = [path.absolute() for one in (prediction, reference) if "://" not in str(one) for path in list(Path(one).parents)[:2]]
    return Paired([pair], Path(prediction), Path(reference), [folder / "dataset.json" for folder in folders])


def pair_folds(results: Path, *, images: Path | None = None, with_probabilities: bool = False) -> Paired:
    """The validation cases of all folds of an nnU-Net results folder; `folds.cross_validation_pairs` tells what is refused.

    Args:
        results: folder TRAINER__PLANS__CONFIGURATION.
        images: nnU-Net folder of raw images.
        with_probabilities: take the `CASE.npz` that nnU-Net saved beside the predictions.
    """
    from nnunet_neuro.evaluate.folds import cross_validation_pairs

    cases, dataset_json = cross_validation_pairs(results)
    pairs = []
    for one in cases:
        saved = Path(one.prediction).with_name(f"{one.case}.npz") if with_probabilities else None
        if saved is not None and not saved.is_file():
            raise FileNotFoundError(f"no probabilities {saved}; validate again with nnUNetv2_train ... --val --npz")
        pairs.append(Pair(one.case, open_volume(one.prediction), open_volume(one.reference), probabilities=saved, fold=str(one.fold)))
    return Paired(_completed(pairs, images, None), results, Path(cases[0].reference).parent, [Path(dataset_json)])


def read_labels(volume: Volume, names: LabelNames, region: Region | None = None) -> np.ndarray:
    """The voxels of a label volume as (z, y, x) integers; a flat image becomes one plane.

    Args:
        volume: labels, or ids of objects where `names` says so.
        names: what may occur.
        region: (z, y, x) part, also of a flat image; None for all.

    Raises:
        ValueError: NaN, fractions, values that the dataset.json does not name, or negative ids.
    """
    voxels = as_zyx(volume.read(region if region is None or len(volume.shape) == 3 else region[1:]))
    # by planes, because a copy of what is given is sorted; NaN comes last
    found = np.unique(np.concatenate([np.unique(plane) for plane in voxels]))
    if np.issubdtype(found.dtype, np.inexact) and not np.array_equal(found, np.round(found)):
        odd = found[~(found == np.round(found))]
        raise ValueError(f"{volume.path} holds the value {odd[0]:g}; expected whole label numbers"
                         f"{'' if names.instances else ' ' + _numbers(names.known)}: give the segmentation, not probabilities or an "
                         "interpolated image")
    if names.instances:
        return _as_ids(volume, voxels, found)
    unknown = [value for value in found if value not in names.known]
    if unknown:
        raise ValueError(f"{volume.path} holds label {_numbers(unknown[:10])}; {names.source} knows {_numbers(names.known)}: correct the "
                         "file, name its labels with --dataset-json, or say --instances where they are ids of objects")
    return voxels.astype(np.min_scalar_type(max(names.known)), copy=False)


def check_ignored(prediction: np.ndarray, reference: np.ndarray, pair: Pair, names: LabelNames) -> None:
    """Refuse a prediction that says "ignore" where the reference is annotated: no class was predicted there."""
    if names.ignore is None:
        return
    number = np.count_nonzero((prediction == names.ignore) & (reference != names.ignore))
    if number:
        raise ValueError(f"{pair.prediction.path} holds the ignore label {names.ignore} in {number} voxels that "
                         f"{Path(pair.reference.path).name} annotates; expected a class or background there: predict again, or swap the "
                         "two folders")


def as_zyx(voxels: np.ndarray) -> np.ndarray:
    """A flat image as a volume of one plane."""
    return voxels[None] if voxels.ndim == 2 else voxels


def as_zyx_shape(volume: Volume) -> tuple[int, ...]:
    """(z, y, x) of a volume; a flat image has one plane."""
    return volume.shape if len(volume.shape) == 3 else (1, *volume.shape)


def spacing_zyx(volume: Volume) -> tuple[float, float, float] | None:
    """Voxel size of a volume, or None where it is not known for all axes; the plane of a flat image is as thick as its pixels are wide."""
    if volume.spacing is None or len(volume.spacing) not in (2, 3):
        return None
    return volume.spacing if len(volume.spacing) == 3 else (max(volume.spacing), *volume.spacing)


def _as_ids(volume: Volume, voxels: np.ndarray, found: np.ndarray) -> np.ndarray:
    if found[0] < 0:
        raise ValueError(f"{volume.path} holds the id {found[0]:g}; expected 0 for background and positive ids: renumber its objects")
    if voxels.dtype.kind == "f" and found[-1] >= 2 ** (np.finfo(voxels.dtype).nmant + 1):
        raise ValueError(f"{volume.path} holds ids up to {found[-1]:g} as {voxels.dtype}, which cannot tell them apart; expected integers")
    return voxels.astype(np.uint64) if voxels.dtype.kind in "fi" else voxels


def _completed(pairs: list[Pair], images: Path | None, probabilities: Path | None) -> list[Pair]:
    """The pairs with image and probabilities, checked."""
    imaged = None if images is None else _first_channels(images)
    saved = None if probabilities is None else _probability_files(probabilities)
    complete = []
    for pair in pairs:
        if imaged is not None and pair.case not in imaged:
            raise FileNotFoundError(f"no image of case {pair.case} in {images}; expected a file "
                                    f"{pair.case}{_FIRST_CHANNEL}{Path(pair.reference.path).name.removeprefix(pair.case)}")
        if saved is not None and pair.case not in saved:
            raise FileNotFoundError(f"no probabilities of case {pair.case} in {probabilities}; expected {pair.case}.npz, as "
                                    "nnUNetv2_predict --save_probabilities writes it, or a volume of that name")
        pair = replace(pair, image=None if imaged is None else open_channels(imaged[pair.case])[0],
                       probabilities=pair.probabilities if saved is None else saved[pair.case])
        _check_pair(pair)
        complete.append(pair)
    return complete


def _is_store(path: Path) -> bool:
    return path.is_dir() and (is_zarr(path) or is_n5(path) or is_precomputed(path))


def _name_of(volume: str | Path) -> str:
    """Case name of a volume; of an address its last words."""
    return strip_suffix(Path(str(volume).rstrip("/").rpartition("://")[2]))


def _files_by_case(folder: Path, role: str, suffixes: tuple[str, ...] = _SUFFIXES) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; expected the folder of {role}s")
    by_case: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.name.lower().endswith(suffixes) and path.is_file() or _is_store(path)):
            continue
        case = strip_suffix(path)
        if case in by_case:
            raise ValueError(f"{by_case[case].name} and {path.name} in {folder} are both case {case}; keep one of them")
        by_case[case] = path
    if not by_case:
        raise FileNotFoundError(f"no {role} in {folder}; expected files ending in {', '.join(suffixes)}, or Zarr or N5 folders")
    return by_case


def _first_channels(folder: Path) -> dict[str, Path]:
    files = _files_by_case(folder, "image")
    return {name[: -len(_FIRST_CHANNEL)]: path for name, path in files.items() if name.endswith(_FIRST_CHANNEL)}


def _probability_files(folder: Path) -> dict[str, Path]:
    """nnU-Net writes `CASE.npz` into the folder of the predictions: where there is any, volumes beside it are labels."""
    if folder.is_dir() and any(folder.glob("*.npz")):
        return {path.name.removesuffix(".npz"): path for path in folder.glob("*.npz")}
    return _files_by_case(folder, "probabilities file")


def _refuse_unpaired(files: dict[str, Path], others: dict[str, Path], sentence: str) -> None:
    missing = sorted(files.keys() - others.keys())
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(sentence.format(f"{files[missing[0]]}{more}"))


def _check_pair(pair: Pair) -> None:
    _check_grid(pair.prediction, pair.reference)
    if pair.image is not None:
        _check_grid(pair.image, pair.reference)


def _check_grid(volume: Volume, reference: Volume) -> None:
    shape, expected = as_zyx_shape(volume), as_zyx_shape(reference)
    if shape != expected:
        raise ValueError(f"{volume.path} has shape {shape}, but {reference.path} has {expected}; expected the same voxels: use the files "
                         "of one dataset")
    sizes = spacing_zyx(volume), spacing_zyx(reference)
    if None not in sizes and not np.allclose(*sizes, rtol=1e-3, atol=0):
        raise ValueError(f"{volume.path} has voxels of {_numbers(sizes[0])}, but {reference.path} of {_numbers(sizes[1])} (z, y, x); "
                         "expected the same: correct the voxel size in the one that is wrong")
    affines = volume.affine, reference.affine
    if all(affine is not None for affine in affines) and not _same_place(*affines):
        raise ValueError(f"{volume.path} is placed or oriented in space unlike {reference.path}; expected the same affine in both "
                         "headers: resample one onto the other")


def _same_place(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two affines agree to a hundredth of a voxel, in whatever unit they are: micrometres may be written as 0.001 mm."""
    smallest = np.linalg.norm(one[:3, :3], axis=0).min()
    return np.allclose(one, other, rtol=1e-3, atol=1e-2 * smallest)


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
