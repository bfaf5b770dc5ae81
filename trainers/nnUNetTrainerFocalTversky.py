"""Trainer with the focal Tversky loss."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import FocalTverskyMixin, NeuroTrainerMixin


class nnUNetTrainerFocalTversky(FocalTverskyMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net's Dice and cross-entropy plus the focal Tversky loss, for structures that fill few voxels."""
