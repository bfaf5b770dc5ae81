"""Training length from the environment."""

from __future__ import annotations

import torch

from nnunet_neuro.training.environment import whole_number

# trainer attribute -> environment variable that sets it
TRAINING_LENGTH = {
    "num_epochs": "NNNEURO_EPOCHS",
    "num_iterations_per_epoch": "NNNEURO_ITERATIONS",
    "num_val_iterations_per_epoch": "NNNEURO_VAL_ITERATIONS",
}


class TrainingLengthMixin:
    """Training length from the environment.

    NNNEURO_EPOCHS sets the number of epochs, NNNEURO_ITERATIONS and NNNEURO_VAL_ITERATIONS their training and
    validation iterations; what is not set stays as in nnU-Net. checkpoint_latest.pth is written at most a tenth of the
    epochs apart, or every epoch, so that `--c` continues a short training too.
    """

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict,
                 device: torch.device = torch.device("cuda")) -> None:  # noqa: B008 - nnU-Net's signature
        # before nnU-Net makes its output folder
        length = training_length_from_environment()
        super().__init__(plans, configuration, fold, dataset_json, device)
        for attribute, value in length.items():
            setattr(self, attribute, value)
        self.save_every = max(1, min(self.save_every, self.num_epochs // 10))
        self.print_to_log_file(
            f"Training length: {self.num_epochs} epochs of {self.num_iterations_per_epoch} training and "
            f"{self.num_val_iterations_per_epoch} validation iterations, a checkpoint every {self.save_every} epochs "
            f"(set by {', '.join(TRAINING_LENGTH[attribute] for attribute in length) or 'the trainer'})"
        )


def training_length_from_environment() -> dict[str, int]:
    """Trainer attributes that the environment sets, with their values.

    Raises:
        ValueError: a variable is not a positive integer.
    """
    found = {attribute: whole_number(variable, "a positive integer", least=1) for attribute, variable in TRAINING_LENGTH.items()}
    return {attribute: value for attribute, value in found.items() if value is not None}
