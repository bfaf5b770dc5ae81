"""Sums of weighted logits of windows, for the planes that windows still reach into.

The windows of nnU-Net are added in its own order, first axis first, in the 16 bits that it uses, so that each voxel gets the same bits
wherever blocks begin and end. Once all windows that begin at or before a plane are added, the planes before the next window are finished.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nnunet_neuro.predict.canvas_input import shift_planes
from nnunet_neuro.volumes.volume import Region


class WindowSums:
    """Rolling sums over one section of the canvas.

    Args:
        folds: networks whose logits are summed apart.
        heads: channels of the logits.
        weights: (planes, y, x) float16 weight of each voxel of a window, nnU-Net's Gaussian.
        section: (y, x) part of the canvas.
        kept: finished planes to keep before the window, for those who need neighbours.
    """

    def __init__(self, folds: int, heads: int, weights: torch.Tensor, section: Region, kept: int = 0):
        shape = (weights.shape[0] + kept, *(part.stop - part.start for part in section))
        self._logits = torch.zeros((folds * heads, *shape), dtype=torch.half, device=weights.device)
        self._weights_sum = torch.zeros((1, *shape), dtype=torch.half, device=weights.device)
        self._folds, self._weights, self._section, self._kept = folds, weights, section, kept
        self.first: int | None = None

    def begin(self, start: int) -> None:
        """Make room for the windows that begin at plane `start`."""
        first = start - self._kept
        length = self._logits.shape[1]
        for planes in (self._logits, self._weights_sum):
            if self.first is not None and self.first <= first < self.first + length:
                shift_planes(planes, first - self.first)
                planes[:, length - (first - self.first):] = 0
            else:
                planes.zero_()
        self.first = first

    def add(self, logits: Sequence[torch.Tensor], corner: tuple[int, int]) -> None:
        """Add one window that begins where `begin` said.

        Args:
            logits: of each fold, (heads, planes, y, x) of the whole window; changed.
            corner: (y, x) of its first voxel on the canvas.
        """
        window, here = [], []
        for first, length, part in zip(corner, self._weights.shape[1:], self._section):
            start, stop = max(first, part.start), min(first + length, part.stop)
            window.append(slice(start - first, stop - first))
            here.append(slice(start - part.start, stop - part.start))
        weights = self._weights[(slice(None), *window)]
        place = (slice(None), slice(self._kept, None), *here)
        folds = self._logits.view(self._folds, -1, *self._logits.shape[1:])
        for sums, one in zip(folds, logits):
            weighted = one[(slice(None), slice(None), *window)].to(sums.device)
            weighted *= weights
            sums[place] += weighted
        self._weights_sum[place] += weights

    def finished(self, planes: slice) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The logits of planes that no further window reaches.

        Returns:
            For each fold (heads, planes, y, x) float16, divided by the sum of weights; and (planes, y, x) whether any window was added,
            as the logits are 0 where none was.

        Raises:
            RuntimeError: logits too large for 16 bits.
        """
        held = slice(planes.start - self.first, planes.stop - self.first)
        weights = self._weights_sum[0, held]
        covered = weights > 0
        weights = torch.where(covered, weights, torch.ones_like(weights))
        folds = [torch.div(sums[:, held], weights) for sums in self._logits.view(self._folds, -1, *self._logits.shape[1:])]
        if any(torch.isinf(logits).any() for logits in folds):
            raise RuntimeError("the network gave logits beyond the range of 16 bits, which nnU-Net does not predict either; check that the "
                               "input is what the model was trained with")
        return folds, covered
