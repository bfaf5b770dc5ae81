"""Predictions measured against their references: scores, tables and the report in a folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_neuro.evaluate.fields import measures_for, without_surfaces
from nnunet_neuro.evaluate.label_names import LabelNames, chosen_classes, find_label_names, instance_names, with_regions
from nnunet_neuro.evaluate.pairing import Pair, Paired, holds_slices, is_volume, pair_cases, pair_folds, pair_volumes
from nnunet_neuro.evaluate.scores import CaseScores, Evaluation
from nnunet_neuro.evaluate.scoring import CaseTask, score_cases
from nnunet_neuro.evaluate.sources import known_spacing
from nnunet_neuro.evaluate.writing import check_folder, scores_csv, scores_json, write_together
from nnunet_neuro.volumes import describe_region

__all__ = ["FORMATS", "CaseScores", "Choice", "Evaluation", "evaluate_folders", "scores_csv", "scores_json", "write_together"]

FORMATS = ("json", "csv", "html")
# of what is free, for a run that is not told
_SHARE_OF_MEMORY = 0.6
_NAMED = 5


@dataclass(frozen=True)
class Choice:
    """What is measured, and with what.

    Attributes:
        measures: families and measures by name; none for those of `field_of_use`.
        field_of_use: a key of `fields.FIELDS`; None for the usual measures.
        classes: names to measure; none for all.
        regions: name to classes or labels, measured together as one class.
        instances: the files hold ids of objects, not labels.
        workers: processes, one case each.
        memory: bytes for all workers together; a larger case goes by blocks. None for 60 % of what is free.
        block: (z, y, x) of blocks, for every case; None chooses by the memory.

    Raises:
        ValueError: what cannot be.
    """

    measures: tuple[str, ...] = ()
    field_of_use: str | None = None
    classes: tuple[str, ...] = ()
    regions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    instances: bool = False
    workers: int = 1
    memory: int | None = None
    block: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"{self.workers} workers were asked for; expected 1 or more")
        if self.instances and (self.classes or self.regions):
            raise ValueError("ids of objects have no classes; leave out --classes and --regions, or --instances")


_EVERYTHING = Choice()


def evaluate_folders(
    predictions: str | Path,
    references: str | Path | None = None,
    *,
    out: str | Path | None = None,
    images: str | Path | None = None,
    training: str | Path | None = None,
    dataset_json: str | Path | None = None,
    tolerance: float | None = None,
    only_predicted: bool = False,
    probabilities: str | Path | bool | None = None,
    choice: Choice = _EVERYTHING,
    slices: bool = False,
    missing_are_zero: bool = False,
    formats: Iterable[str] = FORMATS,
    progress: bool = True,
) -> Evaluation:
    """Measure every prediction against the reference of the same name.

    All headers are checked before the first voxel is read. One case per worker is in memory at a time, or a block of it.

    Args:
        predictions: folder of label volumes, for example of nnUNetv2_predict; or one volume of any format that is read here; or an
            nnU-Net results folder TRAINER__PLANS__CONFIGURATION, whose validation cases are measured.
        references: folder of label volumes, for example labelsTs; or one volume; None for a results folder, which tells.
        out: folder for scores.json, scores.csv and report.html; None writes nothing.
        images: nnU-Net folder of raw images `CASE_0000.tif`, or the raw volume, shown in the report.
        training: nnU-Net results folder with `fold_*`, whose training curves the report shows.
        dataset_json: names of the labels; None looks beside the predictions and above the references.
        tolerance: length in the unit of the voxel size, for the tolerant measures; None for twice the smallest edge of a voxel.
        only_predicted: leave out references without prediction instead of raising.
        probabilities: folder of the probabilities of the model, or the volume of them; True for those in a results folder.
        choice: what is measured, and with what.
        slices: `predictions` and `references` are folders of slices of one volume each, and not of cases.
        missing_are_zero: chunks that are not there in Zarr, N5, HDF5 and precomputed labels are background; they are refused otherwise.
        formats: some of `FORMATS`, what is written.
        progress: show progress bars on stderr.

    Returns:
        The scores.

    Raises:
        FileNotFoundError, ValueError: bad input, see `pairing`; nothing is written then.
    """
    from nnunet_neuro.evaluate.training_log import read_training

    _check_options(tolerance, out, formats)
    measured = measures_for(choice.measures, field=choice.field_of_use, probabilities=probabilities is not None)
    paired = _paired(predictions, references, slices=slices, images=images, only_predicted=only_predicted, probabilities=probabilities,
                     missing_are_zero=missing_are_zero)
    names = _names(paired, dataset_json, choice)
    unasked: dict[str, str] = {}
    if names.ignore is not None and not choice.measures and choice.field_of_use is None:
        measured, unasked = without_surfaces(measured)
    curves = None if training is None else read_training(training)
    memory = (_free_memory() if choice.memory is None else choice.memory) // min(choice.workers, len(paired.pairs))
    task = CaseTask(names, tuple(measured), tolerance, memory, choice.block, progress and choice.workers == 1)
    cases = score_cases(paired.pairs, task, workers=choice.workers, progress=progress)
    left_out = unasked | {name: reason for case in reversed(cases) for name, reason in case.left_out.items()}
    measured = {name: one for name, one in measured.items() if name not in left_out}
    evaluation = Evaluation(
        paired.predictions, paired.references, names, tolerance, _with_equal_tables(cases, measured), paired.left_out,
        measured=measured, left_out_measures=left_out,
        field_of_use=choice.field_of_use, warnings=[*_empty_references(cases, names), *_unknown_lengths(paired.pairs), *_in_part(cases)])
    if out is not None:
        evaluation.files.extend(write_together(Path(out), _texts(evaluation, curves, formats, progress)))
    return evaluation


def _check_options(tolerance: float | None, out: str | Path | None, formats: Iterable[str]) -> None:
    if tolerance is not None and (isinstance(tolerance, bool) or not 0 <= tolerance < math.inf):
        raise ValueError(f"tolerance is {tolerance}; expected a length in the unit of the voxel size, 0 or more")
    if out is not None:
        check_folder(Path(out))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"there is no format {unknown[0]!r}; expected some of {', '.join(FORMATS)}")


def _paired(predictions: str | Path, references: str | Path | None, *, slices: bool, images: str | Path | None, only_predicted: bool,
            probabilities: str | Path | bool | None, missing_are_zero: bool) -> Paired:
    if references is None:
        if is_volume(predictions) or probabilities not in (None, True):
            raise ValueError(f"{predictions} has no references; give them as the second argument (only an nnU-Net results folder says "
                             "itself where they are, and holds its probabilities)")
        if Path(predictions).is_dir() and not any(Path(predictions).glob("fold_*")):
            raise ValueError(f"{predictions} has no fold_* and no references were given; give the folder of references as the second "
                             "argument (only an nnU-Net results folder DatasetNNN_NAME/TRAINER__PLANS__CONFIGURATION says itself where "
                             "they are)")
        return pair_folds(Path(predictions), images=_path(images), with_probabilities=probabilities is True)
    if probabilities is True:
        raise ValueError("--probabilities needs a folder here; give the one with CASE.npz")
    if slices or is_volume(predictions) or is_volume(references):
        if not slices:
            _refuse_folder_of_cases(predictions, references)
        return pair_volumes(predictions, references, image=images, probabilities=probabilities, missing_are_zero=missing_are_zero)
    return pair_cases(Path(predictions), Path(references), images=_path(images), only_predicted=only_predicted,
                      probabilities=_path(probabilities), missing_are_zero=missing_are_zero)


def _refuse_folder_of_cases(*places: str | Path) -> None:
    """A folder beside one volume holds its slices, so a file that is no slice shows that it holds cases."""
    for place, other in (places, places[::-1]):
        if not is_volume(place) and Path(place).is_dir() and is_volume(other) and not holds_slices(Path(place)):
            raise ValueError(f"{place} is a folder without slices, but {other} is one volume; expected two folders of cases, or two "
                             "volumes: name the volume in the folder")


def _names(paired: Paired, dataset_json: str | Path | None, choice: Choice) -> LabelNames:
    if choice.instances:
        return instance_names(paired.references)
    names = find_label_names(paired.label_files, _path(dataset_json))
    return chosen_classes(with_regions(names, choice.regions), choice.classes)


def _with_equal_tables(cases: Sequence[CaseScores], measured: Iterable[str]) -> list[CaseScores]:
    """The cases with the measures that all of them have, so that no mean or sum is of fewer cases than another."""
    equal = []
    for case in cases:
        counts = {name: {key: number for key, number in found.items() if all(key in other.counts[name] for other in cases)}
                  for name, found in case.counts.items()}
        equal.append(replace(case, counts=counts, values={name: {key: found[key] for key in measured}
                                                          for name, found in case.values.items()}))
    return equal


def _texts(evaluation: Evaluation, curves: dict | None, formats: Iterable[str], progress: bool) -> dict[str, str]:
    texts = {}
    if "json" in formats:
        texts["scores.json"] = scores_json(evaluation)
    if "csv" in formats:
        texts["scores.csv"] = scores_csv(evaluation)
    if "html" in formats:
        from nnunet_neuro.evaluate.report import report_page

        texts["report.html"] = report_page(_drawable(evaluation), curves=curves, progress=progress)
    return texts


def _drawable(evaluation: Evaluation) -> Evaluation:
    """The evaluation with every case that was too large to be read as a whole cut to its fullest block."""
    return replace(evaluation, cases=[case if case.fullest is None else replace(case, pair=_cut(case)) for case in evaluation.cases])


def _cut(case: CaseScores) -> Pair:
    pair = case.pair
    region = case.fullest[-len(pair.reference.shape):]
    return replace(pair, prediction=pair.prediction.crop(region), reference=pair.reference.crop(region),
                   image=pair.image and pair.image.crop(region))


def _empty_references(cases: Sequence[CaseScores], names: LabelNames) -> list[str]:
    """A sentence per class that some reference lacks."""
    found = []
    for name in names.classes:
        empty = [case.pair.case for case in cases
                 if case.counts[name]["true_positive"] + case.counts[name]["false_negative"] == 0]
        if empty:
            found.append(f"no annotated voxel of {name} in the reference of {_some(empty)}: what is predicted there is wrong, and without "
                         "a prediction most measures are undefined")
    return found


def _unknown_lengths(pairs: Sequence[Pair]) -> list[str]:
    unknown = [pair.case for pair in pairs if known_spacing(pair) is None]
    return [f"the voxel size of {_some(unknown)} is not known: lengths, and the tolerance, are in voxels there"] if unknown else []


def _in_part(cases: Sequence[CaseScores]) -> list[str]:
    return [f"{case.pair.case} was measured in {case.blocks} blocks; the report draws {describe_region(case.fullest)} (z, y, x) of it"
            for case in cases if case.fullest is not None]


def _some(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - _NAMED} more cases" if len(cases) > _NAMED else ""
    return ", ".join(cases[:_NAMED]) + more


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available * _SHARE_OF_MEMORY)
