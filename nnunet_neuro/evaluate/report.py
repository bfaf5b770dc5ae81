"""The report: one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from html import escape
from string import Template
from typing import TYPE_CHECKING

from nnunet_neuro.evaluate.figures import Picture, case_picture, training_picture
from nnunet_neuro.evaluate.measures import MEASURES, Measure
from nnunet_neuro.evaluate.pairing import spacing_zyx
from nnunet_neuro.evaluate.summary import number_of, score_text
from nnunet_neuro.evaluate.training_log import Epoch

if TYPE_CHECKING:
    from nnunet_neuro.evaluate.run import CaseScores, Evaluation

MOST_FIGURES = 24  # about 0.3 MB each; a browser stays quick with a page of this size


def report_page(evaluation: Evaluation, *, curves: dict[str, dict[int, Epoch]] | None = None, progress: bool = True) -> str:
    """The report as one HTML page.

    Up to `MOST_FIGURES` cases are pictured; of more, those with the lowest Dice.

    Args:
        evaluation: the scores; its files are read again for the pictures.
        curves: training curves by fold.
        progress: show a progress bar on stderr.
    """
    from tqdm import tqdm

    shown = pictured_cases(evaluation.cases)
    figures = [
        _case_section(case, case_picture(case.pair, evaluation.names))
        for case in tqdm(shown, desc="drawing", unit="case", disable=not progress)
    ]
    classes = ", ".join(evaluation.names.classes)
    return _PAGE.substitute(
        title=escape(f"Evaluation of {evaluation.predictions.name or evaluation.predictions}"),
        subtitle=escape(
            f"{number_of(len(evaluation.cases), 'case')} · "
            f"{'classes' if len(evaluation.names.classes) > 1 else 'class'} {classes} · "
            f"{evaluation.made_on[:10]} · nnunet_neuro {evaluation.made_with['nnunet_neuro']}"
        ),
        navigation=_navigation(curves is not None),
        overview=_overview(evaluation),
        notes=_notes(evaluation),
        per_case=_per_case(evaluation),
        measures="\n".join(map(_measure_entry, MEASURES.values())),
        tolerance=number_of(evaluation.tolerance, "voxel"),
        figure_note=_figure_note(len(shown), len(evaluation.cases)),
        figures="\n".join(figures),
        training=_training_section(curves),
        files=_files(evaluation),
        versions=escape(", ".join(f"{name} {number}" for name, number in evaluation.made_with.items())),
        made_on=escape(evaluation.made_on),
    )


def pictured_cases(cases: list[CaseScores]) -> list[CaseScores]:
    """All cases, or the `MOST_FIGURES` with the lowest Dice over their classes, in the order given."""
    if len(cases) <= MOST_FIGURES:
        return cases
    worst = sorted(range(len(cases)), key=lambda index: _mean_dice(cases[index]))[:MOST_FIGURES]
    return [cases[index] for index in sorted(worst)]


def _mean_dice(case: CaseScores) -> float:
    found = [values["Dice"] for values in case.values.values() if not math.isnan(values["Dice"])]
    return sum(found) / len(found) if found else 1.0


def _navigation(with_training: bool) -> str:
    sections = {
        "overview": "Overview",
        "cases": "Scores per case",
        "figures": "Figures",
    }
    if with_training:
        sections["training"] = "Training"
    sections["measures"] = "How to read the measures"
    sections["files"] = "What was compared"
    return "\n".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name in sections.items())


def _overview(evaluation: Evaluation) -> str:
    rows = []
    mean, in_mean, pooled = evaluation.mean, evaluation.cases_in_mean, evaluation.pooled
    for name in evaluation.names.classes:
        cells = "".join(_score_cell(mean[name][key], in_mean[name][key], len(evaluation.cases)) for key in MEASURES)
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td class="kind">mean over cases</td>{cells}</tr>')
        cells = "".join(_score_cell(pooled[name][key]) for key in MEASURES)
        rows.append(f'<tr class="pooled"><th scope="row">{escape(name)}</th><td class="kind">pooled</td>{cells}</tr>')
    return _table("Mean over cases and pooled value of each class", ["class", "value"], rows)


def _per_case(evaluation: Evaluation) -> str:
    rows = []
    for case in evaluation.cases:
        for name, values in case.values.items():
            cells = "".join(_score_cell(values[key]) for key in MEASURES)
            rows.append(f'<tr><th scope="row">{escape(case.pair.case)}</th><td class="kind">{escape(name)}</td>{cells}</tr>')
    return _table("Each case and class", ["case", "class"], rows)


def _table(caption: str, headings: list[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    head += "".join(f'<th scope="col" class="score">{_heading(name)}</th>' for name in MEASURES)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


def _heading(name: str) -> str:
    first, _, second = name.partition("_")
    return f"{escape(first)}<br><small>{escape(second)}</small>" if second else escape(name)


def _score_cell(value: float, cases: int | None = None, of: int | None = None) -> str:
    note = f"<br><small>{cases} of {of}</small>" if cases is not None and cases != of else ""
    bar = "" if math.isnan(value) or value < 0.005 else f' style="--share:{min(value, 1) * 100:.0f}%"'
    return f'<td class="score"{bar}>{score_text(value)}{note}</td>'


def _notes(evaluation: Evaluation) -> str:
    notes = []
    if evaluation.names.ignore is not None:
        annotated = sum(case.annotated for case in evaluation.cases) / sum(case.voxels for case in evaluation.cases)
        notes.append(
            f"The references annotate {annotated:.1%} of the voxels; the rest carries the ignore label "
            f"{evaluation.names.ignore} and counts nowhere, whatever was predicted there."
        )
    if evaluation.left_out:
        notes.append(
            f"{number_of(len(evaluation.left_out), 'reference')} without prediction left out on request: "
            f"{', '.join(evaluation.left_out)}."
        )
    return "".join(f"<p>{escape(note)}</p>" for note in notes)


def _measure_entry(one: Measure) -> str:
    paragraphs = [" ".join(text.split()) for text in one.description.split("\n\n")]
    cases = {
        "neither mask has a voxel": one.both_empty,
        "only the reference has": one.prediction_empty,
        "only the prediction has": one.reference_empty,
    }
    empty = "; ".join(f"{when}: {'undefined' if math.isnan(value) else f'{value:g}'}" for when, value in cases.items())
    unit = one.dimension or "a ratio"
    direction = "higher is better" if one.higher_is_better else "lower is better"
    text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)
    return (
        f"<div><dt>{escape(one.name)}</dt><dd>{text}"
        f'<p class="fine">{escape(unit)}, {direction}, perfect at {one.best:g}. Where {empty}.</p></dd></div>'
    )


def _case_section(case: CaseScores, picture: Picture) -> str:
    scores = "; ".join(
        f"{name}: " + ", ".join(f"{key} {score_text(values[key])}" for key in ("Dice", "clDice", "clDice_tolerant"))
        for name, values in case.values.items()
    )
    return _figure(picture, f"<strong>{escape(case.pair.case)}</strong> {escape(scores)}")


def _training_section(curves: dict[str, dict[int, Epoch]] | None) -> str:
    if curves is None:
        return ""
    figures = [
        _figure(picture, f"<strong>{escape(fold)}</strong> {escape(picture.alternative.partition(': ')[2])}")
        for fold, picture in ((fold, training_picture(fold, epochs)) for fold, epochs in curves.items())
    ]
    return (
        '<section id="training"><h2>Training</h2><p>From the training logs. The pseudo Dice is estimated by nnU-Net on '
        "random patches of the validation cases while it trains; it shows progress and is no score.</p>"
        + "".join(figures)
        + "</section>"
    )


def _figure(picture: Picture, caption: str) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><figcaption>{caption}</figcaption><img alt="{escape(picture.alternative)}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _figure_note(shown: int, cases: int) -> str:
    which = f"The {shown} of {cases} cases with the lowest Dice. " if shown < cases else ""
    how = "Planes are those with most annotated foreground. Contrast of raw images from their 1st to 99.7th percentile."
    return which + how


def _files(evaluation: Evaluation) -> str:
    rows = []
    for case in evaluation.cases:
        volumes = {"prediction": case.pair.prediction, "reference": case.pair.reference, "image": case.pair.image}
        for role, digest in case.sha256.items():
            rows.append(
                f'<tr><th scope="row">{escape(case.pair.case)}</th><td>{role}</td>'
                f"<td>{escape(volumes[role].path.name)}</td>"
                f"<td><code>{digest}</code></td></tr>"
            )
    spacings = {spacing_zyx(case.pair.reference) or spacing_zyx(case.pair.prediction) for case in evaluation.cases}
    sizes = "; ".join("unknown" if size is None else " × ".join(f"{step:g}" for step in size) for size in spacings)
    return (
        f"<dl class='facts'><div><dt>Predictions</dt><dd>{escape(str(evaluation.predictions))}</dd></div>"
        f"<div><dt>References</dt><dd>{escape(str(evaluation.references))}</dd></div>"
        f"<div><dt>Labels from</dt><dd>{escape(str(evaluation.names.source))}</dd></div>"
        f"<div><dt>Voxel size (z, y, x)</dt><dd>{escape(sizes)}</dd></div></dl>"
        '<div class="wide" tabindex="0" role="region" aria-label="Files and their hashes"><table class="files">'
        "<caption>Files compared</caption><thead><tr>"
        '<th scope="col">case</th><th scope="col">role</th><th scope="col">file</th>'
        '<th scope="col">SHA-256</th></tr></thead>'
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>"
    )


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #1d2329; --soft: #59636e; --line: #d5dae0; --accent: #0b5c94; --bar: #8ebfe3; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Arial, sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 44px 0 10px; padding-top: 14px; border-top: 2px solid var(--ink); }
p { margin: 0 0 10px; max-width: 78ch; }
.subtitle { color: var(--soft); margin: 6px 0 14px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0; padding: 0; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid #e69f00; outline-offset: 2px; }
.wide { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 0.9rem; padding: 0 0 6px; }
th, td { padding: 5px 9px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; line-height: 1.25; }
tbody th { font-weight: 600; white-space: nowrap; }
.kind { color: var(--soft); white-space: nowrap; }
.score { text-align: right; }
td.score[style] {
  background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share));
  background-size: 100% 4px; background-position: bottom; background-repeat: no-repeat;
}
.pooled td, .pooled th { border-bottom-color: #9aa4ae; }
small { color: var(--soft); font-weight: 400; white-space: nowrap; }
dl { margin: 14px 0; }
.measures { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 4px 36px; }
.measures dt { font-weight: 600; margin-top: 10px; }
dd { margin: 0; }
.measures p { margin: 0 0 3px; font-size: 0.95rem; }
.measures .fine { color: var(--soft); font-size: 0.82rem; }
.facts div { display: flex; flex-wrap: wrap; gap: 0 12px; }
.facts dt { min-width: 11em; color: var(--soft); }
.facts dd { overflow-wrap: anywhere; }
figure { margin: 22px 0 30px; break-inside: avoid; }
figcaption { margin-bottom: 6px; }
figcaption strong { margin-right: 10px; }
img { display: block; width: 100%; height: auto; }
code { font-size: 0.8rem; overflow-wrap: anywhere; }
.files td, .files th { padding: 2px 9px; font-size: 0.82rem; }
footer { color: var(--soft); font-size: 0.85rem; padding-top: 20px; padding-bottom: 40px; }
@media print {
  body { font-size: 10.5pt; }
  main, header, footer { max-width: none; padding: 0; }
  nav { display: none; }
  .wide { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: 3px 4px; }
  tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .measures div { break-inside: avoid; }
  .measures p { font-size: 9.5pt; }
  .measures .fine { font-size: 8pt; }
  td.score[style] { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="subtitle">$subtitle</p>
<nav aria-label="Sections"><ul>
$navigation
</ul></nav>
</header>
<main>
<section id="overview"><h2>Overview</h2>
<p><strong>Mean over cases</strong>: the measure of every case, averaged; each case weighs the same.
<strong>Pooled</strong>: the voxel counts of all cases summed, then the measure of the sums, as if the cases were one
volume; each voxel weighs the same. The two differ, so say which one you quote. Tolerant measures allow $tolerance.</p>
$notes
$overview
</section>
<section id="cases"><h2>Scores per case</h2>
$per_case
</section>
<section id="figures"><h2>Figures</h2>
<p>$figure_note</p>
$figures
</section>
$training
<section id="measures"><h2>How to read the measures</h2>
<p>A dash is an undefined value; it is left out of the mean, and the number of cases in the mean is then
given below it.</p>
<dl class="measures">
$measures
</dl>
</section>
<section id="files"><h2>What was compared</h2>
$files
</section>
</main>
<footer><p>Made $made_on with $versions.</p></footer>
</body>
</html>
""")
