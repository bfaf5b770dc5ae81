"""The task files (JSON) of MTNeuro and of the Kasthuri Challenge: which cutouts, planes and classes a dataset is made of.

Every key is honoured, or set aside with a sentence that names it; a key that neither system has is an error.

    name                     prefix of the `.npy` files that the system's own scripts saved
    image_chan               `bossdb://collection/experiment/channel` of the image
    annotation_chan          the same for the labels
    xrange_*, yrange_*       cutout in the plane, half-open; `_cor`, `_stri`, `_vp`, `_zi` (MTNeuro; a region whose two keys are absent is
                             left out, where MTNeuro wants all four) or `_vol` (Kasthuri)
    zrange                   planes of the cutouts, half-open (MTNeuro); the parts must lie in it
    z_train, z_val, z_test   planes of the three parts, half-open
    volume_z                 1: a flat case per plane; more: one 3D case per cutout and part, kept whole because nnU-Net draws its own
                             patches, so that only the choice between 2D and 3D is left of the number
    tile_size                [x, y] of the tiles that a flat case is cut into; must divide every cutout; 3D cases are not tiled
    task_type                `3class`, `noZI`, `normal` (MTNeuro), `membrane`, `synapse` (Kasthuri); must agree with the next two
    combine_ax_and_bg        1: axons are background
    noZI                     1: without the zona incerta
    threshold                true: what lies above threshold_value is the class; false: the labels are taken as they are
    threshold_value          a number
    encoder_type,            set aside: they choose the network that the read-out of task 3 is made with, not the data
    encoder_path

The parts must not overlap, but for `normal` tasks, whose read-out knows no parts (MTNeuro's task3.json trains on all planes).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_neuro.bossdb import parse_address

Range = tuple[int, int]

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Dialect:
    """What one system's task files look like.

    Attributes:
        system: its name, for messages.
        converter: word after `nnneuro_convert`.
        boxes: suffix of the range keys -> name of the cutout.
        kinds: the values of `task_type`.
        required: further keys that must be there.
        optional: further keys that may be there.
    """

    system: str
    converter: str
    boxes: Mapping[str, str]
    kinds: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that may occur."""
        return (*self.required, *(f"{axis}range_{suffix}" for suffix in self.boxes for axis in "xy"), *self.optional)


_COMMON = ("name", "image_chan", "annotation_chan", "z_train", "z_val", "z_test", "volume_z", "tile_size")
_ENCODER_KEYS = ("encoder_type", "encoder_path")

MTNEURO = Dialect("MTNeuro", "mtneuro", {"cor": "cortex", "stri": "striatum", "vp": "vp", "zi": "zi"}, ("3class", "noZI", "normal"),
                  (*_COMMON, "zrange"), ("task_type", "combine_ax_and_bg", "noZI", *_ENCODER_KEYS))
KASTHURI = Dialect("the Kasthuri Challenge", "kasthuri", {"vol": "ac4"}, ("membrane", "synapse"),
                   (*_COMMON, "task_type"), ("threshold", "threshold_value"))
_DIALECTS = (MTNEURO, KASTHURI)


@dataclass(frozen=True)
class Box:
    """A cutout in the plane.

    Attributes:
        name: of the region.
        y, x: half-open, in voxels of the channel.
    """

    name: str
    y: Range
    x: Range

    @property
    def shape(self) -> tuple[int, int]:
        """Voxels along (y, x)."""
        return self.y[1] - self.y[0], self.x[1] - self.x[0]


@dataclass(frozen=True)
class Task:
    """One task file, checked.

    Attributes:
        name: as the file says.
        image, annotation: addresses of channels.
        boxes: the cutouts, in the order in which the systems' own scripts join them along z.
        z: planes of the cutouts; the hull of the parts where the file has no `zrange`.
        train, val, test: planes of the parts.
        depth: `volume_z`.
        tile: voxels of a tile along (y, x).
        kind: `task_type`; None where the file has none.
        merge_axon: axons are background.
        drop_zona_incerta: without the zona incerta; its box is still among `boxes`.
        threshold: what lies above it is the class; None takes the labels as they are.
        set_aside: one sentence per key that changes nothing here.
    """

    name: str
    image: str
    annotation: str
    boxes: tuple[Box, ...]
    z: Range
    train: Range
    val: Range
    test: Range
    depth: int
    tile: tuple[int, int]
    kind: str | None = None
    merge_axon: bool = False
    drop_zona_incerta: bool = False
    threshold: float | None = None
    set_aside: tuple[str, ...] = ()

    def part(self, name: str) -> Range:
        """Planes of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


def read_task(path: str | Path, dialect: Dialect) -> Task:
    """The task that a file describes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, a key that is unknown, missing or given twice, or a value that contradicts another.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no task file {path}; expected a JSON file as {dialect.system} has it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); expected a JSON file") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}; correct it there") from error
    except _TwinKeyError as error:
        raise ValueError(f"{path} has the key {error} twice; keep one") from error
    return parse_task(content, dialect, where=str(path))


def parse_task(content: Any, dialect: Dialect, *, where: str) -> Task:
    """The task in the content of a file.

    Args:
        content: of the JSON file.
        dialect: MTNEURO or KASTHURI.
        where: what error messages call the file.

    Raises:
        ValueError: as `read_task`.
    """
    keys = _Keys(content, where)
    keys.check_known(dialect)
    boxes = tuple(box for suffix, name in dialect.boxes.items() if (box := keys.box(suffix, name)) is not None)
    if not boxes:
        names = " or ".join(f"xrange_{suffix} and yrange_{suffix}" for suffix in dialect.boxes)
        raise ValueError(f"{where} names no cutout; expected {names}")
    parts = {part: keys.range(f"z_{part}") for part in PARTS}
    task = Task(
        name=keys.text("name"),
        image=keys.channel("image_chan"),
        annotation=keys.channel("annotation_chan"),
        boxes=boxes,
        z=keys.range("zrange") if "zrange" in content else (min(p[0] for p in parts.values()), max(p[1] for p in parts.values())),
        **parts,
        depth=keys.positive("volume_z"),
        tile=keys.tile(),
        kind=keys.choice("task_type", dialect.kinds),
        merge_axon=keys.flag("combine_ax_and_bg"),
        drop_zona_incerta=keys.flag("noZI"),
        threshold=keys.threshold(),
        set_aside=tuple(f"key {key} of {where} is set aside: it chooses the network of the read-out, not the data"
                        for key in _ENCODER_KEYS if key in content),
    )
    _check_geometry(task, where)
    _check_kind(task, where)
    return task


def with_gap(task: Task, planes: int) -> Task:
    """The task with at least `planes` planes between two parts; planes are taken from train rather than val, from val rather than test.

    Raises:
        ValueError: a part would lose all its planes.
    """
    if planes <= 0:
        return task
    train, val = task.train, _kept_away(task.val, task.test, planes)
    for other in (val, task.test):
        train = _kept_away(train, other, planes)
    for name, part in (("train", train), ("val", val)):
        if part[0] >= part[1]:
            raise ValueError(f"a gap of {planes} planes leaves nothing of z_{name} {list(task.part(name))} of task {task.name}; take fewer")
    return replace(task, train=train, val=val)


def _kept_away(part: Range, fixed: Range, planes: int) -> Range:
    if part[0] < fixed[0]:
        return part[0], min(part[1], fixed[0] - planes)
    return max(part[0], fixed[1] + planes), part[1]


def channel_address(text: str) -> str:
    """`bossdb://collection/experiment/channel` in one spelling.

    Raises:
        ValueError: another kind of address, or one with ranges, which the task itself gives, or with a coarser resolution.
    """
    address = parse_address(text)
    if address.resolution or any(address.ranges):
        raise ValueError(f"{text!r} has a resolution or ranges; expected bossdb://collection/experiment/channel, since the ranges of the "
                         "task hold for the finest level")
    return f"bossdb://{address.path}"


def tiles(box: Box, tile: tuple[int, int]) -> list[tuple[int, int]]:
    """First voxel (y, x) of each tile within the box, row by row."""
    return [(y, x) for y in range(0, box.shape[0], tile[0]) for x in range(0, box.shape[1], tile[1])]


def check_parts_are_apart(task: Task, where: str) -> None:
    """Refuse parts that share a plane.

    Raises:
        ValueError: two of them overlap.
    """
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        a, b = task.part(first), task.part(second)
        if a[0] < b[1] and b[0] < a[1]:
            raise ValueError(f"z_{first} {list(a)} and z_{second} {list(b)} of {where} overlap; a plane can be in one part only")


class _TwinKeyError(Exception):
    pass


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwinKeyError(next(key for key in keys if keys.count(key) > 1))
    return content


class _Keys:
    """Reads the values of a task file one by one; each in its type or as one sentence."""

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            raise ValueError(f"{where} holds {_show(content)}; expected a JSON object such as {{\"name\": ...}}")
        self.content, self.where = content, where

    def check_known(self, dialect: Dialect) -> None:
        for other in _DIALECTS:
            foreign = {f"{axis}range_{suffix}" for suffix in other.boxes for axis in "xy"} & self.content.keys()
            if other is not dialect and foreign:
                raise ValueError(f"{self.where} is a task file of {other.system} (it has {min(foreign)}); use nnneuro_convert "
                                 f"{other.converter}")
        unknown = [key for key in self.content if key not in dialect.keys]
        if unknown:
            raise ValueError(f"{self.where} has the unknown key {unknown[0]}; {dialect.system} knows {', '.join(dialect.keys)}")
        missing = [key for key in dialect.required if key not in self.content]
        if missing:
            raise ValueError(f"{self.where} lacks the key {missing[0]}; {dialect.system} needs {', '.join(dialect.required)}")

    def _wrong(self, key: str, expected: str) -> ValueError:
        return ValueError(f"{key} of {self.where} is {_show(self.content[key])}; expected {expected}")

    def text(self, key: str) -> str:
        value = self.content[key]
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(key, "a text")
        return value

    def channel(self, key: str) -> str:
        value = self.content[key]
        if not isinstance(value, str):
            raise self._wrong(key, "bossdb://collection/experiment/channel")
        try:
            return channel_address(value)
        except ValueError as error:
            raise ValueError(f"{key} of {self.where}: {error}") from error

    def range(self, key: str) -> Range:
        value = self.content[key]
        if not isinstance(value, list) or len(value) != 2 or not all(_is_integer(bound) for bound in value):
            raise self._wrong(key, "two integers, first and one behind the last")
        if value[0] < 0:
            raise self._wrong(key, "no negative bound")
        if value[0] >= value[1]:
            raise self._wrong(key, "the smaller bound first (the second one is not part of the range)")
        return value[0], value[1]

    def box(self, suffix: str, name: str) -> Box | None:
        present = [key for key in (f"xrange_{suffix}", f"yrange_{suffix}") if key in self.content]
        if len(present) == 1:
            raise ValueError(f"{self.where} has {present[0]}, but no {'xy'[present[0][0] == 'x']}range_{suffix}; give both")
        return Box(name, y=self.range(f"yrange_{suffix}"), x=self.range(f"xrange_{suffix}")) if present else None

    def positive(self, key: str) -> int:
        value = self.content[key]
        if not _is_integer(value) or value < 1:
            raise self._wrong(key, "a positive integer")
        return value

    def tile(self) -> tuple[int, int]:
        value = self.content["tile_size"]
        if not isinstance(value, list) or len(value) != 2 or not all(_is_integer(length) and length > 0 for length in value):
            raise self._wrong("tile_size", "two positive integers [x, y]")
        return value[1], value[0]

    def choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        value = self.content.get(key)
        if key in self.content and value not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}")
        return value

    def flag(self, key: str) -> bool:
        value = self.content.get(key, 0)
        if value not in (0, 1) or isinstance(value, float):
            raise self._wrong(key, "0 or 1")
        return bool(value)

    def threshold(self) -> float | None:
        value = self.content.get("threshold_value")
        if "threshold_value" in self.content and (not isinstance(value, int | float) or isinstance(value, bool) or value != value):
            raise self._wrong("threshold_value", "a number")
        if not self.flag("threshold"):
            return None
        if value is None:
            raise ValueError(f"threshold of {self.where} is true, but there is no threshold_value; give the number")
        return float(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_geometry(task: Task, where: str) -> None:
    for part in PARTS:
        first, stop = task.part(part)
        if first < task.z[0] or stop > task.z[1]:
            raise ValueError(f"z_{part} [{first}, {stop}] of {where} leaves zrange {list(task.z)}; correct one of them")
        if stop - first < task.depth:
            raise ValueError(f"z_{part} of {where} has {stop - first} planes, fewer than volume_z {task.depth}; correct one of them")
    for box in task.boxes:
        for axis, length, tile in zip("yx", box.shape, task.tile):
            if length % tile:
                raise ValueError(f"tile_size of {where} is {tile} along {axis}, which does not divide the {length} voxels of "
                                 f"{box.name}; correct the tile or the range")
    if task.kind != "normal":
        check_parts_are_apart(task, where)


def _check_kind(task: Task, where: str) -> None:
    wanted = {"3class": (True, None), "noZI": (False, True), "normal": (False, False)}.get(task.kind)
    if wanted is not None:
        for key, found, expected in (("combine_ax_and_bg", task.merge_axon, wanted[0]), ("noZI", task.drop_zona_incerta, wanted[1])):
            if expected is not None and found != expected:
                raise ValueError(f"task_type {task.kind} of {where} means {key} {int(expected)}, but it says {int(found)}; correct one")
    if task.drop_zona_incerta and {box.name for box in task.boxes} == {"zi"}:
        raise ValueError(f"{where} has noZI 1 and no region but the zona incerta; correct one of them")
    other = {"membrane": "synapse", "synapse": "membrane"}.get(task.kind)
    if other is not None and task.annotation.rstrip("/").rsplit("/", 1)[-1].lower() == other:
        raise ValueError(f"task_type of {where} is {task.kind}, but annotation_chan is {task.annotation}; correct one of them")
