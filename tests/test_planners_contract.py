"""What every planner of the plugin must do; a new file in nnunet_neuro/planners/ is tested without a change here."""

from __future__ import annotations

import inspect
import json
import math
import pickle
from pathlib import Path

import nnunetv2
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_neuro.startup import plugin_classes

PLUGIN_CLASSES = plugin_classes()
PLANNERS = [name for name, plugin in PLUGIN_CLASSES.items() if plugin.kind == "planner"]
CUBE = ((35, 120, 120), (1.0, 1.0, 1.0))
THICK_SLICES = ((16, 100, 100), (3.0, 1.0, 1.0))
IMAGE = ((1, 200, 180), (999.0, 1.0, 1.0))


def test_there_are_planners() -> None:
    assert "nnUNetPlannerSmall" in PLANNERS


@pytest.mark.parametrize("name", PLANNERS)
def test_class_is_found_named_and_documented(name: str) -> None:
    plugin = PLUGIN_CLASSES[name]
    folder = Path(nnunetv2.__path__[0], "experiment_planning")
    planner_class = recursive_find_python_class(str(folder), name, current_module="nnunetv2.experiment_planning")
    assert planner_class is plugin.load()
    assert issubclass(planner_class, ExperimentPlanner)
    assert planner_class.__name__ == name == plugin.path.stem
    assert "__" not in name
    assert plugin.purpose, "the first docstring line says what the planner is for"
    assert pickle.loads(pickle.dumps(planner_class)) is planner_class
    # nnU-Net passes all of them by keyword
    nnunets = inspect.signature(ExperimentPlanner).parameters
    assert list(inspect.signature(planner_class).parameters) == list(nnunets)
    plans_name = inspect.signature(planner_class).parameters["plans_name"].default
    assert "__" not in plans_name
    assert plans_name != nnunets["plans_name"].default, "the default plans of a dataset would be overwritten"


@pytest.mark.parametrize(("geometry", "channels"), [(CUBE, 1), (THICK_SLICES, 2), (IMAGE, 3)])
@pytest.mark.parametrize("name", PLANNERS)
def test_plans_make_networks_that_train(name: str, geometry: tuple, channels: int, nnunet_raw: Path) -> None:
    is_volume = geometry[0][0] > 1
    try:
        plans = plan(name, geometry, channels, nnunet_raw)
    except ValueError as refusal:
        assert not is_volume and len(str(refusal).splitlines()) == 1, "only flat images may be refused, in one sentence"
        return
    manager = PlansManager(plans)
    assert plans["experiment_planner_used"] == name
    assert manager.experiment_planner_class is PLUGIN_CLASSES[name].load()
    assert plans["configurations"]
    assert is_volume or set(plans["configurations"]) == {"2d"}
    for configuration in plans["configurations"]:
        trains(manager.get_configuration(configuration), channels)


def test_small_plans_suit_two_cores(nnunet_raw: Path) -> None:
    configurations = plan("nnUNetPlannerSmall", CUBE, 1, nnunet_raw)["configurations"]
    assert set(configurations) == {"2d", "3d_fullres"}, "no low resolution stage"
    assert set(plan("nnUNetPlannerSmall", IMAGE, 1, nnunet_raw)["configurations"]) == {"2d"}, "flat images too"
    assert 60_000 <= math.prod(configurations["3d_fullres"]["patch_size"]) <= 160_000
    assert configurations["3d_fullres"]["batch_size"] == 2
    assert all(96 <= side <= 192 for side in configurations["2d"]["patch_size"])
    assert max(configurations["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"]) <= 128


def test_small_plans_grow_with_the_memory_target(nnunet_raw: Path) -> None:
    voxels = [
        math.prod(plan("nnUNetPlannerSmall", CUBE, 1, nnunet_raw, gb=gb)["configurations"]["3d_fullres"]["patch_size"])
        for gb in (0.1, None, 1.0)
    ]
    assert voxels[0] < voxels[1] < voxels[2]


@pytest.fixture
def nnunet_raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    # nnU-Net 2.8.1 sets torch's threads to this number while it plans; 0 is an error
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    return tmp_path / "raw"


def plan(name: str, geometry: tuple, channels: int, nnunet_raw: Path, gb: float | None = None) -> dict:
    dataset_id = 1 + len(list(nnunet_raw.iterdir()))
    dataset = f"Dataset{dataset_id:03d}_Contract"
    write_dataset(nnunet_raw / dataset, geometry, channels)
    write_fingerprint(nnunet_raw.parent / "preprocessed" / dataset, geometry, channels)
    plans_name = plan_experiments([dataset_id], name, gpu_memory_target_in_gb=gb)
    return json.loads((nnunet_raw.parent / "preprocessed" / dataset / f"{plans_name}.json").read_text())


def write_dataset(folder: Path, geometry: tuple, channels: int) -> None:
    """As much of a raw dataset as planning looks at: no image is opened."""
    for subfolder in ("imagesTr", "labelsTr"):
        (folder / subfolder).mkdir(parents=True)
    for case in range(4):
        (folder / "labelsTr" / f"case_{case}.nii.gz").touch()
        for channel in range(channels):
            (folder / "imagesTr" / f"case_{case}_{channel:04d}.nii.gz").touch()
    dataset_json = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": {"background": 0, "axon": 1, "edge": 2, "ignore": 3},
        "numTraining": 4,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json))


def write_fingerprint(folder: Path, geometry: tuple, channels: int) -> None:
    shape, spacing = geometry
    intensities = {"mean": 0, "median": 0, "std": 1, "min": -1, "max": 1, "percentile_00_5": -1, "percentile_99_5": 1}
    fingerprint = {
        "spacings": [spacing] * 4,
        "shapes_after_crop": [shape] * 4,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {str(channel): intensities for channel in range(channels)},
    }
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


def trains(configuration, channels: int) -> None:
    """Forward and backward of one patch through the planned network."""
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        channels,
        3,
        deep_supervision=True,
    )
    outputs = network(torch.randn(1, channels, *configuration.patch_size))
    assert outputs[0].shape == (1, 3, *configuration.patch_size)
    sum(output.square().mean() for output in outputs).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
