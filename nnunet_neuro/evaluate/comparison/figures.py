"""Figures of a comparison: box plots of the cases' scores, and the paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_neuro.colours import class_colour
from nnunet_neuro.evaluate.comparison.compare import Comparison, Pair, printed
from nnunet_neuro.evaluate.comparison.tables import interval_text, signed, title
from nnunet_neuro.evaluate.report_pictures import INK, Picture, new_figure, plain, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
_MARKERS = "osD^vPX*"
_BOXES_IN_A_ROW = 20
_PAIRS_IN_A_PICTURE = 40
_TOLD = 12
_WIDTH, _DPI = 10, 110  # inches; so that a picture fits into the page without being scaled


def box_picture(comparison: Comparison, measure: str) -> Picture:
    """A box per model for each class (and rater): median, quartiles, whiskers to 1.5 times their distance, every case as a point."""
    groups = [(rater, name) for name in comparison.classes for rater in comparison.raters]
    number_of_rows = math.ceil(len(groups) / max(1, _BOXES_IN_A_ROW // len(comparison.models)))
    per_row = math.ceil(len(groups) / number_of_rows)
    rows = [groups[start:start + per_row] for start in range(0, len(groups), per_row)]
    figure = new_figure(_WIDTH, 0.6 + 2.9 * len(rows), dpi=_DPI)
    axes = figure.subplots(len(rows), 1, squeeze=False, sharey=True)[:, 0]
    told, step = [], 0.8 / len(comparison.models)
    for ax, row in zip(axes, rows):
        for place, (rater, name) in enumerate(row):
            for number, model in enumerate(comparison.models):
                values = comparison.of(model, rater).values[name][measure]
                values = values[~np.isnan(values)]
                told.append(f"{title((rater, name, measure))}, {model}: {_in_words(values)}")
                if len(values):
                    _draw_box(ax, values, number, place=place + (number + 0.5) * step - 0.4, width=0.8 * step)
        ax.set_xticks(range(len(row)), [plain(f"{name}\n{rater}" if rater else name) for rater, name in row])
        ax.set(xlim=(-0.55, len(rows[0]) - 0.45), ylabel=measure)
    figure.legend(handles=_legend(comparison.models), loc="outside upper center", ncols=min(len(comparison.models), 5), frameon=False)
    return Picture(_png(figure), f"Box plots of {measure} over the cases. {_listed(told)}.")


def difference_pictures(comparison: Comparison, measure: str) -> list[Picture]:
    """Mean difference and its interval for every pair of models, filled where it is significant; 40 pairs in a picture."""
    pairs = [one for one in comparison.pairs if one.measure == measure and one.cases]
    return [_differences(comparison, pairs[start:start + _PAIRS_IN_A_PICTURE], measure)
            for start in range(0, len(pairs), _PAIRS_IN_A_PICTURE)]


def _differences(comparison: Comparison, pairs: Sequence[Pair], measure: str) -> Picture:
    figure = new_figure(_WIDTH, 0.9 + 0.3 * len(pairs), dpi=_DPI)
    ax = figure.subplots()
    ax.axvline(0, color=INK, lw=1)
    for place, one in enumerate(pairs):
        colour = class_colour(comparison.models.index(one.model))
        if not math.isnan(one.low):
            ax.plot([one.low, one.high], [place, place], color=colour, lw=2)
        ax.plot([one.difference], [place], _MARKERS[comparison.models.index(one.model) % len(_MARKERS)], ms=8, mec=colour, mew=2,
                mfc=colour if one.significant else "white")
    several = len(comparison.classes) > 1 or len(comparison.raters) > 1
    labels = [f"{one.class_name}{f' · {one.rater}' if one.rater else ''}: " * several + f"{one.model} − {one.other}" for one in pairs]
    ax.set_yticks(range(len(pairs)), list(map(plain, labels)))
    ax.set(ylim=(len(pairs) - 0.5, -0.5), xlabel=f"mean difference of {measure} and 95 % interval")
    told = [f"{title((one.rater, one.class_name, measure))}, {one.model} minus {one.other}: {signed(one.difference)} "
            f"({interval_text(one.low, one.high, signed)}){', significant' if one.significant else ''}" for one in pairs]
    return Picture(_png(figure), f"Mean paired differences of {measure}. {_listed(told)}.")


def _draw_box(ax: Axes, values: np.ndarray, number: int, *, place: float, width: float) -> None:
    from matplotlib.colors import to_rgba

    colour = class_colour(number)
    drawn = ax.boxplot([values], positions=[place], widths=[width], showfliers=False, patch_artist=True, manage_ticks=False)
    drawn["boxes"][0].set(facecolor=to_rgba(colour, 0.3), edgecolor=colour, hatch=_HATCHES[number % len(_HATCHES)], lw=1.5)
    for part in (*drawn["whiskers"], *drawn["caps"]):
        part.set(color=colour, lw=1.3)
    drawn["medians"][0].set(color=INK, lw=2)
    # neighbours in rank stand apart; not drawn at random, so that the same scores give the same picture
    aside = (np.argsort(np.argsort(values, kind="stable")) * 0.618 % 1 - 0.5) * width * 0.7
    ax.plot(place + aside, values, _MARKERS[number % len(_MARKERS)], ms=3.5, c=INK, alpha=0.6, mew=0)


def _legend(models: list[str]) -> list:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    return [Patch(facecolor=to_rgba(class_colour(number), 0.3), edgecolor=class_colour(number), hatch=_HATCHES[number % len(_HATCHES)],
                  label=plain(model)) for number, model in enumerate(models)]


def _listed(told: Sequence[str]) -> str:
    """The first of many; a description of a picture that goes on for minutes helps nobody."""
    more = f"; and {len(told) - _TOLD} more, as in the tables below" if len(told) > _TOLD else ""
    return "; ".join(told[:_TOLD]) + more


def _in_words(values: np.ndarray) -> str:
    if not len(values):
        return "undefined in every case"
    lowest, first, median, third, highest = (printed(number) for number in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    return f"median {median}, quartiles {first} to {third}, range {lowest} to {highest}"


def _png(figure: Figure) -> bytes:
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="both", color="#d5dae0", lw=0.6)
        ax.set_axisbelow(True)
    return png_of(figure)
