"""The 2D and 3D U-Nets and pretrained decoders of MTNeuro and the Kasthuri challenge.

Both use the U-Net of github.com/johschmidt42/PyTorch-2D-3D-UNet-Tutorial, with ReLU and batch normalisation in every configuration that
they publish; the activation cannot be told from the weights. Their data sets give each image divided by 255 and with its two axes
exchanged, which the plans do as well. The Kasthuri challenge's attention and residual U-Nets were published without their code.
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
from nnunet_neuro.networks.older.smp_network import find_decoder, new_name, smp_architecture

# nnU-Net's plans name, voxel size in micrometres
SYSTEMS = {"mtneuro": ("nnUNetPlansMTNeuro", (1.17, 1.17, 1.17)), "kasthuri": ("nnUNetPlansKasthuri", (0.03, 0.006, 0.006))}
# voxels of a tile, and slices of a 3D one
TILE, SLICES = 256, 8
_CLASSES = {3: ("vessel", "cell"), 4: ("vessel", "cell", "axon")}
_TASKS = ("membrane", "synapse")
_BATCH_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def import_tiles(file: Path, *, system: str, labels: Sequence[str] | None, channels: Sequence[str] | None
                 ) -> tuple[ImportedModel, list[Row], int]:
    """A `.pt` of MTNeuro's task 2 or of the Kasthuri challenge.

    Args:
        file: state dict.
        system: a key of SYSTEMS.
        labels: names of the classes; None for those of the task.
        channels: names; None for "image".

    Returns:
        The model, the table of weights, and the fold.

    Raises:
        OSError: no such file.
        ValueError: a file that asks for code, is damaged, or of a network whose structure is not known.
    """
    weights = plain_weights(read_torch(file), str(file))
    if "segmentation_head.0.weight" in weights:
        architecture, shape, rows, network_weights = _pretrained(weights, str(file))
    else:
        architecture, shape, rows, network_weights = _own(weights, str(file))
    (classes, _), (_, n_channels), dimensions = shape
    if channels and len(channels) != n_channels:
        raise ValueError(f"--channels names {len(channels)}, but the network in {file} has {n_channels} input channels; name each")
    plans_name, spacing = SYSTEMS[system]
    tasks = tuple(task for task in _TASKS if task in file.name.lower()) if system == "kasthuri" else _CLASSES.get(classes, ())
    preprocessing = Preprocessing(
        patch=(TILE, TILE) if dimensions == 2 else (SLICES, TILE, TILE), spacing=spacing,
        normalization=("RGBTo01Normalization",) * n_channels, masked=(False,) * n_channels, intensities={}, resampling=NO_RESAMPLING,
        transpose=(0, 2, 1), batch=8 if dimensions == 2 else 2)
    model = ImportedModel(
        plans_name=plans_name, configuration="2d" if dimensions == 2 else "3d_fullres", architecture=architecture,
        preprocessing=preprocessing, weights=network_weights, labels=label_names(labels, classes, tasks),
        channels=tuple(channels or (("image",) if n_channels == 1 else tuple(f"channel {number}" for number in range(n_channels)))),
        file_ending=".png" if dimensions == 2 else ".tif", origin={"system": system, "file": file.name})
    return model, rows, 0


def _own(weights: dict[str, Tensor], source: str) -> tuple:
    _check_own(weights, source)
    stages = len({match[1] for name in weights if (match := re.match(r"down_blocks\.(\d+)\.", name))})
    first, last = weights["down_blocks.0.conv1.weight"].shape, weights["conv_final.weight"].shape
    features = [weights[f"down_blocks.{stage}.conv1.weight"].shape[0] for stage in range(stages)
                if f"down_blocks.{stage}.conv1.weight" in weights]
    architecture = max_pool_architecture(features, len(first) - 2, nonlin_first=True, activated_upsampling=True)
    network_weights, rows = filled(architecture, first[1], last[0], weights, source, lambda table: _transfer_own(table, len(features)))
    return architecture, (tuple(last[:2]), tuple(first[:2]), len(first) - 2), rows, network_weights


def _check_own(weights: Mapping[str, Tensor], source: str) -> None:
    for needed in ("down_blocks.0.conv1.weight", "down_blocks.0.conv2.weight", "up_blocks.0.conv1.weight", "conv_final.weight"):
        if needed not in weights:
            raise ValueError(f"{source} has no weights {needed}, only such as {next(iter(weights))}; expected a U-Net of MTNeuro or the "
                             "Kasthuri challenge, or one of segmentation-models-pytorch")
    known = re.compile(r"(down_blocks\.\d+\.(conv|norm)[12]|up_blocks\.\d+\.(up|(conv|norm)[012])|conv_final)\.\w+")
    strange = [name for name in weights if not known.fullmatch(name)]
    if strange:
        raise ValueError(f"{source} has weights {strange[0]}, which the plain U-Net has not; the attention and residual U-Nets of the "
                         "Kasthuri challenge were published without their code and cannot be rebuilt")
    if "down_blocks.0.norm1.running_mean" not in weights:
        raise ValueError(f"{source} has no running means, so it does not normalise by batch; group and instance normalisation cannot be "
                         "told from the weights, and no published configuration uses them")
    if "up_blocks.0.up.weight" not in weights:
        raise ValueError(f"{source} up-samples without weights (no up_blocks.0.up.weight), in a way that cannot be told; expected "
                         "transposed convolutions, as in every published configuration")


def _transfer_own(table: WeightTransfer, stages: int) -> None:
    for stage in range(stages):
        # behind the pooling, which comes first in all stages but one
        new = f"encoder.stages.{stage}.{0 if stage == 0 else 1}"
        _take_pair(table, f"down_blocks.{stage}", new)
    for stage in range(stages - 1):
        old = f"up_blocks.{stage}"
        for part in ("weight", "bias"):
            table.take(f"decoder.transpconvs.{stage}.0.{part}", f"{old}.up.{part}")
        for part in _BATCH_KEYS:
            table.take(f"decoder.transpconvs.{stage}.2.{part}", f"{old}.norm0.{part}")
        _take_pair(table, old, f"decoder.stages.{stage}")
        for part in ("weight", "bias"):
            name = f"{old}.conv0.{part}"
            if name in table.old_names:
                table.pass_over(name, "in use only where up-sampling has no weights")
            if stage == stages - 2:
                table.take(f"decoder.seg_layers.{stage}.{part}", f"conv_final.{part}")
            else:
                table.zero(f"decoder.seg_layers.{stage}.{part}", "no deep supervision")


def _take_pair(table: WeightTransfer, old: str, new: str) -> None:
    for index in (0, 1):
        for part in ("weight", "bias"):
            table.take(f"{new}.convs.{index}.conv.{part}", f"{old}.conv{index + 1}.{part}")
        for part in _BATCH_KEYS:
            table.take(f"{new}.convs.{index}.norm.{part}", f"{old}.norm{index + 1}.{part}")


def _pretrained(weights: dict[str, Tensor], source: str) -> tuple:
    first, head = weights.get("encoder.conv1.weight"), weights["segmentation_head.0.weight"]
    if first is None:
        raise ValueError(f"{source} has no weights encoder.conv1.weight, only such as {next(iter(weights))}; expected the encoder "
                         "resnet18, as MTNeuro trained it")
    decoder = find_decoder(weights, first.shape[1], head.shape[0], source)
    architecture = smp_architecture(decoder)

    def transfer(table: WeightTransfer) -> None:
        for name in table.old_names:
            table.take(new_name(name), name)

    network_weights, rows = filled(architecture, first.shape[1], head.shape[0], weights, source, transfer)
    return architecture, (tuple(head.shape[:2]), tuple(first.shape[:2]), 2), rows, network_weights
