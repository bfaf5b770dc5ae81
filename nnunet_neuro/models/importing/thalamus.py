"""The thalamus benchmark's 2D U-Nets of one view each, from Lightning checkpoints.

Its arrays are (x, y, z) and every view's slices keep that order, so the plans transpose nnU-Net's (z, y, x) accordingly. Its
normalisation clips spikes at the 99.98 percentile before the range is brought to [0, 1], which nnU-Net has not: prepare images with
`nnneuro_convert thalamus --normalisation benchmark`, which this model's own normalisation leaves as they are. The three views' models,
imported to one dataset id, are fused by `nnneuro_views predict`; their mean is the benchmark's consensus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from nnunet_neuro.models.importing.build import filled
from nnunet_neuro.models.importing.model_files import NO_RESAMPLING, ImportedModel, Preprocessing, label_names
from nnunet_neuro.models.importing.plain_pickle import read_torch
from nnunet_neuro.models.importing.transfer_table import Row, WeightTransfer, plain_weights
from nnunet_neuro.networks.older.max_pool_unet import max_pool_architecture
from nnunet_neuro.views.scheme import CONFIGURATION, VIEWS, plans_name

# (z, y, x) -> sliced axis first, then the two of the slice in the order of (x, y, z)
TRANSPOSE = {"axial": (0, 2, 1), "coronal": (1, 2, 0), "sagittal": (2, 1, 0)}
CHANNELS = ("evalue1", "FA", "RD", "MD", "T1")
# voxels of the slices that it predicts, and the voxel size in millimetres
SLICE, SPACING = (144, 144), (1.25, 1.25, 1.25)
LEVELS = 4
_BATCH_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_FIRST = "encoder1.enc1conv1.weight"


def import_view(file: Path, *, view: str | None, labels: Sequence[str] | None, channels: Sequence[str] | None
                ) -> tuple[ImportedModel, list[Row], int]:
    """A `.ckpt` of one view.

    Args:
        file: Lightning checkpoint, or a state dict.
        view: a key of VIEWS; None where the file's name says it.
        labels: names of the classes; None for thalamus.
        channels: names; None where the file's name says them, or there are four or five.

    Returns:
        The model, the table of weights, and the fold.

    Raises:
        OSError: no such file.
        ValueError: a file that asks for code, is damaged or of another network, or a view or channels that are not known.
    """
    content = read_torch(file, inert=("pytorch_lightning", "lightning", "lightning_fabric", "argparse", "pathlib"))
    weights = _unwrapped(content.get("state_dict", content) if isinstance(content, Mapping) else content, str(file))
    first = weights[_FIRST].shape
    last = _shape(weights, "conv.weight", str(file))
    if last[0] < 2:
        raise ValueError(f"{file} has a single output channel; expected background and thalamus, as the benchmark trained them")
    view, names = _view(view, file), _channels(channels, first[1], file)
    features = [_shape(weights, f"encoder{level}.enc{level}conv1.weight", str(file))[0] for level in range(1, LEVELS + 1)]
    features.append(_shape(weights, "bottleneck.bottleneckconv1.weight", str(file))[0])
    architecture = max_pool_architecture(features, 2, nonlin_first=False, activated_upsampling=False)
    network_weights, rows = filled(architecture, first[1], last[0], weights, str(file), _transfer)
    preprocessing = Preprocessing(
        patch=SLICE, spacing=SPACING, normalization=("RescaleTo01Normalization",) * first[1], masked=(False,) * first[1], intensities={},
        resampling=NO_RESAMPLING, transpose=TRANSPOSE[view], batch=16)
    model = ImportedModel(
        plans_name=plans_name(view), configuration=CONFIGURATION, architecture=architecture, preprocessing=preprocessing,
        weights=network_weights, channels=names, labels=label_names(labels, last[0], ("thalamus",)), file_ending=".nii.gz",
        origin={"system": "thalamus_benchmark_diffusion", "file": file.name, "view": view})
    return model, rows, 0


def _unwrapped(content: object, source: str) -> dict[str, Tensor]:
    """The network's own weights, without the name that the training put in front of them."""
    weights = plain_weights(content, source)
    first = next((name for name in weights if name.endswith(_FIRST)), None)
    if first is None:
        raise ValueError(f"{source} has no weights {_FIRST}, only such as {next(iter(weights))}; expected the U-Net of the thalamus "
                         "benchmark")
    prefix = first.removesuffix(_FIRST)
    outside = [name for name in weights if not name.startswith(prefix)]
    if outside:
        raise ValueError(f"{source} has weights {outside[0]} beside those of the network {prefix}...; expected the benchmark's U-Net alone")
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def _view(given: str | None, file: Path) -> str:
    found = [view for view in VIEWS if view in file.name.lower()]
    if given is None and len(found) != 1:
        raise ValueError(f"the name of {file} does not tell the view; give it as --view {'|'.join(VIEWS)}")
    return given or found[0]


def _channels(given: Sequence[str] | None, count: int, file: Path) -> tuple[str, ...]:
    names = tuple(given or ())
    if not names:
        words = "|".join(CHANNELS)
        match = re.search(rf"(?:^|_)((?:{words})+)(?:_|\.|$)", file.name)
        names = tuple(re.findall(words, match[1])) if match else CHANNELS[:count] if count >= 4 else ()
    if len(names) != count:
        raise ValueError(f"the network in {file} has {count} input channel{'s' * (count != 1)}, but "
                         f"{', '.join(names) or 'none'} {'are' if len(names) != 1 else 'is'} named; give them in order as --channels, of "
                         f"{', '.join(CHANNELS)}")
    return names


def _transfer(table: WeightTransfer) -> None:
    levels = [(f"encoder{level}.enc{level}", f"encoder.stages.{level - 1}.{0 if level == 1 else 1}") for level in range(1, LEVELS + 1)]
    levels.append(("bottleneck.bottleneck", f"encoder.stages.{LEVELS}.1"))
    levels += [(f"decoder{level}.dec{level}", f"decoder.stages.{LEVELS - level}") for level in range(LEVELS, 0, -1)]
    for old, new in levels:
        for index in (0, 1):
            table.take(f"{new}.convs.{index}.conv.weight", f"{old}conv{index + 1}.weight")
            table.zero(f"{new}.convs.{index}.conv.bias", "none in the benchmark's")
            for part in _BATCH_KEYS:
                table.take(f"{new}.convs.{index}.norm.{part}", f"{old}norm{index + 1}.{part}")
    for level in range(LEVELS, 0, -1):
        stage = LEVELS - level
        for part in ("weight", "bias"):
            table.take(f"decoder.transpconvs.{stage}.{part}", f"upconv{level}.{part}")
            if level == 1:
                table.take(f"decoder.seg_layers.{stage}.{part}", f"conv.{part}")
            else:
                table.zero(f"decoder.seg_layers.{stage}.{part}", "no deep supervision")


def _shape(weights: Mapping[str, Tensor], name: str, source: str) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"{source} has no weights {name}; the file is of another network or incomplete")
    return tuple(weights[name].shape)
