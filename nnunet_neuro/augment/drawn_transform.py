"""The frame of a transform: draw first, apply then."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.helpers.scalar_type import sample_scalar
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform


class DrawnTransform(BasicTransform, abc.ABC):
    """A transform that is applied with some probability.

    `draw` alone touches a random generator, and only numpy's global one: nnU-Net seeds it anew in each worker, while forked workers
    share torch's, so that all of them would draw the same. `fill` changes the patch in place, as nnU-Net's own transforms do.

    Args:
        probability: of being applied to a patch.
    """

    def __init__(self, probability: float = 1.0) -> None:
        super().__init__()
        self.probability = probability

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        if np.random.random() >= self.probability:
            return {"drawn": None}
        return {"drawn": self.draw(data_dict["image"], data_dict.get("segmentation"))}

    def apply(self, data_dict: dict[str, Any], *, drawn: Any) -> dict[str, Any]:
        if drawn is not None:
            self.fill(data_dict["image"], data_dict.get("segmentation"), drawn)
        return data_dict

    @abc.abstractmethod
    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Any | None:
        """What to do with this patch; None leaves it as it is.

        Args:
            image: (C, [z,] y, x) float32, in nnU-Net's normalised intensities.
            segmentation: (S, [z,] y, x) int16; -1 lies outside the image, channel 1 is the previous stage of a cascade.
        """

    @abc.abstractmethod
    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Any) -> None:
        """Write what was drawn into image and segmentation."""


def draw_scalar(scalar: float | tuple[float, float]) -> float:
    """The number itself, or one drawn evenly from (low, high)."""
    return float(sample_scalar(scalar))


def foreground_positions(segmentation: torch.Tensor, ignore_label: int | None) -> np.ndarray:
    """Flat positions of the voxels of any class; neither background, nor outside, nor of the ignore label."""
    label = segmentation[0].numpy()
    # nnU-Net's ignore label is the highest one
    inside = (label > 0) if ignore_label is None else (label > 0) & (label < ignore_label)
    return np.flatnonzero(inside)
