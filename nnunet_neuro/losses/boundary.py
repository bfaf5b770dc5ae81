"""Cross-entropy weighted towards the boundaries between labels.

Caliva et al., Distance Map Loss Penalty Term for Semantic Segmentation, MIDL 2019, arXiv:1908.03679: voxels near a boundary of the
reference weigh more in the cross-entropy. The weight is that of Ronneberger et al., U-Net, MICCAI 2015, arXiv:1505.04597,
w = exp(-d^2 / (2 sigma^2)), with d the distance to the nearest voxel of another label; theirs adds the distance to the second nearest
cell, which needs instances.

Why not the boundary loss of Kervadec et al. (MIDL 2019), which integrates a signed distance map: its distances reach through the whole
object, and a patch or a partly annotated volume does not show where that ends; it is lowest for an empty prediction where the target is
empty, is unbounded below, and its authors raise its weight by a schedule so that it does not empty the prediction. A weight that fades
within three sigma is right in every patch but for its rim, and a cross-entropy with it keeps its minimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_neuro.losses.targets import TargetFormat, class_values, full_precision


class BoundaryCrossEntropy(nn.Module):
    """Mean of the cross-entropy with the weight exp(-d^2 / (2 sigma^2)); 0 where the target has no boundary.

    Voxels that nobody annotated have no weight, and none beside them is near a boundary on their account.

    Args:
        target_format: how to read logits and target; with regions each region has its own boundary and binary cross-entropy.
        spacing: voxel size along each spatial axis, in any unit; distances are counted in voxels of the finest axis, so that in
            thick sections the boundaries within the section count and the jump to the next one does not.
        sigma: in voxels of the finest axis.
    """

    def __init__(self, target_format: TargetFormat, spacing: Sequence[float], *, sigma: float = 2.0) -> None:
        super().__init__()
        self.target_format, self.sigma = target_format, sigma
        self.steps = tuple(float(length) / min(spacing) for length in spacing)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, C, *spatial) and nnU-Net's target to a scalar, 0 or more."""
        logits = full_precision(logits)
        annotated = self.target_format.annotated(target)
        if self.target_format.has_regions:
            labels = self.target_format.foreground(target, logits)
            entropy = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
            masks = torch.stack([labels, ~labels], 2)  # (B, R, 2, *spatial): the region and what is beside it
        else:
            labels = target if annotated is None else target.masked_fill(~annotated, 0)
            entropy = functional.cross_entropy(logits, labels[:, 0].long(), reduction="none")[:, None]
            masks = (labels == class_values(logits, first=0))[:, None]  # (B, 1, C, *spatial)
        with torch.no_grad():
            weight = self._weight(masks, annotated).to(entropy.dtype)
        return (weight * entropy).sum() / weight.sum().clamp_min(1e-8)

    def _weight(self, masks: Tensor, annotated: Tensor | None) -> Tensor:
        """(B, G, labels, *spatial) exclusive masks of each group of labels to weights (B, G, *spatial)."""
        known = torch.ones_like(masks[:, :1, 0]) if annotated is None else annotated
        reach = 3 * self.sigma
        squared = torch.full(masks[:, :, 0].shape, math.inf, device=masks.device)
        for label in range(masks.shape[2]):
            inside = masks[:, :, label]
            squared = torch.where(inside, squared_distance(known & ~inside, self.steps, reach), squared)
        return torch.exp(-squared / (2 * self.sigma**2)) * (squared <= reach**2) * known


def squared_distance(places: Tensor, steps: Sequence[float], reach: float) -> Tensor:
    """Squared Euclidean distance to the nearest true voxel, exact up to `reach` and infinite or too large beyond.

    Axis by axis, as Felzenszwalb and Huttenlocher (2012) do it, because least squares add up; within a short reach shifting is faster
    than their search.

    Args:
        places: (..., *spatial) bool.
        steps: length of a voxel along each spatial axis.
        reach: largest distance of interest.

    Returns:
        float32, same shape.
    """
    squared = torch.zeros(places.shape, device=places.device).masked_fill(~places, math.inf)
    for axis, step in enumerate(steps, start=places.ndim - len(steps)):
        length = places.shape[axis]
        least = squared.clone()
        for shift in range(1, min(int(reach / step), length - 1) + 1):
            moved = squared + (shift * step) ** 2
            for start, other in ((0, shift), (shift, 0)):
                part = least.narrow(axis, start, length - shift)
                part.copy_(torch.minimum(part, moved.narrow(axis, other, length - shift)))
        squared = least
    return squared
