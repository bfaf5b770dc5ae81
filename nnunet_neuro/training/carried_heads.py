"""Segmentation heads of a pretrained model at the start of a training."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

HEADS = "NNNEURO_HEADS"
# what nnU-Net never takes over with -pretrained_weights
HEAD_MARK = ".seg_layers."


class CarriedHeadsMixin:
    """The segmentation heads of a checkpoint, once, when a training starts.

    nnU-Net leaves them out when it loads `-pretrained_weights`, because their classes may be others. `nnneuro_models finetune` makes
    checkpoints whose heads fit the classes of the new dataset; NNNEURO_HEADS names one. A training that continues keeps its own.
    """

    def on_train_start(self) -> None:
        """Loads them before nnU-Net starts.

        Raises:
            OSError, ValueError: NNNEURO_HEADS names no checkpoint, or one with other heads.
        """
        file = os.environ.get(HEADS)
        # nnU-Net is initialized before this only to load a checkpoint or pretrained weights
        if file and self.was_initialized and self.current_epoch == 0:
            network = self.network.module if self.is_ddp else self.network
            load_heads(getattr(network, "_orig_mod", network), Path(file))  # torch.compile's wrapper
            self.print_to_log_file(f"Segmentation heads: those of {file}")
        super().on_train_start()


def load_heads(network: torch.nn.Module, file: Path) -> None:
    """Load the segmentation heads of a checkpoint into a network of the same classes.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no checkpoint, or its heads have other shapes.
    """
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)["network_weights"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"environment variable {HEADS} names {file}, which is no checkpoint of weights and plain numbers; expected one "
                         f"that nnneuro_models finetune made: correct or unset it") from error
    state = network.state_dict()
    for name in [name for name in state if HEAD_MARK in name]:
        if name not in loaded or loaded[name].shape != state[name].shape:
            found = " x ".join(map(str, loaded[name].shape)) if name in loaded else "none"
            wanted = " x ".join(map(str, state[name].shape))
            raise ValueError(f"environment variable {HEADS} names {file}, whose {name} is {found}, expected {wanted}; make it for this "
                             f"dataset with nnneuro_models finetune, or unset it")
        state[name] = loaded[name]
    network.load_state_dict(state)
