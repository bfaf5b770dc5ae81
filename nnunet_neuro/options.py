"""Command-line words that several converters share: voxel sizes, sizes in voxels, label maps."""

from __future__ import annotations

import argparse
import functools
import math
import re
import sys

from nnunet_neuro.raw_dataset import IGNORE
from nnunet_neuro.volumes.volume import Volume

BACKGROUND = "background"


def parse_spacing(text: str) -> tuple[float, float, float]:
    """`3,1.5,1.5` as (z, y, x)."""
    try:
        spacing = tuple(float(part) for part in text.split(","))
    except ValueError:
        spacing = ()
    if len(spacing) != 3 or not all(0 < size < math.inf for size in spacing):
        raise argparse.ArgumentTypeError(f"{text!r} is not a voxel size; expected three positive numbers z,y,x such as 3,1.625,1.625")
    return spacing


def chosen_spacing(image: Volume, given: tuple[float, ...] | None, what: str) -> tuple[float, ...]:
    """The voxel size that a file states, else the one given; a warning where both are there and differ.

    Args:
        image: the volume.
        given: --spacing, or None.
        what: the volume's name in the warning, which appears once for each name.

    Raises:
        ValueError: neither is there.
    """
    if image.spacing is None and given is None:
        raise ValueError(f"{image.path} does not state its voxel size; give it as --spacing Z,Y,X in micrometres")
    if image.spacing and given and any(abs(a / b - 1) > 1e-3 for a, b in zip(image.spacing, given[-len(image.spacing):])):
        _warn_once(f"the files of {what} state a voxel size of {image.spacing}, which is used instead of --spacing {given}")
    return image.spacing or given


@functools.cache
def _warn_once(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


def parse_size(text: str) -> tuple[int, int, int]:
    """`64,256,256` voxels as (z, y, x)."""
    if not re.fullmatch(r"\d{1,9},\d{1,9},\d{1,9}", text) or 0 in map(int, text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in voxels; expected three whole numbers z,y,x such as 64,256,256")
    z, y, x = map(int, text.split(","))
    return z, y, x


def parse_margin(text: str) -> tuple[int, int, int]:
    """`4,32,32` voxels as (z, y, x), or `16` for all three; zeros are allowed."""
    if not re.fullmatch(r"\d{1,9}(,\d{1,9},\d{1,9})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a margin in voxels; expected one whole number, or three z,y,x such as 4,32,32")
    numbers = [int(part) for part in text.split(",")]
    z, y, x = numbers * 3 if len(numbers) == 1 else numbers
    return z, y, x


def parse_labels(text: str) -> dict[int, str]:
    """`1=membrane,2=synapse,255=ignore` as value in the label file -> class name.

    Several values may mean one class; `ignore` is nnU-Net's ignore label; 0 is `background` unless it is given another meaning.
    """
    names: dict[int, str] = {0: BACKGROUND}
    given: set[int] = set()
    for part in text.split(","):
        value, equals, name = (word.strip() for word in part.partition("="))
        if not equals or not re.fullmatch(r"-?\d{1,18}", value) or not re.fullmatch(r"[^\s,=](?:[^,=]*[^\s,=])?", name):
            raise argparse.ArgumentTypeError(f"{part!r} is no label; expected VALUE=NAME pairs such as 1=membrane,2=synapse,255={IGNORE}")
        if int(value) in given:
            raise argparse.ArgumentTypeError(f"{text!r} names the value {int(value)} twice; keep one")
        given.add(int(value))
        names[int(value)] = name
    if not set(names.values()) - {BACKGROUND, IGNORE}:
        raise argparse.ArgumentTypeError(f"{text!r} names no class beside {BACKGROUND} and {IGNORE}; expected at least one")
    return names


def dataset_labels(names: list[str] | tuple[str, ...]) -> dict[str, int]:
    """Class names as nnU-Net numbers them: background 0, the others in their order from 1, `ignore` last.

    Raises:
        ValueError: no class beside background and ignore, or one without a name.
    """
    classes = [name for name in dict.fromkeys(names) if name not in (BACKGROUND, IGNORE)]
    if not classes or not all(name.strip() for name in classes):
        raise ValueError(f"the classes are called {', '.join(map(repr, names))}; expected a name for at least one class beside "
                         f"{BACKGROUND} and {IGNORE}")
    ordered = [BACKGROUND, *classes, *([IGNORE] if IGNORE in names else [])]
    return {name: number for number, name in enumerate(ordered)}


def label_values(names: dict[int, str]) -> dict[int, int]:
    """Value in the label file -> value in the dataset, for a map of `parse_labels`."""
    labels = dataset_labels(list(names.values()))
    return {value: labels[name] for value, name in names.items()}
