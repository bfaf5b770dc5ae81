"""Axial attention against a plain implementation, and the properties that nnU-Net relies on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor

from nnunet_neuro.networks import axial_attention
from nnunet_neuro.networks.axial_attention import (
    AxialAttentionBlock,
    AxialAttentionUNet,
    LineAttention,
    PositionCode,
)
from nnunet_neuro.training import PlanNetworkMixin

CLASS_NAME = "nnunet_neuro.networks.axial_attention.AxialAttentionUNet"
# strides per stage, and a patch that is divisible by them though not a power of two
ISOTROPIC_2D = ([[1, 1], [2, 2], [2, 2], [2, 2]], (24, 40))
ANISOTROPIC_2D = ([[1, 1], [2, 1], [2, 2]], (20, 12))
ISOTROPIC_3D = ([[1, 1, 1], [2, 2, 2], [2, 2, 2]], (12, 20, 16))
ANISOTROPIC_3D = ([[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]], (6, 24, 40))
THIN_3D = ([[1, 1, 1], [1, 2, 2], [1, 2, 2]], (3, 20, 12))
ALL_SHAPES = [ISOTROPIC_2D, ANISOTROPIC_2D, ISOTROPIC_3D, ANISOTROPIC_3D, THIN_3D]


def build(strides: list[list[int]], *, deep_supervision: bool = True, channels: int = 1,
          features: tuple[int, ...] | None = None) -> AxialAttentionUNet:
    n_stages, dimensions = len(strides), len(strides[0])
    arguments = {
        "n_stages": n_stages,
        "features_per_stage": features or (4, 8, 8, 12, 12, 12, 12)[:n_stages],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * n_stages,
        "strides": strides,
        "n_conv_per_stage": [1] * n_stages,
        "n_conv_per_stage_decoder": [1] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    torch.manual_seed(0)
    return get_network_from_plans(CLASS_NAME, arguments, ("conv_op", "norm_op", "dropout_op", "nonlin"), channels, 3,
                                  deep_supervision=deep_supervision)


def blocks(network: AxialAttentionUNet) -> list[AxialAttentionBlock]:
    return [module for module in network.modules() if isinstance(module, AxialAttentionBlock)]


def naive_line_attention(attention: LineAttention, features: Tensor, axis: int) -> Tensor:
    """softmax(Q K^T / sqrt(e)) V, one line and one head at a time."""
    hidden = attention.output.in_features
    e = hidden // attention.heads
    to_query, to_key, to_value = attention.query_key_value.weight.split(hidden)
    lines = features.movedim((1, axis), (-1, -2))
    result = torch.empty_like(lines)
    for index in np.ndindex(*lines.shape[:-2]):
        line = lines[index]
        query, key, value = line @ to_query.T, line @ to_key.T, line @ to_value.T
        heads = []
        for head in range(attention.heads):
            part = slice(head * e, (head + 1) * e)
            weights = torch.softmax(query[:, part] @ key[:, part].T / math.sqrt(e), dim=-1)
            heads.append(weights @ value[:, part])
        result[index] = torch.cat(heads, dim=-1) @ attention.output.weight.T + attention.output.bias
    return result.movedim((-1, -2), (1, axis))


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 5)])
def test_equals_plain_softmax_attention(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 6, *shape)
    block = AxialAttentionBlock(6, len(shape), heads=4, channels_per_head=8)
    expected = features + block.position(shape)
    for axis, attention in enumerate(block.attentions, start=2):
        expected = naive_line_attention(attention, expected, axis)
    torch.testing.assert_close(block(features), expected + features)


def test_parts_of_many_lines_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 6, 5, 7)
    block = AxialAttentionBlock(6, 2, heads=2, channels_per_head=4)
    whole = block(features)
    monkeypatch.setattr(axial_attention, "MOST_LINES_TIMES_HEADS", 3 * 2)
    torch.testing.assert_close(block(features), whole)


@pytest.mark.parametrize(("strides", "patch"), ALL_SHAPES)
def test_outputs_have_the_shapes_of_nnunets(strides: list[list[int]], patch: tuple[int, ...]) -> None:
    network = build(strides, channels=2)
    outputs = network(torch.randn(2, 2, *patch))
    assert len(outputs) == len(strides) - 1
    scale = np.ones(len(patch), dtype=int)
    for output, stride in zip(outputs, strides, strict=False):
        scale *= stride
        assert output.shape == (2, 3, *(np.array(patch) // scale))
    network.decoder.deep_supervision = False
    assert network(torch.randn(1, 2, *patch)).shape == (1, 3, *patch)


@pytest.mark.parametrize(("strides", "patch"), ALL_SHAPES)
def test_gradient_reaches_every_parameter(strides: list[list[int]], patch: tuple[int, ...]) -> None:
    network = build(strides)
    sum(output.square().sum() for output in network(torch.randn(2, 1, *patch))).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_attention_at_every_level_but_full_resolution() -> None:
    network = build([[1, 1]] + [[2, 2]] * 6)
    assert isinstance(network, PlainConvUNet)
    assert [hasattr(upsampling, "weight") for upsampling in network.decoder.transpconvs] == [False] * 5 + [True]
    # (heads, channels per head), deepest first; levels 5 and 4 share the cap
    attentions = [block.attentions[0] for block in blocks(network)]
    widths = [(attention.heads, attention.output.in_features // attention.heads) for attention in attentions]
    assert widths == [(32, 128), (32, 128), (16, 64), (8, 32), (4, 16)]


def test_two_stages_leave_no_level_to_attend() -> None:
    assert blocks(build([[1, 1], [2, 2]])) == []


def test_heads_stand_where_fine_tuning_skips_them() -> None:
    names = build(ISOTROPIC_2D[0]).state_dict()
    heads = {name for name, weights in names.items() if weights.shape[0] == 3 and "stages" not in name}
    assert heads and all(".seg_layers." in name for name in heads)


@pytest.mark.parametrize(("strides", "patch"), [ISOTROPIC_2D, ANISOTROPIC_3D])
def test_weights_load_at_another_patch_size(strides: list[list[int]], patch: tuple[int, ...]) -> None:
    used = build(strides, deep_supervision=False)
    used(torch.randn(1, 1, *patch))
    larger = tuple(2 * side for side in patch)
    other = build(strides, deep_supervision=False)
    other(torch.randn(1, 1, *larger))
    other.load_state_dict(used.state_dict(), strict=True)
    image = torch.randn(1, 1, *larger)
    torch.testing.assert_close(used(image), other(image))
    assert torch.isfinite(used(image)).all()


def test_cases_of_a_batch_do_not_see_each_other() -> None:
    network = build(ISOTROPIC_2D[0], deep_supervision=False).eval()
    image = torch.randn(3, 1, *ISOTROPIC_2D[1])
    alone = torch.cat([network(case[None]) for case in image])
    torch.testing.assert_close(network(image), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_position_matters_along_every_axis(axis: int) -> None:
    torch.manual_seed(0)
    block = AxialAttentionBlock(6, 3, heads=2, channels_per_head=8)
    features = torch.randn(1, 6, 4, 5, 6)
    order = torch.arange(features.shape[axis]).roll(1)
    moved = features.index_select(axis, order)
    assert not torch.allclose(block(moved), block(features).index_select(axis, order), atol=1e-3)
    # it is the position code that tells them apart
    for linear in block.position.axes:
        torch.nn.init.zeros_(linear.weight)
    torch.testing.assert_close(block(moved), block(features).index_select(axis, order))


def test_position_code_is_the_same_around_the_centre_at_every_size() -> None:
    torch.manual_seed(0)
    code = PositionCode(6, 2)
    torch.testing.assert_close(code((12, 20))[:, 2:-2, 5:-5], code((8, 10)))
    assert code((8, 10)).shape == (6, 8, 10)
    assert not list(code.buffers())


def test_position_code_starts_with_unit_variance_per_axis() -> None:
    torch.manual_seed(0)
    code = PositionCode(4000, 1)((64,))
    torch.testing.assert_close(code.var(dim=0), torch.ones(64), rtol=0.15, atol=0)


def test_numbers_of_parameters() -> None:
    network = build([[1] * 3] + [[2] * 3] * 5, features=(32, 64, 128, 256, 320, 320))
    millions = [sum(p.numel() for p in block.parameters()) / 1e6 for block in blocks(network)]
    assert millions == pytest.approx([15.7, 3.15, 0.39, 0.05], abs=0.05)


def test_memory_estimate_grows_by_the_attention() -> None:
    network = build(ISOTROPIC_3D[0])
    convolutions = PlainConvUNet.compute_conv_feature_map_size(network, ISOTROPIC_3D[1])
    # one attended level: 6 x 10 x 8 voxels, three axes with the 8 channels of a line, and q, k, v and output of 4 x 16
    attention = 6 * 10 * 8 * 3 * (8 + 4 * 64) // 2
    assert network.compute_conv_feature_map_size(ISOTROPIC_3D[1]) == convolutions + attention


def test_plans_of_another_kind_of_network_are_refused_in_one_sentence() -> None:
    configuration = SimpleNamespace(
        network_arch_class_name="dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        network_arch_init_kwargs={"n_stages": 2, "n_blocks_per_stage": [1, 3]},
        network_arch_init_kwargs_req_import=[],
    )

    class Trainer(PlanNetworkMixin):
        network_class_name = CLASS_NAME

    with pytest.raises(ValueError, match="nnUNetResEncUNetMPlans.* set n_blocks_per_stage .*use plans of another planner"):
        Trainer.build_network_architecture(SimpleNamespace(plans_name="nnUNetResEncUNetMPlans"), configuration, 1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_with_large_features(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = AxialAttentionBlock(8, 2, heads=2, channels_per_head=16)
    with torch.autocast("cpu", dtype=dtype):
        output = block(100 * torch.randn(2, 8, 16, 16))
    assert torch.isfinite(output).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_precision_on_a_gpu_equals_the_cpu() -> None:
    network = build(ISOTROPIC_3D[0], deep_supervision=False).eval()
    image = torch.randn(2, 1, *ISOTROPIC_3D[1])
    expected = network(image)
    with torch.autocast("cuda"):
        output = network.cuda()(image.cuda())
    torch.testing.assert_close(output.float().cpu(), expected, rtol=0.05, atol=0.05)


def test_network_compiles_as_one_graph() -> None:
    network = build(ANISOTROPIC_3D[0])
    image = torch.randn(1, 1, *ANISOTROPIC_3D[1])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), network(image))
