"""nnU-Net's normalisation of one channel, applied to a part of a volume with numbers of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    CTNormalization,
    ImageNormalization,
    NoNormalization,
    RescaleTo01Normalization,
    RGBTo01Normalization,
    ZScoreNormalization,
)

from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.predict.statistics import ChannelStatistics

# voxel by voxel, so that nnU-Net's own code does for any part of a volume
_LOCAL = (NoNormalization, CTNormalization, RGBTo01Normalization)
# what the others need to know of the whole volume
_NEEDS: dict[type[ImageNormalization], set[str]] = {ZScoreNormalization: {"mean"}, RescaleTo01Normalization: {"range"}}
_SCHEMES = {scheme.__name__: scheme for scheme in (*_LOCAL, *_NEEDS)}
_SMALLEST_DIVISOR = 1e-8  # nnU-Net's for 32 bits


@dataclass(frozen=True)
class Normalisation:
    """How a channel is normalised.

    Attributes:
        scheme: nnU-Net's class.
        statistics: of the channel; filled as far as `needed_statistics` says.
        intensities: the training data's, from the plans.
        masked: whether voxels that are zero in every channel stay zero, nnU-Net's `use_mask_for_norm`.
    """

    scheme: type[ImageNormalization]
    statistics: ChannelStatistics
    intensities: dict[str, Any]
    masked: bool

    def __call__(self, voxels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Normalise a part of the channel.

        Args:
            voxels: any shape; float32, changed in place where nnU-Net does so.
            mask: the same shape, where some channel is not zero; only for a masked channel.

        Returns:
            float32.

        Raises:
            ValueError: numbers that nnU-Net refuses, as those beyond 0 to 255 of an RGB image.
        """
        if self.scheme in _LOCAL:
            try:
                return self.scheme(use_mask_for_norm=self.masked, intensityproperties=self.intensities).run(voxels)
            except AssertionError as error:
                raise ValueError(f"the input does not fit the model's {self.scheme.__name__} ({error}); give images as the model was "
                                 "trained with") from error
        first, divisor = self._shift_and_divisor()
        if self.masked and self.scheme is ZScoreNormalization:
            return np.where(mask, (voxels - first) / divisor, voxels)
        voxels -= first
        voxels /= divisor
        return voxels

    def level(self, raw: float) -> float:
        """What a raw number becomes, however far from the data it lies."""
        voxel = np.full(1, raw, np.float32)
        if self.scheme is RGBTo01Normalization:
            return float(voxel[0] / np.float32(255))
        return float(self(voxel, np.ones(1, bool))[0])

    def _shift_and_divisor(self) -> tuple[np.float32, np.float32]:
        numbers = self.statistics
        if self.scheme is ZScoreNormalization:
            return np.float32(numbers.mean), np.float32(max(numbers.deviation, _SMALLEST_DIVISOR))
        return np.float32(numbers.minimum), np.float32(max(np.float32(numbers.maximum) - np.float32(numbers.minimum), _SMALLEST_DIVISOR))


def normalisations(model: TrainedModel, statistics: Sequence[ChannelStatistics]) -> tuple[Normalisation, ...]:
    """One for each channel of a model.

    Raises:
        ValueError: the model normalises in a way that is not known here.
    """
    intensities = model.plans.foreground_intensity_properties_per_channel
    return tuple(Normalisation(_scheme(model, channel), numbers, intensities.get(str(channel), {}), _is_masked(model, channel))
                 for channel, numbers in enumerate(statistics))


def needed_statistics(model: TrainedModel, *, resampled: bool = False) -> list[set[str]]:
    """For each channel of a model, what must be known of the whole volume: "mean", "range", both or nothing.

    Args:
        model: the plans say it.
        resampled: whether the input is, which needs the range, because nnU-Net cuts what a spline adds beyond it.

    Raises:
        ValueError: the model normalises in a way that is not known here.
    """
    more = {"range"} if resampled else set()
    return [_NEEDS.get(_scheme(model, channel), set()) | more for channel in range(len(model.channels))]


def masked_means(model: TrainedModel) -> list[bool]:
    """For each channel, whether its mean is that of the voxels that are not zero."""
    return [_scheme(model, channel) is ZScoreNormalization and _is_masked(model, channel) for channel in range(len(model.channels))]


def _scheme(model: TrainedModel, channel: int) -> type[ImageNormalization]:
    name = model.configuration.normalization_schemes[channel]
    if name not in _SCHEMES:
        raise ValueError(f"the model in {model.folder} normalises channel {model.channels[channel]} by {name}, which cannot be done part "
                         f"by part here; expected one of {', '.join(_SCHEMES)}: predict with nnUNetv2_predict what fits in memory")
    return _SCHEMES[name]


def _is_masked(model: TrainedModel, channel: int) -> bool:
    return bool(model.configuration.use_mask_for_norm[channel])
