"""scores.json and scores.csv."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
from numbers import Real
from pathlib import Path

from nnunet_neuro.evaluate.measures import Measure
from nnunet_neuro.evaluate.scores import CaseScores, Evaluation


def scores_json(evaluation: Evaluation) -> str:
    """Everything measured, as JSON; an undefined value is null.

    Values over several cases stand under the name that says how they were made: `mean_over_cases` or `pooled`.
    """
    names = evaluation.names
    document = {
        "made_on": evaluation.made_on,
        "made_with": evaluation.made_with,
        "predictions": _written(evaluation.predictions),
        "references": _written(evaluation.references),
        "dataset_json": _hashed(names.source) if names.source.is_file() else None,
        "classes": names.as_written(),
        "ignore_label": names.ignore,
        "tolerance": evaluation.tolerance,
        "field_of_use": evaluation.field_of_use,
        "references_left_out": evaluation.left_out,
        "left_out_measures": evaluation.left_out_measures,
        "warnings": evaluation.warnings,
        "measures": {name: _declaration(one) for name, one in evaluation.measured.items()},
        "mean_over_cases": evaluation.mean,
        "deviation_over_cases": evaluation.deviation,
        "cases_in_mean": evaluation.cases_in_mean,
        "pooled": evaluation.pooled,
        "pooled_counts": {name: _plain(counts) for name, counts in evaluation.pooled_counts.items()},
        "cases": [_case_entry(case, evaluation) for case in evaluation.cases],
    }
    return json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n"


def scores_csv(evaluation: Evaluation) -> str:
    """A row per case and class, then `mean_over_cases`, `cases_in_mean` and `pooled` per class; an undefined value is nan.

    The column `row` says which kind of row it is.
    """
    pooled_counts = {name: _plain(counts) for name, counts in evaluation.pooled_counts.items()}
    count_names = list(next(iter(pooled_counts.values())))
    labels = evaluation.names.as_written()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "case", "class", "label", *evaluation.measured, *count_names])

    def write(row: str, case: str, name: str, found: dict, counts: dict) -> None:
        label = labels[name]
        label = "+".join(map(str, label)) if isinstance(label, list) else label
        cells = [_cell(found[key]) for key in evaluation.measured]
        table.writerow([row, case, name, label, *cells, *(counts.get(key, "") for key in count_names)])

    for case in evaluation.cases:
        for name in evaluation.names.classes:
            write("case", case.pair.case, name, case.values[name], _plain(case.counts[name]))
    for row, found, counts in (
        ("mean_over_cases", evaluation.mean, {}),
        ("cases_in_mean", evaluation.cases_in_mean, {}),
        ("pooled", evaluation.pooled, pooled_counts),
    ):
        for name in evaluation.names.classes:
            write(row, "", name, found[name], counts.get(name, {}))
    return text.getvalue()


def check_folder(folder: Path) -> None:
    """Refuse a folder for the results that cannot be written or made, before anything is computed.

    Raises:
        NotADirectoryError: it is a file, or lies in one.
        PermissionError: this user may not write there.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file; expected a folder for the results: choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write into {there}; expected a folder for the results: choose another --out")


def write_together(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write files under temporary names, then give all of them their final names; an interruption leaves none half-written.

    Raises:
        OSError: `folder` is a file, or cannot be written; see `check_folder`.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".scores-", dir=folder) as scratch:
            for name, text in texts.items():
                (Path(scratch) / name).write_text(text, encoding="utf-8")
            for name in texts:
                os.replace(Path(scratch) / name, folder / name)
    except OSError as error:
        raise OSError(f"the results could not be written into {folder} ({error.strerror}); expected a folder with space that this user may "
                      "write: choose another --out") from error
    return [folder / name for name in texts]


def _declaration(one: Measure) -> dict:
    return {
        "description": one.description,
        "family": one.family,
        "also_called": one.also_called,
        "source": one.source,
        "dimension": one.dimension,
        "best": one.best,
        "higher_is_better": one.higher_is_better,
        "limits": one.limits,
        "both_empty": one.both_empty,
        "prediction_empty": "formula" if one.prediction_empty is None else one.prediction_empty,
        "reference_empty": "formula" if one.reference_empty is None else one.reference_empty,
    }


def _case_entry(case: CaseScores, evaluation: Evaluation) -> dict:
    files = {"prediction": case.pair.prediction, "reference": case.pair.reference, "image": case.pair.image}
    return {
        "case": case.pair.case,
        "fold": case.pair.fold,
        **{role: {"path": str(files[role].path), "sha256": digest} for role, digest in case.sha256.items()},
        "probabilities": None if case.pair.probabilities is None else str(case.pair.probabilities),
        "voxels": case.voxels,
        "annotated_voxels": case.annotated,
        "spacing_zyx": case.spacing,
        "tolerance": evaluation.tolerance_of(case),
        "blocks": case.blocks,
        "classes": {name: {"measures": case.values[name], "counts": _plain(counts)} for name, counts in case.counts.items()},
    }


def _plain(counts: dict) -> dict:
    """The counts that are numbers; some measures also need tables, which are of no use to a reader."""
    return {name: number for name, number in counts.items() if isinstance(number, Real)}


def _hashed(file: Path) -> dict[str, str]:
    return {"path": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _written(path: Path) -> str:
    """A path, or the address that it was made of."""
    return re.sub(r"^(\w+):/(?=[^/])", r"\1://", str(path))


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, Real) and not isinstance(value, (bool, int, float)):
        value = value.item()  # numpy's
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"
