"""Classes for training made from volumes of instance ids, block by block.

An instance volume holds one id per object and 0 for background. The functions of arrays take and give whole blocks; `boundary_label`,
`foreground_label` and `class_label` wrap them as lazy volumes that read the margin they need around every region, so that a block gets the
classes it would get in the whole volume.

The boundary follows the contours of MitoEM's baselines in PyTorch Connectomics (Wei et al., MICCAI 2020), with three differences: it lies
within the objects only, so interior and boundary together are the objects; its width is a distance in micrometres, so thick sections
get no boundary of a whole plane; and two objects that touch are separated whatever the width. Ids are compared, never computed
with: scipy's and scikit-image's rank filters go through float64, which merges ids above 2**53.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np

from nnunet_neuro.volumes import Region, Volume, derived, grown

BACKGROUND, INTERIOR, BOUNDARY = 0, 1, 2
# voxels read at once where a whole volume is walked through
_SLAB_VOXELS = 1 << 24


def check_ids(volume: Volume) -> Volume:
    """The volume itself, if its voxels can be instance ids.

    Raises:
        ValueError: floats or booleans.
    """
    if volume.dtype.kind not in "ui":
        raise ValueError(f"{volume.path} holds {volume.dtype} voxels; expected integer instance ids (uint16, uint32 or uint64): a float "
                         "cannot tell large ids apart, and a mask has none; label its objects first")
    return volume


def boundary_classes(ids: np.ndarray, *, spacing: Sequence[float], width: float, in_plane: bool = False) -> np.ndarray:
    """Background 0, interior 1 and boundary 2 of every object.

    A voxel of an object is boundary where any voxel that is not of the same object lies within `width`, or where another object
    touches it, by face, edge or corner. So two objects are never joined by interior voxels. Nothing is known beyond the array's faces,
    which make no boundary.

    The time grows with the number of voxels within `width`: 0.1 s per offset and 100 million voxels.

    Args:
        ids: (z, y, x) integers, 0 for background.
        spacing: voxel size (z, y, x) in micrometres.
        width: distance in micrometres between voxel centres; 0 gives a boundary only where objects touch.
        in_plane: look at each plane alone, as for thick or badly aligned sections. Objects that touch across planes are then not
            separated.

    Returns:
        uint8 of the same shape.
    """
    objects = ids != 0
    boundary = np.zeros(ids.shape, bool)
    within = _offsets_within(spacing, width, in_plane)
    for offset in dict.fromkeys([*within, *_neighbours(in_plane)]):
        here, there = _shifted(offset, ids.shape)
        differ = ids[here] != ids[there]
        if offset not in within:
            differ &= objects[here] & objects[there]
        boundary[here] |= differ
        boundary[there] |= differ
    classes = objects.astype(np.uint8)
    classes[boundary & objects] = BOUNDARY
    return classes


def boundary_label(instances: Volume, *, spacing: Sequence[float], width: float, in_plane: bool = False) -> Volume:
    """`boundary_classes` of an instance volume, computed where it is read."""
    return derived(check_ids(instances), partial(_boundary_block, tuple(spacing), width, in_plane), np.uint8,
                   margin=_margin(spacing, width, in_plane))


def foreground_label(instances: Volume) -> Volume:
    """1 where there is any object, else 0, computed where it is read."""
    return derived(check_ids(instances), _foreground_block, np.uint8)


def classes_of_instances(instances: Volume, classes: Volume, *, progress: bool = False) -> dict[int, int]:
    """The class of each instance by the majority of its voxels, over the whole volume.

    Voxels of class 0 are not counted, as long as the instance has others; of classes with equally many voxels the lowest wins.

    Args:
        instances: ids.
        classes: a class code for every voxel, of the same shape.
        progress: show a bar on stderr.

    Returns:
        Instance id -> class code, 0 for an instance without any; sorted by id.

    Raises:
        ValueError: the shapes differ, or the voxels are no integers.
    """
    from tqdm import tqdm

    check_ids(instances)
    if classes.shape != instances.shape:
        raise ValueError(f"{classes.path} has shape {classes.shape}, but the instances {instances.path} have {instances.shape}; they must "
                         "be cut from the same place")
    if classes.dtype.kind not in "ui":
        raise ValueError(f"{classes.path} holds {classes.dtype} voxels; expected integer class codes")
    votes: dict[int, Counter[int]] = {}
    for region in tqdm(_slabs(instances.shape), desc="classes of instances", unit="slab", disable=not progress, leave=False):
        ids = _read_ids(instances, region)
        for identifier, code, count in _count_pairs(ids, classes.read(region)):
            votes.setdefault(identifier, Counter())[code] += count
    return {identifier: _majority(votes[identifier]) for identifier in sorted(votes)}


def class_label(instances: Volume, value_of: Mapping[int, int]) -> Volume:
    """The value of each voxel's instance, computed where it is read.

    Args:
        instances: ids.
        value_of: instance id -> value from 0 to 65535; every id that occurs must be there.
    """
    keys = np.fromiter(value_of.keys(), check_ids(instances).dtype, len(value_of))
    values = np.fromiter(value_of.values(), np.uint16, len(value_of))
    return derived(instances, partial(_class_block, keys, values), np.uint16)


# --- blocks of lazy volumes --------------------------------------------------------------------------------------------------------


def _read_ids(instances: Volume, region: Region) -> np.ndarray:
    ids = instances.read(region)
    if ids.dtype.kind == "i" and (lowest := int(ids.min())) < 0:
        raise ValueError(f"{instances.path} holds the instance id {lowest}; expected 0 for background and positive ids: renumber it, or "
                         "save it as unsigned integers")
    return ids


def _boundary_block(spacing: tuple[float, ...], width: float, in_plane: bool, instances: Volume, region: Region) -> np.ndarray:
    larger = grown(region, _margin(spacing, width, in_plane), instances.shape)
    classes = boundary_classes(_read_ids(instances, larger), spacing=spacing, width=width, in_plane=in_plane)
    return classes[tuple(slice(part.start - more.start, part.stop - more.start) for part, more in zip(region, larger))]


def _margin(spacing: Sequence[float], width: float, in_plane: bool) -> tuple[int, ...]:
    """How far from a voxel its class depends on others."""
    return tuple(np.abs([*_offsets_within(spacing, width, in_plane), *_neighbours(in_plane)]).max(axis=0).tolist())


def _foreground_block(instances: Volume, region: Region) -> np.ndarray:
    return (_read_ids(instances, region) != 0).astype(np.uint8)


def _class_block(keys: np.ndarray, values: np.ndarray, instances: Volume, region: Region) -> np.ndarray:
    from skimage.util import map_array

    ids = np.ascontiguousarray(_read_ids(instances, region))
    if not len(keys):
        return np.zeros(ids.shape, np.uint16)
    return map_array(ids, keys, values)


# --- neighbours --------------------------------------------------------------------------------------------------------------------


def _offsets_within(spacing: Sequence[float], width: float, in_plane: bool) -> list[tuple[int, int, int]]:
    """Offsets (z, y, x) of voxels whose centres are at most `width` away; of two opposite ones only one."""
    tolerance = 1 + 1e-6  # 3 * 0.008 is a little more than 0.024
    reach = [int(width * tolerance / size) for size in spacing]
    if in_plane:
        reach[0] = 0
    candidates = product(*(range(-far, far + 1) for far in reach))
    return [offset for offset in candidates if offset > (0, 0, 0)
            and sum((step * size) ** 2 for step, size in zip(offset, spacing)) <= (width * tolerance) ** 2]


def _neighbours(in_plane: bool) -> list[tuple[int, int, int]]:
    """Half of the 26 (or, in a plane, 8) voxels that touch one by face, edge or corner."""
    depth = 0 if in_plane else 1
    return [offset for offset in product(range(-depth, depth + 1), (-1, 0, 1), (-1, 0, 1)) if offset > (0, 0, 0)]


def _shifted(offset: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Region, Region]:
    """Two regions of one shape: each voxel of the second lies `offset` from its partner in the first."""
    here = tuple(slice(max(0, -step), max(0, length - max(0, step))) for step, length in zip(offset, shape))
    there = tuple(slice(max(0, step), max(0, length - max(0, -step))) for step, length in zip(offset, shape))
    return here, there


# --- votes -------------------------------------------------------------------------------------------------------------------------


def _slabs(shape: tuple[int, ...]) -> list[Region]:
    planes = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    return [(slice(z, min(z + planes, shape[0])), slice(0, shape[1]), slice(0, shape[2])) for z in range(0, shape[0], planes)]


def _count_pairs(ids: np.ndarray, codes: np.ndarray) -> list[tuple[int, int, int]]:
    """(id, class code, voxels) of every pair that occurs outside the background."""
    objects = ids != 0
    found_ids, id_index = np.unique(ids[objects], return_inverse=True)
    found_codes, code_index = np.unique(codes[objects], return_inverse=True)
    pairs, counts = np.unique(id_index * np.int64(len(found_codes)) + code_index, return_counts=True)
    which_id, which_code = np.divmod(pairs, max(1, len(found_codes)))
    return list(zip(found_ids[which_id].tolist(), found_codes[which_code].tolist(), counts.tolist()))


def _majority(votes: Counter[int]) -> int:
    of_a_class = {code: count for code, count in votes.items() if code}
    return min(of_a_class, key=lambda code: (-of_a_class[code], code)) if of_a_class else 0
