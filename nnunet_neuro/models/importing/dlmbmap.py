"""D-LMBmap's axon networks: nnU-Net v1 checkpoints with their pickle, and the bare weights that its `save_model.py` made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_neuro.models.importing.build import filled
from nnunet_neuro.models.importing.generic_unet import GenericUNet, read_structure
from nnunet_neuro.models.importing.model_files import RESAMPLING, ImportedModel, Preprocessing, label_names
from nnunet_neuro.models.importing.plain_pickle import read_torch
from nnunet_neuro.models.importing.transfer_table import Row, plain_weights
from nnunet_neuro.models.importing.v1_plans import V1Model, read_v1_pickle

PLANS_NAME = "nnUNetPlansDLMBmap"
# of the default plan, for weights without a pickle
PATCH = 128


def import_checkpoint(file: Path, *, pickle: Path | None, labels: Sequence[str] | None, channels: Sequence[str] | None
                      ) -> tuple[ImportedModel, list[Row], int | str]:
    """A `model_final_checkpoint.model` of nnU-Net v1, of the stock trainer or of MyTrainerAxial.

    Args:
        file: the checkpoint.
        pickle: the plans; None for `FILE.pkl` beside it.
        labels: names of the classes; None for axon where there is one.
        channels: names; None for those of the plans.

    Returns:
        The model, the table of weights, and the fold.

    Raises:
        OSError: no such file.
        ValueError: a file that asks for code, is damaged or of another network, or files that do not belong together.
    """
    v1 = read_v1_pickle(pickle or file.with_name(f"{file.name}.pkl"))
    content = read_torch(file)
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise ValueError(f"{file} has no state_dict; expected a checkpoint of nnU-Net v1, or for bare weights --kind state-dict")
    return _imported(file, content["state_dict"], v1, labels=labels, channels=channels)


def import_state_dict(file: Path, *, pickle: Path | None, labels: Sequence[str] | None, channels: Sequence[str] | None
                      ) -> tuple[ImportedModel, list[Row], int | str]:
    """Bare weights of a Generic_UNet, as `save_model.py` wrote them for the whole-brain segmenter.

    Without a pickle the model preprocesses as D-LMBmap's default plan does: z-score, no resampling at a voxel size of 1, windows of 128
    voxels or of the position tables' length.

    Raises:
        OSError: no such file.
        ValueError: a file that asks for code, is damaged or of another network, or files that do not belong together.
    """
    content = read_torch(file)
    if isinstance(content, Mapping) and "state_dict" in content:
        raise ValueError(f"{file} is a whole checkpoint, not bare weights; use --kind dlmbmap, with the pickle beside it")
    return _imported(file, content, None if pickle is None else read_v1_pickle(pickle), labels=labels, channels=channels)


def _imported(file: Path, content: Any, v1: V1Model | None, *, labels: Sequence[str] | None, channels: Sequence[str] | None
              ) -> tuple[ImportedModel, list[Row], int | str]:
    weights = plain_weights(content, str(file))
    structure = read_structure(weights, str(file))
    if v1 is None:
        v1 = _default(structure, file)
    _check_together(v1, structure, file)
    if channels and len(channels) != structure.channels:
        raise ValueError(f"--channels names {len(channels)}, but the network in {file} has {structure.channels} input channels; name each")
    architecture = structure.architecture()
    network_weights, rows = filled(architecture, structure.channels, structure.classes, weights, str(file), structure.transfer)
    model = ImportedModel(
        plans_name=PLANS_NAME, configuration=v1.configuration, architecture=architecture, preprocessing=v1.preprocessing,
        weights=network_weights, channels=tuple(channels or v1.channels), labels=label_names(labels, structure.classes, ("axon",)),
        file_ending=".nii.gz", origin={"system": "D-LMBmap, nnU-Net v1", "file": file.name, "trainer": v1.trainer})
    return model, rows, v1.fold


def _default(structure: GenericUNet, file: Path) -> V1Model:
    if structure.dimensions != 3:
        raise ValueError(f"{file} is a 2D network, for which there is no default plan; give nnU-Net v1's pickle with --pickle")
    channels = structure.channels
    preprocessing = Preprocessing(
        patch=structure.table_shape or (PATCH,) * 3, spacing=(1.0, 1.0, 1.0), normalization=("ZScoreNormalization",) * channels,
        masked=(False,) * channels, intensities={}, resampling=RESAMPLING)
    return V1Model(configuration="3d_fullres", preprocessing=preprocessing, pools=structure.pools, classes=structure.classes,
                   channels=tuple(f"channel {channel}" for channel in range(channels)),
                   trainer="nnUNetTrainerV2" if structure.table_shape is None else "MyTrainerAxial", fold=0)


def _check_together(v1: V1Model, structure: GenericUNet, file: Path) -> None:
    pairs = {
        "input channels": (len(v1.channels), structure.channels), "classes": (v1.classes, structure.classes),
        "poolings": (v1.pools, structure.pools),
    }
    for what, (planned, found) in pairs.items():
        if planned != found:
            raise ValueError(f"the network in {file} has other {what} than its plans, {found} instead of {planned}; the two files do not "
                             "belong together")
    patch = v1.preprocessing.patch
    for axis, length in enumerate(patch):
        total = 1
        for pool in structure.pools:
            total *= pool[axis]
        if length % total:
            raise ValueError(f"windows of {' x '.join(map(str, patch))} voxels cannot be halved as the network in {file} does, by {total} "
                             f"along axis {axis}; give nnU-Net v1's pickle with --pickle")
