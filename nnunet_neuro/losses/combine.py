"""A further term beside nnU-Net's loss, inside or around its deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import Tensor, nn

Resolutions = Tensor | Sequence[Tensor]


def with_term(loss: nn.Module, term: nn.Module, *, weight: float, finest_only: bool) -> nn.Module:
    """nnU-Net's loss plus a term.

    Args:
        loss: what nnU-Net's `_build_loss` returns, also with terms added already.
        term: takes (logits, target) of one resolution.
        weight: of the term, where nnU-Net's Dice and cross-entropy weigh 1 each.
        finest_only: compare at full resolution only, for terms that mean nothing in a thinned-out target; otherwise at every
            resolution of deep supervision, with its weights.
    """
    wrapper = next((module for module in loss.modules() if isinstance(module, DeepSupervisionWrapper)), None)
    if finest_only or wrapper is None:
        return SummedLoss(loss, FinestResolution(term), weight)
    wrapper.loss = SummedLoss(wrapper.loss, term, weight)
    return loss


class SummedLoss(nn.Module):
    """`loss` plus `weight` times `term`, both of (output, target)."""

    def __init__(self, loss: nn.Module, term: nn.Module, weight: float) -> None:
        super().__init__()
        self.loss, self.term, self.weight = loss, term, weight

    def forward(self, output: Resolutions, target: Resolutions) -> Tensor:
        return self.loss(output, target) + self.weight * self.term(output, target)


class FinestResolution(nn.Module):
    """A term that sees the full resolution alone, with deep supervision or without."""

    def __init__(self, term: nn.Module) -> None:
        super().__init__()
        self.term = term

    def forward(self, output: Resolutions, target: Resolutions) -> Tensor:
        return self.term(finest(output), finest(target))


def finest(resolutions: Resolutions) -> Tensor:
    """The first of several resolutions, or the only one."""
    return resolutions if isinstance(resolutions, Tensor) else resolutions[0]
