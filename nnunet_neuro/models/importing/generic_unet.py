"""nnU-Net v1's Generic_UNet, stock and with D-LMBmap's axial attention, as a network of nnU-Net v2.

A Generic_UNet with convolutional pooling and up-sampling computes what v2's PlainConvUNet computes: its segmentation layers and transposed
convolutions have no bias, which is zero here. On the way up it takes the kernel size of the stage below, where v2 takes that of the same
stage; where the two differ, both ways get the larger size, and smaller kernels stand in its centre with zeros around.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from nnunet_neuro.models.importing.transfer_table import WeightTransfer
from nnunet_neuro.networks.older.axial_unet import TABLED_AXIAL_UNET
from nnunet_neuro.networks.plans import PLAIN_UNET

_FIRST = "conv_blocks_context.0.blocks.0.conv.weight"


@dataclass(frozen=True)
class GenericUNet:
    """The structure of a Generic_UNet, read off the shapes of its weights.

    Attributes:
        channels: of the image.
        classes: background included.
        features: channels of each stage, from full resolution down.
        kernels: of the convolutions of each stage, the larger of the way down and the way up.
        pools: steps between the stages.
        convolutions: of each stage on the way down.
        decoder_convolutions: of each stage on the way up, from the lowest resolution.
        table_shape: patch size of the position tables; None without attention.
    """

    channels: int
    classes: int
    features: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    pools: tuple[tuple[int, ...], ...]
    convolutions: tuple[int, ...]
    decoder_convolutions: tuple[int, ...]
    table_shape: tuple[int, ...] | None

    @property
    def dimensions(self) -> int:
        """Number of spatial axes."""
        return len(self.kernels[0])

    def architecture(self) -> dict:
        """The section `architecture` of plans for v2's network."""
        axes = self.dimensions
        arguments = {
            "n_stages": len(self.features), "features_per_stage": list(self.features), "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [list(kernel) for kernel in self.kernels], "strides": [[1] * axes, *map(list, self.pools)],
            "n_conv_per_stage": list(self.convolutions), "n_conv_per_stage_decoder": list(self.decoder_convolutions), "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True, "negative_slope": 1e-2},
        }
        if self.table_shape is not None:
            arguments["table_shape"] = list(self.table_shape)
        return {"network_class_name": PLAIN_UNET if self.table_shape is None else TABLED_AXIAL_UNET, "arch_kwargs": arguments,
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}

    def transfer(self, weights: WeightTransfer) -> None:
        """Name where each tensor goes."""
        for stage, count in enumerate(self.convolutions):
            for index in range(count):
                _take_block(weights, _encoder_block(stage, index, self.convolutions), f"encoder.stages.{stage}.0.convs.{index}")
        for stage, count in enumerate(self.decoder_convolutions):
            for index in range(count):
                old = f"conv_blocks_localization.{stage}.{'1.blocks.0' if index == count - 1 else f'0.blocks.{index}'}"
                _take_block(weights, old, f"decoder.stages.{stage}.convs.{index}")
            attends = self.table_shape is not None and stage < len(self.pools) - 1
            up = f"decoder.transpconvs.{stage}.0" if attends else f"decoder.transpconvs.{stage}"
            weights.take(f"{up}.weight", f"tu.{stage}.weight")
            weights.zero(f"{up}.bias", "none in nnU-Net v1")
            if attends:
                self._take_attention(weights, stage)
            weights.take(f"decoder.seg_layers.{stage}.weight", f"seg_outputs.{stage}.weight")
            bias = f"seg_outputs.{stage}.bias"
            if bias in weights.old_names:
                weights.take(f"decoder.seg_layers.{stage}.bias", bias)
            else:
                weights.zero(f"decoder.seg_layers.{stage}.bias", "none in nnU-Net v1")

    def _take_attention(self, weights: WeightTransfer, stage: int) -> None:
        new = f"decoder.transpconvs.{stage}.1"
        for axis in range(self.dimensions):
            weights.take(f"{new}.position.tables.{axis}", f"axial_embedding.{stage}.param_{axis}")
            old = f"axial_attention.{stage}.axial_attentions.{axis}.fn"
            weights.take(f"{new}.attentions.{axis}.query_key_value.weight", f"{old}.to_q.weight", f"{old}.to_kv.weight")
            for part in ("weight", "bias"):
                weights.take(f"{new}.attentions.{axis}.output.{part}", f"{old}.to_out.{part}")


def read_structure(weights: Mapping[str, Tensor], source: str) -> GenericUNet:
    """The network that has these weights.

    Raises:
        ValueError: they are of another network, or of a Generic_UNet with other poolings or attention than D-LMBmap's.
    """
    if _FIRST not in weights:
        raise ValueError(f"{source} has no weights {_FIRST}, only such as {next(iter(weights))}; expected a Generic_UNet of nnU-Net v1")
    n_pools = _count(weights, r"tu\.(\d+)\.weight")
    if not n_pools:
        raise ValueError(f"{source} has no weights tu.0.weight, so it pools and up-samples without convolutions; expected a network of "
                         "nnU-Net v1's nnUNetTrainerV2, which learns both")
    context = [_count(weights, rf"conv_blocks_context\.{stage}\.blocks\.(\d+)\.conv\.weight") for stage in range(n_pools)]
    context.append(1 + _count(weights, rf"conv_blocks_context\.{n_pools}\.0\.blocks\.(\d+)\.conv\.weight"))
    localization = [1 + _count(weights, rf"conv_blocks_localization\.{stage}\.0\.blocks\.(\d+)\.conv\.weight") for stage in range(n_pools)]
    firsts = [_shape(weights, f"{_encoder_block(stage, 0, context)}.conv.weight", source) for stage in range(n_pools + 1)]
    ups = [_shape(weights, f"conv_blocks_localization.{stage}.0.blocks.0.conv.weight", source) for stage in reversed(range(n_pools))]
    kernels = [tuple(map(max, down[2:], up[2:])) for down, up in zip(firsts, ups)] + [firsts[-1][2:]]
    pools = tuple(_shape(weights, f"tu.{stage}.weight", source)[2:] for stage in reversed(range(n_pools)))
    heads = _shape(weights, f"seg_outputs.{n_pools - 1}.weight", source)
    return GenericUNet(channels=firsts[0][1], classes=heads[0], features=tuple(shape[0] for shape in firsts),
                       kernels=tuple(kernels), pools=pools, convolutions=tuple(context),
                       decoder_convolutions=tuple(localization), table_shape=_table_shape(weights, pools, source))


def _table_shape(weights: Mapping[str, Tensor], pools: tuple[tuple[int, ...], ...], source: str) -> tuple[int, ...] | None:
    n_attentions = _count(weights, r"axial_embedding\.(\d+)\.param_0")
    if not n_attentions:
        return None
    if len(pools[0]) != 3 or n_attentions != len(pools) - 1:
        raise ValueError(f"{source} attends at {n_attentions} levels of {len(pools)} in {len(pools[0])}D; expected D-LMBmap's axial "
                         "network, which attends at all but the one of full resolution, in 3D")
    # the last attention is one pooling below full resolution
    last = [max(_shape(weights, f"axial_embedding.{n_attentions - 1}.param_{axis}", source)[2:]) for axis in range(3)]
    return tuple(length * step for length, step in zip(last, pools[0]))


def _encoder_block(stage: int, index: int, convolutions: tuple[int, ...] | list[int]) -> str:
    if stage < len(convolutions) - 1:
        return f"conv_blocks_context.{stage}.blocks.{index}"
    # the stage of lowest resolution is in two parts, its last convolution by itself
    return f"conv_blocks_context.{stage}.{'1.blocks.0' if index == convolutions[-1] - 1 else f'0.blocks.{index}'}"


def _take_block(weights: WeightTransfer, old: str, new: str) -> None:
    for old_layer, new_layer in (("conv", "conv"), ("instnorm", "norm")):
        for part in ("weight", "bias"):
            weights.take(f"{new}.{new_layer}.{part}", f"{old}.{old_layer}.{part}")


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.fullmatch(pattern, name))})


def _shape(weights: Mapping[str, Tensor], name: str, source: str) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"{source} has no weights {name}, which its other layers call for; the file is of another network or incomplete")
    return tuple(weights[name].shape)
