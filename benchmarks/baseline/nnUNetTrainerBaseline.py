"""nnU-Net's default trainer at the length and with the seed of this plugin's, for comparison."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.training import NeuroTrainerMixin


class nnUNetTrainerBaseline(NeuroTrainerMixin, nnUNetTrainer):
    """nnU-Net's default trainer; NNNEURO_EPOCHS and the other variables count."""
