"""Skeleton recall, a loss for the connectedness of tubes that costs next to nothing on the GPU.

Kirchhoff et al., Skeleton Recall Loss for Connectivity Conserving and Resource Efficient Segmentation of Thin Tubular Structures,
ECCV 2024, arXiv:2404.03010. The skeleton of the reference, widened to a tube of radius 2 within its class, is made by the processes that
augment; the loss is 1 - the share of the tube that the prediction holds. Nothing is skeletonised on the GPU, and no prediction ever is.

Differs from the authors' code: every class or region is skeletonised by itself (there all foreground at once, so that the myelin around
an axon has no skeleton), regions and the ignore label work, and straight bodies of even thickness, which scikit-image erases, keep a
skeleton.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import SegOnlyTransform
from torch import Tensor, nn

from nnunet_neuro.losses.combine import Resolutions, finest
from nnunet_neuro.losses.targets import PER_SAMPLE, Pooling, TargetFormat, mean_of_present
from nnunet_neuro.skeletons import bounding_box, skeletonise


class SkeletonRecallLoss(nn.Module):
    """1 - recall of the tubed skeleton, averaged over the foreground classes that have one.

    Args:
        target_format: how to read logits and skeleton.
        smooth: added to numerator and denominator.
        pooling: voxels that a recall is formed over.
    """

    def __init__(self, target_format: TargetFormat, *, smooth: float = 1e-5, pooling: Pooling = PER_SAMPLE) -> None:
        super().__init__()
        self.target_format, self.pooling, self.smooth = target_format, pooling, smooth

    def forward(self, logits: Tensor, skeleton: Tensor) -> Tensor:
        """logits (B, C, *spatial) and the skeleton of `SkeletonTransform`, (B, 1 or R, *spatial), to a scalar in 0..1."""
        probabilities = self.target_format.foreground_probabilities(logits)
        tube = self.target_format.foreground(skeleton, logits).to(probabilities.dtype)
        length = self.pooling.sum(tube)
        recall = (self.pooling.sum(probabilities * tube) + self.smooth) / (length + self.smooth)
        return mean_of_present(1 - recall, length > 0)


class LossWithSkeleton(nn.Module):
    """A loss plus `weight` times a term that wants the skeleton, which `SkeletonTransform` put last into the target."""

    def __init__(self, loss: nn.Module, term: nn.Module, weight: float) -> None:
        super().__init__()
        self.loss, self.term, self.weight = loss, term, weight

    def forward(self, output: Resolutions, target: Sequence[Tensor]) -> Tensor:
        target, skeleton = without_skeleton(target, deep_supervision=not isinstance(output, Tensor))
        return self.loss(output, target) + self.weight * self.term(finest(output), skeleton)


def without_skeleton(target: Sequence[Tensor], *, deep_supervision: bool) -> tuple[Resolutions, Tensor]:
    """The target as nnU-Net made it, and the skeleton."""
    *resolutions, skeleton = target
    return (resolutions if deep_supervision else resolutions[0]), skeleton


class SkeletonTransform(SegOnlyTransform):
    """Appends the tubed skeleton of the finest target to nnU-Net's targets; the last transform.

    The targets of the resolutions, or the only target, become a list that ends with the skeleton: (1, *spatial) label values for classes,
    (R, *spatial) bool for regions, 0 off the skeleton.

    Args:
        n_regions: number of regions; None for classes.
        ignore_label: of classes; has no skeleton.
        tube: radius of the tube in voxels.
    """

    def __init__(self, *, n_regions: int | None = None, ignore_label: int | None = None, tube: int = 2) -> None:
        super().__init__()
        self.n_regions, self.ignore_label, self.tube = n_regions, ignore_label, tube

    def _apply_to_segmentation(self, segmentation: Resolutions, **params) -> list[Tensor]:
        targets = [segmentation] if isinstance(segmentation, Tensor) else list(segmentation)
        return [*targets, self._skeleton(targets[0])]

    def _skeleton(self, target: Tensor) -> Tensor:
        values = target.numpy()
        if self.n_regions is not None:
            tubes = np.stack([skeleton_tube(region, self.tube) for region in values[: self.n_regions].astype(bool)])
            return torch.from_numpy(tubes).to(target.dtype)
        skeleton = np.zeros_like(values)
        for label in np.unique(values):
            if label > 0 and label != self.ignore_label:
                skeleton[0][skeleton_tube(values[0] == label, self.tube)] = label
        return torch.from_numpy(skeleton)


def skeleton_tube(mask: np.ndarray, radius: int) -> np.ndarray:
    """The skeleton of a mask, widened by `radius` steps to face neighbours, within the mask.

    Args:
        mask: (y, x) or (z, y, x) bool.
        radius: voxels.

    Returns:
        bool, same shape.
    """
    from scipy import ndimage

    tube = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is not None:
        inside = mask[box]
        tube[box] = ndimage.binary_dilation(skeletonise(inside), iterations=radius, mask=inside) if radius else skeletonise(inside)
    return tube
