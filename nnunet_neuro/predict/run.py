"""A whole prediction: first pass, blocks, and what is made of the finished labels.

    OUTPUT.zarr                labels; for another format, OUTPUT.work.zarr, which goes when the export is complete
        .nnneuro/              identity of the run, first pass, block size, finished blocks
    OUTPUT.summary.json        what was computed from what, how long it took, how much was skipped
    OUTPUT.objects.csv         table of instances, if asked for
    OUTPUT.png                 preview, if asked for
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_neuro.predict.complete import remove, writing
from nnunet_neuro.predict.completion import complete, summary
from nnunet_neuro.predict.job import DISAGREEMENT, ENTROPY, PROBABILITIES, PredictionTask
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.request import PredictionRequest
from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.store import FurtherArray, LabelStore, StoreLayout
from nnunet_neuro.predict.windows import Block, block_grid
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.volumes import Volume

if TYPE_CHECKING:
    from nnunet_neuro.predict.model import TrainedModel
    from nnunet_neuro.predict.statistics import VolumeStatistics

_STATE = ".nnneuro"
# a voxel size that differs from the plan's by more than this is most likely a mistake
_FARTHEST_SPACING = 4.0


def say_on_stderr(sentence: str) -> None:
    """Print a message that is no result."""
    print(sentence, file=sys.stderr)


def predict(request: PredictionRequest, say: Callable[[str], None] = say_on_stderr) -> Path | None:
    """Predict, or continue to; gives the output, or None where other shards are not finished yet.

    Args:
        request: what is asked for.
        say: takes one-line messages.

    Raises:
        ValueError, OSError: one sentence; what is finished stays valid.
    """
    begun = time.monotonic()
    models = [choice.load() for choice in request.models]
    volumes = request.channels.open()
    spacing = _checked(request, models, volumes)
    store, state = _opened(request, models, volumes, spacing)
    if request.kind is not None and request.output.exists():
        raise FileExistsError(f"{request.output} exists already; choose another output, or remove it")
    statistics = _first_pass(state.folder, models, volumes, spacing)
    _describe(request, models, volumes, statistics, spacing, say)
    blocks = _blocks(request, state.folder, models, volumes, statistics, spacing)
    task = PredictionTask(request.models, request.channels, tuple(json.dumps(one.to_json()) for one in statistics), request.options,
                          spacing, store.path)
    before = len(state.finished())
    _compute(request, task, blocks, state)
    missing = len(blocks) - len(state.finished())
    if missing:
        say(f"{missing} of {len(blocks)} blocks are left to other shards; whoever ends last completes the output")
        return None
    store = LabelStore.open(store.path)
    objects = complete(request, store, state, volumes)
    found = summary(request, models, volumes, state, blocks)
    write_json(request.beside(".summary.json"),
               {**found, "objects": objects, "blocks_of_earlier_runs": before, "seconds": round(time.monotonic() - begun, 3)})
    if request.kind is not None:
        remove(store.path)
    return request.output


def _checked(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume]) -> tuple[float, ...] | None:
    """The voxel size to predict at, after what can be refused before anything is written."""
    from nnunet_neuro.options import chosen_spacing
    from nnunet_neuro.predict.ensemble import check_models
    from nnunet_neuro.predict.statistics import check_shapes

    check_models(models)
    models[0].check_channels(len(volumes))
    check_shapes(volumes)
    _refuse_own_input(request, volumes)
    spacing = None
    if request.spacing or volumes[0].spacing:
        spacing = tuple(chosen_spacing(volumes[0], request.spacing, "the input"))
    if spacing and not request.any_spacing:
        for model in models:
            _check_spacing(model, spacing)
    return spacing


def _refuse_own_input(request: PredictionRequest, volumes: Sequence[Volume]) -> None:
    for path in (request.output, request.store_path):
        for volume in volumes:
            if "://" in str(volume.path):
                continue
            source = Path(volume.path).resolve()
            if path.resolve() == source or path.resolve() in source.parents or source in path.resolve().parents:
                raise ValueError(f"the output {path} is the input {volume.path}, or one lies within the other; choose another output")


def _check_spacing(model: TrainedModel, spacing: Sequence[float]) -> None:
    planned = list(map(float, model.configuration.spacing))
    axes = [int(axis) for axis in model.plans.transpose_forward][-len(planned):]
    for axis, size in zip(axes, planned):
        ratio = spacing[axis] / size
        if not 1 / _FARTHEST_SPACING <= ratio <= _FARTHEST_SPACING:
            raise ValueError(f"the voxel size of the input is {'zyx'[axis]} = {spacing[axis]:g}, but {model.folder} was trained with "
                             f"{size:g}; give the true one as --spacing Z,Y,X in the model's unit, or --any-spacing to predict anyway")


def _opened(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume],
            spacing: tuple[float, ...] | None) -> tuple[LabelStore, RunState]:
    """The store, and the state of the run within it; both are made, or belong to this very run."""
    path, options = request.store_path, request.options
    names = models[0].classes if models[0].label_manager.has_regions else models[0].dataset_json["labels"]
    heads = tuple(name for name in names if name != "ignore" and not (models[0].label_manager.has_regions and name == "background"))
    further = []
    if options.probabilities:
        further.append(FurtherArray(PROBABILITIES, request.probability_dtype, heads))
    if options.entropy:
        further.append(FurtherArray(ENTROPY, request.probability_dtype))
    if options.disagreement and (len(models) > 1 or len(models[0].folds) > 1):
        further.append(FurtherArray(DISAGREEMENT, request.probability_dtype))
    corner = getattr(request.channels, "roi", None)
    layout = StoreLayout(volumes[0].shape, models[0].label_dtype, spacing, "millimeter" if volumes[0].affine is not None else "micrometer",
                         request.chunk, tuple(part[0] for part in corner) if corner else (0, 0, 0), models[0].classes, tuple(further))
    if path.exists() and not (path / _STATE).is_dir():
        if not (path / ".zattrs").is_file() or LabelStore.open(path).layout != layout:
            raise FileExistsError(f"{path} exists already and is no prediction of this program; choose another output, or remove it")
    store = LabelStore.create_or_open(path, layout) if not (path / _STATE).is_dir() else None
    # a run whose options changed is told by its identity, which names the option
    state = RunState.open(path / _STATE, _identity(request, models, spacing))
    return store or LabelStore.create_or_open(path, layout), state


def _identity(request: PredictionRequest, models: Sequence[TrainedModel], spacing: tuple[float, ...] | None) -> dict[str, Any]:
    options = asdict(request.options)
    options["device"] = options["device"].partition(":")[0]
    return {"model": [model.hash for model in models], "input": request.channels.identity(), "spacing": spacing and list(spacing),
            "chunk": list(request.chunk), "stored_probabilities": request.probability_dtype, **options}


def _first_pass(state: Path, models: Sequence[TrainedModel], volumes: Sequence[Volume],
                spacing: tuple[float, ...] | None) -> list[VolumeStatistics]:
    """Made once for a run; who comes second waits for it."""
    from filelock import FileLock

    from nnunet_neuro.predict.block_predictor import first_pass
    from nnunet_neuro.predict.statistics import VolumeStatistics

    file, lock = state / "first_pass.json", state / "first_pass.lock"
    with FileLock(lock):
        if not file.is_file():
            with writing(state):
                write_json(file, [first_pass(model, volumes, spacing=spacing).to_json() for model in models])
            lock.unlink(missing_ok=True)
    return [VolumeStatistics.from_json(one) for one in json.loads(file.read_text(encoding="utf-8"))]


def _describe(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume],
              statistics: Sequence[VolumeStatistics], spacing: tuple[float, ...] | None, say: Callable[[str], None]) -> None:
    from nnunet_neuro.predict.block_predictor import network_grid
    from nnunet_neuro.predict.exactness import describe_exactness

    for model, found in zip(models, statistics):
        reasons = describe_exactness(model, volumes, request.options, statistics=found, spacing=spacing)
        grids = [network_grid(model, volumes, found, options, spacing=spacing) for options in (request.options, PredictOptions())]
        passes = [grid.windows * (2 ** len(model.mirroring_axes or ()) if options.mirroring else 1)
                  for grid, options in zip(grids, (request.options, PredictOptions()))]
        say(f"{model.folder.name}: {grids[0].windows} windows of {' x '.join(map(str, model.patch))}, {len(model.folds)} fold(s), on "
            f"{request.options.device}; " + ("labels equal nnUNetv2_predict's" if not reasons else "not exact: " + "; ".join(reasons)))
        if passes[0] < passes[1]:
            say(f"{model.folder.name}: {1 - passes[0] / passes[1]:.0%} of the network's passes are saved by step and mirroring"
                + (", and what is background besides" if request.options.background is not None else ""))


def _blocks(request: PredictionRequest, state: Path, models: Sequence[TrainedModel], volumes: Sequence[Volume],
            statistics: Sequence[VolumeStatistics], spacing: tuple[float, ...] | None) -> list[Block]:
    """The blocks of the run; whoever began it chose their size."""
    from nnunet_neuro.predict.block_predictor import network_grid

    file = state / "blocks.json"
    shape = volumes[0].shape
    grids = [network_grid(model, volumes, found, request.options, spacing=spacing) for model, found in zip(models, statistics)]
    if not file.is_file():
        size = _block_size(request, models, volumes, any(grid.is_resampled for grid in grids))
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        with writing(state):
            write_json(unfinished, {"size": list(size), "axis": grids[0].rolling_axis})
            try:
                os.link(unfinished, file)  # fails where another process was faster
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
    chosen = json.loads(file.read_text(encoding="utf-8"))
    return block_grid(shape, chunk=request.chunk, size=chosen["size"], axis=chosen["axis"])


def _block_size(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume], resampled: bool) -> Sequence[int]:
    from nnunet_neuro.predict.memory import block_size_for

    return block_size_for(models, volumes[0].shape, chunk=request.chunk, memory_bytes=request.memory // request.workers,
                          device_bytes=_device_memory(request), options=request.options, voxel_bytes=volumes[0].dtype.itemsize,
                          resampled=resampled)


def _device_memory(request: PredictionRequest) -> int | None:
    if not request.options.device.startswith("cuda"):
        return None
    import torch

    sharing = -(-request.workers // max(1, torch.cuda.device_count()))
    return int(torch.cuda.mem_get_info()[0] * 0.9) // sharing


def _compute(request: PredictionRequest, task: PredictionTask, blocks: list[Block], state: RunState) -> None:
    from nnunet_neuro.predict.engines import compute_blocks
    from nnunet_neuro.predict.runs import shard

    devices: list[str] = []
    if request.options.device == "cuda" and request.workers > 1:
        import torch

        devices = [str(number) for number in range(torch.cuda.device_count())]
    chosen = blocks if request.shard is None else shard(blocks, request.shard)
    compute_blocks(task, chosen, state, workers=request.workers, devices=devices, scheduler=request.scheduler, progress=request.progress)
