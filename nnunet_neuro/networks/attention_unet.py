"""nnU-Net's plain U-Net with additive attention gates on its skip connections (Oktay et al. 2018, arXiv:1804.03999).

The attention network of the Kasthuri challenge (github.com/aplbrain/bossdb-kasthuri-challenge) gates the up-sampled decoder features
with the skip and concatenates them with themselves, so that no skip ever reaches the decoder. Here the decoder gates the skip, as in
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from torch import Tensor, nn
from torch.nn import functional

LINEAR_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class AttentionUNet(PlainConvUNet):
    """PlainConvUNet whose decoder weights every skip, voxel by voxel, before it is concatenated.

    The gating signal of a skip are the decoder's features one stage below, at their own resolution, as in the paper. The skip at full
    resolution is not gated, as in the paper: its features are too plain to compare with the signal, and it is the largest.
    The constructor is PlainConvUNet's, so a plans file may name this class in place of PlainConvUNet.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        channels, strides = self.encoder.output_channels, self.encoder.strides
        # from the lowest resolution up, as the decoder's stages; the last stage, at full resolution, has none
        self.gates = nn.ModuleList(
            AttentionGate(self.encoder.conv_op, channels[level], channels[level + 1], strides[level + 1])
            for level in reversed(range(1, len(channels) - 1))
        )

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits (B, classes, *spatial), with deep supervision a list of them from the highest resolution down."""
        skips = self.encoder(image)
        features = skips.pop()
        decoder = self.decoder
        outputs = []
        for index, (upsample, stage) in enumerate(zip(decoder.transpconvs, decoder.stages, strict=True)):
            skip = skips.pop()
            if index < len(self.gates):
                skip = self.gates[index](skip, features)
            features = stage(torch.cat((upsample(features), skip), dim=1))
            if decoder.deep_supervision:
                outputs.append(decoder.seg_layers[index](features))
        return outputs[::-1] if decoder.deep_supervision else decoder.seg_layers[-1](features)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Feature map elements that nnU-Net's planner estimates the memory from, those of the gates included."""
        total = super().compute_conv_feature_map_size(input_size)
        shape = np.asarray(input_size)
        for level, stride in enumerate(self.encoder.strides[:-1]):
            shape = shape // stride
            if level > 0:
                total += self.gates[-level].feature_map_size(shape)
        return total


class AttentionGate(nn.Module):
    """Weights between 0 and 1 for every voxel of a skip, from the skip and a signal of lower resolution.

    weights = upsampled(sigmoid(psi(relu(W_x skip + W_g signal + b)) + b_psi)); W_x takes the skip to the resolution of the signal.

    Args:
        conv_op: convolution of the network's number of axes.
        skip_channels: of the skip (B, C, *spatial), which the output has as well.
        signal_channels: of the signal (B, C', *spatial / stride).
        stride: between skip and signal, per axis.
    """

    def __init__(self, conv_op: type[nn.Module], skip_channels: int, signal_channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        hidden = max(1, skip_channels // 2)
        self.stride = tuple(stride)
        self.from_skip = conv_op(skip_channels, hidden, kernel_size=self.stride, stride=self.stride, bias=False)
        self.from_signal = conv_op(signal_channels, hidden, kernel_size=1)
        self.to_weights = conv_op(hidden, 1, kernel_size=1)
        self.interpolation = LINEAR_INTERPOLATION[convert_conv_op_to_dim(conv_op)]

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """The skip, weighted."""
        weights = torch.sigmoid(self.to_weights(functional.relu(self.from_skip(skip) + self.from_signal(signal))))
        return skip * functional.interpolate(weights, size=skip.shape[2:], mode=self.interpolation)

    def feature_map_size(self, shape: Sequence[int]) -> int:
        """Elements in nnU-Net's unit, one per voxel and channel of a convolution, for a skip of this spatial shape."""
        at_signal = np.prod(np.asarray(shape) // self.stride, dtype=np.int64)
        weighted_skip = self.from_skip.in_channels * np.prod(shape, dtype=np.int64)
        return (2 * self.from_skip.out_channels + 1) * at_signal + weighted_skip
