"""Images padded for networks that take certain sizes only."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional


def on_padded(image: Tensor, network: Callable[[Tensor], Tensor], *, multiple: int, shortest: int = 1) -> Tensor:
    """`network(image)` where the network takes multiples only: padded around by repeating the border, and cut back.

    Args:
        image: (B, C, *spatial), two or three spatial axes of any length.
        network: gives the spatial shape that it takes.
        multiple: of which every axis has to be.
        shortest: length that every axis has to have, a multiple of `multiple`.

    Returns:
        (B, any channels, *spatial)
    """
    lengths = image.shape[2:]
    missing = [max(shortest, -(-length // multiple) * multiple) - length for length in lengths]
    # last axis first, as torch wants it
    pads = [pad for total in reversed(missing) for pad in (total // 2, total - total // 2)]
    inside = [slice(total // 2, total // 2 + length) for total, length in zip(missing, lengths)]
    return network(functional.pad(image, pads, mode="replicate"))[(..., *inside)]
