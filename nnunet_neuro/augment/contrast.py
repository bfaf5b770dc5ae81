"""Local changes of contrast: axons that fade into their surroundings, and contrast evened out over the patch.

The weakening is what D-LMBmap (Li et al., Nature Methods 2023) applies around random axon voxels; its code looks for label 255 where
axons are 1, so it never acts, and confuses two axes. Differs otherwise: spots may touch the border, voxels may be anisotropic, and the
grey value that a spot fades into is its own mean. The enhancement is what its README promises: as in contrast-limited adaptive
histogram equalisation (Pizer et al. 1987) contrast is evened out between the regions of a patch, up to a limit, but by mean and standard
deviation instead of a histogram per region, which takes a tenth of the time and keeps bright axons bright.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_neuro.augment.drawn_transform import DrawnTransform, draw_scalar, foreground_positions


@dataclass(frozen=True)
class Spots:
    """Where contrast is weakened: centres (N, dimensions) in voxels, and how much, 0 to 1, in the middle of each."""

    centres: np.ndarray
    strength: float


class AxonWeakeningTransform(DrawnTransform):
    """Fades the image into its local mean around some foreground voxels; the label stays.

    At the distance r from a centre, in voxels of the finest axis, a voxel x becomes x + m (mean - x) with
    m = strength (1 - r / radius), where r is less than the radius.

    Args:
        spacing: voxel size in the order of the patch's axes, any unit.
        radius: of a spot, in voxels of the finest axis.
        spots: how many.
        strength: 0 changes nothing, 1 leaves the plain mean in the middle of a spot; (low, high) to draw from.
        ignore_label: nnU-Net's ignore label, which is no foreground.
        probability: of being applied to a patch.
    """

    def __init__(self, spacing: Sequence[float], *, radius: float = 25, spots: int = 4, strength: float | tuple[float, float] = 0.65,
                 ignore_label: int | None = None, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.spots = spots
        self.strength = strength
        self.ignore_label = ignore_label
        self.weights = cone(radius, np.asarray(spacing, float) / min(spacing))

    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Spots | None:
        strength = draw_scalar(self.strength)
        candidates = () if segmentation is None else foreground_positions(segmentation, self.ignore_label)
        if strength == 0 or len(candidates) == 0:
            return None
        chosen = candidates[np.random.randint(len(candidates), size=self.spots)]
        return Spots(np.stack(np.unravel_index(chosen, image.shape[1:]), axis=1), strength)

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Spots) -> None:
        for centre in drawn.centres:
            fill_weakened(image, centre, self.weights, drawn.strength)


def cone(radius: float, spacing: np.ndarray) -> torch.Tensor:
    """1 in the middle, 0 at `radius` and beyond, linear between them.

    Args:
        radius: in units of `spacing`.
        spacing: voxel size along each axis.

    Returns:
        float32 with an odd number of voxels along each axis.
    """
    reach = np.floor(radius / spacing).astype(int)
    places = np.meshgrid(*(np.arange(-r, r + 1) * size for r, size in zip(reach, spacing)), indexing="ij", sparse=True)
    distance = np.sqrt(sum(place ** 2 for place in places))
    return torch.from_numpy(np.clip(1 - distance / radius, 0, None).astype(np.float32))


def fill_weakened(image: torch.Tensor, centre: np.ndarray, weights: torch.Tensor, strength: float) -> None:
    """Fade the image (C, [z,] y, x) into its mean around a centre, in place; what leaves the image is cut off."""
    reach = np.array(weights.shape) // 2
    first, last = centre - reach, centre + reach + 1
    shape = np.array(image.shape[1:])
    spot = tuple(slice(max(0, start), min(length, stop)) for start, stop, length in zip(first, last, shape))
    within = tuple(slice(part.start - start, part.stop - start) for part, start in zip(spot, first))
    for channel in image:
        region = channel[spot]
        torch.lerp(region, region.mean(), strength * weights[within], out=region)


@dataclass(frozen=True)
class Enhancement:
    """What was drawn: the number of regions along each axis, and how much of the full factor contrast is changed by, 0 to 1."""

    regions: tuple[int, ...]
    strength: float


class LocalEnhancementTransform(DrawnTransform):
    """Brings the contrast of every region of a patch nearer to that of the others.

    A region's standard deviation is raised or lowered to the root mean square of all regions', by a factor of at most `limit`, around
    the region's mean; between the middles of regions both are interpolated linearly.

    Args:
        spacing: voxel size in the order of the patch's axes, any unit.
        region: length of a region, in voxels of the finest axis; (low, high) to draw from.
        limit: the most by which contrast is raised or lowered.
        strength: 0 changes nothing, 1 is the full factor; (low, high) to draw from.
        probability: of being applied to a patch.
    """

    def __init__(self, spacing: Sequence[float], *, region: float | tuple[float, float] = (16.0, 48.0), limit: float = 3.0,
                 strength: float | tuple[float, float] = (0.0, 1.0), probability: float = 1.0) -> None:
        super().__init__(probability)
        self.spacing = np.asarray(spacing, float) / min(spacing)
        self.region = region
        self.limit = limit
        self.strength = strength

    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Enhancement | None:
        strength, region = draw_scalar(self.strength), draw_scalar(self.region)
        regions = np.round(np.array(image.shape[1:]) * self.spacing / region).astype(int).clip(1)
        return Enhancement(tuple(regions.tolist()), strength) if strength > 0 else None

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Enhancement) -> None:
        grids = [hat_functions(length, regions) for length, regions in zip(image.shape[1:], drawn.regions)]
        for channel in image:
            fill_enhanced(channel, grids, self.limit, drawn.strength)


def hat_functions(length: int, regions: int) -> torch.Tensor:
    """Weights (length, regions) float32 that interpolate values in the middles of equal regions; constant beyond the first and last."""
    middles = (np.arange(regions) + 0.5) * length / regions - 0.5
    weights = np.stack([np.interp(np.arange(length), middles, unit) for unit in np.eye(regions)], axis=1)
    return torch.from_numpy(weights.astype(np.float32))


def fill_enhanced(channel: torch.Tensor, grids: Sequence[torch.Tensor], limit: float, strength: float) -> None:
    """Even out the contrast of a channel ([z,] y, x), in place.

    Args:
        channel: float32.
        grids: `hat_functions` of each axis.
        limit: the most by which contrast is raised or lowered.
        strength: 0 to 1.
    """
    # of the mean, lest the squares of far-off values eat the digits of a small spread
    centre = channel.mean()
    centred = channel - centre
    averaging = [(grid / grid.sum(dim=0)).T for grid in grids]
    means = _along_axes(centred, averaging)
    variances = (_along_axes(centred.square(), averaging) - means.square()).clamp_(min=0)
    spread = variances.mean().sqrt()
    if spread == 0:
        return
    # a region without any contrast, such as padding, has nothing to be raised
    factors = (spread / variances.sqrt().clamp_(min=spread / (1e3 * limit))).clamp_(1 / limit, limit)
    factors = torch.where(variances > 0, factors, 1.0)
    slopes = 1 + strength * (factors - 1)
    channel.sub_(centre).mul_(_along_axes(slopes, grids)).add_(_along_axes(means * (1 - slopes), grids)).add_(centre)


def _along_axes(array: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """The array with each axis multiplied by a matrix (new length, old length)."""
    for matrix in matrices[::-1]:
        # the last axis comes to the front, so that each is the last one once and all are in order at the end
        array = torch.tensordot(matrix, array, dims=([1], [array.ndim - 1]))
    return array
