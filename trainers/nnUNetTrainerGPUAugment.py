"""Trainer that augments on the device that trains."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.augment_training import GPUAugmentMixin
from nnunet_neuro.training import NeuroTrainerMixin


class nnUNetTrainerGPUAugment(GPUAugmentMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net with its own augmentation moved to the GPU, for fast cards beside few CPU cores."""
