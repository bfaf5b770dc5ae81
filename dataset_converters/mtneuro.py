"""MTNeuro: X-ray microtomography of a mouse's thalamocortical tissue, with brain areas and microstructure labelled, from BossDB.

Four cutouts of 256 x 256 pixels, 1.17 um isotropic, planes 110 to 470: cortex, striatum, VP (ventral posterior thalamus) and zona
incerta. Channels prasad/prasad2020/image, prasad/prasad_analysis/pixel_labels (blood vessel, cell body, myelinated axon) and
prasad/prasad_analysis/roi_labels (brain areas).

The official split, by planes: train [110, 379), val [380, 409), test [420, 470). It becomes splits_final.json, and the test part goes to
imagesTs and labelsTs. Train and val of one region are a single plane (1.17 um) apart, so val says little about other tissue; --gap N
takes N planes from the end of train. A group is a part of a region. The read-out has no parts: all planes are cross-validated in blocks
of a fifth of the planes, the same in all regions, so that only at the borders of blocks neighbouring planes are in different folds.

What becomes nnU-Net's ignore label: planes from 460 on without a single label (the area labels end there), and with --human-only every
plane that no person annotated. People annotated pixels at z = 140, 170, ..., 440 and areas at 109, 159, ..., 359, 409, 410 and 460; the
rest are labels propagated by machine. A flat training or validation case that would be ignored throughout is left out, because nnU-Net
would draw it as often as the others; in the test part it stays. With --human-only the areas have no plane left in val, so that cross-
validation over such blocks replaces the official split. In the notes of a case and in cases.csv: region, plane, whether a person annotated
it, the area of a tile (`regions`), the five features of a quadrant (`readout`).

Areas. A tile's area is MTNeuro's: the most frequent area of its pixels, {clear, cortex} CTX, {striatum, corpus callosum} STR, {TRN, VP}
VP, {zona incerta, internal capsule, hypothalamus} ZI. Per voxel, --areas 9 keeps clear (the background) and the eight areas, --areas 4
joins them as above, but for clear, which shows no tissue and so is the background and not cortex.

Label numbering. Three circulate (--label-map): `mtneuro` 1 vessel, 2 cell, 3 axon (BossDB); `xray-thc-readme` 1 cell, 2 vessel, 3 axon;
`xray-thc-masks` 1 axon, 2 vessel, 3 cell. A cutout that contradicts the chosen one is refused: axons fill less than 2 % of cortex, at
least 3 % of the striatum and 5 % of VP; vessels at most 10 % and cells at most 25 % of any region; and vessels form longer objects than
cells (mean longest side of 3D components, by voxels, not the reverse by a factor of 1.5). The check tells axons from the rest wherever a
cutout of cortex, striatum or VP is there. It tells vessels from cells only where 32 labelled planes follow each other, and says so where
it cannot.

Differs from MTNeuro's code: a 3D case is one region of one part (there the last chunk of each region ran into the next region); unlabelled
test planes are no cortex (there 30 of 200 test tiles); image and label are not transposed; cells are joined per region, the distance to
the nearest neighbour leaves out the cell itself, and a missing distance or size is empty (there 64 and 0). Task files (--task-config) are
taken as they are; of their keys encoder_type and encoder_path are set aside, since they choose a network and not data:
nnunet_neuro/task_config.py lists what becomes of each.

Licence: CC BY 4.0 (data).
Citation: Quesada et al., MTNeuro, NeurIPS 2022 Datasets and Benchmarks; Prasad et al., Scientific Data 7:358 (2020).
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_neuro.bossdb import access_from
from nnunet_neuro.bossdb import add_arguments as add_bossdb_arguments
from nnunet_neuro.label_numbering import Expectation, ValueMeasure, are_told_apart, contradictions, measure_values, pooled
from nnunet_neuro.raw_dataset import IGNORE, Case, DatasetInfo
from nnunet_neuro.task_config import (
    MTNEURO,
    PARTS,
    Box,
    Range,
    Task,
    channel_address,
    check_parts_are_apart,
    parse_task,
    read_task,
    tiles,
    with_gap,
)
from nnunet_neuro.task_volumes import UNLABELLED, TaskSource, class_labels, note
from nnunet_neuro.tissue_features import TissueFeatures, number_cells, tissue_features
from nnunet_neuro.volumes import Volume

DEFAULT_ID = 702
DEFAULT_NAME = "MTNeuro"

VARIANTS = {
    "2d-3class": "planes of four regions: background with axons, vessel, cell (task 2)",
    "2d-4class": "planes without the zona incerta: background, vessel, cell, axon (task 2)",
    "3d-3class": "one volume per region and part: background with axons, vessel, cell (task 2)",
    "3d-4class": "the same without the zona incerta: background, vessel, cell, axon (task 2)",
    "regions": "planes of four regions: the brain area of every voxel, and of the tile in cases.csv (task 1)",
    "readout": "quadrants of the planes of four regions: background, vessel, cell, axon, and five features each in cases.csv (task 3)",
}

NUMBERINGS = {
    "mtneuro": {"vessel": 1, "cell": 2, "axon": 3},
    "xray-thc-readme": {"vessel": 2, "cell": 1, "axon": 3},
    "xray-thc-masks": {"vessel": 2, "cell": 3, "axon": 1},
}
AREAS = ("clear", "cortex", "striatum", "TRN", "VP", "zona_incerta", "internal_capsule", "hypothalamus", "corpus_callosum")
# value in roi_labels -> class of MTNeuro's task 1
TILE_AREAS = ("CTX", "CTX", "STR", "VP", "VP", "ZI", "ZI", "ZI", "STR")

_VOXEL_SIZE = 1.17  # micrometres
_FOUR_AREAS = ("background", "CTX", "STR", "VP", "ZI")
_HUMAN_PIXEL_PLANES = frozenset(range(140, 471, 30))
_HUMAN_AREA_PLANES = frozenset({109, 159, 209, 259, 309, 359, 409, 410, 460})
_LAST_LABELLED = 460  # area labels end before this plane
_QUADRANTS = ("TL", "TR", "BL", "BR")
_BLOCKS = 5  # of planes where they are cross-validated; nnU-Net's number of folds
# notes of a tile, empty where it is not labelled
_FACTS = {"regions": ("area", "most_frequent_area"), "readout": tuple(feature.name for feature in fields(TissueFeatures))}

# from the cortex, striatum and TRN of the published masks, and from annotated planes of VP
_EXPECTATIONS = (
    Expectation("cortex", "axon", 0, 0.02),
    Expectation("striatum", "axon", 0.03, 1),
    Expectation("vp", "axon", 0.05, 1),
    Expectation(None, "vessel", 0, 0.10),
    Expectation(None, "cell", 0, 0.25),
)

_OFFICIAL = {
    "image_chan": "bossdb://prasad/prasad2020/image",
    "annotation_chan": "bossdb://prasad/prasad_analysis/pixel_labels",
    "xrange_cor": [4600, 4856], "yrange_cor": [900, 1156],
    "xrange_stri": [3700, 3956], "yrange_stri": [500, 756],
    "xrange_vp": [3063, 3319], "yrange_vp": [850, 1106],
    "xrange_zi": [1543, 1799], "yrange_zi": [650, 906],
    "zrange": [110, 471], "z_train": [110, 379], "z_val": [380, 409], "z_test": [420, 470],
    "volume_z": 1, "tile_size": [256, 256],
}  # fmt: skip
_OFFICIAL_TASKS = {
    "2d-3class": {"name": "task2_2D_3class", "task_type": "3class", "combine_ax_and_bg": 1, "noZI": 0},
    "2d-4class": {"name": "task2_2D_4class", "task_type": "noZI", "combine_ax_and_bg": 0, "noZI": 1},
    "3d-3class": {"name": "task2_3D_3class", "task_type": "3class", "combine_ax_and_bg": 1, "noZI": 0, "volume_z": 8},
    "3d-4class": {"name": "task2_3D_4class", "task_type": "noZI", "combine_ax_and_bg": 0, "noZI": 1, "volume_z": 8},
    "regions": {"name": "task1", "annotation_chan": "bossdb://prasad/prasad_analysis/roi_labels"},
    "readout": {"name": "task3", "task_type": "normal", "combine_ax_and_bg": 0, "noZI": 0, "zrange": [110, 470], "z_train": [110, 470]},
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this converter."""
    parser.add_argument("--task-config", type=Path, metavar="FILE", help="a task file of MTNeuro; it decides the variant, ranges and parts")
    parser.add_argument("--local", type=Path, metavar="FOLDER",
                        help="files instead of BossDB: the task2_2D_3classtrainimages.npy ... that MTNeuro's scripts saved, or "
                             "cortex_image.*, cortex_labels.*, striatum_image.* ... with the planes of zrange")
    parser.add_argument("--image-channel", type=_channel, metavar="ADDRESS", help="another channel, bossdb://collection/experiment/channel")
    parser.add_argument("--label-channel", type=_channel, metavar="ADDRESS", help="the same for the labels")
    parser.add_argument("--label-map", choices=list(NUMBERINGS), default="mtneuro",
                        help="numbering of the pixel labels (default: %(default)s)")
    parser.add_argument("--skip-label-check", action="store_true", help="take labels that contradict --label-map")
    parser.add_argument("--human-only", action="store_true", help="ignore the planes that no person annotated")
    parser.add_argument("--areas", type=int, choices=(9, 4), default=9,
                        help="areas per voxel of the variant regions (default: %(default)s)")
    parser.add_argument("--unlabelled-from", type=int, default=_LAST_LABELLED, metavar="Z",
                        help="planes from here on that hold no label at all are ignored (default: %(default)s)")
    parser.add_argument("--gap", type=int, default=0, metavar="N", help="planes at least between two parts (default: as the task has it)")
    add_bossdb_arguments(parser)


def _channel(text: str) -> str:
    try:
        return channel_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def dataset_info(arguments: argparse.Namespace) -> DatasetInfo:
    """Labels and settings of the dataset that `cases` gives; downloads what is not in the cache.

    Raises:
        ValueError: labels that contradict the label map or hold unknown values.
    """
    plan = _plan(arguments)
    task = plan.task
    settings = {
        "variant": plan.variant, "human_only": plan.human_only, "unlabelled_from": plan.unlabelled_from,
        "boxes": {box.name: [*box.y, *box.x] for box in plan.boxes}, "parts": {part: list(z) for part, z in plan.parts.items()},
        "tile": list(task.tile),
    }  # fmt: skip
    settings |= {"areas": plan.areas} if plan.variant == "regions" else {"label_map": plan.numbering, "merge_axon": task.merge_axon}
    return DatasetInfo(
        name=arguments.name,
        channel_names=("xray",),
        labels=_classes(plan),
        file_ending=".tif" if plan.is_3d else ".png",
        licence="CC BY 4.0",
        reference="Quesada et al., MTNeuro, NeurIPS 2022 Datasets and Benchmarks; Prasad et al., Scientific Data 7:358 (2020), "
                  "doi.org/10.1038/s41597-020-00692-y",
        converter="mtneuro",
        settings=settings,
        sources=(str(plan.source.folder),) if plan.source.folder else (task.image, task.annotation),
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Planes, quadrants or volumes of the regions; labels are checked before the first case is given.

    Raises:
        ValueError: labels that contradict the label map or hold unknown values.
        OSError: BossDB cannot be reached, or a file is missing.
    """
    plan = _plan(arguments)
    label_values = _label_values(plan)
    pieces = _inspect(plan)
    for piece in pieces:
        for case in _volume_cases(piece) if plan.is_3d else _flat_cases(piece, plan, pieces):
            yield replace(case, label_values=label_values)


@dataclass(frozen=True)
class _Plan:
    """What to make, hashable."""

    variant: str
    task: Task
    source: TaskSource
    numbering: str
    check: bool
    human_only: bool
    areas: int
    unlabelled_from: int

    @property
    def is_3d(self) -> bool:
        return self.variant.startswith("3d")

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(box for box in self.task.boxes if not (self.task.drop_zona_incerta and box.name == "zi"))

    @property
    def parts(self) -> dict[str, Range]:
        return {"train": self.task.z} if self.variant == "readout" else {part: self.task.part(part) for part in PARTS}

    @property
    def human_planes(self) -> frozenset[int]:
        return _HUMAN_AREA_PLANES if self.variant == "regions" else _HUMAN_PIXEL_PLANES


@dataclass(frozen=True)
class _Tile:
    """A rectangle of the planes of a region, and what its cases are called."""

    suffix: str
    y: int
    x: int
    shape: tuple[int, int]

    @property
    def region(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.shape[0]), slice(self.x, self.x + self.shape[1])


@dataclass(frozen=True)
class _Piece:
    """The planes of one region in one part."""

    box: Box
    split: str
    z: Range
    image: Volume
    labels: Volume  # uint8, UNLABELLED in the ignored planes
    ignored: frozenset[int] = frozenset()  # absolute z
    facts: Mapping[tuple[int, _Tile], Mapping[str, Any]] = field(default_factory=dict)  # (absolute z, tile) -> notes

    @property
    def is_ignored(self) -> bool:
        return len(self.ignored) == self.z[1] - self.z[0]


# --- what to make ------------------------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> _Plan:
    variant, task = _variant_and_task(arguments)
    if arguments.gap < 0 or arguments.unlabelled_from < 0:
        raise ValueError("--gap and --unlabelled-from count planes; expected numbers from 0 on")
    task = replace(task, image=arguments.image_channel or task.image, annotation=arguments.label_channel or task.annotation)
    source = TaskSource(task, (_VOXEL_SIZE,) * 3, None if arguments.local else access_from(arguments), arguments.local)
    return _Plan(variant, task if variant == "readout" else with_gap(task, arguments.gap), source, arguments.label_map,
                 not arguments.skip_label_check, arguments.human_only, arguments.areas, arguments.unlabelled_from)


def _variant_and_task(arguments: argparse.Namespace) -> tuple[str, Task]:
    if arguments.task_config is None:
        variant = arguments.variant
        return variant, parse_task({**_OFFICIAL, **_OFFICIAL_TASKS[variant]}, MTNEURO, where=f"the official task of {variant}")
    task = read_task(arguments.task_config, MTNEURO)
    possible = _variants_of(task)
    asked = arguments.variant
    if asked != next(iter(VARIANTS)) and asked not in possible:
        raise ValueError(f"{arguments.task_config} describes the variant {' or '.join(possible)}, but {asked} is asked for; leave out "
                         "--variant")
    variant = asked if asked in possible else possible[0]
    if variant in ("regions", "readout") and task.depth > 1:
        raise ValueError(f"volume_z of {arguments.task_config} is {task.depth}, but the variant {variant} is flat; expected 1")
    if variant == "readout" and any(length % 2 for length in task.tile):
        raise ValueError(f"tile_size of {arguments.task_config} is {task.tile[1]} x {task.tile[0]}; expected even numbers for quadrants")
    if variant != "readout":
        check_parts_are_apart(task, str(arguments.task_config))
    return variant, task


def _variants_of(task: Task) -> tuple[str, ...]:
    """The variants that a task can mean, the likeliest first."""
    dimension = "3d" if task.depth > 1 else "2d"
    if task.annotation.endswith("/roi_labels") or task.kind is None:
        if task.kind is not None or task.merge_axon:
            raise ValueError(f"task {task.name} has area labels ({task.annotation}), but classes of pixels (task_type, combine_ax_and_bg); "
                             "correct one of them")
        return ("regions",)
    if task.kind == "normal":  # four regions with all classes: task 3, and MTNeuro's first task2.json
        return ("readout", f"{dimension}-4class") if task.name.startswith("task3") else (f"{dimension}-4class", "readout")
    return (f"{dimension}-3class" if task.merge_axon else f"{dimension}-4class",)


def _classes(plan: _Plan) -> dict[str, int]:
    if plan.variant == "regions":
        names = _FOUR_AREAS if plan.areas == 4 else ("background", *AREAS[1:])
    else:
        names = ("background", "vessel", "cell") if plan.task.merge_axon else ("background", "vessel", "cell", "axon")
    ignored = any(piece.ignored for piece in _inspect(plan))
    return {name: value for value, name in enumerate((*names, IGNORE) if ignored else names)}


def _label_values(plan: _Plan) -> dict[int, int]:
    classes = _classes(plan)
    if plan.variant != "regions":
        values = {0: 0} | {value: classes.get(name, 0) for name, value in NUMBERINGS[plan.numbering].items()}
    elif plan.areas == 4:
        values = {0: 0} | {value: classes[TILE_AREAS[value]] for value in range(1, len(AREAS))}
    else:
        values = {value: value for value in range(len(AREAS))}
    return values | ({UNLABELLED: classes[IGNORE]} if IGNORE in classes else {})


# --- what the voxels say -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # asked for by dataset_info and twice by the writer
def _inspect(plan: _Plan) -> tuple[_Piece, ...]:
    """Download, read every label once, check it, and decide what is ignored."""
    for sentence in plan.task.set_aside:
        note(sentence)
    if plan.variant == "readout" and plan.source.task.train != plan.task.z:
        note("z_train, z_val and z_test are not used: the read-out is cross-validated over blocks of all planes")
    pieces = [_Piece(box, part, z, plan.source.open("image", box, z), plan.source.open("annotation", box, z, may_be_empty=part != "train"))
              for box in plan.boxes for part, z in plan.parts.items()]
    plan.source.fetch([piece.labels for piece in pieces])
    inspected, measures = [], {}
    for piece in pieces:
        raw = _read_labels(piece, largest=len(AREAS) - 1 if plan.variant == "regions" else 3)
        if plan.variant != "regions":
            measures.setdefault(piece.box.name, []).append(measure_values(raw, (1, 2, 3)))
        ignored = _ignored_planes(raw, piece, plan)
        unlabelled = [z - piece.z[0] for z in sorted(ignored)]
        raw[unlabelled] = 0
        labels = class_labels(piece.labels, unlabelled)
        inspected.append(replace(piece, labels=labels, ignored=ignored, facts=_facts(raw, piece, ignored, plan)))
    if measures:
        _check_numbering({region: {value: pooled(of_part[value] for of_part in parts) for value in (1, 2, 3)}
                          for region, parts in measures.items()}, plan)
    _say_what_is_left_out(inspected, plan)
    return tuple(inspected)


def _read_labels(piece: _Piece, *, largest: int) -> np.ndarray:
    """(z, y, x) uint8, read in slabs: uint64 as BossDB gives it would be eight times as large."""
    labels = class_labels(piece.labels)
    array = np.empty(labels.shape, np.uint8)
    for first in range(0, labels.shape[0], 16):
        stop = min(first + 16, labels.shape[0])
        array[first:stop] = labels.read((slice(first, stop), *(slice(0, length) for length in labels.shape[1:])))
    if array.max() > largest:
        z = piece.z[0] + int(np.argmax(array.max(axis=(1, 2)) > largest))
        raise ValueError(f"labels {piece.labels.path} hold the value {array.max()} in {piece.box.name} (plane {z}), expected 0 to "
                         f"{largest}; give the right channel")
    return array


def _ignored_planes(raw: np.ndarray, piece: _Piece, plan: _Plan) -> frozenset[int]:
    empty = {piece.z[0] + int(index) for index in np.flatnonzero(~raw.any(axis=(1, 2)))}
    unlabelled = {z for z in empty if z >= plan.unlabelled_from}
    machine = set(range(*piece.z)) - plan.human_planes if plan.human_only else set()
    doubtful = sorted(empty - unlabelled - machine)
    if doubtful:
        note(f"planes of {piece.box.name} without any label, taken as background: {len(doubtful)}, the first at z {doubtful[0]}; if they "
             f"are unlabelled, give --unlabelled-from {doubtful[0]}")
    return frozenset(unlabelled | machine)


def _check_numbering(measures: Mapping[str, Mapping[int, ValueMeasure]], plan: _Plan) -> None:
    lengths = {"longer": "vessel", "shorter": "cell"}
    against = {name: contradictions(measures, numbering, _EXPECTATIONS, **lengths) for name, numbering in NUMBERINGS.items()}
    if against[plan.numbering]:
        fitting = [name for name, phrases in against.items() if not phrases]
        advice = f"--label-map {' or '.join(fitting)} fits" if fitting else "no known label map fits"
        sentence = (f"the labels contradict --label-map {plan.numbering} ({_describe(NUMBERINGS[plan.numbering])}): "
                    f"{'; '.join(against[plan.numbering])}; {advice}")
        if plan.check:
            raise ValueError(f"{sentence}: choose another map, or --skip-label-check if these labels are right")
        note(sentence)
    elif not are_told_apart(measures, NUMBERINGS[plan.numbering], **lengths):
        note(f"--label-map {plan.numbering} was checked, but vessels and cells could not be told apart; that takes 32 labelled planes in "
             "a row and objects of different length")


def _describe(numbering: Mapping[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in sorted(numbering.items(), key=lambda item: item[1]))


def _facts(raw: np.ndarray, piece: _Piece, ignored: frozenset[int], plan: _Plan) -> dict[tuple[int, _Tile], dict[str, Any]]:
    """Notes of every tile: its area or its read-out; none in ignored planes."""
    if plan.variant not in ("regions", "readout"):
        return {}
    numbering = NUMBERINGS[plan.numbering]
    cells = number_cells(raw, numbering["cell"]) if plan.variant == "readout" else None
    facts = {}
    for z in sorted(set(range(*piece.z)) - ignored):
        plane = z - piece.z[0]
        for tile in _tiles(piece.box, plan):
            if cells is None:
                facts[z, tile] = _area_of(raw[plane][tile.region])
            else:
                facts[z, tile] = asdict(tissue_features(raw[plane][tile.region], cells[plane][tile.region], vessel=numbering["vessel"],
                                                        axon=numbering["axon"], spacing_yx=(_VOXEL_SIZE, _VOXEL_SIZE)))
    return facts


def _area_of(labels: np.ndarray) -> dict[str, str]:
    most_frequent = int(np.bincount(labels.ravel(), minlength=len(AREAS)).argmax())
    return {"area": TILE_AREAS[most_frequent], "most_frequent_area": AREAS[most_frequent]}


def _say_what_is_left_out(pieces: list[_Piece], plan: _Plan) -> None:
    planes = sum(len(piece.ignored) for piece in pieces if piece.split != "test")
    if planes and not plan.is_3d:
        note(f"unlabelled planes of the training and validation parts, which make no case: {planes}")


# --- the cases ---------------------------------------------------------------------------------------------------------------------


def _volume_cases(piece: _Piece) -> Iterator[Case]:
    if piece.is_ignored and piece.split != "test":
        return
    yield Case(identifier=f"{piece.box.name}_{piece.split}", channels=(piece.image,), label=piece.labels, spacing=(_VOXEL_SIZE,) * 3,
               group=f"{piece.box.name}/{piece.split}", split=piece.split,
               notes={"region": piece.box.name, "first_plane": piece.z[0], "planes": piece.z[1] - piece.z[0],
                      "unlabelled_planes": len(piece.ignored)})


def _flat_cases(piece: _Piece, plan: _Plan, pieces: tuple[_Piece, ...]) -> Iterator[Case]:
    validated = any(other.split == "val" and not other.is_ignored for other in pieces)
    no_facts = dict.fromkeys(_FACTS.get(plan.variant, ()))
    for z in range(*piece.z):
        if z in piece.ignored and piece.split != "test":
            continue
        image, labels = (volume.plane(z - piece.z[0]) for volume in (piece.image, piece.labels))
        for tile in _tiles(piece.box, plan):
            yield Case(
                identifier=f"{piece.box.name}_z{z:03d}{tile.suffix}",
                channels=(image.crop(tile.region),),
                label=labels.crop(tile.region),
                spacing=(_VOXEL_SIZE,) * 2,
                group=f"{piece.box.name}/{piece.split}" if validated or piece.split == "test" else _block(piece.z, z),
                split=piece.split,
                notes={"region": piece.box.name, "plane": z, "human": z in plan.human_planes, **piece.facts.get((z, tile), no_facts)},
            )


def _block(planes: Range, z: int) -> str:
    """The block that a plane is cross-validated with."""
    length = -(-(planes[1] - planes[0]) // _BLOCKS)
    first = planes[0] + (z - planes[0]) // length * length
    return f"z{first}-{min(first + length, planes[1]) - 1}"


def _tiles(box: Box, plan: _Plan) -> list[_Tile]:
    shape = plan.task.tile
    corners = tiles(box, shape)
    found = []
    for y, x in corners:
        name = f"_y{y}_x{x}" if len(corners) > 1 else ""
        if plan.variant == "readout":
            half = (shape[0] // 2, shape[1] // 2)
            found += [_Tile(f"{name}_{quadrant}", y + row * half[0], x + column * half[1], half)
                      for quadrant, (row, column) in zip(_QUADRANTS, ((0, 0), (0, 1), (1, 0), (1, 1)))]
        else:
            found.append(_Tile(name, y, x, shape))
    return found
