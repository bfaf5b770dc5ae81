"""What every trainer of the plugin must do; a new file in trainers/ is tested without a change here."""

from __future__ import annotations

import ast
import importlib.util
import json
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_neuro.startup import plugin_classes
from nnunet_neuro.training import NeuroTrainerMixin

PLUGIN_CLASSES = plugin_classes()
TRAINERS = [name for name, plugin in PLUGIN_CLASSES.items() if plugin.kind == "trainer"]
DATASET = "Dataset001_Contract"
PLANS = "nnUNetPlansContract"
CASES = ("case_a", "case_b", "case_c")
# small, and yet the lowest planned resolution can be halved along one axis, another one for each of the two patches
PATCH = {"2d": (32, 32), "3d_fullres": (12, 32, 16)}
OTHER_PATCH = {"2d": (48, 24), "3d_fullres": (24, 16, 16)}
SHAPE = {"2d": (1, 40, 44), "3d_fullres": (16, 32, 24)}
# what nnU-Net itself brings; everything else is loaded when it is needed
LIGHT_IMPORTS = {"nnunetv2", "torch", "numpy", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures"}


def test_there_are_trainers() -> None:
    assert "nnUNetTrainerAxialAttention" in TRAINERS


@pytest.mark.parametrize("name", TRAINERS)
def test_class_is_found_named_and_documented(name: str) -> None:
    plugin = PLUGIN_CLASSES[name]
    trainer_class = recursive_find_trainer_class_by_name(name)
    assert trainer_class is plugin.load()
    assert issubclass(trainer_class, nnUNetTrainer) and issubclass(trainer_class, NeuroTrainerMixin)
    assert trainer_class.__name__ == name == plugin.path.stem
    assert name.startswith("nnUNetTrainer") and "__" not in name, "nnU-Net splits folder names at the double underscore"
    assert plugin.purpose, "the first docstring line says what the trainer is for"
    assert pickle.loads(pickle.dumps(trainer_class)) is trainer_class


@pytest.mark.parametrize("name", TRAINERS)
def test_trainer_file_is_one_light_class(name: str) -> None:
    tree = ast.parse(PLUGIN_CLASSES[name].path.read_text(encoding="utf-8"))
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)] == [name]
    assert imported_packages(tree, seen=set()) <= LIGHT_IMPORTS


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("name", TRAINERS)
def test_trains_continues_predicts_and_fine_tunes(name: str, configuration: str, channels: int,
                                                  workplace: Workplace) -> None:
    dataset = workplace.make_dataset(configuration, channels)
    if len(PATCH[configuration]) not in getattr(PLUGIN_CLASSES[name].load(), "dimensions", (2, 3)):
        assert_refused_in_one_sentence(name, dataset, configuration)
        return
    trained = train(name, dataset, configuration)

    checkpoint = Path(trained.output_folder) / "checkpoint_final.pth"
    assert torch.load(checkpoint, map_location="cpu", weights_only=False)["trainer_name"] == name
    losses = trained.logger.get_checkpoint()["train_losses"]
    assert len(losses) == 1 and np.isfinite(losses).all()

    continued = make_trainer(name, dataset, configuration, patch_size=PATCH[configuration])
    continued.load_checkpoint(str(checkpoint))
    assert continued.current_epoch == 1

    predictor = rebuild(trained)
    windows = torch.randn(2, channels, *PATCH[configuration])
    trained.set_deep_supervision_enabled(False)
    with torch.no_grad():
        torch.testing.assert_close(predictor.network.eval()(windows), trained.network.eval()(windows))
    assert_windows_are_predicted_apart(predictor.network, windows)
    if predictor.allowed_mirroring_axes:
        # every axis more doubles the time, and combining them is nnU-Net's own
        predictor.allowed_mirroring_axes = predictor.allowed_mirroring_axes[:1]
    image = torch.randn(channels, *SHAPE[configuration])
    logits = predictor.predict_logits_from_preprocessed_data(image)
    assert logits.shape == (dataset.n_heads, *SHAPE[configuration])
    assert torch.isfinite(logits).all()
    assert_block_equals_whole(predictor, image, logits)

    tuned = make_trainer(name, dataset, configuration, patch_size=OTHER_PATCH[configuration])
    tuned.initialize()
    load_pretrained_weights(tuned.network, checkpoint)
    transferred = tuned.network.state_dict()
    for key, weights in trained.network.state_dict().items():
        if ".seg_layers." not in key:
            torch.testing.assert_close(transferred[key], weights)
    outputs = tuned.network(torch.randn(2, channels, *OTHER_PATCH[configuration]))
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    assert outputs[0].shape == (2, dataset.n_heads, *OTHER_PATCH[configuration])
    assert all(torch.isfinite(output).all() for output in outputs)


class MixingBatchNorm(nn.BatchNorm2d):
    """Normalises over the batch whatever its mode."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.batch_norm(image, None, None, training=True)


class Remembering(nn.Conv2d):
    """Adds what it saw before."""

    seen = 0.0

    def forward(self, image: Tensor) -> Tensor:
        self.seen = self.seen + image.abs().mean()
        return super().forward(image) + self.seen


def test_contract_notices_windows_that_mix() -> None:
    windows = torch.randn(2, 1, *PATCH["2d"])
    assert_windows_are_predicted_apart(nn.Conv2d(1, 3, 3, padding="same"), windows)
    for network in (MixingBatchNorm(1), Remembering(1, 3, 3, padding="same")):
        with pytest.raises(AssertionError, match="not close"):
            assert_windows_are_predicted_apart(network.eval(), windows)


def test_contract_notices_a_block_that_depends_on_the_rest() -> None:
    image = torch.randn(1, *SHAPE["2d"])
    for network, agrees in ((nn.Conv2d(1, 3, 3, padding="same"), True), (Remembering(1, 3, 3, padding="same"), False)):
        predictor = predictor_of(network)
        whole = predictor.predict_logits_from_preprocessed_data(image)
        with nullcontext() if agrees else pytest.raises(AssertionError, match="not close"):
            assert_block_equals_whole(predictor, image, whole)


@dataclass(frozen=True)
class Workplace:
    """nnU-Net's folders below a temporary one."""

    preprocessed: Path

    def make_dataset(self, configuration: str, channels: int) -> Dataset:
        """A preprocessed dataset of three made-up cases; two-channel ones are labelled sparsely."""
        dataset = Dataset(self.preprocessed / DATASET, channels, has_ignore=channels == 2)
        folder = dataset.folder / data_identifier(configuration)
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for case in CASES:
            write_case(folder / case, dataset, configuration, rng)
        split = {"train": list(CASES[:2]), "val": list(CASES[2:])}
        (dataset.folder / "splits_final.json").write_text(json.dumps([split]))
        (dataset.folder / "dataset_fingerprint.json").write_text("{}")
        return dataset


@dataclass(frozen=True)
class Dataset:
    folder: Path
    channels: int
    has_ignore: bool
    n_heads: int = 3

    @property
    def json(self) -> dict:
        labels = {"background": 0, "axon": 1, "edge": 2}
        return {
            "channel_names": {str(channel): f"channel {channel}" for channel in range(self.channels)},
            "labels": {**labels, "ignore": 3} if self.has_ignore else labels,
            "numTraining": len(CASES),
            "file_ending": ".nii.gz",
        }


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    # every trainer takes its length from the environment
    monkeypatch.setenv("NNNEURO_EPOCHS", "1")
    monkeypatch.setenv("NNNEURO_ITERATIONS", "2")
    monkeypatch.setenv("NNNEURO_VAL_ITERATIONS", "1")
    # a second of plotting per epoch that is nnU-Net's own
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda self, folder: None)
    # patches this small gain nothing from more threads, and lose much where other processes compute as well
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Workplace(tmp_path / "preprocessed")
    torch.set_num_threads(threads)


def write_case(path: Path, dataset: Dataset, configuration: str, rng: np.random.Generator) -> None:
    shape = SHAPE[configuration]
    image = rng.normal(size=(dataset.channels, *shape)).astype(np.float32)
    labels = rng.choice(dataset.n_heads, size=(1, *shape), p=(0.8, 0.1, 0.1)).astype(np.int16)
    sampled = [1, 2]
    if dataset.has_ignore:
        labels[:, :, : shape[1] // 2] = 3
        # nnU-Net samples patches from the annotated voxels
        sampled.append((-1, 0, 1, 2))
    locations = DefaultPreprocessor._sample_foreground_locations(labels, sampled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # chunk sizes are not chosen here
        nnUNetDatasetBlosc2.save_case(image, labels, {"class_locations": locations}, str(path))


def train(name: str, dataset: Dataset, configuration: str) -> nnUNetTrainer:
    trainer = make_trainer(name, dataset, configuration, patch_size=PATCH[configuration])
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (1, 2, 1)
    trainer.run_training()
    return trainer


def make_trainer(name: str, dataset: Dataset, configuration: str, *, patch_size: tuple[int, ...]) -> nnUNetTrainer:
    plans = make_plans(configuration, dataset.channels, patch_size)
    trainer_class = recursive_find_trainer_class_by_name(name)
    try:
        return trainer_class(plans, configuration, 0, dataset.json, torch.device("cpu"))
    except ModuleNotFoundError as missing:
        if "pip install 'nnunet_neuro[" not in str(missing):
            raise
        pytest.skip(str(missing))


def assert_refused_in_one_sentence(name: str, dataset: Dataset, configuration: str) -> None:
    with pytest.raises(ValueError, match=f"configuration {configuration} .* axes only; train another") as caught:
        make_trainer(name, dataset, configuration, patch_size=PATCH[configuration])
    assert "\n" not in str(caught.value)


def rebuild(trained: nnUNetTrainer) -> nnUNetPredictor:
    predictor = new_predictor()
    predictor.initialize_from_trained_model_folder(trained.output_folder_base, (0,), "checkpoint_final.pth")
    return predictor


def new_predictor() -> nnUNetPredictor:
    return nnUNetPredictor(
        tile_step_size=1, use_mirroring=True, perform_everything_on_device=False, device=torch.device("cpu"),
        allow_tqdm=False,
    )


def predictor_of(network: nn.Module) -> nnUNetPredictor:
    predictor = new_predictor()
    plans, dataset = PlansManager(make_plans("2d", 1, PATCH["2d"])), Dataset(Path(), channels=1, has_ignore=False)
    predictor.manual_initialization(network, plans, plans.get_configuration("2d"), [network.state_dict()], dataset.json,
                                    "nnUNetTrainer", None)
    return predictor


def assert_windows_are_predicted_apart(network: nn.Module, windows: Tensor) -> None:
    """A batch of windows gives what each of them gives alone, and after the others."""
    with torch.no_grad():
        together = network(windows)
        alone = torch.cat([network(window[None]) for window in windows])
    # convolutions may add up in another order for another batch size
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def assert_block_equals_whole(predictor: nnUNetPredictor, image: Tensor, whole: Tensor) -> None:
    """The last block of a volume, predicted by itself, gives what the whole gave where no window of another block reaches.

    Elsewhere they may differ: instance normalisation and attention let every voxel of a window see all others of it.
    In the whole volume the windows of the last block came after those before it; here they come first.
    """
    patch = predictor.configuration_manager.patch_size
    axis = image.ndim - len(patch)
    start = image.shape[axis] - patch[0]  # of the last window; the first one ends at patch[0]
    block = predictor.predict_logits_from_preprocessed_data(image.narrow(axis, start, patch[0]))
    torch.testing.assert_close(block.narrow(axis, patch[0] - start, start), whole.narrow(axis, patch[0], start))


def make_plans(configuration: str, channels: int, patch_size: tuple[int, ...]) -> dict:
    dimensions = len(patch_size)
    strides = [[1] * dimensions, ([1, 2, 2] if dimensions == 3 else [2, 2]), [2] * dimensions, [2] * dimensions]
    return {
        "continue_training": False,
        "dataset_name": DATASET,
        "plans_name": PLANS,
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "foreground_intensity_properties_per_channel": {},
        "configurations": {
            configuration: {
                "data_identifier": data_identifier(configuration),
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch_size),
                "spacing": [1.0] * dimensions,
                "normalization_schemes": ["ZScoreNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": 4,
                        "features_per_stage": [4, 8, 8, 12],
                        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                        "kernel_sizes": [[3] * dimensions] * 4,
                        "strides": strides,
                        "n_conv_per_stage": [1, 1, 1, 1],
                        "n_conv_per_stage_decoder": [1, 1, 1],
                        "conv_bias": True,
                        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def data_identifier(configuration: str) -> str:
    return f"{PLANS}_{configuration}"


def imported_packages(tree: ast.Module, *, seen: set[str]) -> set[str]:
    """Third-party packages that a module imports at its top level, those of our own modules included."""
    found = set()
    for module in top_level_imports(tree):
        package = module.partition(".")[0]
        if package == "nnunet_neuro":
            spec = importlib.util.find_spec(module)
            if module not in seen and spec is not None and spec.origin:
                seen.add(module)
                found |= imported_packages(ast.parse(Path(spec.origin).read_text(encoding="utf-8")), seen=seen)
        elif package not in sys.stdlib_module_names:
            found.add(package)
    return found


def top_level_imports(tree: ast.Module) -> list[str]:
    modules = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module)
    return modules
