"""Trainer for fine-tuning."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import CarriedHeadsMixin, EarlyStoppingMixin, LowRateMixin, NeuroTrainerMixin


class nnUNetTrainerFineTune(CarriedHeadsMixin, LowRateMixin, EarlyStoppingMixin, NeuroTrainerMixin, nnUNetTrainer):
    """Fine-tuning with -pretrained_weights: a low learning rate, and an end when the validation Dice no longer rises."""
