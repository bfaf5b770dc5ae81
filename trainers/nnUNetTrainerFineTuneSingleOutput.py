"""Trainer for fine-tuning networks with one output."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import CarriedHeadsMixin, EarlyStoppingMixin, LowRateMixin, NeuroTrainerMixin, SingleOutputMixin


class nnUNetTrainerFineTuneSingleOutput(CarriedHeadsMixin, LowRateMixin, EarlyStoppingMixin, SingleOutputMixin, NeuroTrainerMixin,
                                        nnUNetTrainer):
    """Fine-tuning of networks without deep supervision: a low learning rate, and an end when the Dice no longer rises."""
