"""D-LMBmap's network of axial attention as it was trained: with learnt tables of positions for one patch size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunet_neuro.networks.axial_attention import AxialAttentionUNet

TABLED_AXIAL_UNET = f"{__name__}.TabledAxialUNet"


class TabledAxialUNet(AxialAttentionUNet):
    """AxialAttentionUNet whose position codes are tables, one for each axis and level.

    For checkpoints of D-LMBmap's MyTrainerAxial; new trainings take AxialAttentionUNet, which has no tables. At another patch size the
    tables are interpolated linearly.

    Args:
        table_shape: patch size in voxels that the tables were learnt for.
    """

    def __init__(self, *args, table_shape: Sequence[int], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        shape = list(table_shape)
        blocks = list(self.decoder.transpconvs)[-2::-1]  # from the highest resolution that attends to the lowest
        for stride, upsampling in zip(self.encoder.strides[1:], blocks):
            shape = [length // step for length, step in zip(shape, stride)]
            upsampling[1].position = PositionTables(upsampling[0].out_channels, shape)


class PositionTables(nn.Module):
    """A learnt code for every coordinate of every axis, summed over the axes."""

    def __init__(self, channels: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.tables = nn.ParameterList(nn.Parameter(torch.randn(channels, length)) for length in shape)

    def forward(self, shape: Sequence[int]) -> Tensor:
        """(C, *shape)"""
        code = 0
        for axis, table in enumerate(self.tables):
            if table.shape[1] != shape[axis]:
                table = functional.interpolate(table[None], size=shape[axis], mode="linear")[0]
            code = code + table.reshape(-1, *(shape[axis] if other == axis else 1 for other in range(len(shape))))
        return code
