"""Focal Tversky loss, for structures that fill few voxels.

Abraham and Khan, A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion Segmentation, ISBI 2019, arXiv:1810.07842:

    Tversky index = TP / (TP + alpha FN + beta FP)    loss = mean over classes of (1 - Tversky index) ^ (1 / gamma)

alpha = 0.7 and beta = 0.3 weigh a missed voxel more than an invented one; gamma = 4/3 weighs classes that are still poor more.

Differs from the paper: the power is clipped where its slope is infinite, at a perfect prediction; unclipped it turns the weights to NaN
(a problem often reported for the authors' code). A class that the target does not hold is left out.
"""

from __future__ import annotations

from torch import Tensor, nn

from nnunet_neuro.losses.targets import PER_SAMPLE, Pooling, TargetFormat, mean_of_present

# the slope of the power is 24 there with the paper's gamma
_LEAST_ERROR = 1e-6


class FocalTverskyLoss(nn.Module):
    """(1 - Tversky index) ^ (1 / gamma), averaged over the foreground classes that the target holds.

    Args:
        target_format: how to read logits and target.
        alpha: weight of missed voxels.
        beta: weight of invented voxels.
        gamma: above 1 raises the weight of poor classes, 1 leaves the Tversky loss.
        smooth: added to numerator and denominator.
        pooling: voxels that an index is formed over.
    """

    def __init__(self, target_format: TargetFormat, *, alpha: float = 0.7, beta: float = 0.3, gamma: float = 4 / 3, smooth: float = 1.0,
                 pooling: Pooling = PER_SAMPLE) -> None:
        super().__init__()
        self.target_format, self.pooling = target_format, pooling
        self.alpha, self.beta, self.gamma, self.smooth = alpha, beta, gamma, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, C, *spatial) and nnU-Net's target to a scalar in 0..1."""
        probabilities = self.target_format.foreground_probabilities(logits)
        reference = self.target_format.foreground(target, logits).to(probabilities.dtype)
        annotated = self.target_format.annotated(target)
        if annotated is not None:
            probabilities, reference = probabilities * annotated, reference * annotated
        hit = self.pooling.sum(probabilities * reference)
        referenced = self.pooling.sum(reference)
        missed, invented = referenced - hit, self.pooling.sum(probabilities) - hit
        # not 1 - index, which cancels to nothing near a perfect prediction
        error = (self.alpha * missed + self.beta * invented) / (hit + self.alpha * missed + self.beta * invented + self.smooth)
        return mean_of_present(error.clamp_min(_LEAST_ERROR) ** (1 / self.gamma), referenced > 0)
