"""A network that costs nothing, for what is measured of everything else."""

from __future__ import annotations

import torch


class StubNetwork(torch.nn.Module):
    """Two heads: the image and its negative; a model's plans name it by dotted path."""

    def __init__(self, input_channels: int, num_classes: int, deep_supervision: bool = False):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(b, 1, ...) to (b, 2, ...)."""
        return torch.cat([-image, image], 1)
