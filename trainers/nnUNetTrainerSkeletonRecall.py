"""Trainer with skeleton recall."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import NeuroTrainerMixin, SkeletonRecallMixin


class nnUNetTrainerSkeletonRecall(SkeletonRecallMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net's Dice and cross-entropy plus skeleton recall, for centre lines without gaps at little cost."""
