"""The comparison as one HTML page."""

from __future__ import annotations

from html import escape

from nnunet_neuro.evaluate.comparison.compare import Comparison, Pair, Summary, printed
from nnunet_neuro.evaluate.comparison.figures import box_picture, difference_pictures
from nnunet_neuro.evaluate.comparison.notes import notes, reading
from nnunet_neuro.evaluate.comparison.tables import interval_text, marks, p_text, signed, title
from nnunet_neuro.evaluate.report_pictures import Picture, figure_tag
from nnunet_neuro.pages import Section, page, table

_MODEL_HEADS = ("model", "cases", "mean", "sd", "95 % interval")
_PAIR_HEADS = ("model", "minus", "cases", "mean difference", "95 % interval", "Wilcoxon p", "adjusted by Holm", "permutation p",
               "adjusted by Holm", "rank-biserial", "d_z", "verdict")


def comparison_page(comparison: Comparison) -> str:
    """The page: for each measure the box plots, the differences and the tables of every class."""
    warnings = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
    sections = [
        Section("notes", "Before you read", f'<ul class="notes">{warnings}</ul>' if warnings else ""),
        *(Section(f"measure-{number}", name, _measure(comparison, name)) for number, name in enumerate(comparison.measures)),
        Section("reading", "How to read the tables", "".join(f"<p>{escape(text)}</p>" for text in (_READING, *reading(comparison)))),
        Section("files", "What was compared", _files(comparison)),
    ]
    return page(f"Comparison of {', '.join(comparison.models)}", sections, subtitle=_subtitle(comparison), style=_STYLE,
                footer=f"Made {comparison.made_on} by nnneuro_compare.")


def _subtitle(comparison: Comparison) -> str:
    parts = [f"{len(comparison.cases)} cases"]
    if comparison.groups:
        parts.append(f"{len(set(comparison.groups))} groups")
    if comparison.raters != [""]:
        parts.append(f"references {', '.join(comparison.raters)}")
    return " · ".join([*parts, f"baseline {comparison.baseline}" if comparison.baseline else "all pairs", comparison.made_on[:10]])


def _measure(comparison: Comparison, name: str) -> str:
    tables = []
    for block in comparison.blocks():
        if block[2] == name:
            summaries, heading = comparison.summaries_of(block), title(block)
            models = [_row(_model_row(one), strong=one.best) for one in summaries]
            pairs = [_row(_pair_row(one)) for one in comparison.pairs_of(block)]
            tables += [f"<h3>{escape(heading)}</h3>", table(f"{heading}: each model", _MODEL_HEADS, models),
                       table(f"{heading}: paired differences", _PAIR_HEADS, pairs)]
    return "".join(map(_figure, [box_picture(comparison, name), *difference_pictures(comparison, name)])) + "".join(tables)


def _model_row(one: Summary) -> list[str]:
    mean = printed(one.mean) + (" (best)" if one.best else "")
    return [one.model, str(one.cases), mean, printed(one.sd), interval_text(one.low, one.high)]


def _pair_row(one: Pair) -> list[str]:
    return [one.model, one.other, str(one.cases), signed(one.difference), interval_text(one.low, one.high, signed), p_text(one.wilcoxon_p),
            p_text(one.wilcoxon_p_holm), p_text(one.permutation_p), p_text(one.permutation_p_holm), signed(one.rank_biserial),
            signed(one.cohens_d_z), f"{one.better} better {marks(one)}" if one.significant and one.better else "–"]


def _files(comparison: Comparison) -> str:
    rows = [_row([one.model, one.rater or "–", str(one.path), one.sha256, one.made_with.get("nnunet_neuro", "–")])
            for one in comparison.scores]
    return table("Scores compared", ("model", "rater", "scores.json", "SHA-256", "nnunet_neuro"), rows)


def _row(texts: list[str], *, strong: bool = False) -> str:
    first, *others = map(escape, texts)
    cells = "".join(f"<td>{text}</td>" for text in others)
    return f'<tr{" class=best" if strong else ""}><th scope="row">{first}</th>{cells}</tr>'


def _figure(picture: Picture) -> str:
    caption, _, _ = picture.alternative.partition(". ")
    return figure_tag(picture, f"{escape(caption)}.")


_READING = (
    "In the box plots a box spans the quartiles, the line in it is the median, the whiskers reach the farthest case within 1.5 times the "
    "height of the box, and every case is a point. In the plots of differences a filled mark is a significant difference.")

_STYLE = """
tbody th { font-weight: 400; }
td { white-space: nowrap; }
.best th, .best td { font-weight: 700; }
/* captions stand below */
figure { display: flex; flex-direction: column-reverse; align-items: flex-start; margin: 16px 0; }
figcaption { color: var(--soft); }
"""
