"""What nnU-Net's targets mean, and sums over them.

Every term here is 0 for a perfect prediction and grows with the error. A class without a voxel in the target, or with none that
counts for the term, contributes neither a value nor a gradient: its false positives are left to nnU-Net's own loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor


@dataclass(frozen=True)
class TargetFormat:
    """How logits and target are to be read.

    Attributes:
        has_regions: overlapping regions, each a channel of the network and of the target, instead of exclusive classes.
        ignore_label: value of the voxels that nobody annotated; with regions they are the last channel of the target.
    """

    has_regions: bool = False
    ignore_label: int | None = None

    @classmethod
    def of(cls, label_manager: LabelManager) -> TargetFormat:
        """The format that nnU-Net trains a dataset with."""
        return cls(label_manager.has_regions, label_manager.ignore_label)

    def foreground_probabilities(self, logits: Tensor) -> Tensor:
        """(B, C, *spatial) logits to (B, F, *spatial): sigmoid of the regions, or softmax without the background."""
        logits = full_precision(logits)
        return torch.sigmoid(logits) if self.has_regions else torch.softmax(logits, 1)[:, 1:]

    def foreground(self, target: Tensor, logits: Tensor) -> Tensor:
        """Target to (B, F, *spatial) bool, the channels of `foreground_probabilities`.

        Args:
            target: (B, 1, *spatial) label values, or (B, R, *spatial) regions followed by the ignore channel, if there is one.
            logits: (B, C, *spatial), for the number of channels.
        """
        if self.has_regions:
            return target[:, : logits.shape[1]].bool()
        return target == class_values(logits, first=1)

    def annotated(self, target: Tensor) -> Tensor | None:
        """(B, 1, *spatial) bool, false where the target says "ignore"; None where it cannot."""
        if self.ignore_label is None:
            return None
        return ~target[:, -1:].bool() if self.has_regions else target != self.ignore_label


@dataclass(frozen=True)
class Pooling:
    """Which voxels a ratio is formed over, as in nnU-Net's Dice.

    Attributes:
        batch_dice: over the whole batch instead of every sample.
        ddp: the batch is spread over several processes.
    """

    batch_dice: bool = False
    ddp: bool = False

    def sum(self, voxels: Tensor) -> Tensor:
        """(B, F, *spatial) to (B, F), or to (1, F) over the batch."""
        sums = voxels.flatten(2).sum(2)
        if not self.batch_dice:
            return sums
        sums = sums.sum(0, keepdim=True)
        return AllGatherGrad.apply(sums).sum(0) if self.ddp else sums


PER_SAMPLE = Pooling()


def full_precision(values: Tensor) -> Tensor:
    """32 bit where mixed precision gives 16: sums over a patch overflow there."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def class_values(logits: Tensor, *, first: int) -> Tensor:
    """The label values first, first + 1, ... of the channels, shaped to compare with a (B, 1, *spatial) target."""
    values = torch.arange(first, logits.shape[1], device=logits.device)
    return values.view(1, -1, *(1,) * (logits.ndim - 2))


def mean_of_present(values: Tensor, present: Tensor) -> Tensor:
    """Mean of the values whose class is present; 0 without a gradient if none is.

    Args:
        values: (B, F).
        present: (B, F) bool.
    """
    weights = present.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp_min(1)
