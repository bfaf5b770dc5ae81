"""nnU-Net's plain U-Net with axial self-attention in its decoder.

The architecture of D-LMBmap, axon segmentation (github.com/lmbneuron/D-LMBmap), which puts axial attention (Ho et al.
2019, arXiv:1912.12180; compare Axial-DeepLab, Wang et al. 2020, arXiv:2003.07853) behind every up-sampling. Where we
differ from D-LMBmap is written at `AxialAttentionUNet`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from torch import Tensor, nn
from torch.nn import functional

# the deepest level of the original; the next one would have four times its width, 16384
DEEPEST_LEVEL = 4
# wavelengths of the position code in voxels of the attended feature map
WAVELENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)
# CUDA starts one block per line and head along grid dimensions that end here
MOST_LINES_TIMES_HEADS = 65535


class AxialAttentionUNet(PlainConvUNet):
    """PlainConvUNet whose decoder attends along whole axes of the patch.

    At every decoder level but the full-resolution one, between up-sampling and concatenation with the skip:
    x <- A(x + P) + x. A is one self-attention after another along every spatial axis, each softmax(Q K^T / sqrt(e)) V
    within its line. P encodes the position in the patch. A level d poolings away from full resolution has 2 * 2^d heads
    of 8 * 2^d channels. Additional parameters on nnU-Net's default plan for 128^3 voxels (six stages, 32 to 320
    features):

        d   channels   heads   channels per head   hidden   parameters
        4        320      32                 128     4096       15.7 M
        3        256      16                  64     1024        3.2 M
        2        128       8                  32      256        0.4 M
        1         64       4                  16       64       0.05 M
                                                              19.4 M, in total 50.6 M instead of 31.2 M

    Measured by benchmarks/axial_attention_memory.py for that plan (one patch of 128^3, 32 bit, two x86-64 cores, torch
    2.15; without -> with attention): 3.6 -> 5.4 GB kept for the backward pass, 5.8 -> 7.9 GB peak memory of the process,
    20 -> 22 s for forward and backward.

    Differences from D-LMBmap's MyTrainerAxial:
    - P was a learnt table per axis for a patch of exactly 128 voxels. Here it is a learnt linear map of sines and
      cosines of the coordinate, counted from the centre of the patch. No parameter depends on the patch size: every
      patch size works, in 2D and 3D and with anisotropic pooling, and a checkpoint loads at another one. P starts with
      the same variance.
    - d is capped at 4, the deepest level of the original, so that plans of seven and more stages stay trainable.
    - torch's scaled dot-product attention instead of the package axial-attention: its fused kernels never store the
      attention matrices and compute the softmax in 32 bit under mixed precision.

    The constructor is PlainConvUNet's, so a plans file may name this class in place of PlainConvUNet.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        dimensions = convert_conv_op_to_dim(self.encoder.conv_op)
        n_upsamplings = len(self.decoder.transpconvs)
        for index in range(n_upsamplings - 1):
            level = n_upsamplings - index - 1
            block = AxialAttentionBlock(
                self.encoder.output_channels[level],
                dimensions,
                heads=2 * 2 ** min(level, DEEPEST_LEVEL),
                channels_per_head=8 * 2 ** min(level, DEEPEST_LEVEL),
            )
            self.decoder.transpconvs[index] = nn.Sequential(self.decoder.transpconvs[index], block)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Feature map elements that nnU-Net's planner estimates the memory from, those of the attention included."""
        total = super().compute_conv_feature_map_size(input_size)
        shape = np.asarray(input_size)
        for level, stride in enumerate(self.encoder.strides[:-1]):
            shape = shape // stride
            if level > 0:
                total += self.decoder.transpconvs[-1 - level][1].feature_map_size(shape)
        return total


class AxialAttentionBlock(nn.Module):
    """Self-attention along one spatial axis after another, with position code and residual connection.

    Args:
        channels: of input and output (B, C, *spatial).
        dimensions: number of spatial axes.
        heads: attention heads per axis.
        channels_per_head: of queries, keys and values.
    """

    def __init__(self, channels: int, dimensions: int, *, heads: int, channels_per_head: int) -> None:
        super().__init__()
        self.position = PositionCode(channels, dimensions)
        self.attentions = nn.ModuleList(LineAttention(channels, heads, channels_per_head) for _ in range(dimensions))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, *spatial), any floating type, to the same shape and type."""
        attended = features + self.position(features.shape[2:])
        for axis, attention in enumerate(self.attentions, start=2):
            attended = attention(attended, axis)
        return attended + features

    def feature_map_size(self, shape: Sequence[int]) -> int:
        """Elements kept for the backward pass at this spatial shape, in nnU-Net's unit.

        nnU-Net counts one element per voxel and output channel of a convolution, where two are kept, before and after
        the normalisation; the elements of the attention are halved to match.
        """
        kept_per_voxel = sum(a.query_key_value.in_features + 4 * a.output.in_features for a in self.attentions)
        return kept_per_voxel * np.prod(shape, dtype=np.int64) // 2


class LineAttention(nn.Module):
    """Multi-head self-attention within every line of voxels along one axis."""

    def __init__(self, channels: int, heads: int, channels_per_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(channels, 3 * heads * channels_per_head, bias=False)
        self.output = nn.Linear(heads * channels_per_head, channels)

    def forward(self, features: Tensor, axis: int) -> Tensor:
        """(B, C, *spatial) to the same shape; `axis` counts from 2, the first spatial one."""
        # (B, C, *spatial) -> (B, *other axes, L, C)
        lines = features.movedim((axis, 1), (-2, -1))
        flat = lines.flatten(0, -3)
        most_lines = MOST_LINES_TIMES_HEADS // self.heads
        if len(flat) <= most_lines:
            attended = self.attend(flat)
        else:
            attended = torch.cat([self.attend(part) for part in flat.split(most_lines)])
        return attended.reshape(lines.shape).movedim((-2, -1), (axis, 1))

    def attend(self, lines: Tensor) -> Tensor:
        """lines: (N, L, C)."""
        # 3 x (N, heads, L, e)
        query, key, value = self.query_key_value(lines).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(-2))


class PositionCode(nn.Module):
    """Learnt code of the position in the patch: a linear map of sines and cosines per axis, summed over the axes.

    Coordinates count voxels from the centre of the patch, which keeps its code when the patch grows.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.axes = nn.ModuleList(nn.Linear(2 * len(WAVELENGTHS), channels, bias=False) for _ in range(dimensions))
        for linear in self.axes:
            # sin^2 + cos^2 = 1 makes this unit variance at every coordinate, as the original's tables have
            nn.init.normal_(linear.weight, std=len(WAVELENGTHS) ** -0.5)

    def forward(self, shape: Sequence[int]) -> Tensor:
        """(C, *shape)"""
        dimensions = len(self.axes)
        code = 0
        for axis, linear in enumerate(self.axes):
            along_axis = linear(coordinate_features(shape[axis], device=linear.weight.device)).T
            code = code + along_axis.reshape(-1, *(shape[axis] if a == axis else 1 for a in range(dimensions)))
        return code


def coordinate_features(length: int, *, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of the centred voxel coordinates of an axis: (length, 2 * number of wavelengths) float32."""
    coordinate = torch.arange(length, device=device, dtype=torch.float32) - (length - 1) / 2
    angle = coordinate[:, None] * (2 * math.pi / torch.tensor(WAVELENGTHS, device=device, dtype=torch.float32))
    return torch.cat((angle.sin(), angle.cos()), dim=1)
