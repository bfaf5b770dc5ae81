"""Soft clDice, a loss for the connectedness of tubes.

Shit et al., clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation, CVPR 2021, arXiv:2003.07311.
With S(.) the soft skeleton, V the probabilities and T the target:

    precision = sum(S(V) T) / sum(S(V))    sensitivity = sum(S(T) V) / sum(S(T))    loss = 1 - harmonic mean of both

Differs from the authors' code: every foreground class has its own value (there all classes are pooled), and voxels that nobody annotated
take no part in erosion and dilation. Where single planes are annotated, skeletons are therefore formed within them, as `nnneuro_evaluate`
does; setting such voxels to background would make every plane its own skeleton and clDice a Dice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_neuro.losses.targets import PER_SAMPLE, Pooling, TargetFormat, mean_of_present


class SoftClDiceLoss(nn.Module):
    """1 - soft clDice, averaged over the foreground classes that the target holds.

    Args:
        target_format: how to read logits and target.
        iterations: erosions. Structures up to 2 * iterations + 1 voxels thick get a whole skeleton; of thicker ones only the corners
            count. Time and memory grow with it.
        smooth: added to numerators and denominators.
        pooling: voxels that a value is formed over.
    """

    def __init__(self, target_format: TargetFormat, *, iterations: int = 5, smooth: float = 1.0, pooling: Pooling = PER_SAMPLE) -> None:
        super().__init__()
        self.target_format, self.pooling = target_format, pooling
        self.iterations, self.smooth = iterations, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, C, *spatial) and nnU-Net's target to a scalar in 0..1."""
        probabilities = self.target_format.foreground_probabilities(logits)
        annotated = self.target_format.annotated(target)
        with torch.no_grad():
            reference = self.target_format.foreground(target, logits).to(probabilities.dtype)
            reference_skeleton = soft_skeleton(reference, self.iterations, annotated)
        skeleton = soft_skeleton(probabilities, self.iterations, annotated)
        precision = self._ratio(skeleton * reference, skeleton)
        sensitivity = self._ratio(reference_skeleton * probabilities, reference_skeleton)
        cl_dice = 2 * precision * sensitivity / (precision + sensitivity)
        return mean_of_present(1 - cl_dice, self.pooling.sum(reference_skeleton) > 0)

    def _ratio(self, part: Tensor, whole: Tensor) -> Tensor:
        return (self.pooling.sum(part) + self.smooth) / (self.pooling.sum(whole) + self.smooth)


def soft_skeleton(values: Tensor, iterations: int, annotated: Tensor | None = None) -> Tensor:
    """What an opening takes away, gathered over repeated erosion; of a binary image its skeleton.

    Args:
        values: (B, F, *spatial) in 0..1, two or three spatial axes.
        iterations: erosions.
        annotated: (B, 1, *spatial) bool; voxels outside take no part and are 0 in the result.

    Returns:
        (B, F, *spatial) in 0..1.
    """
    skeleton = torch.zeros_like(values)
    for _ in range(iterations + 1):
        eroded = _eroded(values, annotated)
        residue = functional.relu(values - _dilated(eroded, annotated))
        skeleton = skeleton + functional.relu(residue - skeleton * residue)
        values = eroded
    return skeleton if annotated is None else skeleton * annotated


def _dilated(values: Tensor, annotated: Tensor | None) -> Tensor:
    """Largest value in the cube of the neighbours."""
    return _max_pool(values if annotated is None else values * annotated, (3,) * (values.ndim - 2))


def _eroded(values: Tensor, annotated: Tensor | None) -> Tensor:
    """Least value in the cross of the face neighbours; outside the patch there is no neighbour."""
    negative = -values if annotated is None else -values.masked_fill(~annotated, 1)
    dimensions = values.ndim - 2
    lines = [_max_pool(negative, tuple(3 if other == axis else 1 for other in range(dimensions))) for axis in range(dimensions)]
    least = lines[0]
    for line in lines[1:]:
        least = torch.maximum(least, line)
    return -least


def _max_pool(values: Tensor, window: tuple[int, ...]) -> Tensor:
    pool = functional.max_pool2d if len(window) == 2 else functional.max_pool3d
    return pool(values, window, stride=1, padding=tuple(length // 2 for length in window))
