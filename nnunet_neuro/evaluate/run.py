"""Folders of predictions measured against folders of references: scores.json, scores.csv and the report."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.pairing import (
    LabelNames,
    Pair,
    check_ignored,
    find_label_names,
    pair_cases,
    read_labels,
    spacing_zyx,
)
from nnunet_neuro.volumes import Volume

_LIBRARIES = ("nnunet_neuro", "numpy", "scipy", "scikit-image", "tifffile", "nibabel")


@dataclass(frozen=True)
class CaseScores:
    """One case.

    Attributes:
        pair: the files.
        counts: class to named counts.
        values: class to measure to value; NaN where a measure is undefined.
        voxels: number of voxels.
        annotated: number of voxels without the ignore label.
        sha256: of every file compared, by role.
    """

    pair: Pair
    counts: dict[str, dict[str, int]]
    values: dict[str, dict[str, float]]
    voxels: int
    annotated: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """Every case of two folders.

    Attributes:
        predictions: folder.
        references: folder.
        names: classes and ignore label.
        tolerance: voxels.
        cases: scores per case, sorted by name.
        left_out: references without prediction, left out on request.
        made_with: versions of Python and the libraries.
        made_on: time of the evaluation, ISO 8601.
        files: what was written.
    """

    predictions: Path
    references: Path
    names: LabelNames
    tolerance: int
    cases: list[CaseScores]
    left_out: list[str]
    made_with: dict[str, str] = field(default_factory=lambda: versions())
    made_on: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    files: list[Path] = field(default_factory=list)

    @property
    def mean(self) -> dict[str, dict[str, float]]:
        """Class to measure to the mean of the cases' values, each case weighing the same; undefined values left out."""
        return self._of_cases(lambda found: float(np.mean(found)) if found else math.nan)

    @property
    def cases_in_mean(self) -> dict[str, dict[str, int]]:
        """Class to measure to the number of cases whose value is defined."""
        return self._of_cases(len)

    @property
    def pooled_counts(self) -> dict[str, dict[str, int]]:
        """Class to named counts summed over the cases."""
        return {
            name: {key: sum(case.counts[name][key] for case in self.cases) for key in self.cases[0].counts[name]}
            for name in self.names.classes
        }

    @property
    def pooled(self) -> dict[str, dict[str, float]]:
        """Class to measure of the summed counts, as if all cases were one volume; every voxel weighs the same."""
        return {name: measures.values(counts) for name, counts in self.pooled_counts.items()}

    def _of_cases(self, summary: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
        return {
            name: {
                key: summary([case.values[name][key] for case in self.cases if not math.isnan(case.values[name][key])])
                for key in measures.MEASURES
            }
            for name in self.names.classes
        }


def evaluate_folders(
    predictions: str | Path,
    references: str | Path,
    *,
    out: str | Path | None = None,
    images: str | Path | None = None,
    training: str | Path | None = None,
    dataset_json: str | Path | None = None,
    tolerance: int = 2,
    only_predicted: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Measure every prediction against the reference of the same name.

    All headers are checked before the first voxel is read. One case is in memory at a time.

    Args:
        predictions: folder of label volumes, for example of nnUNetv2_predict.
        references: folder of label volumes, for example labelsTs.
        out: folder for scores.json, scores.csv and report.html; None writes nothing.
        images: nnU-Net folder of raw images `CASE_0000.tif`, shown in the report.
        training: nnU-Net results folder with `fold_*`, whose training curves the report shows.
        dataset_json: names of the labels; None looks beside the predictions and above the references.
        tolerance: voxels, for the tolerant skeleton measures.
        only_predicted: leave out references without prediction instead of raising.
        progress: show a progress bar on stderr.

    Returns:
        The scores.

    Raises:
        FileNotFoundError, ValueError: bad input, see `pairing`; nothing is written then.
    """
    from tqdm import tqdm

    from nnunet_neuro.evaluate.training_log import read_training

    if isinstance(tolerance, bool) or not isinstance(tolerance, int) or tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; expected a whole number of voxels, 0 or more")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"{out} is a file; expected a folder for the results: give another --out")
    predictions, references = Path(predictions), Path(references)
    pairs, left_out = pair_cases(
        predictions, references, images=None if images is None else Path(images), only_predicted=only_predicted
    )
    names = find_label_names(predictions, references, None if dataset_json is None else Path(dataset_json))
    curves = None if training is None else read_training(training)
    bar = tqdm(pairs, desc="measuring", unit="case", disable=not progress)
    cases = [score_case(pair, names, tolerance=tolerance) for pair in bar]
    evaluation = Evaluation(predictions, references, names, tolerance, cases, left_out)
    if out is not None:
        from nnunet_neuro.evaluate.report import report_page

        page = report_page(evaluation, curves=curves, progress=progress)
        texts = {"scores.json": scores_json(evaluation), "scores.csv": scores_csv(evaluation), "report.html": page}
        evaluation.files.extend(write_together(Path(out), texts))
    return evaluation


def score_case(pair: Pair, names: LabelNames, *, tolerance: int) -> CaseScores:
    """Read and measure one case."""
    prediction, reference = read_labels(pair.prediction, names), read_labels(pair.reference, names)
    check_ignored(prediction, reference, pair, names)
    annotated = np.ones(reference.shape, bool) if names.ignore is None else reference != names.ignore
    counts = {
        name: measures.count(measures.Masks(prediction == label, reference == label, annotated, tolerance))
        for name, label in names.classes.items()
    }
    files = {"prediction": pair.prediction, "reference": pair.reference, "image": pair.image}
    return CaseScores(
        pair=pair,
        counts=counts,
        values={name: measures.values(found) for name, found in counts.items()},
        voxels=reference.size,
        annotated=int(np.count_nonzero(annotated)),
        sha256={role: _sha256(volume) for role, volume in files.items() if volume is not None},
    )


def scores_json(evaluation: Evaluation) -> str:
    """Everything measured, as JSON; an undefined value is null."""
    names = evaluation.names
    document = {
        "made_on": evaluation.made_on,
        "made_with": evaluation.made_with,
        "predictions": str(evaluation.predictions),
        "references": str(evaluation.references),
        "dataset_json": {"path": str(names.source), "sha256": hashlib.sha256(names.source.read_bytes()).hexdigest()},
        "classes": names.classes,
        "ignore_label": names.ignore,
        "tolerance_voxels": evaluation.tolerance,
        "references_left_out": evaluation.left_out,
        "measures": {name: _declaration(one) for name, one in measures.MEASURES.items()},
        "mean": evaluation.mean,
        "cases_in_mean": evaluation.cases_in_mean,
        "pooled": evaluation.pooled,
        "pooled_counts": evaluation.pooled_counts,
        "cases": [_case_entry(case) for case in evaluation.cases],
    }
    return json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n"


def scores_csv(evaluation: Evaluation) -> str:
    """A row per case and class, then `mean`, `cases_in_mean` and `pooled` per class; an undefined value is nan.

    The column `row` says which kind of row it is.
    """
    import io

    count_names = list(next(iter(evaluation.pooled_counts.values())))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "case", "class", "label", *measures.MEASURES, *count_names])

    def write(row: str, case: str, name: str, found: dict, counts: dict) -> None:
        label = evaluation.names.classes[name]
        cells = [_cell(found[key]) for key in measures.MEASURES]
        table.writerow([row, case, name, label, *cells, *(counts.get(key, "") for key in count_names)])

    for case in evaluation.cases:
        for name in evaluation.names.classes:
            write("case", case.pair.case, name, case.values[name], case.counts[name])
    for row, found, counts in (
        ("mean", evaluation.mean, {}),
        ("cases_in_mean", evaluation.cases_in_mean, {}),
        ("pooled", evaluation.pooled, evaluation.pooled_counts),
    ):
        for name in evaluation.names.classes:
            write(row, "", name, found[name], counts.get(name, {}))
    return text.getvalue()


def write_together(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write files under temporary names, then give all of them their final names; an interruption leaves none
    half-written.

    Raises:
        NotADirectoryError: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected a folder for the scores: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".scores-", dir=folder) as scratch:
        for name, text in texts.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        for name in texts:
            os.replace(Path(scratch) / name, folder / name)
    return [folder / name for name in texts]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose code the scores depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}


def _declaration(one: measures.Measure) -> dict:
    return {
        "description": one.description,
        "dimension": one.dimension,
        "best": one.best,
        "higher_is_better": one.higher_is_better,
        "both_empty": one.both_empty,
        "prediction_empty": one.prediction_empty,
        "reference_empty": one.reference_empty,
    }


def _case_entry(case: CaseScores) -> dict:
    files = {"prediction": case.pair.prediction, "reference": case.pair.reference, "image": case.pair.image}
    return {
        "case": case.pair.case,
        **{role: {"path": str(files[role].path), "sha256": digest} for role, digest in case.sha256.items()},
        "voxels": case.voxels,
        "annotated_voxels": case.annotated,
        "spacing_zyx": spacing_zyx(case.pair.reference) or spacing_zyx(case.pair.prediction),
        "classes": {name: {"measures": case.values[name], "counts": counts} for name, counts in case.counts.items()},
    }


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _sha256(volume: Volume) -> str:
    digest = hashlib.sha256()
    for source in volume.sources():
        with open(source.file, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
