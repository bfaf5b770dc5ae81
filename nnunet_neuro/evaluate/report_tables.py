"""Tables of the report, as HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from nnunet_neuro.evaluate.fields import headlines
from nnunet_neuro.evaluate.measures import Measure
from nnunet_neuro.evaluate.report_values import RankedCase, badness, class_mean, ranking_measure, value_text
from nnunet_neuro.evaluate.summary import number_of
from nnunet_neuro.pages import table

if TYPE_CHECKING:
    from nnunet_neuro.evaluate.scores import CaseScores, Evaluation

# class to measure to value
Summary = Mapping[str, Mapping[str, float]]

_OPEN_UP_TO = 12  # rows
_SUMMARIES = ("mean over cases", "standard deviation", "lowest", "median", "highest", "pooled", "cases in mean")


def overview_tables(evaluation: Evaluation) -> str:
    """The headline measures of every class, and a closed list per family with all that was measured."""
    shown = [evaluation.measured[key] for key in headlines(evaluation.measured, evaluation.field_of_use)]
    if not shown:
        return "<p>Nothing was measured.</p>"
    rows = []
    mean, deviation, in_mean, pooled = evaluation.mean, evaluation.deviation, evaluation.cases_in_mean, evaluation.pooled
    for name in evaluation.names.classes:
        if len(evaluation.cases) == 1:
            cells = "".join(_cell(pooled[name][one.name], one) for one in shown)
            rows.append(f'<tr><th scope="row">{escape(name)}</th><td class="kind">the case</td>{cells}</tr>')
            continue
        cells = "".join(_cell(mean[name][one.name], one, _beside(deviation[name][one.name], in_mean[name][one.name],
                                                                len(evaluation.cases))) for one in shown)
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td class="kind">mean over cases</td>{cells}</tr>')
        cells = "".join(_cell(pooled[name][one.name], one) for one in shown)
        rows.append(f'<tr class="pooled"><th scope="row">{escape(name)}</th><td class="kind">pooled</td>{cells}</tr>')
    html = _table("Headline measures of each class", ["class", "value"], shown, rows)
    lists = [_family_list(evaluation, family, found, mean, deviation, in_mean, pooled)
             for family, found in by_family(evaluation.measured.values()).items()]
    return html + "".join(lists)


def case_tables(evaluation: Evaluation, ranked: Sequence[RankedCase]) -> str:
    """Every case, the worst first; of several classes, a row per case with its mean over the classes, and a closed table per class.

    A single case is in the overview already.
    """
    first = ranking_measure(evaluation)
    if first is None or len(ranked) == 1:
        return ""
    shown = [evaluation.measured[key] for key in headlines(evaluation.measured, evaluation.field_of_use)]
    folds = any(one.case.pair.fold is not None for one in ranked)
    heads = ["place", "case", *(["fold"] if folds else [])]
    names = list(evaluation.names.classes)
    if len(names) == 1:
        rows = [_case_row(one.place, one.case, folds, [_value_cells(one.case, names[0], shown)]) for one in ranked]
        return _table(f"Cases of {names[0]}, by {first.name} from the worst to the best", heads, shown, rows)
    rows = [_case_row(one.place, one.case, folds, [_cell(one.value, first), *(_cell(one.case.values[name][first.name]) for name in names)])
            for one in ranked]
    head = "".join(f'<th scope="col" class="score">{escape(name)}</th>' for name in ["mean", *names])
    parts = [_table(f"{first.name} of each class, by their mean from the worst to the best", heads, [], rows, more_heads=head)]
    for name in names:
        order = sorted((one.case for one in ranked), key=lambda case, name=name: badness(case.values[name][first.name], first),
                       reverse=True)
        rows = [_case_row(place, case, folds, [_value_cells(case, name, shown)]) for place, case in enumerate(order, 1)]
        parts.append(_closed(f"{escape(name)}: headline measures of {number_of(len(order), 'case')}",
                             _table(f"Cases of {name}, by {first.name} from the worst to the best", heads, shown, rows)))
    return "".join(parts)


def file_table(evaluation: Evaluation) -> str:
    """Every file that was compared, with its hash."""
    rows = []
    for case in evaluation.cases:
        volumes = {"prediction": case.pair.prediction, "reference": case.pair.reference, "image": case.pair.image}
        for role, digest in case.sha256.items():
            rows.append(f'<tr><th scope="row">{escape(case.pair.case)}</th><td>{role}</td>'
                        f"<td>{escape(Path(volumes[role].path).name)}</td><td><code>{digest}</code></td></tr>")
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("case", "role", "file", "SHA-256"))
    html = _table("Files compared", [], [], rows, more_heads=heads, kind="files")
    return html if len(rows) <= _OPEN_UP_TO else _closed(f"{len(rows)} files and their hashes", html)


def by_family(measured: Iterable[Measure]) -> dict[str, list[Measure]]:
    """Measures by the module that holds them, in the order given."""
    found: dict[str, list[Measure]] = {}
    for one in measured:
        found.setdefault(one.family, []).append(one)
    return found


def _family_list(evaluation: Evaluation, family: str, found: Sequence[Measure], mean: Summary, deviation: Summary, in_mean: Summary,
                 pooled: Summary) -> str:
    """All measures of a family, a row for each class; what is summed up over cases is given, because summing takes long."""
    rows, single = [], len(evaluation.cases) == 1
    for one in found:
        for name in evaluation.names.classes:
            values = [case.values[name][one.name] for case in evaluation.cases]
            values = [value for value in values if not math.isnan(value)]
            spread = [min(values), median(values), max(values)] if values else [math.nan] * 3
            numbers = [mean[name][one.name], deviation[name][one.name], *spread, pooled[name][one.name]]
            rows.append(f'<tr><th scope="row">{escape(one.name)}</th><td class="kind">{escape(name)}</td>'
                        + (_cell(values[0] if values else math.nan, one) if single else "".join(map(_cell, numbers))
                           + f'<td class="score">{in_mean[name][one.name]}</td>') + "</tr>")
    heads = "".join(f'<th scope="col" class="score">{text}</th>' for text in (["the case"] if single else _SUMMARIES))
    html = _table(f"All measures of the family {family}", ["measure", "class"], [], rows, more_heads=heads)
    return _closed(f"All of {escape(family)}: {number_of(len(found), 'measure')}", html)


def _case_row(place: int, case: CaseScores, folds: bool, cells: Iterable[str]) -> str:
    fold = f"<td>{escape(case.pair.fold or '–')}</td>" if folds else ""
    return f'<tr><td>{place}</td><th scope="row">{escape(case.pair.case)}</th>{fold}{"".join(cells)}</tr>'


def _value_cells(case: CaseScores, name: str, shown: Sequence[Measure]) -> str:
    """The first with its bar; bars in all of them would make the page heavy."""
    return "".join(_cell(case.values[name][one.name], one if place == 0 else None) for place, one in enumerate(shown))


def _table(caption: str, heads: Sequence[str], shown: Sequence[Measure], rows: Iterable[str], *, more_heads: str = "",
           kind: str = "") -> str:
    scores = "".join(f'<th scope="col" class="score">{_heading(one)}</th>' for one in shown)
    return table(caption, heads, rows, more_heads=scores + more_heads, kind=kind)


def _closed(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _heading(one: Measure) -> str:
    """The name, which may be broken at an underscore, and where better is."""
    arrow = {True: "↑ higher is better", False: "↓ lower is better", None: f"best {one.best:g}"}[one.higher_is_better]
    sign, _, meaning = arrow.partition(" ")
    name = escape(one.name).replace("_", "_<wbr>")
    return f'{name}<br><small title="{meaning}">{sign if one.higher_is_better is not None else arrow}</small>'


def _beside(deviation: float, cases: int, of: int) -> str:
    """The deviation, and the number of cases in a mean where it is not that of all."""
    notes = [] if math.isnan(deviation) else [f"± {value_text(deviation)}"]
    return "<br>".join([*notes, *([f"{cases} of {of}"] if cases != of else [])])


def _cell(value: float, one: Measure | None = None, note: str = "") -> str:
    """A number; with a bar below where it is a share."""
    bar = ""
    if one is not None and one.limits == (0.0, 1.0) and value >= 0.005:
        bar = f' style="--share:{min(value, 1) * 100:.0f}%"'
    return f'<td class="score"{bar}>{value_text(value)}{f"<br><small>{note}</small>" if note else ""}</td>'


def mean_of_classes(case: CaseScores, shown: Iterable[Measure]) -> str:
    """Measures of a case in a line of text."""
    return ", ".join(f"{one.name} {value_text(class_mean(case, one.name))}" for one in shown)
