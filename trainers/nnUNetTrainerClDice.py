"""Trainer with soft clDice."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import ClDiceMixin, NeuroTrainerMixin


class nnUNetTrainerClDice(ClDiceMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net's Dice and cross-entropy plus soft clDice, for centre lines without gaps."""
