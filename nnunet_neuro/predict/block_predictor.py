"""Labels of one block of a volume, voxel for voxel those of nnU-Net for the whole volume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_neuro.predict.canvas_input import PLANES_AT_ONCE, CanvasInput
from nnunet_neuro.predict.column import Column, FinishedPlanes, input_section
from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.predict.network_grid import NetworkGrid
from nnunet_neuro.predict.normalisation import Normalisation, masked_means, needed_statistics, normalisations
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.resampling import Resampling, image_resampling, logits_resampling, resampled_shape
from nnunet_neuro.predict.statistics import VolumeStatistics, check_shapes, compute_statistics, nonzero_box
from nnunet_neuro.predict.voxel_outputs import VoxelOutputs, background_outputs, outputs_of
from nnunet_neuro.predict.windows import Block
from nnunet_neuro.volumes.volume import Region, Volume

_AS_NNUNET = PredictOptions()


@dataclass(frozen=True)
class BlockResult:
    """What is predicted for a block; all arrays have the axes (z, y, x) of the input volume.

    Attributes:
        labels: (z, y, x) uint8, or uint16 for 255 classes and more.
        probabilities: (classes or regions, z, y, x) float32, if asked for.
        entropy: (z, y, x) float16 of the probabilities, 0 (sure) to 1 (all alike), if asked for.
        disagreement: (z, y, x) float16, share of the folds that vote for another label, if asked for and there are several.
        windows: how many were computed for it.
        skipped: how many were not, because they were background.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None
    entropy: np.ndarray | None
    disagreement: np.ndarray | None
    windows: int
    skipped: int


class BlockPredictor:
    """Predicts blocks of one volume; one for each process.

    The sums of windows that reach beyond a block are kept, so that the next block of its column computes none of them again. Blocks may
    come in any order and be cut in any way: the labels are the same.

    Args:
        model: the trained model.
        volumes: one for each channel, (z, y, x).
        statistics: of these volumes, see `first_pass`.
        options: how to predict.
        spacing: (z, y, x) voxel size in the plan's unit; None for that of the first volume, or the plan's where it states none.

    Raises:
        ValueError: volumes that do not fit the model, or a plan that cannot be followed block by block.
    """

    def __init__(self, model: TrainedModel, volumes: Sequence[Volume], statistics: VolumeStatistics,
                 options: PredictOptions = _AS_NNUNET, *, spacing: Sequence[float] | None = None):
        self.model, self.options = model, options
        self._volumes = tuple(volumes)
        self.grid = network_grid(model, volumes, statistics, options, spacing=spacing)
        self._normalisations = normalisations(model, statistics.channels)
        self._image, self._logits = _resamplings(model, self.grid, volumes, spacing)
        self._predictors = model.predictors(options)
        device = self._predictors[0].device
        self._results_device = device if device.type == "cuda" else torch.device("cpu")  # as nnU-Net has it
        self._column: Column | None = None
        self._section: Region | None = None

    def predict(self, block: Block) -> BlockResult:
        """Predict a block.

        Raises:
            ValueError: the input cannot be read or holds something else than finite numbers.
            RuntimeError: the network gives numbers beyond 16 bits, or the device has not enough memory for one window.
        """
        try:
            return self._predict(block.region)
        except BaseException as error:
            self._section = self._column = None  # sums that were interrupted are not to be gone on with
            if not isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            self._keep_sums_on_cpu(error)
        return self.predict(block)

    def _keep_sums_on_cpu(self, error: Exception) -> None:
        device = self._predictors[0].device
        if self._results_device.type == "cpu":
            raise RuntimeError(f"{device} has too little memory for {self.options.batch} window(s) of {self.grid.patch} voxels; choose a "
                               "smaller batch, another device, or end what else runs on it") from error
        warnings.warn(f"{device} has too little memory for the sums of a block; they are kept in the computer's memory from here on, which "
                      "takes longer", stacklevel=3)
        self._results_device = torch.device("cpu")
        torch.cuda.empty_cache()

    def _predict(self, region: Region) -> BlockResult:
        transposed = self.grid.transposed(region)
        outputs = background_outputs(self.model, self.options, [part.stop - part.start for part in transposed])
        inside = self.grid.inside_box(region)
        windows = skipped = 0
        if inside is not None:
            column = self._enter_column(inside)
            windows, skipped = column.windows, column.skipped
            corner = [box.start + part.start - whole.start for box, part, whole in zip(self.grid.box, inside, transposed)]
            section = tuple(slice(first, first + part.stop - part.start) for first, part in zip(corner[1:], inside[1:]))
            for first, part in self._parts(column, inside):
                start = corner[0] + first - inside[0].start
                outputs.fill((slice(start, start + part.labels.shape[0]), *section), part)
            windows, skipped = column.windows - windows, column.skipped - skipped
        turned = outputs.transposed(self.grid.to_input_axes)
        return BlockResult(turned.labels, turned.probabilities, turned.entropy, turned.disagreement, windows, skipped)

    def _enter_column(self, inside: Region) -> Column:
        section = self._canvas_part(inside)[1:]
        if section != self._section:
            self._column = None  # its memory goes before the next one's comes
            canvas_input = CanvasInput(self._volumes, self.grid, self._normalisations, input_section(self.grid, section), self._image)
            kept = 0 if self._logits is None else 2 * self._logits.halo + 2
            self._column = Column(self._predictors, self.grid, canvas_input, section, self.options, background=self._background_levels(),
                                  results_device=self._results_device, kept=kept)
            self._section = section
        return self._column

    def _canvas_part(self, inside: Region) -> Region:
        return self.grid.on_canvas(inside if self._logits is None else self._logits.needed(inside))

    def _background_levels(self) -> list[float] | None:
        if self.options.background is None:
            return None
        return [background_level(one, self.options.background, resampled=self.grid.is_resampled) for one in self._normalisations]

    def _parts(self, column: Column, inside: Region) -> Iterator[tuple[int, VoxelOutputs]]:
        """Outputs of planes of the box, with the first plane of each part."""
        if self._logits is None:
            part = self._canvas_part(inside)[0]
            for finished in column.planes(part.start, part.stop):
                yield finished.planes.start - self.grid.padding[0], outputs_of(self.model, self.options, finished)
            return
        for start in range(inside[0].start, inside[0].stop, PLANES_AT_ONCE):
            region = (slice(start, min(start + PLANES_AT_ONCE, inside[0].stop)), *inside[1:])
            part = self._canvas_part(region)[0]
            yield start, outputs_of(self.model, self.options, _resampled(_joined(list(column.planes(part.start, part.stop))), self._logits,
                                                                        region))


def first_pass(model: TrainedModel, volumes: Sequence[Volume], *, spacing: Sequence[float] | None = None) -> VolumeStatistics:
    """Read of the volumes what must be known of the whole before a block is predicted, and no more.

    Raises:
        ValueError: volumes that do not fit the model, or what `compute_statistics` refuses.
    """
    model.check_channels(len(volumes))
    check_shapes(volumes)
    needs = needed_statistics(model)
    box = nonzero_box(volumes)
    if network_grid(model, volumes, VolumeStatistics(box, ()), _AS_NNUNET, spacing=spacing).is_resampled:
        needs = needed_statistics(model, resampled=True)
    return compute_statistics(volumes, needs, masked=masked_means(model), box=box)


def network_grid(model: TrainedModel, volumes: Sequence[Volume], statistics: VolumeStatistics, options: PredictOptions, *,
                 spacing: Sequence[float] | None = None) -> NetworkGrid:
    """Where the model's windows lie on the volumes.

    Raises:
        ValueError: volumes that do not fit the model.
    """
    model.check_channels(len(volumes))
    check_shapes(volumes)
    axes = tuple(model.plans.transpose_forward)
    box = tuple(statistics.box[axis] for axis in axes)
    shape = tuple(part.stop - part.start for part in box)
    return NetworkGrid(volumes[0].shape, axes, box, resampled_shape(model, shape, _transposed_spacing(model, volumes, spacing)),
                       model.patch, options.step)


def background_level(normalisation: Normalisation, raw: float, *, resampled: bool) -> float:
    """The normalised number at or below which a voxel is background."""
    level = normalisation.level(raw)
    if normalisation.masked:
        level = max(level, 0.0)  # what lies outside the mask stays 0
    return level + 1e-3 * resampled  # a spline swings a little about a constant


def _transposed_spacing(model: TrainedModel, volumes: Sequence[Volume], spacing: Sequence[float] | None) -> tuple[float, ...]:
    spacing = spacing or volumes[0].spacing
    if spacing is None:
        own = tuple(map(float, model.configuration.spacing))
        return (1.0, *own) if model.is_2d else own
    if len(spacing) != 3 or not all(0 < size < math.inf for size in spacing):
        raise ValueError(f"a voxel size of {tuple(spacing)} was given; expected three positive numbers (z, y, x)")
    return tuple(float(spacing[axis]) for axis in model.plans.transpose_forward)


def _resamplings(model: TrainedModel, grid: NetworkGrid, volumes: Sequence[Volume],
                 spacing: Sequence[float] | None) -> tuple[Resampling | None, Resampling | None]:
    if not grid.is_resampled:
        return None, None
    size = _transposed_spacing(model, volumes, spacing)
    return (image_resampling(model, grid.box_shape, grid.resampled, size), logits_resampling(model, grid.resampled, grid.box_shape, size))


def _joined(parts: list[FinishedPlanes]) -> FinishedPlanes:
    if len(parts) == 1:
        return parts[0]
    folds = [torch.cat(logits, 1) for logits in zip(*(part.folds for part in parts))]
    return FinishedPlanes(slice(parts[0].planes.start, parts[-1].planes.stop), torch.cat([part.logits for part in parts], 1), folds,
                          torch.cat([part.covered for part in parts]))


def _resampled(finished: FinishedPlanes, resampling: Resampling, region: Region) -> FinishedPlanes:
    """Logits of a region of the box from those of the canvas that it needs, in 16 bits as nnU-Net has them."""
    first = [part.start for part in resampling.needed(region)]

    def at_input(channels: torch.Tensor) -> torch.Tensor:
        voxels = [resampling(channel, first, region) for channel in channels.cpu().float().numpy()]
        return torch.from_numpy(np.stack(voxels)).half()

    folds = [at_input(logits) for logits in finished.folds] if len(finished.folds) > 1 else []
    logits = at_input(finished.logits)
    return FinishedPlanes(region[0], logits, folds or [logits], at_input(finished.covered[None])[0] > 0)
