"""Trainer with V-Net light."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.networks.monai_networks import vnet_architecture
from nnunet_neuro.training import NeuroTrainerMixin, PlanArchitectureMixin, SingleOutputMixin


class nnUNetTrainerVNet(PlanArchitectureMixin, SingleOutputMixin, NeuroTrainerMixin, nnUNetTrainer):
    """V-Net light of MTNeuro's comparison, a fixed residual network of few features."""

    plan_architecture = staticmethod(vnet_architecture)
