"""What the store of a prediction is made of, in memory and in the metadata on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.predict.ome_metadata import channels_in, classes_in, image_attributes, label_attributes, origin_in, spacings_in, unit_in

LABELS = "labels"


@dataclass(frozen=True)
class FurtherArray:
    """An array beside the labels.

    Attributes:
        name: of its group in the store, such as "probabilities".
        dtype: "uint8" stores a share from 0 to 1 as 0 to 255, which every viewer reads; floats are stored as they are given. Neuroglancer
            reads no float16.
        channels: name of each channel, for (c, z, y, x); empty for (z, y, x).
        labels: whether its numbers are labels, as for instances, and not to be averaged.
    """

    name: str
    dtype: str = "uint8"
    channels: tuple[str, ...] = ()
    labels: bool = False

    def __post_init__(self):
        object.__setattr__(self, "dtype", str(np.dtype(self.dtype)))
        object.__setattr__(self, "channels", tuple(self.channels))


@dataclass(frozen=True)
class StoreLayout:
    """What a store is made of; stores of equal layouts are such that one run may continue.

    Attributes:
        shape: (z, y, x) of the labels.
        dtype: unsigned integers, such as "uint8".
        spacing: (z, y, x) voxel size in `unit`; None where it is not known.
        unit: "micrometer" or "millimeter"; None without a spacing.
        chunk: (z, y, x) of a stored chunk; the faces of what is written lie at its multiples.
        corner: (z, y, x) of the first voxel in the volume that was predicted; others than 0 for a part of it.
        classes: value of each class, background included.
        further: arrays beside the labels, by name.
    """

    shape: tuple[int, int, int]
    dtype: str = "uint8"
    spacing: tuple[float, float, float] | None = None
    unit: str | None = "micrometer"
    chunk: tuple[int, int, int] = (64, 64, 64)
    corner: tuple[int, int, int] = (0, 0, 0)
    classes: Mapping[str, int] = field(default_factory=dict)
    further: tuple[FurtherArray, ...] = ()

    def __post_init__(self):
        """The form in which it is read back, so that equal stores have equal layouts."""
        plain = {
            "shape": tuple(int(length) for length in self.shape),
            "dtype": str(np.dtype(self.dtype)),
            "spacing": None if self.spacing is None else tuple(float(size) for size in self.spacing),
            "unit": None if self.spacing is None else self.unit,
            "chunk": tuple(int(length) for length in self.chunk),
            "corner": tuple(int(first) for first in self.corner),
            "classes": {str(name): int(value) for name, value in self.classes.items()},
            "further": tuple(sorted(self.further, key=_name)),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def voxel(self) -> tuple[float, float, float]:
        """(z, y, x) voxel size; 1 where it is not known."""
        return self.spacing or (1.0, 1.0, 1.0)

    def array(self, name: str) -> FurtherArray | None:
        """The further array of that name; None for the labels.

        Raises:
            ValueError: there is no such array.
        """
        found = next((one for one in self.further if one.name == name), None)
        if found is None and name != LABELS:
            names = ", ".join((LABELS, *(one.name for one in self.further)))
            raise ValueError(f"the prediction has no array {name!r}; it has {names}")
        return found


def attributes_of(layout: StoreLayout, name: str, spacings: list[tuple[float, ...]] | None = None) -> dict[str, Any]:
    """OME-Zarr attributes of an array's group.

    Args:
        layout: of the store.
        name: "labels" or a further array.
        spacings: (z, y, x) voxel size of each level; None for the finest alone.
    """
    further = layout.array(name)
    spacings = spacings or [layout.voxel]
    origin = [first * size for first, size in zip(layout.corner, layout.voxel)]
    if further is None or further.labels:
        return label_attributes(name, spacings, layout.unit, {} if further else layout.classes, origin)
    return image_attributes(name, spacings, layout.unit, further.channels, 255 if further.dtype == "uint8" else 1, origin)


def read_attributes(group: Path) -> dict[str, Any]:
    """The attributes of a Zarr v2 group."""
    return json.loads((group / ".zattrs").read_text(encoding="utf-8"))


def read_layout(path: Path) -> StoreLayout:
    """The layout of the store in a folder.

    Raises:
        ValueError: there is no store of this program.
    """
    try:
        attributes = read_attributes(path)
        labels = _finest(path)
        further = tuple(_further_array(group.parent) for group in path.glob("[!.]*/.zgroup"))
        unit, voxel = unit_in(attributes), spacings_in(attributes)[0]
        corner = tuple(round(start / size) for start, size in zip(origin_in(attributes), voxel))
        return StoreLayout(labels.shape, str(labels.dtype), voxel if unit else None, unit, labels.chunks, corner, classes_in(attributes),
                           further)
    except Exception as error:  # JSON errors, missing keys and files, damaged arrays, ...
        raise ValueError(f"{path} is no prediction of this program ({type(error).__name__}: {error}); expected the OME-Zarr folder that "
                         "nnneuro_predict wrote") from error


def _further_array(group: Path) -> FurtherArray:
    attributes = read_attributes(group)
    return FurtherArray(group.name, str(_finest(group).dtype), channels_in(attributes), "image-label" in attributes)


def _finest(group: Path) -> Any:
    import zarr

    return zarr.open_array(str(group / "0"), mode="r")


def _name(further: FurtherArray) -> str:
    return further.name
