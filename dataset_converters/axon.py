"""Light-sheet axon cubes in the folder layout of D-LMBmap, dense or sparsely labelled.

Layout, as D-LMBmap and its Axon-Seg publish it (`volumes` or `cropped-cubes`, both occur):

    BRAIN/train/volumes/volume-007.tiff       image cube, uint8 or uint16; multi-page, or a folder volume-007/ of slice TIFFs
    BRAIN/train/Fine-label/label-007.tiff     dilated skeleton, the training target
    BRAIN/train/Rough-label/label-007.tiff    thresholded mask
    BRAIN/train/artifacts/volume-003.tiff     negative cube without any axon: becomes a case with an empty label
    BRAIN/val/...                             the same; becomes the test cases (imagesTs, with labelsTs beside it)

Several brains make one dataset. Image and label are paired by the last number in their names, never by order. Every cube is a group
of its own, named brain/cube, so no cube is in two folds.

Differs from D-LMBmap's create_data.py: cubes are paired by number instead of by sorted position, are kept whole and in their own
intensities (nnU-Net crops, normalises and augments), an ignore label exists, and nothing is drawn at random. With --augment the
augmented set of create_data.py is written instead of the cubes; see nnunet_neuro.offline_augment for what differs.

Licence: that of the cubes; D-LMBmap's are CC BY 4.0, TRAILMAP's MIT.
Citation: D-LMBmap (Li et al., Nature Methods 2023); TRAILMAP (Friedmann et al., PNAS 2020).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nnunet_neuro.offline_augment import OfflineAugmentation, augmented_cases
from nnunet_neuro.options import chosen_spacing, parse_spacing
from nnunet_neuro.raw_dataset import IGNORE, Case, DatasetInfo
from nnunet_neuro.volumes import TIFF_SUFFIXES, Volume, empty_label, last_number, open_volume, slice_files

DEFAULT_ID = 701
DEFAULT_NAME = "Axons"

VARIANTS = {
    "dlmbmap": "labels 0 background, 255 or 1 axon (D-LMBmap)",
    "trailmap": "labels 0 unlabelled, 1 background, 2 axon, 3 artefact, 4 axon edge (TRAILMAP); unlabelled voxels become nnU-Net's "
    "ignore label, artefacts background",
}

_IMAGE_FOLDERS = ("volumes", "cropped-cubes")
_LABEL_FOLDERS = {"fine": "Fine-label", "rough": "Rough-label"}
_ARTEFACT_FOLDER = "artifacts"
_OTHER_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".h5", ".hdf5", ".zarr", ".npy", ".png", ".jpg", ".ims", ".czi", ".lif", ".nd2")
_SPLITS = {"train": "train", "val": "test"}
_EDGE_CLASS = "edge"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this converter."""
    parser.add_argument("sources", nargs="+", metavar="[VARIANT=]SOURCE",
                        help="folder of a brain (with train/ and perhaps val/), or a folder of such folders; dlmbmap=FOLDER or "
                             "trailmap=FOLDER sets the variant of one brain")
    parser.add_argument("--label", choices=sorted(_LABEL_FOLDERS),
                        help="which label (default: fine for train and rough for val as D-LMBmap has it, or the only one there)")
    parser.add_argument("--spacing", type=parse_spacing, metavar="Z,Y,X",
                        help="voxel size in micrometres where the TIFF does not state it; D-LMBmap's Stanford brains: 3,4.0625,4.0625")
    parser.add_argument("--edge", choices=("ignore", "axon", "background", "class"), default="ignore",
                        help="what TRAILMAP's axon edge becomes (default: %(default)s, since its grey value is ambiguous)")
    parser.add_argument("--ignore-value", type=int, metavar="V", help="a further label value that means unlabelled")
    parser.add_argument("--match-to", metavar="BRAIN",
                        help="another brain, labelled or not: trainers with AxonAugment match patches to the intensities of its cubes")
    parser.add_argument("--augment", type=int, metavar="N",
                        help="write N random crops of each cube, its histogram-matched and its mixed copy instead of the cubes, as "
                             "D-LMBmap does; not needed for trainers with AxonAugment")
    parser.add_argument("--augment-size", type=int, default=128, metavar="VOXELS", help="length of those crops (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what --augment draws (default: %(default)s)")


def dataset_info(arguments: argparse.Namespace) -> DatasetInfo:
    """Labels and settings of the dataset that `cases` gives."""
    brains = _find_brains(arguments)
    sparse = any(brain.variant == "trailmap" for brain in brains)
    labels = {"background": 0, "axon": 1}
    if sparse and arguments.edge == "class":
        labels[_EDGE_CLASS] = len(labels)
    if sparse or arguments.ignore_value is not None:
        labels[IGNORE] = len(labels)
    return DatasetInfo(
        name=arguments.name,
        channel_names=("lightsheet",),
        labels=labels,
        file_ending=".tif",
        licence="that of the source cubes (D-LMBmap: CC BY 4.0, TRAILMAP: MIT)",
        reference="D-LMBmap, github.com/lmbneuron/D-LMBmap; TRAILMAP, github.com/AlbertPun/TRAILMAP",
        converter="axon",
        settings={"label": arguments.label, "edge": arguments.edge, "spacing": arguments.spacing, "ignore_value": arguments.ignore_value,
                  **_augmentation_settings(arguments)},
        sources=tuple(str(brain.folder) for brain in brains),
        histogram_references=_reference_cubes(arguments),
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The cubes of all brains, or crops of them; pairs are checked before the first case is given.

    Raises:
        FileNotFoundError: a cube without its label, or no cube at all.
        ValueError: a number given twice, or no voxel size.
    """
    cubes = _source_cases(arguments)
    if arguments.augment is None:
        return cubes
    options = OfflineAugmentation(arguments.augment, arguments.augment_size, arguments.seed, _reference_cubes(arguments))
    return augmented_cases(cubes, dataset_info(arguments), options)


def _source_cases(arguments: argparse.Namespace) -> Iterator[Case]:
    labels = dataset_info(arguments).labels
    cubes = [cube for brain in _find_brains(arguments) for cube in _find_cubes(brain, arguments.label)]
    if not any(cube.part == "train" and cube.label is not None for cube in cubes):
        raise FileNotFoundError(f"found no training cube with a label in {', '.join(arguments.sources)}; expected train/volumes (or "
                                "train/cropped-cubes) with volume-NNN.tiff, and Fine-label or Rough-label beside it")
    for cube in cubes:
        image = open_volume(cube.image)
        if image.dtype.kind != "u" or image.dtype.itemsize > 2:
            raise ValueError(f"{cube.image} holds {image.dtype} voxels; axon cubes are uint8 or uint16: convert it without rescaling")
        yield Case(
            identifier=cube.identifier,
            channels=(image,),
            label=empty_label(image) if cube.label is None else _open_label(cube),
            spacing=chosen_spacing(image, arguments.spacing, f"brain {cube.brain.name}"),
            group=f"{cube.brain.name}/{cube.name}",
            split=_SPLITS[cube.part],
            label_values={0: 0} if cube.label is None else _label_values(cube.brain.variant, labels, arguments),
            notes={"brain": cube.brain.name, "cube": cube.name, "artefact": cube.label is None, "label_kind": cube.label_kind},
        )


def _augmentation_settings(arguments: argparse.Namespace) -> dict[str, object]:
    """What shapes the files; a plain dataset stays the same whatever brain its trainers match to."""
    if arguments.augment is None:
        return {}
    return {"augment": arguments.augment, "augment_size": arguments.augment_size, "seed": arguments.seed, "match_to": arguments.match_to}


def _reference_cubes(arguments: argparse.Namespace) -> tuple[Case, ...]:
    """Images of the brain to match to; labels are not looked for."""
    if arguments.match_to is None:
        return ()
    found = []
    for brain in _find_brains(argparse.Namespace(sources=[arguments.match_to], variant=arguments.variant)):
        for part in _SPLITS:
            folder = brain.folder / part
            for images, artefact in ((_one_of(folder, _IMAGE_FOLDERS), False), (folder / _ARTEFACT_FOLDER, True)):
                for number, path in _by_number(images, "volumes").items():
                    cube = _Cube(brain, part, number, path, None if artefact else path, None)
                    found.append(Case(cube.identifier, (open_volume(path),), None, (1.0, 1.0, 1.0), brain.name, "test",
                                      notes={"artefact": artefact}))
    return tuple(found)


@dataclass(frozen=True)
class _Brain:
    folder: Path
    name: str
    variant: str


@dataclass(frozen=True)
class _Cube:
    brain: _Brain
    part: str  # train or val
    number: int
    image: Path
    label: Path | None  # None for an artefact cube
    label_kind: str | None

    @property
    def name(self) -> str:
        parts = ["val"] if self.part == "val" else []
        return "_".join([*parts, *(["artifact"] if self.label is None else []), f"{self.number:03d}"])

    @property
    def identifier(self) -> str:
        return f"{self.brain.name}_{self.name}"


def _find_brains(arguments: argparse.Namespace) -> list[_Brain]:
    brains = []
    for source in arguments.sources:
        variant, equals, path = source.partition("=")
        if not equals or "/" in variant or Path(source).exists():
            variant, path = arguments.variant, source
        if variant not in VARIANTS:
            raise ValueError(f"variant {variant!r} of {source} is unknown; choose one of {', '.join(VARIANTS)}")
        folder = Path(path).absolute()  # not resolved: a link's own name is the brain's name
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {path}; expected a brain with train/volumes and train/Fine-label in it")
        found = [folder] if _is_brain(folder) else sorted(child for child in folder.iterdir() if child.is_dir() and _is_brain(child))
        if not found:
            raise FileNotFoundError(f"{folder} holds no brain; expected {folder}/train/volumes (or train/cropped-cubes) with "
                                    "volume-NNN.tiff, and Fine-label or Rough-label beside it")
        brains += [_Brain(brain, _identifier(brain.name), variant) for brain in found]
    by_name: dict[str, Path] = {}
    for brain in brains:
        other = by_name.setdefault(brain.name.casefold(), brain.folder)
        if other != brain.folder:
            raise ValueError(f"{other} and {brain.folder} would both be brain {brain.name!r}; rename one folder")
        if sum(b.folder == brain.folder for b in brains) > 1:
            raise ValueError(f"{brain.folder} is given twice; name it once")
    return brains


def _is_brain(folder: Path) -> bool:
    return any((folder / part / images).is_dir() for part in _SPLITS for images in (*_IMAGE_FOLDERS, _ARTEFACT_FOLDER))


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "brain"


def _find_cubes(brain: _Brain, wanted_label: str | None) -> list[_Cube]:
    cubes = []
    for part in _SPLITS:
        folder = brain.folder / part
        if not folder.is_dir():
            continue
        _check_known_folders(folder)
        image_folder = _one_of(folder, _IMAGE_FOLDERS)
        images = _by_number(image_folder, "volumes")
        if images or any((folder / name).is_dir() for name in _LABEL_FOLDERS.values()):
            kind, labels = _labels(folder, part, wanted_label)
            _check_paired(images, labels, image_folder, folder / _LABEL_FOLDERS[kind])
            cubes += [_Cube(brain, part, number, path, labels[number], kind) for number, path in images.items()]
        artefacts = _by_number(folder / _ARTEFACT_FOLDER, "artefact cubes")
        cubes += [_Cube(brain, part, number, path, None, None) for number, path in artefacts.items()]
    if not cubes:
        raise FileNotFoundError(f"the folders of {brain.folder} are empty; expected files such as train/volumes/volume-001.tiff")
    return cubes


def _check_known_folders(folder: Path) -> None:
    """A misspelt folder would otherwise vanish without a word."""
    known = (*_IMAGE_FOLDERS, *_LABEL_FOLDERS.values(), _ARTEFACT_FOLDER)
    for child in sorted(folder.iterdir()):
        if child.is_dir() and child.name not in known and any(_is_tiff(path) for path in child.iterdir()):
            raise ValueError(f"folder {child} holds TIFFs, but is none of {', '.join(known)}; rename it or move it away")


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in TIFF_SUFFIXES and not path.name.startswith(".")


def _one_of(folder: Path, names: tuple[str, ...]) -> Path:
    present = [folder / name for name in names if (folder / name).is_dir()]
    if len(present) > 1:
        raise ValueError(f"{folder} holds both {present[0].name} and {present[1].name}; expected one of them")
    return present[0] if present else folder / names[0]


def _labels(folder: Path, part: str, wanted: str | None) -> tuple[str, dict[int, Path]]:
    present = [kind for kind, name in _LABEL_FOLDERS.items() if (folder / name).is_dir()]
    usual = "fine" if part == "train" else "rough"
    kind = wanted or (usual if usual in present or not present else present[0])
    if kind not in present:
        raise FileNotFoundError(f"no folder {folder / _LABEL_FOLDERS[kind]} for the labels; found "
                                f"{', '.join(_LABEL_FOLDERS[k] for k in present) or 'no label folder'} (choose with --label)")
    return kind, _by_number(folder / _LABEL_FOLDERS[kind], "labels")


def _by_number(folder: Path, what: str) -> dict[int, Path]:
    """TIFF files and slice folders by the last number of their names."""
    by_number: dict[int, Path] = {}
    if not folder.is_dir():
        return by_number
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(_OTHER_VOLUMES):
            raise ValueError(f"{path} is no TIFF; this layout holds TIFF cubes only: convert it or move it away")
        if path.name.startswith(".") or not (path.is_dir() or _is_tiff(path)):
            continue
        number = _cube_number(path.name if path.is_dir() else path.stem)
        if number is None:
            raise ValueError(f"{path} has no number in its name; expected names such as volume-001.tiff")
        if number in by_number:
            raise ValueError(f"two {what} for number {number} in {folder}: {by_number[number].name} and {path.name}; keep one")
        by_number[number] = path
    return by_number


def _cube_number(stem: str) -> int | None:
    """The number behind volume- or label-, also where something follows it, else the last one."""
    named = re.match(r"(?:volume|label)[-_ ]?(\d+)", stem, re.IGNORECASE)
    return int(named.group(1)) if named else last_number(stem)


def _check_paired(images: dict[int, Path], labels: dict[int, Path], image_folder: Path, label_folder: Path) -> None:
    for number, path in images.items():
        if number not in labels:
            raise FileNotFoundError(f"no label for {path.name!r} in {label_folder}; expected 'label-{number:03d}.tiff'")
    for number, path in labels.items():
        if number not in images:
            raise FileNotFoundError(f"no volume for label {path.name!r} of {label_folder}; expected a 'volume-{number:03d}.tiff' in "
                                    f"{image_folder}")


def _open_label(cube: _Cube) -> Volume:
    label = open_volume(cube.label)
    if cube.image.is_dir() and cube.label.is_dir():
        first, other = (last_number(slice_files(folder)[0].stem) for folder in (cube.image, cube.label))
        if abs(first - other) > 1:  # one program counts from 0, another from 1
            raise ValueError(f"the slices of {cube.label} begin with {other}, those of {cube.image} with {first}; expected the same planes")
    return label


def _label_values(variant: str, labels: dict[str, int], arguments: argparse.Namespace) -> dict[int, int]:
    if variant == "dlmbmap":
        values = {0: 0, 1: labels["axon"], 255: labels["axon"]}
    else:
        edge = _EDGE_CLASS if arguments.edge == "class" else arguments.edge
        values = {0: labels[IGNORE], 1: 0, 2: labels["axon"], 3: 0, 4: labels[edge]}
    if arguments.ignore_value is not None:
        values[arguments.ignore_value] = labels[IGNORE]
    return values
