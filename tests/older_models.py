"""The networks of the older systems with random weights, built from their published structure, and the files they are stored in."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
MAX_POOLS = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class ConvDropoutNormNonlin(nn.Module):
    """nnU-Net v1: convolution with bias, instance normalisation, leaky ReLU."""

    def __init__(self, channels: int, features: int, kernel: Sequence[int], stride: Sequence[int] | int) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[len(kernel)](channels, features, tuple(kernel), stride, [1 if size == 3 else 0 for size in kernel])
        self.instnorm = INSTANCE_NORMS[len(kernel)](features, affine=True)
        self.lrelu = nn.LeakyReLU(1e-2)

    def forward(self, features: Tensor) -> Tensor:
        return self.lrelu(self.instnorm(self.conv(features)))


class StackedConvLayers(nn.Module):
    """nnU-Net v1: several blocks, the first with the stride."""

    def __init__(self, channels: int, features: int, count: int, kernel: Sequence[int], stride: Sequence[int] | int = 1) -> None:
        super().__init__()
        self.blocks = nn.Sequential(ConvDropoutNormNonlin(channels, features, kernel, stride),
                                    *(ConvDropoutNormNonlin(features, features, kernel, 1) for _ in range(count - 1)))

    def forward(self, features: Tensor) -> Tensor:
        return self.blocks(features)


class GenericUNet(nn.Module):
    """nnU-Net v1's Generic_UNet with convolutional pooling and up-sampling; with D-LMBmap's axial attention where wanted.

    Args:
        channels, classes: of image and output.
        base, most: features of the first stage, and the most.
        pools: kernel of each pooling.
        kernels: of the convolutions, one more.
        convolutions: per stage.
        attention: patch size that the position tables are for; None without.
    """

    def __init__(self, channels: int, classes: int, *, base: int, most: int, pools: Sequence[Sequence[int]],
                 kernels: Sequence[Sequence[int]], convolutions: int = 2, attention: Sequence[int] | None = None) -> None:
        super().__init__()
        n_pools, dimensions = len(pools), len(pools[0])
        features = [min(base * 2**stage, most) for stage in range(n_pools + 1)]
        context, below = [], channels
        for stage in range(n_pools):
            context.append(StackedConvLayers(below, features[stage], convolutions, kernels[stage], pools[stage - 1] if stage else 1))
            below = features[stage]
        context.append(nn.Sequential(StackedConvLayers(below, features[-1], convolutions - 1, kernels[-1], pools[-1]),
                                     StackedConvLayers(features[-1], features[-1], 1, kernels[-1])))
        self.conv_blocks_context = nn.ModuleList(context)
        self.conv_blocks_localization, self.tu, self.seg_outputs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.axial_embedding, self.axial_attention = nn.ModuleList(), nn.ModuleList()
        for up in range(n_pools):
            lower, skip = features[-1 - up], features[-2 - up]
            pool, kernel = tuple(pools[-1 - up]), kernels[-1 - up]  # of the stage below, as published
            self.tu.append(TRANSPOSED[dimensions](lower, skip, pool, pool, bias=False))
            self.conv_blocks_localization.append(nn.Sequential(StackedConvLayers(2 * skip, skip, convolutions - 1, kernel),
                                                               StackedConvLayers(skip, skip, 1, kernel)))
            self.seg_outputs.append(CONVOLUTIONS[dimensions](skip, classes, 1, bias=False))
            depth = n_pools - up - 1
            if attention is not None and depth > 0:
                self.axial_embedding.append(AxialPositionalEmbedding(skip, [length // 2**depth for length in attention]))
                self.axial_attention.append(AxialAttention(skip, dimensions, heads=2 * 2**depth, dim_heads=8 * 2**depth))

    def forward(self, image: Tensor) -> Tensor:
        skips, features = [], image
        for block in self.conv_blocks_context[:-1]:
            features = block(features)
            skips.append(features)
        features = self.conv_blocks_context[-1](features)
        for up, upsample in enumerate(self.tu):
            features = upsample(features)
            if up < len(self.axial_attention):
                features = self.axial_attention[up](self.axial_embedding[up](features)) + features
            features = self.conv_blocks_localization[up](torch.cat((features, skips[-1 - up]), dim=1))
        return self.seg_outputs[-1](features)


class AxialPositionalEmbedding(nn.Module):
    """axial-attention 0.6.1: a table for each axis, shaped to be added to (B, C, *spatial)."""

    def __init__(self, channels: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.axes = len(shape)
        for axis, length in enumerate(shape):
            extents = [length if other == axis else 1 for other in range(self.axes)]
            setattr(self, f"param_{axis}", nn.Parameter(torch.randn(1, channels, *extents)))

    def forward(self, features: Tensor) -> Tensor:
        for axis in range(self.axes):
            features = features + getattr(self, f"param_{axis}")
        return features


class AxialAttention(nn.Module):
    """axial-attention 0.6.1 with sum_axial_out=False: the axes one after another."""

    def __init__(self, channels: int, dimensions: int, *, heads: int, dim_heads: int) -> None:
        super().__init__()
        self.axial_attentions = nn.ModuleList(AlongAxis(axis + 2, SelfAttention(channels, heads, dim_heads)) for axis in range(dimensions))

    def forward(self, features: Tensor) -> Tensor:
        for attention in self.axial_attentions:
            features = attention(features)
        return features


class AlongAxis(nn.Module):
    """Brings an axis and the channels to the end, and back."""

    def __init__(self, axis: int, fn: nn.Module) -> None:
        super().__init__()
        self.axis, self.fn = axis, fn

    def forward(self, features: Tensor) -> Tensor:
        rest = [axis for axis in range(features.ndim) if axis not in (1, self.axis)]
        order = [*rest, self.axis, 1]
        moved = features.permute(order)
        attended = self.fn(moved.reshape(-1, *moved.shape[-2:])).reshape(moved.shape)
        return attended.permute([order.index(axis) for axis in range(features.ndim)])


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(e)) V with heads."""

    def __init__(self, channels: int, heads: int, dim_heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, heads * dim_heads, bias=False)
        self.to_kv = nn.Linear(channels, 2 * heads * dim_heads, bias=False)
        self.to_out = nn.Linear(heads * dim_heads, channels)

    def forward(self, lines: Tensor) -> Tensor:
        key, value = self.to_kv(lines).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(lines), key, value))
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return self.to_out((weights @ value).transpose(1, 2).flatten(-2))


class TutorialUNet(nn.Module):
    """MTNeuro's and the Kasthuri challenge's U-Net: activation before normalisation, and unused 1x1 convolutions on the way up."""

    def __init__(self, channels: int, classes: int, *, blocks: int, start: int, dimensions: int) -> None:
        super().__init__()
        features = [start * 2**block for block in range(blocks)]
        self.dimensions = dimensions
        self.down_blocks = nn.ModuleList(_tutorial_block(below, here, dimensions) for below, here in zip([channels, *features], features))
        self.up_blocks = nn.ModuleList()
        for here in reversed(features[:-1]):
            block = _tutorial_block(2 * here, here, dimensions)
            block["up"] = TRANSPOSED[dimensions](2 * here, here, 2, 2)
            block["conv0"] = CONVOLUTIONS[dimensions](2 * here, here, 1)
            block["norm0"] = BATCH_NORMS[dimensions](here)
            self.up_blocks.append(block)
        self.conv_final = CONVOLUTIONS[dimensions](start, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        skips, features = [], image
        for number, block in enumerate(self.down_blocks):
            features = _tutorial_pair(block, MAX_POOLS[self.dimensions](2)(features) if number else features)
            skips.append(features)
        for number, block in enumerate(self.up_blocks):
            upsampled = block["norm0"](functional.relu(block["up"](features)))
            features = _tutorial_pair(block, torch.cat((upsampled, skips[-2 - number]), dim=1))
        return self.conv_final(features)


class ThalamusUNet(nn.Module):
    """The thalamus benchmark's U-Net, which gives probabilities."""

    def __init__(self, channels: int, classes: int, *, start: int) -> None:
        super().__init__()
        features = [start * 2**level for level in range(5)]
        for level, (below, here) in enumerate(zip([channels, *features], features[:4]), start=1):
            setattr(self, f"encoder{level}", _thalamus_block(below, here, f"enc{level}"))
        self.bottleneck = _thalamus_block(features[3], features[4], "bottleneck")
        for level in (4, 3, 2, 1):
            here = features[level - 1]
            setattr(self, f"upconv{level}", nn.ConvTranspose2d(2 * here, here, 2, 2))
            setattr(self, f"decoder{level}", _thalamus_block(2 * here, here, f"dec{level}"))
        self.conv = nn.Conv2d(start, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        skips, features = {}, image
        for level in (1, 2, 3, 4):
            skips[level] = getattr(self, f"encoder{level}")(features)
            features = functional.max_pool2d(skips[level], 2)
        features = self.bottleneck(features)
        for level in (4, 3, 2, 1):
            features = getattr(self, f"decoder{level}")(torch.cat((getattr(self, f"upconv{level}")(features), skips[level]), dim=1))
        return self.conv(features).softmax(1)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network ready to predict, its values drawn with a seed, also where layers begin with zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim > 1:
                gain = 1 / 3 if ".to_" in name else 2  # torch's own for linear layers, He's for convolutions
                tensor.copy_(noise if "axial_embedding" in name else noise * (gain / tensor[0].numel()) ** 0.5)
            else:  # scales of normalisations about 1, everything else about 0
                tensor.copy_(0.3 * noise + name.endswith("weight"))
    return network.eval()


def save_v1(folder: Path, network: nn.Module, *, plans: dict, trainer: str = "nnUNetTrainerV2", fold: int = 0, stage: int | None = None
            ) -> Path:
    """Write `model_final_checkpoint.model` with its pickle, as nnU-Net v1 does."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model_final_checkpoint.model"
    optimizer = torch.optim.Adam(network.parameters(), 3e-4, amsgrad=True)
    torch.save({"epoch": 550, "state_dict": network.state_dict(), "optimizer_state_dict": optimizer.state_dict(),
                "lr_scheduler_state_dict": {"best": np.float64(-0.5)}, "plot_stuff": ([np.float32(0.1)], [], [], []), "best_stuff": None},
               file)
    init = ("plans.pkl", fold, "output", "data", True, stage, True, False, True)
    with file.with_name(f"{file.name}.pkl").open("wb") as stream:
        pickle.dump(OrderedDict(init=init, name=trainer, **{"class": f"<class '{trainer}'>"}, plans=plans), stream)
    return file


def v1_plans(*, patch: Sequence[int], pools: Sequence[Sequence[int]], kernels: Sequence[Sequence[int]], classes: int = 1,
             scheme: str = "nonCT", channels: int = 1) -> OrderedDict:
    """nnU-Net v1's plans with one stage, in the types of its own."""
    properties = {"mean": np.float32(120.5), "median": np.float32(110), "sd": np.float32(30.25), "mn": np.float32(0), "mx": np.float32(900),
                  "percentile_99_5": np.float64(400.0), "percentile_00_5": np.float64(5.0), "local_props": OrderedDict()}
    stage = {"batch_size": 2, "num_pool_per_axis": [len(pools)] * len(patch), "patch_size": np.array(patch),
             "median_patient_size_in_voxels": np.array([150.0, 150, 150]), "current_spacing": np.array([2.0, 1.0, 1.0]),
             "original_spacing": np.array([2.0, 1.0, 1.0]), "do_dummy_2D_data_aug": False,
             "pool_op_kernel_sizes": [list(pool) for pool in pools], "conv_kernel_sizes": [list(kernel) for kernel in kernels]}
    return OrderedDict(
        num_stages=1, num_modalities=channels, modalities={channel: "MI" for channel in range(channels)}, num_classes=classes,
        normalization_schemes=OrderedDict((channel, scheme) for channel in range(channels)), base_num_features=32,
        dataset_properties={"intensityproperties": OrderedDict((channel, properties) for channel in range(channels))},
        original_spacings=[np.array([2.0, 1.0, 1.0])], use_mask_for_norm=OrderedDict((channel, False) for channel in range(channels)),
        all_classes=np.arange(1, classes + 1), transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2],
        data_identifier="nnUNetData_plans_v2.1", plans_per_stage={0: stage}, conv_per_stage=2)


def save_lightning(file: Path, network: nn.Module) -> Path:
    """Write a checkpoint as Lightning 1.3 does, with a class of its own as a name."""
    weights = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    stopping = type("EarlyStopping", (), {"__module__": "pytorch_lightning.callbacks.early_stopping"})
    module = type(torch)("pytorch_lightning.callbacks.early_stopping")
    module.EarlyStopping = stopping
    import sys

    names = ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__)
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: type(torch)(name) for name in names[:2]}, **{module.__name__: module})
    try:
        torch.save({"epoch": 3, "global_step": 10, "pytorch-lightning_version": "1.3.8", "state_dict": weights,
                    "callbacks": {stopping: {"wait_count": 0, "best_score": torch.tensor(0.04)}}, "hyper_parameters": {"n_inchannels": 2}},
                   file)
    finally:
        for name, old in before.items():
            if old is None:
                sys.modules.pop(name)
            else:
                sys.modules[name] = old
    return file


def _tutorial_block(channels: int, features: int, dimensions: int) -> nn.ModuleDict:
    convolution, norm = CONVOLUTIONS[dimensions], BATCH_NORMS[dimensions]
    return nn.ModuleDict({"conv1": convolution(channels, features, 3, padding=1), "conv2": convolution(features, features, 3, padding=1),
                          "norm1": norm(features), "norm2": norm(features)})


def _tutorial_pair(block: nn.ModuleDict, features: Tensor) -> Tensor:
    features = block["norm1"](functional.relu(block["conv1"](features)))
    return block["norm2"](functional.relu(block["conv2"](features)))


def _thalamus_block(channels: int, features: int, name: str) -> nn.Sequential:
    return nn.Sequential(OrderedDict([
        (f"{name}conv1", nn.Conv2d(channels, features, 3, padding=1, bias=False)), (f"{name}norm1", nn.BatchNorm2d(features)),
        (f"{name}relu1", nn.ReLU()), (f"{name}conv2", nn.Conv2d(features, features, 3, padding=1, bias=False)),
        (f"{name}norm2", nn.BatchNorm2d(features)), (f"{name}relu2", nn.ReLU())]))
