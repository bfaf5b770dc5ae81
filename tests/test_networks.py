"""The networks of the trainers: what sets each apart, and the properties that nnU-Net relies on."""

from __future__ import annotations

import importlib.util
import json
import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_neuro.commands.plans import main as write_plans
from nnunet_neuro.networks.attention_unet import AttentionGate
from nnunet_neuro.networks.deep_unet import DEEP_UNET, deeper_architecture
from nnunet_neuro.networks.dropout_unet import DROPOUT_PROBABILITY, dropout_architecture
from nnunet_neuro.networks.monai_networks import HighResNet, VNetLight, highresnet_architecture, vnet_architecture
from nnunet_neuro.networks.padding import on_padded
from nnunet_neuro.networks.plans import PLAIN_UNET, with_architecture
from nnunet_neuro.networks.residual_unet import RESIDUAL_ENCODER_UNET, RESIDUAL_UNET, residual_architecture
from nnunet_neuro.networks.timm_unet import DECODERS, TIMM_UNET, TimmUNet, chosen_architecture, timm_architecture
from tests.test_trainers_contract import (  # noqa: F401 - workplace is a fixture
    PATCH,
    Workplace,
    make_plans,
    make_trainer,
    rebuild,
    workplace,
)

ATTENTION_UNET = "nnunet_neuro.networks.attention_unet.AttentionUNet"
# strides per stage, and a patch that is divisible by them though not a power of two
ISOTROPIC_2D = ([[1, 1], [2, 2], [2, 2], [2, 2]], (32, 48))
ANISOTROPIC_2D = ([[1, 1], [2, 1], [2, 2]], (20, 12))
ISOTROPIC_3D = ([[1, 1, 1], [2, 2, 2], [2, 2, 2]], (12, 20, 16))
ANISOTROPIC_3D = ([[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]], (6, 32, 40))
THIN_3D = ([[1, 1, 1], [1, 2, 2], [1, 2, 2]], (3, 20, 12))
ALL_SHAPES = [ISOTROPIC_2D, ANISOTROPIC_2D, ISOTROPIC_3D, ANISOTROPIC_3D, THIN_3D]
# timm's smallest model, made for tests
TINY_ENCODER = "test_resnet"

needs_smp = pytest.mark.skipif(importlib.util.find_spec("segmentation_models_pytorch") is None, reason="needs the extra smp")
needs_monai = pytest.mark.skipif(importlib.util.find_spec("monai") is None, reason="needs the extra monai")


def plan(strides: list[list[int]], *, class_name: str = PLAIN_UNET, features: tuple[int, ...] | None = None,
         convolutions: int = 1) -> dict:
    """The section `architecture` as nnU-Net's planner writes it."""
    n_stages, dimensions = len(strides), len(strides[0])
    return {
        "network_class_name": class_name,
        "arch_kwargs": {
            "n_stages": n_stages,
            "features_per_stage": list(features or (4, 8, 8, 12, 12, 12, 12)[:n_stages]),
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * n_stages,
            "strides": strides,
            "n_conv_per_stage": [convolutions] * n_stages,
            "n_conv_per_stage_decoder": [convolutions] * (n_stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def residual_encoder_plan(strides: list[list[int]]) -> dict:
    """As nnU-Net's planners for residual encoders write it."""
    architecture = plan(strides, class_name=RESIDUAL_ENCODER_UNET)
    del architecture["arch_kwargs"]["n_conv_per_stage"]
    architecture["arch_kwargs"]["n_blocks_per_stage"] = [1, 3, 4, 6][: len(strides)]
    return architecture


def build(architecture: dict, *, channels: int = 1, deep_supervision: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return get_network_from_plans(architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"],
                                  channels, 3, deep_supervision=deep_supervision)


def attention_architecture(architecture: dict, patch_size: tuple[int, ...]) -> dict:
    return {**architecture, "network_class_name": ATTENTION_UNET}


PLANNED = {"attention": attention_architecture, "deep": deeper_architecture, "residual": residual_architecture,
           "dropout": dropout_architecture}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # networks this small gain nothing from more


# all that follow the plan


@pytest.mark.parametrize(("strides", "patch"), ALL_SHAPES)
@pytest.mark.parametrize("network", PLANNED)
def test_outputs_have_the_shapes_that_nnunet_downsamples_the_labels_to(network: str, strides: list, patch: tuple[int, ...]) -> None:
    architecture = PLANNED[network](plan(strides), patch)
    trained = build(architecture, channels=2)
    outputs = trained(torch.randn(2, 2, *patch))
    # nnU-Net's scales, from the strides in the plan
    scales = np.cumprod(architecture["arch_kwargs"]["strides"], axis=0)[:-1]
    assert [output.shape for output in outputs] == [(2, 3, *(np.array(patch) // scale)) for scale in scales]
    trained.decoder.deep_supervision = False
    assert trained(torch.randn(1, 2, *patch)).shape == (1, 3, *patch)


@pytest.mark.parametrize("network", ["attention", "deep", "dropout"])
@pytest.mark.parametrize(("strides", "patch"), [ISOTROPIC_2D, ANISOTROPIC_3D])
def test_gradient_reaches_every_parameter(network: str, strides: list, patch: tuple[int, ...]) -> None:
    trained = build(PLANNED[network](plan(strides), patch))
    sum(output.square().sum() for output in trained(torch.randn(2, 1, *patch))).backward()
    without = [name for name, p in trained.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize("network", PLANNED)
@pytest.mark.parametrize(("strides", "patch"), [ISOTROPIC_2D, ANISOTROPIC_3D])
def test_network_compiles_as_one_graph(network: str, strides: list, patch: tuple[int, ...]) -> None:
    trained = build(PLANNED[network](plan(strides), patch)).eval()
    image = torch.randn(1, 1, *patch)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(trained, backend="eager", fullgraph=True)(image), trained(image))


@pytest.mark.parametrize("change", [deeper_architecture, residual_architecture, dropout_architecture, vnet_architecture,
                                    highresnet_architecture, timm_architecture])
def test_a_changed_plan_is_not_changed_again(change) -> None:
    if change in (vnet_architecture, highresnet_architecture):
        pytest.importorskip("monai")
    if change is timm_architecture:
        pytest.importorskip("segmentation_models_pytorch")
    strides, patch = ISOTROPIC_2D
    planned = plan(strides)
    once = change(deepcopy(planned), patch)
    assert once != planned
    assert change(deepcopy(once), patch) == once
    assert planned == plan(strides)


@pytest.mark.parametrize("change", [deeper_architecture, residual_architecture])
def test_plans_for_another_network_are_refused_in_one_sentence(change) -> None:
    architecture = plan(ISOTROPIC_2D[0], class_name="dynamic_network_architectures.architectures.primus.Primus")
    with pytest.raises(ValueError, match="the plans are for .*Primus, expected .*PlainConvUNet; use plans of another planner"):
        change(architecture, ISOTROPIC_2D[1])


# attention gates


def set_gates(network: nn.Module, logit: float) -> None:
    for gate in network.gates:
        nn.init.zeros_(gate.to_weights.weight)
        nn.init.constant_(gate.to_weights.bias, logit)


@pytest.mark.parametrize(("strides", "patch"), ALL_SHAPES)
def test_open_gates_make_nnunets_own_network(strides: list, patch: tuple[int, ...]) -> None:
    gated = build(plan(strides, class_name=ATTENTION_UNET))
    set_gates(gated, 1e4)
    plain = build(plan(strides))
    plain.load_state_dict({name: weights for name, weights in gated.state_dict().items() if not name.startswith("gates.")})
    assert type(plain) is PlainConvUNet
    image = torch.randn(2, 1, *patch)
    torch.testing.assert_close(gated(image), plain(image))


def test_skips_reach_the_decoder_through_their_gates() -> None:
    strides, patch = ISOTROPIC_3D
    network = build(plan(strides, class_name=ATTENTION_UNET), deep_supervision=False)
    skips = [skip.detach().requires_grad_() for skip in network.encoder(torch.randn(1, 1, *patch))]
    network.encoder.forward = lambda image: list(skips)
    network(torch.empty(0)).square().sum().backward()
    assert all(skip.grad.abs().sum() > 0 for skip in skips)

    closed = build(plan(strides, class_name=ATTENTION_UNET), deep_supervision=False)
    set_gates(closed, -1e4)
    closed.encoder.forward = lambda image: list(skips)
    for skip in skips:
        skip.grad = None
    closed(torch.empty(0)).square().sum().backward()
    # full resolution and bottleneck have no gate
    assert [bool(skip.grad.abs().sum() > 0) for skip in skips] == [True, False, True]


def test_gate_weights_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(nn.Conv2d, 6, 4, (2, 2)).double()
    skip, signal = torch.randn(1, 6, 8, 4).double(), torch.randn(1, 4, 4, 2).double()
    weights = gate(skip, signal) / skip
    # the same for every channel, and between 0 and 1
    torch.testing.assert_close(weights, weights[:, :1].expand_as(weights))
    assert 0 < weights.min() and weights.max() < 1
    # one voxel of the signal by hand; at the corner linear interpolation gives its value
    hidden = torch.einsum("hcyx,cyx->h", gate.from_skip.weight, skip[0, :, :2, :2])
    hidden += gate.from_signal.weight[:, :, 0, 0] @ signal[0, :, 0, 0] + gate.from_signal.bias
    expected = torch.sigmoid(gate.to_weights.weight[0, :, 0, 0] @ hidden.relu() + gate.to_weights.bias[0])
    torch.testing.assert_close(weights[0, 0, 0, 0], expected)


def test_gates_at_every_level_but_full_resolution_and_bottleneck() -> None:
    network = build(plan([[1, 1]] + [[2, 2]] * 4))
    assert not hasattr(network, "gates")
    gated = build(plan([[1, 1]] + [[2, 2]] * 4, class_name=ATTENTION_UNET))
    assert [gate.from_skip.in_channels for gate in gated.gates] == [12, 8, 8]
    assert len(build(plan([[1, 1], [2, 2]], class_name=ATTENTION_UNET)).gates) == 0


def test_memory_estimate_grows_by_the_gates() -> None:
    strides, patch = ISOTROPIC_3D
    network = build(plan(strides, class_name=ATTENTION_UNET))
    convolutions = PlainConvUNet.compute_conv_feature_map_size(network, patch)
    # one gate, on the skip of 8 channels: 2 x 4 hidden ones and the weight at its signal's resolution, and the weighted skip
    gate = (2 * 4 + 1) * 3 * 5 * 4 + 8 * 6 * 10 * 8
    assert network.compute_conv_feature_map_size(patch) == convolutions + gate


# one stage more


@pytest.mark.parametrize(("total", "patch", "features", "expected_strides", "expected_features"), [
    (5, (128, 128, 128), (32, 64, 128, 256, 320, 320), [2, 2, 2], 320),
    (2, (64, 64, 64), (32, 64, 128), [2, 2, 2], 256),
    (3, (64, 64, 64), (32, 64, 128, 256), [2, 2, 2], 320),  # nnU-Net's limit in 3D
    (4, (96, 160, 112), (32, 64, 128, 256, 320), [2, 2, 1], 320),  # seven voxels left, which is odd
    (4, (80, 112, 48), (32, 64, 128, 256, 320), [1, 1, 1], 320),  # nothing left to halve
    (4, (32, 64, 64), (32, 64, 128, 256, 320), [1, 2, 2], 320),  # two voxels stay two
    (3, (64, 64), (64, 128, 256, 512), [2, 2], 512),  # and in 2D
    (3, (64, 64), (32, 64, 128, 256), [2, 2], 512),
    (4, (64, 64), (16, 32, 64, 128, 128), [2, 2], 128),  # a planner with a lower limit
    (2, (64, 64), (200, 400, 800), [2, 2], 800),  # or a higher one
])
def test_one_stage_more_follows_from_the_last_planned(total: int, patch: tuple[int, ...], features: tuple[int, ...],
                                                      expected_strides: list[int], expected_features: int) -> None:
    dimensions = len(patch)
    planned = plan([[1] * dimensions] + [[2] * dimensions] * total, features=features, convolutions=2)
    deeper = deeper_architecture(planned, list(patch))["arch_kwargs"]
    assert deeper["n_stages"] == total + 2
    assert deeper["strides"] == [*planned["arch_kwargs"]["strides"], expected_strides]
    assert deeper["features_per_stage"] == [*features, expected_features]
    assert deeper["n_conv_per_stage"] == [2] * (total + 2) and deeper["n_conv_per_stage_decoder"] == [2] * (total + 1)


def test_deeper_decoder_begins_with_the_number_of_convolutions_of_its_lowest_stage() -> None:
    planned = plan(ISOTROPIC_2D[0])
    planned["arch_kwargs"]["n_conv_per_stage_decoder"] = [3, 2, 1]
    assert deeper_architecture(planned, ISOTROPIC_2D[1])["arch_kwargs"]["n_conv_per_stage_decoder"] == [3, 3, 2, 1]


def test_deeper_network_fine_tunes_at_a_patch_that_halves_other_axes() -> None:
    strides, patch = ISOTROPIC_2D
    first = deeper_architecture(plan(strides), patch)
    other = deeper_architecture(plan(strides), (40, 64))
    assert first["arch_kwargs"]["strides"] != other["arch_kwargs"]["strides"]
    network = build(other, deep_supervision=False)
    network.load_state_dict(build(first, deep_supervision=False).state_dict(), strict=True)
    assert network(torch.randn(1, 1, 40, 64)).shape == (1, 3, 40, 64)


def test_added_stage_widens_the_view() -> None:
    strides, patch = [[1, 1], [2, 2]], [64, 64]
    seen = []
    for architecture in (plan(strides), deeper_architecture(plan(strides), patch)):
        # without normalisation, which lets every voxel see all others
        architecture["arch_kwargs"] |= {"norm_op": None, "norm_op_kwargs": None}
        image = torch.randn(1, 1, *patch, requires_grad=True)
        build(architecture, deep_supervision=False)(image)[0, 0, 0, 0].backward()
        seen.append(int((image.grad[0, 0].abs().sum(dim=1) > 0).sum()))
    assert 0 < seen[0] < seen[1] < 64


# residual blocks


@pytest.mark.parametrize(("convolutions", "blocks"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_one_residual_block_for_two_convolutions(convolutions: int, blocks: int) -> None:
    strides, patch = ISOTROPIC_3D
    architecture = residual_architecture(plan(strides, convolutions=convolutions), patch)
    assert architecture["network_class_name"] == RESIDUAL_UNET
    network = build(architecture)
    stages = [*network.encoder.stages, *network.decoder.stages]
    assert len(stages) == 5 and all(isinstance(stage, StackedResidualBlocks) for stage in stages)
    assert [len(stage.blocks) for stage in stages] == [blocks] * 5


def test_plans_for_a_residual_encoder_keep_its_blocks() -> None:
    strides, _ = ISOTROPIC_2D
    architecture = residual_architecture(residual_encoder_plan(strides), [32, 48])
    assert architecture["arch_kwargs"]["n_blocks_per_stage"] == [1, 3, 4, 6]
    network = build(architecture)
    assert [len(stage.blocks) for stage in network.encoder.stages] == [1, 3, 4, 6]
    assert all(isinstance(stage, StackedResidualBlocks) for stage in network.decoder.stages)


# dropout


@pytest.mark.parametrize(("planned", "dropout_class"), [
    (plan(ISOTROPIC_2D[0], convolutions=2), nn.Dropout2d),
    (plan(ISOTROPIC_3D[0], convolutions=2), nn.Dropout3d),
    (residual_encoder_plan(ISOTROPIC_2D[0]), nn.Dropout2d),
])
def test_dropout_in_the_planned_network(planned: dict, dropout_class: type[nn.Module]) -> None:
    patch = ISOTROPIC_2D[1] if dropout_class is nn.Dropout2d else ISOTROPIC_3D[1]
    architecture = dropout_architecture(planned, list(patch))
    assert architecture["network_class_name"] == planned["network_class_name"]
    network = build(architecture, deep_supervision=False)
    drops = [module for module in network.modules() if isinstance(module, dropout_class)]
    assert drops and {module.p for module in drops} == {DROPOUT_PROBABILITY}
    if planned["network_class_name"] == PLAIN_UNET:
        assert len(drops) == sum(isinstance(module, ConvDropoutNormReLU) for module in network.modules())
    image = torch.randn(1, 1, *patch)
    assert not torch.allclose(network(image), network(image))
    torch.testing.assert_close(network.eval()(image), network(image))
    # nothing but what is drawn differs from the planned network, whose weights have the same order
    without = build(planned, deep_supervision=False).eval()
    assert [w.shape for w in without.parameters()] == [w.shape for w in network.parameters()]
    for to, weights in zip(without.parameters(), network.parameters()):
        to.data = weights
    torch.testing.assert_close(without(image), network(image))


def test_dropout_of_the_plan_is_kept() -> None:
    planned = plan(ISOTROPIC_2D[0])
    planned["arch_kwargs"] |= {"dropout_op": "torch.nn.modules.dropout.Dropout", "dropout_op_kwargs": {"p": 0.05}}
    assert dropout_architecture(planned, [32, 48]) == planned


def test_dropout_is_imported_where_the_plan_does_not_say_so() -> None:
    planned = plan(ISOTROPIC_2D[0])
    planned["_kw_requires_import"].remove("dropout_op")
    assert "dropout_op" in dropout_architecture(planned, [32, 48])["_kw_requires_import"]


# the plans of a training


def test_architecture_is_written_where_it_was_inherited() -> None:
    plans = make_plans("3d_fullres", 1, PATCH["3d_fullres"])
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    before = deepcopy(plans)
    changed = with_architecture(plans, "3d_cascade_fullres", deeper_architecture)
    assert plans == before
    assert changed["configurations"]["3d_fullres"] == before["configurations"]["3d_fullres"]
    cascade = PlansManager(changed).get_configuration("3d_cascade_fullres")
    assert cascade.network_arch_class_name == DEEP_UNET and len(cascade.pool_op_kernel_sizes) == 5
    assert cascade.previous_stage_name == "3d_lowres" and cascade.patch_size == list(PATCH["3d_fullres"])


def test_trained_plans_describe_the_network_for_any_trainer(workplace: Workplace) -> None:  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    trained = make_trainer("nnUNetTrainerDeepUNet", dataset, "2d", patch_size=PATCH["2d"])
    trained.run_training()
    saved = json.loads((Path(trained.output_folder_base) / "plans.json").read_text())
    checkpoint = torch.load(Path(trained.output_folder) / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["init_args"]["plans"]["configurations"] == saved["configurations"]
    plans_manager = PlansManager(saved)
    network = nnUNetTrainer.build_network_architecture(plans_manager, plans_manager.get_configuration("2d"), 1, 3, False)
    network.load_state_dict(checkpoint["network_weights"])
    assert len(saved["configurations"]["2d"]["architecture"]["arch_kwargs"]["strides"]) == 5
    # plans that come from a training train the same network
    again = recursive_find_trainer_class_by_name("nnUNetTrainerDeepUNet")(
        {**saved, "continue_training": False}, "2d", 0, dataset.json, torch.device("cpu"))
    assert again.plans_manager.plans["configurations"] == saved["configurations"]


@pytest.mark.parametrize("trainer", ["nnUNetTrainerDeepUNet", "nnUNetTrainerDropoutUNet", "nnUNetTrainerResidualUNet"])
def test_unfitting_plans_leave_no_output_folder(trainer: str, workplace: Workplace) -> None:  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    plans = make_plans("2d", 1, PATCH["2d"])
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["no_such_argument"] = 1
    with pytest.raises(ValueError, match="nnUNetPlansContract.* set no_such_argument for .*use plans of another planner"):
        recursive_find_trainer_class_by_name(trainer)(plans, "2d", 0, dataset.json, torch.device("cpu"))
    assert not list((workplace.preprocessed.parent / "results").iterdir())


# padding


@pytest.mark.parametrize(("shape", "multiple", "shortest", "padded"), [
    ((32, 64), 32, 32, (32, 64)), ((33, 7), 32, 32, (64, 32)), ((40, 100), 32, 128, (128, 128)), ((5, 8, 17), 8, 1, (8, 8, 24)),
])
def test_padding_is_cut_back(shape: tuple[int, ...], multiple: int, shortest: int, padded: tuple[int, ...]) -> None:
    seen = []

    def network(image: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(image.shape[2:]))
        return 2 * image

    image = torch.randn(2, 3, *shape)
    torch.testing.assert_close(on_padded(image, network, multiple=multiple, shortest=shortest), 2 * image)
    assert seen == [padded]


# timm


@needs_smp
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_takes_any_image_and_trains_all_its_parameters(decoder: str) -> None:
    network = TimmUNet(2, 3, "resnet18", decoder)
    output = network(torch.randn(2, 2, 36, 70))
    assert output.shape == (2, 3, 36, 70)
    output.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    torch._dynamo.reset()
    compiled = torch.compile(network.eval(), backend="eager", fullgraph=True)
    image = torch.randn(1, 2, 36, 70)
    torch.testing.assert_close(compiled(image), network(image))


@needs_smp
@pytest.mark.parametrize("decoder", ["unet", "pspnet", "deeplabv3plus"])
def test_equals_segmentation_models_where_nothing_is_padded(decoder: str) -> None:
    import segmentation_models_pytorch

    torch.manual_seed(0)
    network = TimmUNet(1, 2, TINY_ENCODER, decoder).eval()
    torch.manual_seed(0)
    theirs = getattr(segmentation_models_pytorch, DECODERS[decoder])(f"tu-{TINY_ENCODER}", encoder_weights=None, in_channels=1, classes=2)
    image = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(image), theirs.eval()(image))


@needs_smp
@pytest.mark.parametrize("decoder", DECODERS)
def test_only_the_head_depends_on_the_number_of_classes(decoder: str) -> None:
    two, five = (TimmUNet(1, classes, "resnet18", decoder).state_dict() for classes in (2, 5))
    differing = {name for name in two if two[name].shape != five[name].shape}
    assert differing and all(".seg_layers." in name for name in differing)


@needs_smp
@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"encoder": "resnet99"}, "timm has no encoder 'resnet99', expected one of .* for example .*resnet"),
    ({"decoder": "upernet"}, "the decoder is 'upernet', expected one of unet, unetplusplus, fpn"),
    ({"encoder": "densenet121", "decoder": "pan"}, "encoder densenet121 does not fit decoder pan .*use another"),
    ({"encoder": "vit_tiny_patch16_224"}, "encoder vit_tiny_patch16_224 does not fit decoder unet"),
    ({"deep_supervision": True}, "single output.*-tr nnUNetTrainerTimmUNet"),
])
def test_unfitting_parts_are_refused_in_one_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        TimmUNet(1, 2, **arguments)
    assert "\n" not in str(caught.value)


def tiny_weights(file: Path, encoder: str = TINY_ENCODER) -> dict[str, torch.Tensor]:
    """A file of weights as timm's own are."""
    import timm

    torch.manual_seed(7)
    weights = timm.create_model(encoder).state_dict()
    torch.save(weights, file)
    return weights


@needs_smp
@pytest.mark.parametrize(("channels", "adapted"), [(1, lambda w: w.sum(1, keepdim=True)), (3, lambda w: w)])
def test_encoder_weights_of_a_file_in_any_number_of_channels(channels: int, adapted, tmp_path: Path) -> None:
    weights = tiny_weights(tmp_path / "encoder.pth")
    network = TimmUNet(channels, 2, TINY_ENCODER, encoder_weights=str(tmp_path / "encoder.pth"))
    before = network.encoder.model.layer1[0].conv1.weight.clone()
    state = torch.random.get_rng_state()
    assert str(tmp_path) in network.load_encoder_weights()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(network.encoder.model.layer1[0].conv1.weight, before)
    torch.testing.assert_close(network.encoder.model.layer1[0].conv1.weight, weights["layer1.0.conv1.weight"])
    first = next(name for name, w in weights.items() if w.ndim == 4)
    torch.testing.assert_close(network.encoder.model.state_dict()[first], adapted(weights[first]))


@needs_smp
def test_random_weights_stay() -> None:
    network = TimmUNet(1, 2, TINY_ENCODER)
    before = deepcopy(network.state_dict())
    assert "random weights" in network.load_encoder_weights()
    assert all(torch.equal(before[name], weights) for name, weights in network.state_dict().items())


@needs_smp
def test_wrong_weights_are_refused_in_one_sentence(tmp_path: Path) -> None:
    tiny_weights(tmp_path / "18.pth", "resnet18")
    (tmp_path / "text.pth").write_text("no weights")
    cases = [("resnet18", "none.pth", FileNotFoundError, "no file .*none.pth"), ("resnet18", "text.pth", ValueError, "holds no weights"),
             ("resnet34", "18.pth", ValueError, "has no weights for 16 layers"), ("resnet50", "18.pth", ValueError, "does not fit"),
             ("efficientnet_b0", "18.pth", ValueError, "does not fit")]
    for encoder, file, error, sentence in cases:
        network = TimmUNet(1, 2, encoder, encoder_weights=str(tmp_path / file))
        with pytest.raises(error, match=sentence) as caught:
            network.load_encoder_weights()
        assert "\n" not in str(caught.value)


@needs_smp
def test_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.models._builder as builder

    def unreachable(*args, **kwargs) -> None:
        raise ConnectionError("no route to the hub\nand more")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", unreachable)
    network = TimmUNet(1, 2, "resnet18", encoder_weights="imagenet")
    with pytest.raises(OSError, match="the ImageNet weights of resnet18 could not be downloaded .*no route to the hub.*random") as caught:
        network.load_encoder_weights()
    assert "\n" not in str(caught.value)


@needs_smp
def test_timm_trainer_refuses_a_volume_before_it_makes_a_folder(workplace: Workplace) -> None:  # noqa: F811
    dataset = workplace.make_dataset("3d_fullres", 1)
    lengths = " x ".join(map(str, PATCH["3d_fullres"]))
    with pytest.raises(ValueError, match=f"3d_fullres is {lengths}, but nnUNetTrainerTimmUNet .* 2 axes only.*such as 2d"):
        make_trainer("nnUNetTrainerTimmUNet", dataset, "3d_fullres", patch_size=PATCH["3d_fullres"])
    assert not list((workplace.preprocessed.parent / "results").iterdir())


@needs_smp
def test_chosen_network_and_weights_need_nothing_after_the_start(workplace: Workplace, tmp_path: Path) -> None:  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    file = tmp_path / "encoder.pth"
    tiny_weights(file)
    plans = with_architecture(make_plans("2d", 1, PATCH["2d"]), "2d", lambda *_: chosen_architecture(TINY_ENCODER, "fpn", str(file)))

    def trainer() -> nnUNetTrainer:
        return recursive_find_trainer_class_by_name("nnUNetTrainerTimmUNet")(dict(plans), "2d", 0, dataset.json, torch.device("cpu"))

    trained = trainer()
    trained.run_training()
    assert f"starts with the weights {file}" in Path(trained.log_file).read_text()
    file.unlink()
    trained.set_deep_supervision_enabled(False)
    image = torch.randn(1, 1, *PATCH["2d"])
    predictor = rebuild(trained)
    assert isinstance(predictor.network, TimmUNet) and predictor.network.decoder_name == "fpn"
    torch.testing.assert_close(predictor.network.eval()(image), trained.network.eval()(image))

    checkpoint = Path(trained.output_folder) / "checkpoint_final.pth"
    continued = trainer()
    continued.load_checkpoint(str(checkpoint))
    continued.on_train_start()
    tuned = trainer()
    tuned.initialize()
    load_pretrained_weights(tuned.network, checkpoint)
    tuned.on_train_start()
    for other in (continued, tuned):
        for name, weights in trained.network.encoder.state_dict().items():
            torch.testing.assert_close(other.network.encoder.state_dict()[name], weights)
    with pytest.raises(FileNotFoundError, match="encoder.pth"):
        trainer().on_train_start()


@needs_smp
def test_plans_command_writes_plans_that_differ_in_the_network_alone(workplace: Workplace, capsys) -> None:  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    planned = make_plans("2d", 1, PATCH["2d"]) | {"plans_name": "nnUNetPlans"}
    planned["configurations"]["3d_fullres"] = deepcopy(planned["configurations"]["2d"])
    (dataset.folder / "nnUNetPlans.json").write_text(json.dumps(planned))
    command = [dataset.folder.name, "--encoder", TINY_ENCODER, "--decoder", "manet"]
    assert write_plans(command) == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert path == dataset.folder / f"nnUNetPlans_{TINY_ENCODER}_manet.json"
    assert f"-tr nnUNetTrainerTimmUNet -p {path.stem}" in err
    written = json.loads(path.read_text())
    architecture = written["configurations"]["2d"].pop("architecture")
    del planned["configurations"]["3d_fullres"], planned["configurations"]["2d"]["architecture"]
    assert written == planned | {"plans_name": path.stem}
    assert architecture["network_class_name"] == TIMM_UNET
    assert (architecture["arch_kwargs"]["encoder"], architecture["arch_kwargs"]["decoder"]) == (TINY_ENCODER, "manet")
    # again is nothing new; another choice under the same name is refused
    assert write_plans(command) == 0
    assert write_plans([*command[:-1], "fpn", "--name", path.stem]) == 2
    assert json.loads(path.read_text())["configurations"]["2d"]["architecture"] == architecture


@needs_smp
@pytest.mark.parametrize(("options", "sentence"), [
    (["--encoder", "resnet99"], "timm has no encoder 'resnet99'"),
    (["--encoder", "swin_tiny_patch4_window7_224"], "does not take patches of 32 x 32"),
    (["--weights", "no_such_file.pth"], "no file no_such_file.pth with encoder weights"),
    (["--name", "a__b"], "cannot be named 'a__b'"),
    (["--plans", "nnUNetOtherPlans"], "no plans .*nnUNetOtherPlans.json, found nnUNetPlans"),
])
def test_plans_command_refuses_in_one_sentence(options: list[str], sentence: str, workplace: Workplace, capsys) -> None:  # noqa: F811
    dataset = workplace.make_dataset("2d", 1)
    (dataset.folder / "nnUNetPlans.json").write_text(json.dumps(make_plans("2d", 1, PATCH["2d"])))
    assert write_plans([dataset.folder.name, *options]) == 2
    assert_one_sentence(capsys.readouterr().err, sentence)
    assert sorted(path.name for path in dataset.folder.glob("*Plans*.json")) == ["nnUNetPlans.json"]


@needs_smp
@pytest.mark.parametrize(("dataset", "sentence"), [("987", "finds no dataset '987'"), ("Dataset987_None", "no plans .*, found none")])
def test_plans_command_names_a_missing_dataset(dataset: str, sentence: str, workplace: Workplace, capsys) -> None:  # noqa: F811
    assert write_plans([dataset]) == 2
    assert_one_sentence(capsys.readouterr().err, sentence)


def assert_one_sentence(error: str, sentence: str) -> None:
    assert len(error.strip().splitlines()) == 1
    assert re.search(sentence, error)


@pytest.mark.parametrize(("change", "package", "extra"), [
    (timm_architecture, "segmentation_models_pytorch", "smp"),
    (vnet_architecture, "monai", "monai"),
    (highresnet_architecture, "monai", "monai"),
])
def test_missing_extra_is_named_in_one_sentence(change, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))
    with pytest.raises(ModuleNotFoundError, match=rf"run: pip install 'nnunet_neuro\[{extra}\]'") as caught:
        change(plan(ISOTROPIC_2D[0]), [32, 48])
    assert "\n" not in str(caught.value)


# MONAI


@needs_monai
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 20])
@pytest.mark.parametrize(("conv_op", "shape"), [(nn.Conv2d, (20, 33)), (nn.Conv3d, (9, 16, 12))])
@pytest.mark.parametrize("network_class", [VNetLight, HighResNet])
def test_any_channels_and_sizes(network_class: type[nn.Module], conv_op: type[nn.Module], shape: tuple[int, ...], channels: int) -> None:
    network = network_class(channels, 3, conv_op)
    output = network(torch.randn(2, channels, *shape))
    assert output.shape == (2, 3, *shape)
    output.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@needs_monai
@pytest.mark.parametrize("network_class", [VNetLight, HighResNet])
def test_monai_networks_compile_as_one_graph_and_keep_their_heads_apart(network_class: type[nn.Module]) -> None:
    two, five = (network_class(1, classes, nn.Conv2d) for classes in (2, 5))
    differing = {name for name, weights in two.state_dict().items() if weights.shape != five.state_dict()[name].shape}
    assert differing and all(".seg_layers." in name for name in differing)
    image = torch.randn(1, 1, 16, 24)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(two.eval(), backend="eager", fullgraph=True)(image), two(image))
    with pytest.raises(ValueError, match="single output.*-tr nnUNetTrainer"):
        network_class(1, 2, nn.Conv2d, deep_supervision=True)


@needs_monai
def test_vnet_light_is_monais_without_its_lowest_level() -> None:
    from monai.networks.nets import VNet

    light, full = VNetLight(4, 3, nn.Conv3d).eval(), VNet(3, 4, 3).eval()
    ours, theirs = [*light.encoder], [full.in_tr, full.down_tr32, full.down_tr64, full.down_tr128]
    ours += [*light.decoder.stages[1:], light.decoder.seg_layers[0]]
    theirs += [full.up_tr64, full.up_tr32, full.out_tr]
    for mine, monai in zip(ours, theirs, strict=True):
        monai.load_state_dict(mine.state_dict(), strict=True)
    image = torch.randn(1, 4, 16, 8, 8)
    with torch.no_grad():
        first = full.in_tr(image)
        skips = [first, full.down_tr32(first)]
        skips.append(full.down_tr64(skips[-1]))
        features = light.decoder.stages[0](full.down_tr128(skips[-1]), skips[2])
        expected = full.out_tr(full.up_tr32(full.up_tr64(features, skips[1]), skips[0]))
        torch.testing.assert_close(light(image), expected)


@needs_monai
def test_high_res_net_is_monais_with_a_plain_last_layer() -> None:
    network = HighResNet(1, 3, nn.Conv3d)
    features = network.encoder(torch.randn(1, 1, 8, 8, 8))
    assert features.shape == (1, 80, 8, 8, 8)
    assert network(torch.randn(1, 1, 8, 8, 8)).min() < 0
    # the paper's 0.81 million
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(0.81e6, rel=0.01)
