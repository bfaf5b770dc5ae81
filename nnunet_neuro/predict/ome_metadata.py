"""OME-Zarr metadata (NGFF 0.4) of the arrays of a prediction.

NGFF 0.4 on Zarr v2, because napari-ome-zarr, neuroglancer and Fiji all read it, and so does zarr 2.18, the last for Python 3.10. Zarr v3
with NGFF 0.5 is read by fewer, and would make the bytes of a run depend on the Python it was started with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_neuro.colours import class_colour

VERSION = "0.4"
_UNITS = ("micrometer", "millimeter")


def label_attributes(name: str, spacings: Sequence[Sequence[float]], unit: str | None, classes: Mapping[str, int],
                     origin: Sequence[float] = (0, 0, 0)) -> dict[str, Any]:
    """Attributes of a group that holds a label image.

    Args:
        name: of the image, as viewers show it.
        spacings: (z, y, x) voxel size of each level, the finest first.
        unit: "micrometer" or "millimeter"; None where the voxel size is not known.
        classes: value of each class; empty for instances.
        origin: (z, y, x) of the centre of the first voxel.
    """
    foreground = {label: value for label, value in classes.items() if value}
    colours = [{"label-value": 0, "rgba": [0, 0, 0, 0]}]
    colours += [{"label-value": value, "rgba": _rgba(class_colour(index))} for index, value in enumerate(foreground.values())]
    about: dict[str, Any] = {"version": VERSION}
    if classes:
        about |= {"colors": colours, "properties": [{"label-value": value, "class": label} for label, value in classes.items()]}
    return {"multiscales": [_multiscales(name, spacings, unit, origin, "zyx", "most frequent foreground label")], "image-label": about}


def image_attributes(name: str, spacings: Sequence[Sequence[float]], unit: str | None, channels: Sequence[str], highest: float,
                     origin: Sequence[float] = (0, 0, 0)) -> dict[str, Any]:
    """Attributes of a group that holds an image: probabilities, entropy, ...

    Args:
        name: of the image.
        spacings: (z, y, x) voxel size of each level, the finest first.
        unit: as for `label_attributes`.
        channels: name of each channel, in front of z; empty for an image without that axis.
        highest: the stored number that is shown brightest.
        origin: (z, y, x) of the centre of the first voxel.
    """
    window = {"min": 0, "max": highest, "start": 0, "end": highest}
    shown = [{"label": channel, "color": class_colour(index).lstrip("#").upper(), "window": window, "active": True}
             for index, channel in enumerate(channels or (name,))]
    axes = "czyx" if channels else "zyx"
    return {"multiscales": [_multiscales(name, spacings, unit, origin, axes, "mean")], "omero": {"channels": shown}}


def classes_in(attributes: Mapping[str, Any]) -> dict[str, int]:
    """The value of each class that `label_attributes` noted; empty for instances."""
    return {one["class"]: one["label-value"] for one in attributes.get("image-label", {}).get("properties", ())}


def channels_in(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the channels that `image_attributes` noted; empty for an image without a channel axis."""
    if attributes["multiscales"][0]["axes"][0]["name"] != "c":
        return ()
    return tuple(channel["label"] for channel in attributes["omero"]["channels"])


def unit_in(attributes: Mapping[str, Any]) -> str | None:
    """The unit of the voxel size."""
    return attributes["multiscales"][0]["axes"][-1].get("unit")


def spacings_in(attributes: Mapping[str, Any]) -> list[tuple[float, ...]]:
    """(z, y, x) voxel size of each level in the unit of the metadata, the finest first."""
    levels = attributes["multiscales"][0]["datasets"]
    return [tuple(level["coordinateTransformations"][0]["scale"][-3:]) for level in levels]


def origin_in(attributes: Mapping[str, Any]) -> tuple[float, ...]:
    """(z, y, x) of the centre of the first voxel."""
    transformations = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    return next((tuple(one["translation"][-3:]) for one in transformations if one["type"] == "translation"), (0.0, 0.0, 0.0))


def _multiscales(name: str, spacings: Sequence[Sequence[float]], unit: str | None, origin: Sequence[float], axes: str,
                 pooling: str) -> dict[str, Any]:
    if unit is not None and unit not in _UNITS:
        raise ValueError(f"{unit!r} is no unit of a voxel size here; expected one of {', '.join(_UNITS)}, or None")
    measured = {"unit": unit} if unit else {}
    return {
        "version": VERSION,
        "name": name,
        "axes": [{"name": "c", "type": "channel"} if axis == "c" else {"name": axis, "type": "space", **measured} for axis in axes],
        "datasets": [{"path": str(level), "coordinateTransformations": _place(spacings[0], spacing, origin, len(axes) - 3)}
                     for level, spacing in enumerate(spacings)],
        "type": pooling,
    }


def _place(finest: Sequence[float], spacing: Sequence[float], origin: Sequence[float], channel_axes: int) -> list[dict[str, Any]]:
    """Scale and translation; NGFF counts from the centre of a voxel, and that of the first one moves by pooling."""
    scale = {"type": "scale", "scale": [1.0] * channel_axes + [float(size) for size in spacing]}
    shift = [start + (size - first) / 2 for start, size, first in zip(origin, spacing, finest)]
    return [scale, {"type": "translation", "translation": [0.0] * channel_axes + shift}] if any(shift) else [scale]


def _rgba(colour: str) -> list[int]:
    return [int(colour[place:place + 2], 16) for place in (1, 3, 5)] + [255]
