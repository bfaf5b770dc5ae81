"""Scores that `nnneuro_evaluate` wrote, read again and checked to be comparable."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SCORES = "scores.json"
# what a measure means; the words of its description may change
_DECLARED = ("dimension", "best", "higher_is_better", "both_empty", "prediction_empty", "reference_empty")
_SETTINGS = ("tolerance", "spacing_zyx")


@dataclass(frozen=True)
class ModelScores:
    """The scores of one model against one set of references.

    Attributes:
        model: name given by the user.
        rater: name of the references, "" where there is one set.
        path: the scores.json.
        sha256: of it.
        made_with: versions of Python and the libraries that measured.
        classes: name to label, or whatever stands for it.
        measures: name to what is declared about it.
        tolerance: every setting of a tolerance.
        settings: case to the tolerance and the voxel size it was measured with.
        cases: names, sorted.
        values: class to measure to (cases,) float64, NaN where it is undefined.
        predictions: case to hash of the prediction.
        references: case to hash of the reference.
    """

    model: str
    rater: str
    path: Path
    sha256: str
    made_with: dict[str, str]
    classes: dict[str, Any]
    measures: dict[str, dict[str, Any]]
    tolerance: dict[str, Any]
    settings: dict[str, dict[str, Any]]
    cases: list[str]
    values: dict[str, dict[str, np.ndarray]]
    predictions: dict[str, str]
    references: dict[str, str]

    @property
    def name(self) -> str:
        """Model and rater as the user wrote them."""
        return f"{self.model}/{self.rater}" if self.rater else self.model


def read_models(words: Sequence[str]) -> list[ModelScores]:
    """Read `NAME=PATH` or `NAME/RATER=PATH`, and refuse what cannot be compared.

    Args:
        words: PATH is a scores.json, the folder it is in, or a folder of predictions with `evaluation/scores.json`.

    Returns:
        In the order given; of several raters, every model has all of them.

    Raises:
        FileNotFoundError: no scores.json there.
        ValueError: no NAME, one model only, or scores that differ in cases, references, tolerance, labels or definition of a measure.
    """
    models = [_read(word) for word in words]
    named: dict[str, ModelScores] = {}
    for one in models:
        if one.name in named:
            raise ValueError(f"{one.name} is given twice, as {named[one.name].path} and {one.path}; expected one name for each")
        named[one.name] = one
    if len({one.model for one in models}) < 2:
        raise ValueError(f"only the model {models[0].model} is given; expected two or more, as NAME=FOLDER NAME=FOLDER")
    _refuse_missing_raters(models)
    for one in models[1:]:
        _refuse_incomparable(one, models[0])
    first_of: dict[str, ModelScores] = {}
    for one in models:
        _refuse_other_files(one, first_of.setdefault(one.rater, one), "references")
    by_model: dict[str, ModelScores] = {}
    for one in models:
        _refuse_other_files(one, by_model.setdefault(one.model, one), "predictions")
    return models


def read_groups(path: str | Path, cases: Sequence[str]) -> list[str]:
    """The group of each case from a table with the columns `case` and `group`, as the cases.csv of a raw dataset.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such columns, a case that is missing, twice or without group, or fewer than two groups.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no table of groups {path}; expected cases.csv of the raw dataset, with the columns case and group")
    columns, table = _table(path)
    if not {"case", "group"} <= set(columns):
        raise ValueError(f"{path} has the columns {', '.join(columns) or 'of none'}; expected case and group among them")
    rows = [(row["case"], row["group"]) for row in table]
    group_of: dict[str, str] = {}
    for case, group in rows:
        if group_of.setdefault(case, group) != group:
            raise ValueError(f"{path} has case {case} in the groups {group_of[case]} and {group}; expected one group")
    missing = [case for case in cases if not group_of.get(case)]
    if missing:
        raise ValueError(f"{path} has no group of {_named(missing)}; expected a row with a group for every case")
    groups = [group_of[case] for case in cases]
    if len(set(groups)) < 2:
        raise ValueError(f"all cases are of the group {groups[0]} by {path}; expected two or more groups: leave out --groups to draw cases")
    return groups


def _read(word: str) -> ModelScores:
    name, equals, place = word.partition("=")
    model, slash, rater = name.partition("/")
    if not equals or not model.strip() or not place or (slash and not rater.strip()):
        raise ValueError(f"{word!r} does not name a model; expected NAME=FOLDER or NAME/RATER=FOLDER, such as "
                         f"baseline={place or model.strip() or 'evaluation'}")
    path = _scores_file(Path(place))
    text = path.read_bytes()
    try:
        document = json.loads(text.decode("utf-8"))
        entries = sorted(document["cases"], key=lambda entry: entry["case"])
        classes, measures = dict(document["classes"]), dict(document["measures"])
        values = {name: {key: np.array([_number(entry["classes"][name]["measures"].get(key)) for entry in entries]) for key in measures}
                  for name in classes}
        hashes = {role: {entry["case"]: entry[role]["sha256"] for entry in entries} for role in ("prediction", "reference")}
        scores = ModelScores(
            model.strip(), rater.strip(), path, hashlib.sha256(text).hexdigest(), dict(document["made_with"]), classes,
            {key: {field: measures[key].get(field) for field in _DECLARED} for key in measures},
            {key: value for key, value in document.items() if key.startswith("tolerance")},
            {entry["case"]: {key: entry.get(key) for key in _SETTINGS} for entry in entries},
            [entry["case"] for entry in entries], values, hashes["prediction"], hashes["reference"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} holds no scores of nnneuro_evaluate ({type(error).__name__}: {error}); expected its scores.json: measure "
                         "the predictions with nnneuro_evaluate") from error
    if not scores.cases or not classes or not measures:
        raise ValueError(f"{path} has no case, class or measure; expected at least one: measure again with nnneuro_evaluate")
    if len(hashes["reference"]) < len(scores.cases):
        raise ValueError(f"{path} has a case twice; expected each once: measure again with nnneuro_evaluate")
    return scores


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            return list(table.fieldnames or []), list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV table in UTF-8 ({error}); expected cases.csv of the raw dataset, with the columns case and "
                         "group") from error


def _scores_file(place: Path) -> Path:
    if not place.is_dir():
        if place.is_file():
            return place
        raise FileNotFoundError(f"no folder or file {place}; expected one that nnneuro_evaluate wrote, with {_SCORES}")
    for path in (place / _SCORES, place / "evaluation" / _SCORES):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no {_SCORES} in {place} nor in {place / 'evaluation'}; measure the predictions with nnneuro_evaluate")


def _number(value: float | None) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no score")
    return float(value) if math.isfinite(value) else math.nan


def _refuse_missing_raters(models: Sequence[ModelScores]) -> None:
    raters = list(dict.fromkeys(one.rater for one in models))
    given = {(one.model, one.rater) for one in models}
    for one in models:
        for rater in raters:
            if (one.model, rater) not in given:
                lacks = f"rater {rater}" if rater else "an evaluation without rater"
                raise ValueError(f"{one.model} lacks {lacks}, which another model has; expected every model against the same references: "
                                 f"add {one.model}{f'/{rater}' if rater else ''}=FOLDER")


def _refuse_incomparable(one: ModelScores, first: ModelScores) -> None:
    for lacking, other in ((one, first), (first, one)):
        missing = sorted(set(other.cases) - set(lacking.cases))
        if missing:
            raise ValueError(f"{lacking.name} has no scores of {_named(missing)}, which {other.name} has; expected the same cases: predict "
                             "and measure them too")
    if one.classes != first.classes:
        raise ValueError(f"{first.name} has the labels {_pairs(first.classes)}, {one.name} has {_pairs(one.classes)}; expected the same: "
                         "measure with one dataset.json")
    if one.tolerance != first.tolerance:
        raise ValueError(f"{first.name} was measured with {_pairs(first.tolerance)}, {one.name} with {_pairs(one.tolerance)}; expected the "
                         "same: measure again with one --tolerance")
    for case in one.cases:
        if one.settings[case] != first.settings[case]:
            raise ValueError(f"case {case} of {first.name} was measured with {_pairs(first.settings[case])}, of {one.name} with "
                             f"{_pairs(one.settings[case])}; expected the same: correct the voxel size in the files and measure again")
    for key in one.measures.keys() & first.measures.keys():
        if one.measures[key] != first.measures[key]:
            raise ValueError(f"{first.name} and {one.name} were measured with different definitions of {key}, by nnunet_neuro "
                             f"{_version(first)} and {_version(one)}; expected the same: measure again with one version")


def _refuse_other_files(one: ModelScores, first: ModelScores, which: str) -> None:
    here, there = getattr(one, which), getattr(first, which)
    other = [case for case in one.cases if here[case] != there[case]]
    if not other:
        return
    if which == "references":
        raise ValueError(f"{first.name} and {one.name} were measured against other references of {_named(other)} (the SHA-256 differ); "
                         "expected the same files: measure again against one folder, or name the raters with NAME/RATER=FOLDER")
    raise ValueError(f"{first.name} and {one.name} are of other predictions of {_named(other)} (the SHA-256 differ); expected the same "
                     "predictions against the masks of each rater")


def _version(one: ModelScores) -> str:
    return one.made_with.get("nnunet_neuro", "of unknown version")


def _pairs(items: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in items.items()) or "none"


def _named(cases: Sequence[str]) -> str:
    return f"case {cases[0]}{f' (and {len(cases) - 1} more)' if len(cases) > 1 else ''}"
