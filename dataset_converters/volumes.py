"""Any image and label volumes: TIFF, slice folders, PNG, NIfTI, NRRD, HDF5, npy, Zarr, OME-Zarr, N5, neuroglancer precomputed, BossDB.

Name the files by patterns; {case} stands for what tells the volumes apart, {group} for tissue that must stay in one fold:

    --image 'raw/{case}.tif' --label 'seg/{case}.tif' --labels 1=membrane,2=synapse
    --image 'signal={group}/{case}_ch0.tif' --image 'background={group}/{case}_ch1.tif' --label '{group}/{case}_label.tif' ...
    --image 'bossdb://Kasthuri/ac4/em?z=0:100' --label 'bossdb://Kasthuri/ac4/membrane?z=0:100' ...
    --image train.h5/raw --label train.h5/labels --test-image test.zarr

or list them in a table, --table cases.csv, with the columns case, image (or image:NAME for each channel), label, and where wanted group
and split (train, val or test); paths in it are relative to the table.

A volume that is larger than --case-size is cut into cases that cover it exactly once, or overlap by --margin voxels; all cases of a volume
are one group, so that no fold is validated on tissue that touches its training tissue. --groups-per-volume N cuts a volume into N slabs
that are groups of their own, with --gap voxels left out between them. What is not in memory stays on the disk: each case is read by itself.

Where the files do not state a voxel size, --spacing gives it in micrometres (millimetres for NIfTI and NRRD). A label value that --labels
does not name is an error unless --other-labels says otherwise.

Licence: that of your data; state it with --licence, so that it stays with the dataset.
Citation: that of your data; state it with --reference.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from nnunet_neuro import bossdb
from nnunet_neuro.blocks import separated_slabs, size_for, tile
from nnunet_neuro.label_maps import foreground, remapped, whole_numbers
from nnunet_neuro.options import (
    BACKGROUND,
    chosen_spacing,
    dataset_labels,
    label_values,
    parse_labels,
    parse_margin,
    parse_size,
    parse_spacing,
)
from nnunet_neuro.raw_dataset import IGNORE, Case, DatasetInfo
from nnunet_neuro.volume_sets import VolumeSet, from_patterns, from_table
from nnunet_neuro.volumes import Volume, derived, describe_region, grown, open_channels

DEFAULT_ID = 707
DEFAULT_NAME = "Volumes"

VARIANTS = {
    "classes": "label values are classes, named by --labels",
    "foreground": "everything above --threshold in the label (default 0) is one class, --foreground-name; for masks of 0/255, instance ids "
    "and probability maps",
}

# nnU-Net's preprocessing takes about 83 bytes per voxel of a case where there is an ignore label: 8 GB for this many
_LARGEST_CASE = 100_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this converter."""
    files = parser.add_argument_group("files")
    files.add_argument("--image", action="append", metavar="[CHANNEL=]PATTERN", help="image volumes; once per channel")
    files.add_argument("--label", metavar="PATTERN", help="label volumes")
    files.add_argument("--test-image", action="append", metavar="[CHANNEL=]PATTERN", help="images that become test cases (imagesTs)")
    files.add_argument("--test-label", metavar="PATTERN", help="labels of test cases, where there are any")
    files.add_argument("--table", metavar="CSV", help="the cases as a table, instead of patterns")
    files.add_argument("--channels", metavar="NAME,...", help="names of the channels of a file that holds several")
    files.add_argument("--missing-chunks", choices=("error", "zero"), default="error",
                       help="what a missing chunk of a Zarr, N5, HDF5 or precomputed volume is (default: %(default)s)")
    labels = parser.add_argument_group("labels")
    labels.add_argument("--labels", type=parse_labels, metavar="VALUE=NAME,...",
                        help=f"classes, for example 1=membrane,2=synapse,255={IGNORE}; several values may mean one class")
    labels.add_argument("--other-labels", choices=("error", BACKGROUND, IGNORE), default="error",
                        help="what values that --labels does not name become (default: %(default)s)")
    labels.add_argument("--threshold", type=float, default=0.0, help="for the variant foreground (default: %(default)s)")
    labels.add_argument("--foreground-name", default="foreground", metavar="NAME", help="class of the variant foreground")
    cutting = parser.add_argument_group("cutting large volumes")
    cutting.add_argument("--case-size", type=parse_size, metavar="Z,Y,X",
                         help=f"largest case in voxels (default: near a cube of {_LARGEST_CASE:.0e} voxels)")
    cutting.add_argument("--margin", type=parse_margin, default=(0, 0, 0), metavar="N|Z,Y,X",
                         help="voxels by which the cases of a volume reach into their neighbours (default: 0)")
    cutting.add_argument("--groups-per-volume", type=int, default=1, metavar="N", help="slabs of a volume that may be in different folds")
    cutting.add_argument("--gap", type=int, default=0, metavar="N", help="voxels left out between such slabs (default: %(default)s)")
    facts = parser.add_argument_group("facts")
    facts.add_argument("--spacing", type=parse_spacing, metavar="Z,Y,X", help="voxel size where the files do not state it")
    facts.add_argument("--file-ending", choices=(".tif", ".nii.gz", ".png"), help="format of the dataset (default: what fits the sources)")
    facts.add_argument("--licence", default="not stated", help="licence of the data")
    facts.add_argument("--reference", default="not stated", help="citation or address of the data")
    bossdb.add_arguments(parser)


def dataset_info(arguments: argparse.Namespace) -> DatasetInfo:
    """Labels, channels and format of the dataset that `cases` gives."""
    sets = _sets(arguments)
    channels = _channels(sets[0], arguments)
    return DatasetInfo(
        name=arguments.name,
        channel_names=_channel_names(sets[0], channels, arguments),
        labels=_labels(arguments, sets),
        file_ending=arguments.file_ending or _file_ending(channels[0]),
        licence=arguments.licence,
        reference=arguments.reference,
        converter="volumes",
        settings={name: getattr(arguments, name) for name in ("variant", "labels", "other_labels", "threshold", "spacing", "case_size",
                                                              "margin", "groups_per_volume", "gap", "missing_chunks")},
        sources=tuple(dict.fromkeys(arguments.table and [arguments.table] or
                                    [*(arguments.image or []), *([arguments.label] if arguments.label else []),
                                     *(arguments.test_image or []), *([arguments.test_label] if arguments.test_label else [])])),
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Every volume, cut where it is too large for one case.

    Raises:
        ValueError: no voxel size, no class names, or channels that differ from volume to volume.
    """
    sets = _sets(arguments)
    flat = dataset_info(arguments).file_ending == ".png"
    for one in sets:
        channels = _channels(one, arguments)
        label = _label(one, arguments)
        spacing = _spacing(channels[0], arguments, one.name, flat)
        if flat:
            channels, label = tuple(_as_plane(volume) for volume in channels), label and _as_plane(label)
        parts = list(_parts(channels[0].shape, arguments))
        for number, (slab, region) in enumerate(parts):
            whole = len(parts) == 1 and region == tuple(slice(0, length) for length in channels[0].shape)
            cut = [volume if whole else volume.crop(region) for volume in (*channels, *([label] if label else []))]
            yield Case(
                identifier=_identifier(one.name) + (f"_{number:04d}" if len(parts) > 1 else ""),
                channels=tuple(cut[: len(channels)]),
                label=cut[-1] if label else None,
                spacing=spacing,
                group=f"{one.group or one.name}" + (f"/{slab}" if arguments.groups_per_volume > 1 else ""),
                split=one.split,
                label_values=_values(arguments),
                notes={"volume": one.name, "region": describe_region(region)},
            )


def _sets(arguments: argparse.Namespace) -> list[VolumeSet]:
    if bool(arguments.table) == bool(arguments.image or arguments.test_image):
        raise ValueError("no volumes are named; give --image with --label, or --table" if not arguments.table else
                         "--table and --image are both given; keep one")
    if arguments.table:
        return _alike(from_table(arguments.table))
    if not arguments.label or not arguments.image:
        raise ValueError("training volumes need --image and --label; only test volumes (--test-image) may come without a label")
    sets = from_patterns(arguments.image, arguments.label)
    if arguments.test_image:
        names = {one.name for one in sets}
        tests = from_patterns(arguments.test_image, arguments.test_label, split="test")
        sets += [replace(one, name=f"{one.name}_test") if one.name in names else one for one in tests]
    elif arguments.test_label:
        raise ValueError("--test-label is given without --test-image; name the test images too")
    return _alike(sets)


def _alike(sets: list[VolumeSet]) -> list[VolumeSet]:
    """The sets with their channels in the order of the first one's names."""
    names = list(sets[0].images)
    for one in sets:
        if len(names) > 1 and set(one.images) != set(names):
            raise ValueError(f"case {one.name} has the channels {', '.join(one.images)}, but {sets[0].name} has {', '.join(names)}; name "
                             f"them alike, as in --test-image {names[0]}=PATTERN")
    return [replace(one, images={name: one.images[name] for name in names}) for one in sets] if len(names) > 1 else sets


def _channels(one: VolumeSet, arguments: argparse.Namespace) -> tuple[Volume, ...]:
    opened = [_open(address, arguments) for address in one.images.values()]
    if len(opened) > 1 and any(len(channels) > 1 for channels in opened):
        raise ValueError(f"case {one.name} names {len(opened)} files, and one of them holds several channels; give either one file of "
                         "several channels or one file per channel")
    return tuple(volume for channels in opened for volume in channels)


def _open(address: str, arguments: argparse.Namespace, *, may_be_empty: bool = False) -> tuple[Volume, ...]:
    if not address.startswith("bossdb://"):
        return open_channels(address, missing_are_zero=arguments.missing_chunks == "zero")
    return (bossdb.open_cutout(address, bossdb.access_from(arguments), may_be_empty=may_be_empty),)


def _channel_names(one: VolumeSet, channels: tuple[Volume, ...], arguments: argparse.Namespace) -> tuple[str, ...]:
    if arguments.channels is not None:
        names = tuple(name.strip() for name in arguments.channels.split(","))
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"--channels {arguments.channels!r} has an empty or repeated name; give each channel its own")
        if len(names) != len(channels):
            raise ValueError(f"--channels names {len(names)} channels ({arguments.channels}), but {one.name} has {len(channels)}")
        return names
    if len(one.images) == len(channels):
        return tuple(one.images)
    return tuple(f"channel_{number}" for number in range(len(channels)))


def _file_ending(image: Volume) -> str:
    if len(image.shape) == 2 or (image.shape[0] == 1 and image.dtype in ("u1", "u2")):
        return ".png"
    return ".nii.gz" if image.affine is not None else ".tif"


def _as_plane(volume: Volume) -> Volume:
    if len(volume.shape) == 2:
        return volume
    if volume.shape[0] != 1:
        raise ValueError(f"{volume.path} has {volume.shape[0]} planes, but the dataset is one of flat images; make two datasets, one "
                         "of stacks and one of flat images")
    return volume.plane(0)


def _label(one: VolumeSet, arguments: argparse.Namespace) -> Volume | None:
    if one.label is None:
        return None
    channels = _open(one.label, arguments, may_be_empty=True)
    if len(channels) > 1:
        raise ValueError(f"label {one.label} has {len(channels)} channels; expected one value per voxel")
    label = channels[0]
    if arguments.variant == "foreground":
        return derived(label, partial(foreground, arguments.threshold), "u1")
    if label.dtype.kind == "f":
        label = derived(label, whole_numbers, "i8")
    if arguments.other_labels == "error":
        return label
    other = _labels(arguments, [one])[arguments.other_labels]
    return derived(label, partial(remapped, tuple(sorted(label_values(arguments.labels).items())), other), "u2")


def _labels(arguments: argparse.Namespace, sets: list[VolumeSet]) -> dict[str, int]:
    if arguments.variant == "foreground":
        if arguments.labels:
            raise ValueError("--labels names classes, but the variant foreground has only one; leave one of them out")
        return dataset_labels([BACKGROUND, arguments.foreground_name])
    if not arguments.labels:
        raise ValueError(f"the classes have no names; give them with --labels VALUE=NAME,... ({_found_values(sets, arguments)}), or choose "
                         "--variant foreground")
    names = list(arguments.labels.values())
    return dataset_labels([*names, IGNORE] if arguments.other_labels == IGNORE else names)


def _found_values(sets: list[VolumeSet], arguments: argparse.Namespace) -> str:
    """What stands in the first label, for the message that asks for names."""
    import numpy as np

    address = next((one.label for one in sets if one.label), None)
    if address is None:
        return "there is no label"
    label = _open(address, arguments, may_be_empty=True)[0]
    found: set = set()
    for region in tile(label.shape, size_for(label.shape, 1 << 24)):
        found |= set(np.unique(label.read(region)).tolist())
        if len(found) > 20:
            return f"{address} holds more than 20 values"
    return f"{address} holds {', '.join(str(value) for value in sorted(found))}"


def _values(arguments: argparse.Namespace) -> dict[int, int] | None:
    if arguments.variant == "foreground" or arguments.other_labels != "error":
        return None  # the label is derived, and has the dataset's values already
    return label_values(arguments.labels)


def _spacing(image: Volume, arguments: argparse.Namespace, name: str, flat: bool) -> tuple[float, ...]:
    if flat and not image.spacing and not arguments.spacing:
        return 1.0, 1.0  # nnU-Net reads no pixel size of a PNG
    return chosen_spacing(image, arguments.spacing, f"case {name}")[-2 if flat else -3:]


def _parts(shape: tuple[int, ...], arguments: argparse.Namespace) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Number of the slab and region of every case of a volume."""
    size = arguments.case_size or size_for(shape, _LARGEST_CASE)
    for number, slab in enumerate(separated_slabs(shape, arguments.groups_per_volume, arguments.gap)):
        lengths = [part.stop - part.start for part in slab]
        for region in tile(lengths, size[-len(shape):]):
            larger = grown(region, arguments.margin[-len(shape):], lengths)
            yield number, tuple(slice(outer.start + part.start, outer.start + part.stop) for outer, part in zip(slab, larger))


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "case"
