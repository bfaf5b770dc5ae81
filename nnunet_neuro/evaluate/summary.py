"""Scores as text for a terminal or a table cell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nnunet_neuro.evaluate.fields import headlines

if TYPE_CHECKING:
    from nnunet_neuro.evaluate.run import Evaluation

_COLUMNS = 8


def summary_text(evaluation: Evaluation) -> str:
    """The mean over cases and the pooled value per class, one measure per column, and what a reader must know.

    Shown are the headline measures of the field of use; the files hold all.
    """
    tolerance = "two voxels" if evaluation.tolerance is None else f"{evaluation.tolerance:g} (unit of the voxel size)"
    lines = [f"{number_of(len(evaluation.cases), 'case')}, tolerance {tolerance}"]
    shown = headlines(evaluation.measured, evaluation.field_of_use)
    for first in range(0, len(shown), _COLUMNS):
        lines += _table(evaluation, shown[first:first + _COLUMNS])
    if len(shown) < len(evaluation.measured):
        lines.append(f"{len(evaluation.measured) - len(shown)} more measures are in the files")
    if evaluation.left_out:
        lines.append(f"left out: {number_of(len(evaluation.left_out), 'reference')} without prediction")
    for reason in dict.fromkeys(evaluation.left_out_measures.values()):
        names = [name for name, other in evaluation.left_out_measures.items() if other == reason]
        lines.append(f"left out: {', '.join(names)}, because {reason}")
    lines += [f"warning: {warning}" for warning in evaluation.warnings]
    return "\n".join(lines)


def score_text(value: float) -> str:
    """Three decimals; a dash where the measure is undefined."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def number_of(number: int, thing: str) -> str:
    """A number with its noun, in the plural where it needs one."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _table(evaluation: Evaluation, measures: Sequence[str]) -> Iterator[str]:
    table = [["", "", *(name.partition("_")[part] for name in measures)] for part in (0, 2)]
    for title, found in (("mean", evaluation.mean), ("pooled", evaluation.pooled)):
        table += [[name, title, *(_cell(found[name][key], evaluation.measured[key].dimension) for key in measures)]
                  for name in evaluation.names.classes]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [text.ljust(width) if n < 2 else text.rjust(width) for n, (text, width) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()


def _cell(value: float, dimension: int) -> str:
    """A length may be far from 1, in whatever unit it is."""
    return f"{value:.3g}" if dimension and not math.isnan(value) else score_text(value)
