"""The comparison as one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

import base64
from html import escape
from string import Template

from nnunet_neuro.evaluate.comparison.compare import Comparison, Pair, Summary, printed
from nnunet_neuro.evaluate.comparison.figures import Picture, box_picture, difference_pictures
from nnunet_neuro.evaluate.comparison.notes import notes, reading
from nnunet_neuro.evaluate.comparison.tables import interval_text, marks, p_text, signed, title

_MODEL_HEADS = ("model", "cases", "mean", "sd", "95 % interval")
_PAIR_HEADS = ("model", "minus", "cases", "mean difference", "95 % interval", "Wilcoxon p", "adjusted by Holm", "permutation p",
               "adjusted by Holm", "rank-biserial", "d_z", "verdict")


def comparison_page(comparison: Comparison) -> str:
    """The page: for each measure the box plots, the differences and the tables of every class."""
    warnings = "".join(f"<li>{escape(note)}</li>" for note in notes(comparison))
    return _PAGE.substitute(
        title=escape(f"Comparison of {', '.join(comparison.models)}"),
        subtitle=escape(_subtitle(comparison)),
        navigation="\n".join(f'<li><a href="#measure-{number}">{escape(name)}</a></li>' for number, name in enumerate(comparison.measures)),
        notes=f'<section id="notes"><h2>Before you read</h2><ul>{warnings}</ul></section>' if warnings else "",
        measures="\n".join(_measure(comparison, number, name) for number, name in enumerate(comparison.measures)),
        reading="".join(f"<p>{escape(sentence)}</p>" for sentence in reading(comparison)),
        files=_table("Scores compared", ("model", "rater", "scores.json", "SHA-256", "nnunet_neuro"), [
            [one.model, one.rater or "–", str(one.path), one.sha256, one.made_with.get("nnunet_neuro", "–")] for one in comparison.scores]),
        made_on=escape(comparison.made_on),
    )


def _subtitle(comparison: Comparison) -> str:
    parts = [f"{len(comparison.cases)} cases"]
    if comparison.groups:
        parts.append(f"{len(set(comparison.groups))} groups")
    if comparison.raters != [""]:
        parts.append(f"references {', '.join(comparison.raters)}")
    return " · ".join([*parts, f"baseline {comparison.baseline}" if comparison.baseline else "all pairs", comparison.made_on[:10]])


def _measure(comparison: Comparison, number: int, name: str) -> str:
    tables = []
    for block in comparison.blocks():
        if block[2] == name:
            summaries, heading = comparison.summaries_of(block), title(block)
            best = [one.best for one in summaries]
            tables += [f"<h3>{escape(heading)}</h3>",
                       _table(f"{heading}: each model", _MODEL_HEADS, list(map(_model_row, summaries)), strong=best),
                       _table(f"{heading}: paired differences", _PAIR_HEADS, list(map(_pair_row, comparison.pairs_of(block))))]
    pictures = "".join(map(_figure, [box_picture(comparison, name), *difference_pictures(comparison, name)]))
    return f'<section id="measure-{number}"><h2>{escape(name)}</h2>{pictures}{"".join(tables)}</section>'


def _model_row(one: Summary) -> list[str]:
    mean = printed(one.mean) + (" (best)" if one.best else "")
    return [one.model, str(one.cases), mean, printed(one.sd), interval_text(one.low, one.high)]


def _pair_row(one: Pair) -> list[str]:
    return [one.model, one.other, str(one.cases), signed(one.difference), interval_text(one.low, one.high, signed), p_text(one.wilcoxon_p),
            p_text(one.wilcoxon_p_holm), p_text(one.permutation_p), p_text(one.permutation_p_holm), signed(one.rank_biserial),
            signed(one.cohens_d_z), f"{one.better} better {marks(one)}" if one.significant and one.better else "–"]


def _table(caption: str, heads: tuple[str, ...], rows: list[list[str]], *, strong: list[bool] | None = None) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "\n".join(
        f'<tr{" class=best" if strong and strong[place] else ""}><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in others) + "</tr>"
        for place, (first, *others) in enumerate(rows))
    return (f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>")


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    caption, _, _ = picture.alternative.partition(". ")
    return (f'<figure><img alt="{escape(picture.alternative)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}.</figcaption></figure>")


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #1d2329; --soft: #59636e; --line: #d5dae0; --accent: #0b5c94; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Arial, sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; }
.skip { position: absolute; left: -10000px; }
.skip:focus { left: 24px; top: 4px; background: #fff; padding: 4px 10px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 44px 0 10px; padding-top: 14px; border-top: 2px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 26px 0 4px; }
p, li { max-width: 84ch; }
p { margin: 0 0 10px; }
.subtitle, footer, caption, figcaption { color: var(--soft); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 14px 0 0; padding: 0; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid #b35c00; outline-offset: 2px; }
#notes ul { border-left: 6px solid #e69f00; margin: 0; padding: 4px 0 4px 34px; }
.wide { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: 0.9rem; padding: 0 0 4px; }
th, td { padding: 5px 9px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; line-height: 1.25; }
tbody th { font-weight: 400; }
.best th, .best td { font-weight: 700; }
figure { margin: 16px 0; break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; }
footer { font-size: 0.85rem; padding-top: 20px; padding-bottom: 40px; }
@media print {
  body { font-size: 10pt; }
  main, header, footer { max-width: none; padding: 0; }
  nav, .skip { display: none; }
  .wide { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 2px 4px; }
  tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
</style>
</head>
<body>
<a class="skip" href="#main">Skip to the comparison</a>
<header>
<h1>$title</h1>
<p class="subtitle">$subtitle</p>
<nav aria-label="Sections"><ul>
$navigation
<li><a href="#reading">How to read the tables</a></li>
<li><a href="#files">What was compared</a></li>
</ul></nav>
</header>
<main id="main">
$notes
$measures
<section id="reading"><h2>How to read the tables</h2>
<p>In the box plots a box spans the quartiles, the line in it is the median, the whiskers reach the farthest case within 1.5 times the
height of the box, and every case is a point. In the plots of differences a filled mark is a significant difference.</p>
$reading
</section>
<section id="files"><h2>What was compared</h2>
$files
</section>
</main>
<footer><p>Made $made_on by nnneuro_compare.</p></footer>
</body>
</html>
""")
