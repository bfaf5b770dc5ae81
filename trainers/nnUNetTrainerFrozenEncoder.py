"""Trainer with a frozen encoder."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import FrozenEncoderMixin, NeuroTrainerMixin


class nnUNetTrainerFrozenEncoder(FrozenEncoderMixin, NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net's network with a frozen encoder, for fine-tuning on few cases with -pretrained_weights."""
