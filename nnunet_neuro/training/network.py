"""The network: another class with the arguments of the plans."""

from __future__ import annotations

import inspect
import pydoc

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn


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
        refuse_unknown_arguments(
            arguments, cls.network_class_name, plans_name=plans_manager.plans_name,
            planned_class_name=configuration_manager.network_arch_class_name,
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


def refuse_unknown_arguments(arguments: dict, class_name: str, *, plans_name: str, planned_class_name: str) -> None:
    """Check the plans' architecture arguments against the network that is to be built with them.

    Raises:
        ValueError: the plans were made for a network with other arguments.
    """
    unknown = sorted(set(arguments) - set(constructor_parameters(class_name)))
    if unknown:
        raise ValueError(
            f"the plans {plans_name!r} set {', '.join(unknown)} for {planned_class_name}, expected arguments of {class_name}; "
            f"use plans of another planner, for example ExperimentPlanner"
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
