"""Networks of segmentation-models-pytorch with its own encoders, as MTNeuro trained them.

`networks.timm_unet` builds the same decoders on encoders of timm, whose dilation in PAN and DeepLabV3+ differs from that in these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from nnunet_neuro.networks.padding import on_padded
from nnunet_neuro.networks.timm_unet import DECODERS, MULTIPLE, SHORTEST_EDGE, STRIDES, require_segmentation_models

SMP_NETWORK = f"{__name__}.SmpNetwork"
ENCODER = "resnet18"


class SmpNetwork(nn.Module):
    """A 2D network of segmentation-models-pytorch for images of any size; for imported weights.

    Args:
        input_channels: of the image.
        num_classes: of the logits.
        decoder: a key of `timm_unet.DECODERS`.
        encoder: name of segmentation-models-pytorch's encoder.
        strides: where nnU-Net looks for them in plans; not used.
        deep_supervision: not available.

    Raises:
        ValueError: deep supervision wanted.
        ModuleNotFoundError: segmentation-models-pytorch is not installed.
    """

    def __init__(self, input_channels: int, num_classes: int, decoder: str, encoder: str = ENCODER,
                 strides: Sequence[Sequence[int]] = tuple(STRIDES), deep_supervision: bool = False) -> None:
        super().__init__()
        if deep_supervision:
            raise ValueError("SmpNetwork has a single output, deep supervision wants several; train it with -tr "
                             "nnUNetTrainerNoDeepSupervision")
        require_segmentation_models()
        import segmentation_models_pytorch

        model = getattr(segmentation_models_pytorch, DECODERS[decoder])(
            encoder_name=encoder, encoder_weights=None, in_channels=input_channels, classes=num_classes)
        self.decoder_name = decoder
        self.encoder, self.decoder = model.encoder, model.decoder
        # nnU-Net does not transfer what stands below this name when it fine-tunes
        self.decoder.seg_layers = nn.ModuleList([model.segmentation_head])

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, classes, y, x) for an image (B, C, y, x)."""
        return on_padded(image, self._forward_padded, multiple=MULTIPLE, shortest=SHORTEST_EDGE.get(self.decoder_name, MULTIPLE))

    def _forward_padded(self, image: Tensor) -> Tensor:
        return self.decoder.seg_layers[0](self.decoder(self.encoder(image)))


def new_name(old: str) -> str:
    """Where weights of a model of segmentation-models-pytorch stand in a SmpNetwork."""
    head = "segmentation_head."
    return f"decoder.seg_layers.0.{old.removeprefix(head)}" if old.startswith(head) else old


def smp_architecture(decoder: str) -> dict:
    """The section `architecture` of plans for a SmpNetwork."""
    return {"network_class_name": SMP_NETWORK, "arch_kwargs": {"decoder": decoder, "encoder": ENCODER, "strides": STRIDES},
            "_kw_requires_import": []}


def find_decoder(weights: Mapping[str, Tensor], channels: int, classes: int, source: str) -> str:
    """The decoder whose network has exactly these weights, names and shapes.

    Raises:
        ValueError: none has.
    """
    shapes = {new_name(name): tuple(tensor.shape) for name, tensor in weights.items()}
    for decoder in DECODERS:
        network = SmpNetwork(channels, classes, decoder)
        if {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == shapes:
            return decoder
    raise ValueError(f"{source} fits none of {', '.join(DECODERS.values())} of segmentation-models-pytorch with the encoder {ENCODER}, as "
                     "MTNeuro trained them; expected one of these")
