"""Kasthuri Challenge: membranes and synapses in serial-section electron microscopy of mouse cortex (block AC4), from BossDB.

Channels Kasthuri/ac4/em, Kasthuri/ac4/membrane and Kasthuri/ac4/synapse: 100 x 1024 x 1024 voxels of 30 x 6 x 6 nm. The tasks take 512 x
512 pixels of them (membrane y 12 to 524, x 10 to 522; synapse y 244 to 756, x 244 to 756) in tiles of 256 x 256, and planes [0, 80) to
train, [80, 90) to validate, [90, 100) to test. That split becomes splits_final.json, and the test part goes to imagesTs and labelsTs. The
parts touch; --gap N leaves N planes out between them. A group is a part.

`both` has membrane 1 and synapse 2 in one dataset. Where both are labelled, the voxel is synapse: a synapse lies on a membrane, is a
hundredth of the voxels, and would vanish behind it. As the boxes of the two tasks differ, `both` takes the whole plane, as --full does for
a single class; two task files of equal ranges choose another box.

Annotations. `threshold` of a task file (synapse: above 0.1) and --membrane-threshold, --synapse-threshold make a class of what lies above a
number. Without one the labels must be 0 and 1; ids, 0/255 and fractions are refused, since nothing says what they mean. A 256 x 256 column
of the plane in which a part has no membrane at all is refused too: there is none in this tissue, so it was not annotated.

In the 3D variants a case is a whole part and nnU-Net draws its own patches. The voxel size, five times larger between planes, reaches nnU-
Net's planner, which then keeps the planes apart in its first convolutions.

Differs from the challenge's code: image and label are not transposed, thresholds do not change labels in place, one dataset can hold both
classes. The task files (--task-config) are taken as they are; nnunet_neuro/task_config.py lists what becomes of each key. The
challenge's README gives 3 x 3 x 30 nm for the image that AC4 was cut from at half the resolution. BossDB's kasthuri2015/em/cc is empty and
refused as such.

Licence: none is stated with the data, see bossdb.org/project/kasthuri2015; the challenge's own files are MIT.
Citation: Kasthuri et al., Saturated reconstruction of a volume of neocortex, Cell 162:648 (2015).
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_neuro.bossdb import access_from
from nnunet_neuro.bossdb import add_arguments as add_bossdb_arguments
from nnunet_neuro.raw_dataset import Case, DatasetInfo
from nnunet_neuro.task_config import KASTHURI, PARTS, Box, Range, Task, channel_address, parse_task, read_task, tiles, with_gap
from nnunet_neuro.task_volumes import TaskSource, foreground, note
from nnunet_neuro.volumes import Region, Source, Volume

DEFAULT_ID = 703
DEFAULT_NAME = "KasthuriAC4"

VARIANTS = {
    "membrane": "tiles of planes: background, membrane",
    "synapse": "tiles of planes: background, synapse",
    "both": "tiles of planes: background, membrane, synapse",
    "membrane-3d": "one volume per part: background, membrane",
    "synapse-3d": "one volume per part: background, synapse",
    "both-3d": "one volume per part: background, membrane, synapse",
}

_SPACING = (0.03, 0.006, 0.006)  # micrometres
_CLASSES = {"membrane": ("membrane",), "synapse": ("synapse",), "both": ("membrane", "synapse")}
_COLUMN = 256  # pixels; the tile of the tasks
_WHOLE_PLANE = [0, 1024]

_OFFICIAL = {
    "image_chan": "bossdb://Kasthuri/ac4/em", "z_train": [0, 80], "z_val": [80, 90], "z_test": [90, 100], "volume_z": 1,
    "tile_size": [256, 256],
}  # fmt: skip
_OFFICIAL_TASKS = {
    "membrane": {"name": "membrane_task", "annotation_chan": "bossdb://Kasthuri/ac4/membrane", "task_type": "membrane",
                 "xrange_vol": [10, 522], "yrange_vol": [12, 524], "threshold": False},
    "synapse": {"name": "synapse_task", "annotation_chan": "bossdb://Kasthuri/ac4/synapse", "task_type": "synapse",
                "xrange_vol": [244, 756], "yrange_vol": [244, 756], "threshold": True, "threshold_value": 0.1},
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this converter."""
    parser.add_argument("--task-config", type=Path, metavar="FILE", action="append",
                        help="a task file of the challenge; it decides the variant, ranges and parts. Twice for both classes")
    parser.add_argument("--full", action="store_true", help="the whole plane of 1024 x 1024 instead of a task's 512 x 512")
    parser.add_argument("--local", type=Path, metavar="FOLDER",
                        help="files instead of BossDB: the membrane_tasktrainimages.npy ... that the challenge's scripts saved")
    parser.add_argument("--image-channel", type=_channel, metavar="ADDRESS", help="another channel, bossdb://collection/experiment/channel")
    for name in _OFFICIAL_TASKS:
        parser.add_argument(f"--{name}-channel", type=_channel, metavar="ADDRESS", help=f"the same for the {name} labels")
        parser.add_argument(f"--{name}-threshold", type=_threshold, metavar="V",
                            help=f"{name} is what lies above V (default: as the task has it)")
    parser.add_argument("--gap", type=int, default=0, metavar="N", help="planes to leave out between two parts (default: %(default)s)")
    add_bossdb_arguments(parser)


def _channel(text: str) -> str:
    try:
        return channel_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def dataset_info(arguments: argparse.Namespace) -> DatasetInfo:
    """Labels and settings of the dataset that `cases` gives; downloads what is not in the cache.

    Raises:
        ValueError: as `cases`.
    """
    plan = _plan(arguments)
    _inspect(plan)  # here, so that the bar of the download stands alone
    task = plan.tasks[0]
    return DatasetInfo(
        name=arguments.name,
        channel_names=("em",),
        labels={name: value for value, name in enumerate(("background", *plan.classes))},
        file_ending=".tif" if plan.is_3d else ".png",
        licence="none stated with the data, see bossdb.org/project/kasthuri2015",
        reference="Kasthuri et al., Cell 162:648 (2015), doi.org/10.1016/j.cell.2015.06.054; "
                  "github.com/aplbrain/bossdb-kasthuri-challenge",
        converter="kasthuri",
        settings={"classes": list(plan.classes), "dimensions": 3 if plan.is_3d else 2, "box": [*plan.box.y, *plan.box.x],
                  "parts": {part: list(task.part(part)) for part in PARTS}, "tile": list(task.tile),
                  "thresholds": [each.threshold for each in plan.tasks]},
        sources=(str(plan.sources[0].folder),) if plan.sources[0].folder else (task.image, *(each.annotation for each in plan.tasks)),
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Tiles or volumes of the parts; labels are checked before the first case is given.

    Raises:
        ValueError: labels that are not 0 and 1 and have no threshold, or a place without membranes.
        OSError: BossDB cannot be reached, or a file is missing.
    """
    plan = _plan(arguments)
    for piece in _inspect(plan):
        yield from _volume_case(piece) if plan.is_3d else _tile_cases(piece, plan)


@dataclass(frozen=True)
class _Plan:
    """What to make, hashable; `tasks` and `sources` have one entry per class and share box, parts and tile."""

    tasks: tuple[Task, ...]
    sources: tuple[TaskSource, ...]
    is_3d: bool

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(task.kind for task in self.tasks)

    @property
    def box(self) -> Box:
        return self.tasks[0].boxes[0]


@dataclass(frozen=True)
class _Piece:
    """The planes of one part."""

    split: str
    z: Range
    image: Volume
    labels: Volume


# --- what to make ------------------------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> _Plan:
    kind, is_3d, tasks = _tasks(arguments)
    if arguments.gap < 0:
        raise ValueError("--gap counts planes; expected a number from 0 on")
    if arguments.full or (kind == "both" and not arguments.task_config):
        tasks = [replace(task, boxes=(Box("ac4", y=tuple(_WHOLE_PLANE), x=tuple(_WHOLE_PLANE)),)) for task in tasks]
    tasks = [_with_options(task, arguments) for task in tasks]
    access = None if arguments.local else access_from(arguments)
    sources = tuple(TaskSource(task, _SPACING, access, arguments.local) for task in tasks)
    return _Plan(tuple(with_gap(task, arguments.gap) for task in tasks), sources, is_3d)


def _with_options(task: Task, arguments: argparse.Namespace) -> Task:
    channel, threshold = (getattr(arguments, f"{task.kind}_{option}") for option in ("channel", "threshold"))
    return replace(task, image=arguments.image_channel or task.image, annotation=channel or task.annotation,
                   threshold=task.threshold if threshold is None else threshold)


def _tasks(arguments: argparse.Namespace) -> tuple[str, bool, list[Task]]:
    """The kind of classes, whether 3D, and one task per class."""
    asked = arguments.variant
    if not arguments.task_config:
        kind = asked.removesuffix("-3d")
        return kind, asked != kind, [parse_task({**_OFFICIAL, **_OFFICIAL_TASKS[name]}, KASTHURI, where=f"the official task {name}")
                                     for name in _CLASSES[kind]]
    tasks = sorted((read_task(path, KASTHURI) for path in arguments.task_config), key=lambda task: task.kind)
    kinds = tuple(task.kind for task in tasks)
    kind = next((name for name, classes in _CLASSES.items() if classes == kinds), None)
    if kind is None:
        raise ValueError(f"the task files are of type {', '.join(kinds)}; expected one file, or one of membrane and one of synapse")
    _check_alike(tasks)
    variant = f"{kind}-3d" if tasks[0].depth > 1 else kind
    if asked not in (next(iter(VARIANTS)), variant):
        advice = "give a task file for each class" if asked.startswith("both") and len(tasks) == 1 else "leave out --variant"
        raise ValueError(f"{arguments.task_config[0]} describes the variant {variant}, but {asked} is asked for; {advice}")
    return kind, tasks[0].depth > 1, tasks


def _check_alike(tasks: list[Task]) -> None:
    for task in tasks[1:]:
        for key, values in {"image_chan": (tasks[0].image, task.image), "xrange_vol": (tasks[0].boxes[0].x, task.boxes[0].x),
                            "yrange_vol": (tasks[0].boxes[0].y, task.boxes[0].y), "tile_size": (tasks[0].tile, task.tile),
                            "volume_z is 1": (tasks[0].depth == 1, task.depth == 1),
                            **{f"z_{part}": (tasks[0].part(part), task.part(part)) for part in PARTS}}.items():
            if values[0] != values[1]:
                raise ValueError(f"the task files differ in {key} ({values[0]} in {tasks[0].name}, {values[1]} in {task.name}); make them "
                                 "equal, or take --variant both without task files for the whole plane")


# --- what the voxels say -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # asked for by dataset_info and twice by the writer
def _inspect(plan: _Plan) -> tuple[_Piece, ...]:
    """Download, then read every label once to check it."""
    for sentence in dict.fromkeys(sentence for task in plan.tasks for sentence in task.set_aside):
        note(sentence)
    opened = []
    for part in PARTS:
        z = plan.tasks[0].part(part)
        annotations = [source.open("annotation", source.task.boxes[0], z, may_be_empty=True) for source in plan.sources]
        opened.append((part, z, plan.sources[0].open("image", plan.box, z), annotations))
    plan.sources[0].fetch([volume for *_, annotations in opened for volume in annotations])
    return tuple(_checked_piece(plan, *each) for each in opened)


def _checked_piece(plan: _Plan, part: str, z: Range, image: Volume, annotations: list[Volume]) -> _Piece:
    masks = tuple(foreground(annotation, task.threshold, advice=f"give --{task.kind}-threshold V, above which it is {task.kind}")
                  for annotation, task in zip(annotations, plan.tasks))
    for name, mask in zip(plan.classes, masks):
        counts = _counts_per_pixel(mask)
        if name == "membrane":
            _check_annotated_everywhere(counts, mask, part)
        elif part == "train" and not counts.any():
            raise ValueError(f"{mask.path} holds no {name} in the training planes {z[0]} to {z[1]} (threshold "
                             f"{plan.tasks[plan.classes.index(name)].threshold}); give the right channel or a lower threshold")
    return _Piece(part, z, image, _joined(masks))


def _counts_per_pixel(mask: Volume) -> np.ndarray:
    """(y, x): how many planes of a mask are 1 there; reads it in slabs."""
    counts = np.zeros(mask.shape[1:], np.int64)
    for first in range(0, mask.shape[0], 16):
        slab = (slice(first, min(first + 16, mask.shape[0])), *(slice(0, length) for length in mask.shape[1:]))
        counts += np.count_nonzero(mask.read(slab), axis=0)
    return counts


def _check_annotated_everywhere(counts: np.ndarray, mask: Volume, part: str) -> None:
    for y in range(0, counts.shape[0], _COLUMN):
        for x in range(0, counts.shape[1], _COLUMN):
            if not counts[y : y + _COLUMN, x : x + _COLUMN].any():
                raise ValueError(f"{mask.path} holds no membrane at y {y} to {y + _COLUMN}, x {x} to {x + _COLUMN} of the cutout in any "
                                 f"{part} plane, so that place is not annotated; take a smaller range with --task-config")


def _joined(masks: tuple[Volume, ...]) -> Volume:
    """Labels 1, 2, ... of masks; a later class stands before an earlier one."""
    if len(masks) == 1:
        return masks[0]
    return Volume(masks[0].path, masks[0].shape, np.dtype(np.uint8), masks[0].spacing, partial(_read_joined, masks),
                  lister=partial(_sources_of_joined, masks))


def _read_joined(masks: tuple[Volume, ...], path: Path | str, region: Region) -> np.ndarray:
    labels = np.zeros(tuple(part.stop - part.start for part in region), np.uint8)
    for value, mask in enumerate(masks, start=1):
        labels[mask.read(region) == 1] = value
    return labels


def _sources_of_joined(masks: tuple[Volume, ...], path: Path | str, region: Region) -> list[Source]:
    return [source for mask in masks for source in mask.crop(region).sources()]


# --- the cases ---------------------------------------------------------------------------------------------------------------------


def _volume_case(piece: _Piece) -> Iterator[Case]:
    yield Case(identifier=f"ac4_{piece.split}", channels=(piece.image,), label=piece.labels, spacing=_SPACING, group=f"ac4/{piece.split}",
               split=piece.split, notes={"first_plane": piece.z[0], "planes": piece.z[1] - piece.z[0]})


def _tile_cases(piece: _Piece, plan: _Plan) -> Iterator[Case]:
    height, width = plan.tasks[0].tile
    for z in range(*piece.z):
        image, labels = (volume.plane(z - piece.z[0]) for volume in (piece.image, piece.labels))
        for y, x in tiles(plan.box, (height, width)):
            region = (slice(y, y + height), slice(x, x + width))
            yield Case(identifier=f"ac4_z{z:02d}_y{plan.box.y[0] + y:04d}_x{plan.box.x[0] + x:04d}", channels=(image.crop(region),),
                       label=labels.crop(region), spacing=_SPACING[1:], group=f"ac4/{piece.split}", split=piece.split,
                       notes={"plane": z, "first_y": plan.box.y[0] + y, "first_x": plan.box.x[0] + x})
