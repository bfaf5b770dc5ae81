"""Trainer with an encoder from timm."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.networks.timm_unet import timm_architecture
from nnunet_neuro.training import EncoderWeightsMixin, NeuroTrainerMixin, PlanArchitectureMixin, SingleOutputMixin


class nnUNetTrainerTimmUNet(PlanArchitectureMixin, EncoderWeightsMixin, SingleOutputMixin, NeuroTrainerMixin, nnUNetTrainer):
    """2D network of any image encoder from timm, with ImageNet weights or without, and one of eight decoders."""

    dimensions = (2,)
    plan_architecture = staticmethod(timm_architecture)
