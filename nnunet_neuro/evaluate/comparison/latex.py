"""A comparison as a LaTeX table for a paper."""

from __future__ import annotations

import math

from nnunet_neuro.evaluate.comparison.compare import Comparison, Pair, Summary, printed
from nnunet_neuro.evaluate.comparison.tables import marks

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
            "|": r"\textbar{}", '"': "''", "[": "{[}", "µ": r"\textmu{}", "μ": r"\textmu{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}


def comparison_tex(comparison: Comparison) -> str:
    """A booktabs table: a row per model, a column per measure, a block of rows per class (and rater), the best mean in bold."""
    blocks = [(rater, name) for rater in comparison.raters for name in comparison.classes]
    columns = len(comparison.measures) + 1
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{_caption(comparison)}}}",
             rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}", r"\toprule",
             " & ".join(["", *map(escaped, comparison.measures)]) + r" \\"]
    for rater, name in blocks:
        heading = f"{escaped(name)}{f' against {escaped(rater)}' if rater else ''}"
        lines += [r"\midrule", rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{heading}}}}} \\"]
        found = {measure: comparison.summaries_of((rater, name, measure)) for measure in comparison.measures}
        pairs = {measure: comparison.pairs_of((rater, name, measure)) for measure in comparison.measures}
        for place, model in enumerate(comparison.models):
            cells = [_cell(found[measure][place], stars_of(found[measure][place], found[measure], pairs[measure], comparison.baseline))
                     for measure in comparison.measures]
            lines.append(" & ".join([escaped(model), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(_SPECIAL.get(sign, sign) for sign in text)


def stars_of(one: Summary, summaries: list[Summary], pairs: list[Pair], baseline: str) -> str:
    """Marks of a model: against the baseline, or, where all pairs were tested, against the best (of several best ones, the nearest)."""
    against = {baseline} if baseline else {other.model for other in summaries if other.best}
    if one.model in against:
        return ""
    return min((marks(pair) for pair in pairs if one.model in (pair.model, pair.other) and {pair.model, pair.other} & against),
               key=len, default="")


def _cell(one: Summary, stars: str) -> str:
    if not one.cases:
        return "--"
    mean, sd, low, high = (printed(value).replace("-", "$-$") for value in (one.mean, one.sd, one.low, one.high))
    spread = "" if math.isnan(one.sd) else rf" $\pm$ {sd}"
    interval = "" if math.isnan(one.low) else f" [{low}, {high}]"
    stars = f"$^{{{stars}}}$" if stars else ""
    return (rf"\textbf{{{mean}}}" if one.best else mean) + stars + spread + interval


def _caption(comparison: Comparison) -> str:
    units = f"{len(comparison.cases)} case{'s' if len(comparison.cases) > 1 else ''}"
    if comparison.groups:
        units += f" of {len(set(comparison.groups))} groups"
    against = f"the baseline {escaped(comparison.baseline)}" if comparison.baseline else "the best model (bold)"
    return (rf"Mean $\pm$ standard deviation over {units} and 95\,\% bootstrap interval of the mean over {comparison.unit}s; best mean in "
            rf"bold. Difference from {against} by Wilcoxon's signed-rank test, Holm-adjusted for all comparisons: "
            r"$^{*}$~$p<0.05$, $^{**}$~$p<0.01$, $^{***}$~$p<0.001$.")
