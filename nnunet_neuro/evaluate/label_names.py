"""What the numbers in label volumes mean: classes, regions and the ignore label of nnU-Net's dataset.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

OBJECT = "object"


@dataclass(frozen=True)
class LabelNames:
    """The names that are measured, and what else may occur.

    Attributes:
        classes: name to the label that shows it where labels are painted. A region is painted with the label that nnU-Net's
            `regions_class_order` gives it; one without gets a negative number, which no voxel has. See `values_of` for what is measured.
        ignore: value of the ignore label, or None.
        source: the dataset.json; the references where the numbers are ids of objects.
        regions: name to labels, for those of `classes` that are made of several, or painted with another.
        further: labels that may occur and are not measured.
        channels: the labels that each channel of a probability file stands for.
        instances: the numbers are ids of objects; the only class is `OBJECT`, every number but 0.
    """

    classes: dict[str, int]
    ignore: int | None
    source: Path
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    further: tuple[int, ...] = ()
    channels: tuple[tuple[int, ...], ...] = ()
    instances: bool = False

    @property
    def known(self) -> list[int]:
        """Every value a label volume may hold, sorted."""
        values = [value for name in self.classes for value in self.values_of(name)]
        return sorted({0, *values, *self.further, *([] if self.ignore is None else [self.ignore])})

    def values_of(self, name: str) -> tuple[int, ...]:
        """The labels whose voxels make a class or region."""
        return self.regions.get(name) or (self.classes[name],)

    def as_written(self) -> dict[str, int | list[int]]:
        """Names with their labels as a dataset.json has them."""
        return {name: list(self.regions[name]) if name in self.regions else value for name, value in self.classes.items()}


def read_label_names(path: str | Path) -> LabelNames:
    """Read the labels of nnU-Net's dataset.json; a list of several numbers is a region.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON, no labels, or labels that are not whole numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no dataset.json at {path}; check the path")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        items = list(document["labels"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} holds no labels; expected nnU-Net\'s "labels": {{"background": 0, "NAME": 1, ...}}') from error
    values = {name: _label_values(name, value, path) for name, value in items}
    ignore = values.pop("ignore", (None,))[0]
    measured = {name: value for name, value in values.items() if value != (0,)}
    if not measured:
        raise ValueError(f"{path} names no label besides background; expected at least one class to measure")
    _refuse_shared(measured, path)
    painted = _painted(measured, document.get("regions_class_order"))
    regions = {name: value for name, value in measured.items() if value != (painted[name],)}
    return LabelNames(painted, ignore, path, regions, channels=_channels(measured))


def find_label_names(candidates: Sequence[Path], dataset_json: Path | None = None) -> LabelNames:
    """The labels from `dataset_json`, else from those of the candidates that exist.

    Raises:
        FileNotFoundError: no dataset.json found.
        ValueError: a bad one, or two that disagree.
    """
    if dataset_json is not None:
        return read_label_names(dataset_json)
    candidates = list(dict.fromkeys(candidates))
    found = [read_label_names(path) for path in candidates if path.is_file()]
    if not found:
        raise FileNotFoundError(f"no dataset.json found as {' or '.join(map(str, candidates))}; give the one that names the labels with "
                                "--dataset-json")
    first = found[0]
    for other in found[1:]:
        if (other.as_written(), other.ignore) != (first.as_written(), first.ignore):
            raise ValueError(f"{first.source} says labels {_label_text(first)}, {other.source} says {_label_text(other)}; expected the "
                             "same: choose one with --dataset-json")
    return first


def instance_names(references: Path) -> LabelNames:
    """The one class of volumes of object ids."""
    return LabelNames({OBJECT: 1}, None, references, channels=((0,), (1,)), instances=True)


def with_regions(names: LabelNames, regions: Mapping[str, Sequence[str]]) -> LabelNames:
    """The names and further regions.

    Args:
        names: those there are.
        regions: name to its parts, each a class, a region or a label in digits.

    Raises:
        ValueError: a part that is not there, or a name that is taken.
    """
    added: dict[str, tuple[int, ...]] = {}
    for name, parts in regions.items():
        if name in names.classes or name in ("background", "ignore"):
            raise ValueError(f"region {name!r} has the name of a label of {names.source}; give it another name")
        values = {value for part in parts for value in _part_values(part, name, names)}
        added[name] = tuple(sorted(values))
    painted = {name: -1 - number for number, name in enumerate(added, sum(value < 0 for value in names.classes.values()))}
    return replace(names, classes={**names.classes, **painted}, regions={**names.regions, **added})


def chosen_classes(names: LabelNames, classes: Sequence[str]) -> LabelNames:
    """Only these classes and regions are measured, in the order of `names`; all for none.

    Raises:
        ValueError: an unknown name.
    """
    unknown = [name for name in classes if name not in names.classes]
    if unknown:
        raise ValueError(f"no class {', '.join(map(repr, unknown))} in {names.source}; expected some of {', '.join(names.classes)}")
    if not classes:
        return names
    kept = {name: value for name, value in names.classes.items() if name in classes}
    further = set(names.further) | {value for name in names.classes for value in names.values_of(name)}
    return replace(names, classes=kept, regions={name: value for name, value in names.regions.items() if name in kept},
                   further=tuple(sorted(further)))


def _refuse_shared(measured: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Two names of one number would both be given the same voxels."""
    name_of: dict[tuple[int, ...], str] = {}
    for name, values in measured.items():
        if name_of.setdefault(values, name) != name:
            raise ValueError(f"{path} calls label {'+'.join(map(str, values))} both {name_of[values]!r} and {name!r}; expected one name "
                             "for each label: correct the numbers")


def _label_values(name: str, value: object, path: Path) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in values):
        raise ValueError(f"label {name!r} of {path} is {value!r}; expected a whole number, or a list of them, as nnU-Net v2 writes it")
    return tuple(values)


def _painted(measured: Mapping[str, tuple[int, ...]], order: object) -> dict[str, int]:
    """The label that shows each name, see `LabelNames.classes`."""
    if isinstance(order, list) and len(order) == len(measured) and all(isinstance(one, int) for one in order):
        return dict(zip(measured, order))
    return {name: value[0] if len(value) == 1 else -1 - number for number, (name, value) in enumerate(measured.items())}


def _channels(measured: Mapping[str, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """nnU-Net predicts each region on its own, or one label for each voxel, background first."""
    by_region = any(len(value) > 1 for value in measured.values())
    return tuple(measured.values()) if by_region else ((0,), *sorted(measured.values()))


def _part_values(part: str, region: str, names: LabelNames) -> tuple[int, ...]:
    if part in names.classes:
        return names.values_of(part)
    if part.isdecimal() and int(part) in names.known and int(part) not in (0, names.ignore):
        return (int(part),)
    raise ValueError(f"region {region!r} is made of {part!r}, which is no label of {names.source}; expected some of "
                     f"{', '.join(map(str, names.classes))}, or their numbers")


def _label_text(names: LabelNames) -> str:
    named = {**names.as_written(), **({} if names.ignore is None else {"ignore": names.ignore})}
    return ", ".join(f"{'+'.join(map(str, value)) if isinstance(value, list) else value} {name}" for name, value in named.items())
