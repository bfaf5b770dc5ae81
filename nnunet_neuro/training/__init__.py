"""Mixins for trainers, each around one hook of nnU-Net.

A trainer lists them before nnUNetTrainer, `NeuroTrainerMixin` last. A mixin with an `__init__` repeats nnU-Net's five parameters, because
nnUNetTrainer.__init__ looks every parameter of the subclass up among its own local variables.
"""

from nnunet_neuro.training.architecture import PlanArchitectureMixin
from nnunet_neuro.training.carried_heads import CarriedHeadsMixin
from nnunet_neuro.training.checkpoints import AtomicCheckpointMixin
from nnunet_neuro.training.early_stopping import EarlyStoppingMixin
from nnunet_neuro.training.encoder_weights import EncoderWeightsMixin
from nnunet_neuro.training.frozen_encoder import FrozenEncoderMixin
from nnunet_neuro.training.length import TRAINING_LENGTH, TrainingLengthMixin, training_length_from_environment
from nnunet_neuro.training.losses import BoundaryMixin, ClDiceMixin, FocalTverskyMixin, SkeletonRecallMixin
from nnunet_neuro.training.low_rate import LowRateMixin
from nnunet_neuro.training.network import PlanNetworkMixin, constructor_parameters
from nnunet_neuro.training.repeatable import SEED, RepeatableMixin, seed_from_environment
from nnunet_neuro.training.single_output import SingleOutputMixin

__all__ = [
    "SEED",
    "TRAINING_LENGTH",
    "AtomicCheckpointMixin",
    "BoundaryMixin",
    "CarriedHeadsMixin",
    "ClDiceMixin",
    "EarlyStoppingMixin",
    "EncoderWeightsMixin",
    "FocalTverskyMixin",
    "FrozenEncoderMixin",
    "LowRateMixin",
    "NeuroTrainerMixin",
    "PlanArchitectureMixin",
    "PlanNetworkMixin",
    "RepeatableMixin",
    "SingleOutputMixin",
    "SkeletonRecallMixin",
    "TrainingLengthMixin",
    "constructor_parameters",
    "seed_from_environment",
    "training_length_from_environment",
]


class NeuroTrainerMixin(TrainingLengthMixin, RepeatableMixin, AtomicCheckpointMixin):
    """What every trainer of this plugin has: training length and seed from the environment, checkpoints that survive a kill."""
