"""nnU-Net's plain U-Net with one stage more than planned.

The deeper network of the Kasthuri challenge (github.com/aplbrain/bossdb-kasthuri-challenge), whose U-Net has five instead of four
stages of fixed width. Here the plan of the dataset decides, and the new stage follows from its last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor, nn
from torch.nn import functional

from nnunet_neuro.networks.plans import PLAIN_UNET, require_network

DEEP_UNET = "nnunet_neuro.networks.deep_unet.DeepUNet"
# nnU-Net's planner never makes more features than these, per number of axes
MOST_FEATURES = {2: 512, 3: 320}
# an axis this long at the lowest resolution is still halved: two voxels are left, as instance normalisation needs
SHORTEST_EDGE_TO_HALVE = 4
LINEAR_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class DeepUNet(PlainConvUNet):
    """PlainConvUNet whose lowest resolution is brought back by a 1x1 convolution and linear interpolation.

    A transposed convolution there would tie the shape of its weights to the axes that are halved, and those depend on the patch size:
    a network trained with one patch size could not be fine-tuned with another.
    The constructor is PlainConvUNet's, so a plans file may name this class in place of PlainConvUNet.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        encoder = self.encoder
        self.decoder.transpconvs[0] = InterpolatedUpsampling(
            encoder.conv_op, encoder.output_channels[-1], encoder.output_channels[-2], encoder.strides[-1]
        )


class InterpolatedUpsampling(nn.Module):
    """1x1 convolution, then linear interpolation by whole factors; the parameters do not depend on the factors."""

    def __init__(self, conv_op: type[nn.Module], input_channels: int, output_channels: int, factors: Sequence[int]) -> None:
        super().__init__()
        self.convolution = conv_op(input_channels, output_channels, kernel_size=1)
        self.factors = [float(factor) for factor in factors]

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *spatial) to (B, output channels, *spatial times factors)."""
        # in this order, which gives the same result, because there are fewer voxels to convolve
        mixed = self.convolution(features)
        return functional.interpolate(mixed, scale_factor=self.factors, mode=LINEAR_INTERPOLATION[len(self.factors)])


def deeper_architecture(architecture: dict, patch_size: list[int]) -> dict:
    """The planned U-Net with one stage more at the bottom.

    The new stage halves the axes that have an even number of voxels left, at least four of them; others keep their length, so that the
    patch stays valid as it is. It has twice the features of the stage above, unless the plan stopped doubling there already, and never
    more than nnU-Net's planner allows (512 in 2D, 320 in 3D). Kernel size and number of convolutions are those of the stage above.

    Args:
        architecture: section of a plan for PlainConvUNet, or what this function returned, which comes back unchanged.
        patch_size: in voxels.

    Raises:
        ValueError: the plan is for another network.
    """
    if architecture["network_class_name"] == DEEP_UNET:
        return architecture
    require_network(architecture, PLAIN_UNET)
    plan = architecture["arch_kwargs"]
    deeper = {
        **plan,
        "n_stages": plan["n_stages"] + 1,
        "features_per_stage": [*plan["features_per_stage"], _more_features(plan["features_per_stage"], len(patch_size))],
        "kernel_sizes": [*plan["kernel_sizes"], plan["kernel_sizes"][-1]],
        "strides": [*plan["strides"], _more_strides(plan["strides"], patch_size)],
        "n_conv_per_stage": [*plan["n_conv_per_stage"], plan["n_conv_per_stage"][-1]],
        # the decoder's list begins at the bottom
        "n_conv_per_stage_decoder": [plan["n_conv_per_stage_decoder"][0], *plan["n_conv_per_stage_decoder"]],
    }
    return {**architecture, "network_class_name": DEEP_UNET, "arch_kwargs": deeper}


def _more_features(features: list[int], dimensions: int) -> int:
    if len(features) > 1 and features[-1] < 2 * features[-2]:
        return features[-1]
    return max(features[-1], min(2 * features[-1], MOST_FEATURES[dimensions]))


def _more_strides(strides: list[list[int]], patch_size: list[int]) -> list[int]:
    edges = np.asarray(patch_size) // np.prod(strides, axis=0)
    return [2 if edge % 2 == 0 and edge >= SHORTEST_EDGE_TO_HALVE else 1 for edge in edges.tolist()]
