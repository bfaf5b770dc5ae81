"""Trainer with boundary-weighted cross-entropy."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import BoundaryMixin, NeuroTrainerMixin


class nnUNetTrainerBoundary(BoundaryMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net's Dice and cross-entropy plus cross-entropy near boundaries, for structures that touch."""
