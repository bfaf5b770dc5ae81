"""Histogram matching of a patch to a reference image, by a random amount.

After D-LMBmap (Li et al., Nature Methods 2023), which matches whole cubes once, before training, in raw intensities and entirely.
Here patches are matched in nnU-Net's normalised intensities and blended with themselves. As in D-LMBmap, what shows no axon is matched
to references without any, where there are some: its brightest voxels would otherwise become as bright as axons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_neuro.augment.drawn_transform import DrawnTransform, draw_scalar, foreground_positions
from nnunet_neuro.augment.quantiles import PROBABILITIES, References, quantile_function

_SAMPLE = 1 << 15  # voxels that the quantiles of a patch are taken from
_BINS = 8192  # of the mapping's table
_CHUNK = 1 << 15  # voxels mapped at a time: the temporaries stay in the cache, which is three times as fast


@dataclass(frozen=True)
class Match:
    """What was drawn: quantile functions (C, KNOTS) of the reference, and the part of the way towards it, 0 to 1."""

    quantiles: np.ndarray
    strength: float


class HistogramMatchingTransform(DrawnTransform):
    """Moves the intensities of a patch towards the distribution of a reference, channel by channel.

    Args:
        references: to choose from.
        strength: 0 changes nothing, 1 takes on the reference's distribution; (low, high) to draw from.
        foreign_share: how often a reference that is not in the dataset is taken, where there is one.
        ignore_label: nnU-Net's ignore label, which is no foreground.
        probability: of being applied to a patch.
    """

    def __init__(self, references: References, *, strength: float | tuple[float, float] = (0.0, 1.0), foreign_share: float = 0.5,
                 ignore_label: int | None = None, probability: float = 1.0) -> None:
        super().__init__(probability)
        self.references = references
        self.strength = strength
        self.foreign_share = foreign_share
        self.ignore_label = ignore_label

    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Match | None:
        strength = draw_scalar(self.strength)
        empty = segmentation is not None and len(foreground_positions(segmentation, self.ignore_label)) == 0
        candidates = choose_references(self.references, empty=empty, foreign=np.random.random() < self.foreign_share)
        chosen = candidates[np.random.randint(len(candidates))]
        return Match(self.references.quantiles[chosen], strength) if strength > 0 else None

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Match) -> None:
        outside = None
        # a tenth of the time of the comparison, which most patches do not need
        if segmentation is not None and torch.aminmax(segmentation[0])[0] < 0:
            outside = segmentation[0] < 0
        for channel, quantiles in zip(image, drawn.quantiles, strict=True):
            fill_matched(channel, quantiles, drawn.strength, outside)


def choose_references(references: References, *, empty: bool, foreign: bool) -> np.ndarray:
    """Indices of the references that fit; a wish that none fulfils is dropped, that for the other brain last."""
    fitting = np.arange(len(references.names))
    for wanted in (references.foreign == foreign, references.empty == empty):
        if wanted[fitting].any():
            fitting = fitting[wanted[fitting]]
    return fitting


def fill_matched(channel: torch.Tensor, quantiles: np.ndarray, strength: float, outside: torch.Tensor | None = None) -> None:
    """Match a channel to a quantile function, in place.

    Each value x with the quantile p among the channel's own values becomes (1 - strength) x + strength Q(p). Own quantiles come from
    every n-th voxel and the exact extremes; values between two of them are interpolated. A constant channel stays as it is.

    Args:
        channel: ([z,] y, x) float32.
        quantiles: (KNOTS,) of the reference.
        strength: 0 to 1.
        outside: bool, voxels that neither count nor change.
    """
    sample = _every_nth(channel, outside)
    if len(sample) == 0:
        return
    inside = channel if outside is None else torch.where(outside, float(sample[0]), channel)
    lowest, highest = (float(value) for value in torch.aminmax(inside))
    if lowest == highest:
        return
    own = quantile_function(sample)
    own[0], own[-1] = lowest, highest
    table = _Table(own, quantiles, strength)
    mapped = inside.clone(memory_format=torch.contiguous_format) if outside is None else inside
    table.fill(mapped.view(-1))
    channel.copy_(mapped if outside is None else torch.where(outside, channel, mapped))


def _every_nth(channel: torch.Tensor, outside: torch.Tensor | None) -> np.ndarray:
    step = max(1, channel.numel() // _SAMPLE)
    # else only some columns of the patch would be seen
    while math.gcd(step, channel.shape[-1]) != 1:
        step -= 1
    sample = channel.reshape(-1)[::step]
    return (sample if outside is None else sample[~outside.reshape(-1)[::step]]).numpy()


class _Table:
    """The mapping as a straight line in each of `_BINS` bins, fine around the median and coarse in the tails.

    Bins are even in t / (1 + |t|), t being the distance from the median in interquartile ranges: axons lie a hundred of them away from
    the background, which even bins over all intensities would dissolve into a few steps.
    """

    def __init__(self, own: np.ndarray, reference: np.ndarray, strength: float) -> None:
        distinct, at = np.unique(own.astype(float), return_inverse=True)
        # many voxels of one value become the mean of what they would have been spread over
        share = np.gradient(PROBABILITIES)
        target = np.bincount(at, share * reference) / np.bincount(at, share)
        lower, self.centre, upper = np.interp((0.25, 0.5, 0.75), PROBABILITIES, own)
        self.scale = float(upper - lower) or float(own[-1] - own[0])
        self.centre = float(self.centre)
        first, last = ((value - self.centre) / (self.scale + abs(value - self.centre)) for value in (float(own[0]), float(own[-1])))
        self.first, self.bins_per_unit = first, _BINS / (last - first)
        even = np.linspace(first, last, _BINS + 1)
        edges = self.centre + self.scale * even / (1 - np.abs(even))
        mapped = (1 - strength) * edges + strength * np.interp(edges, distinct, target)
        slopes = np.diff(mapped) / np.diff(edges)
        intercepts = mapped[:-1] - slopes * edges[:-1]
        # once more for the highest value itself
        self.intercepts, self.slopes = (torch.from_numpy(np.append(line, line[-1]).astype(np.float32)) for line in (intercepts, slopes))

    def fill(self, values: torch.Tensor) -> None:
        """Map values (N,) float32, in place."""
        for part in values.split(_CHUNK):
            distance = part.sub(self.centre)
            bins = distance.div_(distance.abs().add_(self.scale)).sub_(self.first).mul_(self.bins_per_unit)
            bins = bins.to(torch.int32).clamp_(0, _BINS)
            torch.addcmul(self.intercepts.index_select(0, bins), self.slopes.index_select(0, bins), part, out=part)
