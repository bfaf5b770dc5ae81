"""The U-Net of the thalamus benchmark, MTNeuro and the Kasthuri challenge: max-pooling on the way down.

MTNeuro and the Kasthuri challenge use that of github.com/johschmidt42/PyTorch-2D-3D-UNet-Tutorial, which normalises behind the
activation and has both behind every up-sampling too.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from torch import nn

MAX_POOL_UNET = f"{__name__}.MaxPoolUNet"


class MaxPoolUNet(PlainConvUNet):
    """PlainConvUNet that halves by max-pooling instead of by the step of a convolution.

    Args:
        args, kwargs: PlainConvUNet's.
        activated_upsampling: activation and normalisation behind every transposed convolution, in the order of `nonlin_first`.
    """

    def __init__(self, input_channels: int, n_stages: int, features_per_stage: Sequence[int], conv_op: type[nn.Module],
                 kernel_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]], n_conv_per_stage: Sequence[int],
                 num_classes: int, n_conv_per_stage_decoder: Sequence[int], *, deep_supervision: bool = False, nonlin_first: bool = False,
                 activated_upsampling: bool = False, **kwargs) -> None:
        super().__init__(input_channels, n_stages, features_per_stage, conv_op, kernel_sizes, strides, n_conv_per_stage, num_classes,
                         n_conv_per_stage_decoder, deep_supervision=deep_supervision, nonlin_first=nonlin_first, **kwargs)
        self.encoder = PlainConvEncoder(input_channels, n_stages, features_per_stage, conv_op, kernel_sizes, strides, n_conv_per_stage,
                                        return_skips=True, nonlin_first=nonlin_first, pool="max", **kwargs)
        self.decoder = UNetDecoder(self.encoder, num_classes, n_conv_per_stage_decoder, deep_supervision, nonlin_first=nonlin_first)
        if activated_upsampling:
            for index, convolution in enumerate(self.decoder.transpconvs):
                behind = [self.encoder.norm_op(convolution.out_channels, **self.encoder.norm_op_kwargs or {}),
                          self.encoder.nonlin(**self.encoder.nonlin_kwargs or {})]
                self.decoder.transpconvs[index] = nn.Sequential(convolution, *(behind[::-1] if nonlin_first else behind))


def max_pool_architecture(features: Sequence[int], dimensions: int, *, nonlin_first: bool, activated_upsampling: bool) -> dict:
    """The section `architecture` of plans for a MaxPoolUNet: two convolutions of 3 at each stage, batch normalisation, ReLU.

    Args:
        features: channels of each stage.
        dimensions: number of spatial axes.
        nonlin_first, activated_upsampling: see `MaxPoolUNet`.
    """
    stages = len(features)
    arguments = {
        "n_stages": stages, "features_per_stage": list(features), "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * stages, "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        "n_conv_per_stage": [2] * stages, "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
        "norm_op": f"torch.nn.modules.batchnorm.BatchNorm{dimensions}d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.ReLU", "nonlin_kwargs": {},
        "nonlin_first": nonlin_first, "activated_upsampling": activated_upsampling,
    }
    return {"network_class_name": MAX_POOL_UNET, "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}
