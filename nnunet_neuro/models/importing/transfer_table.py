"""Weights of an older network put into a new one by name, with a table of where each went and nothing left over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        old: names in the older network, empty for weights that it has not.
        new: name in the new network, or what became of weights that it does not need.
        shape: of the weights.
    """

    old: str
    new: str
    shape: tuple[int, ...]


class WeightTransfer:
    """Fills a network from a state dict.

    Every parameter and buffer of the network and every tensor of the state dict is named exactly once, in `take`, `zero` or `pass_over`.

    Args:
        network: the new network; weights that it holds under several names count under the first.
        weights: the older state dict.
        source: file that it comes from, for errors.
    """

    def __init__(self, network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
        self.network = network
        self.source = source
        self._old = dict(weights)
        self._new = dict(network.named_parameters()) | dict(network.named_buffers())
        self._rows: list[Row] = []

    def take(self, new: str, *old: str) -> None:
        """Copy weights; those of several names one after another along the first axis.

        Axes of length one do not count. A convolution's kernel may be smaller than the new one: zeros around it do the same.

        Raises:
            ValueError: the file lacks them, or they have another shape.
        """
        missing = [name for name in old if name not in self._old]
        if missing:
            raise ValueError(f"{self.source} has no weights {missing[0]}, which its other layers call for; the file is of another network "
                             "or incomplete")
        parts = [self._old.pop(name) for name in old]
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        target = self._target(new, f"{' and '.join(old)} of {self.source}")
        kernel = joined.shape
        if joined.ndim > 3 and joined.shape[:2] == target.shape[:2]:
            joined = _centred(joined, target.shape)
        if _long_axes(joined.shape) != _long_axes(target.shape):
            raise ValueError(f"{' and '.join(old)} of {self.source} has shape {tuple(joined.shape)}, expected {tuple(target.shape)} for "
                             f"{new}; the file is of another network")
        with torch.no_grad():
            target.copy_(joined.reshape(target.shape))
        remark = "" if joined.shape == kernel else f" (in the centre of {' x '.join(map(str, target.shape[2:]))})"
        self._rows.append(Row(" + ".join(old), new + remark, tuple(kernel)))

    def zero(self, new: str, why: str) -> None:
        """Set weights to zero that the older network has not."""
        target = self._target(new, why)
        with torch.no_grad():
            target.zero_()
        self._rows.append(Row("", f"{new} = 0 ({why})", tuple(target.shape)))

    def pass_over(self, old: str, why: str) -> None:
        """Leave weights out that do nothing in the older network."""
        self._rows.append(Row(old, f"left out ({why})", tuple(self._old.pop(old).shape)))

    @property
    def old_names(self) -> list[str]:
        """Names that are not used yet."""
        return list(self._old)

    def finish(self) -> list[Row]:
        """The table.

        Raises:
            ValueError: weights are left over on one side.
        """
        if self._old:
            names = list(self._old)
            raise ValueError(f"{self.source} has weights that fit nowhere: {', '.join(names[:3])}{', ...' * (len(names) > 3)}; the file is "
                             "of another network")
        if self._new:
            names = list(self._new)
            raise ValueError(f"{self.source} has nothing for {', '.join(names[:3])}{', ...' * (len(names) > 3)} of the new network; the "
                             "file is of another network")
        return self._rows

    def _target(self, new: str, what: str) -> Tensor:
        if new not in self._new:
            raise ValueError(f"there is no {new} in the new network for {what}; the file is of another network")
        return self._new.pop(new)


def formatted(rows: Sequence[Row]) -> str:
    """The table as text, a line for each row."""
    shapes = [" x ".join(map(str, row.shape)) or "one number" for row in rows]
    wide_old, wide_shape = max(len(row.old) for row in rows), max(map(len, shapes))
    return "\n".join(f"{row.old:{wide_old}}  {shape:{wide_shape}}  -> {row.new}" for row, shape in zip(rows, shapes))


def plain_weights(content: object, source: str) -> dict[str, Tensor]:
    """A state dict in 32 bits, without the `module.` that training on several GPUs puts in front of every name.

    Raises:
        ValueError: it is no dict of tensors by name.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{source} holds no weights by name, but {type(content).__name__}; expected a state dict")
    strange = [str(name) for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{source} holds {', '.join(strange[:4])} beside or instead of weights; expected a state dict of tensors")
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): value.detach().float() if value.is_floating_point() else value.detach()
            for name, value in content.items()}


def _centred(kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """A convolution's weights with zeros around them, up to a shape; as they are where that cannot be even on both sides."""
    missing = [wanted - length for wanted, length in zip(shape[2:], kernel.shape[2:])]
    if kernel.ndim != len(shape) or any(count < 0 or count % 2 for count in missing):
        return kernel
    return functional.pad(kernel, [count // 2 for count in reversed(missing) for _ in range(2)])


def _long_axes(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]
