"""What each view contributes: single views, pairs and all of them, by each fusion, on the validation cases.

The folds' networks are judged on cases they were not trained on; the choice of views and fusion by this table is made on these cases too,
so the best row is slightly optimistic.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_neuro.evaluate.folds import validation_predictions
from nnunet_neuro.evaluate.pairing import read_label_names
from nnunet_neuro.evaluate.run import Evaluation, evaluate_folders, write_together
from nnunet_neuro.evaluate.summary import score_text
from nnunet_neuro.views.fusion import METHODS
from nnunet_neuro.views.models import ViewModel, find_dataset, nnunet_folder, trained_models
from nnunet_neuro.views.prediction import fuse_cases
from nnunet_neuro.views.scheme import checked_views

_MEASURE = "Dice"


@dataclass(frozen=True)
class AblationRow:
    """One way to use the views.

    Attributes:
        views: names.
        method: fusion, "" for a single view.
        evaluation: its scores.
    """

    views: tuple[str, ...]
    method: str
    evaluation: Evaluation


def ablate_views(dataset: str, *, views: Sequence[str], folds: Sequence[str] | None = None, trainer: str = "nnUNetTrainer",
                 out: str | Path | None = None, progress: bool = True) -> tuple[list[AblationRow], list[Path]]:
    """Measure every combination of views and fusion on the validation cases of the trained folds.

    Args:
        dataset: id or name.
        views: names, see `scheme.VIEWS`.
        folds: None takes every fold that is trained in all views.
        trainer: name of the trainer class.
        out: folder for ablation.csv and ablation.md; None takes `views/TRAINER` in the dataset's results folder.
        progress: show a progress bar on stderr.

    Returns:
        The rows, single views first, and the files.

    Raises:
        FileNotFoundError: a view is not trained, or has no validation probabilities.
        ValueError: fold "all", whose validation cases are its training cases; regions, on which views cannot vote.
    """
    from tqdm import tqdm

    name = find_dataset(dataset)
    models, folds = trained_models(name, views=checked_views(views), folds=[*folds] if folds else None, trainer=trainer)
    if "all" in folds:
        raise ValueError("fold all is validated on its own training cases; give folds of the cross-validation with -f")
    labels = models[0].folder / "dataset.json"
    read_label_names(labels)  # refuses labels that are none before anything is fused
    files = {model.view: _validation_files(model, folds) for model in models}
    _refuse_different_cases(files)
    references = nnunet_folder("nnUNet_preprocessed") / name / "gt_segmentations"
    out = Path(out) if out is not None else nnunet_folder("nnUNet_results") / name / "views" / trainer
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for combination, method in tqdm([*_combinations(list(files))], desc="views and fusions", disable=not progress):
        with tempfile.TemporaryDirectory(prefix=".ablation-", dir=out) as scratch:
            cases = {case: [files[view][case] for view in combination] for case in sorted(files[combination[0]])}
            fuse_cases(cases, Path(scratch), model=models[0], method=method or "mean", progress=False)
            evaluation = evaluate_folders(scratch, references, dataset_json=labels, only_predicted=True, progress=False)
        rows.append(AblationRow(combination, method, evaluation))
    texts = {"ablation.csv": ablation_csv(rows), "ablation.md": ablation_table(rows, folds)}
    return rows, write_together(out, texts)


def ablation_table(rows: Sequence[AblationRow], folds: Sequence[str]) -> str:
    """Mean Dice over the cases, per class and over the classes, as a markdown table."""
    classes = list(rows[0].evaluation.names.classes)
    several = len(classes) > 1
    lines = [f"Mean Dice of {len(rows[0].evaluation.cases)} validation cases, folds {', '.join(folds)}", "",
             f"| views | fusion | {' | '.join([*classes, *(['all classes'] if several else [])])} |",
             f"|---|---|{'---|' * (len(classes) + several)}"]
    for row in rows:
        scores = [row.evaluation.mean[name][_MEASURE] for name in classes]
        defined = [score for score in scores if not math.isnan(score)]
        if several:
            scores.append(sum(defined) / len(defined) if defined else math.nan)
        lines.append(f"| {' + '.join(row.views)} | {row.method or '–'} | {' | '.join(map(score_text, scores))} |")
    return "\n".join(lines) + "\n"


def ablation_csv(rows: Sequence[AblationRow]) -> str:
    """Every measure: a row per combination, case and class, then `mean` and `pooled` per class; an undefined value is nan."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    measured = list(rows[0].evaluation.measured)
    table.writerow(["views", "fusion", "row", "case", "class", *measured])
    for row in rows:
        start, evaluation = ["+".join(row.views), row.method], row.evaluation
        found = [*(("case", case.pair.case, case.values) for case in evaluation.cases),
                 ("mean", "", evaluation.mean), ("pooled", "", evaluation.pooled)]
        for kind, case, values in found:
            for name in evaluation.names.classes:
                table.writerow([*start, kind, case, name, *(f"{values[name][measure]:.6g}" for measure in measured)])
    return text.getvalue()


def _combinations(views: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    for view in views:
        yield (view,), ""  # every fusion of one view is that view
    for number in range(2, len(views) + 1):
        yield from itertools.product(itertools.combinations(views, number), METHODS)


def _validation_files(model: ViewModel, folds: Sequence[str]) -> dict[str, Path]:
    """Case to its probabilities, of the fold that it validates."""
    ending = model.dataset_json()["file_ending"]
    found = {}
    for fold in folds:
        folder = model.fold_folder(fold) / "validation"
        # the labels say which cases were validated, the probabilities are there only on request
        cases = list(validation_predictions(model.fold_folder(fold), ending))
        missing = [case for case in cases if not (folder / f"{case}.npz").is_file()]
        if missing or not cases:
            raise FileNotFoundError(f"no validation probabilities{f' of {missing[0]}' if missing else ''} in {folder}; run nnneuro_views "
                                    f"train {model.dataset} -tr {model.trainer} -f {fold}, which keeps them")
        found.update({case: folder / f"{case}.npz" for case in cases})
    return found


def _refuse_different_cases(files: dict[str, dict[str, Path]]) -> None:
    first, *others = files
    for view in others:
        different = sorted(files[first].keys() ^ files[view].keys())
        if different:
            raise ValueError(f"the views {first} and {view} were not validated on the same cases, only one of them on {different[0]}; "
                             f"expected the same splits_final.json: train both from the same preprocessed dataset")
