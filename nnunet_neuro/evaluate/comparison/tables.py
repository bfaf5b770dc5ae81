"""A comparison as text for the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from nnunet_neuro.evaluate.comparison.compare import Comparison, Pair, Summary, printed
from nnunet_neuro.evaluate.comparison.notes import notes, reading
from nnunet_neuro.evaluate.scores import versions

_KEYS = ("rater", "class_name", "measure", "model", "other", "cases", "units")


def comparison_text(comparison: Comparison) -> str:
    """Two tables for each class and measure, the models' and the pairs', then the notes; best means are marked with >."""
    lines = [f"{len(comparison.models)} models, {len(comparison.cases)} cases"
             + (f" in {len(set(comparison.groups))} groups" if comparison.groups else "")]
    for block in comparison.blocks():
        lines += ["", title(block)]
        rows = [["", "model", "cases", "mean", "sd", "95 % interval"]]
        rows += [[">" if one.best else "", one.model, str(one.cases), printed(one.mean), printed(one.sd), interval_text(one.low, one.high)]
                 for one in comparison.summaries_of(block)]
        lines += aligned(rows)
        rows = [["", "difference", "cases", "mean", "95 % interval", "Wilcoxon", "Holm", "permut.", "Holm", "rank-bis.", "d_z"]]
        rows += [[marks(one), f"{one.model} - {one.other}", str(one.cases), signed(one.difference),
                  interval_text(one.low, one.high, signed), p_text(one.wilcoxon_p), p_text(one.wilcoxon_p_holm), p_text(one.permutation_p),
                  p_text(one.permutation_p_holm), signed(one.rank_biserial), signed(one.cohens_d_z)] for one in comparison.pairs_of(block)]
        lines += aligned(rows)
    lines += ["", "> best mean.  * ** ***: differs by Wilcoxon's test, Holm-adjusted p below 0.05, 0.01, 0.001"]
    lines += [f"note: {note}" for note in notes(comparison)]
    return "\n".join(lines)


def comparison_csv(comparison: Comparison) -> str:
    """Rows `model` with mean and interval, then rows `pair` with difference, tests and effect sizes; undefined values are nan."""
    columns = [*_KEYS, *dict.fromkeys(field.name for kind in (Summary, Pair) for field in fields(kind) if field.name not in _KEYS)]
    text = io.StringIO()
    table = csv.DictWriter(text, ["row", *columns], restval="", lineterminator="\n")
    table.writerow({"row": "row", **{name: name.removesuffix("_name") for name in columns}})
    for kind, rows in (("model", comparison.summaries), ("pair", comparison.pairs)):
        for one in rows:
            table.writerow({"row": kind, **{name: f"{value:.6g}" if isinstance(value, float) else value
                                            for name, value in asdict(one).items()}})
    return text.getvalue()


def comparison_json(comparison: Comparison) -> str:
    """Everything, with where it came from; an undefined value is null."""
    document = {
        "made_on": comparison.made_on,
        "made_with": versions(),
        "models": [{"model": one.model, "rater": one.rater, "scores": str(one.path), "sha256": one.sha256, "made_with": one.made_with}
                   for one in comparison.scores],
        "classes": comparison.classes,
        "measures": {name: comparison.scores[0].measures[name] for name in comparison.measures},
        "tolerance": comparison.scores[0].tolerance,
        "baseline": comparison.baseline or None,
        "cases": comparison.cases,
        "groups": comparison.groups and dict(zip(comparison.cases, comparison.groups)),
        "groups_from": comparison.groups_from and str(comparison.groups_from),
        "seed": comparison.seed,
        "summaries": [_entry(one) for one in comparison.summaries],
        "pairs": [{**_entry(one), "significant": one.significant} for one in comparison.pairs],
        "notes": notes(comparison),
        "how_to_read": reading(comparison),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def title(block: tuple[str, str, str]) -> str:
    """Heading of a table."""
    rater, class_name, measure = block
    return f"{measure} of {class_name}{f' against {rater}' if rater else ''}"


def marks(pair: Pair) -> str:
    """Stars by the adjusted p-value of Wilcoxon's test."""
    return "*" * sum(pair.wilcoxon_p_holm < limit for limit in (0.05, 0.01, 0.001))


def p_text(p: float) -> str:
    """Three decimals, or that it is smaller."""
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float) -> str:
    """As `printed`, with a plus sign."""
    text = printed(value)
    return f"+{text}" if value > 0 and float(text) else text


def interval_text(low: float, high: float, number: Any = printed) -> str:
    """Both ends of an interval."""
    return "–" if math.isnan(low) else f"{number(low)} to {number(high)}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width; the first two are words, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) if place < 2 else cell.rjust(width)
                      for place, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]


def _entry(row: Summary | Pair) -> dict[str, Any]:
    return {name.removesuffix("_name"): None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(row).items()}
