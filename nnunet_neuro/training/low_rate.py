"""A low learning rate."""

from __future__ import annotations

import math
import os

LEARNING_RATE = "NNNEURO_LEARNING_RATE"


class LowRateMixin:
    """nnU-Net's optimizer and schedule from a lower rate on, so that what was learnt before is not undone in the first epochs.

    NNNEURO_LEARNING_RATE sets the rate of the first epoch; it falls to 0 at the last one, as nnU-Net's does.

    Attributes:
        learning_rate: where the environment does not say otherwise; a tenth of nnU-Net's.
    """

    learning_rate: float = 1e-3

    def configure_optimizers(self):
        """nnU-Net's, from this rate on.

        Raises:
            ValueError: NNNEURO_LEARNING_RATE is no positive number.
        """
        given = learning_rate_from_environment()
        self.initial_lr = self.learning_rate if given is None else given
        self.print_to_log_file(f"Learning rate: from {self.initial_lr:g} on (set by {'the trainer' if given is None else LEARNING_RATE})")
        return super().configure_optimizers()


def learning_rate_from_environment() -> float | None:
    """The rate, or None where none is set.

    Raises:
        ValueError: the variable is not a positive number.
    """
    text = os.environ.get(LEARNING_RATE)
    if text is None:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(f"environment variable {LEARNING_RATE} is {text!r}, expected a positive number such as 0.001; correct or unset it")
    return rate
