"""The two 3D networks that MTNeuro takes from MedicalZooPytorch, built from MONAI: V-Net light and HighResNet.

V-Net: Milletari et al. 2016, arXiv:1606.04797; the light one leaves out its lowest resolution. HighResNet: Li et al. 2017,
arXiv:1707.01992. MONAI is an optional dependency: `pip install 'nnunet_neuro[monai]'`. Both have a fixed architecture; of nnU-Net's plan
they take the patch, the batch size and the number of axes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.helper import convert_conv_op_to_dim
from torch import Tensor, nn

from nnunet_neuro.networks.padding import on_padded

VNET_LIGHT = "nnunet_neuro.networks.monai_networks.VNetLight"
HIGH_RES_NET = "nnunet_neuro.networks.monai_networks.HighResNet"
# features of V-Net's first level, doubled at each of the halvings
FIRST_FEATURES = 16
HALVINGS = 3
ACTIVATION = ("elu", {"inplace": True})


class VNetLight(nn.Module):
    """V-Net without its lowest resolution, as MedicalZooPytorch's VNetLight, in 2D and 3D.

    Two differences: any number of input channels (MONAI's and MedicalZooPytorch's must divide 16), and patches of any size (padded to a
    multiple of 8 by repeating the border).

    Args:
        input_channels: of the image.
        num_classes: of the logits.
        conv_op: convolution class; says the number of axes.
        strides: where nnU-Net looks for them in plans; not used.
        deep_supervision: not available.
    """

    def __init__(self, input_channels: int, num_classes: int, conv_op: type[nn.Module],
                 strides: Sequence[Sequence[int]] | None = None, deep_supervision: bool = False) -> None:
        super().__init__()
        _refuse_deep_supervision(deep_supervision, "VNetLight", "nnUNetTrainerVNet")
        require_monai()
        from monai.networks.nets import vnet

        dimensions = convert_conv_op_to_dim(conv_op)
        channels = FIRST_FEATURES
        first = vnet.InputTransition(dimensions, 1, channels, ACTIVATION)
        # with as many channels as there are; MONAI's check of their number is about the residual connection, which `forward` makes
        first.conv_block = vnet.Convolution(spatial_dims=dimensions, in_channels=input_channels, out_channels=channels, kernel_size=5,
                                            act=None, norm=vnet.Norm.BATCH, bias=False)
        self.encoder = nn.ModuleList([
            first,
            vnet.DownTransition(dimensions, channels, 1, ACTIVATION),
            vnet.DownTransition(dimensions, 2 * channels, 2, ACTIVATION),
            vnet.DownTransition(dimensions, 4 * channels, 3, ACTIVATION, dropout_prob=0.5, dropout_dim=dimensions),
        ])
        self.decoder = nn.Module()
        self.decoder.stages = nn.ModuleList([
            vnet.UpTransition(dimensions, 8 * channels, 8 * channels, 2, ACTIVATION, dropout_prob=(0.5, 0.5), dropout_dim=dimensions),
            vnet.UpTransition(dimensions, 8 * channels, 4 * channels, 1, ACTIVATION, dropout_dim=dimensions),
            vnet.UpTransition(dimensions, 4 * channels, 2 * channels, 1, ACTIVATION, dropout_dim=dimensions),
        ])
        # nnU-Net does not transfer what stands below this name when it fine-tunes
        self.decoder.seg_layers = nn.ModuleList([vnet.OutputTransition(dimensions, 2 * channels, num_classes, ACTIVATION)])

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, *spatial) for an image (B, C, *spatial)."""
        return on_padded(image, self._forward_padded, multiple=2**HALVINGS)

    def _forward_padded(self, image: Tensor) -> Tensor:
        first, *down = self.encoder
        repeats = [1] * image.ndim
        repeats[1] = -(-FIRST_FEATURES // image.shape[1])
        features = first.act_function(first.conv_block(image) + image.repeat(repeats)[:, :FIRST_FEATURES])
        skips = []
        for stage in down:
            skips.append(features)
            features = stage(features)
        for stage in self.decoder.stages:
            features = stage(features, skips.pop())
        return self.decoder.seg_layers[0](features)


class HighResNet(nn.Module):
    """HighResNet: residual blocks of dilated convolutions at full resolution, in 2D and 3D.

    As in MONAI up to the last layer, which is a plain 1x1 convolution here; MONAI's normalises its input and cuts logits at zero.
    All features have the resolution of the patch: 0.8 million parameters, and several times the memory of nnU-Net's U-Net.

    Args:
        input_channels: of the image.
        num_classes: of the logits.
        conv_op: convolution class; says the number of axes.
        strides: where nnU-Net looks for them in plans; not used.
        deep_supervision: not available.
    """

    def __init__(self, input_channels: int, num_classes: int, conv_op: type[nn.Module],
                 strides: Sequence[Sequence[int]] | None = None, deep_supervision: bool = False) -> None:
        super().__init__()
        _refuse_deep_supervision(deep_supervision, "HighResNet", "nnUNetTrainerHighResNet")
        require_monai()
        from monai.networks.nets import highresnet

        model = highresnet.HighResNet(convert_conv_op_to_dim(conv_op), input_channels, num_classes)
        features = highresnet.DEFAULT_LAYER_PARAMS_3D[-2]["n_features"]
        self.encoder = model.blocks[:-1]
        self.decoder = nn.Module()
        # nnU-Net does not transfer what stands below this name when it fine-tunes
        self.decoder.seg_layers = nn.ModuleList([conv_op(features, num_classes, kernel_size=1)])

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, *spatial) for an image (B, C, *spatial)."""
        return self.decoder.seg_layers[0](self.encoder(image))


def vnet_architecture(architecture: dict, patch_size: list[int]) -> dict:
    """The section `architecture` of plans for a VNetLight; only the number of axes comes from the planned one."""
    return _fixed_architecture(VNET_LIGHT, len(patch_size), strides=[1] + [2] * HALVINGS)


def highresnet_architecture(architecture: dict, patch_size: list[int]) -> dict:
    """The section `architecture` of plans for a HighResNet; only the number of axes comes from the planned one."""
    return _fixed_architecture(HIGH_RES_NET, len(patch_size), strides=[1])


def require_monai() -> None:
    """Stop where MONAI is not installed.

    Raises:
        ModuleNotFoundError: saying what to install.
    """
    if importlib.util.find_spec("monai") is None:
        raise ModuleNotFoundError("V-Net light and HighResNet are in MONAI, which is not installed; run: pip install 'nnunet_neuro[monai]'")


def _fixed_architecture(class_name: str, dimensions: int, *, strides: list[int]) -> dict:
    require_monai()
    convolution = f"torch.nn.modules.conv.Conv{dimensions}d"
    arguments = {"conv_op": convolution, "strides": [[stride] * dimensions for stride in strides]}
    return {"network_class_name": class_name, "arch_kwargs": arguments, "_kw_requires_import": ["conv_op"]}


def _refuse_deep_supervision(deep_supervision: bool, network: str, trainer: str) -> None:
    if deep_supervision:
        raise ValueError(f"{network} has a single output, deep supervision wants several; train it with -tr {trainer}")
