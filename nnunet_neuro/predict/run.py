"""A whole prediction: first pass, blocks, and what is made of the finished labels.

    OUTPUT.zarr                labels; for another format, OUTPUT.work.zarr, which goes when the export is complete
        .nnneuro/              identity of the run, first pass, block size, finished blocks
    OUTPUT.summary.json        what was computed from what, how long it took, how much was skipped; the last thing that appears
    OUTPUT.objects.csv         table of instances, if asked for
    OUTPUT.png                 preview, if asked for
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_neuro.predict.checks import check_request
from nnunet_neuro.predict.complete import writing
from nnunet_neuro.predict.completion import complete, summary
from nnunet_neuro.predict.job import PredictionTask
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.output import alone, identity_of, is_finished, layout_of, open_output, remove_work
from nnunet_neuro.predict.request import PredictionRequest
from nnunet_neuro.predict.run_state import RunState
from nnunet_neuro.predict.store import LabelStore
from nnunet_neuro.predict.windows import Block, block_grid
from nnunet_neuro.raw_formats import write_json
from nnunet_neuro.volumes import Volume

if TYPE_CHECKING:
    from nnunet_neuro.predict.model import TrainedModel
    from nnunet_neuro.predict.statistics import VolumeStatistics


def say_on_stderr(sentence: str) -> None:
    """Print a message that is no result."""
    print(sentence, file=sys.stderr, flush=True)


def predict(request: PredictionRequest, say: Callable[[str], None] = say_on_stderr) -> Path | None:
    """Predict, or go on; what is finished is not touched.

    Args:
        request: what is asked for.
        say: takes one-line messages.

    Returns:
        The output, or None where other shards are not finished yet.

    Raises:
        ValueError, OSError: one sentence; what is finished stays valid.
        KeyboardInterrupt: interrupted; what is finished stays.
    """
    models = [choice.load() for choice in request.models]
    volumes = request.channels.open()
    spacing = check_request(request, models, volumes)
    identity = identity_of(request, models, spacing)
    finished = is_finished(request, identity)
    if finished:
        say(f"{request.output} is finished already")
    else:
        try:
            finished = _predict(request, models, volumes, spacing, identity, say)
        except (OSError, ValueError):
            finished = is_finished(request, identity)  # by another process, which removed the store that this one worked at
            if not finished:
                raise
    if not finished:
        return None
    remove_work(request, identity)
    return request.output


def _predict(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume], spacing: tuple[float, ...] | None,
             identity: Mapping[str, Any], say: Callable[[str], None]) -> bool:
    """Whether everything is finished."""
    begun = time.monotonic()
    size = _block_size(request, models, volumes, spacing)
    several = len(models) > 1 or len(models[0].folds) > 1
    store, state = open_output(request, layout_of(request, models[0], volumes, spacing, several=several), identity)
    statistics = _first_pass(state.folder, models, volumes, spacing)
    _describe(request, models, volumes, statistics, spacing, say)
    chosen = _chosen_blocks(state.folder, size, int(models[0].plans.transpose_forward[0]))
    if math.prod(chosen["size"]) > math.prod(size):
        say(f"blocks have {chosen['size']} voxels since the run was begun with more memory; here {list(size)} would fit")
    blocks = block_grid(volumes[0].shape, chunk=request.chunk, **chosen)
    task = PredictionTask(request.models, request.channels, tuple(json.dumps(one.to_json()) for one in statistics), request.options,
                          spacing, store.path)
    before = len(state.finished())
    _compute(request, task, blocks, state)
    missing = len(blocks) - len(state.finished())
    if missing:
        say(f"{missing} of {len(blocks)} blocks are left to other shards; whoever ends last completes the output")
        return False
    with alone(request, say), writing(request.output):
        if not is_finished(request, identity):  # by who was here before
            objects = complete(request, LabelStore.open(store.path), state, volumes)
            found = summary(request, models, volumes, state, blocks, identity)
            write_json(request.summary_path, {**found, "objects": objects, "blocks_of_earlier_runs": before,
                                              "seconds": round(time.monotonic() - begun, 3)})
    return True


def _block_size(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume],
                spacing: tuple[float, ...] | None) -> Sequence[int]:
    """What fits into the memory, whatever part of the volume turns out not to be zero.

    Raises:
        ValueError: nothing does.
    """
    from nnunet_neuro.predict.block_predictor import network_grid
    from nnunet_neuro.predict.memory import block_size_for
    from nnunet_neuro.predict.statistics import VolumeStatistics
    from nnunet_neuro.volumes import full_region

    shape = volumes[0].shape
    whole = VolumeStatistics(full_region(shape, None), ())
    resampled = any(network_grid(model, volumes, whole, request.options, spacing=spacing).is_resampled for model in models)
    return block_size_for(models, shape, chunk=request.chunk, memory_bytes=request.memory // request.workers,
                          device_bytes=_device_memory(request), options=request.options, voxel_bytes=volumes[0].dtype.itemsize,
                          resampled=resampled)


def _device_memory(request: PredictionRequest) -> int | None:
    """Bytes of a GPU for one worker; None on the CPU, and for the machines of a cluster, which are not asked."""
    if not request.options.device.startswith("cuda") or request.scheduler is not None:
        return None
    import torch

    sharing = -(-request.workers // torch.cuda.device_count()) if request.options.device == "cuda" else request.workers
    return int(torch.cuda.mem_get_info(request.options.device)[0] * 0.9) // sharing


def _first_pass(state: Path, models: Sequence[TrainedModel], volumes: Sequence[Volume],
                spacing: tuple[float, ...] | None) -> list[VolumeStatistics]:
    """Made once for a run; who comes second waits for it."""
    from filelock import FileLock

    from nnunet_neuro.predict.block_predictor import first_pass
    from nnunet_neuro.predict.statistics import VolumeStatistics

    file, lock = state / "first_pass.json", state / "first_pass.lock"
    if not file.is_file() or lock.exists():
        with writing(state), FileLock(lock):
            if not file.is_file():
                write_json(file, [first_pass(model, volumes, spacing=spacing).to_json() for model in models])
            lock.unlink(missing_ok=True)
    return [VolumeStatistics.from_json(one) for one in json.loads(file.read_text(encoding="utf-8"))]


def _describe(request: PredictionRequest, models: Sequence[TrainedModel], volumes: Sequence[Volume],
              statistics: Sequence[VolumeStatistics], spacing: tuple[float, ...] | None, say: Callable[[str], None]) -> None:
    from nnunet_neuro.predict.block_predictor import network_grid
    from nnunet_neuro.predict.exactness import describe_exactness

    if request.spacing and volumes[0].spacing and any(abs(a / b - 1) > 1e-3 for a, b in zip(request.spacing, volumes[0].spacing)):
        say(f"the input states a voxel size of {volumes[0].spacing}; --spacing {request.spacing} is used instead")
    same_as = "nnUNetv2_predict's" if len(models) == 1 else "nnUNetv2_ensemble's, but for a probability's last bit"
    for model, found in zip(models, statistics):
        reasons = describe_exactness(model, volumes, request.options, statistics=found, spacing=spacing)
        grids = [network_grid(model, volumes, found, options, spacing=spacing) for options in (request.options, PredictOptions())]
        passes = [grid.windows * (2 ** len(model.mirroring_axes or ()) if options.mirroring else 1)
                  for grid, options in zip(grids, (request.options, PredictOptions()))]
        say(f"{model.folder.name}: {grids[0].windows} windows of {' x '.join(map(str, model.patch))}, {len(model.folds)} fold(s), on "
            f"{request.options.device}; " + (f"labels equal {same_as}" if not reasons else "not exact: " + "; ".join(reasons)))
        if passes[0] < passes[1]:
            say(f"{model.folder.name}: {1 - passes[0] / passes[1]:.0%} of the network's passes are saved by step and mirroring"
                + (", and what is background besides" if request.options.background is not None else ""))


def _chosen_blocks(state: Path, size: Sequence[int], axis: int) -> dict[str, Any]:
    """Size of the blocks and the axis along which they follow each other; whoever began the run chose them."""
    file = state / "blocks.json"
    if not file.is_file():
        unfinished = file.with_name(f".{file.name}.{os.getpid()}.partial")
        with writing(state):
            write_json(unfinished, {"size": list(size), "axis": axis})
            try:
                os.link(unfinished, file)  # fails where another process was faster
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
    return json.loads(file.read_text(encoding="utf-8"))


def _compute(request: PredictionRequest, task: PredictionTask, blocks: list[Block], state: RunState) -> None:
    from nnunet_neuro.predict.engines import compute_blocks
    from nnunet_neuro.predict.runs import shard

    devices: list[str] = []
    if request.options.device == "cuda" and request.workers > 1:
        import torch

        devices = [str(number) for number in range(torch.cuda.device_count())]
    chosen = blocks if request.shard is None else shard(blocks, request.shard)
    compute_blocks(task, chosen, state, workers=request.workers, devices=devices, scheduler=request.scheduler, progress=request.progress)
