"""Encoder weights from elsewhere at the start of a training."""

from __future__ import annotations


class EncoderWeightsMixin:
    """Weights of the network's encoder from elsewhere, once, when a training starts.

    The network's `load_encoder_weights()` loads what the plans name and says so. A training that continues another one or begins with
    `-pretrained_weights` keeps the weights of that, and nothing is looked up to predict.
    """

    def on_train_start(self) -> None:
        # nnU-Net is initialized before this only to load a checkpoint or pretrained weights
        starts_anew = not self.was_initialized
        if starts_anew:
            self.initialize()
            network = self.network.module if self.is_ddp else self.network
            self.print_to_log_file(getattr(network, "_orig_mod", network).load_encoder_weights())  # torch.compile's wrapper
        super().on_train_start()
