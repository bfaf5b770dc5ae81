"""2D networks of an image encoder from timm and a decoder from segmentation-models-pytorch.

MTNeuro (github.com/MTNeuro/MTNeuro) compares these decoders on its pixel-level task. Their code is in segmentation-models-pytorch, an
optional dependency: `pip install 'nnunet_neuro[smp]'`.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_neuro.networks.padding import on_padded

TIMM_UNET = "nnunet_neuro.networks.timm_unet.TimmUNet"
# the name in a plan -> the class in segmentation-models-pytorch
DECODERS = {
    "unet": "Unet",
    "unetplusplus": "UnetPlusPlus",
    "fpn": "FPN",
    "manet": "MAnet",
    "pan": "PAN",
    "linknet": "Linknet",
    "pspnet": "PSPNet",
    "deeplabv3plus": "DeepLabV3Plus",
}
DEFAULT_ENCODER, DEFAULT_DECODER = "resnet34", "unet"
IMAGENET = "imagenet"
# the encoders halve an image five times
STRIDES = [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2], [2, 2]]
MULTIPLE = 32
# PAN halves the features of stride 16 three times more
SHORTEST_EDGE = {"pan": 128}


class TimmUNet(nn.Module):
    """Encoder from timm, decoder from segmentation-models-pytorch, one output at the resolution of the image.

    Images of any size are padded to what encoder and decoder need by repeating the border, and the logits are cut back. Nearly every
    convolutional encoder of timm fits every decoder; PAN and DeepLabV3+ want one that can be dilated (ResNet, EfficientNet, RegNet,
    MobileNet, ConvNeXt), and transformers with a fixed image size (Swin, ViT) fit none. These two decoders normalise over a whole batch
    what they pooled from each image, so they train with two images or more, as every plan of nnU-Net has. With several GPUs PSPNet wants
    an encoder whose layers it uses all, as those of a ResNet.

    The constructor takes what a plans file may say, `load_encoder_weights` what it says about weights.

    Args:
        input_channels: of the image, any number.
        num_classes: of the logits.
        encoder: name of a timm model, with the tag of its weights if it shall not be timm's default ("resnet34.a1_in1k").
        decoder: a key of DECODERS.
        encoder_weights: None for random ones, "imagenet" for those that timm downloads, or the path of a file of timm's.
        strides: where nnU-Net looks for them in plans; those of the encoder, whatever is given.
        deep_supervision: not available.

    Raises:
        ValueError: unknown or unfitting encoder or decoder, or deep supervision wanted.
        ModuleNotFoundError: segmentation-models-pytorch is not installed.
    """

    def __init__(self, input_channels: int, num_classes: int, encoder: str = DEFAULT_ENCODER, decoder: str = DEFAULT_DECODER,
                 encoder_weights: str | None = None, strides: Sequence[Sequence[int]] = tuple(STRIDES),
                 deep_supervision: bool = False) -> None:
        super().__init__()
        if deep_supervision:
            raise ValueError(
                "TimmUNet has a single output, deep supervision wants several; train it with -tr nnUNetTrainerTimmUNet"
            )
        self.input_channels = input_channels
        self.encoder_name, self.decoder_name, self.encoder_weights = encoder, decoder, encoder_weights
        model = _build(encoder, decoder, input_channels, num_classes)
        self.encoder = model.encoder
        self.decoder = model.decoder
        # nnU-Net does not transfer what stands below this name when it fine-tunes, nor does it expect it to fit
        self.decoder.seg_layers = nn.ModuleList([model.segmentation_head])

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, y, x) for an image (B, C, y, x)."""
        return on_padded(image, self._forward_padded, multiple=MULTIPLE, shortest=SHORTEST_EDGE.get(self.decoder_name, MULTIPLE))

    def _forward_padded(self, image: Tensor) -> Tensor:
        return self.decoder.seg_layers[0](self.decoder(self.encoder(image)))

    def load_encoder_weights(self) -> str:
        """Load the encoder weights that were named; to be called once, before a training.

        The weights of the first layer are adapted to the number of channels, as timm does.

        Returns:
            A sentence that says what was loaded.

        Raises:
            OSError: the weights cannot be read or downloaded.
            ValueError: there are none for this encoder, or the file is not of this encoder.
        """
        if self.encoder_weights is None:
            return f"Encoder {self.encoder_name} starts with random weights"
        parts = self.encoder_name, self.decoder_name, self.input_channels
        if self.encoder_weights == IMAGENET:
            weights = _imagenet_weights(*parts)
        else:
            weights = _weights_of_file(Path(self.encoder_weights), *parts)
        self.encoder.load_state_dict(weights)
        return f"Encoder {self.encoder_name} starts with the weights {self.encoder_weights}"


def timm_architecture(architecture: dict, patch_size: list[int]) -> dict:
    """The section `architecture` of plans for a TimmUNet: as it is where it is one already, otherwise the default encoder and decoder.

    Args:
        architecture: the planned section.
        patch_size: not used; any patch of two axes will do.

    Raises:
        ModuleNotFoundError: segmentation-models-pytorch is not installed.
    """
    require_segmentation_models()
    if architecture["network_class_name"] == TIMM_UNET:
        return architecture
    return chosen_architecture(DEFAULT_ENCODER, DEFAULT_DECODER, None)


def chosen_architecture(encoder: str, decoder: str, encoder_weights: str | None) -> dict:
    """The section `architecture` of plans for a TimmUNet of these parts."""
    arguments = {"encoder": encoder, "decoder": decoder, "encoder_weights": encoder_weights, "strides": STRIDES}
    return {"network_class_name": TIMM_UNET, "arch_kwargs": arguments, "_kw_requires_import": []}


def require_segmentation_models() -> None:
    """Stop where the decoders are not installed.

    Raises:
        ModuleNotFoundError: saying what to install.
    """
    if importlib.util.find_spec("segmentation_models_pytorch") is None:
        raise ModuleNotFoundError(
            "the decoders of TimmUNet are in segmentation-models-pytorch, which is not installed; run: pip install 'nnunet_neuro[smp]'"
        )


def _build(encoder: str, decoder: str, input_channels: int, num_classes: int) -> nn.Module:
    require_segmentation_models()
    import timm

    if decoder not in DECODERS:
        raise ValueError(f"the decoder is {decoder!r}, expected one of {', '.join(DECODERS)}")
    if not timm.is_model(encoder.partition(".")[0]):
        names = timm.list_models()
        similar = difflib.get_close_matches(encoder, names, n=5) or names[:5]
        raise ValueError(f"timm has no encoder {encoder!r}, expected one of its {len(names)} models, for example {', '.join(similar)}")
    try:
        return _segmentation_model(encoder, decoder, input_channels, num_classes)
    # what does not fit shows itself as one of these, in timm or in segmentation-models-pytorch
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError) as error:
        raise ValueError(
            f"encoder {encoder} does not fit decoder {decoder} ({str(error) or type(error).__name__}); "
            f"use another decoder, or another encoder, for example {DEFAULT_ENCODER}"
        ) from error


def _segmentation_model(encoder: str, decoder: str, input_channels: int, num_classes: int = 1, *, pretrained: bool = False,
                        **encoder_arguments) -> nn.Module:
    import segmentation_models_pytorch

    # tu: timm's own models rather than the copies of some in segmentation-models-pytorch
    return getattr(segmentation_models_pytorch, DECODERS[decoder])(
        encoder_name=f"tu-{encoder}", encoder_weights=True if pretrained else None, in_channels=input_channels, classes=num_classes,
        **encoder_arguments,
    )


def _imagenet_weights(encoder: str, decoder: str, input_channels: int) -> dict[str, Tensor]:
    import timm

    if not timm.models.is_model_pretrained(encoder):
        raise ValueError(f"timm has no ImageNet weights for {encoder}; use random weights, or name a file")
    try:
        return _segmentation_model(encoder, decoder, input_channels, pretrained=True).encoder.state_dict()
    except Exception as error:  # timm, huggingface_hub and its web client each have their own
        reason = (str(error).strip().splitlines() or [""])[0]
        raise OSError(
            f"the ImageNet weights of {encoder} could not be downloaded ({type(error).__name__}: {reason}); name a file of them in the "
            f"plans, or use random weights"
        ) from error


def _weights_of_file(file: Path, encoder: str, decoder: str, input_channels: int) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    if not file.is_file():
        raise FileNotFoundError(f"no file {file} with weights for the encoder {encoder}; name an existing one, or use random weights")
    try:
        pretrained = load_state_dict(str(file), weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors each have their own
        raise ValueError(f"{file} holds no weights that can be read ({type(error).__name__}), expected a .pth or .safetensors file of "
                         f"timm's {encoder}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        random = _segmentation_model(encoder, decoder, input_channels).encoder.state_dict()
        torch.manual_seed(0)
        try:
            model = _segmentation_model(encoder, decoder, input_channels, pretrained=True,
                                        pretrained_cfg_overlay={"state_dict": pretrained})
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"{file} does not fit the encoder {encoder}: {str(error).strip().splitlines()[-1].strip()}") from error
    loaded = model.encoder.state_dict()
    # timm passes over what it does not find; biases and norms may start with the values that they have in the file
    missing = [name for name, weights in loaded.items() if weights.ndim > 1 and torch.equal(weights, random[name])]
    if missing:
        raise ValueError(f"{file} has no weights for {len(missing)} layers of the encoder {encoder}, such as {missing[0]}; "
                         f"expected a file of this very model of timm")
    return loaded
