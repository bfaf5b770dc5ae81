"""The end of a training that no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.distributed

from nnunet_neuro.training.environment import whole_number

PATIENCE = "NNNEURO_PATIENCE"
# of the moving average of the Dice; a smaller gain is drift
SMALLEST_GAIN = 0.001


class EarlyStoppingMixin:
    """The training ends when the moving average of nnU-Net's validation Dice has not gained 0.001 for some epochs.

    It ends as a finished one does, with checkpoint_final.pth and the validation of whole cases. Nothing is remembered beside nnU-Net's
    log, which is in every checkpoint: `--c` comes to the same decision, and a stopped training that is continued is only validated.
    With several GPUs the first decides for all.

    NNNEURO_PATIENCE sets the number of epochs; 0 trains to the end.

    Attributes:
        patience: epochs, where the environment does not say otherwise.
    """

    patience: int = 25

    def on_epoch_start(self) -> None:
        """Stops in place of an epoch that is not wanted."""
        averages = self.logger.get_value("ema_fg_dice", step=None)
        if self.patience and self._first_rank_says(epochs_without_gain(averages) >= self.patience):
            raise _TrainingIsOver(f"Early stopping: the moving average of the validation Dice, now {averages[-1]:.4f}, has not gained "
                                  f"{SMALLEST_GAIN} for {self.patience} epochs; {self.current_epoch} of {self.num_epochs} epochs were "
                                  f"trained")
        super().on_epoch_start()

    def run_training(self) -> None:
        """nnU-Net's own, which has no other way out of its loop than an exception.

        Raises:
            ValueError: NNNEURO_PATIENCE is no whole number.
        """
        given = patience_from_environment()
        self.patience = self.patience if given is None else given
        when = f"after {self.patience} epochs without a gain of {SMALLEST_GAIN}" if self.patience else "never"
        self.print_to_log_file(f"Early stopping: {when} (set by {'the trainer' if given is None else PATIENCE})")
        try:
            super().run_training()
        except _TrainingIsOver as decision:
            self.print_to_log_file(str(decision))
            self.on_train_end()

    def _first_rank_says(self, answer: bool) -> bool:
        if not self.is_ddp:
            return answer
        answers = [answer]
        torch.distributed.broadcast_object_list(answers, src=0)
        return answers[0]


class _TrainingIsOver(Exception):
    pass


def epochs_without_gain(averages: Sequence[float]) -> int:
    """Epochs since a moving average was last 0.001 above the best before it; 0 where the last one is undefined.

    Args:
        averages: one for each epoch, NaN where undefined.
    """
    if not averages or not math.isfinite(averages[-1]):
        return 0
    best, since = -math.inf, 0
    for average in averages:
        gained = not math.isfinite(average) or average >= best + SMALLEST_GAIN
        since = 0 if gained else since + 1
        if gained and math.isfinite(average):
            best = average
    return since


def patience_from_environment() -> int | None:
    """The patience in epochs, or None where none is set.

    Raises:
        ValueError: the variable is not a whole number from 0 on.
    """
    return whole_number(PATIENCE, "a whole number of epochs, 0 to train to the end")
