"""The checkpoint that a fine-tuning starts from: a trained model's weights in the network that a trainer builds for another dataset."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_neuro.models.pretrained import PretrainedModel
from nnunet_neuro.models.transfer import NEW, LayerChange, transfer_weights, use_of
from nnunet_neuro.models.transferred_plans import with_trained_network
from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.raw_formats import complete_file, write_json
from nnunet_neuro.training.carried_heads import HEAD_MARK

TRAINER, SINGLE_OUTPUT_TRAINER = "nnUNetTrainerFineTune", "nnUNetTrainerFineTuneSingleOutput"


@dataclass(frozen=True)
class FittedWeights:
    """Weights of a new network.

    Attributes:
        state: of the network, on the CPU.
        changes: what became of each layer of the trained one.
    """

    state: dict[str, torch.Tensor]
    changes: list[LayerChange]


def fit_weights(model: PretrainedModel, plans: dict[str, Any], configuration: str, trainer: str, dataset_json: dict[str, Any]
                ) -> FittedWeights:
    """The model's weights in the network that a trainer builds by these plans.

    Args:
        model: the trained one.
        plans: fitted to the dataset.
        configuration: to train.
        trainer: class.
        dataset_json: channels and labels of the dataset.

    Raises:
        ValueError: the trainer builds another network, or one that needs a package that is not installed.
    """
    target = use_of(plans, configuration, dataset_json)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what starts anew is the same every time
            made = transfer_weights(model.weights, partial(build_network, plans, configuration, trainer), source=model.use, target=target)
    except ImportError as error:  # a sentence that says what to install, where it is one of this plugin's networks
        raise ValueError(f"the network of the model {model.file} cannot be built: {error}") from error
    except ValueError as error:
        network = PlansManager(plans).get_configuration(configuration).network_arch_class_name
        raise ValueError(f"{model.file} does not fit {trainer} with the network {network}: {error}; give the checkpoint that belongs to "
                         f"the plans, or a trainer with the same network") from error
    return FittedWeights(*made)


def write_fitted_weights(path: Path, fitted: FittedWeights, model: PretrainedModel, plans: dict[str, Any], configuration: str, trainer: str,
                         dataset_json: dict[str, Any]) -> None:
    """Write a checkpoint for `-pretrained_weights`, saved on the CPU, and beside it a JSON file of what became of each layer."""
    target = use_of(plans, configuration, dataset_json)
    write_json(path.with_suffix(".json"), {
        "model": str(model.file), "sha256": model.sha256, "plans": plans["plans_name"], "configuration": configuration, "trainer": trainer,
        "channels": list(target.channels), "heads": list(target.heads), "layers": [asdict(change) for change in fitted.changes]})
    content = {"network_weights": fitted.state, "trainer_name": trainer,
               "init_args": {"plans": plans, "configuration": configuration, "fold": 0, "dataset_json": dataset_json}}
    with complete_file(path, path.with_suffix(".part"), sum(tensor.nbytes for tensor in fitted.state.values())) as part:
        torch.save(content, part)


def build_network(plans: dict[str, Any], configuration: str, trainer: str, channels: int, heads: int) -> torch.nn.Module:
    """The network that a trainer builds, with untrained weights."""
    manager = PlansManager(with_trained_network(plans, configuration, trainer))
    return TrainedModel(Path(), manager, manager.get_configuration(configuration), _described(range(channels), range(1, heads)), trainer,
                        (), (), None).build_network()


def has_carried_heads(path: Path) -> bool:
    """Whether a checkpoint of `write_fitted_weights` has a head of a trained class."""
    layers = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["layers"]
    return any(HEAD_MARK in layer["layer"] and layer["what"] != NEW for layer in layers)


def trainer_class(name: str) -> type:
    """The class of that name, as nnU-Net finds it.

    Raises:
        ValueError: there is none.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it searches
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ValueError(f"there is no trainer {name}; expected one of nnU-Net's, of this plugin's (nnneuro_doctor lists them), or of a "
                         f"folder in the environment variable nnUNet_extTrainer") from error


def default_trainer(model: PretrainedModel, configuration: str) -> str:
    """This plugin's for fine-tuning networks with deep supervision, or those without."""
    manager = PlansManager(model.plans)
    parts = manager, manager.get_configuration(configuration), len(model.use.channels), len(model.use.heads)
    try:
        trainer_class(TRAINER).build_network_architecture(*parts, enable_deep_supervision=True)
    except (ValueError, TypeError):
        return SINGLE_OUTPUT_TRAINER
    except ImportError:
        pass  # said when the network is needed
    return TRAINER


def _described(channels: Sequence[int], classes: Sequence[int]) -> dict[str, Any]:
    return {"channel_names": {str(index): str(index) for index in channels},
            "labels": {"background": 0, **{str(index): index for index in classes}}}
