"""Mixins that add a term to nnU-Net's Dice and cross-entropy, for any network.

Several may be combined. A weight of 1 makes the term count as much as the Dice; to change a weight or an option, write a trainer with
another class attribute, because the name of a trainer stands for its settings.
"""

from __future__ import annotations

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from torch import Tensor, nn

from nnunet_neuro.losses.boundary import BoundaryCrossEntropy
from nnunet_neuro.losses.cl_dice import SoftClDiceLoss
from nnunet_neuro.losses.combine import Resolutions, with_term
from nnunet_neuro.losses.focal_tversky import FocalTverskyLoss
from nnunet_neuro.losses.skeleton_recall import LossWithSkeleton, SkeletonRecallLoss, SkeletonTransform, without_skeleton
from nnunet_neuro.losses.targets import Pooling, TargetFormat


class ClDiceMixin:
    """Adds soft clDice at full resolution, where thin structures are still whole."""

    cl_dice_weight = 1.0
    cl_dice_iterations = 5

    def _build_loss(self) -> nn.Module:
        term = SoftClDiceLoss(TargetFormat.of(self.label_manager), iterations=self.cl_dice_iterations, pooling=pooling_of(self))
        return with_term(super()._build_loss(), term, weight=self.cl_dice_weight, finest_only=True)


class FocalTverskyMixin:
    """Adds the focal Tversky loss at every resolution of deep supervision."""

    focal_tversky_weight = 1.0
    focal_tversky_alpha = 0.7
    focal_tversky_beta = 0.3
    focal_tversky_gamma = 4 / 3

    def _build_loss(self) -> nn.Module:
        term = FocalTverskyLoss(TargetFormat.of(self.label_manager), alpha=self.focal_tversky_alpha, beta=self.focal_tversky_beta,
                                gamma=self.focal_tversky_gamma, pooling=pooling_of(self))
        return with_term(super()._build_loss(), term, weight=self.focal_tversky_weight, finest_only=False)


class BoundaryMixin:
    """Adds boundary-weighted cross-entropy at full resolution."""

    boundary_weight = 1.0
    boundary_sigma = 2.0

    def _build_loss(self) -> nn.Module:
        spacing = self.configuration_manager.spacing[-len(self.configuration_manager.patch_size):]
        term = BoundaryCrossEntropy(TargetFormat.of(self.label_manager), spacing, sigma=self.boundary_sigma)
        return with_term(super()._build_loss(), term, weight=self.boundary_weight, finest_only=True)


class SkeletonRecallMixin:
    """Adds skeleton recall at full resolution; the skeletons are made by the processes that augment."""

    skeleton_recall_weight = 1.0
    skeleton_tube = 2

    def _build_loss(self) -> nn.Module:
        term = SkeletonRecallLoss(TargetFormat.of(self.label_manager), pooling=pooling_of(self))
        return LossWithSkeleton(super()._build_loss(), term, self.skeleton_recall_weight)

    def get_training_transforms(self, *args, **kwargs) -> BasicTransform:
        """nnU-Net's, then the skeleton of the augmented label."""
        return self._with_skeleton(super().get_training_transforms(*args, **kwargs))

    def get_validation_transforms(self, *args, **kwargs) -> BasicTransform:
        """nnU-Net's, then the skeleton."""
        return self._with_skeleton(super().get_validation_transforms(*args, **kwargs))

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, whose online Dice must not meet the skeleton."""
        target, skeleton = without_skeleton(batch["target"], deep_supervision=self.enable_deep_supervision)
        loss = self.loss
        self.loss = _SkeletonAside(loss, skeleton.to(self.device, non_blocking=True))
        try:
            return super().validation_step({**batch, "target": target})
        finally:
            self.loss = loss

    def _with_skeleton(self, transforms: BasicTransform) -> BasicTransform:
        steps = list(transforms.transforms)
        if self.enable_deep_supervision and not any(isinstance(step, DownsampleSegForDSTransform) for step in steps):
            raise ValueError(
                f"{type(self).__name__} makes skeletons of the augmented labels, but its transforms end before the targets are final; use "
                f"skeleton recall without a trainer that augments on the GPU"
            )
        regions = len(self.label_manager.foreground_regions) if self.label_manager.has_regions else None
        skeleton = SkeletonTransform(n_regions=regions, ignore_label=self.label_manager.ignore_label, tube=self.skeleton_tube)
        return ComposeTransforms([*steps, skeleton])


class _SkeletonAside:
    """A loss that is handed the target without the skeleton, and gets it back."""

    def __init__(self, loss: nn.Module, skeleton: Tensor) -> None:
        self.loss, self.skeleton = loss, skeleton

    def __call__(self, output: Resolutions, target: Resolutions) -> Tensor:
        resolutions = [target] if isinstance(target, Tensor) else list(target)
        return self.loss(output, [*resolutions, self.skeleton])


def pooling_of(trainer) -> Pooling:
    """The voxels that nnU-Net forms the Dice of this training over."""
    return Pooling(batch_dice=trainer.configuration_manager.batch_dice, ddp=trainer.is_ddp)
