"""Trainer with attention gates."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import NeuroTrainerMixin, PlanNetworkMixin


class nnUNetTrainerAttentionUNet(PlanNetworkMixin, NeuroTrainerMixin, nnUNetTrainer):
    """U-Net whose decoder gates the skip connections, for small structures in a busy background."""

    network_class_name = "nnunet_neuro.networks.attention_unet.AttentionUNet"
