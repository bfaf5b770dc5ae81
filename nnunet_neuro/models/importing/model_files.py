"""Plans, dataset.json and checkpoint of an imported network, written as a model folder of nnU-Net v2."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_neuro.raw_dataset import NNUNET_FOLDERS
from nnunet_neuro.raw_formats import FORMATS, write_json

TRAINER = "nnUNetTrainer"
CHECKPOINT = "checkpoint_final.pth"
# the ids that are searched for a free one
_FREE_IDS = range(900, 1000)
# nnU-Net v1 and v2 alike
RESAMPLING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
# for the systems that never resample
NO_RESAMPLING = {f"resampling_fn_{what}{end}": value for what in ("data", "seg", "probabilities")
                 for end, value in (("", "no_resampling_hack"), ("_kwargs", {}))}


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network sees it, in nnU-Net's terms.

    Attributes:
        patch: voxels of a window, two or three numbers, in the order of the transposed axes.
        spacing: voxel size of the transposed axes, three numbers.
        normalization: nnU-Net's class for each channel.
        masked: `use_mask_for_norm` of each channel.
        intensities: of the training data, by channel; empty where no normalisation wants them.
        resampling: RESAMPLING or NO_RESAMPLING.
        transpose: nnU-Net's `transpose_forward`.
        batch: size of a batch, for fine-tuning.
        batch_dice: for fine-tuning.
        shape: median shape of the training images, transposed; None where it is not known.
    """

    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    normalization: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: Mapping[str, Mapping[str, float]]
    resampling: Mapping[str, Any]
    transpose: tuple[int, ...] = (0, 1, 2)
    batch: int = 2
    batch_dice: bool = True
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ImportedModel:
    """A network of an older system, ready to be written.

    Attributes:
        plans_name: of the plans, `nnUNetPlans...`.
        configuration: 2d, 3d_fullres or 3d_lowres.
        architecture: section of the plans.
        preprocessing: rest of them.
        weights: state dict of the network.
        channels: names.
        labels: names, background first.
        file_ending: of images, a key of raw_formats.FORMATS.
        origin: what it was made from, for dataset.json.
    """

    plans_name: str
    configuration: str
    architecture: Mapping[str, Any]
    preprocessing: Preprocessing
    weights: Mapping[str, Tensor]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    file_ending: str
    origin: Mapping[str, Any]

    def plans(self, dataset: str) -> dict[str, Any]:
        """nnU-Net's plans with this configuration alone."""
        steps, dimensions = self.preprocessing, len(self.preprocessing.patch)
        shape = list(steps.shape or (1,) * (3 - dimensions) + tuple(steps.patch))
        configuration = {
            "data_identifier": f"{self.plans_name}_{self.configuration}", "preprocessor_name": "DefaultPreprocessor",
            "batch_size": steps.batch, "patch_size": list(steps.patch), "median_image_size_in_voxels": shape[-dimensions:],
            "spacing": list(steps.spacing[-dimensions:]), "normalization_schemes": list(steps.normalization),
            "use_mask_for_norm": list(steps.masked), "batch_dice": steps.batch_dice, **steps.resampling, "architecture": self.architecture,
        }
        return {
            "dataset_name": dataset, "plans_name": self.plans_name, "original_median_spacing_after_transp": list(steps.spacing),
            "original_median_shape_after_transp": shape, "image_reader_writer": FORMATS[self.file_ending].reader,
            "transpose_forward": list(steps.transpose), "transpose_backward": [steps.transpose.index(axis) for axis in range(3)],
            "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {
                str(channel): dict(steps.intensities.get(str(channel), {})) for channel in range(len(steps.normalization))},
            "configurations": {self.configuration: configuration},
        }

    def dataset_json(self, dataset: str) -> dict[str, Any]:
        """Channels and labels, and where the network comes from."""
        return {"channel_names": {str(number): name for number, name in enumerate(self.channels)},
                "labels": {name: number for number, name in enumerate(self.labels)}, "numTraining": 0, "file_ending": self.file_ending,
                "name": dataset, "overwrite_image_reader_writer": FORMATS[self.file_ending].reader, "imported_from": dict(self.origin)}


def write_model(model: ImportedModel, results: Path, dataset: str, *, fold: int | str) -> Path:
    """Write the model folder; it, or a further fold of it, appears when it is complete.

    Args:
        model: what to write.
        results: nnUNet_results, or a folder in its place.
        dataset: name, DatasetNNN_Name.
        fold: number or "all".

    Returns:
        `results/DatasetNNN_Name/nnUNetTrainer__PLANS__CONFIGURATION`

    Raises:
        FileExistsError: the fold is there, or another model is.
    """
    folder = results / dataset / f"{TRAINER}__{model.plans_name}__{model.configuration}"
    plans, dataset_json = model.plans(dataset), model.dataset_json(dataset)
    if (folder / f"fold_{fold}").exists():
        raise FileExistsError(f"{folder / f'fold_{fold}'} exists; import to another dataset id with -d, or to another fold with --fold")
    if folder.exists() and not _same_model(folder, plans, dataset_json):
        raise FileExistsError(f"{folder} exists and is another model, with other plans or labels; import to another dataset id with -d")
    with _scratch(folder.parent) as scratch:
        made = scratch / f"fold_{fold}"
        made.mkdir()
        torch.save({
            "network_weights": {name: tensor.cpu() for name, tensor in model.weights.items()}, "optimizer_state": None,
            "grad_scaler_state": None, "logging": {}, "_best_ema": None, "current_epoch": 0, "trainer_name": TRAINER,
            "init_args": {"plans": plans, "configuration": model.configuration, "fold": fold, "dataset_json": dataset_json},
            "inference_allowed_mirroring_axes": None,
        }, made / CHECKPOINT)
        if folder.exists():
            os.replace(made, folder / made.name)
        else:
            write_json(scratch / "plans.json", plans)
            write_json(scratch / "dataset.json", dataset_json)
            os.replace(scratch, folder)
    return folder


def dataset_name(dataset_id: int | None, name: str, results: Path) -> str:
    """DatasetNNN_Name for an id, or for the first free one from 900 on.

    Raises:
        ValueError: no such name or id can be, or all are taken.
        FileExistsError: the id belongs to another dataset.
    """
    if not re.fullmatch(r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*", name):
        raise ValueError(f"the dataset cannot be named {name!r}; expected letters and digits, with single hyphens or underscores between")
    places = {results, *(Path(os.environ[variable]) for variable in NNUNET_FOLDERS if os.environ.get(variable))}
    taken: dict[int, set[str]] = {}
    for place in places:
        for path in place.glob("Dataset[0-9][0-9][0-9]_*"):
            taken.setdefault(int(path.name[7:10]), set()).add(path.name)
    if dataset_id is None:
        dataset_id = next((number for number in _FREE_IDS if number not in taken), None)
        if dataset_id is None:
            raise ValueError("no dataset id from 900 to 999 is free; give one with -d")
    if not 1 <= dataset_id <= 999:
        raise ValueError(f"the dataset id is {dataset_id}, expected 1 to 999")
    wanted = f"Dataset{dataset_id:03d}_{name}"
    others = taken.get(dataset_id, set()) - {wanted}
    if others:
        raise FileExistsError(f"the id {dataset_id} belongs to {sorted(others)[0]}; give another one with -d, or its name with --name")
    return wanted


def label_names(given: Sequence[str] | None, classes: int, usual: Sequence[str]) -> tuple[str, ...]:
    """Background and the names of the other classes: those given, else the usual ones, else numbered.

    Raises:
        ValueError: another number is given than the network has, or one twice.
    """
    if given:
        names = tuple(name for name in given if name != "background")
        if len(names) != classes - 1 or len(set(names)) != len(names):
            raise ValueError(f"--labels names {', '.join(names)}, but the network has {classes - 1} "
                             f"class{'es' * (classes > 2)} beside the background; name each once, in order")
    else:
        names = tuple(usual) if len(usual) == classes - 1 else tuple(f"class_{number}" for number in range(1, classes))
    return ("background", *names)


def _same_model(folder: Path, plans: dict[str, Any], dataset_json: dict[str, Any]) -> bool:
    def without_origin(content: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in content.items() if key != "imported_from"}

    try:
        there = [json.loads((folder / name).read_text(encoding="utf-8")) for name in ("plans.json", "dataset.json")]
    except (OSError, ValueError):
        return False
    # through JSON, which turns tuples to lists
    wanted = [json.loads(json.dumps(content)) for content in (plans, dataset_json)]
    return there[0] == wanted[0] and without_origin(there[1]) == without_origin(wanted[1])


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A new folder beside the final one; what is left of it afterwards goes, and so does an empty parent."""
    fresh = not parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".importing-", dir=parent))
    scratch.chmod(0o755)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if fresh and not any(parent.iterdir()):
            parent.rmdir()
