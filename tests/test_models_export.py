"""`nnneuro_models export`: every file computes what the network computes, and a file that does not is not left behind."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_neuro.commands.model_commands.export import FORMATS
from nnunet_neuro.commands.models import main
from nnunet_neuro.models import export, export_formats
from nnunet_neuro.networks.older.max_pool_unet import max_pool_architecture
from nnunet_neuro.predict.model import load_model
from tests.older_models import GenericUNet, randomised, save_v1, v1_plans
from tests.tiny_models import change_checkpoint, nnunet_labels, tiny_model

PATCH = (16, 24, 20)


def exported(capsys, *words) -> list[Path]:
    """Run the command; the files that it prints."""
    assert main(["export", *map(str, words)]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    assert "largest difference" in err
    return [Path(line) for line in out.splitlines()]


def refusal(capsys, *words) -> str:
    """The one sentence with which the command ends."""
    assert main(["export", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert not out
    return err.splitlines()[-1]


def expected_logits(folder: Path, image: torch.Tensor, fold: int = 0) -> torch.Tensor:
    """Of nnU-Net's network."""
    model = load_model(folder, folds=[fold])
    network = model.build_network().eval()
    network.load_state_dict(model.parameters[0])
    with torch.no_grad():
        return network(image)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Two folds of a tiny model."""
    return tiny_model(tmp_path_factory.mktemp("trained") / "Dataset001_Tiny" / "nnUNetTrainer__nnUNetPlansTiny__3d_fullres", patch=PATCH,
                      channels=2, folds=(0, 1))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 2, *PATCH, generator=torch.Generator().manual_seed(3))


def test_command_and_library_know_the_same_formats():
    assert FORMATS == (export.ZIP, *export_formats.FORMATS)


def test_state_dict_is_plain_weights(model, tmp_path, capsys):
    path, = exported(capsys, model, tmp_path / "weights.pth", "--format", "state-dict", "-f", 1)
    weights = torch.load(path, weights_only=True)
    stored = torch.load(model / "fold_1" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert list(weights) == list(stored) and all(torch.equal(weights[name], stored[name]) for name in stored)


def test_folds_get_files_of_their_own(model, tmp_path, capsys):
    paths = exported(capsys, model, tmp_path / "new" / "weights.safetensors", "--format", "safetensors")
    assert [path.name for path in paths] == ["weights_fold_0.safetensors", "weights_fold_1.safetensors"]
    assert sorted(os.listdir(tmp_path / "new")) == [path.name for path in paths]


def test_safetensors_say_what_they_are_of(model, tmp_path, capsys):
    safetensors = pytest.importorskip("safetensors")
    path, = exported(capsys, model, tmp_path / "weights.safetensors", "--format", "safetensors", "-f", 0)
    with safetensors.safe_open(path, "pt") as stored:
        metadata = json.loads(stored.metadata()[export_formats.METADATA])
        assert "decoder.seg_layers.1.weight" in stored.keys()
    assert metadata["patch_size"] == list(PATCH) and metadata["fold"] == 0 and metadata["labels"]["axon"] == 1


def test_onnx_runs_without_torch(model, tmp_path, capsys, image):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, = exported(capsys, model, tmp_path / "network.onnx", "--format", "onnx", "-f", 0)
    assert os.listdir(tmp_path) == ["network.onnx"]
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits, = session.run(None, {"image": image.numpy()})
    assert np.allclose(logits, expected_logits(model, image), atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map[export_formats.METADATA])["channels"] == ["channel 0", "channel 1"]


def test_torchscript_runs_without_the_networks_code(model, tmp_path, capsys, image):
    path, = exported(capsys, model, tmp_path / "network.pt", "--format", "torchscript", "-f", 0)
    extra = {export_formats.METADATA: ""}
    network = torch.jit.load(str(path), _extra_files=extra)
    assert torch.allclose(network(image), expected_logits(model, image), atol=1e-4)
    assert json.loads(extra[export_formats.METADATA])["spacing"] == [1, 1, 1]


@pytest.mark.parametrize("complete", [False, True])
def test_zip_is_installed_and_predicts_the_same(model, tmp_path, capsys, nnunet_folders, complete):
    from nnunetv2.model_sharing.model_import import install_model_from_zip_file

    if complete:  # what nnU-Net's own function wants
        for name in ("dataset_fingerprint.json", "fold_0/progress.png", "fold_0/validation/summary.json"):
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).write_text("{}")
    path, = exported(capsys, model, tmp_path / "model.zip", "--format", "zip", "-f", 0)
    assert os.environ["nnUNet_results"] == str(nnunet_folders.results)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = {name.removeprefix(f"Dataset001_Tiny/{model.name}/") for name in archive.namelist()}
    assert {"plans.json", "dataset.json", "fold_0/checkpoint_final.pth"} <= names and not any("fold_1" in name for name in names)
    install_model_from_zip_file(str(path))
    volume = np.random.default_rng(0).random((2, *PATCH)).astype(np.float32)
    installed = nnunet_folders.results / "Dataset001_Tiny" / model.name
    assert np.array_equal(nnunet_labels(installed, volume), nnunet_labels(model, volume))


def test_shipped_and_imported_models_leave_too(tmp_path, capsys, nnunet_folders):
    path, = exported(capsys, "mri_hippocampus", tmp_path / "shipped.zip", "--format", "zip")
    with zipfile.ZipFile(path) as archive:
        assert all(name.startswith("Dataset907_Hippocampus/nnUNetTrainer__") for name in archive.namelist())
    plans = v1_plans(patch=(16, 16, 16), pools=[[2, 2, 2]] * 2, kernels=[[3] * 3] * 3)
    old = randomised(GenericUNet(1, 2, base=4, most=8, pools=[[2, 2, 2]] * 2, kernels=[[3] * 3] * 3))
    assert main(["import", str(save_v1(tmp_path, old, plans=plans)), "--kind", "dlmbmap", "-d", "12"]) == 0
    capsys.readouterr()
    for name in ("12", "Dataset012_DLMBmap"):
        path, = exported(capsys, name, tmp_path / f"{name}.pt", "--format", "torchscript")
        patch = torch.rand(1, 1, 16, 16, 16)
        with torch.no_grad():
            assert torch.allclose(torch.jit.load(str(path))(patch), old(patch), atol=1e-4)


@pytest.mark.parametrize("name", ["state-dict", "safetensors", "onnx", "torchscript"])
def test_running_means_are_kept(tmp_path, name):
    """Networks with batch normalisation hold them, and their counts, under several names."""
    for package in export_formats.FORMATS[name].packages:
        pytest.importorskip(package)
    options = max_pool_architecture([4, 8], 2, nonlin_first=False, activated_upsampling=False)

    def build() -> torch.nn.Module:
        return get_network_from_plans(*options.values(), 1, 2, allow_init=False, deep_supervision=False).eval()

    network, image = randomised(build()), torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        export_formats.FORMATS[name].write(network, image, tmp_path / "file", {})
        found = export_formats.FORMATS[name].compute(tmp_path / "file", build(), image)
        assert torch.allclose(found, network(image), atol=1e-4)


def test_what_computes_something_else_is_not_left(model, tmp_path, capsys, monkeypatch):
    def wrong(network, image, path, metadata):
        torch.save({name: tensor + 1e-2 for name, tensor in network.state_dict().items()}, path)

    broken = export_formats.ExportFormat((), wrong, export_formats.FORMATS["state-dict"].compute)
    monkeypatch.setitem(export_formats.FORMATS, "state-dict", broken)
    assert "computes something else" in refusal(capsys, model, tmp_path / "weights.pth", "--format", "state-dict")
    assert not os.listdir(tmp_path)


def test_a_failing_writer_and_a_missing_package_leave_nothing(model, tmp_path, capsys, monkeypatch):
    def failing(network, image, path, metadata):
        path.write_bytes(b"half")
        raise RuntimeError("operator\nnot known")

    known = export_formats.FORMATS["onnx"]
    monkeypatch.setitem(export_formats.FORMATS, "onnx", export_formats.ExportFormat((), failing, known.compute))
    assert "(RuntimeError: operator not known)" in refusal(capsys, model, tmp_path / "network.onnx", "--format", "onnx")
    monkeypatch.setitem(export_formats.FORMATS, "onnx", export_formats.ExportFormat(("no_such_package",), failing, known.compute))
    assert "pip install 'nnunet_neuro[export]'" in refusal(capsys, model, tmp_path / "network.onnx", "--format", "onnx")
    assert not os.listdir(tmp_path)


def test_bad_sources_are_refused(model, tmp_path, capsys, nnunet_folders):
    (tmp_path / "there.pth").write_text("mine")
    assert "exists" in refusal(capsys, model, tmp_path / "there.pth", "--format", "state-dict", "-f", 0)
    assert (tmp_path / "there.pth").read_text() == "mine"
    for name in ("no_such_model", "77", tmp_path / "nowhere", "../x"):
        assert f"no model {name}" in refusal(capsys, name, tmp_path / "out.pth", "--format", "state-dict")
    assert "no fold 3" in refusal(capsys, model, tmp_path / "out.pth", "--format", "state-dict", "-f", 3)
    other = tiny_model(tmp_path / "other", patch=PATCH)
    assert "not named TRAINER__PLANS__CONFIGURATION" in refusal(capsys, other, tmp_path / "out.zip", "--format", "zip")
    change_checkpoint(other, network_weights={"some.weight": torch.ones(2)})
    assert "do not fit the network" in refusal(capsys, other, tmp_path / "out.pth", "--format", "state-dict")
    (other / "plans.json").unlink()
    assert "no model" in refusal(capsys, other, tmp_path / "out.pth", "--format", "state-dict")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".exporting*"))
