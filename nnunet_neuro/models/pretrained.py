"""A trained model to start from: one of the catalogue, a folder, or a checkpoint alone."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_neuro.models.catalogue import find
from nnunet_neuro.models.seen_images import seen_images
from nnunet_neuro.models.transfer import Use, use_of
from nnunet_neuro.models.transferred_plans import with_trained_network
from nnunet_neuro.predict.checkpoints import load_checkpoint
from nnunet_neuro.predict.model import CHECKPOINT
from nnunet_neuro.predict.plan_parts import check_plans
from nnunet_neuro.views.models import nnunet_folder


@dataclass(frozen=True)
class PretrainedModel:
    """A checkpoint with what belongs to it.

    Attributes:
        name: letters and digits, for names of what is made from it.
        file: the checkpoint.
        plans: it was trained with, the network that its trainer builds written into them.
        dataset_json: its channels and labels.
        configuration: the trained one.
        weights: on the CPU.
        use: its channels, classes and patch.
    """

    name: str
    file: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    configuration: str
    weights: dict[str, Tensor]
    use: Use

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        with self.file.open("rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    @cached_property
    def seen(self) -> frozenset[str]:
        """Images that it was trained on, as `seen_images` names them."""
        return seen_images(self.dataset_json, [self.file.parent])

    def checked_configuration(self, wanted: str | None) -> str:
        """The configuration to train: the trained one, or another one of its plans with as many axes.

        Raises:
            ValueError: the plans do not have it, it has another number of axes, or it needs the prediction of another one.
        """
        manager = PlansManager(self.plans)
        name = wanted or self.configuration
        if name not in manager.available_configurations:
            raise ValueError(f"the plans of {self.file} have no configuration {name!r}, only "
                             f"{', '.join(manager.available_configurations)}; leave out -c for the trained one, {self.configuration}")
        chosen, trained = manager.get_configuration(name), manager.get_configuration(self.configuration)
        if len(chosen.patch_size) != len(trained.patch_size):
            raise ValueError(f"the model {self.file} is {len(trained.patch_size)}D, configuration {self.configuration}, and {name} is "
                             f"{len(chosen.patch_size)}D; leave out -c, or start from another model")
        if chosen.previous_stage_name is not None:
            raise ValueError(f"{name} is the second stage of a cascade, which is trained on predictions of {chosen.previous_stage_name}; "
                             f"choose another configuration with -c")
        return name


def load_pretrained(source: str) -> PretrainedModel:
    """The model that a user names, without running code from its files.

    Args:
        source: a name of the catalogue, a folder TRAINER__PLANS__CONFIGURATION or one of its folds, or a checkpoint. Of a folder the
            fold `all` is taken, or else the first.

    Raises:
        OSError, ValueError: no such model, not installed, or without its plans; one sentence.
    """
    file, name = _locate(source)
    content = load_checkpoint(file)
    arguments = content["init_args"]
    folder = file.parent.parent
    plans = _described(folder / "plans.json", arguments, "plans", "configurations")
    dataset_json = _described(folder / "dataset.json", arguments, "dataset_json", "labels")
    check_plans(plans, folder / "plans.json")
    configuration = arguments.get("configuration")
    try:
        plans = with_trained_network(plans, configuration, content["trainer_name"])
        use = use_of(plans, configuration, dataset_json)
    except Exception as error:  # nnU-Net looks into plans without checking them
        raise ValueError(f"the plans of {file} do not describe the configuration {configuration!r} that was trained "
                         f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); copy the plans that belong to it "
                         f"to {folder / 'plans.json'}") from error
    name = name or str(plans.get("dataset_name", "")).partition("_")[2] or file.stem
    return PretrainedModel("".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name)), file, plans, dataset_json,
                           configuration, content["network_weights"], use)


def _locate(source: str) -> tuple[Path, str]:
    """The checkpoint, and the name where it has one."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.resolve(), ""
    if path.is_dir():
        return _checkpoint_in(path.resolve()), ""
    if len(path.parts) > 1 or path.suffix:
        raise FileNotFoundError(f"no model {source}; expected a checkpoint, a folder TRAINER__PLANS__CONFIGURATION, or a name that "
                                f"nnneuro_models list shows")
    entry = find(source)
    folder = entry.folder or nnunet_folder("nnUNet_results") / entry.dataset / entry.model
    if not folder.is_dir():
        raise FileNotFoundError(f"the model {source} is not installed, there is no {folder}; run nnneuro_models install {source}")
    return _checkpoint_in(folder), entry.name


def _checkpoint_in(folder: Path) -> Path:
    folds = {path.parent.name: path for path in folder.glob(f"fold_*/{CHECKPOINT}")}
    found = folds.get("fold_all") or next((folds[name] for name in sorted(folds)), folder / CHECKPOINT)
    if not found.is_file():
        raise FileNotFoundError(f"no fold of {folder} has a {CHECKPOINT}; expected the folder TRAINER__PLANS__CONFIGURATION of a finished "
                                f"training, or name a checkpoint")
    return found


def _described(path: Path, arguments: dict[str, Any], key: str, needed: str) -> dict[str, Any]:
    """The plans or the dataset's description: the file of the model's folder, or else what the checkpoint keeps of it."""
    content = arguments.get(key)
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error}); copy it again") from error
    if not isinstance(content, dict) or needed not in content:
        raise FileNotFoundError(f"no {path.stem} that belong to the checkpoint: there is no usable {path}, nor are they in the checkpoint; "
                                f"copy {path.name} there from where the model was trained")
    return {name: value for name, value in content.items() if name != "continue_training"}
