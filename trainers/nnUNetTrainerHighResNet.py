"""Trainer with HighResNet."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.networks.monai_networks import highresnet_architecture
from nnunet_neuro.training import NeuroTrainerMixin, PlanArchitectureMixin, SingleOutputMixin


class nnUNetTrainerHighResNet(PlanArchitectureMixin, SingleOutputMixin, NeuroTrainerMixin, nnUNetTrainer):
    """HighResNet of MTNeuro's comparison, dilated convolutions at full resolution, with few parameters and much memory."""

    plan_architecture = staticmethod(highresnet_architecture)
