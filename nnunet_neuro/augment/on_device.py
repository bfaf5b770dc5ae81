"""nnU-Net's default augmentation of a whole batch, on the device that trains.

The same changes with the same chances and ranges, in the same order, as nnUNetTrainer.get_training_transforms of nnunetv2 2.8.1. Differs
from it: labels are resampled to the nearest voxel, instead of by interpolating each class; a blur's kernel has seven voxels whatever its
width. All that is decided is drawn on the CPU, so that the device never waits to be asked; noise alone is drawn where it is added.

Two of three samples are neither rotated nor scaled. The processes that read patches decide which, because those need no margin: without
it a patch of 128^3 voxels is a quarter as large, and reading patches and handing them over is all that these processes do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import create_affine_matrix_2d, create_affine_matrix_3d
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor
from torch.nn import functional

# probabilities of nnU-Net's spatial transform
_ROTATED, _SCALED = 0.2, 0.2
_MOVED = 1 - (1 - _ROTATED) * (1 - _SCALED)
_SCALING = (0.7, 1.4)
_OUTSIDE = -1


@dataclass(frozen=True)
class BatchSettings:
    """What nnU-Net tells its pipeline about a training.

    Attributes:
        patch_size: of the patches that the network gets; those that come in are larger, for rotation and scaling.
        rotation: least and greatest angle in radians.
        deep_supervision_scales: of each target along each axis, the first all 1; None for one target that is no list.
        mirror_axes: spatial axes that may be mirrored.
        flat: rotate and scale within the planes of a volume only.
        masked_channels: image channels that are 0 outside the image.
        regions: label values of each region, for training on regions; None for training on labels.
        ignore_label: or None.
    """

    patch_size: tuple[int, ...]
    rotation: tuple[float, float]
    deep_supervision_scales: Sequence[Sequence[float]] | None
    mirror_axes: tuple[int, ...]
    flat: bool = False
    masked_channels: tuple[int, ...] = ()
    regions: Sequence[int | Sequence[int]] | None = None
    ignore_label: int | None = None


class PatchLoader(nnUNetDataLoader):
    """nnU-Net's loader, giving samples that are to be rotated or scaled with their margin and all others without it.

    A batch holds, under `data` and under `target`, the stacked samples without margin and then those with it; `moved` says of each sample
    of the batch whether it is one of the latter. A loader of patches without margin, as for validation, gives plain batches.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.has_margin:
            self.transforms = _Collector(self.transforms)

    @property
    def has_margin(self) -> bool:
        return tuple(self.patch_size) != tuple(self.final_patch_size)

    def get_bbox(self, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
        """First and last + 1 voxel of a sample."""
        first, last = super().get_bbox(*args, **kwargs)
        if self.has_margin and np.random.random() >= _MOVED:
            first = [start + middle_start(larger, size) for start, larger, size in zip(first, self.patch_size, self.final_patch_size)]
            last = [start + size for start, size in zip(first, self.final_patch_size)]
        return first, last

    def generate_train_batch(self) -> dict[str, Any]:
        """A batch, drawn from numpy's generator."""
        batch = super().generate_train_batch()
        if not self.has_margin:
            return batch
        samples = self.transforms.taken()
        final = tuple(self.final_patch_size)[-samples[0]["image"].ndim + 1:]
        moved = np.array([tuple(sample["image"].shape[1:]) != final for sample in samples])
        data, target = ([_stacked([sample[key] for sample, is_moved in zip(samples, moved) if is_moved == kind]) for kind in (False, True)]
                        for key in ("image", "segmentation"))
        return {**batch, "data": data, "target": target, "moved": moved}


class _Collector:
    """Keeps the samples of a batch; nnU-Net's loader, which would copy them into one array, gets empty ones."""

    def __init__(self, transforms: BasicTransform | None) -> None:
        self.transforms = transforms
        self.samples: list[dict[str, Tensor]] = []

    def __call__(self, **sample: Tensor) -> dict[str, Tensor]:
        self.samples.append(self.transforms(**sample) if self.transforms is not None else sample)
        return {key: array.new_empty(0) for key, array in sample.items()}

    def taken(self) -> list[dict[str, Tensor]]:
        samples, self.samples = self.samples, []
        return samples


def _stacked(parts: list[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0][None].contiguous()
    return torch.stack(parts) if parts else torch.empty(0)


def middle_start(length: int, size: int) -> int:
    """Where the middle `size` of `length` voxels begin, as nnU-Net cuts a patch that is not moved."""
    return length // 2 - size // 2


class BatchAugmentation:
    """Augments batches of a `PatchLoader`; every draw comes from its own generators.

    Args:
        settings: of the training.
        device: where batches are.
        seed: of the generators.
    """

    def __init__(self, settings: BatchSettings, device: torch.device, seed: int) -> None:
        self.settings = settings
        self.device = device
        self.decisions = torch.Generator()
        self.noise = torch.Generator(device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Begin anew with another seed."""
        self.decisions.manual_seed(seed)
        self.noise.manual_seed(seed + 1)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Augment a batch.

        Args:
            batch: of a `PatchLoader`: images (N, C, [z,] y, x) float32 and labels (N, 1, [z,] y, x) integers, -1 outside the image.

        Returns:
            The batch with data and target on the device, as nnU-Net's `train_step` expects them.
        """
        image, label = self.spatial(*([part.to(self.device, non_blocking=True) for part in batch[key]] for key in ("data", "target")),
                                    batch["moved"])
        self.fill_noise(image)
        self.fill_blurred(image)
        self.fill_brightness(image)
        self.fill_contrast(image)
        self.fill_low_resolution(image)
        self.fill_gamma(image, probability=0.1, inverted=True)
        self.fill_gamma(image, probability=0.3, inverted=False)
        image, label = self.mirrored(image, label)
        for channel in self.settings.masked_channels:
            image[:, channel].masked_fill_(label[:, 0] < 0, 0)
        return {**batch, "data": image, "target": targets(label, self.settings)}

    # --- decisions ---

    def _happens(self, probability: float, count: int) -> np.ndarray:
        return (torch.rand(count, generator=self.decisions) < probability).numpy()

    def _uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        return low + (high - low) * torch.rand(shape, generator=self.decisions, dtype=torch.float64).numpy()

    def _factors(self, low: float, high: float, count: int) -> np.ndarray:
        """Below 1 as often as above, as nnU-Net draws contrast and gamma."""
        return np.where(self._happens(0.5, count), self._uniform(low, 1, count), self._uniform(1, high, count))

    def _chosen_channels(self, image: Tensor, probability: float, per_channel: float = 1.0) -> np.ndarray:
        """Places of channels in `image.flatten(0, 1)`."""
        batch, channels = image.shape[:2]
        samples = np.repeat(self._happens(probability, batch), channels)
        return np.flatnonzero(samples & self._happens(per_channel, batch * channels))

    # --- changes ---

    def spatial(self, images: Sequence[Tensor], labels: Sequence[Tensor], moved: np.ndarray) -> tuple[Tensor, Tensor]:
        """Rotate or scale the samples that have a margin, and put all in their order.

        Args:
            images: without margin and with it.
            labels: likewise.
            moved: (B,) bool, which samples of the batch have one.
        """
        images, labels = list(images), list(labels)
        if moved.any():
            images[1], labels[1] = self._moved(images[1], labels[1])
        order = torch.from_numpy(np.argsort(np.argsort(moved, kind="stable"), kind="stable"))
        image, label = (torch.cat([part for part in parts if len(part)]) for parts in (images, labels))
        if (order.diff() == 1).all():
            return image, label
        order = order.to(self.device)
        return image[order], label[order]

    def _moved(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        patch, count = self.settings.patch_size, len(image)
        # one of the two or both, as often as where each comes by itself
        drawn = self._uniform(0, _MOVED, count)
        rotates = drawn < _ROTATED
        scales = ~rotates | (drawn < _ROTATED * _SCALED)
        angles = self._uniform(*self.settings.rotation, count, len(patch) - self.settings.flat) * rotates[:, None]
        factors = np.where(scales, self._uniform(*_SCALING, count), 1)
        matrices = np.stack([affine_matrix(*how, flat=self.settings.flat) for how in zip(angles, factors)])
        grid = sampling_grid(matrices, image.shape[2:], patch, image.device)
        new_image = functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        # padded with zeros: labels one higher, so that zero is outside
        higher = (label - _OUTSIDE).to(image.dtype)
        nearest = functional.grid_sample(higher, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return new_image, nearest.round().to(label.dtype) + _OUTSIDE

    def fill_noise(self, image: Tensor) -> None:
        """Add Gaussian noise of one strength to all channels of some samples."""
        for sample in np.flatnonzero(self._happens(0.1, len(image))):
            strength = float(self._uniform(0, 0.1, 1)[0])
            noise = torch.empty_like(image[sample]).normal_(generator=self.noise)
            image[sample].add_(noise, alpha=strength)

    def fill_blurred(self, image: Tensor) -> None:
        """Blur half of the channels of some samples, along each axis for itself."""
        channels = image.flatten(0, 1)
        for place in self._chosen_channels(image, 0.2, 0.5):
            sigmas = self._uniform(0.5, 1.0, image.ndim - 2)
            channels[place] = blurred(channels[place], sigmas)

    def fill_brightness(self, image: Tensor) -> None:
        """Multiply the channels of some samples."""
        chosen = self._chosen_channels(image, 0.15)
        for place, factor in zip(chosen, self._factors(0.75, 1.25, len(chosen))):
            image.flatten(0, 1)[place].mul_(float(factor))

    def fill_contrast(self, image: Tensor) -> None:
        """Stretch the channels of some samples around their mean, within their range."""
        chosen = self._chosen_channels(image, 0.15)
        for place, factor in zip(chosen, self._factors(0.75, 1.25, len(chosen))):
            channel = image.flatten(0, 1)[place]
            mean, (low, high) = channel.mean(), torch.aminmax(channel)
            channel.sub_(mean).mul_(float(factor)).add_(mean).clamp_(low, high)

    def fill_low_resolution(self, image: Tensor) -> None:
        """Sample half of the channels of some samples down and up again."""
        channels = image.flatten(0, 1)
        for place in self._chosen_channels(image, 0.25, 0.5):
            factor = float(self._uniform(0.5, 1, 1)[0])
            kept = 1 if self.settings.flat else 0
            size = [length if axis < kept else round(length * factor) for axis, length in enumerate(image.shape[2:])]
            lower = functional.interpolate(channels[place][None, None], size, mode="nearest-exact")
            mode = "trilinear" if len(size) == 3 else "bilinear"
            channels[place] = functional.interpolate(lower, tuple(image.shape[2:]), mode=mode)[0, 0]

    def fill_gamma(self, image: Tensor, *, probability: float, inverted: bool) -> None:
        """Raise the channels of some samples to a power; mean and standard deviation stay."""
        chosen = self._chosen_channels(image, probability)
        for place, power in zip(chosen, self._factors(0.7, 1.5, len(chosen))):
            fill_power(image.flatten(0, 1)[place], float(power), inverted=inverted)

    def mirrored(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mirror each sample along some of the axes."""
        chosen = [self._happens(0.5, len(image)) for _ in self.settings.mirror_axes]
        for sample in range(len(image)):
            axes = [axis + 1 for axis, happens in zip(self.settings.mirror_axes, chosen) if happens[sample]]
            if axes:
                image[sample], label[sample] = image[sample].flip(axes), label[sample].flip(axes)
        return image, label


def affine_matrix(angles: np.ndarray, factor: float, *, flat: bool) -> np.ndarray:
    """From an offset in the patch to one in the image, both in voxels from the middle, in the order of the axes.

    Args:
        angles: in radians, one per axis; for a flat patch the last one counts.
        factor: larger than 1 shows more of the image.
        flat: leave the first of three axes as it is.
    """
    dimensions = len(angles)
    make = create_affine_matrix_3d if dimensions == 3 else create_affine_matrix_2d
    matrix = make(angles if dimensions == 3 else angles[-1], [factor] * dimensions)
    if flat:
        within_planes, matrix = matrix, np.eye(3)
        matrix[1:, 1:] = within_planes
    return matrix


def sampling_grid(matrices: np.ndarray, image_size: Sequence[int], patch_size: Sequence[int], device: torch.device) -> Tensor:
    """The grids of `grid_sample` for patches in the middle of images, (N, *patch_size, dimensions), from (N, dimensions, dimensions)."""
    relative = matrices * np.array(patch_size) / np.array(image_size)[:, None]
    # torch counts axes from the last to the first
    theta = np.concatenate([relative[:, ::-1, ::-1], np.zeros((len(matrices), len(patch_size), 1))], axis=2)
    theta = torch.from_numpy(theta.astype(np.float32)).to(device)
    return functional.affine_grid(theta, [len(matrices), 1, *patch_size], align_corners=False)


def blurred(channel: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The channel ([z,] y, x) blurred by a Gaussian of another width in voxels along each axis, mirrored at its border."""
    reach = torch.arange(-3, 4, device=channel.device, dtype=channel.dtype)
    for axis, sigma in enumerate(sigmas):
        kernel = torch.exp(-0.5 * (reach / float(sigma)) ** 2)
        lines = channel.movedim(axis, -1)
        width = min(3, lines.shape[-1] - 1)  # an axis shorter than the kernel
        weights = kernel[3 - width:4 + width] / kernel[3 - width:4 + width].sum()
        padded = functional.pad(lines.reshape(1, -1, lines.shape[-1]), (width, width), mode="reflect")[0]
        added = sum(weight * padded[:, start:start + lines.shape[-1]] for start, weight in enumerate(weights))
        channel = added.view(lines.shape).movedim(-1, axis)
    return channel


def fill_power(channel: Tensor, power: float, *, inverted: bool) -> None:
    """Raise the channel, scaled to its range, to a power and give it back its mean and standard deviation, in place."""
    tiny = 1e-7
    if inverted:
        channel.neg_()
    mean, std = channel.mean(), channel.std()
    low, high = torch.aminmax(channel)
    channel.sub_(low).div_((high - low).clamp(min=tiny)).pow_(power).mul_(high - low).add_(low)
    new_mean, new_std = channel.mean(), channel.std()
    channel.sub_(new_mean).mul_(std / new_std.clamp(min=tiny)).add_(mean)
    if inverted:
        channel.neg_()


def targets(label: Tensor, settings: BatchSettings) -> Tensor | list[Tensor]:
    """What the loss compares with: no -1, regions where the training is on regions, one target per scale of deep supervision."""
    label = label.clamp(min=0)
    if settings.regions is not None:
        # the ignore label is the last one, as the loss expects
        regions = [*settings.regions, *([settings.ignore_label] if settings.ignore_label is not None else [])]
        label = torch.cat([_is_in(label, [region] if isinstance(region, int) else region) for region in regions], dim=1)
    if settings.deep_supervision_scales is None:
        return label
    return [_downsampled(label, scales) for scales in settings.deep_supervision_scales]


def _is_in(label: Tensor, values: Sequence[int]) -> Tensor:
    found = label == int(values[0])
    for value in values[1:]:
        found |= label == int(value)
    return found


def _downsampled(label: Tensor, scales: Sequence[float]) -> Tensor:
    if all(scale == 1 for scale in scales):
        return label
    size = [round(length * scale) for length, scale in zip(label.shape[2:], scales)]
    return functional.interpolate(label.float(), size, mode="nearest-exact").to(label.dtype)
