"""Plans of nnU-Net with another network in them: the section `architecture` of one configuration, changed."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

# what nnU-Net's default planner names
PLAIN_UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def with_architecture(plans: dict, configuration: str, change: Callable[[dict, list[int]], dict]) -> dict:
    """The plans with the architecture of one configuration replaced by `change(architecture, patch_size)`.

    The architecture is written into the configuration itself where it was inherited from another one before. Everything that is not
    replaced is shared with `plans`, which stay as they are.
    """
    planned = PlansManager(plans).get_configuration(configuration)
    architecture = change(deepcopy(planned.configuration["architecture"]), planned.patch_size)
    changed = {**plans["configurations"][configuration], "architecture": architecture}
    return {**plans, "configurations": {**plans["configurations"], configuration: changed}}


def require_network(architecture: dict, class_name: str) -> None:
    """Refuse an architecture of another class than the one that is to be changed.

    Raises:
        ValueError: naming both classes.
    """
    if architecture["network_class_name"] != class_name:
        raise ValueError(
            f"the plans are for {architecture['network_class_name']}, expected {class_name}; "
            f"use plans of another planner, for example ExperimentPlanner"
        )
