"""Quantile functions of images: what histogram matching needs to know of a reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

if TYPE_CHECKING:
    from nnunet_neuro.raw_dataset import Case

KNOTS = 257
# dense at both ends (the last steps are 4e-5): axons fill less than 1 % of the voxels, between two knots of an even grid
PROBABILITIES = (1 - np.cos(np.linspace(0, np.pi, KNOTS))) / 2
# every second knot; these travel in dataset.json, which every checkpoint holds
_STORED = slice(None, None, 2)
_MOST_FOREIGN = 32
_MOST_VOXELS = 1 << 21


@dataclass(frozen=True)
class References:
    """Quantile functions of several images.

    Attributes:
        names: of the images.
        quantiles: (N, C, KNOTS) float32, intensities at `PROBABILITIES`, in nnU-Net's normalised space.
        empty: (N,) bool, images without any foreground.
        foreign: (N,) bool, images that are not in the dataset.
    """

    names: tuple[str, ...]
    quantiles: np.ndarray
    empty: np.ndarray
    foreign: np.ndarray

    def __add__(self, other: References) -> References:
        return References(self.names + other.names, *(np.concatenate([mine, theirs]) for mine, theirs in (
            (self.quantiles, other.quantiles), (self.empty, other.empty), (self.foreign, other.foreign))))


def quantile_function(values: np.ndarray) -> np.ndarray:
    """Intensities at `PROBABILITIES`.

    Args:
        values: any shape, at least one value.

    Returns:
        (KNOTS,) float32, ascending.
    """
    ordered = np.sort(values, axis=None)
    return np.interp(PROBABILITIES * (len(ordered) - 1), np.arange(len(ordered)), ordered).astype(np.float32)


# --- cases of the dataset ------------------------------------------------------------------------------------------------------------


def case_quantiles(image: Any, segmentation: Any, *, most_voxels: int = _MOST_VOXELS) -> np.ndarray | None:
    """Quantile functions of a preprocessed case, from evenly spread planes if it is large.

    Args:
        image: (C, z, y, x), an array or a file that is sliced like one.
        segmentation: (1, z, y, x) likewise; voxels of -1 lie outside and do not count.
        most_voxels: about as many are looked at.

    Returns:
        (C, KNOTS) float32; None if the whole case lies outside.
    """
    depth, plane = image.shape[1], image.shape[2] * image.shape[3]
    wanted = np.unique(np.linspace(0, depth - 1, max(1, min(depth, most_voxels // plane))).round().astype(int))
    step = max(1, round(len(wanted) * plane / most_voxels))
    values = []
    for z in wanted:
        inside = np.asarray(segmentation[:1, z:z + 1])[0, 0] >= 0
        values.append(np.asarray(image[:, z:z + 1])[:, 0][:, inside][:, ::step])
    together = np.concatenate(values, axis=1)
    return np.stack([quantile_function(channel) for channel in together]) if together.size else None


def dataset_references(dataset: Any, cache: Path | None = None, *, progress: bool = True) -> References:
    """Quantile functions of the cases of an nnU-Net dataset, read from `cache` if they were computed from the same files.

    Args:
        dataset: nnU-Net's dataset of the fold's training cases.
        cache: an .npz file that is written where it is missing or of other cases; None to keep nothing.
        progress: show a bar on stderr.

    Raises:
        ValueError: no case has a voxel inside.
    """
    state = json.dumps([KNOTS, *(_file_states(Path(dataset.source_folder), identifier) for identifier in dataset.identifiers)])
    if cache is not None and (known := _load(cache, state)) is not None:
        return known
    from tqdm import tqdm

    names, quantiles, empty = [], [], []
    for identifier in tqdm(dataset.identifiers, "quantile functions", unit="case", disable=not progress, leave=False):
        image, segmentation, _, properties = dataset.load_case(identifier)
        found = case_quantiles(image, segmentation)
        if found is not None:
            names.append(identifier)
            quantiles.append(found)
            empty.append(is_empty(properties["class_locations"]))
    if not names:
        raise ValueError(f"the {len(dataset.identifiers)} training cases in {dataset.source_folder} have no voxel inside the image; "
                         "expected preprocessed cases, run nnUNetv2_preprocess again")
    references = References(tuple(names), np.stack(quantiles), np.array(empty), np.zeros(len(names), bool))
    if cache is not None:
        _save(cache, state, references)
    return references


def is_empty(class_locations: Mapping[Any, Sequence]) -> bool:
    """Whether a case has no foreground at all, from the voxels that nnU-Net's preprocessing sampled."""
    # the key of all annotated voxels, background among them, begins with -1
    classes = (voxels for key, voxels in class_locations.items() if not (isinstance(key, tuple) and key[0] == -1))
    return not any(len(voxels) for voxels in classes)


def _file_states(folder: Path, identifier: str) -> list:
    files = [path for ending in (".b2nd", ".npz", ".pkl") if (path := folder / f"{identifier}{ending}").is_file()]
    return [identifier, *((path.suffix, path.stat().st_size, path.stat().st_mtime_ns) for path in files)]


def _load(cache: Path, state: str) -> References | None:
    try:
        with np.load(cache) as stored:
            if str(stored["state"]) != state:
                return None
            return References(tuple(stored["names"].tolist()), stored["quantiles"], stored["empty"],
                              np.zeros(len(stored["names"]), bool))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # not there, or torn by a power cut: computed again


def _save(cache: Path, state: str, references: References) -> None:
    partial = cache.with_name(f"{cache.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, state=np.array(state), names=np.array(references.names), quantiles=references.quantiles, empty=references.empty)
    partial.replace(cache)


# --- another brain -------------------------------------------------------------------------------------------------------------------


def describe_references(cubes: Sequence[Case]) -> list[dict[str, Any]]:
    """What dataset.json keeps, as `histogram_references`, of images that are not in the dataset; see `foreign_references`.

    Args:
        cubes: with raw intensities; a note `artefact` says that a cube shows nothing of the structure. Of more than 32, every n-th.

    Returns:
        One entry per cube: raw quantiles, mean and standard deviation of each channel, as nnU-Net's preprocessing would see them.
    """
    entries = []
    for place in np.unique(np.linspace(0, len(cubes) - 1, min(len(cubes), _MOST_FOREIGN)).round().astype(int)):
        channels = [volume.read() for volume in cubes[place].channels]
        box = _nonzero_box(channels)
        entries.append({"name": cubes[place].identifier, "empty": bool(cubes[place].notes.get("artefact")),
                        "channels": [_describe_channel(channel[box]) for channel in channels]})
    return entries


def _nonzero_box(channels: Sequence[np.ndarray]) -> tuple[slice, ...]:
    """What nnU-Net crops to before it normalises; everything where all is zero."""
    nonzero = np.any([channel != 0 for channel in channels], axis=0)
    box = []
    for axis in range(nonzero.ndim):
        occupied = np.flatnonzero(nonzero.any(axis=tuple(other for other in range(nonzero.ndim) if other != axis)))
        box.append(slice(occupied[0], occupied[-1] + 1) if len(occupied) else slice(None))
    return tuple(box)


def _describe_channel(voxels: np.ndarray) -> dict[str, Any]:
    return {"mean": float(f"{voxels.mean(dtype=float):.6g}"), "std": float(f"{voxels.std(dtype=float):.6g}"),
            "quantiles": [float(f"{value:.5g}") for value in quantile_function(voxels)[_STORED]]}


def foreign_references(entries: Sequence[Mapping[str, Any]], schemes: Sequence[str],
                       intensity_properties: Mapping[str, Mapping[str, float]]) -> References | None:
    """References of another brain, put into the normalised space of nnU-Net.

    nnU-Net's normalisations are ascending functions of one voxel, so the quantiles of a normalised image are the normalised quantiles.

    Args:
        entries: of `describe_references`.
        schemes: class name of each channel's normalisation, from the plans.
        intensity_properties: of the dataset's foreground, per channel, from the plans.

    Returns:
        None where there are no entries.

    Raises:
        ValueError: a channel more or less than the dataset has, or a normalisation that is not nnU-Net's own.
    """
    if not entries:
        return None
    for entry in entries:
        if len(entry["channels"]) != len(schemes):
            raise ValueError(f"histogram reference {entry['name']} in dataset.json has {len(entry['channels'])} channels, the dataset has "
                             f"{len(schemes)}; convert again with a fitting --match-to")
    quantiles = [[_normalised(channel, scheme, intensity_properties.get(str(number), {}))
                  for number, (channel, scheme) in enumerate(zip(entry["channels"], schemes))] for entry in entries]
    return References(tuple(entry["name"] for entry in entries), np.array(quantiles, np.float32),
                      np.array([entry["empty"] for entry in entries]), np.ones(len(entries), bool))


def _normalised(channel: Mapping[str, Any], scheme: str, dataset: Mapping[str, float]) -> np.ndarray:
    stored = np.asarray(channel["quantiles"], float)
    # the knots are even in the angle, so that knots between two stored ones are halfway
    raw = np.interp(np.linspace(0, len(stored) - 1, KNOTS), np.arange(len(stored)), stored)
    tiny = 1e-8  # nnU-Net's own bound of a division
    if scheme == "ZScoreNormalization":
        return (raw - channel["mean"]) / max(channel["std"], tiny)
    if scheme == "CTNormalization":
        clipped = np.clip(raw, dataset["percentile_00_5"], dataset["percentile_99_5"])
        return (clipped - dataset["mean"]) / max(dataset["std"], tiny)
    if scheme == "RescaleTo01Normalization":
        return (raw - raw[0]) / max(raw[-1] - raw[0], tiny)
    if scheme == "RGBTo01Normalization":
        return raw / 255
    if scheme == "NoNormalization":
        return raw
    raise ValueError(f"histogram matching to another brain knows nnU-Net's own normalisations, the plans name {scheme}; convert without "
                     "--match-to or plan with another one")
