"""Fusion of several predictions of one volume: mean, majority and STAPLE.

STAPLE (Warfield, Zou and Wells, IEEE Transactions on Medical Imaging 2004; for several labels Rohlfing, Russakoff and Maurer, 2003) asks
how reliable each rater is on each label and weighs the votes by that.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

METHODS = {
    "mean": "mean of the probabilities, then the most probable label (regions: those above one half)",
    "majority": "label of most views; among labels with as many views, the one with the highest mean probability",
    "staple": "label by STAPLE, which weighs each view by its reliability on each label",
}

# ITK's expectation maximisation ends when no reliability changes by more than 1e-5, mostly after 5 to 20 steps
_MOST_ITERATIONS = 100


def check_method(method: str, label_manager: LabelManager) -> None:
    """Refuse a fusion that does not exist or has no meaning for these labels.

    Raises:
        ValueError: unknown, or a vote over regions.
    """
    if method not in METHODS:
        raise ValueError(f"there is no fusion {method!r}; choose of {', '.join(METHODS)}")
    if method != "mean" and label_manager.has_regions:
        raise ValueError(f"the fusion {method} decides on one label per voxel, and this dataset has regions, of which a voxel belongs to "
                         f"several; use the fusion mean")


def fuse_files(files: Sequence[Path], *, method: str, label_manager: LabelManager) -> np.ndarray:
    """Fuse the probabilities that nnU-Net saved of one case; one file after the other is in memory.

    Args:
        files: `CASE.npz` of each view, all on the same grid.
        method: a key of `METHODS`.
        label_manager: nnU-Net's, of the dataset.

    Returns:
        (z, y, x) labels, integers.

    Raises:
        ValueError: a method without meaning for the labels (`check_method`), or a damaged file.
    """
    from nnunetv2.ensembling.ensemble import average_probabilities

    check_method(method, label_manager)
    try:
        mean = average_probabilities([str(file) for file in files])
        if method == "mean":
            return label_manager.convert_probabilities_to_segmentation(mean)
        smallest = np.min_scalar_type(len(mean))  # one more than the labels, for the undecided
        labels = [label_manager.convert_probabilities_to_segmentation(np.load(file)["probabilities"]).astype(smallest) for file in files]
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"{', '.join(map(str, files))}: one of them is damaged ({error}); remove it, and run the command that made "
                         f"it again") from error
    return majority(labels, mean) if method == "majority" else staple(labels, mean)


def majority(labels: Sequence[np.ndarray], mean_probabilities: np.ndarray) -> np.ndarray:
    """The label of most raters; of labels with as many raters each, the one with the highest mean probability.

    Args:
        labels: (z, y, x) integers of each rater, 0 to C - 1.
        mean_probabilities: (C, z, y, x), mean over the raters.

    Returns:
        (z, y, x) labels.
    """
    fused = labels[0].copy()
    disputed = _disputed(labels)
    fused[disputed] = _most_votes([rater[disputed] for rater in labels], mean_probabilities[:, disputed])
    return fused


def staple(labels: Sequence[np.ndarray], mean_probabilities: np.ndarray) -> np.ndarray:
    """The label by ITK's MultiLabelSTAPLE; where that leaves a voxel undecided, as `majority`.

    The reliabilities are estimated in the smallest box that holds every rater's foreground. Over a whole volume the background would
    outweigh the rest, and a larger volume would change the result.

    Args:
        labels: (z, y, x) integers of each rater, 0 to C - 1.
        mean_probabilities: (C, z, y, x), mean over the raters.

    Returns:
        (z, y, x) labels.
    """
    import SimpleITK as sitk

    fused = majority(labels, mean_probabilities)
    if not _disputed(labels).any():
        return fused
    box = _foreground_box(labels)
    undecided = len(mean_probabilities)
    estimate = sitk.MultiLabelSTAPLEImageFilter()
    estimate.SetLabelForUndecidedPixels(undecided)
    estimate.SetMaximumNumberOfIterations(_MOST_ITERATIONS)
    found = sitk.GetArrayFromImage(estimate.Execute([sitk.GetImageFromArray(rater[box]) for rater in labels]))
    fused[box] = np.where(found == undecided, fused[box], found)
    return fused


def _disputed(labels: Sequence[np.ndarray]) -> np.ndarray:
    return np.any([rater != labels[0] for rater in labels[1:]], axis=0) if len(labels) > 1 else np.zeros(labels[0].shape, bool)


def _most_votes(labels: Sequence[np.ndarray], mean_probabilities: np.ndarray) -> np.ndarray:
    """(N,) labels of each rater and (C, N) probabilities to (N,) labels."""
    votes = np.sum([np.arange(len(mean_probabilities))[:, None] == rater for rater in labels], axis=0)
    return np.where(votes == votes.max(axis=0), mean_probabilities, -1).argmax(axis=0)


def _foreground_box(labels: Sequence[np.ndarray]) -> tuple[slice, ...]:
    foreground = np.any([rater != 0 for rater in labels], axis=0)
    axes = range(foreground.ndim)
    taken = [np.flatnonzero(foreground.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(found[0]), int(found[-1]) + 1) for found in taken)
