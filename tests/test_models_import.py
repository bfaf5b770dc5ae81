"""`nnneuro_models import`: the older networks and what became of them give the same output; bad files are refused and leave nothing."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_neuro.commands.model_commands.import_ import KINDS
from nnunet_neuro.commands.models import main
from nnunet_neuro.models.importing.run import KINDS as LIBRARY_KINDS
from nnunet_neuro.predict.model import TrainedModel, load_model
from tests.older_models import GenericUNet, ThalamusUNet, TutorialUNet, randomised, save_lightning, save_v1, v1_plans
from tests.tiny_models import nnunet_labels

CUBES = [[2, 2, 2]] * 3
# one pooling and one kernel that spare the first axis, as anisotropic plans have
FLAT_POOLS, FLAT_KERNELS = [[1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]


def imported(capsys, *words) -> TrainedModel:
    """Run the command and load the folder that it prints."""
    assert main(["import", *map(str, words)]) == 0, capsys.readouterr().err
    # plans may name the networks of some packages only, and this one's are not all among them
    return load_model(Path(capsys.readouterr().out.strip()))


def network_of(model: TrainedModel) -> nn.Module:
    """With its weights, ready to predict."""
    network = model.build_network()
    network.load_state_dict(model.parameters[0])
    return network.eval()


def difference(old: nn.Module, new: nn.Module, *shape: int) -> float:
    """The largest one of the outputs, in parts of the largest output."""
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = old(image), new(image)
    assert expected.std() > 1e-2, "the output is flat, so that it says nothing"
    return float((found - expected).abs().max())


def refusal(capsys, *words) -> str:
    """The one sentence with which the command ends."""
    assert main(["import", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1, err
    return err


def assert_same_labels(found: np.ndarray, logits: np.ndarray, part: slice) -> None:
    """Labels are those of the highest logits, where these are not as good as alike.

    In the middle of a window: nnU-Net multiplies logits by a Gaussian and divides by it again, in 16 bits, which at the rim is too few.
    """
    middle = (part,) * found.ndim
    second, first = np.sort(logits, axis=0)[(slice(-2, None), *middle)]
    sure = first - second > 2e-3 * np.abs(logits).max()
    expected = logits.argmax(0)[middle]
    assert sure.mean() > 0.8 and len(np.unique(expected[sure])) > 1
    assert np.array_equal(found[middle][sure], expected[sure])


def left_behind(folder: Path) -> list[str]:
    """What is in the results folder."""
    return sorted(os.listdir(folder))


def stock(**changes) -> nn.Module:
    """A small Generic_UNet."""
    options = {"base": 4, "most": 8, "pools": CUBES[:2], "kernels": [[3] * 3] * 3} | changes
    return randomised(GenericUNet(1, 2, **options))


def small_plans(**changes) -> OrderedDict:
    """Its plans."""
    options = {"patch": (16, 16, 16), "pools": CUBES[:2], "kernels": [[3] * 3] * 3} | changes
    return v1_plans(**options)


def test_command_and_library_know_the_same_kinds():
    assert tuple(LIBRARY_KINDS) == KINDS


@pytest.mark.parametrize(("pools", "kernels", "convolutions"), [
    (CUBES[:2], [[3] * 3] * 3, 2), (FLAT_POOLS, FLAT_KERNELS, 2), (CUBES[:2], [[3] * 3] * 3, 3)])
def test_stock_v1_network_gives_the_same_output(tmp_path, nnunet_folders, capsys, pools, kernels, convolutions):
    old = randomised(GenericUNet(1, 2, base=4, most=8, pools=pools, kernels=kernels, convolutions=convolutions))
    file = save_v1(tmp_path, old, plans=small_plans(pools=pools, kernels=kernels), fold=3)
    model = imported(capsys, file, "--kind", "dlmbmap", "-d", 321, "--name", "Axons")
    assert model.folder == nnunet_folders.results / "Dataset321_Axons" / "nnUNetTrainer__nnUNetPlansDLMBmap__3d_fullres"
    assert model.folds == (3,) and model.classes == {"background": 0, "axon": 1} and model.mirroring_axes is None
    assert difference(old, network_of(model), 1, 16, 16, 16) < 1e-4


def test_2d_v1_network_gives_the_same_output(tmp_path, nnunet_folders, capsys):
    old = randomised(GenericUNet(2, 3, base=4, most=8, pools=[[2, 2]] * 2, kernels=[[3, 3]] * 3))
    plans = v1_plans(patch=(32, 24), pools=[[2, 2]] * 2, kernels=[[3, 3]] * 3, classes=2, channels=2)
    model = imported(capsys, save_v1(tmp_path, old, plans=plans), "--kind", "dlmbmap")
    assert model.is_2d and model.folder.parent.name == "Dataset900_DLMBmap"
    assert difference(old, network_of(model), 2, 32, 24) < 1e-4


def test_axial_v1_network_gives_the_same_output(tmp_path, nnunet_folders, capsys):
    old = randomised(GenericUNet(1, 2, base=4, most=16, pools=CUBES, kernels=[[3] * 3] * 4, attention=(32, 32, 32)))
    plans = small_plans(patch=(32, 32, 32), pools=CUBES, kernels=[[3] * 3] * 4)
    model = imported(capsys, save_v1(tmp_path, old, plans=plans, trainer="MyTrainerAxial"), "--kind", "dlmbmap")
    new = network_of(model)
    assert difference(old, new, 1, 32, 32, 32) < 1e-4
    with torch.no_grad():  # what is left are roundings
        image = torch.rand(1, 1, 32, 32, 32, dtype=torch.float64)
        assert (new.double()(image) - old.double()(image)).abs().max() < 1e-9
    new.float()
    with torch.no_grad():  # where the older one's tables end
        assert new(torch.rand(1, 1, 16, 40, 32)).shape == (1, 2, 16, 40, 32)


@pytest.mark.parametrize("attention", [None, (32, 32, 32)])
def test_bare_weights_give_the_same_output(tmp_path, nnunet_folders, capsys, attention):
    old = randomised(GenericUNet(1, 2, base=4, most=16, pools=CUBES, kernels=[[3] * 3] * 4, attention=attention))
    torch.save({f"module.{name}": tensor for name, tensor in old.state_dict().items()}, tmp_path / "example_checkpoint.pth")
    model = imported(capsys, tmp_path / "example_checkpoint.pth", "--kind", "state-dict")
    assert model.patch == (attention or (128, 128, 128))
    assert difference(old, network_of(model), 1, 32, 32, 32) < 1e-4


def test_v1_plans_become_v2_preprocessing(tmp_path, nnunet_folders, capsys):
    plans = small_plans(pools=FLAT_POOLS, kernels=FLAT_KERNELS, scheme="CT")
    plans.update(transpose_forward=[2, 0, 1], transpose_backward=[1, 2, 0])
    model = imported(capsys, save_v1(tmp_path, stock(pools=FLAT_POOLS, kernels=FLAT_KERNELS), plans=plans), "--kind", "dlmbmap")
    configuration = model.configuration
    assert configuration.normalization_schemes == ["CTNormalization"] and configuration.use_mask_for_norm == [False]
    assert configuration.spacing == [2, 1, 1] and configuration.patch_size == [16, 16, 16] and configuration.batch_size == 2
    assert configuration.pool_op_kernel_sizes == [[1, 1, 1], *FLAT_POOLS]
    assert model.plans.transpose_forward == [2, 0, 1] and model.plans.transpose_backward == [1, 2, 0]
    assert model.plans.foreground_intensity_properties_per_channel["0"] == {
        "mean": 120.5, "median": 110, "std": 30.25, "min": 0, "max": 900, "percentile_99_5": 400, "percentile_00_5": 5}
    assert model.channels == ("MI",)


def test_nnunet_predicts_with_an_imported_model_what_the_older_network_says(tmp_path, nnunet_folders, capsys):
    old = stock()
    model = imported(capsys, save_v1(tmp_path, old, plans=small_plans()), "--kind", "dlmbmap")
    image = np.random.default_rng(0).normal(100, 20, (1, 16, 16, 16)).astype(np.float32)
    normalised = torch.from_numpy((image - image.mean()) / image.std())
    with torch.no_grad():
        logits = old(normalised[None])[0].numpy()
    found = nnunet_labels(model.folder, image, spacing=(2, 1, 1))
    assert_same_labels(found, logits, slice(4, 12))


@pytest.mark.parametrize(("system", "blocks", "shape", "classes"), [
    ("mtneuro", 3, (32, 24), 4), ("mtneuro", 3, (8, 16, 16), 3), ("kasthuri", 5, (32, 32), 2)])
def test_tutorial_unet_gives_the_same_output(tmp_path, nnunet_folders, capsys, system, blocks, shape, classes):
    old = randomised(TutorialUNet(1, classes, blocks=blocks, start=4, dimensions=len(shape)))
    torch.save(old.state_dict(), tmp_path / "UNet_membrane.pt")
    model = imported(capsys, tmp_path / "UNet_membrane.pt", "--kind", system)
    assert list(model.classes) == ["background", *{4: ("vessel", "cell", "axon"), 3: ("vessel", "cell"), 2: ("membrane",)}[classes]]
    assert difference(old, network_of(model), 1, *shape) < 1e-4


def test_tiles_are_predicted_as_the_older_system_saw_them(tmp_path, nnunet_folders, capsys):
    old = randomised(TutorialUNet(1, 3, blocks=3, start=4, dimensions=2))
    tile = np.random.default_rng(0).integers(1, 256, (1, 1, 256, 256)).astype(np.float32)
    with torch.no_grad():  # so that every class wins somewhere
        centre = old(torch.from_numpy(tile[:, 0] / 255)[None])[:, :, 64:192, 64:192].mean((0, 2, 3))
        old.conv_final.bias -= centre
        old.conv_final.weight *= 100
        old.conv_final.bias *= 100
    torch.save(old.state_dict(), tmp_path / "UNet.pt")
    model = imported(capsys, tmp_path / "UNet.pt", "--kind", "mtneuro")
    with torch.no_grad():  # values of [0, 1], and the two axes exchanged
        logits = old(torch.from_numpy(tile[:, 0] / 255).transpose(-1, -2)[None])[0].transpose(-1, -2).numpy()
        other_way = old(torch.from_numpy(tile[:, 0] / 255)[None])[0].numpy()
    assert np.abs(logits - other_way).max() > 0.1
    assert_same_labels(nnunet_labels(model.folder, tile, spacing=(999, 1, 1))[0], logits, slice(64, 192))


@pytest.mark.parametrize("decoder", ["Unet", "DeepLabV3Plus"])
def test_pretrained_decoder_gives_the_same_output(tmp_path, nnunet_folders, capsys, decoder):
    smp = pytest.importorskip("segmentation_models_pytorch")
    old = randomised(getattr(smp, decoder)("resnet18", encoder_weights=None, in_channels=1, classes=4))
    torch.save(old.state_dict(), tmp_path / "smp.pt")
    model = imported(capsys, tmp_path / "smp.pt", "--kind", "mtneuro")
    assert difference(old, network_of(model), 1, 64, 64) < 1e-4


def test_thalamus_views_give_the_same_output_and_share_a_dataset(tmp_path, nnunet_folders, capsys):
    old = randomised(ThalamusUNet(2, 2, start=4))
    models = {}
    for view in ("axial", "coronal", "sagittal"):
        file = save_lightning(tmp_path / f"unet_{view}_evalue1T1_epoch=3.ckpt", old)
        models[view] = imported(capsys, file, "--kind", "thalamus", "-d", 77)
    assert {model.folder.parent.name for model in models.values()} == {"Dataset077_Thalamus"}
    assert models["axial"].channels == ("evalue1", "T1") and models["axial"].classes == {"background": 0, "thalamus": 1}
    new = network_of(models["coronal"])
    assert difference(old, lambda image: new(image).softmax(1), 2, 48, 32) < 1e-4
    volume = np.random.default_rng(0).random((20, 24, 28)).astype(np.float32)  # (z, y, x)
    slices = {"axial": volume.T[:, :, 5], "coronal": volume.T[:, 5, :], "sagittal": volume.T[5, :, :]}  # of (x, y, z)
    for view, model in models.items():
        assert np.array_equal(volume.transpose(model.plans.transpose_forward)[5], slices[view])


def test_a_second_fold_joins_its_model(tmp_path, nnunet_folders, capsys):
    for fold in (0, 1):
        file = save_v1(tmp_path / str(fold), stock(), plans=small_plans(), fold=fold)
        model = imported(capsys, file, "--kind", "dlmbmap", "-d", 5)
    assert model.folds == (0, 1)
    other = save_v1(tmp_path / "other", stock(), plans=small_plans(patch=(32, 32, 32)), fold=2)
    assert "another model" in refusal(capsys, other, "--kind", "dlmbmap", "-d", 5)
    assert "fold_1 exists" in refusal(capsys, file, "--kind", "dlmbmap", "-d", 5)
    assert "belongs to Dataset005_DLMBmap" in refusal(capsys, file, "--kind", "dlmbmap", "-d", 5, "--name", "Else")
    assert load_model(model.folder).folds == (0, 1)  # nnU-Net's own network, for which code need not be allowed


def test_the_older_networks_have_the_published_sizes():
    """Those that the tests build are the systems' own."""
    def weights(network: nn.Module) -> int:
        return sum(tensor.numel() for tensor in network.parameters())

    with torch.device("meta"):
        options = {"base": 32, "most": 320, "pools": [[2, 2, 2]] * 5, "kernels": [[3] * 3] * 6}
        plain, axial = GenericUNet(1, 2, **options), GenericUNet(1, 2, **options, attention=(128, 128, 128))
        assert weights(ThalamusUNet(5, 2, start=32)) == 7_763_650
    attention = [weights(module) / 1e6 for module in axial.axial_attention]
    assert np.allclose(attention, [15.7, 3.15, 0.39, 0.05], rtol=0.02)
    assert abs((weights(axial) - weights(plain)) / 1e6 - 19.4) < 0.1
    assert abs(weights(plain) / 1e6 - 31.2) < 0.1


def test_a_network_of_published_size_is_mapped(tmp_path, nnunet_folders, capsys):
    old = GenericUNet(1, 2, base=32, most=320, pools=[[2, 2, 2]] * 5, kernels=[[3] * 3] * 6, attention=(128, 128, 128))
    torch.save(old.state_dict(), tmp_path / "example_checkpoint.pth")
    model = imported(capsys, tmp_path / "example_checkpoint.pth", "--kind", "state-dict", "--out", tmp_path / "elsewhere")
    assert model.patch == (128, 128, 128) and model.folder.is_relative_to(tmp_path / "elsewhere")
    assert not left_behind(nnunet_folders.results)
    positions = model.parameters[0]["decoder.transpconvs.0.1.position.tables.2"]
    assert torch.equal(positions, old.axial_embedding[0].param_2[0, :, 0, 0])


@pytest.mark.parametrize("network", ["TabledAxialUNet", "MaxPoolUNet"])
def test_imported_networks_can_be_trained_with_deep_supervision(tmp_path, nnunet_folders, capsys, network):
    if network == "MaxPoolUNet":
        torch.save(TutorialUNet(1, 3, blocks=3, start=4, dimensions=3).state_dict(), tmp_path / "weights.pt")
        model, shape = imported(capsys, tmp_path / "weights.pt", "--kind", "mtneuro"), (8, 16, 16)
    else:
        old = GenericUNet(1, 2, base=4, most=16, pools=CUBES, kernels=[[3] * 3] * 4, attention=(32, 32, 32))
        torch.save(old.state_dict(), tmp_path / "weights.pth")
        model, shape = imported(capsys, tmp_path / "weights.pth", "--kind", "state-dict"), (32, 32, 32)
    trainable = network_of(model)
    assert type(trainable).__name__ == network
    trainable.decoder.deep_supervision = True
    outputs = trainable(torch.rand(1, 1, *shape))
    scales = np.cumprod(model.configuration.pool_op_kernel_sizes, axis=0)[:-1]
    assert [tuple(output.shape[2:]) for output in outputs] == [tuple(np.asarray(shape) // scale) for scale in scales]
    sum(output.square().sum() for output in outputs).backward()
    assert all(tensor.grad is not None for tensor in trainable.parameters())


def test_the_table_names_every_weight(tmp_path, nnunet_folders, capsys):
    old = stock()
    file = save_v1(tmp_path, old, plans=small_plans())
    assert main(["import", str(file), "--kind", "dlmbmap"]) == 0
    err = capsys.readouterr().err
    assert all(name in err for name in old.state_dict())
    assert "decoder.transpconvs.0.bias = 0 (none in nnU-Net v1)" in err


class Runs:
    """Asks for a command to be run when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("where", ["pickle", "checkpoint", "bare", "tiles", "lightning"])
def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path, nnunet_folders, capsys, where):
    mark = tmp_path / "it_ran"
    file = save_v1(tmp_path, stock(), plans=small_plans())
    if where == "pickle":
        file.with_name(f"{file.name}.pkl").write_bytes(pickle.dumps({"plans": Runs(mark)}))
    else:
        torch.save({"state_dict": {}, "more": Runs(mark)}, file)
    kind = {"bare": "state-dict", "tiles": "kasthuri", "lightning": "thalamus"}.get(where, "dlmbmap")
    assert "asks for posix.system" in refusal(capsys, file, "--kind", kind).replace("nt.system", "posix.system")
    assert not mark.exists() and not left_behind(nnunet_folders.results)


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "os.system", "torch.load", "numpy.load", "codecs.encode",
                                  "collections.OrderedDict.fromkeys", "torch.storage._load_from_bytes", "operator.attrgetter"])
def test_no_other_name_is_loaded(tmp_path, nnunet_folders, capsys, name):
    file = save_v1(tmp_path, stock(), plans=small_plans())
    module, _, word = name.rpartition(".")
    file.with_name(f"{file.name}.pkl").write_bytes(f"c{module}\n{word}\n.".encode())
    assert f"asks for {name} to be loaded" in refusal(capsys, file, "--kind", "dlmbmap")
    assert not left_behind(nnunet_folders.results)


@pytest.mark.parametrize("end", ["", ".pkl"])
def test_a_truncated_file_is_refused(tmp_path, nnunet_folders, capsys, end):
    file = save_v1(tmp_path, stock(), plans=small_plans())
    damaged = file.with_name(file.name + end)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert f"{damaged} is damaged" in refusal(capsys, file, "--kind", "dlmbmap")
    assert not left_behind(nnunet_folders.results)


def change(file: Path, edit) -> None:
    """Edit the plans of a pickle."""
    path = file.with_name(f"{file.name}.pkl")
    content = pickle.loads(path.read_bytes())
    edit(content)
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(("edit", "sentence"), [
    (lambda content: content.pop("plans"), "is no pickle of an nnU-Net v1 model"),
    (lambda content: content.update(name="nnUNetTrainerV2CascadeFullRes"), "second stage of a cascade"),
    (lambda content: content["plans"]["normalization_schemes"].update({0: "CT2"}), "normalises by CT2"),
    (lambda content: content["plans"].update(num_classes=4), "other classes than its plans"),
    (lambda content: content["plans"]["plans_per_stage"][0].update(pool_op_kernel_sizes=CUBES), "other poolings than its plans"),
    (lambda content: content["plans"]["plans_per_stage"][0].update(patch_size=np.array([16, 18, 16])), "cannot be halved"),
])
def test_plans_that_do_not_fit_are_refused(tmp_path, nnunet_folders, capsys, edit, sentence):
    file = save_v1(tmp_path, stock(), plans=small_plans())
    change(file, edit)
    assert sentence in refusal(capsys, file, "--kind", "dlmbmap")
    assert not left_behind(nnunet_folders.results)


def without(weights: dict, name: str) -> dict:
    """All but one."""
    return {key: value for key, value in weights.items() if key != name}


def test_weights_missing_left_over_or_of_another_shape_are_named(tmp_path, nnunet_folders, capsys):
    weights, file = dict(stock().state_dict()), tmp_path / "weights.pth"
    gone = "conv_blocks_localization.1.1.blocks.0.instnorm.bias"
    for content, sentence in ((without(weights, gone), f"no weights {gone}"),
                              ({**weights, "extra.weight": torch.ones(2)}, "fit nowhere: extra.weight"),
                              ({**weights, gone: torch.ones(7)}, f"{gone} of {file} has shape (7,), expected (4,)"),
                              ({**weights, gone: "text"}, f"holds {gone} beside or instead of weights"), ([1, 2], "holds no weights"),
                              ({"state_dict": weights}, "whole checkpoint")):
        torch.save(content, file)
        assert sentence in refusal(capsys, file, "--kind", "state-dict")
    assert not left_behind(nnunet_folders.results)


@pytest.mark.parametrize("kind", KINDS)
def test_another_architecture_is_refused(tmp_path, nnunet_folders, capsys, kind):
    file = tmp_path / "axial_T1_weights.ckpt"
    content = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)).state_dict()
    torch.save({"state_dict": content} if kind == "dlmbmap" else content, file)
    with file.with_name(f"{file.name}.pkl").open("wb") as stream:
        pickle.dump({"init": (), "name": "nnUNetTrainerV2", "plans": small_plans()}, stream)
    assert "has no weights" in refusal(capsys, file, "--kind", kind)
    assert not left_behind(nnunet_folders.results)


def test_what_cannot_be_rebuilt_is_refused(tmp_path, nnunet_folders, capsys):
    weights, file = dict(TutorialUNet(1, 2, blocks=3, start=4, dimensions=2).state_dict()), tmp_path / "UNet_2D_attention.pt"
    torch.save({**weights, "up_blocks.0.attention.W_g.0.weight": torch.ones(1)}, file)
    assert "published without their code" in refusal(capsys, file, "--kind", "kasthuri")
    torch.save({name: tensor for name, tensor in weights.items() if "norm" not in name}, file)
    assert "cannot be told" in refusal(capsys, file, "--kind", "kasthuri")
    torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), str(file))
    assert "TorchScript program" in refusal(capsys, file, "--kind", "mtneuro")
    assert not left_behind(nnunet_folders.results)


def test_missing_files_and_unfitting_words_are_refused(tmp_path, nnunet_folders, capsys):
    file = save_v1(tmp_path, stock(), plans=small_plans())
    assert "no file" in refusal(capsys, tmp_path / "none.model", "--kind", "dlmbmap")
    assert "--labels names a, b" in refusal(capsys, file, "--kind", "dlmbmap", "--labels", "a,b")
    assert "--channels names 2" in refusal(capsys, file, "--kind", "dlmbmap", "--channels", "a,b")
    assert "expected letters and digits" in refusal(capsys, file, "--kind", "dlmbmap", "--name", "a__b")
    assert "does not go with" in refusal(capsys, file, "--kind", "dlmbmap", "--view", "axial")
    view = save_lightning(tmp_path / "model.ckpt", ThalamusUNet(2, 2, start=4))
    assert "does not tell the view" in refusal(capsys, view, "--kind", "thalamus")
    assert "2 input channels, but none are named" in refusal(capsys, view, "--kind", "thalamus", "--view", "axial")
    file.with_name(f"{file.name}.pkl").unlink()
    assert "no pickle" in refusal(capsys, file, "--kind", "dlmbmap")
    assert not left_behind(nnunet_folders.results)
