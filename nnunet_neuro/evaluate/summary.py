"""Scores as text for a terminal or a table cell."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nnunet_neuro.evaluate.measures import MEASURES

if TYPE_CHECKING:
    from nnunet_neuro.evaluate.run import Evaluation


def summary_text(evaluation: Evaluation) -> str:
    """A table of the mean over cases and the pooled value per class, one measure per column."""
    table = [
        ["", "", *(name.partition("_")[0] for name in MEASURES)],
        ["", "", *(name.partition("_")[2] for name in MEASURES)],
    ]
    for title, found in (("mean", evaluation.mean), ("pooled", evaluation.pooled)):
        table += [[name, title, *map(score_text, found[name].values())] for name in evaluation.names.classes]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"{number_of(len(evaluation.cases), 'case')}, tolerance {number_of(evaluation.tolerance, 'voxel')}"]
    for row in table:
        cells = [text.ljust(width) if n < 2 else text.rjust(width) for n, (text, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    if evaluation.left_out:
        lines.append(f"left out: {number_of(len(evaluation.left_out), 'reference')} without prediction")
    return "\n".join(lines)


def score_text(value: float) -> str:
    """Three decimals; a dash where the measure is undefined."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def number_of(number: int, thing: str) -> str:
    """A number with its noun, in the plural where it needs one."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
