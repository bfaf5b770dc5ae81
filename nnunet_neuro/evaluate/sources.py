"""The voxels of one case, read whole or region by region: labels, what is annotated, probabilities and ids of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from nnunet_neuro.evaluate.label_names import LabelNames
from nnunet_neuro.evaluate.measures import Masks
from nnunet_neuro.evaluate.pairing import Pair, as_zyx_shape, check_ignored, read_labels, spacing_zyx
from nnunet_neuro.evaluate.probabilities import ClassProbabilities, open_probabilities
from nnunet_neuro.volumes import Region, Volume, derived, full_region

ROLES = ("prediction", "reference")


@dataclass(frozen=True)
class CaseVoxels:
    """One case.

    Attributes:
        pair: its files.
        names: its labels.
        tolerance: in the unit of the voxel size.
        probabilities: opened, or None.
    """

    pair: Pair
    names: LabelNames
    tolerance: float
    probabilities: ClassProbabilities | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return as_zyx_shape(self.pair.reference)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x); 1 where no file states it."""
        return known_spacing(self.pair) or (1.0, 1.0, 1.0)

    def read(self, region: Region | None = None) -> CasePart:
        """The labels of a region, or all.

        Raises:
            ValueError: labels that cannot be, see `pairing.read_labels`.
        """
        region = full_region(self.shape, region)
        prediction, reference = (read_labels(getattr(self.pair, role), self.names, region) for role in ROLES)
        check_ignored(prediction, reference, self.pair, self.names)
        return CasePart(self, region, prediction, reference)

    def class_mask(self, name: str, role: str) -> Volume:
        """The annotated voxels of a class in the prediction or the reference, as a lazy uint8 volume (z, y, x)."""
        base = replace(self.pair.reference, shape=self.shape, corner=None, plane_of=False)
        return derived(base, partial(_mask_of, self, name, role), np.uint8)


@dataclass(frozen=True)
class CasePart:
    """A region of a case.

    Attributes:
        case: the whole.
        region: of it.
        prediction: (z, y, x) labels or ids.
        reference: (z, y, x) labels or ids.
    """

    case: CaseVoxels
    region: Region
    prediction: np.ndarray
    reference: np.ndarray

    @cached_property
    def annotated(self) -> np.ndarray:
        """(z, y, x) bool, false where the reference has the ignore label."""
        ignore = self.case.names.ignore
        return np.ones(self.reference.shape, bool) if ignore is None else self.reference != ignore

    def cut(self, region: Region) -> CasePart:
        """A smaller region of the case, which lies in this one."""
        box = _within(region, self.region)
        return CasePart(self.case, region, self.prediction[box], self.reference[box])

    def masks(self, name: str, *, inner: Region | None = None, find_objects: Callable[[Region], tuple] | None = None) -> Masks:
        """What the measures see of a class.

        Args:
            name: class or region.
            inner: the voxels to be counted, in those of the case; None for all.
            find_objects: region of the case -> ids of objects in prediction and reference, which hold for the whole case; None leaves it
                to `Masks` to number the components of what it sees.
        """
        case = self.case
        box = None if inner is None else _within(inner, self.region)
        prediction, reference = (_class_voxels(getattr(self, role), case.names, name) for role in ROLES)
        return PartMasks(
            prediction, reference, self.annotated, tolerance=case.tolerance, spacing=case.spacing, inner=box,
            object_ids=(self.prediction, self.reference) if case.names.instances else None,
            probability=None if case.probabilities is None else case.probabilities.of(name, self.region),
            open_sides=tuple((part.start > 0, part.stop < length) for part, length in zip(self.region, case.shape)),
            find_objects=find_objects and partial(find_objects, self.region))


@dataclass(frozen=True)
class PartMasks(Masks):
    """Masks of a part of a case, whose objects are those of the whole case.

    Attributes:
        find_objects: gives the ids when a measure asks for them; None numbers the components of the part.
    """

    find_objects: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None

    @cached_property
    def objects(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Masks.objects`."""
        if self.object_ids is not None or self.find_objects is None:
            return super().objects
        return self.find_objects()

    def within(self) -> PartMasks:
        """The inner voxels alone."""
        if self.inner is None or self.find_objects is None:
            return super().within()
        return replace(super().within(), find_objects=partial(_cut_objects, self.find_objects, self.inner))


def open_case(pair: Pair, names: LabelNames, *, tolerance: float | None, scratch: Path, probabilities: bool) -> CaseVoxels:
    """Open a case; see `tolerance_for` and `open_probabilities` for the arguments.

    Args:
        pair: its files.
        names: its labels.
        tolerance: length, or None for the default.
        scratch: an empty folder for what must be unpacked.
        probabilities: whether they are wanted.
    """
    opened = None
    if probabilities:
        opened = open_probabilities(pair.probabilities, names, as_zyx_shape(pair.reference), scratch)
    return CaseVoxels(pair, names, tolerance_for(known_spacing(pair), tolerance), opened)


def tolerance_for(spacing: Sequence[float] | None, tolerance: float | None) -> float:
    """The tolerance, or else twice the smallest edge of a voxel."""
    return float(tolerance) if tolerance is not None else 2.0 * min(spacing or (1.0,))


def known_spacing(pair: Pair) -> tuple[float, float, float] | None:
    """Voxel size (z, y, x) of a case; None where neither file states it."""
    return spacing_zyx(pair.reference) or spacing_zyx(pair.prediction)


def _within(region: Region, larger: Region) -> Region:
    """A region in the voxels of a larger one."""
    return tuple(slice(part.start - more.start, part.stop - more.start) for part, more in zip(region, larger))


def _class_voxels(labels: np.ndarray, names: LabelNames, name: str) -> np.ndarray:
    if names.instances:
        return labels != 0
    values = names.values_of(name)
    return labels == values[0] if len(values) == 1 else np.isin(labels, values)


def _mask_of(case: CaseVoxels, name: str, role: str, base: Volume, region: Region) -> np.ndarray:
    part = case.read(region)
    return (_class_voxels(getattr(part, role), case.names, name) & part.annotated).view(np.uint8)


def _cut_objects(find_objects: Callable[[], tuple], inner: Region) -> tuple[np.ndarray, np.ndarray]:
    return tuple(ids[inner] for ids in find_objects())
