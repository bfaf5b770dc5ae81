"""Where the labels may differ from those of `nnUNetv2_predict`, told before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nnunet_neuro.predict.block_predictor import network_grid
from nnunet_neuro.predict.float_sums import follows_numpy
from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.predict.normalisation import masked_means, needed_statistics
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.statistics import MOST_VOXELS_AS_NUMPY, VolumeStatistics
from nnunet_neuro.volumes.volume import Volume, full_region


def describe_exactness(model: TrainedModel, volumes: Sequence[Volume], options: PredictOptions, *,
                       statistics: VolumeStatistics | None = None, spacing: Sequence[float] | None = None) -> list[str]:
    """One line for each reason why labels may differ from nnU-Net's with the same step and mirroring; none where they are equal.

    Args:
        model: the trained model.
        volumes: the channels.
        options: how it is predicted.
        statistics: of the first pass; without it the whole volume is taken to be the box of what is not zero.
        spacing: (z, y, x) voxel size; None for that of the volumes.
    """
    statistics = statistics or VolumeStatistics(full_region(volumes[0].shape, None), ())
    grid = network_grid(model, volumes, statistics, options, spacing=spacing)
    voxels = math.prod(grid.box_shape)
    needs_mean = any("mean" in needs for needs in needed_statistics(model))
    reasons = []
    if grid.is_resampled:
        reasons.append(f"the voxel size is not the plan's, so {grid.box_shape} voxels are resampled to {grid.resampled} part by part, "
                       "which changes about one label in ten thousand or fewer")
    if any(masked_means(model)):
        reasons.append("the plan normalises what is not zero, and zeros that are enclosed by it count as outside here")
    elif needs_mean and not follows_numpy(statistics.box, volumes[0].shape):
        reasons.append(f"mean and standard deviation of a cropped volume may differ in the last bits with NumPy {np.__version__}")
    elif voxels > MOST_VOXELS_AS_NUMPY and needs_mean:
        reasons.append(f"mean and standard deviation of {voxels} voxels are computed with 64 bits, where nnU-Net's 32 bits lose digits")
    if options.background is not None:
        reasons.append(f"windows whose voxels are all at or below {options.background:g} are skipped and become background")
    if options.batch > 1:
        reasons.append(f"{options.batch} windows go through the network at once, which may change the last bits of logits")
    if options.compile:
        reasons.append("the network is compiled, which changes the last bits of logits")
    if options.precision != "auto":
        reasons.append(f"the network computes in {options.precision} where nnU-Net chooses by the device")
    if not options.device.startswith("cpu"):
        reasons.append(f"on {options.device} the order of additions within the network is not fixed, so the last bits of logits vary")
    return reasons
