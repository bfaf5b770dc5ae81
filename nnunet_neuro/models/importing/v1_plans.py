"""nnU-Net v1's plans, from the pickle beside a checkpoint, as preprocessing of nnU-Net v2.

v1 normalises after resampling, v2 before; the result is the same where nothing is resampled, as in D-LMBmap's data of spacing 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.models.importing.model_files import RESAMPLING, Preprocessing
from nnunet_neuro.models.importing.plain_pickle import read_pickle

# v1's name -> v2's class; CT2 clips to dataset percentiles and then normalises each image, which v2 has not
NORMALIZATION = {"nonCT": "ZScoreNormalization", "CT": "CTNormalization", "noNorm": "NoNormalization"}
_INTENSITIES = {"mean": "mean", "median": "median", "sd": "std", "mn": "min", "mx": "max", "percentile_99_5": "percentile_99_5",
                "percentile_00_5": "percentile_00_5"}


@dataclass(frozen=True)
class V1Model:
    """What a v1 pickle says.

    Attributes:
        configuration: v2's name of it.
        preprocessing: in v2's terms.
        channels: names.
        pools: steps between the network's stages.
        classes: background included.
        trainer: name of v1's class.
        fold: number or "all".
    """

    configuration: str
    preprocessing: Preprocessing
    channels: tuple[str, ...]
    pools: tuple[tuple[int, ...], ...]
    classes: int
    trainer: str
    fold: int | str


def read_v1_pickle(path: Path) -> V1Model:
    """Read `model_final_checkpoint.model.pkl`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it asks for code, is damaged, is no pickle of nnU-Net v1, or says what nnU-Net v2 cannot do.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no pickle {path} with the plans; nnU-Net v1 writes it beside the checkpoint, copy it too or name it with "
                                "--pickle")
    content = read_pickle(path)
    try:
        return _v1_model(content, path)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is no pickle of an nnU-Net v1 model ({type(error).__name__}: {error}); expected a dict with init, name "
                         "and plans") from error


def _v1_model(content: Mapping[str, Any], path: Path) -> V1Model:
    plans, init, trainer = content["plans"], content["init"], str(content["name"])
    if "Cascade" in trainer:
        raise ValueError(f"{path} is of {trainer}, the second stage of a cascade, which needs the prediction of the first as further "
                         "input; import a model of 3d_fullres or 2d")
    stages = plans["plans_per_stage"]
    wanted = init[5] if len(init) > 5 and init[5] is not None else sorted(stages)[0]
    if wanted not in stages:
        raise ValueError(f"{path} is of stage {wanted}, but its plans have {', '.join(map(str, stages))}; copy the pickle that belongs to "
                         "the checkpoint")
    stage = stages[wanted]
    channels = int(plans["num_modalities"])
    patch = _whole(stage["patch_size"])
    names = plans.get("modalities") or {}
    fold = init[1] if len(init) > 1 else 0
    return V1Model(
        configuration="2d" if len(patch) == 2 else "3d_lowres" if len(stages) > 1 and wanted == min(stages) else "3d_fullres",
        preprocessing=Preprocessing(
            patch=patch, spacing=tuple(float(size) for size in stage["current_spacing"]),
            normalization=_normalization(plans, channels, path),
            masked=tuple(bool(plans["use_mask_for_norm"][channel]) for channel in range(channels)),
            intensities=_intensities(plans), resampling=RESAMPLING, transpose=_whole(plans.get("transpose_forward", (0, 1, 2))),
            batch=int(stage.get("batch_size", 2)), batch_dice=bool(init[4]) if len(init) > 4 else True,
            shape=_whole(np.round(stage["median_patient_size_in_voxels"])) if "median_patient_size_in_voxels" in stage else None),
        channels=tuple(str(names.get(channel, f"channel {channel}")) for channel in range(channels)),
        pools=tuple(_whole(pool) for pool in stage["pool_op_kernel_sizes"]), classes=int(plans["num_classes"]) + 1, trainer=trainer,
        fold="all" if fold == "all" else int(fold))


def _normalization(plans: Mapping[str, Any], channels: int, path: Path) -> tuple[str, ...]:
    schemes = [str(plans["normalization_schemes"][channel]) for channel in range(channels)]
    unknown = [scheme for scheme in schemes if scheme not in NORMALIZATION]
    if unknown:
        raise ValueError(f"{path} normalises by {unknown[0]}, which nnU-Net v2 has not; expected {', '.join(NORMALIZATION)}")
    intensities = _intensities(plans)
    bare = [channel for channel, scheme in enumerate(schemes) if scheme == "CT" and not intensities.get(str(channel))]
    if bare:
        raise ValueError(f"{path} normalises channel {bare[0]} by the intensities of the training data, but has none; copy the pickle "
                         "again")
    return tuple(NORMALIZATION[scheme] for scheme in schemes)


def _intensities(plans: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    measured = (plans.get("dataset_properties") or {}).get("intensityproperties") or {}
    return {str(channel): {new: float(values[old]) for old, new in _INTENSITIES.items() if old in values}
            for channel, values in measured.items()}


def _whole(numbers: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)
