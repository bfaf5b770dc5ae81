"""The network: another architecture than the planned one, written into the plans."""

from __future__ import annotations

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_neuro.networks.plans import with_architecture
from nnunet_neuro.training.network import refuse_unknown_arguments


class PlanArchitectureMixin:
    """Another architecture than the planned one, written into the plans of this training.

    nnU-Net saves the plans it trains with as plans.json beside the folds and in every checkpoint, and builds its networks from them:
    its predictor, `--c` and `-pretrained_weights` get the same network with nothing set.

    Attributes:
        dimensions: numbers of axes for which there is such a network.
    """

    dimensions: tuple[int, ...] = (2, 3)

    @staticmethod
    def plan_architecture(architecture: dict, patch_size: list[int]) -> dict:
        """The section `architecture` of plans for the network to train; returns what it returned before unchanged.

        Args:
            architecture: the planned section, not to be changed.
            patch_size: of the trained configuration.
        """
        raise NotImplementedError

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")) -> None:  # noqa: B008 - nnU-Net's signature
        # before nnU-Net reads the plans and makes its output folder
        planned = PlansManager(plans).get_configuration(configuration)
        self._refuse_other_dimensions(configuration, planned.patch_size)
        plans = with_architecture(plans, configuration, self.plan_architecture)
        trained = PlansManager(plans).get_configuration(configuration)
        refuse_unknown_arguments(
            trained.network_arch_init_kwargs, trained.network_arch_class_name, plans_name=plans["plans_name"],
            planned_class_name=planned.network_arch_class_name,
        )
        super().__init__(plans, configuration, fold, dataset_json, device)

    def _refuse_other_dimensions(self, configuration: str, patch_size: list[int]) -> None:
        if len(patch_size) not in self.dimensions:
            raise ValueError(
                f"the patch of configuration {configuration} is {' x '.join(map(str, patch_size))}, but {type(self).__name__} has networks "
                f"for {' or '.join(map(str, self.dimensions))} axes only; train another configuration, such as 2d"
            )
