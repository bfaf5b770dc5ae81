"""Trainer with the augmentation of D-LMBmap."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.augment_training import AxonAugmentMixin
from nnunet_neuro.training import NeuroTrainerMixin


class nnUNetTrainerAxonAugment(AxonAugmentMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net with cutmix, histogram matching and local contrast, for axons in light-sheet volumes."""
