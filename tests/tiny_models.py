"""Tiny trained-model folders as nnU-Net's own trainer saves them, and what nnU-Net predicts with them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_neuro.volumes.volume import Region, Volume

LABELS = {"background": 0, "axon": 1, "edge": 2}
REGIONS = {"background": 0, "cell": [1, 2], "nucleus": [2]}


def tiny_model(folder: Path, *, patch: Sequence[int] = (16, 24, 20), channels: int = 1, norm: str | Sequence[str] = "NoNormalization",
               masked: bool = False, folds: Sequence[int] = (0,), mirroring: bool = False, labels: dict | None = None,
               transpose: Sequence[int] = (0, 1, 2), spacing: Sequence[float] = (1, 1, 1), trainer: str = "nnUNetTrainer",
               resampling: str = "resample_data_or_seg_to_shape", features: Sequence[int] = (4, 6, 8)) -> Path:
    """Write a model with random weights, as `nnUNetv2_train` would have written it.

    Args:
        folder: an empty or new one.
        patch: three numbers for 3d_fullres, two for 2d.
        channels: of the input.
        norm: name of nnU-Net's normalisation, of all or of each channel.
        masked: nnU-Net's `use_mask_for_norm`.
        folds: each has its own weights.
        mirroring: whether windows are mirrored along all axes.
        labels: of dataset.json; regions get the class order 1, 2, ...
        transpose: nnU-Net's `transpose_forward`.
        spacing: of the plan, transposed.
        trainer: name in the checkpoint.
        resampling: name of the function in the plans.
        features: channels of the network at each of its three stages.
    """
    labels = labels or LABELS
    configuration = "3d_fullres" if len(patch) == 3 else "2d"
    dataset_json = {"channel_names": {str(channel): f"channel {channel}" for channel in range(channels)}, "labels": labels,
                    "numTraining": 1, "file_ending": ".tif"}
    if any(isinstance(label, list) for label in labels.values()):
        dataset_json["regions_class_order"] = list(range(1, len([name for name in labels if name not in ("background", "ignore")]) + 1))
    norms = [norm] * channels if isinstance(norm, str) else list(norm)
    plans = _plans(configuration, tuple(patch), norms, masked, transpose, spacing, resampling, features)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    for fold in folds:
        torch.manual_seed(100 + fold)
        with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as environment:
            for name in ("raw", "preprocessed", "results"):
                environment.setenv(f"nnUNet_{name}", str(folder / "by_nnunet"))
            one = nnUNetTrainer({**plans, "continue_training": False}, configuration, fold, dataset_json, torch.device("cpu"))
            one.network = one.build_network_architecture(one.plans_manager, one.configuration_manager, channels,
                                                         one.label_manager.num_segmentation_heads)
            one.optimizer, one.lr_scheduler = one.configure_optimizers()
        # a trainer knows them once its data loaders were made; without them nnU-Net silently does not mirror
        one.inference_allowed_mirroring_axes = tuple(range(len(patch))) if mirroring else None
        for name in ("train_losses", "val_losses", "ema_fg_dice"):
            one.logger.log(name, np.float64(0.5), 0)
        one._best_ema = np.float64(0.5)
        (folder / f"fold_{fold}").mkdir()
        one.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
        if trainer != "nnUNetTrainer":
            change_checkpoint(folder, fold, trainer_name=trainer)
    return folder


def change_checkpoint(folder: Path, fold: int = 0, **changes) -> None:
    """Replace entries of a checkpoint."""
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=False), **changes}, path)


def nnunet_labels(folder: Path, image: np.ndarray, spacing: Sequence[float] = (1, 1, 1), *, folds: Sequence[int] = (0,), step: float = 0.5,
                  mirroring: bool = True, probabilities: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """What nnU-Net itself predicts for an image (channels, z, y, x) in memory."""
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(step, use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), tuple(folds), "checkpoint_final.pth")
        # nnU-Net's readers give float32 in this order of axes
        return predictor.predict_single_npy_array(np.ascontiguousarray(image, np.float32), {"spacing": list(spacing)},
                                                  save_or_return_probabilities=probabilities)


def volumes_of(image: np.ndarray, spacing: Sequence[float] | None = (1, 1, 1)) -> tuple[Volume, ...]:
    """The channels of an array (channels, z, y, x) in memory as volumes."""
    return tuple(Volume("an array", channel.shape, channel.dtype, spacing and tuple(spacing), partial(_part_of, channel))
                 for channel in image)


def _part_of(array: np.ndarray, path: Path | str, region: Region) -> np.ndarray:
    return array[region]


def _plans(configuration: str, patch: tuple[int, ...], norms: list[str], masked: bool, transpose: Sequence[int], spacing: Sequence[float],
           resampling: str, features: Sequence[int]) -> dict:
    dimensions = len(patch)
    strides = [[1] * dimensions, [2] * dimensions, [2] * dimensions]
    if dimensions == 3:
        strides[1] = [1, 2, 2]
    intensities = {"mean": 90.0, "std": 31.0, "percentile_00_5": 10.0, "percentile_99_5": 180.0}
    options = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    hacked = resampling == "no_resampling_hack"
    return {
        "dataset_name": "Dataset001_Tiny", "plans_name": "nnUNetPlansTiny", "image_reader_writer": "Tiff3DIO",
        "label_manager": "LabelManager", "transpose_forward": list(transpose), "experiment_planner_used": "ExperimentPlanner",
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "foreground_intensity_properties_per_channel": {str(channel): intensities for channel in range(len(norms))},
        "configurations": {configuration: {
            "data_identifier": "tiny", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": list(patch),
            "spacing": list(spacing)[-dimensions:], "normalization_schemes": norms, "use_mask_for_norm": [masked] * len(norms),
            "batch_dice": False, "resampling_fn_data": resampling, "resampling_fn_seg": resampling,
            "resampling_fn_probabilities": resampling,
            "resampling_fn_data_kwargs": {} if hacked else {**options, "order": 3},
            "resampling_fn_seg_kwargs": {} if hacked else {**options, "order": 1, "is_seg": True},
            "resampling_fn_probabilities_kwargs": {} if hacked else {**options, "order": 1},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 3, "features_per_stage": list(features), "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                    "kernel_sizes": [[3] * dimensions] * 3, "strides": strides, "n_conv_per_stage": [1, 1, 1],
                    "n_conv_per_stage_decoder": [1, 1], "conv_bias": True,
                    "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }},
    }
