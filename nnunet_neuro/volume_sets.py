"""Which image files and which label file make a case: from path patterns, or from a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_neuro.patterns import find
from nnunet_neuro.raw_case import PARTS
from nnunet_neuro.volumes import strip_suffix

_NAMES = ("group", "case")
_CONTAINERS = (".h5", ".hdf5", ".hdf", ".he5", ".zarr", ".n5")


@dataclass(frozen=True)
class VolumeSet:
    """The files of one volume.

    Attributes:
        name: of the case.
        images: path or address of each channel by its name.
        label: path or address; None for a test volume without one.
        group: tissue that stays in one fold; None for a group of its own.
        split: train, val or test.
    """

    name: str
    images: Mapping[str, str]
    label: str | None
    group: str | None = None
    split: str = "train"


def from_patterns(images: Sequence[str], label: str | None, *, split: str = "train") -> list[VolumeSet]:
    """Pair what `[CHANNEL=]PATTERN` image patterns find with what the label pattern finds, by {group} and {case}.

    Raises:
        FileNotFoundError: a pattern finds nothing, or a volume lacks a channel or its label.
        ValueError: two channels of one name, or a label without an image.
    """
    patterns: dict[str, str] = {}
    for number, text in enumerate(images):
        channel, pattern = _channel_and_pattern(text, "image" if len(images) == 1 else f"image_{number}")
        if channel in patterns:
            raise ValueError(f"channel {channel!r} is given twice ({patterns[channel]} and {pattern}); give each its own name, as in "
                             f"--image signal={pattern}")
        patterns[channel] = pattern
    *found_images, labels = _without_rivals([*patterns.values(), *([label] if label else [])]) if label else \
        [*_without_rivals(list(patterns.values())), {}]
    found = dict(zip(patterns, found_images))
    keys = sorted({key for by_key in found.values() for key in by_key}, key=lambda key: tuple(word or "" for word in key))
    for key in keys:
        for channel, by_key in found.items():
            if key not in by_key:
                raise FileNotFoundError(f"case {_words(key)} has no file for channel {channel} ({patterns[channel]}); expected "
                                        f"{_filled(patterns[channel], key)}")
        if label and key not in labels:
            raise FileNotFoundError(f"case {_words(key)} has no label; expected {_filled(label, key)}")
    lonely = [path for key, path in labels.items() if key not in keys]
    if lonely:
        raise ValueError(f"label {lonely[0]} has no image that fits {next(iter(patterns.values()))!r}; add the image or move it away")
    first = next(iter(found.values()))
    return [VolumeSet("_".join(filter(None, key)) or _stem(first[key]), {channel: by_key[key] for channel, by_key in found.items()},
                      labels.get(key), key[0], split) for key in keys]


def from_table(file: str | Path) -> list[VolumeSet]:
    """The rows of a CSV table: case, image or image:NAME, label, and optionally group and split.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a column, a name or a value that is missing or unknown.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no table {file}; expected a CSV file with the columns case, image and label")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no CSV table in UTF-8 ({error}); save it as one") from error
    channels = {column: column.partition(":")[2] or "image" for column in columns if re.fullmatch(r"image(:.+)?", column)}
    unknown = [column for column in columns if column not in channels and column not in ("case", "label", "group", "split")]
    if unknown or "case" not in columns or not channels:
        raise ValueError(f"{file} has the columns {', '.join(columns) or '(none)'}; expected case, image (or image:NAME for each channel), "
                         "label, and where wanted group and split")
    if len(set(columns)) < len(columns) or len(set(channels.values())) < len(channels):
        raise ValueError(f"{file} has a column twice ({', '.join(columns)}); name each channel as image:NAME")
    if not rows:
        raise ValueError(f"{file} lists no case; expected a line for each below its columns")
    return [_row(file, number, row, channels) for number, row in rows]


def _row(file: Path, number: int, row: Mapping[str | None, str | list[str] | None], channels: Mapping[str, str]) -> VolumeSet:
    if None in row:  # where the csv module puts what is too much
        raise ValueError(f"line {number} of {file} has more fields than there are columns; put names that hold commas in quotes")
    row = {column: (value or "").strip() for column, value in row.items()}
    split = row.get("split") or "train"
    if not row["case"] or any(not row.get(column) for column in channels):
        raise ValueError(f"line {number} of {file} lacks its {'case' if not row['case'] else 'image'}; fill it in or delete the line")
    if split not in PARTS:
        raise ValueError(f"line {number} of {file} has split {split!r}; choose one of {', '.join(PARTS)}")
    return VolumeSet(row["case"], {channel: _beside(file, row[column]) for column, channel in channels.items()},
                     _beside(file, row["label"]) if row.get("label") else None, row.get("group") or None, split)


def _beside(file: Path, address: str) -> str:
    return address if "://" in address else str(file.parent / address)


def _channel_and_pattern(text: str, unnamed: str) -> tuple[str, str]:
    channel, equals, pattern = text.partition("=")
    if equals and re.fullmatch(r"[A-Za-z0-9_ .-]+", channel) and not Path(text).exists():
        return channel, pattern
    return unnamed, text


def _without_rivals(patterns: Sequence[str]) -> list[dict[tuple[str | None, ...], str]]:
    """What each pattern finds; a path that several find belongs to the one that says most, as a_label.tif does to {case}_label.tif."""
    found = [_find(pattern) for pattern in patterns]
    weights = [len(re.sub(r"\{\w+\}|\*", "", pattern)) for pattern in patterns]
    heaviest: dict[str, int] = {}
    for by_key, weight in zip(found, weights):
        for path in by_key.values():
            heaviest[path] = max(weight, heaviest.get(path, 0))
    return [{key: path for key, path in by_key.items() if heaviest[path] == weight} for by_key, weight in zip(found, weights)]


def _find(pattern: str) -> dict[tuple[str | None, ...], str]:
    if "://" in pattern:
        return {(None,) * len(_NAMES): pattern}
    return {key: str(path) for key, path in find(pattern, _NAMES).items()}


def _filled(pattern: str, key: tuple[str | None, ...]) -> str:
    for name, word in zip(_NAMES, key):
        pattern = pattern.replace(f"{{{name}}}", word or "*")
    return pattern


def _words(key: tuple[str | None, ...]) -> str:
    return "/".join(word for word in key if word) or "(the only one)"


def _stem(address: str) -> str:
    """A name for a volume that has no {case}: of its file, of the container it is in, or of its BossDB channel."""
    if address.startswith("bossdb://"):
        return "_".join(address.removeprefix("bossdb://").partition("?")[0].split("/")[1:3])
    parts = Path(address.partition("?")[0]).parts
    container = next((part for part in parts if part.lower().endswith(_CONTAINERS)), parts[-1])
    return strip_suffix(Path(container))
