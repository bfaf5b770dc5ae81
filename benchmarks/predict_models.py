"""Models and volumes that `predict.py` predicts, made by code: nnU-Net model folders with random or briefly trained weights."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TRAINER, PLANS = "nnUNetTrainer", "nnUNetPlans"
CLASSES = {"background": 0, "axon": 1, "edge": 2}
REGIONS = {"background": 0, "cell": [1, 2], "nucleus": [2]}
# of the images below, for normalisation by the plans' numbers
_INTENSITIES = {"mean": 110.0, "std": 35.0, "percentile_00_5": 40.0, "percentile_99_5": 200.0}
_PERIOD = 128
_DARK, _BRIGHT, _NOISE = 90, 60, 15


@dataclass(frozen=True)
class ModelPlan:
    """What a model is made of.

    Attributes:
        patch: three numbers for 3d_fullres, two for 2d.
        features: of the network at each of its stages.
        convolutions: of each stage; nnU-Net plans two.
        norms: nnU-Net's normalisation of each channel.
        folds: how many, each with its own weights.
        mirroring: whether nnU-Net mirrors windows along all axes.
        labels: of dataset.json.
        stub: two heads that copy the image instead of a network.
    """

    patch: tuple[int, ...]
    features: tuple[int, ...]
    convolutions: int = 2
    norms: tuple[str, ...] = ("CTNormalization",)
    folds: int = 1
    mirroring: bool = False
    labels: str = "classes"
    stub: bool = False

    @property
    def configuration(self) -> str:
        return "3d_fullres" if len(self.patch) == 3 else "2d"


@dataclass(frozen=True)
class BenchModel:
    """A model folder in a folder of results, as both programs find it."""

    results: Path
    dataset: str
    plan: ModelPlan

    @property
    def folder(self) -> Path:
        return self.results / self.dataset / f"{TRAINER}__{PLANS}__{self.plan.configuration}"


def planned_features(first: int, stages: int = 5) -> tuple[int, ...]:
    """nnU-Net's: doubled from stage to stage, 320 at most."""
    return tuple(min(320, first * 2**stage) for stage in range(stages))


def make_model(results: Path, number: int, plan: ModelPlan, *, train_steps: int = 0) -> BenchModel:
    """Write a model unless it is there.

    Args:
        results: stands for nnUNet_results.
        number: of the dataset.
        plan: what to make.
        train_steps: of training on `blobs`, so that labels mean something; 0 leaves the weights random.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    model = BenchModel(results, f"Dataset{number}_Bench", plan)
    if (model.folder / f"fold_{plan.folds - 1}" / "checkpoint_final.pth").is_file():
        return model
    model.folder.mkdir(parents=True, exist_ok=True)
    plans, dataset_json = _plans(plan), _dataset_json(plan)
    (model.folder / "plans.json").write_text(json.dumps(plans))
    (model.folder / "dataset.json").write_text(json.dumps(dataset_json))
    manager = PlansManager(plans)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    for fold in range(plan.folds):
        torch.manual_seed(100 * number + fold)
        with contextlib.redirect_stdout(io.StringIO()):
            network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration(plan.configuration), len(plan.norms),
                                                               heads, enable_deep_supervision=False)
        if train_steps:
            _train(network, train_steps)
        folder = model.folder / f"fold_{fold}"
        folder.mkdir(exist_ok=True)
        axes = tuple(range(len(plan.patch))) if plan.mirroring else None
        torch.save({"network_weights": network.state_dict(), "trainer_name": TRAINER, "inference_allowed_mirroring_axes": axes,
                    "init_args": {"configuration": plan.configuration}}, folder / "checkpoint_final.pth")
    return model


class GeneratedVolume:
    """Blobs in noise, (z, y, x) uint16, repeated every 128 voxels and computed where they are asked for; any size, no memory."""

    def __init__(self, shape: Sequence[int], seed: int = 0):
        self.shape, self.dtype, self.ndim = tuple(shape), np.dtype(np.uint16), 3
        self._cube = blobs((_PERIOD,) * 3, seed)[0]

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        places = [np.arange(*part.indices(length)) % _PERIOD for part, length in zip(region, self.shape)]
        return self._cube[np.ix_(*places)]


def blobs(shape: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (z, y, x) uint16 of bright blobs in noise, and which voxels are in a blob (1) and at the edge of one (2)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=shape).astype(np.float32), 4, mode="wrap")
    smooth /= smooth.std() + 1e-9
    labels = np.where(smooth > 1, 1, np.where(smooth > 0.7, 2, 0)).astype(np.uint8)
    image = _DARK + _BRIGHT * np.clip(smooth, 0, 1) + rng.normal(0, _NOISE, shape)
    return np.clip(image, 1, 255).astype(np.uint16), labels


def write_tiff(folder: Path, name: str, channels: Sequence[np.ndarray | GeneratedVolume]) -> list[Path]:
    """Channels as nnU-Net's reader wants them: NAME_0000.tif, ... and NAME.json with the plan's voxel size; written plane by plane."""
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text('{"spacing": [1, 1, 1]}')
    files = [folder / f"{name}_{number:04}.tif" for number in range(len(channels))]
    for file, voxels in zip(files, channels):
        rows = (slice(None), slice(None))
        with tifffile.TiffWriter(file) as stream:
            stream.write((np.asarray(voxels[(slice(z, z + 1), *rows)])[0] for z in range(voxels.shape[0])), shape=voxels.shape,
                         dtype=voxels.dtype, photometric="minisblack", metadata=None)
    return files


def prepare_environment(folder: Path) -> None:
    """nnU-Net's folders, which it reads when it is imported; its own class of stubs must be found by the programs too."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
        (folder / name).mkdir(exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))


def _train(network, steps: int) -> None:
    """Cross-entropy on small cubes; instance normalisation lets the weights serve for larger ones."""
    import torch
    from tqdm import tqdm

    image, labels = blobs((96, 96, 96), seed=1)
    voxels = torch.from_numpy((image.astype(np.float32) - _INTENSITIES["mean"]) / _INTENSITIES["std"])
    target = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    rng = np.random.default_rng(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    for _ in tqdm(range(steps), desc="training briefly", leave=False):
        region = tuple(slice(first, first + 48) for first in rng.integers(0, 48, 3))
        loss = torch.nn.functional.cross_entropy(network(voxels[region][None, None]), target[region][None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _dataset_json(plan: ModelPlan) -> dict:
    content = {"channel_names": {str(number): f"channel {number}" for number in range(len(plan.norms))}, "numTraining": 1,
               "file_ending": ".tif", "labels": REGIONS if plan.labels == "regions" else CLASSES}
    if plan.stub:
        content["labels"] = {"background": 0, "bright": 1}
    if plan.labels == "regions":
        content["regions_class_order"] = [1, 2]
    return content


def _plans(plan: ModelPlan) -> dict:
    dimensions, stages = len(plan.patch), len(plan.features)
    data = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet", "_kw_requires_import": [
            "conv_op", "norm_op", "dropout_op", "nonlin"],
        "arch_kwargs": {
            "n_stages": stages, "features_per_stage": list(plan.features), "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * stages, "strides": [[1] * dimensions, *[[2] * dimensions] * (stages - 1)],
            "n_conv_per_stage": [plan.convolutions] * stages, "n_conv_per_stage_decoder": [plan.convolutions] * (stages - 1),
            "conv_bias": True, "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}}
    if plan.stub:
        network = {"network_class_name": "predict_stub.StubNetwork", "_kw_requires_import": [], "arch_kwargs": {}}
    resampling = {f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")}
    return {
        "dataset_name": "Dataset900_Bench", "plans_name": PLANS, "image_reader_writer": "Tiff3DIO", "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {str(number): _INTENSITIES for number in range(len(plan.norms))},
        "configurations": {plan.configuration: {
            "data_identifier": "bench", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": list(plan.patch),
            "spacing": [1.0] * dimensions, "normalization_schemes": list(plan.norms), "use_mask_for_norm": [False] * len(plan.norms),
            "batch_dice": False, **resampling, "resampling_fn_data_kwargs": data,
            "resampling_fn_seg_kwargs": {**data, "order": 1, "is_seg": True},
            "resampling_fn_probabilities_kwargs": {**data, "order": 1}, "architecture": network}}}
