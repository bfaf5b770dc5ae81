"""A column of the canvas: windows are computed layer by layer, and planes handed out as soon as they are finished."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

from nnunet_neuro.predict.canvas_input import PLANES_AT_ONCE, CanvasInput
from nnunet_neuro.predict.network_grid import NetworkGrid
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.window_sums import WindowSums
from nnunet_neuro.predict.windows import windows_touching
from nnunet_neuro.volumes.volume import Region

_AUTOCAST = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class FinishedPlanes:
    """Logits of canvas planes of a column.

    Attributes:
        planes: of the canvas.
        logits: (heads, planes, y, x) float16, the mean of the folds.
        folds: the same of each fold.
        covered: (planes, y, x) whether any window was computed there.
    """

    planes: slice
    logits: torch.Tensor
    folds: list[torch.Tensor]
    covered: torch.Tensor


class Column:
    """The windows over one section of the canvas.

    Args:
        predictors: nnU-Net's, one for each fold.
        grid: from the input to the canvas.
        canvas_input: of the column, see `input_section`.
        section: (y, x) part of the canvas that is predicted.
        options: how.
        background: normalised level of each channel at or below which a voxel is background; None to compute every window.
        results_device: where sums are kept.
        kept: finished planes that may be asked for again.

    Attributes:
        windows: how many were computed so far.
        skipped: how many were background.
    """

    def __init__(self, predictors: Sequence[nnUNetPredictor], grid: NetworkGrid, canvas_input: CanvasInput, section: Region,
                 options: PredictOptions, *, background: Sequence[float] | None, results_device: torch.device, kept: int = 0):
        self._predictors, self._grid, self._input, self._section, self._options = predictors, grid, canvas_input, section, options
        self._background, self._kept = background, kept
        patch = tuple(predictors[0].configuration_manager.patch_size)
        weights = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, device=results_device)
        heads = predictors[0].label_manager.num_segmentation_heads
        self._sums = WindowSums(len(predictors), heads, weights.reshape(grid.patch), section, kept)
        self._corners = list(itertools.product(*(windows_touching(starts, length, part)
                                                 for starts, length, part in zip(grid.starts[1:], grid.patch[1:], section))))
        self._origin = input_section(grid, section)
        self._layer: int | None = None  # index of the last layer of windows that was added
        self._complete_from = 0
        self.windows = self.skipped = 0

    @torch.inference_mode()
    def planes(self, first: int, last: int) -> Iterator[FinishedPlanes]:
        """The planes `first` to `last` of the canvas, in parts, from front to back.

        After an earlier call that ended where this one begins, or at most `kept` planes behind that, no window is computed twice;
        otherwise all windows that reach into the planes are.
        """
        starts, length = self._grid.starts[0], self._grid.canvas[0]
        needed = next(index for index, start in enumerate(starts) if start + self._grid.patch[0] > first)
        if not self._can_go_on(first, needed):
            self._layer, self._complete_from, self._sums.first = needed - 1, first, None
        while first < last:
            # planes before the next layer's windows are finished
            end = starts[self._layer + 1] if self._layer + 1 < len(starts) else length
            if first < end and self._sums.first is not None:
                part = slice(first, min(last, end, first + PLANES_AT_ONCE))  # few, since they are in memory several times
                yield self._finish(part)
                first = part.stop
            else:
                self._layer += 1
                self._add_layer(starts[self._layer])

    def _can_go_on(self, first: int, needed: int) -> bool:
        return (self._layer is not None and self._sums.first is not None and needed <= self._layer + 1
                and max(self._complete_from, self._sums.first) <= first)

    def _add_layer(self, start: int) -> None:
        voxels = torch.from_numpy(self._input.layer(start))
        self._sums.begin(start)
        corners = [corner for corner in self._corners if not self._is_background(voxels, corner)]
        self.skipped += len(self._corners) - len(corners)
        self.windows += len(corners)
        for first in range(0, len(corners), self._options.batch):
            batch = corners[first:first + self._options.batch]
            logits = self._predict([self._window(voxels, corner) for corner in batch])
            for index, corner in enumerate(batch):
                self._sums.add([one[index] for one in logits], corner)

    def _window(self, voxels: torch.Tensor, corner: tuple[int, int]) -> torch.Tensor:
        rows = [slice(first - part.start, first - part.start + length)
                for first, part, length in zip(corner, self._origin, self._grid.patch[1:])]
        return voxels[(slice(None), slice(None), *rows)]

    def _is_background(self, voxels: torch.Tensor, corner: tuple[int, int]) -> bool:
        if self._background is None:
            return False
        return all(bool((channel <= level).all()) for channel, level in zip(self._window(voxels, corner), self._background))

    def _predict(self, windows: list[torch.Tensor]) -> list[torch.Tensor]:
        """Logits of each fold, (windows, heads, planes, y, x)."""
        predictors = self._predictors
        batch = torch.stack(windows).to(predictors[0].device)
        flat = len(predictors[0].configuration_manager.patch_size) == 2
        logits = []
        with _precision(self._options.precision, predictors[0].device.type):
            for predictor in predictors:
                one = predictor._internal_maybe_mirror_and_predict(batch[:, :, 0] if flat else batch)
                logits.append(one[:, :, None] if flat else one)
        return logits

    def _finish(self, planes: slice) -> FinishedPlanes:
        folds, covered = self._sums.finished(planes)
        mean = folds[0]
        if len(folds) > 1:  # in nnU-Net's order and in its 16 bits
            mean = folds[0].clone()
            for logits in folds[1:]:
                mean += logits
            mean /= len(folds)
        return FinishedPlanes(planes, mean, folds, covered)


def input_section(grid: NetworkGrid, section: Region) -> Region:
    """The (y, x) part of the canvas that the windows over a section cover."""
    touching = [windows_touching(starts, length, part) for starts, length, part in zip(grid.starts[1:], grid.patch[1:], section)]
    return tuple(slice(starts[0], starts[-1] + length) for starts, length in zip(touching, grid.patch[1:]))


def _precision(name: str, device: str) -> AbstractContextManager:
    """nnU-Net's own choice is 16 bits on CUDA, and nothing elsewhere, where switching it off fails on some devices."""
    if name == "auto":
        return torch.autocast("cuda") if device == "cuda" else nullcontext()
    return torch.autocast(device, dtype=_AUTOCAST[name]) if name in _AUTOCAST else nullcontext()
