"""Trainer with axial attention."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import NeuroTrainerMixin, PlanNetworkMixin


class nnUNetTrainerAxialAttention(PlanNetworkMixin, NeuroTrainerMixin, nnUNetTrainer):
    """U-Net with axial attention in the decoder, for long thin structures such as axons."""

    network_class_name = "nnunet_neuro.networks.axial_attention.AxialAttentionUNet"
