"""Prediction of arrays from Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.predict.inputs import ArrayChannels
from nnunet_neuro.predict.job import ModelChoice
from nnunet_neuro.predict.options import PredictOptions

_EIGHT_GIGABYTES = 8 << 30
# of blocks, where the output does not say what it is stored in
_CHUNK = (64, 64, 64)


def predict_volume(source: Any, model: str | Path | ModelChoice | Sequence[str | Path | ModelChoice], *,
                   spacing: Sequence[float] | None = None, options: PredictOptions | None = None, out: Any = None,
                   memory: int = _EIGHT_GIGABYTES, progress: bool = True) -> Any:
    """Labels of a volume, as `nnneuro_predict` makes them, block by block in this process.

    Args:
        source: (z, y, x), or (c, z, y, x) for several channels: numpy, zarr, dask, h5py or anything else with `shape` and `dtype` that is
            sliced; only parts of it are in memory at once.
        model: folder of a trained model, or choices of folds; several are averaged.
        spacing: voxel size (z, y, x) in the unit of the model's training data; None takes it to be the plan's, so nothing is resampled.
        options: how to predict; the defaults give nnU-Net's own labels.
        out: (z, y, x) array to write to, such as a zarr array; blocks are whole chunks of it. None makes a numpy array.
        memory: bytes that may be used, besides source and output.
        progress: show a bar on stderr.

    Returns:
        `out`, or uint8 labels (uint16 from 255 classes on).

    Raises:
        ValueError: shapes that do not fit, or what `BlockPredictor` and `load_model` refuse.
    """
    from tqdm import tqdm

    from nnunet_neuro.predict.block_predictor import first_pass, network_grid
    from nnunet_neuro.predict.ensemble import Ensemble, check_models
    from nnunet_neuro.predict.memory import block_size_for
    from nnunet_neuro.predict.windows import block_grid

    options = options or PredictOptions()
    models = [choice.load() for choice in _choices(model)]
    check_models(models)
    channels = ArrayChannels(_channels(source), None if spacing is None else tuple(spacing))
    volumes = channels.open()
    if out is not None and tuple(out.shape) != volumes[0].shape:
        raise ValueError(f"the output has shape {tuple(out.shape)}, but the source {volumes[0].shape}; they must be the same")
    statistics = [first_pass(one, volumes, spacing=spacing) for one in models]
    grids = [network_grid(one, volumes, found, options, spacing=spacing) for one, found in zip(models, statistics)]
    chunk = tuple(getattr(out, "chunks", None) or _CHUNK)
    size = block_size_for(models, volumes[0].shape, chunk=chunk, memory_bytes=memory, options=options,
                          voxel_bytes=volumes[0].dtype.itemsize, resampled=any(grid.is_resampled for grid in grids))
    predictor = Ensemble(models, volumes, statistics, options, spacing=spacing)
    labels = np.zeros(volumes[0].shape, models[0].label_dtype) if out is None else out
    with tqdm(total=math.prod(labels.shape), desc="predicting", unit="voxel", unit_scale=True, disable=not progress) as bar:
        for block in block_grid(volumes[0].shape, chunk=chunk, size=size, axis=grids[0].rolling_axis):
            found = predictor.predict(block).labels
            labels[block.region] = found
            bar.update(found.size)
    return labels


def _choices(model: str | Path | ModelChoice | Sequence[str | Path | ModelChoice]) -> Sequence[ModelChoice]:
    chosen = [model] if isinstance(model, str | Path | ModelChoice) else model
    return [one if isinstance(one, ModelChoice) else ModelChoice(Path(one)) for one in chosen]


def _channels(source: Any) -> tuple[Any, ...]:
    if len(source.shape) == 3:
        return (source,)
    if len(source.shape) != 4:
        raise ValueError(f"the source has shape {tuple(source.shape)}; expected (z, y, x), or (c, z, y, x) for several channels")
    return tuple(_Channel(source, number) for number in range(source.shape[0]))


class _Channel:
    """One channel of (c, z, y, x), sliced without reading the others."""

    def __init__(self, source: Any, number: int):
        self._source, self._number = source, number
        self.shape, self.dtype = tuple(source.shape[1:]), source.dtype

    def __getitem__(self, region: tuple[slice, ...]) -> Any:
        return self._source[(self._number, *region)]
