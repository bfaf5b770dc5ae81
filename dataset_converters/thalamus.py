"""Thalamus masks on T1 and diffusion maps of the HCP, or any set of NIfTI volumes with a mask per subject.

The layout of the thalamus segmentation benchmark, below SOURCE, SOURCE/HCP_processed_data or SOURCE/Data/HCP_processed_data:

    100307/T1w_acpc_dc_restore_1.25.nii.gz                                       T1
    100307/diffusion/{evalue1,FA,RD,MD}.nii.gz                                   evalue1, FA, RD, MD
    100307/STAPLE/STAPLE_th0.5_thalamus_1.25.nii.gz                              --label staple: 10 left, 49 right, or 1
    100307/FreeSurfer/aparc+aseg_1.25_nearest.nii.gz                             --label freesurfer: 10 left, 49 right
    100307/FSL/T1_first_all_fast_firstseg_1.25_nearest.nii.gz                    --label fsl: 10 left, 49 right
    100307/QuickNAT/segmentation_acpc_dc_restore_1.25_nearest.nii.gz             --label quicknat: 7 left, 25 right
    100307/manual/manual.nii.gz                                                  --label manual: 10 left, 49 right, or 1
    ../{training,fine_tuning,testing}_subjects.txt                               the lists (963, 40 and 20 subjects)

Channels are --channels, in any combination and order. The benchmark's 14:

    evalue1,FA,RD,MD,T1   evalue1,FA,RD,MD   evalue1,T1 (its final model)   FA,T1   MD,T1   FA,evalue1   FA,RD   FA,MD   RD,MD
    T1   FA   MD   RD   evalue1

Every subject is a group. Subjects of the testing list become test cases, with a label where there is one; those of no list stay out.

The benchmark trains on STAPLE labels and fine-tunes on manual ones: two datasets with the plans of the first.

    nnneuro_convert thalamus SOURCE -d 704
    nnneuro_convert thalamus SOURCE -d 705 --name ThalamusManual --variant fine-tuning
    nnUNetv2_plan_and_preprocess -d 704 -c 3d_fullres
    nnUNetv2_train 704 3d_fullres 0
    nnUNetv2_extract_fingerprint -d 705
    nnUNetv2_move_plans_between_datasets -s 704 -t 705 -sp nnUNetPlans -tp nnUNetPlansThalamus
    cp $nnUNet_raw/Dataset705_ThalamusManual/{dataset,splits_final}.json $nnUNet_preprocessed/Dataset705_ThalamusManual/
    nnUNetv2_preprocess -d 705 -plans_name nnUNetPlansThalamus -c 3d_fullres
    nnUNetv2_train 705 3d_fullres 0 -p nnUNetPlansThalamus -pretrained_weights \\
        $nnUNet_results/Dataset704_Thalamus/nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth

The copy is needed because nnU-Net copies both files only where it plans. With left and right as classes, train with a trainer that does
not mirror, such as nnUNetTrainerNoMirroring.

Other data: --layout names the files of each channel, --mask the label, --labels its codes.

    nnneuro_convert thalamus STUDY --layout 'T1={subject}/anat/*T1w.nii.gz' 'FA={subject}/dwi/FA.nii.gz' \\
        --mask '{subject}/seg.nii.gz' --labels 10=thalamus_left,49=thalamus_right --other background
    nnneuro_convert thalamus FLAT --layout 'T1=imagesTr/{subject}.nii.gz' --mask 'labelsTr/{subject}.nii.gz' --labels 1=anterior,2=posterior
    nnneuro_convert thalamus STUDY --layout 'FLAIR,T1,T2=images/{subject}.nii.gz' ...          channels along the fourth axis of one file
    nnneuro_convert thalamus BIDS --bids --channels T1w,FA --mask desc-aseg_dseg --label freesurfer

`{subject}` (and `{session}`) stand for a name, `*` for part of one, `**/` for folders. With --bids a channel or mask is the end of a file
name: a suffix with any entities before it (acq-mprage_T1w), or the value of `param` (FA). Sessions of a subject stay in one group.

Differs from the benchmark: orientation, affine and grid of each file are kept instead of a fixed 145 x 174 x 145; volumes are whole
instead of drawn patches; the 20 % of validation subjects come from a seed (the code that parted the benchmark's was never published);
the benchmark's normalisation is an option, and a constant volume becomes 0 there instead of a division by zero.

Licence: that of the images; the HCP's open access data use terms for the benchmark, which states none of its own.
Citation: Pinheiro et al., Thalamus segmentation using deep learning with diffusion MRI data: an open benchmark, Applied Sciences 2023, 13,
5284; Van Essen et al., The WU-Minn Human Connectome Project, NeuroImage 2013.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_neuro.label_maps import whole_numbers
from nnunet_neuro.raw_dataset import IGNORE, Case, DatasetInfo
from nnunet_neuro.subjects import Scan, check_disjoint, expected_file, find_bids_scans, find_scans, held_out, read_subjects
from nnunet_neuro.volumes import Volume, derived, open_channels, open_volume
from nnunet_neuro.volumes.volume import Region

DEFAULT_ID = 704
DEFAULT_NAME = "Thalamus"

VARIANTS = {
    "training": "subjects of the training list, or all subjects where there is no list; label staple unless --label says otherwise",
    "fine-tuning": "subjects of the fine-tuning list; label manual unless --label says otherwise; give it its own -d and --name",
}

_BENCHMARK_CHANNELS = {
    "evalue1": "{subject}/diffusion/evalue1.nii.gz",
    "FA": "{subject}/diffusion/FA.nii.gz",
    "RD": "{subject}/diffusion/RD.nii.gz",
    "MD": "{subject}/diffusion/MD.nii.gz",
    "T1": "{subject}/T1w_acpc_dc_restore_1.25.nii.gz",
}
_BENCHMARK_FOLDERS = (".", "HCP_processed_data", "Data/HCP_processed_data")
_LISTS = {"training": "training_subjects.txt", "fine-tuning": "fine_tuning_subjects.txt", "testing": "testing_subjects.txt"}
_PARTS = (*_LISTS, "validation")
_BENCHMARK_VALIDATION = 0.2
_SPIKES = 99.98  # percentile
_MASK = "mask"


@dataclass(frozen=True)
class _Rater:
    """One of the benchmark's masks.

    Attributes:
        file: pattern of its place.
        left, right: codes of the thalamus.
        whole: code of a mask that knows no sides, or None.
        only_thalamus: whether another code in the file is an error and not another structure.
    """

    file: str
    left: int
    right: int
    whole: int | None = None
    only_thalamus: bool = False


_RATERS = {
    "staple": _Rater("{subject}/STAPLE/STAPLE_th0.5_thalamus_1.25.nii.gz", 10, 49, whole=1, only_thalamus=True),
    "freesurfer": _Rater("{subject}/FreeSurfer/aparc+aseg_1.25_nearest.nii.gz", 10, 49),
    "fsl": _Rater("{subject}/FSL/T1_first_all_fast_firstseg_1.25_nearest.nii.gz", 10, 49),
    "quicknat": _Rater("{subject}/QuickNAT/segmentation_acpc_dc_restore_1.25_nearest.nii.gz", 7, 25),
    "manual": _Rater("{subject}/manual/manual.nii.gz", 10, 49, whole=1, only_thalamus=True),
}
_USUAL_RATER = {"training": "staple", "fine-tuning": "manual"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this converter."""
    parser.add_argument("source", type=Path, help="the benchmark's folder, or the one that --layout or --bids describes")
    parser.add_argument("--channels", type=_names, metavar="NAME,NAME",
                        help="which channels, in this order (default: evalue1,FA,RD,MD,T1, all of --layout, or T1w for --bids)")
    parser.add_argument("--label", choices=sorted(_RATERS), help="whose mask, and so which codes (default: by the variant)")
    parser.add_argument("--sides", choices=("merged", "separate"), default="merged",
                        help="one class thalamus, or thalamus_left and thalamus_right (default: %(default)s)")
    parser.add_argument("--normalisation", choices=("nnunet", "benchmark"), default="nnunet",
                        help="nnU-Net's own from the channel's name (z-score), or the benchmark's: NaN becomes 0, clip at the 99.98 "
                             "percentile, range to [0, 1], volume by volume, which nnU-Net then leaves alone (default: %(default)s)")
    parser.add_argument("--nan-as-zero", action="store_true", help="accept images with NaN, which becomes 0")
    parser.add_argument("--subjects", nargs="+", type=_subject_list, default=[], metavar="PART=FILE",
                        help=f"lists of subjects, one a line, for {', '.join(_PARTS)} (default: those of the benchmark, where they are)")
    parser.add_argument("--validation", type=_fraction, metavar="F",
                        help="fraction of the subjects in one fixed validation part; 0 for five folds (default: 0.2 where there is a list, "
                             "else 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the validation part (default: %(default)s)")
    parser.add_argument("--skip-incomplete", action="store_true", help="leave out subjects that lack a channel or mask, and list them")
    other = parser.add_argument_group("other data than the benchmark's")
    other.add_argument("--layout", nargs="+", type=_assignment, default=[], metavar="NAME=PATTERN", help="files of each channel; see above")
    other.add_argument("--bids", action="store_true", help="a BIDS folder; --layout and --mask then are ends of file names")
    other.add_argument("--mask", metavar="PATTERN", help="files of the label (default for --bids: dseg)")
    other.add_argument("--labels", type=_codes, metavar="CODE=NAME,...",
                       help="classes of the label, numbered in this order; several codes may have one name; `background` and `ignore` are "
                            "nnU-Net's")
    other.add_argument("--other", choices=("background", "error"),
                       help="further codes in the label (default: error with --labels, background in the benchmark's brain segmentations)")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of channels; expected names with commas between them, such as FA,T1")
    return names


def _assignment(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not (name and equals and pattern):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=PATTERN, such as T1={{subject}}/T1.nii.gz; SOURCE goes before --layout")
    return name, pattern


def _subject_list(text: str) -> tuple[str, Path]:
    part, equals, file = text.partition("=")
    if part not in _PARTS or not file:
        raise argparse.ArgumentTypeError(f"{text!r} is no PART=FILE with a part out of {', '.join(_PARTS)}")
    return part, Path(file)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no fraction; expected a number from 0 to below 1")
    return value


def _codes(text: str) -> tuple[tuple[int, str], ...]:
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(code.strip().isdecimal() and name.strip() for code, _, name in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is no CODE=NAME,...; expected such as 10=thalamus_left,49=thalamus_right")
    codes = tuple((int(code), name.strip()) for code, _, name in pairs)
    if len({code for code, _ in codes}) < len(codes) or dict(codes).get(0, "background") != "background":
        raise argparse.ArgumentTypeError(f"{text!r} names a code twice, or gives a name to 0, which is background")
    return codes


def dataset_info(arguments: argparse.Namespace) -> DatasetInfo:
    """Channels, labels and settings of the dataset that `cases` gives.

    Raises:
        ValueError: options that contradict each other.
    """
    study = _study(arguments)
    names = ("noNorm",) * len(study.channels) if arguments.normalisation == "benchmark" else study.channels
    return DatasetInfo(
        name=arguments.name,
        channel_names=names,
        labels=study.classes,
        file_ending=".nii.gz",
        licence="the HCP's open access data use terms (the benchmark states none of its own)" if study.benchmark else "that of the source",
        reference="Pinheiro et al., Applied Sciences 2023, 13, 5284; Van Essen et al., NeuroImage 2013" if study.benchmark
        else str(arguments.source),
        converter="thalamus",
        settings={"variant": arguments.variant, "channels": list(study.channels), "layout": dict(study.patterns),
                  "bids": arguments.bids, "codes": {str(code): name for code, name in study.codes}, "other": study.others,
                  "normalisation": arguments.normalisation, "nan_as_zero": arguments.nan_as_zero, "validation": study.validation,
                  "seed": arguments.seed},
        sources=(str(study.folder),),
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The scans of all subjects that the lists ask for; files are checked to be there before the first case is given.

    Raises:
        FileNotFoundError: no subject, or a file of one missing.
        ValueError: options or lists that contradict each other, or a file that is damaged.
    """
    study = _study(arguments)
    scans = (find_bids_scans if arguments.bids else find_scans)(study.folder, study.patterns)
    split_of = _splits(study, [scan.subject for scan in scans], arguments)
    for scan in _complete(study, scans, split_of, bids=arguments.bids, skip=arguments.skip_incomplete):
        channels = _open_images(study, scan)
        if arguments.normalisation == "benchmark":
            channels = [derived(image, _benchmark_range, np.float32) for image in channels]
        elif arguments.nan_as_zero:
            channels = [derived(image, _nan_as_zero, image.dtype) if image.dtype.kind == "f" else image for image in channels]
        yield Case(
            identifier=scan.name,
            channels=tuple(channels),
            label=_open_label(study, scan.files[_MASK]) if _MASK in scan.files else None,
            spacing=channels[0].spacing,
            group=scan.subject,
            split=split_of[scan.subject],
            label_values={0: 0, **{code: study.classes[name] for code, name in study.codes}},
            notes={"subject": scan.subject, "session": scan.session},
        )


# --- what the options ask for ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Study:
    """What the options ask for, whatever the layout.

    Attributes:
        folder: where the patterns begin.
        benchmark: whether it has the benchmark's layout.
        channels: names in order.
        patterns: file pattern of each channel (`A,B` for channels of one file) and of the mask.
        codes: code in the label, name of its class.
        others: "background" or "error" for other codes.
        some_code: whether a label without any of the codes is an error, since every brain has a thalamus.
        lists: file of each list of subjects.
        validation: fraction of the subjects in the validation part.
    """

    folder: Path
    benchmark: bool
    channels: tuple[str, ...]
    patterns: Mapping[str, str]
    codes: tuple[tuple[int, str], ...]
    others: str
    some_code: bool
    lists: Mapping[str, Path]
    validation: float

    @property
    def classes(self) -> dict[str, int]:
        """nnU-Net's labels, in the order of the codes; `ignore` last, as nnU-Net wants it."""
        names = dict.fromkeys(["background", *(name for _, name in self.codes if name != IGNORE)])
        names = [*names, *([IGNORE] if any(name == IGNORE for _, name in self.codes) else [])]
        return {name: value for value, name in enumerate(names)}


def _study(arguments: argparse.Namespace) -> _Study:
    if not arguments.source.is_dir():
        raise FileNotFoundError(f"no folder {arguments.source}; expected one with a folder for each subject, or one that --layout or "
                                "--bids describes")
    benchmark = not (arguments.layout or arguments.bids)
    folder = _benchmark_folder(arguments.source) if benchmark else arguments.source
    lists = dict(arguments.subjects)
    if benchmark and not lists:
        lists = _benchmark_lists(folder)
    channels, patterns = _patterns(arguments, benchmark)
    codes, others, some_code = _label_codes(arguments, benchmark)
    validation = arguments.validation
    if validation is None:
        validation = _BENCHMARK_VALIDATION if arguments.variant in lists and "validation" not in lists else 0.0
    return _Study(folder, benchmark, channels, patterns, codes, others, some_code, lists, validation)


def _benchmark_folder(source: Path) -> Path:
    for place in _BENCHMARK_FOLDERS:
        if any(next((source / place).glob(pattern.replace("{subject}", "*")), None) for pattern in _BENCHMARK_CHANNELS.values()):
            return source / place
    hint = "it has folders sub-*, so add --bids" if next(source.glob("sub-*"), None) else "describe another layout with --layout and --mask"
    raise FileNotFoundError(f"{source} does not have the benchmark's layout; expected SUBJECT/T1w_acpc_dc_restore_1.25.nii.gz or "
                            f"SUBJECT/diffusion/FA.nii.gz in it, in HCP_processed_data or in Data/HCP_processed_data: {hint}")


def _benchmark_lists(folder: Path) -> dict[str, Path]:
    for place in (folder, folder.absolute().parent):
        lists = {part: place / name for part, name in _LISTS.items() if (place / name).is_file()}
        if lists:
            return lists
    return {}


def _patterns(arguments: argparse.Namespace, benchmark: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the channels, and the pattern of each file."""
    if benchmark and arguments.mask:
        raise ValueError(f"--mask {arguments.mask} needs --layout or --bids; the benchmark's masks are chosen with --label")
    layout = dict(arguments.layout)
    if benchmark:
        layout = _BENCHMARK_CHANNELS
    elif not layout:
        layout = {name: name for name in arguments.channels or ("T1w",)}
    elif len(layout) < len(arguments.layout):
        raise ValueError("--layout names a channel twice; expected NAME=PATTERN once for each channel")
    if _MASK in layout:
        raise ValueError("--layout mask=... is no channel; give the label's files as --mask")
    known = [name for names in layout for name in names.split(",")]
    channels = arguments.channels or tuple(known)
    unknown = [name for name in channels if name not in known]
    if unknown or len(set(known)) < len(known):
        raise ValueError(f"--channels {','.join(channels)} asks for {', '.join(unknown) or 'a name that --layout gives twice'}; there are "
                         f"{', '.join(known)}")
    mask = _RATERS[_rater(arguments)].file if benchmark else arguments.mask or ("dseg" if arguments.bids else None)
    if mask is None:
        raise ValueError("--layout needs --mask PATTERN for the labels, such as --mask '{subject}/seg.nii.gz'")
    wanted = {names: pattern for names, pattern in layout.items() if set(names.split(",")) & set(channels)}
    return channels, {**wanted, _MASK: mask}


def _rater(arguments: argparse.Namespace) -> str:
    return arguments.label or _USUAL_RATER[arguments.variant]


def _label_codes(arguments: argparse.Namespace, benchmark: bool) -> tuple[tuple[tuple[int, str], ...], str, bool]:
    """Codes with their class names, what becomes of others, and whether one of them must be there."""
    if arguments.labels:
        if benchmark or arguments.label:
            raise ValueError("--labels is for --layout and --bids without --label; the benchmark's codes are known")
        return arguments.labels, arguments.other or "error", False
    if not benchmark and not arguments.label:
        raise ValueError("the codes of the label are not known; give them as --labels CODE=NAME,..., such as --labels 1=axon,2=soma, or "
                         f"name the program that made them as --label ({', '.join(_RATERS)})")
    rater = _RATERS[_rater(arguments)]
    if arguments.sides == "separate":
        codes = ((rater.left, "thalamus_left"), (rater.right, "thalamus_right"))
    else:
        codes = tuple((code, "thalamus") for code in (rater.left, rater.right, rater.whole) if code is not None)
    return codes, arguments.other or ("error" if rater.only_thalamus else "background"), True


# --- which subjects, and where each goes -------------------------------------------------------------------------------------------


def _splits(study: _Study, found: list[str], arguments: argparse.Namespace) -> dict[str, str]:
    """train, val or test for each subject that is wanted."""
    lists = {part: _as_found(read_subjects(file), arguments.bids) for part, file in study.lists.items()}
    check_disjoint(lists)
    listed = {subject for subjects in lists.values() for subject in subjects}
    if arguments.variant in lists:
        wanted = lists[arguments.variant]
        unlisted = sorted(set(found) - listed)
        if unlisted:
            _note_once(f"{len(unlisted)} of {len(set(found))} subjects of {study.folder} stand in no list and are left out, such as "
                       f"{unlisted[0]}")
    elif arguments.variant == "fine-tuning":
        raise FileNotFoundError(f"no list of the fine-tuning subjects; expected {_LISTS['fine-tuning']} in or above {study.folder}, or "
                                "--subjects fine-tuning=FILE")
    else:
        wanted = [subject for subject in dict.fromkeys(found) if subject not in listed]
    validation = lists.get("validation") or held_out(wanted, fraction=study.validation, seed=arguments.seed)
    return {**dict.fromkeys(wanted, "train"), **dict.fromkeys(validation, "val"), **dict.fromkeys(lists.get("testing", ()), "test")}


def _as_found(subjects: tuple[str, ...], bids: bool) -> list[str]:
    return [f"sub-{subject.removeprefix('sub-')}" if bids else subject for subject in subjects]


def _complete(study: _Study, scans: list[Scan], split_of: Mapping[str, str], *, bids: bool, skip: bool) -> list[Scan]:
    """The scans that are wanted and have all their files."""
    found = {scan.subject for scan in scans}
    problems = {subject: f"no file of subject {subject}, which the lists name, in {study.folder}" for subject in split_of
                if subject not in found}
    complete = []
    for scan in scans:
        if scan.subject not in split_of:
            continue
        optional = {_MASK} if split_of[scan.subject] == "test" else set()
        missing = [name for name in study.patterns if name not in scan.files and name not in optional]
        if missing:
            asked = study.patterns[missing[0]]
            asked = f"{scan.name}_..._{asked}.nii.gz" if bids else expected_file(asked, scan.subject, scan.session)
            problems[scan.name] = f"no {missing[0]} for {scan.name} in {study.folder}; expected {asked}"
        else:
            complete.append(scan)
    if problems and not skip:
        raise FileNotFoundError(f"{next(iter(problems.values()))} ({len(problems)} incomplete); add it, or leave such subjects out with "
                                "--skip-incomplete")
    if problems:
        _note_once(f"left out {len(problems)} incomplete: {', '.join(problems)}")
    return complete


@functools.cache
def _note_once(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


# --- voxels ------------------------------------------------------------------------------------------------------------------------


def _open_images(study: _Study, scan: Scan) -> list[Volume]:
    image_of: dict[str, Volume] = {}
    for names in study.patterns:
        if names != _MASK:
            volumes = open_channels(scan.files[names])
            if len(volumes) != len(names.split(",")):
                raise ValueError(f"{scan.files[names]} has {len(volumes)} channels; expected {len(names.split(','))} ({names}): name them "
                                 "all in --layout, with commas between them")
            image_of.update(zip(names.split(","), volumes))
    return [image_of[name] for name in study.channels]


def _open_label(study: _Study, path: Path) -> Volume:
    label = open_volume(path)
    if label.dtype.kind != "f" and study.others == "error" and not study.some_code:
        return label
    codes = tuple(code for code, _ in study.codes)
    dtype = np.int64 if label.dtype.kind == "f" else label.dtype
    return derived(label, partial(_selected_codes, codes, study.others == "background", study.some_code), dtype)


def _selected_codes(codes: tuple[int, ...], others_are_background: bool, some_code: bool, label: Volume, region: Region) -> np.ndarray:
    """The label with nothing but the codes; FSL and others save whole codes as floats."""
    values = whole_numbers(label, region) if label.dtype.kind == "f" else label.read(region)
    wanted = np.isin(values, codes)
    if some_code and values.shape == label.shape and not wanted.any():
        found = np.unique(values)
        raise ValueError(f"label {label.path} holds none of the codes {', '.join(map(str, codes))}, but {', '.join(map(str, found[:8]))}"
                         f"{'...' if len(found) > 8 else ''}; choose another --label, or --sides merged for a mask that knows no sides")
    return np.where(wanted, values, 0).astype(values.dtype, copy=False) if others_are_background else values


def _nan_as_zero(image: Volume, region: Region) -> np.ndarray:
    return _without_nan(image.read(region))


def _without_nan(voxels: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(voxels), voxels.dtype.type(0), voxels)


def _benchmark_range(image: Volume, region: Region) -> np.ndarray:
    """NaN as 0, clipped at the 99.98 percentile against spikes, then minimum and maximum of the whole volume to 0 and 1."""
    voxels = _without_nan(image.read().astype(np.float32))
    if not np.isfinite(voxels).all():
        raise ValueError(f"{image.path} holds infinite voxels, which cannot be normalised; replace them first")
    clipped = np.minimum(voxels, np.float32(np.percentile(voxels, _SPIKES)))
    low, high = clipped.min(), clipped.max()
    return ((clipped - low) / (high - low if high > low else np.float32(1)))[region]
