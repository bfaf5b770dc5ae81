"""Mixins that put the project's transforms into a trainer's augmentation.

They stand before nnUNetTrainer in the bases and keep everything that nnU-Net does itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer_module
from torch import distributed

from nnunet_neuro.augment.contrast import AxonWeakeningTransform, LocalEnhancementTransform
from nnunet_neuro.augment.cutmix import CutMixTransform, Donors
from nnunet_neuro.augment.histogram_matching import HistogramMatchingTransform
from nnunet_neuro.augment.on_device import BatchAugmentation, BatchSettings, PatchLoader
from nnunet_neuro.augment.quantiles import References, dataset_references, foreign_references
from nnunet_neuro.augment.sections import BrightnessStripesTransform, MissingSectionsTransform, SectionShiftTransform

REFERENCES_FILE = "histogram_references.npz"


class AxonAugmentMixin:
    """What D-LMBmap augments axon cubes with, while training: cutmix, histogram matching, local contrast.

    Donors and references are the fold's training cases; with `nnneuro_convert axon --match-to` the cubes of another brain are references
    as well. Quantile functions of the references are computed when training begins and kept in the fold's folder.
    """

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        pipeline = super().get_training_transforms(*args, **kwargs)
        dataset, _ = self.get_tr_and_val_datasets()
        dimensions = len(self.configuration_manager.patch_size)
        return insert_after_spatial(pipeline, axon_transforms(
            Donors(dataset, artefact_cases(self.dataset_json)),
            self._references(dataset),
            spacing=self.configuration_manager.spacing[-dimensions:],
            ignore_label=self.label_manager.ignore_label,
        ))

    def _references(self, dataset: Any) -> References:
        file = Path(self.output_folder) / REFERENCES_FILE
        if self.local_rank == 0:
            own = dataset_references(dataset, file)
        if self.is_ddp:
            distributed.barrier()
        if self.local_rank != 0:
            own = dataset_references(dataset, file, progress=False)
        foreign = foreign_references(self.dataset_json.get("histogram_references", ()), self.configuration_manager.normalization_schemes,
                                     self.plans_manager.foreground_intensity_properties_per_channel)
        return own if foreign is None else own + foreign


class EMAugmentMixin:
    """Defects of electron microscopy while training: stripes of brightness, lost sections, sections out of place.

    Sections are the planes along z of the raw volumes. Flat images, which are one section each, get stripes only.
    """

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        pipeline = super().get_training_transforms(*args, **kwargs)
        dimensions = len(self.configuration_manager.patch_size)
        return insert_before_mirroring(pipeline, section_transforms(section_axis(self.plans_manager.transpose_forward, dimensions)))


class GPUAugmentMixin:
    """nnU-Net's default augmentation on the device that trains, so that few CPU cores feed a fast card; works on the CPU too.

    The processes that augment only read patches, and apply what mixins before this one insert. Validation is nnU-Net's own. A cascade's
    second stage, which has augmentations of its own, is augmented by nnU-Net as ever.
    """

    batch_augmentation: BatchAugmentation | None = None

    def get_training_transforms(self, patch_size: Sequence[int], rotation_for_DA: tuple[float, float],  # noqa: N803 - nnU-Net's name
                                deep_supervision_scales: Sequence | None, mirror_axes: tuple[int, ...], do_dummy_2d_data_aug: bool,
                                use_mask_for_norm: list[bool] | None = None, is_cascaded: bool = False, foreground_labels: Any = None,
                                regions: Sequence | None = None, ignore_label: int | None = None) -> BasicTransform:
        if is_cascaded:
            self.print_to_log_file("The augmentation of a cascade stays on the CPU: it changes the segmentation of the stage before")
            return super().get_training_transforms(patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug,
                                                   use_mask_for_norm, is_cascaded, foreground_labels, regions, ignore_label)
        settings = BatchSettings(
            patch_size=tuple(int(length) for length in patch_size),
            rotation=rotation_for_DA,
            deep_supervision_scales=deep_supervision_scales,
            mirror_axes=tuple(mirror_axes or ()),
            flat=do_dummy_2d_data_aug,
            masked_channels=tuple(channel for channel, masked in enumerate(use_mask_for_norm or ()) if masked),
            regions=regions,
            ignore_label=ignore_label,
        )
        self.batch_augmentation = BatchAugmentation(settings, self.device, seed=0)
        return ComposeTransforms([])

    def get_dataloaders(self) -> tuple[Any, Any]:
        """nnU-Net's, whose training patches have a margin only where it is needed."""
        if self.is_cascaded:
            return super().get_dataloaders()
        with _loader_class(PatchLoader):
            return super().get_dataloaders()

    def on_train_epoch_start(self) -> None:
        """Every epoch is drawn from numpy's generator, which a seed of the training sets."""
        super().on_train_epoch_start()
        if self.batch_augmentation is not None:
            self.batch_augmentation.reseed(int(np.random.randint(2 ** 31)))

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's, of a batch that is augmented first."""
        return super().train_step(batch if self.batch_augmentation is None else self.batch_augmentation(batch))


@contextmanager
def _loader_class(loader: type) -> Iterator[None]:
    """Another class for the loaders that nnU-Net makes meanwhile; it has no hook for that."""
    before = nnunet_trainer_module.nnUNetDataLoader
    nnunet_trainer_module.nnUNetDataLoader = loader
    try:
        yield
    finally:
        nnunet_trainer_module.nnUNetDataLoader = before


def axon_transforms(donors: Donors, references: References, *, spacing: Sequence[float], ignore_label: int | None) -> list[BasicTransform]:
    """The transforms of `AxonAugmentMixin`, in the order in which D-LMBmap applies them.

    Args:
        donors: of cutmix.
        references: of histogram matching.
        spacing: voxel size in the order of the patch's axes.
        ignore_label: nnU-Net's ignore label.
    """
    return [
        CutMixTransform(donors, probability=0.2),
        HistogramMatchingTransform(references, strength=(0.0, 1.0), ignore_label=ignore_label, probability=0.4),
        AxonWeakeningTransform(spacing, strength=(0.0, 0.65), ignore_label=ignore_label, probability=0.3),
        LocalEnhancementTransform(spacing, strength=(0.0, 1.0), probability=0.15),
    ]


def section_transforms(axis: int | None) -> list[BasicTransform]:
    """The transforms of `EMAugmentMixin`.

    Args:
        axis: spatial axis of the patch that counts sections; None for a flat patch.
    """
    stripes = BrightnessStripesTransform(axis, probability=0.2)
    if axis is None:
        return [stripes]
    return [SectionShiftTransform(axis, probability=0.2), stripes, MissingSectionsTransform(axis, probability=0.1)]


def section_axis(transpose_forward: Sequence[int], dimensions: int) -> int | None:
    """Spatial axis of nnU-Net's patches along which the planes of the raw volume lie; None if a patch is one plane.

    Args:
        transpose_forward: of the plans, raw axis at each place.
        dimensions: 2 or 3, of the patch.
    """
    # a flat patch lacks the first of the three axes
    axis = list(transpose_forward).index(0) - (3 - dimensions)
    return axis if axis >= 0 else None


def artefact_cases(dataset_json: dict) -> list[str]:
    """Cases that the axon converter read from a folder of artefact cubes."""
    cases = dataset_json.get("provenance", {}).get("cases", {})
    return [identifier for identifier, record in cases.items() if record.get("artefact")]


def insert_after_spatial(pipeline: ComposeTransforms, added: Sequence[BasicTransform]) -> ComposeTransforms:
    """nnU-Net's pipeline with transforms before its first change of intensities: matching later would undo noise and gamma."""
    spatial = [place for place, transform in enumerate(pipeline.transforms)
               if isinstance(transform, SpatialTransform | Convert2DTo3DTransform)]
    place = spatial[-1] + 1 if spatial else 0
    return ComposeTransforms([*pipeline.transforms[:place], *added, *pipeline.transforms[place:]])


def insert_before_mirroring(pipeline: ComposeTransforms, added: Sequence[BasicTransform]) -> ComposeTransforms:
    """nnU-Net's pipeline with transforms after its changes of intensities: a blur would smear a lost section into its neighbours."""
    ends = (place for place, transform in enumerate(pipeline.transforms)
            if isinstance(transform, MirrorTransform | MaskImageTransform | RemoveLabelTansform))
    place = next(ends, len(pipeline.transforms))
    return ComposeTransforms([*pipeline.transforms[:place], *added, *pipeline.transforms[place:]])
