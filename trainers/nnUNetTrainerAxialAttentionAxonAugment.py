"""Trainer with axial attention and the augmentation of D-LMBmap."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.augment_training import AxonAugmentMixin
from nnunet_neuro.training import NeuroTrainerMixin, PlanNetworkMixin


class nnUNetTrainerAxialAttentionAxonAugment(AxonAugmentMixin, PlanNetworkMixin, NeuroTrainerMixin, nnUNetTrainer):
    """U-Net with axial attention, trained with cutmix, histogram matching and local contrast, for axons in light-sheet volumes."""

    network_class_name = "nnunet_neuro.networks.axial_attention.AxialAttentionUNet"
