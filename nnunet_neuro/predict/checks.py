"""What is refused before anything is written or computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_neuro.predict.request import PredictionRequest
from nnunet_neuro.volumes import Volume

if TYPE_CHECKING:
    from nnunet_neuro.predict.model import TrainedModel

# a voxel size that differs from the plan's by more than this factor is most likely a mistake
_FARTHEST_SPACING = 4.0


def check_request(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume]) -> tuple[float, ...] | None:
    """The voxel size (z, y, x) to predict at: the one asked for, else that of the input; None where neither is known.

    Raises:
        ValueError: models, volumes, voxel size or device that do not fit, or an output that is the input.
        OSError: nothing can be written to the output's place.
    """
    from nnunet_neuro.predict.ensemble import check_models
    from nnunet_neuro.predict.model import usable_device
    from nnunet_neuro.predict.statistics import check_shapes

    check_models(models)
    models[0].check_channels(len(volumes))
    check_shapes(volumes)
    _check_own_input(request, volumes)
    spacing = request.spacing or volumes[0].spacing
    if spacing and not request.any_spacing:
        for model in models:
            _check_spacing(model, spacing)
    if request.scheduler is None:  # otherwise it is the device of machines that are not this one
        usable_device(request.options.device)
    _check_place(request)
    return None if spacing is None else tuple(map(float, spacing))


def _check_own_input(request: PredictionRequest, volumes: Sequence[Volume]) -> None:
    names = [name for name in (*getattr(request.channels, "names", ()), *(str(volume.path) for volume in volumes)) if "://" not in name]
    made = [request.output, request.store_path, request.summary_path, *([request.preview_path] if request.preview else []),
            *([request.table_path] if request.instances else [])]
    for name in names:
        source = Path(name).resolve()
        for path in map(Path.resolve, made):
            if path == source or path in source.parents or source in path.parents:
                raise ValueError(f"the output {path} is the input {name}, or one lies within the other; choose another output")


def _check_spacing(model: TrainedModel, spacing: Sequence[float]) -> None:
    planned = list(map(float, model.configuration.spacing))
    axes = [int(axis) for axis in model.plans.transpose_forward][-len(planned):]
    for axis, size in zip(axes, planned):
        ratio = spacing[axis] / size
        if not 1 / _FARTHEST_SPACING <= ratio <= _FARTHEST_SPACING:
            raise ValueError(f"the voxel size of the input is {'zyx'[axis]} = {spacing[axis]:g}, but {model.folder} was trained with "
                             f"{size:g}; give the true one as --spacing Z,Y,X in the model's unit, or --any-spacing to predict anyway")


def _check_place(request: PredictionRequest) -> None:
    """Early, because a first pass may take an hour."""
    parent = next(folder for folder in request.output.parents if folder.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is a file, so {request.output} cannot be made in it; choose another output")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{parent} cannot be written to; choose another output")
