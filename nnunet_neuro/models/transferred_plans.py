"""Plans of a trained model fitted to another dataset: the same network, other channels, and where wanted another spacing and patch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_neuro.networks.plans import with_architecture
from nnunet_neuro.startup import find_class
from nnunet_neuro.training.architecture import PlanArchitectureMixin
from nnunet_neuro.training.network import PlanNetworkMixin


def with_trained_network(plans: dict[str, Any], configuration: str, trainer_name: str) -> dict[str, Any]:
    """The plans with the network that a trainer of this plugin builds in place of the planned one, so that any trainer builds it.

    Args:
        plans: of the trained model.
        configuration: the trained one.
        trainer_name: class that trained it; one from elsewhere leaves the plans as they are.
    """
    trainer = find_class(trainer_name)
    if trainer is None:
        return plans
    if issubclass(trainer, PlanNetworkMixin):
        return with_architecture(plans, configuration, lambda architecture, patch: {**architecture,
                                                                                    "network_class_name": trainer.network_class_name})
    if issubclass(trainer, PlanArchitectureMixin):  # already in the plans that it saved; those of the planner may be given as well
        return with_architecture(plans, configuration, trainer.plan_architecture)
    return plans


def fitted_plans(plans: dict[str, Any], configuration: str, *, source: Sequence[str], target: Sequence[str],
                 spacing: Sequence[float] | None = None, patch: Sequence[int] | None = None) -> dict[str, Any]:
    """The plans for another dataset.

    Args:
        plans: moved to that dataset by nnU-Net; not changed.
        configuration: the one to train.
        source: names of the trained channels.
        target: names of the dataset's channels.
        spacing: voxel size (z, y, x) that images are resampled to; None for that of the model.
        patch: voxels in the order of the plans' `patch_size`; None for that of the model.

    Raises:
        ValueError: a patch that the network cannot halve, or of another number of axes.
    """
    fitted = deepcopy(plans)
    if len(source) != len(target):
        _fit_channels(fitted, source, target)
    chosen = fitted["configurations"][configuration]
    planned = PlansManager(plans).get_configuration(configuration)
    if spacing is not None:
        chosen["spacing"] = [float(spacing[axis]) for axis in plans["transpose_forward"]][-len(planned.patch_size):]
    if patch is not None:
        chosen["patch_size"] = _checked_patch(patch, planned)
    return fitted


def _fit_channels(plans: dict[str, Any], source: Sequence[str], target: Sequence[str]) -> None:
    """Normalise every new channel as the trained one that its weights come from, or by its name where it is mixed from different ones."""
    repeated = len(target) % len(source) == 0
    before = plans["foreground_intensity_properties_per_channel"]
    for configuration in plans["configurations"].values():
        if (schemes := configuration.get("normalization_schemes")) is not None:
            same = repeated or len(set(schemes)) == 1
            configuration["normalization_schemes"] = [schemes[index % len(source)] if same else get_normalization_scheme(name).__name__
                                                      for index, name in enumerate(target)]
        if (masks := configuration.get("use_mask_for_norm")) is not None:
            configuration["use_mask_for_norm"] = [masks[index % len(source)] if repeated else all(masks) for index in range(len(target))]
    plans["foreground_intensity_properties_per_channel"] = {
        str(index): before[str(index % len(source))] for index in range(len(target)) if str(index % len(source)) in before}


def _checked_patch(patch: Sequence[int], planned: ConfigurationManager) -> list[int]:
    axes = len(planned.patch_size)
    steps = [math.prod(strides) for strides in zip(*planned.network_arch_init_kwargs.get("strides", [[1] * axes]))]
    if len(patch) != axes or any(length % step for length, step in zip(patch, steps)):
        raise ValueError(f"the patch is {', '.join(map(str, patch))}, but the network takes {axes} axes of multiples of "
                         f"{', '.join(map(str, steps))}; give such a one, or leave it at {', '.join(map(str, planned.patch_size))}")
    return list(map(int, patch))
