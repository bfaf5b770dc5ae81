"""Trainer for fine-tuning with a frozen encoder."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import CarriedHeadsMixin, EarlyStoppingMixin, FrozenEncoderMixin, LowRateMixin, NeuroTrainerMixin


class nnUNetTrainerFineTuneFrozenEncoder(CarriedHeadsMixin, FrozenEncoderMixin, LowRateMixin, EarlyStoppingMixin, NeuroTrainerMixin,
                                         nnUNetTrainer):
    """Fine-tuning of all but the encoder, for very few cases: a low learning rate, and an end when the Dice no longer rises."""
