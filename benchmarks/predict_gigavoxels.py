"""Measure 9 of `predict.py`: a volume of 64 gigavoxels that nothing holds, and what a brain takes by arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from predict_models import GeneratedVolume, ModelPlan
from predict_rows import NOT_THERE, Bench, Row, gigabytes, parts_text, shape_text

from nnunet_neuro.predict.windows import Block, block_grid

SHAPE = (4096, 4096, 4096)
BRAIN = (2160, 2560, 2078)
_PATCH = (128, 128, 128)
_CHUNK = (64, 64, 64)
_SMALL = (256, 256, 256)
# of nnU-Net, measured: 2 GB and 14 + 6 x classes bytes for each voxel
_STOCK_BYTES = 14 + 6 * 2
# an epoch of nnU-Net's default 3D network on an A100 takes 32 s by its own benchmark; a forward pass alone is faster
GPU_RATE = (250 * 2 * math.prod(_PATCH) / 32, "at which nnU-Net trains on an A100 by its own account, 250 x 2 windows of 128^3 in 32 s")


def measure_gigavoxels(bench: Bench) -> Iterator[Row]:
    """The command's own road with a generated input and a network that copies its input."""
    model = bench.model(960, ModelPlan(_PATCH, (2, 2), 1, stub=True))
    memory = "3G" if bench.sizes.gigavoxel_blocks else "12G"
    blocks = _blocks(model.folder, SHAPE, memory)
    shard = f"0/{len(blocks) // bench.sizes.gigavoxel_blocks}" if bench.sizes.gigavoxel_blocks else "0/1"
    output = bench.fresh("gigavoxels.zarr")
    cost, report = bench.runner.clocked("predict_gigavoxels:predict_generated",
                                        [str(model.folder), str(output), json.dumps(SHAPE), shard, memory])
    reports = [json.loads(file.read_text()) for file in (output / ".nnneuro" / "finished").glob("[0-9]*.json")]
    voxels = sum(one["voxels"] for one in reports)
    seconds = report["parts"]["blocks"]["seconds"]
    whole = f"{len(reports)} of its {len(blocks)} blocks, {voxels / 1e9:.2f} gigavoxels"
    yield Row(9, f"peak memory for {math.prod(SHAPE) / 1e9:.1f} gigavoxels, {shape_text(SHAPE)}, --memory {memory}; {whole}",
              f"about {2 + math.prod(SHAPE) * _STOCK_BYTES / 1e9:.0f} GB by its bytes per voxel", gigabytes(cost.peak_bytes),
              "less than 16 GB", cost.peak_bytes < 16e9)
    rate = voxels / seconds
    yield Row(9, "voxels per second with no network, step 0.5, one process; all 64 by arithmetic", NOT_THERE,
              f"{rate / 1e6:.2f} million; {math.prod(SHAPE) / rate / 3600:.1f} hours")
    yield Row(9, "parts of it", NOT_THERE, parts_text(report))
    yield from _brain(bench, model.folder, report, voxels)


def predict_generated(arguments: list[str]) -> int:
    """What is measured: MODEL OUTPUT SHAPE SHARD MEMORY."""
    from nnunet_neuro.commands.predict import parse_memory
    from nnunet_neuro.predict.inputs import ArrayChannels
    from nnunet_neuro.predict.job import ModelChoice
    from nnunet_neuro.predict.request import PredictionRequest
    from nnunet_neuro.predict.run import predict

    model, output, shape, shard, memory = arguments
    channels = ArrayChannels((GeneratedVolume(json.loads(shape)),))
    predict(PredictionRequest((ModelChoice(Path(model)),), channels, Path(output), memory=parse_memory(memory),
                              shard=None if shard == "0/1" else shard))
    return 0


def _brain(bench: Bench, folder: Path, report: dict, voxels: int) -> Iterator[Row]:
    """By arithmetic: windows by nnU-Net's rule and our columns, the network at the rate of a GPU, the host by what was measured here."""
    from nnunet_neuro.predict.windows import window_starts

    small = bench.runner.clocked("predict_gigavoxels:predict_generated",
                                 [str(folder), str(bench.fresh("small.zarr")), json.dumps(_SMALL), "0/1", "3G"])[1]
    pyramid = small["parts"]["pyramid"]["seconds"] / math.prod(_SMALL)
    host = sum(report["parts"][name]["seconds"] for name in ("read and normalise", "write")) / voxels
    starts = [window_starts(length, patch, 0.5) for length, patch in zip(BRAIN, _PATCH)]
    blocks = _blocks(folder, BRAIN, "16G")
    rate, source = bench.gpu_rate or GPU_RATE
    count = math.prod(BRAIN)
    taken = {}
    for workers in (1, 8):
        loads = [0] * workers
        for windows in _windows_of_runs(blocks, starts, workers):
            loads[loads.index(min(loads))] += windows  # whoever is free takes the next run
        taken[workers] = max(loads), sum(loads)
    at_host, at_end = count * host, count * pyramid
    network = {workers: longest * math.prod(_PATCH) / rate for workers, (longest, _) in taken.items()}
    one, eight = network[1] + at_host + at_end, network[8] + at_host / 8 + at_end
    yield Row(9, f"reckoned, not measured: a brain of {shape_text(BRAIN)} on one GPU; on eight",
              f"about {2 + count * _STOCK_BYTES / 1e9:.0f} GB of memory", f"{_time(one)}; {_time(eight)}")
    facts = (f"from {taken[1][1]:,} windows on one GPU and {taken[8][1]:,} on eight, each of which begins runs of its own; no mirroring, "
             f"one fold; network at {rate:.3g} voxels per second ({source}); host {host * 1e9:.1f} ns and pyramid {pyramid * 1e9:.1f} ns "
             "per voxel, measured here; sums stay on the GPU and are not in it")
    yield Row(9, facts, f"{math.prod(map(len, starts)):,} windows",
              f"network {_time(network[1])} and {_time(network[8])}, reading and writing {_time(at_host)} in all, pyramid, by one process, "
              f"{_time(at_end)}")


def _windows_of_runs(blocks: list[Block], starts: list[list[int]], workers: int) -> list[int]:
    """Windows that reach into each run of blocks that is handed out at once; one worker goes on from run to run, down whole columns."""
    from nnunet_neuro.predict.runs import runs_of
    from nnunet_neuro.predict.windows import windows_touching

    columns = [list(column) for _, column in groupby(blocks, key=attrgetter("column"))]
    counts = []
    for run in runs_of(blocks, workers) if workers > 1 else columns:
        first, last = run[0].region, run[-1].region
        region = (slice(first[0].start, last[0].stop), *first[1:])
        counts.append(math.prod(len(windows_touching(*one)) for one in zip(starts, _PATCH, region)))
    return counts


def _blocks(folder: Path, shape: tuple[int, ...], memory: str) -> list[Block]:
    """As the command cuts a volume."""
    from nnunet_neuro.commands.predict import parse_memory
    from nnunet_neuro.predict.memory import choose_block_size
    from nnunet_neuro.predict.model import load_model

    return block_grid(shape, chunk=_CHUNK, size=choose_block_size(load_model(folder), shape, chunk=_CHUNK,
                                                                  memory_bytes=parse_memory(memory)))


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
