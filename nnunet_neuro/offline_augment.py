"""An augmented set of training cases, written once, as D-LMBmap's create_data does.

Order and meaning are those of D-LMBmap (Li et al., Nature Methods 2023): the axon cubes; with references, a copy of each (suffix `m`),
histogram-matched to a random axon cube of another brain; the artefact cubes, and their copies matched to its artefact cubes; one mix
per axon cube (suffix `c`), a corner box of which an artefact cube overwrites and where the label becomes background, half of the times
from the matched copies of both. From each, random crops are taken, turned by 90 degrees within their planes, mirrored, scaled by 1 to
1.2 and turned by up to 10 degrees; around four axon voxels contrast is weakened. Artefact cubes give crops that are only turned by 90
degrees, and so many of them that there is about one for two crops with axons.

Differs from it: everything is drawn from a seed, per cube, so that a further cube changes no other; cases are written in their own
intensities, which nnU-Net normalises; a cube smaller than the crop is taken whole instead of left out; the local contrast acts; and no
tissue is in two folds. Since a mix holds tissue of two cubes, cubes are dealt into at most five families, donors come from the host's
own one, and a family is a group. While training, nnUNetTrainerAxonAugment draws all this anew for each patch and needs no copies.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.raw_case import read_label
from nnunet_neuro.raw_dataset import IGNORE, Case, DatasetInfo
from nnunet_neuro.raw_formats import smallest_label_dtype
from nnunet_neuro.volumes import Volume
from nnunet_neuro.volumes.volume import Region, Source

FAMILIES = 5  # nnU-Net's number of folds
_SPOTS, _RADIUS, _WEAKENING = 4, 25, 0.65
_LARGEST_SCALE, _LARGEST_ANGLE = 1.2, 10.0


@dataclass(frozen=True)
class OfflineAugmentation:
    """What the augmented set is made of.

    Attributes:
        samples: crops of each cube and mix that shows axons.
        size: length of a crop along each axis, in voxels.
        seed: of all that is drawn.
        references: cubes of another brain, for histogram matching; a note `artefact` marks those without axons. Empty: no matching.
        cutmix: whether to mix axon cubes with artefact cubes.
    """

    samples: int = 2
    size: int = 128
    seed: int = 0
    references: tuple[Case, ...] = ()
    cutmix: bool = True


@dataclass(frozen=True)
class Mixing:
    """The corner box [:z, :y, :x] of a host that a donor overwrites."""

    donor: Case
    matched_to: Case | None
    corner: tuple[int, int, int]


@dataclass(frozen=True)
class Recipe:
    """A cube of the pool that crops are taken from: a source cube, perhaps matched, perhaps mixed."""

    cube: Case
    suffix: str = ""
    matched_to: Case | None = None
    mixing: Mixing | None = None

    @property
    def empty(self) -> bool:
        return is_artefact(self.cube)


@dataclass(frozen=True)
class Sample:
    """A crop of a recipe's cube and what happens to it.

    Attributes:
        first: corner of the crop.
        shape: of the crop.
        quarter_turns: by 90 degrees within the planes.
        mirrored: axes that are mirrored afterwards.
        scale: enlargement along each axis.
        angle: of the rotation within the planes, in degrees.
        contrast_seed: of the voxels around which contrast is weakened; None for none.
    """

    first: tuple[int, int, int]
    shape: tuple[int, int, int]
    quarter_turns: int = 0
    mirrored: tuple[int, ...] = ()
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    angle: float = 0.0
    contrast_seed: int | None = None


def augmented_cases(cases: Iterable[Case], info: DatasetInfo, options: OfflineAugmentation) -> Iterator[Case]:
    """The augmented training cases, then all others as they are; voxels are read when a case is written.

    Args:
        cases: of a converter, (z, y, x); a note `artefact` marks those without axons.
        info: of the dataset; labels of the augmented cases are in its values.
        options: what to make.

    Raises:
        ValueError: options that make nothing, no training case, or a reference with other channels.
    """
    known = list(cases)
    training = sorted((case for case in known if case.split == "train"), key=lambda case: case.identifier)
    _check(training, options)
    if options.cutmix:
        training = _in_families(training)
    pool = make_pool(training, options)
    with_axons, empty = (sum(recipe.empty is kind for recipe in pool) for kind in (False, True))
    for recipe in pool:
        samples = max(1, int(with_axons / empty * options.samples / 2)) if recipe.empty else options.samples
        for number in range(samples):
            yield _case(recipe, number, info, options)
    yield from (case for case in known if case.split != "train")


def is_artefact(case: Case) -> bool:
    """Whether a case shows nothing of the structure."""
    return bool(case.notes.get("artefact"))


def make_pool(training: Sequence[Case], options: OfflineAugmentation) -> list[Recipe]:
    """All cubes that crops are taken from, in D-LMBmap's order; nothing is read."""
    axons = [Recipe(case) for case in training if not is_artefact(case)]
    artefacts = [Recipe(case) for case in training if is_artefact(case)]
    matched, matched_artefacts = ([_matched(recipe, options) for recipe in recipes] if options.references else []
                                  for recipes in (axons, artefacts))
    mixes = []
    for host in axons if options.cutmix else ():
        donors = [recipe for recipe in artefacts if recipe.cube.group == host.cube.group]
        if donors:
            mixes.append(_mixed(host, donors, options))
    return [*axons, *matched, *artefacts, *matched_artefacts, *mixes]


def sample_image(recipe: Recipe, sample: Sample, info: DatasetInfo, channel: int) -> np.ndarray:
    """The crop of a channel, of `sample.shape` and the cube's own dtype."""
    whole = _matched_channel(recipe.cube, recipe.matched_to, channel)
    if recipe.mixing is not None:
        box = _corner_box(recipe.mixing)
        whole[box] = _matched_channel(recipe.mixing.donor, recipe.mixing.matched_to, channel)[box]
    dtype = recipe.cube.channels[channel].dtype
    crop = _turned(whole, sample, order=1)
    if sample.contrast_seed is not None:
        crop = _weakened(crop, sample_label(recipe, sample, info), sample.contrast_seed, info, recipe.cube.spacing)
    return _as_dtype(crop, dtype)


def sample_label(recipe: Recipe, sample: Sample, info: DatasetInfo) -> np.ndarray:
    """The crop of the label, of `sample.shape`, in the dataset's values and smallest type."""
    label, _ = read_label(recipe.cube, info)
    if recipe.mixing is not None:
        label = label.copy()
        label[_corner_box(recipe.mixing)] = 0
    return _turned(label, sample, order=0)


# --- what is drawn -------------------------------------------------------------------------------------------------------------------


def _check(training: Sequence[Case], options: OfflineAugmentation) -> None:
    if options.samples < 1 or options.size < 1:
        raise ValueError(f"found {options.samples} samples of {options.size} voxels, expected at least 1 of each")
    if not any(not is_artefact(case) for case in training):
        raise ValueError("found no training case that shows the structure; an augmented set is made of those")
    for case in (*training, *options.references):
        if len(case.channels[0].shape) != 3:
            raise ValueError(f"{case.channels[0].path} has shape {case.channels[0].shape}; an augmented set is made of volumes (z, y, x)")
        if len(case.channels) != len(training[0].channels):
            raise ValueError(f"{case.channels[0].path} is one of {len(case.channels)} channels, expected {len(training[0].channels)}, as "
                             f"{training[0].identifier} has")


def _in_families(training: Sequence[Case]) -> list[Case]:
    axon_groups = sorted({case.group for case in training if not is_artefact(case)})
    other_groups = sorted({case.group for case in training} - set(axon_groups))
    count = min(FAMILIES, len(axon_groups))
    family_of = {group: number % count + 1 for groups in (axon_groups, other_groups) for number, group in enumerate(groups)}
    return [replace(case, group=f"family-{family_of[case.group]}", notes={**case.notes, "source_group": case.group}) for case in training]


def _generator(seed: int, *names: str | int) -> np.random.Generator:
    """One per cube and purpose, so that what is drawn for one depends on no other."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def _matched(recipe: Recipe, options: OfflineAugmentation) -> Recipe:
    alike = [case for case in options.references if is_artefact(case) is recipe.empty] or options.references
    chosen = _generator(options.seed, recipe.cube.identifier, "match").integers(len(alike))
    return replace(recipe, suffix="m", matched_to=alike[chosen])


def _mixed(host: Recipe, donors: Sequence[Recipe], options: OfflineAugmentation) -> Recipe:
    generator = _generator(options.seed, host.cube.identifier, "mix")
    donor = donors[generator.integers(len(donors))]
    if options.references and generator.random() < 0.5:
        host, donor = _matched(host, options), _matched(donor, options)
    sides = np.minimum(host.cube.channels[0].shape, donor.cube.channels[0].shape)
    corner = tuple(int(length) for length in generator.integers(0, sides + 1))
    return replace(host, suffix="c", mixing=Mixing(donor.cube, donor.matched_to, corner))


def _draw_sample(recipe: Recipe, number: int, options: OfflineAugmentation) -> Sample:
    generator = _generator(options.seed, recipe.cube.identifier, recipe.suffix, number)
    whole = recipe.cube.channels[0].shape
    shape = tuple(min(options.size, length) for length in whole)
    first = tuple(int(generator.integers(length - part + 1)) for length, part in zip(whole, shape))
    turns = int(generator.integers(4))
    if shape[1] != shape[2]:
        turns -= turns % 2  # else the crop would change its shape
    if recipe.empty:
        return Sample(first, shape, turns)
    mirrored = [1 if generator.random() < 0.5 else 2, *(axis for axis in (1, 2) if generator.random() < 0.5)]
    return Sample(
        first, shape, turns,
        # twice along one axis is not at all
        mirrored=tuple(axis for axis in (1, 2) if mirrored.count(axis) == 1),
        scale=tuple(float(factor) for factor in generator.uniform(1, _LARGEST_SCALE, 3)),
        angle=float(generator.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE)),
        contrast_seed=int(generator.integers(2 ** 31)),
    )


# --- the cases -----------------------------------------------------------------------------------------------------------------------


def _case(recipe: Recipe, number: int, info: DatasetInfo, options: OfflineAugmentation) -> Case:
    sample = _draw_sample(recipe, number, options)
    cube, mixing = recipe.cube, recipe.mixing
    sources = [case for case in (cube, recipe.matched_to, mixing and mixing.donor, mixing and mixing.matched_to) if case]
    make_volume = partial(_volume, shape=sample.shape, spacing=cube.spacing, sources=tuple(sources))
    return replace(
        cube,
        identifier=f"{cube.identifier}{recipe.suffix}_{number + 1:02d}",
        channels=tuple(make_volume(volume.path, volume.dtype, partial(sample_image, recipe, sample, info, channel))
                       for channel, volume in enumerate(cube.channels)),
        label=make_volume(cube.label.path, smallest_label_dtype(max(info.labels.values())), partial(sample_label, recipe, sample, info)),
        label_values=None,
        instances=None,
        notes={**cube.notes, "copy_of": cube.identifier, "matched_to": recipe.matched_to.identifier if recipe.matched_to else "",
               "mixed_with": mixing.donor.identifier if mixing else "", "augmentation": _facts(recipe, sample, options)},
    )


def _facts(recipe: Recipe, sample: Sample, options: OfflineAugmentation) -> dict[str, Any]:
    """What was drawn, for the provenance."""
    mixing = recipe.mixing
    return {"seed": options.seed, **asdict(sample), **({"corner": mixing.corner, "donor_matched_to":
            mixing.matched_to.identifier if mixing.matched_to else ""} if mixing else {})}


def _volume(path: Path | str, dtype: np.dtype, make: Callable[[], np.ndarray], *, shape: tuple[int, ...], spacing: tuple[float, ...],
            sources: tuple[Case, ...]) -> Volume:
    return Volume(path, shape, np.dtype(dtype), spacing, partial(_read_part, make), lister=partial(_list_sources, sources))


def _read_part(make: Callable[[], np.ndarray], path: Path | str, region: Region) -> np.ndarray:
    return make()[region]


def _list_sources(cases: Sequence[Case], path: Path | str, region: Region) -> list[Source]:
    return [source for case in cases for volume in case.volumes() for source in volume.sources()]


# --- what is computed ----------------------------------------------------------------------------------------------------------------


def _matched_channel(cube: Case, reference: Case | None, channel: int) -> np.ndarray:
    voxels = cube.channels[channel].read()
    if reference is None:
        return voxels.copy()
    from skimage.exposure import match_histograms

    return _as_dtype(match_histograms(voxels, reference.channels[channel].read()), voxels.dtype)


def _as_dtype(voxels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return voxels.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(voxels), limits.min, limits.max).astype(dtype)


def _corner_box(mixing: Mixing) -> tuple[slice, ...]:
    return tuple(slice(0, length) for length in mixing.corner)


def _turned(whole: np.ndarray, sample: Sample, *, order: int) -> np.ndarray:
    """The crop, turned and scaled around its middle; what comes in from beyond its border is mirrored at it."""
    from scipy.ndimage import affine_transform

    crop = whole[tuple(slice(start, start + length) for start, length in zip(sample.first, sample.shape))]
    crop = np.flip(np.rot90(crop, sample.quarter_turns, axes=(1, 2)), sample.mirrored)
    if sample.angle == 0 and set(sample.scale) == {1.0}:
        return np.ascontiguousarray(crop)
    sine, cosine = np.sin(np.radians(sample.angle)), np.cos(np.radians(sample.angle))
    # from a place in the result to the one it comes from
    matrix = np.diag(1 / np.array(sample.scale)) @ [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]
    middle = (np.array(sample.shape) - 1) / 2
    dtype = crop.dtype if order == 0 else np.float32
    return affine_transform(crop.astype(dtype), matrix, middle - matrix @ middle, order=order, mode="mirror")


def _weakened(image: np.ndarray, label: np.ndarray, seed: int, info: DatasetInfo, spacing: tuple[float, ...]) -> np.ndarray:
    import torch

    from nnunet_neuro.augment.contrast import cone, fill_weakened

    axons = np.flatnonzero((label > 0) & (label != info.labels.get(IGNORE, -1)))
    if not len(axons):
        return image
    centres = np.random.default_rng(seed).choice(axons, min(_SPOTS, len(axons)), replace=False)
    faded = torch.from_numpy(image.astype(np.float32))
    for centre in np.stack(np.unravel_index(centres, image.shape), axis=1):
        fill_weakened(faded[None], centre, cone(_RADIUS, np.array(spacing) / min(spacing)), _WEAKENING)
    return faded.numpy()
