"""Trainer with dropout."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.networks.dropout_unet import dropout_architecture
from nnunet_neuro.training import NeuroTrainerMixin, PlanArchitectureMixin


class nnUNetTrainerDropoutUNet(PlanArchitectureMixin, NeuroTrainerMixin, nnUNetTrainer):
    """The planned network with dropout of whole channels, against overfitting to few training cases."""

    plan_architecture = staticmethod(dropout_architecture)
