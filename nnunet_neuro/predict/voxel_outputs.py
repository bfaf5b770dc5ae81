"""From logits to what is stored for each voxel: label, probabilities, entropy, disagreement of the folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_neuro.predict.column import FinishedPlanes
from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.volumes.volume import Region


@dataclass(frozen=True)
class VoxelOutputs:
    """Arrays over the same voxels, (planes, y, x) or (heads, planes, y, x); None for what was not asked for.

    Attributes:
        labels: uint8 or uint16.
        probabilities: float32, as nnU-Net's.
        entropy: float16, 0 to 1.
        disagreement: float16, 0 to 1.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    entropy: np.ndarray | None
    disagreement: np.ndarray | None

    def fill(self, region: Region, part: VoxelOutputs) -> None:
        """Put the outputs of a part in their place."""
        for name, array in vars(self).items():
            if array is not None:
                array[(..., *region)] = getattr(part, name)

    def transposed(self, axes: Sequence[int]) -> VoxelOutputs:
        """With the last three axes in another order, without gaps in memory."""
        arrays = {}
        for name, array in vars(self).items():
            leading = 0 if array is None else array.ndim - 3
            order = (*range(leading), *(leading + axis for axis in axes))
            arrays[name] = None if array is None else np.ascontiguousarray(array.transpose(order))
        return VoxelOutputs(**arrays)


def background_outputs(model: TrainedModel, options: PredictOptions, shape: Sequence[int]) -> VoxelOutputs:
    """Outputs where nothing is computed: background, of which everybody is sure."""
    shape = tuple(shape)
    probabilities = np.zeros((model.heads, *shape), np.float32) if options.probabilities else None
    if probabilities is not None and not model.label_manager.has_regions:
        probabilities[0] = 1
    return VoxelOutputs(np.zeros(shape, model.label_dtype), probabilities, np.zeros(shape, np.float16) if options.entropy else None,
                        np.zeros(shape, np.float16) if options.disagreement and len(model.folds) > 1 else None)


def outputs_of(model: TrainedModel, options: PredictOptions, finished: FinishedPlanes) -> VoxelOutputs:
    """Outputs of the voxels of finished planes."""
    manager = model.label_manager
    labels = _labels(manager, finished.logits)
    probabilities = entropy = disagreement = None
    if options.probabilities or options.entropy:
        shares = manager.apply_inference_nonlin(finished.logits)
        if options.entropy:
            entropy = _numpy(torch.where(finished.covered, entropy_of(shares, manager.has_regions), 0.0).half())
        if options.probabilities:
            empty = torch.zeros(len(shares), 1, 1, 1, device=shares.device)
            empty[0] = 0.0 if manager.has_regions else 1.0
            probabilities = _numpy(torch.where(finished.covered, shares, empty))
    if options.disagreement and len(finished.folds) > 1:
        others = [(_labels(manager, logits) != labels).float() for logits in finished.folds]
        disagreement = _numpy(torch.stack(others).mean(0).half())
    return VoxelOutputs(_numpy(labels).astype(model.label_dtype, copy=False), probabilities, entropy, disagreement)


def _labels(manager: LabelManager, logits: torch.Tensor) -> torch.Tensor:
    if manager.has_regions or type(manager) is not LabelManager:
        return manager.convert_logits_to_segmentation(logits if manager.has_regions else logits.cpu())
    # nnU-Net's argmax leaves the device and takes eight bytes a voxel; the first of equal ones counts there too
    labels = torch.zeros(logits.shape[1:], dtype=torch.uint8 if len(logits) <= 256 else torch.int16, device=logits.device)
    best = logits[0].clone()
    for head in range(1, len(logits)):
        better = logits[head] > best
        labels[better] = head
        torch.maximum(best, logits[head], out=best)
    return labels


def entropy_of(shares: torch.Tensor, has_regions: bool) -> torch.Tensor:
    """Entropy of probabilities (heads, ...), 0 to 1: of the classes, or the mean over regions of being one or not."""
    if has_regions:
        return (torch.special.entr(shares) + torch.special.entr(1 - shares)).mean(0) / math.log(2)
    return torch.special.entr(shares).sum(0) / math.log(max(2, len(shares)))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
