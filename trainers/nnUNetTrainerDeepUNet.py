"""Trainer with a deeper network."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.networks.deep_unet import deeper_architecture
from nnunet_neuro.training import NeuroTrainerMixin, PlanArchitectureMixin


class nnUNetTrainerDeepUNet(PlanArchitectureMixin, NeuroTrainerMixin, nnUNetTrainer):
    """U-Net with one stage more than nnU-Net planned, for structures that need a wide view to be told apart."""

    plan_architecture = staticmethod(deeper_architecture)
