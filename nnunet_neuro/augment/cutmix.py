"""A box of another training case in place of a box of the patch.

After D-LMBmap (Li et al., Nature Methods 2023), which overwrites a corner box of an axon cube with that of an artefact cube and empties
the label there, once, before training. Here donors are read while training, from the fold's training cases only; any corner serves, and
boxes inside the patch as well; cases that are no artefacts give their label with their voxels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nnunet_neuro.augment.drawn_transform import DrawnTransform
from nnunet_neuro.augment.quantiles import is_empty

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Mix:
    """What was drawn: the donor, the box in the patch, and the equally large box (z, y, x) in the donor."""

    donor: str
    box: Box
    source: Box


class Donors:
    """Cases that may give a box.

    Args:
        dataset: nnU-Net's dataset of the fold's training cases.
        artefacts: cases known to show artefacts alone; cases whose label is empty count as such anyway.
    """

    def __init__(self, dataset: Any, artefacts: Collection[str] = ()) -> None:
        self.dataset = dataset
        self.shape_of: dict[str, tuple[int, ...]] = {}
        self.artefacts: list[str] = []
        self.others: list[str] = []
        for identifier in dataset.identifiers:
            image, _, _, properties = dataset.load_case(identifier)
            self.shape_of[identifier] = tuple(image.shape[1:])
            empty = identifier in artefacts or is_empty(properties["class_locations"])
            (self.artefacts if empty else self.others).append(identifier)

    def read(self, mix: Mix) -> tuple[np.ndarray, np.ndarray]:
        """The donor's voxels (C, z, y, x) and labels (S, z, y, x) in the box; an artefact case's label is zero wherever it has tissue."""
        image, segmentation, previous, _ = self.dataset.load_case(mix.donor)
        voxels = np.array(image[(slice(None), *mix.source)])
        labels = np.asarray(segmentation[(slice(None), *mix.source)]).astype(np.int16)
        if mix.donor in self.artefacts:
            labels = np.minimum(labels, 0)  # -1, outside the image, stays
        if previous is not None:
            labels = np.concatenate([labels, np.asarray(previous[mix.source]).astype(np.int16)[None]])
        return voxels, labels


class CutMixTransform(DrawnTransform):
    """Overwrites a box of the patch with a box of a donor.

    A corner box begins in one of the patch's corners and is up to as large as the patch along each axis, evenly drawn. A free box lies
    anywhere and is an eighth to a half as long as the patch along each axis.

    Args:
        donors: to read from.
        artefact_share: how often an artefact case is the donor, where there are both kinds.
        corner_share: how often the box is a corner box.
        largest: scales the length of the boxes; 0 changes nothing.
        probability: of being applied to a patch.
    """

    def __init__(self, donors: Donors, *, artefact_share: float = 0.5, corner_share: float = 0.5, largest: float = 1.0,
                 probability: float = 1.0) -> None:
        super().__init__(probability)
        self.donors = donors
        self.artefact_share = artefact_share
        self.corner_share = corner_share
        self.largest = largest

    def draw(self, image: torch.Tensor, segmentation: torch.Tensor | None) -> Mix | None:
        patch = np.array(image.shape[1:])
        donor = self._draw_donor()
        available = self.donors.shape_of[donor]
        limit = np.minimum(patch, available[-len(patch):])
        draw_box = _draw_corner_box if np.random.random() < self.corner_share else _draw_free_box
        first, size = draw_box(patch, limit, self.largest)
        if not size.all():
            return None
        flat = len(available) - len(patch)  # one plane of a volume for a flat patch
        source_size = np.concatenate([np.ones(flat, int), size])
        source_first = [np.random.randint(length - needed + 1) for length, needed in zip(available, source_size)]
        return Mix(donor, _box(first, size), _box(source_first, source_size))

    def _draw_donor(self) -> str:
        artefacts, others = self.donors.artefacts, self.donors.others
        wants_artefact = np.random.random() < self.artefact_share
        kind = artefacts if artefacts and (wants_artefact or not others) else others
        return kind[np.random.randint(len(kind))]

    def fill(self, image: torch.Tensor, segmentation: torch.Tensor | None, drawn: Mix) -> None:
        voxels, labels = self.donors.read(drawn)
        if image.ndim == 3:
            voxels, labels = voxels[:, 0], labels[:, 0]
        inside = (slice(None), *drawn.box)
        image[inside] = torch.from_numpy(voxels)
        if segmentation is not None:
            segmentation[inside] = torch.from_numpy(labels)


def _draw_corner_box(patch: np.ndarray, limit: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray]:
    size = np.minimum((largest * np.random.randint(0, patch + 1)).astype(int), limit)
    return np.random.randint(0, 2, len(patch)) * (patch - size), size


def _draw_free_box(patch: np.ndarray, limit: np.ndarray, largest: float) -> tuple[np.ndarray, np.ndarray]:
    size = np.minimum(np.round(largest * np.random.uniform(1 / 8, 1 / 2, len(patch)) * patch).astype(int), limit)
    return np.random.randint(0, patch - size + 1), size


def _box(first: Sequence[int], size: Sequence[int]) -> Box:
    return tuple(slice(int(start), int(start + length)) for start, length in zip(first, size, strict=True))
