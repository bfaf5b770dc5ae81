"""Weights of a trained network fitted to the network of another dataset: other channels, other classes, another patch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch.nn import functional

from nnunet_neuro.training.carried_heads import HEAD_MARK

BACKGROUND = "background"
KEPT, ADAPTED, NEW = "kept", "adapted", "re-initialised"
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Use:
    """What a network is used for.

    Attributes:
        channels: names of the input channels.
        heads: what each output channel stands for, background included where there are no regions.
        has_regions: whether the outputs are regions that may overlap.
        patch: in voxels.
    """

    channels: tuple[str, ...]
    heads: tuple[str, ...]
    has_regions: bool
    patch: tuple[int, ...]


@dataclass(frozen=True)
class LayerChange:
    """What became of a layer.

    Attributes:
        layer: name of its weights or bias in the network.
        before: shape in the trained network.
        after: shape in the new one.
        what: KEPT, ADAPTED or NEW.
        how: in words; empty where it is kept.
    """

    layer: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    what: str
    how: str = ""


def use_of(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> Use:
    """Channels, classes and patch as plans and dataset.json say."""
    manager = PlansManager(plans)
    names = dataset_json.get("channel_names") or dataset_json["modality"]
    labels = manager.get_label_manager(dataset_json)
    classes = {name: value for name, value in dataset_json["labels"].items() if name != "ignore"}
    if labels.has_regions:
        heads = tuple(name for name, value in classes.items() if value not in (0, [0]))
    else:
        by_value = {int(value[0] if isinstance(value, list) else value): name for name, value in classes.items()}
        heads = tuple(by_value[int(value)] for value in labels.all_labels)
    return Use(tuple(str(names[key]) for key in sorted(names, key=int)), heads, labels.has_regions,
               tuple(map(int, manager.get_configuration(configuration).patch_size)))


def transfer_weights(weights: Mapping[str, Tensor], build: Callable[[int, int], nn.Module], *, source: Use, target: Use
                     ) -> tuple[dict[str, Tensor], list[LayerChange]]:
    """Every weight of the new network, from the trained one as far as that has it.

    The first layer of another number of channels is mixed from the trained one so that its response to an image that is the same in all
    channels is kept. Channels of the same names in another order follow their names. The head of a class of the same name is
    carried over, others start as the network makes them. Learnt tables of positions are interpolated to another patch.

    Args:
        weights: state of the trained network.
        build: makes the new network for numbers of channels and heads, with untrained weights.
        source: what the trained network was used for.
        target: what the new one is for.

    Returns:
        The state of the new network, float32 where it is floating, and what became of each layer; names that share their weights are
        listed once.

    Raises:
        ValueError: the networks differ in more than that; the message names a layer.
    """
    network = build(len(target.channels), len(target.heads))
    state = network.state_dict(keep_vars=True)
    first_layers = _layers_of_other_shape(state, build(len(target.channels) + 1, len(target.heads)))
    heads = _carried_heads(weights, state, source, target)
    adapted, changes, wrong, done = {}, [], [], {}
    for name, new in state.items():
        if id(new) in done:
            adapted[name] = done[id(new)]
            continue
        if name not in weights and HEAD_MARK not in name:
            wrong.append((name, "missing", _size(new.shape)))
            continue
        old = weights.get(name)
        if HEAD_MARK in name:
            made = _head(old, new, heads, target.heads)
        elif name in first_layers:
            made = _first_layer(old, new, source.channels, target.channels)
        elif old.shape == new.shape:
            made = old, KEPT, ""
        else:
            made = _positions(name, old, new, source.patch, target.patch)
        if made is None:
            wrong.append((name, _size(old.shape), _size(new.shape)))
            continue
        value, what, how = made
        adapted[name] = done[id(new)] = value.detach().to(device="cpu", dtype=new.dtype, copy=True).contiguous()
        changes.append(LayerChange(name, () if old is None else tuple(old.shape), tuple(new.shape), what, how))
    wrong += [(name, _size(old.shape), "no such layer") for name, old in weights.items() if name not in state and HEAD_MARK not in name]
    if wrong:
        name, found, expected = wrong[0]
        raise ValueError(f"it is of another architecture: {len(wrong)} of its layers do not fit, such as {name}, found {found}, expected "
                         f"{expected}")
    return adapted, changes


def channel_mixing(source: Sequence[str], target: Sequence[str]) -> tuple[Tensor | None, str]:
    """How the channels of a first layer are made from those of a trained one.

    Args:
        source: names of the trained channels.
        target: names of the new ones.

    Returns:
        (new, trained) float32, whose columns add up to 1, and the same in words; None and no words where nothing changes.
    """
    old, new = len(source), len(target)
    if new == old:
        order = [source.index(name) for name in target] if sorted(source) == sorted(target) and len(set(source)) == old else range(old)
        if list(order) == list(range(old)):
            return None, ""
        return torch.eye(old)[list(order)], f"channels in the order {', '.join(target)}"
    if new % old == 0:
        return torch.eye(old).repeat(new // old, 1) * (old / new), f"{old} to {new} channels: repeated, divided by {new // old}"
    return torch.full((new, old), 1 / new), f"{old} to {new} channels: mean of the trained ones, times {old}/{new}"


def resized_positions(table: Tensor, shape: Sequence[int], *, source_patch: Sequence[int], target_patch: Sequence[int]) -> Tensor | None:
    """A learnt table of positions for another patch, linearly interpolated.

    Args:
        table: floating, with one axis for each axis of the patch or for one of them, or with one for all tokens of a patch that is cut
            into cubes, as (1, tokens, features).
        shape: the wanted one.
        source_patch, target_patch: in voxels; they tell how tokens are arranged.

    Returns:
        The new table; None where the shapes differ in more than lengths.
    """
    if table.ndim != len(shape):
        return None
    axes = [axis for axis in range(table.ndim) if table.shape[axis] != shape[axis]]
    if len(axes) > 3:
        return None
    lengths, wanted = [table.shape[axis] for axis in axes], [shape[axis] for axis in axes]
    if len(axes) == 1 and table.ndim == 3:
        lengths = _token_grid(lengths[0], source_patch) or lengths
        wanted = _token_grid(wanted[0], target_patch) or wanted
        if len(lengths) != len(wanted):
            return None
    last = list(range(-len(axes), 0))
    moved = table.float().movedim(axes, last)
    others = moved.shape[:-len(axes)]
    resized = functional.interpolate(moved.reshape(1, -1, *lengths), size=wanted, mode=_LINEAR[len(lengths)])
    return resized.reshape(*others, *(shape[axis] for axis in axes)).movedim(last, axes)


def layer_table(changes: Sequence[LayerChange]) -> str:
    """The changes as text, one line each, and a line that counts them."""
    rows = [("layer", "trained", "new", ""), *((change.layer, _size(change.before) or "–", _size(change.after),
                                                f"{change.what}{': ' if change.how else ''}{change.how}") for change in changes)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join((*(cell.ljust(width) for cell, width in zip(row, widths)), row[3])).rstrip() for row in rows]
    counts = ", ".join(f"{sum(change.what == what for change in changes)} {what}" for what in (KEPT, ADAPTED, NEW))
    return "\n".join([*lines, f"{len(changes)} layers: {counts}"])


def _layers_of_other_shape(state: Mapping[str, Tensor], other: nn.Module) -> set[str]:
    """Names of what depends on the number of channels."""
    return {name for name, weights in other.state_dict().items() if name in state and state[name].shape != weights.shape}


def _first_layer(old: Tensor, new: Tensor, source: Sequence[str], target: Sequence[str]) -> tuple[Tensor, str, str] | None:
    expected = (new.shape[0], len(source), *new.shape[2:])
    if tuple(old.shape) != expected or new.shape[1] != len(target):
        return None
    mixing, how = channel_mixing(source, target)
    if mixing is None:
        return old, KEPT, ""
    return torch.einsum("ts,os...->ot...", mixing, old.float()), ADAPTED, how


def _carried_heads(weights: Mapping[str, Tensor], state: Mapping[str, Tensor], source: Use, target: Use) -> list[int | None]:
    """For each new head the trained one of the same name; none where the heads are made differently."""
    names = [name.strip().lower() for name in source.heads]
    heads = [names.index(name.strip().lower()) if name.strip().lower() in names else None for name in target.heads]
    if {name.strip().lower() for name, head in zip(target.heads, heads) if head is not None} <= {BACKGROUND}:
        heads = [None] * len(heads)  # a trained background says nothing against an untrained class
    layers = [name for name in state if HEAD_MARK in name]
    alike = all(name in weights and weights[name].shape == (len(source.heads), *state[name].shape[1:])
                and state[name].shape[0] == len(target.heads) for name in layers)
    return heads if alike and source.has_regions == target.has_regions else [None] * len(target.heads)


def _head(old: Tensor | None, new: Tensor, heads: Sequence[int | None], names: Sequence[str]) -> tuple[Tensor, str, str]:
    if all(head is None for head in heads):
        return new, NEW, "no class in common"
    if list(heads) == list(range(len(old))):
        return old, KEPT, ""
    value = new.detach().clone()
    carried = [index for index, head in enumerate(heads) if head is not None]
    value[carried] = old[[heads[index] for index in carried]].to(value.dtype)
    fresh = [name for name, head in zip(names, heads) if head is None]
    return value, ADAPTED, f"{', '.join(names[index] for index in carried)} carried over" + (f", {', '.join(fresh)} new" if fresh else "")


def _positions(name: str, old: Tensor, new: Tensor, source_patch: Sequence[int], target_patch: Sequence[int]
               ) -> tuple[Tensor, str, str] | None:
    if "pos" not in name.rpartition(".")[2].lower() and "pos" not in name.lower().split("."):
        return None
    if not isinstance(new, nn.Parameter):
        return new, NEW, "a table of positions that is computed"
    table = resized_positions(old, new.shape, source_patch=source_patch, target_patch=target_patch)
    return None if table is None else (table, ADAPTED, "positions interpolated")


def _token_grid(tokens: int, patch: Sequence[int]) -> list[int] | None:
    """The cubes that a patch is cut into, if there are so many of them."""
    edge = round((math.prod(patch) / tokens) ** (1 / len(patch)))
    grid = [length // edge for length in patch] if edge and not any(length % edge for length in patch) else []
    return grid if grid and math.prod(grid) == tokens else None


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
