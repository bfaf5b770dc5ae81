"""Trainer with the section defects of electron microscopy."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.augment_training import EMAugmentMixin
from nnunet_neuro.training import NeuroTrainerMixin


class nnUNetTrainerEMAugment(EMAugmentMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net with brightness stripes, lost and displaced sections, for electron microscopy."""
