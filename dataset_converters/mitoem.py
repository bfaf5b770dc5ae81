"""Electron microscopy with instance ids: MitoEM's mitochondria, EManalysis' animals, or any image and id volume.

Sources, found by their folder names; several volumes become several groups of one dataset:

    EM30-R-im/im/im0000.png ... im0999.png                           MitoEM, as its archives unpack (R rat, H human); also
    EM30-R-mito-train-val-v2/mito-train-v2/seg0000.tif ... 0399      VOLUME/{im,mito-train-v2,mito-val-v2}
    EM30-R-mito-train-val-v2/mito-val-v2/seg0400.tif ... 0499
    mouseA/em_export/                                                EManalysis (PNG or TIFF slices): image,
    mouseA/mito_export_unique_id/, or *gt_export*/                   instance ids,
    mouseA/mito_export_maingroups/                                   and, where there is one, a class code for each voxel
    mouseA.yaml                                                      EManalysis' configuration: EM_PATH, LABEL_PATH, GT_PATH
    --image VOLUME --instances VOLUME [--classes VOLUME]             anything else: TIFF, slice folder, HDF5, Zarr, N5, NIfTI, ...

MitoEM's own split is kept: mito-train is the training part, mito-val the validation part of the one fold in splits_final.json, and the
planes behind the last labelled one become imagesTs without labels. Image and label slices are paired by number. The validation part
follows its training part without a gap in the same tissue, as the challenge has it, so its scores are too good for other tissue.

Volumes are cut into cases of at most --case-size, as even as possible. All cases of a volume's part are one group, so that no tissue is in
two folds. Boundaries are computed before the cut, so faces of cases make none.

Differs from EManalysis: ids are kept in 16, 32 or 64 bits as they are (it reads uint16); an instance's class is the majority of its
voxels, joined by id (it joins by position); a class code that is not expected is an error; CHUNK_SIZE, 2 planes in its own configurations,
is a unit of reading there and shapes no case here. Differs from PyTorch Connectomics' contours: see nnunet_neuro/instances.py.

Licence: that of the source; MitoEM's terms stand at mitoem.grand-challenge.org; EManalysis (the code) is MIT.
Citation: MitoEM (Wei et al., MICCAI 2020, doi 10.1007/978-3-030-59722-1_7); EManalysis, github.com/frommwonderland/EManalysis.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_neuro.blocks import tile
from nnunet_neuro.instances import boundary_label, check_ids, class_label, classes_of_instances, foreground_label
from nnunet_neuro.options import BACKGROUND, chosen_spacing, dataset_labels, parse_labels, parse_size, parse_spacing
from nnunet_neuro.raw_dataset import IGNORE, Case, DatasetInfo
from nnunet_neuro.volumes import SLICE_SUFFIXES, Volume, last_number, open_slices, open_volume, slice_files, strip_suffix

DEFAULT_ID = 706
DEFAULT_NAME = "Mitochondria"

VARIANTS = {
    "boundary": "labels 0 background, 1 interior, 2 boundary; the interiors of two objects never touch",
    "foreground": "labels 0 background, 1 object",
    "semantic": "the class of each object, from a volume of class codes (--labels)",
}

_EMANALYSIS_CLASSES = "23299=axon,23300=dendrite,22241=cell_body,22243=glia,23261=ignore"
_MITOEM_SPACING = (0.03, 0.008, 0.008)
_MITOEM_IMAGES = re.compile(r"im|EM\d+-\w+-im")
_MITOEM_LABELS = re.compile(r"mito[-_](train|val)([-_]v\d)?")
_MITOEM_ARCHIVE = re.compile(r"(EM\d+-\w+)-(im|mito)\b")
_EMANALYSIS_FOLDERS = {  # names of its configurations for mouse, rat and human
    "image": re.compile(r"(.*_)?em_export(_.*)?"),
    "instances": re.compile(r"(.*_)?(export_unique_id|gt_export)(_.*)?"),
    "classes": re.compile(r"(.*_)?export_maingroups(_.*)?"),
}
_EMANALYSIS_SECTIONS = ("SYSTEM", "AUTOENCODER", "PTC", "SSL", "MODE", "CLUSTER")  # what it does with the objects later
_EMANALYSIS_KEYS = ("EM_PATH", "LABEL_PATH", "GT_PATH", "FILE_FORMAT")
_EMANALYSIS_KEYS_WITHOUT_EFFECT = ("CHUNK_SIZE", "ROOTF", "ROOTD", "DATAINFO", "CHUNKS_PATH")  # its reading and its own outputs
_EMANALYSIS_FORMATS = {"png": (".png",), "tif": (".tif", ".tiff"), "tiff": (".tif", ".tiff")}
_CONTAINERS = (".zarr", ".n5", ".h5", ".hdf5", ".hdf", ".he5")
_DEEPEST = 3  # folders below a source that are searched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this converter."""
    parser.add_argument("sources", nargs="*", metavar="[NAME=]SOURCE",
                        help="folder in the layout of MitoEM or EManalysis (one volume, or a folder of several), or a YAML configuration "
                             "of EManalysis")
    parser.add_argument("--image", action="append", default=[], metavar="[NAME=]VOLUME",
                        help="an image volume: file, slice folder, FILE.h5/DATASET, FOLDER.zarr/ARRAY; may be repeated, with --instances")
    parser.add_argument("--instances", action="append", default=[], metavar="VOLUME", help="instance ids of the image named before")
    parser.add_argument("--classes", action="append", default=[], metavar="VOLUME",
                        help="class codes of the same voxels, for --variant semantic; as many as images, in the same order")
    parser.add_argument("--spacing", type=parse_spacing, metavar="Z,Y,X",
                        help="voxel size in micrometres where the files do not state it (default for MitoEM: 0.03,0.008,0.008)")
    parser.add_argument("--boundary-width", type=_parse_width, default="2", metavar="W",
                        help="how far the boundary reaches into an object: voxels along the finest axis, or a length such as 20nm or "
                             "0.02um; 0 is a boundary only where objects touch (default: %(default)s)")
    parser.add_argument("--boundary-planes", choices=("3d", "in-plane"), default="3d",
                        help="in-plane looks at each plane alone, for badly aligned sections; objects that touch across planes are not "
                             "separated then (default: %(default)s)")
    parser.add_argument("--labels", type=parse_labels, default=_EMANALYSIS_CLASSES, metavar="CODE=NAME,...",
                        help="class codes of --variant semantic; codes with one name become one class, `background` and `ignore` are "
                             "possible names, and instances without a code become ignore (default: EManalysis', %(default)s)")
    parser.add_argument("--keep-instances", action="store_true",
                        help="write the ids too, unchanged, into instancesTr/CASE.tif, as the analysis of segments takes them")
    parser.add_argument("--case-size", type=parse_size, default="100,1024,1024", metavar="Z,Y,X",
                        help="largest case in voxels (default: %(default)s)")
    parser.add_argument("--rgb-ids", action="store_true",
                        help="instance PNGs are colour images of packed ids, red * 65536 + green * 256 + blue, as VAST exports them")
    parser.add_argument("--no-test", action="store_true", help="leave out MitoEM's planes without labels")


def dataset_info(arguments: argparse.Namespace) -> DatasetInfo:
    """Labels and settings of the dataset that `cases` gives."""
    boundary, semantic = arguments.variant == "boundary", arguments.variant == "semantic"
    return DatasetInfo(
        name=arguments.name,
        channel_names=("EM",),
        labels=_labels(arguments),
        file_ending=".tif",
        licence="that of the source volumes (MitoEM: see mitoem.grand-challenge.org)",
        reference="MitoEM, Wei et al., MICCAI 2020, doi 10.1007/978-3-030-59722-1_7; EManalysis, github.com/frommwonderland/EManalysis",
        converter="mitoem",
        settings={
            "variant": arguments.variant,
            "boundary_width": list(arguments.boundary_width) if boundary else None,
            "boundary_planes": arguments.boundary_planes if boundary else None,
            "class_codes": {str(code): name for code, name in arguments.labels.items()} if semantic else None,
            "keep_instances": arguments.keep_instances,
            "spacing": arguments.spacing,
            "case_size": arguments.case_size,
            "rgb_ids": arguments.rgb_ids,
        },
        sources=tuple([*arguments.sources, *arguments.image]),
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The cases of all volumes; what belongs to what is checked before the first one is given.

    With the variant `semantic` the instances and class codes are read here, since the class of an object needs all of its voxels.

    Raises:
        FileNotFoundError: a volume, or one that belongs to it, is not there.
        ValueError: volumes do not fit each other, a voxel size is missing, or a class code is unknown.
    """
    opened = [part for stack in _find_stacks(arguments) for part in _open_parts(stack, arguments)]
    for part in opened:
        label, notes = _label(part, arguments)
        regions = tile(part.image.shape, arguments.case_size)
        for region in regions:
            yield Case(
                identifier=_identifier(part, region) if len(regions) > 1 else part.name.replace("/", "_"),
                channels=(part.image.crop(region),),
                label=label and label.crop(region),
                spacing=part.spacing,
                group=part.name,
                split=part.split,
                instances=part.instances.crop(region) if part.instances and arguments.keep_instances else None,
                notes={"volume": part.name, **notes},
            )


# --- options -----------------------------------------------------------------------------------------------------------------------


def _parse_width(text: str) -> tuple[float, str]:
    """A number with its unit, voxels or um."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(nm|um|µm)?", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width; expected voxels such as 2, or a length such as 20nm or 0.02um")
    number, unit = float(match.group(1)), match.group(2)
    return (number / 1000 if unit == "nm" else number), ("um" if unit else "voxels")


def _labels(arguments: argparse.Namespace) -> dict[str, int]:
    if arguments.variant == "boundary":
        return {"background": 0, "interior": 1, "boundary": 2}
    if arguments.variant == "foreground":
        return {"background": 0, "object": 1}
    return dataset_labels(list(arguments.labels.values()))


# --- finding volumes ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stack:
    """An image volume with the paths of what belongs to it, one (ids, class codes or None) per part."""

    name: str
    image: str
    parts: Mapping[str, tuple[str, str | None]]  # by split
    spacing: tuple[float, ...] | None = None  # known from the source
    test_behind: bool = False  # planes behind the last labelled one are test planes


def _find_stacks(arguments: argparse.Namespace) -> list[_Stack]:
    stacks = [stack for source in arguments.sources for stack in _stacks_of_source(*_named(source))]
    stacks += _stacks_of_options(arguments)
    if not stacks:
        raise ValueError("no source named; expected a folder, a YAML configuration of EManalysis, or --image VOLUME --instances VOLUME")
    image_of: dict[str, str] = {}
    for stack in stacks:
        other = image_of.setdefault(stack.name.casefold(), stack.image)
        if other != stack.image or sum(s.name == stack.name for s in stacks) > 1:
            raise ValueError(f"{other} and {stack.image} would both be volume {stack.name!r}; name one, as in NAME={stack.image}, and each "
                             "only once")
        if arguments.variant == "semantic" and not all(classes for _, classes in stack.parts.values()):
            raise FileNotFoundError(f"volume {stack.name} ({stack.image}) has no class codes; --variant semantic takes them from --classes "
                                    "or a folder such as mito_export_maingroups beside it: choose another variant, or leave the volume "
                                    "out")
    return stacks


def _named(text: str) -> tuple[str | None, str]:
    """`NAME=PATH` or `PATH`."""
    name, equals, path = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.-]+", name) or Path(text).exists():
        return None, text
    return name, path


def _stacks_of_options(arguments: argparse.Namespace) -> list[_Stack]:
    images, instances, classes = arguments.image, arguments.instances, arguments.classes
    if len(images) != len(instances):
        raise ValueError(f"{len(images)} --image and {len(instances)} --instances given; expected one id volume for each image")
    if classes and arguments.variant != "semantic":
        raise ValueError(f"--classes is for --variant semantic, but --variant {arguments.variant} was chosen; change one of them")
    if classes and len(classes) != len(images):
        raise ValueError(f"{len(images)} --image and {len(classes)} --classes given; expected one volume of class codes for each image")
    stacks = []
    for image, ids, codes in zip(images, instances, classes or [None] * len(images)):
        name, path = _named(image)
        stacks.append(_Stack(_clean(name or _name_of_volume(path)), path, {"train": (ids, codes)}))
    return stacks


def _name_of_volume(path: str) -> str:
    parts = Path(path).absolute().parts
    return strip_suffix(Path(next((part for part in parts if part.lower().endswith(_CONTAINERS)), parts[-1])))


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "volume"


def _stacks_of_source(name: str | None, source: str) -> list[_Stack]:
    path = Path(source).absolute()
    if path.suffix.lower() in (".yaml", ".yml"):
        return [_stack_of_configuration(_clean(name or path.stem), path)]
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {source}; expected one in the layout of MitoEM or EManalysis, or a .yaml file of EManalysis")
    folders = list(_folders(path, _DEEPEST))
    stacks = [*_mitoem_stacks(folders), *_emanalysis_stacks(folders)]
    if not stacks:
        raise FileNotFoundError(f"{path} holds neither MitoEM (im/ or EM30-R-im/ with im0000.png, mito-train-v2/ with seg0000.tif) nor an "
                                "animal of EManalysis (em_export/, mito_export_unique_id/); for volumes of other names use --image and "
                                "--instances")
    if name is not None:
        if len(stacks) > 1:
            raise ValueError(f"{path} holds {len(stacks)} volumes ({', '.join(stack.name for stack in stacks)}), which cannot all be "
                             f"called {name!r}; leave the name out")
        stacks = [replace(stacks[0], name=_clean(name))]
    return stacks


def _folders(folder: Path, deepest: int) -> Iterator[Path]:
    """The folder and those below it, but not what is in slice folders and Zarr stores."""
    yield folder
    if deepest and not folder.name.lower().endswith(_CONTAINERS) and not _is_slice_folder(folder):
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith((".", "__")):
                yield from _folders(child, deepest - 1)


def _is_slice_folder(path: str | Path) -> bool:
    folder = Path(path)
    return folder.is_dir() and any(child.suffix.lower() in SLICE_SUFFIXES and not child.name.startswith(".") for child in folder.iterdir())


def _mitoem_stacks(folders: list[Path]) -> list[_Stack]:
    images: dict[str, Path] = {}
    labels: dict[str, dict[str, Path]] = {}
    for folder in folders:
        is_label = _MITOEM_LABELS.fullmatch(folder.name)
        if not _is_slice_folder(folder) or not (is_label or _MITOEM_IMAGES.fullmatch(folder.name)):
            continue
        found, key = (labels.setdefault(_mitoem_volume(folder), {}), is_label[1]) if is_label else (images, _mitoem_volume(folder))
        if key in found:
            what = "labels" if is_label else "image"
            raise ValueError(f"{found[key]} and {folder} are both the {what} of {_mitoem_volume(folder)}; keep one of them")
        found[key] = folder
    for volume, parts in labels.items():
        if volume not in images:
            raise FileNotFoundError(f"no image slices for {next(iter(parts.values()))}; expected im0000.png and so on in a folder im/ or "
                                    f"{volume}-im/ (the padded im_pad/ does not fit the labels)")
        if "train" not in parts:
            raise FileNotFoundError(f"{parts['val']} has no mito-train folder beside it; expected both, or name the volumes with --image "
                                    "and --instances")
    for volume, image in images.items():
        if volume not in labels:
            raise FileNotFoundError(f"no labels for {image}; expected seg0000.tif and so on in a folder mito-train-v2/, of the same volume "
                                    f"{volume}")
    return [_Stack(_clean(volume), str(images[volume]), {part: (str(path), None) for part, path in sorted(labels[volume].items())},
                   _MITOEM_SPACING, test_behind=True) for volume in sorted(labels)]


def _mitoem_volume(folder: Path) -> str:
    """`EM30-R` for whatever comes from archives of that name, else the name of the folder above."""
    for name in reversed(folder.parts):
        if match := _MITOEM_ARCHIVE.match(name):
            return match[1]
    return folder.parent.name


def _emanalysis_stacks(folders: list[Path]) -> list[_Stack]:
    animals: dict[Path, dict[str, Path]] = {}
    for folder in folders:
        for what, pattern in _EMANALYSIS_FOLDERS.items():
            if pattern.fullmatch(folder.name) and _is_slice_folder(folder):
                found = animals.setdefault(folder.parent, {})
                if what in found:
                    raise ValueError(f"{found[what]} and {folder} could both be the {what}; keep one, or name the volumes with --image and "
                                     "--instances")
                found[what] = folder
    for animal, found in animals.items():
        for what, name in (("image", "em_export"), ("instances", "mito_export_unique_id")):
            if what not in found:
                raise FileNotFoundError(f"no folder of {what} slices in {animal}; expected one such as {name}/")
    return [_Stack(_clean(animal.name), str(found["image"]), {"train": (str(found["instances"]), _text(found.get("classes")))})
            for animal, found in sorted(animals.items())]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


# --- EManalysis' configuration -----------------------------------------------------------------------------------------------------


def _stack_of_configuration(name: str, file: Path) -> _Stack:
    dataset = _read_configuration(file)
    paths = {key: _configured_path(file, key, dataset.get(key)) for key in ("EM_PATH", "LABEL_PATH", "GT_PATH")}
    for key in ("EM_PATH", "LABEL_PATH"):
        if paths[key] is None:
            raise ValueError(f"{file} has no DATASET.{key}; expected the folder of {'image' if key == 'EM_PATH' else 'instance'} slices")
    wanted = str(dataset.get("FILE_FORMAT", "png")).lower().lstrip(".")
    if wanted not in _EMANALYSIS_FORMATS:
        raise ValueError(f"{file} has DATASET.FILE_FORMAT {wanted!r}; expected one of {', '.join(_EMANALYSIS_FORMATS)}")
    for key, path in paths.items():
        if path is not None and slice_files(path)[0].suffix.lower() not in _EMANALYSIS_FORMATS[wanted]:
            raise ValueError(f"{file} says DATASET.FILE_FORMAT {wanted}, but {path} ({key}) holds {slice_files(path)[0].name}; correct one")
    return _Stack(name, str(paths["EM_PATH"]), {"train": (str(paths["LABEL_PATH"]), _text(paths["GT_PATH"]))})


def _read_configuration(file: Path) -> dict:
    import yaml

    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; expected a YAML configuration of EManalysis")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML file ({str(error).splitlines()[0]}); expected a configuration of EManalysis") from error
    dataset = content.get("DATASET") if isinstance(content, dict) else None
    if not isinstance(dataset, dict):
        raise ValueError(f"{file} has no section DATASET; expected a configuration of EManalysis")
    if unknown := [key for key in content if key not in ("DATASET", *_EMANALYSIS_SECTIONS)]:
        raise ValueError(f"{file} has a section {unknown[0]}; expected DATASET and perhaps {', '.join(_EMANALYSIS_SECTIONS)}")
    known = (*_EMANALYSIS_KEYS, *_EMANALYSIS_KEYS_WITHOUT_EFFECT, "EXCLUDE_BORDER_OBJECTS")
    if unknown := [key for key in dataset if key not in known]:
        raise ValueError(f"{file} has DATASET.{unknown[0]}, which this converter does not know; expected {', '.join(known)}")
    if dataset.get("EXCLUDE_BORDER_OBJECTS"):
        raise ValueError(f"{file} asks for DATASET.EXCLUDE_BORDER_OBJECTS, but a network must learn objects at the border too; set it to "
                         "False and leave them out where segments are analysed")
    if ignored := [key for key in dataset if key in _EMANALYSIS_KEYS_WITHOUT_EFFECT]:
        _warn_once(f"{', '.join(ignored)} of {file} steer what EManalysis reads at once and writes; they shape no dataset here "
                   "(--case-size cuts the cases)")
    return dataset


def _configured_path(file: Path, key: str, value: object) -> Path | None:
    """As EManalysis takes it, from the current folder; else from the repository's, in whose configs/ the file lies."""
    if not value:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{file} has DATASET.{key} {value!r}; expected the path of a slice folder")
    places = [Path(value).absolute(), file.parent.parent / value, file.parent / value]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"no folder {value} (DATASET.{key} of {file}); looked for it in the current folder, {file.parent.parent} "
                                f"and {file.parent}")
    return found


@functools.cache
def _warn_once(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


# --- opening what was found --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Planes of a volume that are for training, validation or test."""

    name: str
    split: str
    image: Volume
    instances: Volume | None
    classes: Volume | None
    spacing: tuple[float, ...]
    first_plane: int  # of the image volume


def _open_parts(stack: _Stack, arguments: argparse.Namespace) -> Iterator[_Part]:
    image = _open(stack.image, arguments)
    spacing = chosen_spacing(image, arguments.spacing or stack.spacing, stack.name)
    labelled = 0
    for split, (ids_path, classes_path) in stack.parts.items():
        instances = check_ids(_open(ids_path, arguments, ids=True))
        first, planes = _planes_of_label(stack.image, image, ids_path, instances)
        classes = _open(classes_path, arguments) if arguments.variant == "semantic" and classes_path else None
        if classes is not None:
            _planes_of_label(stack.image, planes, classes_path, classes, first=first)
        yield _Part(f"{stack.name}/{split}", split, planes, instances, classes, spacing, first)
        labelled = max(labelled, first + instances.shape[0])
    if stack.test_behind and labelled < image.shape[0] and not arguments.no_test:
        yield _Part(f"{stack.name}/test", "test", _planes(image, labelled, image.shape[0]), None, None, spacing, labelled)


def _open(path: str, arguments: argparse.Namespace, *, ids: bool = False) -> Volume:
    volume = _open_ids(path, arguments.rgb_ids) if ids else open_volume(path)
    if len(volume.shape) != 3:
        raise ValueError(f"{path} has shape {volume.shape}; expected a volume (z, y, x): name the folder of slices, not one of them")
    return volume


def _open_ids(path: str, rgb_ids: bool) -> Volume:
    if rgb_ids:
        if not _is_slice_folder(path):
            raise ValueError(f"{path} is no folder of PNG slices, but --rgb-ids says that ids are packed in their colours; leave it out")
        return open_slices(Path(path), rgb_ids=True)
    try:
        return open_volume(path)
    except ValueError as error:
        if "a colour image" in str(error):
            raise ValueError(f"{str(error).partition('; ')[0]}; expected one id per pixel: if the ids are packed in its colours (as VAST "
                             "exports them), say --rgb-ids") from error
        raise


def _planes_of_label(image_path: str, image: Volume, label_path: str, label: Volume, *, first: int = 0) -> tuple[int, Volume]:
    """The planes of the image that the label shows, by slice numbers where both are slice folders, with the first one's index.

    Args:
        image: the whole image, or what is left of it from its plane `first` on.
    """
    begin = 0
    if _is_slice_folder(image_path) and _is_slice_folder(label_path):
        numbers, label_numbers = _slice_numbers(image_path), _slice_numbers(label_path)
        begin = label_numbers[0] - numbers[0] - first
        if begin < 0 or begin + label.shape[0] > image.shape[0]:
            raise ValueError(f"the slices of {label_path} are numbered {label_numbers[0]} to {label_numbers[1]}, those of {image_path} "
                             f"{numbers[0]} to {numbers[1]}; expected one number for one plane: copy what is missing, or renumber")
        image = _planes(image, begin, begin + label.shape[0])
    if image.shape != label.shape:
        raise ValueError(f"{label_path} has shape {label.shape}, but its image {image_path} has {image.shape}; they must be cut from the "
                         "same place")
    return first + begin, image


def _slice_numbers(folder: str) -> tuple[int, int]:
    files = slice_files(Path(folder))
    return last_number(files[0].stem), last_number(files[-1].stem)


def _planes(image: Volume, begin: int, end: int) -> Volume:
    return image if (begin, end) == (0, image.shape[0]) else image.crop((slice(begin, end), slice(None), slice(None)))


def _identifier(part: _Part, region: tuple[slice, ...]) -> str:
    """Named by its first voxel in the image volume."""
    z, y, x = (bounds.start for bounds in region)
    return f"{part.name.replace('/', '_')}_z{part.first_plane + z:04d}_y{y:04d}_x{x:04d}"


# --- labels ------------------------------------------------------------------------------------------------------------------------


def _label(part: _Part, arguments: argparse.Namespace) -> tuple[Volume | None, dict]:
    if part.instances is None:
        return None, {}
    if arguments.variant == "boundary":
        in_plane = arguments.boundary_planes == "in-plane"
        width = _width_in_micrometres(arguments.boundary_width, part.spacing, in_plane)
        return boundary_label(part.instances, spacing=part.spacing, width=width, in_plane=in_plane), {"boundary_width_um": width}
    if arguments.variant == "foreground":
        return foreground_label(part.instances), {}
    value_of = _value_of_instances(part, arguments)
    digest = hashlib.sha256(json.dumps(list(value_of.items())).encode()).hexdigest()
    # the hash stands for the class codes: it changes when they do, and then the case is written again
    return class_label(part.instances, value_of), {"classes": str(part.classes.path), "classes_sha256": digest}


def _width_in_micrometres(width: tuple[float, str], spacing: tuple[float, ...], in_plane: bool) -> float:
    number, unit = width
    return number if unit == "um" else round(number * min(spacing[in_plane:]), 9)


def _value_of_instances(part: _Part, arguments: argparse.Namespace) -> dict[int, int]:
    """Instance id -> value of its class in the dataset."""
    labels = _labels(arguments)
    ids_path, classes_path = str(part.instances.path), str(part.classes.path)
    code_of = _codes_of_instances(ids_path, classes_path, arguments.rgb_ids, _state(part.instances, part.classes))
    value_of = {}
    for identifier, code in code_of.items():
        name = arguments.labels.get(code)
        if code == 0 and name == BACKGROUND:  # an object is there, only nobody said of which class
            name = IGNORE
        if name not in labels:
            found = f"the code {code}" if code else "no code"
            advice = "name it with --labels" if code else "name one of them `ignore`, which takes instances without a code too"
            raise ValueError(f"{classes_path} gives instance {identifier} of {ids_path} {found}; expected one of "
                             f"{', '.join(str(known) for known in arguments.labels if known)}: {advice}")
        value_of[identifier] = labels[name]
    return value_of


def _state(*volumes: Volume) -> tuple:
    """Size and time of the volumes' files, which tell whether they changed."""
    files = [source.file for volume in volumes for source in volume.sources() if source.file is not None]
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@functools.lru_cache(maxsize=16)
def _codes_of_instances(ids_path: str, classes_path: str, rgb_ids: bool, state: tuple) -> dict[int, int]:
    """Instance id -> class code, remembered as long as the files stay as they were: the cases are asked for twice."""
    return classes_of_instances(_open_ids(ids_path, rgb_ids), open_volume(classes_path), progress=True)
