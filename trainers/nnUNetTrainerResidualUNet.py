"""Trainer with residual blocks."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.networks.residual_unet import residual_architecture
from nnunet_neuro.training import NeuroTrainerMixin, PlanArchitectureMixin


class nnUNetTrainerResidualUNet(PlanArchitectureMixin, NeuroTrainerMixin, nnUNetTrainer):
    """U-Net with residual blocks in encoder and decoder in place of the planned convolutions."""

    plan_architecture = staticmethod(residual_architecture)
