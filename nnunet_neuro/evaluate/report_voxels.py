"""The voxels of a case as the report draws them: classes, errors, planes, projections and errors of centre lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nnunet_neuro.contingency import Contingency
from nnunet_neuro.evaluate.label_names import LabelNames
from nnunet_neuro.evaluate.pairing import Pair, as_zyx, read_labels
from nnunet_neuro.skeletons import annotated_pieces, skeletonise

KINDS = ("hit", "extra", "wrong class", "missed")
# of objects with ids, which are as many as they like
OBJECT_COLOURS = 8
_NEARLY = 0.95
Views = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class DrawnCase:
    """One case.

    Attributes:
        prediction: (z, y, x) unsigned, 0 for background, n for the n-th class; of ids of objects, a colour for each.
        reference: the same of the reference.
        annotated: (z, y, x) bool.
        kinds: (z, y, x) uint8, n for the n-th of `KINDS`, 0 where there is nothing, or no annotation.
        image: (z, y, x) raw, or None.
    """

    prediction: np.ndarray
    reference: np.ndarray
    annotated: np.ndarray
    kinds: np.ndarray
    image: np.ndarray | None


def read_case(pair: Pair, names: LabelNames) -> DrawnCase:
    """Read a case for its pictures."""
    prediction, reference = (read_labels(volume, names) for volume in (pair.prediction, pair.reference))
    image = None if pair.image is None else as_zyx(pair.image.read())
    annotated = np.ones(reference.shape, bool) if names.ignore is None else reference != names.ignore
    if names.instances:
        predicted, referenced = paired_objects(prediction, reference)
        return DrawnCase(object_colours(predicted), object_colours(referenced), annotated, error_kinds(predicted, referenced, annotated),
                          image)
    predicted, referenced = class_numbers(prediction, names), class_numbers(reference, names)
    return DrawnCase(predicted, referenced, annotated, error_kinds(predicted, referenced, annotated), image)


def class_numbers(labels: np.ndarray, names: LabelNames) -> np.ndarray:
    """The class of every voxel, counted from 1 in the order of `names`; where regions overlap, the smallest that holds the label.

    Args:
        labels: (z, y, x) integers.

    Returns:
        (z, y, x) unsigned; labels that are not measured, and the ignore label, are 0.
    """
    lookup = np.zeros(max(names.known) + 1, np.min_scalar_type(len(names.classes)))
    numbered = [(names.values_of(name), number) for number, name in enumerate(names.classes, 1)]
    for values, number in sorted(numbered, key=_number_of_labels, reverse=True):
        lookup[list(values)] = number
    return lookup[labels]


def error_kinds(prediction: np.ndarray, reference: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Which of `KINDS` each voxel is.

    Args:
        prediction: integers, 0 for background.
        reference: the same.
        annotated: bool; voxels outside are nothing.

    Returns:
        uint8, n for the n-th kind, 0 for nothing.
    """
    kinds = np.zeros(reference.shape, np.uint8)
    kinds[prediction != 0] = 1 + KINDS.index("extra")
    kinds[reference != 0] = 1 + KINDS.index("missed")
    both = (prediction != 0) & (reference != 0)
    kinds[both] = np.where(prediction[both] == reference[both], 1 + KINDS.index("hit"), 1 + KINDS.index("wrong class"))
    kinds[~annotated] = 0
    return kinds


def paired_objects(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The objects of both sides, numbered so that two have one number where each is the other's largest overlap.

    Args:
        prediction: (z, y, x) ids, 0 for background.
        reference: (z, y, x) ids.

    Returns:
        (z, y, x) integers of prediction and reference.
    """
    table = Contingency.of(prediction, reference, (prediction != 0) & (reference != 0))
    referenced, place_in_reference = np.unique(reference, return_inverse=True)
    predicted, place_in_prediction = np.unique(prediction, return_inverse=True)
    numbers = np.where(referenced == 0, 0, np.arange(1, len(referenced) + 1))
    # an object without partner has a number that the reference does not have
    renamed = np.where(predicted == 0, 0, np.arange(1, len(predicted) + 1) + len(referenced))
    partner = _largest(table.prediction, table.reference, table.voxels)
    back = _largest(table.reference, table.prediction, table.voxels)
    for place, one in enumerate(predicted.tolist()):
        if one in partner and back[partner[one]] == one:
            renamed[place] = numbers[np.searchsorted(referenced, partner[one])]
    return renamed[place_in_prediction].reshape(prediction.shape), numbers[place_in_reference].reshape(reference.shape)


def object_colours(numbers: np.ndarray) -> np.ndarray:
    """Numbers of objects to 1 ... `OBJECT_COLOURS`, 0 stays."""
    return np.where(numbers == 0, 0, 1 + numbers % OBJECT_COLOURS).astype(np.uint8)


def fullest_planes(voxels: DrawnCase) -> tuple[int, int, int]:
    """Per axis, the plane with most annotated reference; without any, with most prediction, then with most annotated voxels.

    Of planes that have nearly as much, the one nearest the middle, because volumes that are full of objects are worth no less there.
    """
    for mask in ((voxels.reference != 0) & voxels.annotated, (voxels.prediction != 0) & voxels.annotated, voxels.annotated):
        if mask.any():
            return tuple(_fullest(np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return tuple(size // 2 for size in mask.shape)


def sections(volume: np.ndarray, planes: tuple[int, int, int]) -> Views:
    """Three planes of a volume: (y, x), (y, z) and (z, x)."""
    return volume[planes[0]], volume[:, :, planes[2]].T, volume[:, planes[1]]


def projections(volume: np.ndarray, project: Callable[..., np.ndarray] = np.max) -> Views:
    """A volume seen along z, x and y: (y, x), (y, z) and (z, x).

    Args:
        volume: (z, y, x).
        project: takes a volume and an `axis`, and removes the axis.
    """
    return project(volume, axis=0), project(volume, axis=2).T, project(volume, axis=1)


def most_frequent_kind(kinds: np.ndarray, *, axis: int) -> np.ndarray:
    """The kind that most voxels along an axis are, 0 where none is any; of equally many the last of `KINDS`."""
    counts = np.stack([np.count_nonzero(kinds == number, axis=axis) for number in range(1, len(KINDS) + 1)])
    last = len(KINDS) - counts[::-1].argmax(axis=0)
    return np.where(counts.any(axis=0), last, 0).astype(np.uint8)


def centre_line_errors(prediction: np.ndarray, reference: np.ndarray, annotated: np.ndarray, *, tolerance: float,
                       spacing: tuple[float, float, float]) -> dict[str, np.ndarray]:
    """The voxels of the centre lines of hits, of extra and of missed lines, as the tolerant measures count them.

    Args:
        prediction: (z, y, x) bool.
        reference: (z, y, x) bool.
        annotated: (z, y, x) bool.
        tolerance: in the unit of `spacing`.
        spacing: voxel size (z, y, x).

    Returns:
        kind to (n, 3) integer places (z, y, x).
    """
    found: dict[str, list[np.ndarray]] = {"hit": [], "extra": [], "missed": []}
    for box, flat_axis in annotated_pieces(annotated):
        corner = [0 if part.start is None else part.start for part in box]
        masks = [mask[box] & annotated[box] for mask in (prediction, reference)]
        lines = [_lines(mask, flat_axis) for mask in masks]
        for own, other, without in ((lines[1], masks[0], "missed"), (lines[0], masks[1], "extra")):
            near = _near(own, other, tolerance, spacing)
            found[without].append(own[~near] + corner)
            if without == "missed":
                found["hit"].append(own[near] + corner)
    return {kind: np.concatenate([np.zeros((0, 3), int), *places]) for kind, places in found.items()}


def _fullest(counts: np.ndarray) -> int:
    candidates = np.flatnonzero(counts >= _NEARLY * counts.max())
    return int(candidates[np.abs(candidates - len(counts) // 2).argmin()])


def _number_of_labels(numbered: tuple[tuple[int, ...], int]) -> int:
    return len(numbered[0])


def _largest(ids: np.ndarray, partners: np.ndarray, voxels: np.ndarray) -> dict[int, int]:
    """Id to the partner it shares most voxels with; of equally large ones the lowest."""
    order = np.lexsort((~partners, voxels, ids))
    return dict(zip(ids[order].tolist(), partners[order].tolist()))


def _lines(mask: np.ndarray, flat_axis: int | None) -> np.ndarray:
    thinned = skeletonise(mask) if flat_axis is None else np.expand_dims(skeletonise(mask.squeeze(flat_axis)), flat_axis)
    return np.argwhere(thinned)


def _near(places: np.ndarray, mask: np.ndarray, tolerance: float, spacing: tuple[float, float, float]) -> np.ndarray:
    from scipy.spatial import KDTree

    if not len(places) or not mask.any():
        return np.zeros(len(places), bool)
    distances, _ = KDTree(np.argwhere(mask) * spacing).query(places * np.asarray(spacing))
    # a tolerance of two voxels must hold at a distance of two voxels, however their size was rounded
    return distances <= tolerance * (1 + 1e-6)
