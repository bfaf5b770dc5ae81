"""The report of an evaluation as one HTML page."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_neuro.evaluate.fields import headlines
from nnunet_neuro.evaluate.figures import case_picture
from nnunet_neuro.evaluate.measures import Measure
from nnunet_neuro.evaluate.plots import class_picture, training_picture
from nnunet_neuro.evaluate.report_guide import guide
from nnunet_neuro.evaluate.report_pictures import figure_tag
from nnunet_neuro.evaluate.report_tables import case_tables, file_table, mean_of_classes, overview_tables
from nnunet_neuro.evaluate.report_values import RankedCase, badness, ranked_cases, ranking_measure, value_text
from nnunet_neuro.evaluate.summary import number_of
from nnunet_neuro.evaluate.training_log import Epoch
from nnunet_neuro.pages import Section, page

if TYPE_CHECKING:
    from nnunet_neuro.evaluate.scores import CaseScores, Evaluation

# of more cases than both together; a picture has about 0.2 MB, and a browser stays quick with a page of a few
WORST, BEST = 8, 4
# measures that are told beside a picture
_TOLD = 5
_SIZES_TOLD = 4
_CLASSES_TOLD = 4


def report_page(evaluation: Evaluation, *, curves: dict[str, dict[int, Epoch]] | None = None, progress: bool = True) -> str:
    """The report as one HTML page.

    The worst and the best cases by the first headline measure are pictured.

    Args:
        evaluation: the scores; its files are read again for the pictures.
        curves: training curves by fold.
        progress: show a progress bar on stderr.
    """
    ranked = ranked_cases(evaluation)
    sections = [
        Section("overview", "Overview", f"{_notes(evaluation)}{_reading(evaluation)}{overview_tables(evaluation)}"),
        Section("classes", "Plots", _class_plots(evaluation)),
        Section("figures", _figures_title(ranked), _case_figures(evaluation, ranked, progress)),
        Section("cases", "All cases", case_tables(evaluation, ranked)),
        Section("training", "Training", _training(curves)),
        Section("measures", "How to read the measures", guide(evaluation)),
        Section("files", "What was compared", _files(evaluation)),
    ]
    versions = ", ".join(f"{name} {number}" for name, number in evaluation.made_with.items())
    return page(f"Evaluation of {evaluation.predictions.name or evaluation.predictions}", sections, subtitle=_subtitle(evaluation),
                style=_STYLE, footer=f"Made {evaluation.made_on} with {versions}.")


def pictured_cases(ranked: Sequence[RankedCase]) -> list[RankedCase]:
    """All cases, or the `WORST` and the `BEST` of many; those whose ranking measure is undefined are neither."""
    if len(ranked) <= WORST + BEST:
        return list(ranked)
    known = [one for one in ranked if not math.isnan(one.value)]
    if len(known) <= WORST + BEST:
        return [*known, *islice((one for one in ranked if math.isnan(one.value)), WORST + BEST - len(known))]
    return [*known[:WORST], *known[-BEST:]]


def _subtitle(evaluation: Evaluation) -> str:
    classes = evaluation.names.classes
    use = f"measured as {evaluation.field_of_use} · " if evaluation.field_of_use else ""
    return (f"{number_of(len(evaluation.cases), 'case')} · {'classes' if len(classes) > 1 else 'class'} {', '.join(classes)} · {use}"
            f"{evaluation.made_on[:10]} · nnunet_neuro {evaluation.made_with['nnunet_neuro']}")


def _notes(evaluation: Evaluation) -> str:
    """What a reader must know first."""
    notes = [warning[:1].upper() + warning[1:] for warning in evaluation.warnings]
    for reason in dict.fromkeys(evaluation.left_out_measures.values()):
        names = [name for name, other in evaluation.left_out_measures.items() if other == reason]
        notes.append(f"Not measured: {', '.join(names)}, because {reason}")
    if evaluation.names.ignore is not None:
        annotated = sum(case.annotated for case in evaluation.cases) / sum(case.voxels for case in evaluation.cases)
        notes.append(f"The references annotate {annotated:.1%} of the voxels; the rest carries the ignore label "
                     f"{evaluation.names.ignore} and counts nowhere, whatever was predicted there")
    if evaluation.left_out:
        notes.append(f"{number_of(len(evaluation.left_out), 'reference')} without prediction left out on request: "
                     f"{_first_of(evaluation.left_out, 20)}")
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}.</li>" for note in notes)}</ul>' if notes else ""


def _reading(evaluation: Evaluation) -> str:
    several = "" if len(evaluation.cases) < 2 else (
        "<p><strong>Mean over cases</strong>: the measure of every case, averaged, ± the standard deviation; each case weighs the same. "
        "<strong>Pooled</strong>: the counts of all cases summed, then the measure of the sums, as if the cases were one volume; each "
        "voxel weighs the same. The two differ, so say which one you quote.</p>")
    tolerances = sorted({evaluation.tolerance_of(case) for case in evaluation.cases})
    told = f"{tolerances[0]:g}" if tolerances[0] == tolerances[-1] else f"{tolerances[0]:g} to {tolerances[-1]:g}"
    rule = "" if evaluation.tolerance is not None else ", twice the smallest edge of a voxel"
    return (f"{several}<p>Tolerant measures allow {told}{rule}. Lengths and the tolerance are in the unit of the voxel size: micrometres "
            "for microscopy, millimetres for MRI. An arrow shows whether higher (↑) or lower (↓) is better. A dash is an undefined value; "
            "it is left out of the mean, and the number of cases in the mean is then given below it.</p>")


def _class_plots(evaluation: Evaluation) -> str:
    pictures = {name: class_picture(evaluation, name) for name in evaluation.names.classes}
    shown = {name: picture for name, picture in pictures.items() if picture is not None}
    if not shown:
        return ""
    how = ("<p>Every mark is a case. From five cases on, a box spans the quartiles, the line in it is the "
           "median, and the whiskers reach the farthest case within 1.5 times the length of the box. An axis of shares may begin above 0."
           "</p>") if len(evaluation.cases) > 1 else ""
    if any("calibration_voxels" in evaluation.cases[0].counts[name] for name in shown):
        how += ("<p>The reliability diagram groups all voxels by the probability that the model gave the class; below the dashed line it "
                "was too sure of the class, above not sure enough.</p>")
    return how + "".join(f"<h3>{escape(name)}</h3>{figure_tag(picture, '')}" for name, picture in shown.items())


def _figures_title(ranked: Sequence[RankedCase]) -> str:
    return "Worst and best cases" if len(ranked) > 1 else "The case in pictures"


def _case_figures(evaluation: Evaluation, ranked: Sequence[RankedCase], progress: bool) -> str:
    from tqdm import tqdm

    shown, first = pictured_cases(ranked), ranking_measure(evaluation)
    parts = [f"<p>{_figure_note(len(shown), len(ranked), first)}</p>"]
    for one in tqdm(shown, desc="drawing", unit="case", disable=not progress):
        tolerance = evaluation.tolerance_of(one.case) if _follows_lines(evaluation, first) else None
        picture = case_picture(one.case.pair, evaluation.names, tolerance=tolerance)
        parts.append(f"<h3>{escape(one.case.pair.case)}</h3>{figure_tag(picture, _case_caption(evaluation, one, len(ranked)))}")
    return "".join(parts)


def _follows_lines(evaluation: Evaluation, first: Measure | None) -> bool:
    """Whether centre lines are what is looked at."""
    return first is not None and (first.family == "centrelines" or any(one.family == "axons" for one in evaluation.measured.values()))


def _case_caption(evaluation: Evaluation, one: RankedCase, of: int) -> str:
    told = list(islice((evaluation.measured[key] for key in headlines(evaluation.measured, evaluation.field_of_use)), _TOLD))
    end = {1: " (worst)", of: " (best)"}.get(one.place, "")
    place = "" if of == 1 else f"<strong>{one.place} of {of}{end}</strong> "
    mean = "mean over classes: " if len(evaluation.names.classes) > 1 else ""
    by_class = f"; {_of_classes(one.case, told[0])}" if mean and told else ""
    return f"{place}{escape(mean + mean_of_classes(one.case, told) + by_class)}"


def _of_classes(case: CaseScores, measure: Measure) -> str:
    """A measure of each class; of many, the worst and the best."""
    found = {name: values[measure.name] for name, values in case.values.items()}
    if len(found) > _CLASSES_TOLD:
        order = sorted(found, key=lambda name: badness(found[name], measure), reverse=True)
        known = [name for name in order if not math.isnan(found[name])]
        return " and ".join(f"{measure.name} {found[name]:.3f} of {name}, the {end}" for name, end in zip(
            dict.fromkeys([*known[:1], *known[-1:]]), ("worst class", "best")))
    return f"{measure.name} " + ", ".join(f"{name} {value_text(value)}" for name, value in found.items())


def _figure_note(shown: int, cases: int, first: Measure | None) -> str:
    which = ""
    if cases > 1 and first is not None:
        chosen = f"the {WORST} worst and {BEST} best of {cases} cases" if shown < cases else f"all {cases} cases"
        which = f"By {escape(first.name)}, from the worst to the best: {chosen}. "
    return (f"{which}Each picture shows a plane, seen from the front, from the side (right) and from above (below); dotted lines mark "
            "where the planes cut each other. Planes are those with most annotated reference. Contrast of raw images is from their 1st to "
            "99.7th percentile; errors are drawn over the image made pale, a dark one as its negative. Flat images and thin stacks have no "
            "views from the sides.")


def _training(curves: dict[str, dict[int, Epoch]] | None) -> str:
    if curves is None:
        return ""
    figures = []
    for fold, epochs in curves.items():
        picture = training_picture(fold, epochs)
        figures.append(f"<h3>{escape(fold)}</h3>{figure_tag(picture, escape(picture.alternative.partition(': ')[2]))}")
    return ("<p>From the training logs. The pseudo Dice is estimated by nnU-Net on random patches of the validation cases while it trains; "
            f"it shows progress and is no score.</p>{''.join(figures)}")


def _files(evaluation: Evaluation) -> str:
    sizes = list(dict.fromkeys("unknown" if case.spacing is None else " × ".join(f"{step:.4g}" for step in case.spacing)
                               for case in evaluation.cases))
    facts = {
        "Predictions": _written(evaluation.predictions),
        "References": _written(evaluation.references),
        "Labels from": "ids of objects" if evaluation.names.instances else str(evaluation.names.source),
        "Voxel size (z, y, x)": _first_of(sizes, _SIZES_TOLD, "; "),
        "Probabilities": next((str(case.pair.probabilities) for case in evaluation.cases if case.pair.probabilities is not None), ""),
    }
    entries = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items() if value)
    return f'<dl class="facts">{entries}</dl>{file_table(evaluation)}'


def _first_of(words: Sequence[str], number: int, separator: str = ", ") -> str:
    more = f"{separator}and {len(words) - number} more" if len(words) > number else ""
    return separator.join(words[:number]) + more


def _written(path: Path) -> str:
    """A path, or the address that it was made of."""
    return re.sub(r"^(\w+):/(?=[^/])", r"\1://", str(path))


_STYLE = """
:root { --width: 1280px; --bar: #8ebfe3; }
tbody th, .kind { white-space: nowrap; }
.kind { color: var(--soft); }
th.score, td.score { text-align: right; }
td.score[style] {
  background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share));
  background-size: 100% 4px; background-position: bottom; background-repeat: no-repeat;
}
.pooled td, .pooled th { border-bottom-color: #9aa4ae; }
small { color: var(--soft); font-weight: 400; white-space: nowrap; }
details { margin: 8px 0; border: 1px solid var(--line); border-radius: 4px; padding: 0 12px; }
summary { cursor: pointer; padding: 7px 0; color: var(--accent); }
.measures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 4px 36px; }
.measures dt { font-weight: 600; margin-top: 10px; overflow-wrap: anywhere; }
.measures p { margin: 0 0 3px; font-size: 0.95rem; }
.measures .fine { color: var(--soft); font-size: 0.82rem; }
.facts dt { min-width: 11em; }
figcaption { margin-bottom: 6px; }
figcaption strong { margin-right: 8px; }
code { font-size: 0.8rem; }
.files td, .files th { padding: 2px 9px; font-size: 0.82rem; }
@media print {
  .measures div { break-inside: avoid; }
  .measures p { font-size: 9pt; }
  .measures .fine { font-size: 8pt; }
  td.score[style] { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
