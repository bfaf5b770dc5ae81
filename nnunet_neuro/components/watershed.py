"""Seeded watershed: objects that touch, told apart by seeds, block by block.

The seeds are exact: a voxel is a seed by what lies within a fixed distance of it, and what belongs to one seed is found over the whole
volume, so no seed depends on the blocks. The flood is local: a block is flooded together with a halo, and keeps its own voxels. So a voxel
may go to another seed than in a flood of the whole volume where what decides lies farther away than the halo. Voxels that no seed of block
and halo reaches are parts without a seed; `merging` joins them across blocks and gives each to the seed that it touches most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nnunet_neuro.components.grid import AXES_OF
from nnunet_neuro.components.labelling import components_of_classes
from nnunet_neuro.volumes import Region, Volume, derived, grown


@dataclass(frozen=True)
class Landscape:
    """What is flooded, three volumes of one shape (z, y, x).

    Attributes:
        labels: class of each voxel, 0 for background.
        seeds: class of each voxel that is a seed, else 0; seeds lie within their class.
        elevation: floats; low places are flooded first.
        rule: how seeds and elevation come about, in words; a search is not continued with another rule.
    """

    labels: Volume
    seeds: Volume
    elevation: Volume
    rule: str


def depth_landscape(labels: Volume, *, spacing: Sequence[float], depth: float) -> Landscape:
    """Seeds where a class is at least `depth` thick on every side; for compact objects that touch.

    The distance of a voxel to the nearest one of another class, up to `depth`, is the landscape. Nothing is known beyond the volume.

    Args:
        labels: classes.
        spacing: voxel size (z, y, x).
        depth: in the unit of the spacing; smaller than half the thickness of the thinnest object, larger than half that of a neck.
    """
    if not depth > 0 or min(spacing) <= 0:
        raise ValueError(f"a seed depth of {depth} with voxels of {tuple(spacing)} is not possible; both must be positive")
    margin = tuple(int(depth * (1 + 1e-6) / size) for size in spacing)
    arguments = (tuple(spacing), depth, margin)
    return Landscape(labels, derived(labels, partial(_deep_classes, *arguments), labels.dtype, margin=margin),
                     derived(labels, partial(_minus_depth, *arguments), np.float32, margin=margin),
                     f"depth {depth} with voxels of {tuple(spacing)}")


def probability_landscape(labels: Volume, probability: Volume, *, threshold: float) -> Landscape:
    """Seeds where a map, such as the probability of the interior, is at least `threshold`; high places are flooded first.

    Args:
        labels: classes.
        probability: of the same shape.
        threshold: in the numbers of the map, which may be 0 to 255.
    """
    if labels.shape != probability.shape:
        raise ValueError(f"{probability.path} has shape {probability.shape}, but the labels {labels.path} have {labels.shape}; they must "
                         "be of the same volume")
    return Landscape(labels, derived(labels, partial(_likely_classes, probability, threshold), labels.dtype),
                     derived(probability, _minus_itself, np.float32), f"{probability.path} of at least {threshold}")


def interior_landscape(labels: Volume, *, interior: int = 1) -> Landscape:
    """Seeds are one class, such as the interior that `nnneuro_convert mitoem` makes; the others, its boundary, go to the nearest seed.

    All objects are of class 1.

    Args:
        labels: classes, 0 for background.
        interior: the class of the seeds.
    """
    return Landscape(derived(labels, _foreground, np.uint8), derived(labels, partial(_equal_to, interior), np.uint8),
                     derived(labels, _flat, np.float32), f"interior {interior}")


def flooded_parts(landscape: Landscape, seed_ids: Volume, region: Region, *, halo: Sequence[int],
                  connectivity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flood one block.

    Args:
        landscape: what to flood.
        seed_ids: id of each seed voxel, 0 elsewhere.
        region: the block.
        halo: voxels beyond the block, (z, y, x), that are flooded with it.
        connectivity: 6, 18 or 26 neighbours.

    Returns:
        (z, y, x) integers 1 to n of the block's parts, each occurring, 0 for background; the class and the seed (0 for none) of each.
    """
    from skimage.segmentation import watershed

    larger = grown(region, halo, landscape.labels.shape)
    core = tuple(slice(part.start - more.start, part.stop - more.start) for part, more in zip(region, larger))
    labels, ids = landscape.labels.read(larger), seed_ids.read(larger)
    markers = np.zeros(ids.shape, np.int32)
    seeds, markers[ids > 0] = _consecutive(ids[ids > 0])
    if len(seeds):
        elevation = landscape.elevation.read(larger)
        flooded = sum(watershed(elevation, np.where(mask, markers, 0), mask=mask, connectivity=AXES_OF[connectivity])
                      for _, mask in _masks(labels))[core]
    else:
        flooded = np.zeros_like(labels[core], np.int32)
    return _numbered(labels[core], flooded, seeds, connectivity)


# --- what a block is flooded into --------------------------------------------------------------------------------------------------


def _consecutive(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seeds, index = np.unique(ids, return_inverse=True)
    return seeds, index.ravel() + 1


def _numbered(labels: np.ndarray, flooded: np.ndarray, seeds: np.ndarray,
              connectivity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts of seeds first, then the components of what no seed reached."""
    reached = np.unique(flooded[flooded > 0])
    number_of = np.zeros(len(seeds) + 1, np.int64)
    number_of[reached] = np.arange(1, len(reached) + 1)
    parts = number_of[flooded]
    class_of_reached = np.zeros(len(reached) + 1, np.int64)
    class_of_reached[parts.ravel()] = labels.ravel()  # part 0 takes any of the rest and is not used
    rest, class_of_rest = components_of_classes(np.where(flooded > 0, 0, labels), connectivity=connectivity)
    parts[rest > 0] = rest[rest > 0].astype(np.int64) + len(reached)
    seed_of = np.concatenate([seeds[reached - 1].astype(np.uint64), np.zeros(len(class_of_rest), np.uint64)])
    return parts, np.concatenate([class_of_reached[1:], class_of_rest]), seed_of


def _masks(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for value in np.unique(labels):
        if value:
            yield value, labels == value


# --- blocks of lazy volumes --------------------------------------------------------------------------------------------------------


def _depths(spacing: tuple[float, ...], depth: float, margin: tuple[int, ...], labels: Volume, region: Region) -> tuple[np.ndarray, ...]:
    """Class, and distance to the nearest voxel of another class, of every voxel; distances beyond `depth` are at least `depth`."""
    from scipy.ndimage import distance_transform_edt

    larger = grown(region, margin, labels.shape)
    core = tuple(slice(part.start - more.start, part.stop - more.start) for part, more in zip(region, larger))
    classes = labels.read(larger)
    distances = np.zeros(classes.shape, np.float32)
    for _, mask in _masks(classes):
        # without any other voxel scipy's distances are not defined
        distances[mask] = depth if mask.all() else distance_transform_edt(mask, sampling=spacing)[mask]
    return classes[core], distances[core]


def _deep_classes(spacing: tuple[float, ...], depth: float, margin: tuple[int, ...], labels: Volume, region: Region) -> np.ndarray:
    classes, distances = _depths(spacing, depth, margin, labels, region)
    return np.where(distances >= depth * (1 - 1e-6), classes, 0).astype(classes.dtype)


def _minus_depth(spacing: tuple[float, ...], depth: float, margin: tuple[int, ...], labels: Volume, region: Region) -> np.ndarray:
    return -np.minimum(_depths(spacing, depth, margin, labels, region)[1], np.float32(depth))


def _likely_classes(probability: Volume, threshold: float, labels: Volume, region: Region) -> np.ndarray:
    classes = labels.read(region)
    return np.where(probability.read(region) >= threshold, classes, 0).astype(classes.dtype)


def _minus_itself(probability: Volume, region: Region) -> np.ndarray:
    return -probability.read(region).astype(np.float32)


def _foreground(labels: Volume, region: Region) -> np.ndarray:
    return (labels.read(region) != 0).astype(np.uint8)


def _equal_to(value: int, labels: Volume, region: Region) -> np.ndarray:
    return (labels.read(region) == value).astype(np.uint8)


def _flat(labels: Volume, region: Region) -> np.ndarray:
    return np.zeros(tuple(part.stop - part.start for part in region), np.float32)
