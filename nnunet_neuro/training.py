"""Mixins for trainers, each around one hook of nnU-Net.

A trainer lists them before nnUNetTrainer. A mixin with an `__init__` repeats nnU-Net's five parameters, because
nnUNetTrainer.__init__ looks every parameter of the subclass up among its own local variables.
"""

from __future__ import annotations

import inspect
import os
import pydoc

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

# trainer attribute -> environment variable that sets it
TRAINING_LENGTH = {
    "num_epochs": "NNNEURO_EPOCHS",
    "num_iterations_per_epoch": "NNNEURO_ITERATIONS",
    "num_val_iterations_per_epoch": "NNNEURO_VAL_ITERATIONS",
}


class TrainingLengthMixin:
    """Training length from the environment.

    NNNEURO_EPOCHS sets the number of epochs, NNNEURO_ITERATIONS and NNNEURO_VAL_ITERATIONS their training and
    validation iterations; what is not set stays as in nnU-Net. checkpoint_latest.pth is written at most a tenth of the
    epochs apart, or every epoch, so that `--c` continues a short training too.
    """

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")) -> None:  # noqa: B008 - nnU-Net's signature
        # before nnU-Net makes its output folder
        length = training_length_from_environment()
        super().__init__(plans, configuration, fold, dataset_json, device)
        for attribute, value in length.items():
            setattr(self, attribute, value)
        self.save_every = max(1, min(self.save_every, self.num_epochs // 10))
        self.print_to_log_file(
            f"Training length: {self.num_epochs} epochs of {self.num_iterations_per_epoch} training and "
            f"{self.num_val_iterations_per_epoch} validation iterations, a checkpoint every {self.save_every} epochs "
            f"(set by {', '.join(TRAINING_LENGTH[attribute] for attribute in length) or 'the trainer'})"
        )


def training_length_from_environment() -> dict[str, int]:
    """Trainer attributes that the environment sets, with their values.

    Raises:
        ValueError: a variable is not a positive integer.
    """
    length = {}
    for attribute, variable in TRAINING_LENGTH.items():
        text = os.environ.get(variable)
        if text is None:
            continue
        if not text.strip().isdecimal() or int(text) == 0:
            raise ValueError(
                f"environment variable {variable} is {text!r}, expected a positive integer; correct or unset it"
            )
        length[attribute] = int(text)
    return length


class PlanNetworkMixin:
    """Another network class with the architecture arguments of the plans.

    `network_class_name` is the dotted path of an importable class that takes the architecture arguments of the plans.
    """

    network_class_name: str

    # nnU-Net's predictor calls this on the class and recognises the signature by its first name
    @classmethod
    def build_network_architecture(cls, plans_manager: PlansManager, configuration_manager: ConfigurationManager,
                                   num_input_channels: int, num_output_channels: int,
                                   enable_deep_supervision: bool = True) -> nn.Module:
        """The network that nnU-Net trains and its predictor rebuilds.

        Raises:
            ValueError: the plans were made for a network with other arguments.
        """
        arguments = configuration_manager.network_arch_init_kwargs
        unknown = sorted(set(arguments) - set(constructor_parameters(cls.network_class_name)))
        if unknown:
            raise ValueError(
                f"the plans {plans_manager.plans_name!r} set {', '.join(unknown)} for "
                f"{configuration_manager.network_arch_class_name}, expected arguments of {cls.network_class_name}; "
                f"use plans of another planner, for example ExperimentPlanner"
            )
        return get_network_from_plans(
            cls.network_class_name,
            arguments,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=True,
            deep_supervision=enable_deep_supervision,
        )


def constructor_parameters(class_name: str) -> list[str]:
    """Names that the constructor of an importable class accepts; bases are asked where a class passes everything on."""
    names = []
    for base in pydoc.locate(class_name).__mro__:
        parameters = inspect.signature(base.__init__).parameters
        names += parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return names
