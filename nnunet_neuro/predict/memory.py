"""How much memory a prediction takes, and blocks that fit into what there is.

What grows with a block is its cross-section times the depth of a window: the normalised input and the sums of logits. Along the axis in
which windows move on only the labels of one block are held, so that memory does not depend on the size of the volume.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nnunet_neuro.predict.canvas_input import PLANES_AT_ONCE, RESAMPLED_PLANES_AT_ONCE
from nnunet_neuro.predict.model import TrainedModel
from nnunet_neuro.predict.options import PredictOptions
from nnunet_neuro.predict.windows import window_starts, windows_touching

# Python with torch and nnU-Net imported
_IMPORTS = 1100 * 2**20
# copies of a layer's largest input and output that are alive at once: skip connections, and oneDNN's own order of channels
_COPIES_OF_LAYER = 3
_AS_NNUNET = PredictOptions()
_LARGEST_CUBE = 16  # chunks
_KEEP_FREED = 1 << 30
_OLD_LIMIT = 1 << 25  # glibc before 2.35 takes no more as the threshold
_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class MemoryNeed:
    """Peak memory of one process in bytes.

    Attributes:
        host: of the computer, imports and weights included.
        device: of the GPU; 0 on the CPU.
    """

    host: int
    device: int


def memory_for(model: TrainedModel, size: Sequence[int], shape: Sequence[int], *, chunk: Sequence[int],
               options: PredictOptions = _AS_NNUNET, voxel_bytes: int = 2, resampled: bool = False,
               network_bytes: int | None = None) -> MemoryNeed:
    """Estimate what predicting blocks of a size takes.

    Args:
        model: the trained model.
        size: (z, y, x) of a block.
        shape: (z, y, x) of the volume.
        chunk: (z, y, x) of a stored chunk of the input.
        options: how it is predicted.
        voxel_bytes: of a stored voxel of the input.
        resampled: whether its voxel size differs from the plan's.
        network_bytes: what `network_memory` gave, where it was called already.
    """
    axes = model.plans.transpose_forward
    depth, *section = (min(size[axis], shape[axis]) for axis in axes)
    patch, channels, heads, folds = model.patch, len(model.channels), model.heads, len(model.folds)
    covered = math.prod(min(max(shape[axis], length), part + 2 * length) for axis, part, length in zip(axes[1:], section, patch[1:]))
    area, window = math.prod(section), math.prod(patch)
    held = channels * covered * (patch[0] * 4 + 2 * (chunk[axes[0]] + PLANES_AT_ONCE) * voxel_bytes + 2 * PLANES_AT_ONCE * 4)
    if resampled:  # 64-bit splines of a few planes and their neighbours, one channel at a time, and all channels normalised
        held += covered * (RESAMPLED_PLANES_AT_ONCE + 64) * (3 * 8 + 4 * channels)
    sums = (folds * heads + 1) * patch[0] * area * 2
    finished = PLANES_AT_ONCE * area * (2 * (folds + 2) * heads + 8 + (12 * heads if options.probabilities or options.entropy else 0))
    labels = 1 if model.label_dtype == "uint8" else 2
    per_voxel = labels + 4 * heads * options.probabilities + 2 * (options.entropy + options.disagreement)
    outputs = 2 * depth * area * per_voxel
    windows = options.batch * window * 4 * (2 * channels + 3 * folds * heads)
    weights = sum(tensor.numel() * tensor.element_size() for parameters in model.parameters for tensor in parameters.values())
    network = network_memory(model, options.batch) if network_bytes is None else network_bytes
    at_device = sums + finished + windows + weights + network
    if options.device.startswith("cpu"):
        return MemoryNeed(_IMPORTS + held + outputs + at_device + weights, 0)
    return MemoryNeed(_IMPORTS + held + outputs + finished + 2 * weights, at_device)


def choose_block_size(model: TrainedModel, shape: Sequence[int], *, chunk: Sequence[int], memory_bytes: int,
                      device_bytes: int | None = None, options: PredictOptions = _AS_NNUNET, voxel_bytes: int = 2,
                      resampled: bool = False) -> tuple[int, int, int]:
    """The size of blocks that needs the fewest windows among those that fit into the memory.

    Windows that reach over the side of a column are computed for both columns; so whole slices are best, and where they do not fit, few and
    wide columns.

    Args:
        model: the trained model.
        shape: (z, y, x) of the volume.
        chunk: (z, y, x) of a stored chunk, of the input as of the output.
        memory_bytes: for one process.
        device_bytes: of the GPU for one process; None for as much as needed.
        options: how it is predicted.
        voxel_bytes: of a stored voxel of the input.
        resampled: whether its voxel size differs from the plan's.

    Returns:
        (z, y, x), whole chunks or the whole axis.

    Raises:
        ValueError: not even one chunk fits.
    """
    axes = model.plans.transpose_forward
    first = axes[0]
    depth = min(shape[first], -(-max(model.patch[0], chunk[first]) // chunk[first]) * chunk[first])
    lengths = [_column_widths(shape[axis], chunk[axis], patch, options.step) for axis, patch in zip(axes[1:], model.patch[1:])]
    choices = sorted((windows * others, -width * other, width, other)
                     for width, windows in lengths[0].items() for other, others in lengths[1].items())
    network_bytes, smallest = network_memory(model, options.batch), None
    for thickness in dict.fromkeys((depth, min(shape[first], chunk[first]))):
        for *_, width, other in choices:
            size = [0, 0, 0]
            for axis, length in zip(axes, (thickness, width, other)):
                size[axis] = length
            need = memory_for(model, size, shape, chunk=chunk, options=options, voxel_bytes=voxel_bytes, resampled=resampled,
                              network_bytes=network_bytes)
            if need.host <= memory_bytes and (device_bytes is None or need.device <= device_bytes):
                return tuple(size)
            smallest = min(smallest or need, need, key=_total)
    given, needed = _gigabytes(memory_bytes), _gigabytes(smallest.host)
    if device_bytes is not None:
        given, needed = f"{given} and {_gigabytes(device_bytes)} of the GPU", f"{needed} and {_gigabytes(smallest.device)} of the GPU"
    raise ValueError(f"{given} of memory are too little for this model, which needs at least {needed} with chunks of {tuple(chunk)}; give "
                     "more memory, or choose smaller chunks")


def block_size_for(models: Sequence[TrainedModel], shape: Sequence[int], *, chunk: Sequence[int], memory_bytes: int,
                   device_bytes: int | None = None, options: PredictOptions = _AS_NNUNET, voxel_bytes: int = 2,
                   resampled: bool = False) -> tuple[int, ...]:
    """The size of blocks for one model, or for several that predict each block one after another; see `choose_block_size`.

    Models that move along different axes, such as three views, have no common best shape: blocks are cubes then, as far as memory goes.

    Raises:
        ValueError: not even one chunk fits.
    """
    if len(models) == 1:
        return choose_block_size(models[0], shape, chunk=chunk, memory_bytes=memory_bytes, device_bytes=device_bytes, options=options,
                                 voxel_bytes=voxel_bytes, resampled=resampled)
    options = replace(options, probabilities=True)  # which are averaged
    size = [min(length, _LARGEST_CUBE * part) for length, part in zip(shape, chunk)]
    while True:
        needs = [memory_for(model, size, shape, chunk=chunk, options=options, voxel_bytes=voxel_bytes, resampled=resampled)
                 for model in models]
        fits_device = device_bytes is None or sum(need.device for need in needs) <= device_bytes
        if fits_device and sum(need.host for need in needs) <= memory_bytes:
            return tuple(size)
        axis = max(range(3), key=lambda one: size[one] / chunk[one])
        if size[axis] <= chunk[axis]:
            raise ValueError(f"{_gigabytes(memory_bytes)} of memory are too little for {len(models)} models at once, which need "
                             f"{_gigabytes(sum(need.host for need in needs))}; give more memory, or fewer models")
        size[axis] = max(chunk[axis], size[axis] // 2 // chunk[axis] * chunk[axis])


def network_memory(model: TrainedModel, batch: int) -> int:
    """Estimate what the network takes for one batch of windows besides its weights, in bytes of 32-bit numbers.

    The layers are run on torch's meta device, which knows shapes and holds no numbers; only where one of them looks at numbers, one window
    is predicted.
    """
    try:
        largest = _largest_layer(model, "meta")
    except (RuntimeError, NotImplementedError):
        largest = _largest_layer(model, "cpu")
    return _COPIES_OF_LAYER * largest * 4 * batch


def keep_freed_memory() -> bool:
    """Let the C library keep large buffers for the next use instead of giving them back, which makes windows a quarter faster on Linux.

    Without it every layer's output is mapped and cleared anew. To be called once in each process, before the first window.

    Returns:
        Whether it was possible; it is not on other systems, nor with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    threshold = mallopt(_MALLOC_MMAP_THRESHOLD, _KEEP_FREED) or mallopt(_MALLOC_MMAP_THRESHOLD, _OLD_LIMIT)
    return bool(threshold and mallopt(_MALLOC_TRIM_THRESHOLD, _KEEP_FREED))


def _largest_layer(model: TrainedModel, device: str) -> int:
    """Most numbers that go into and come out of a layer for one window."""
    sizes = [0]

    def measure(layer: torch.nn.Module, inputs: tuple, output: object) -> None:
        sizes.append(sum(tensor.numel() for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)))

    network = model.build_network().eval().to(device)
    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(measure)
    with torch.inference_mode():
        network(torch.zeros((1, len(model.channels), *model.configuration.patch_size), device=device))
    return max(sizes)


def _column_widths(length: int, chunk: int, patch: int, step: float) -> dict[int, int]:
    """Possible widths of columns along an axis, with the number of windows that all columns need along it together."""
    starts = window_starts(max(length, patch), patch, step)
    chunks = -(-length // chunk)
    widths = {}
    for count in range(1, chunks + 1):
        width = min(length, -(-chunks // count) * chunk)
        if width not in widths:
            parts = [slice(first, min(first + width, length)) for first in range(0, length, width)]
            widths[width] = sum(len(windows_touching(starts, patch, part)) for part in parts)
    return widths


def _total(need: MemoryNeed) -> int:
    return need.host + need.device


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
