"""Plots of the report: the cases' values of one class, its reliability diagram, and the training curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_neuro.colours import class_colour
from nnunet_neuro.evaluate.fields import headlines
from nnunet_neuro.evaluate.measures import Measure
from nnunet_neuro.evaluate.report_pictures import INK, Picture, new_figure, plain, png_of
from nnunet_neuro.evaluate.report_values import class_number_of, unit_of, value_text
from nnunet_neuro.evaluate.training_log import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from nnunet_neuro.evaluate.scores import Evaluation

_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
_MARKERS = "osD^vPX*"
_FEWEST_IN_A_BOX = 5
_MANY_POINTS = 60
_MOST_AXES_OF_THEIR_OWN = 4
_HEIGHT_OF_BOX, _HEIGHT_OF_SCALE, _HEIGHT_OF_SQUARE = 0.4, 0.5, 3.2  # inches
_DECADES_OF_A_LOG_AXIS = 1.3
_SCALE_OF_RATIOS = (0.0, 1.0)


def class_picture(evaluation: Evaluation, name: str) -> Picture | None:
    """The headline measures of a class over the cases, the volume against the first of them that is a share, and the reliability diagram.

    Returns:
        None where there is nothing to see: a single case without probabilities.
    """
    shown = [evaluation.measured[key] for key in headlines(evaluation.measured, evaluation.field_of_use)]
    several = len(evaluation.cases) > 1 and bool(shown)
    calibrated = all("calibration_voxels" in case.counts[name] for case in evaluation.cases)
    if not several and not calibrated:
        return None
    groups = _groups(shown) if several else []
    heights = [_HEIGHT_OF_SCALE + _HEIGHT_OF_BOX * len(group) for group in groups]
    wide = [4.9, 3.3] * several + [3.3] * calibrated
    figure = new_figure(sum(wide), max(_HEIGHT_OF_SQUARE, 0.1 + sum(heights)))
    parts = np.atleast_1d(figure.subfigures(1, len(wide), width_ratios=wide))
    told = []
    if several:
        told += [_boxes(ax, evaluation, name, group) for ax, group in zip(_from_the_top(parts[0], heights), groups)]
        told.append(_scatter(_from_the_top(parts[1], [_HEIGHT_OF_SQUARE])[0], evaluation, name, groups[0][0]))
    if calibrated:
        told.append(_reliability(_from_the_top(parts[-1], [_HEIGHT_OF_SQUARE])[0], evaluation, name))
    return Picture(png_of(figure), f"Class {name}. {' '.join(told)}")


def training_picture(fold: str, epochs: dict[int, Epoch]) -> Picture:
    """Training loss, validation loss and pseudo Dice of one fold over its epochs."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10, 3.1)
    losses, dice = figure.subplots(1, 2)
    numbers = list(epochs)
    marker = "o" if len(numbers) < 30 else ""
    losses.plot(numbers, [one.train_loss for one in epochs.values()], "-", marker=marker, ms=3, c="#0072b2", label="training")
    losses.plot(numbers, [one.val_loss for one in epochs.values()], "--", marker=marker, ms=3, c="#d55e00", label="validation")
    losses.set(title="loss", xlabel="epoch")
    classes = max(len(one.pseudo_dice) for one in epochs.values())
    if classes > 1:
        for index in range(classes):
            found = [one.pseudo_dice[index] if index < len(one.pseudo_dice) else np.nan for one in epochs.values()]
            dice.plot(numbers, found, "-", lw=0.8, c="#9a9a9a", label="each class" if index == 0 else None)
    dice.plot(numbers, [one.mean_pseudo_dice for one in epochs.values()], "-", marker=marker, ms=3, c=INK, label="mean")
    dice.set(title="pseudo Dice on validation patches", xlabel="epoch", ylim=(0, 1))
    for ax in (losses, dice):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _quiet(ax)
        ax.legend(frameon=False)
    last = epochs[numbers[-1]]
    return Picture(
        png_of(figure),
        f"{fold}: {len(numbers)} epochs; at the end training loss {last.train_loss:.3f}, validation loss {last.val_loss:.3f}, mean "
        f"pseudo Dice {last.mean_pseudo_dice:.3f}.",
    )


def _groups(shown: Sequence[Measure]) -> list[list[Measure]]:
    """Shares that are better high on one axis, those that are better low on another, the rest each on its own."""
    shares = [[one for one in shown if one.limits == _SCALE_OF_RATIOS and one.higher_is_better is better] for better in (True, False)]
    others = [[one] for one in shown if not any(one in group for group in shares)]
    return [group for group in shares if group] + others[:_MOST_AXES_OF_THEIR_OWN]


def _from_the_top(part: SubFigure, heights: Sequence[float]) -> list[Axes]:
    """Axes below each other, no higher than they should be.

    Args:
        part: of a figure.
        heights: in inches.
    """
    rest = max(0.01, part.bbox.height / part.dpi - sum(heights))
    *axes, below = part.subplots(len(heights) + 1, 1, height_ratios=[*heights, rest])
    below.axis("off")
    return axes


def _boxes(ax: Axes, evaluation: Evaluation, name: str, shown: Sequence[Measure]) -> str:
    """A box for each measure, with every case as a point; says what it shows."""
    from matplotlib.ticker import MaxNLocator

    number = class_number_of(evaluation, name)
    colour, marker = class_colour(number), _MARKERS[number % len(_MARKERS)]
    told, everything = [], []
    for place, one in enumerate(shown):
        values = np.array([case.values[name][one.name] for case in evaluation.cases], float)
        values = values[np.isfinite(values)]
        everything.extend(values)
        told.append(f"{one.name}: {_in_words(values)}")
        if not len(values):
            ax.text(0.5, place, "undefined in every case", transform=ax.get_yaxis_transform(), ha="center", va="center", color="#59636e")
            continue
        if len(values) >= _FEWEST_IN_A_BOX:
            _box(ax, values, place, colour=colour, hatch=_HATCHES[number % len(_HATCHES)])
        # neighbours in rank stand apart; not drawn at random, so that the same scores give the same picture
        aside = (np.argsort(np.argsort(values, kind="stable")) * 0.618 % 1 - 0.5) * 0.45
        many = len(values) > _MANY_POINTS
        ax.plot(values, place + aside, marker, ms=6 if len(values) < _FEWEST_IN_A_BOX else 2.5 if many else 3.5, c=INK,
                alpha=0.3 if many else 0.6, mew=0, clip_on=False)
    ax.set_yticks(range(len(shown)), [f"{plain(one.name)} {_arrow(one)}" for one in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    if len(shown) == 1 and shown[0].limits != _SCALE_OF_RATIOS:
        ax.set_xlabel(unit_of(shown[0]), fontsize=9)
    ax.set_xlim(*_range(everything, shown[0]))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    _quiet(ax, "x")
    return f"{'; '.join(told)}."


def _box(ax: Axes, values: np.ndarray, place: float, *, colour: str, hatch: str) -> None:
    """A lying box; not `Axes.boxplot`, whose word for lying differs between versions of matplotlib."""
    from matplotlib.cbook import boxplot_stats
    from matplotlib.colors import to_rgba

    found = boxplot_stats(values)[0]
    ax.barh(place, found["q3"] - found["q1"], height=0.62, left=found["q1"], facecolor=to_rgba(colour, 0.3), edgecolor=colour, hatch=hatch,
            linewidth=1.4)
    for end, quartile in (("whislo", "q1"), ("whishi", "q3")):
        ax.plot([found[quartile], found[end]], [place, place], c=colour, lw=1.4)
        ax.plot([found[end]] * 2, [place - 0.16, place + 0.16], c=colour, lw=1.4)
    ax.plot([found["med"]] * 2, [place - 0.31, place + 0.31], c=INK, lw=2)


def _scatter(ax: Axes, evaluation: Evaluation, name: str, one: Measure) -> str:
    """Volume of the reference against a measure."""
    from matplotlib.ticker import MaxNLocator

    number = class_number_of(evaluation, name)
    volumes = np.array([_volume(case.counts[name], case.spacing) for case in evaluation.cases])
    values = np.array([case.values[name][one.name] for case in evaluation.cases], float)
    known = np.isfinite(values)
    positive = volumes[known & (volumes > 0)]
    logarithmic = len(positive) > 1 and math.log10(positive.max() / positive.min()) > _DECADES_OF_A_LOG_AXIS
    drawn = known & (volumes > 0) if logarithmic else known
    unknown = any(case.spacing is None for case in evaluation.cases)
    empty = f"; {np.count_nonzero(known & ~drawn)} empty left out" if (known & ~drawn).any() else ""
    ax.set_xlabel(f"volume of the reference\n({'voxels' if unknown else 'voxel size cubed'}{empty})", fontsize=9)
    ax.set_ylabel(f"{plain(one.name)} {_arrow(one)}", fontsize=9)
    if logarithmic:
        ax.set_xscale("log")
    _quiet(ax)
    if not drawn.any():
        ax.text(0.5, 0.5, "no case to show", transform=ax.transAxes, ha="center", color="#59636e")
        return ""
    ax.plot(volumes[drawn], values[drawn], _MARKERS[number % len(_MARKERS)], ms=5, c=class_colour(number), mec=INK, mew=0.4, alpha=0.8,
            clip_on=False)
    ax.margins(0.12)
    if not logarithmic:
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.ticklabel_format(axis="x", scilimits=(-3, 4))
    return _told_relation(volumes[drawn], values[drawn], one)


def _reliability(ax: Axes, evaluation: Evaluation, name: str) -> str:
    """How often the class is there against how probable the model said it was, over all cases."""
    from nnunet_neuro.evaluate.measures.calibration import reliability

    keys = [key for key in evaluation.cases[0].counts[name] if key.startswith("calibration")]
    points = reliability({key: sum(case.counts[name][key] for case in evaluation.cases) for key in keys})
    number = class_number_of(evaluation, name)
    share = points.voxels / points.voxels.sum()
    ax.plot([0, 1], [0, 1], "--", c="#59636e", lw=1, label="calibrated")
    ax.plot(points.predicted, points.observed, "-", c=class_colour(number), lw=1.6)
    ax.scatter(points.predicted, points.observed, s=14 + 110 * np.sqrt(share), marker=_MARKERS[number % len(_MARKERS)],
               color=class_colour(number), edgecolor=INK, linewidth=0.5, zorder=3, clip_on=False, label="larger mark: more voxels")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel("mean probability given", fontsize=9)
    ax.set_ylabel("share that is the class", fontsize=9)
    ax.legend(frameon=False, loc="best", fontsize=8)
    _quiet(ax)
    largest = np.abs(points.predicted - points.observed).argmax()
    return (f"Reliability: {len(points.voxels)} bins of probability; the farthest from calibrated says {points.predicted[largest]:.2f} on "
            f"average where {points.observed[largest]:.2f} of the voxels are the class.")


def _told_relation(volumes: np.ndarray, values: np.ndarray, one: Measure) -> str:
    from scipy.stats import spearmanr

    if len(volumes) < 3 or np.ptp(volumes) == 0 or np.ptp(values) == 0:
        return f"{one.name} against the volume of the reference, {volumes.min():.4g} to {volumes.max():.4g}."
    found = spearmanr(volumes, values).statistic
    return (f"{one.name} against the volume of the reference, {volumes.min():.4g} to {volumes.max():.4g}: rank correlation {found:.2f}.")


def _volume(counts: dict, spacing: tuple[float, float, float] | None) -> float:
    return (counts["true_positive"] + counts["false_negative"]) * math.prod(spacing or (1.0,))


def _range(values: Sequence[float], one: Measure) -> tuple[float, float]:
    """Axis limits: of shares from a tenth below the lowest value to 1, of lengths from 0."""
    lowest, highest = (min(values), max(values)) if len(values) else one.limits
    if one.limits == _SCALE_OF_RATIOS:
        low, high = math.floor(lowest * 10 - 0.3) / 10, math.ceil(highest * 10 + 0.3) / 10
        return (max(low, 0.0) - 0.004, min(high, 1.0) + 0.004)
    if not all(map(math.isfinite, (lowest, highest))):
        lowest, highest = 0.0, 1.0
    margin = 0.05 * (max(highest, 0.0) - min(lowest, 0.0)) or 1.0
    return (min(lowest, 0.0) - (margin if lowest < 0 else 0.01 * margin), max(highest, 0.0) + margin)


def _in_words(values: np.ndarray) -> str:
    if not len(values):
        return "undefined in every case"
    lowest, first, median, third, highest = map(value_text, np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    return f"median {median}, quartiles {first} to {third}, range {lowest} to {highest}"


def _arrow(one: Measure) -> str:
    """Where better is."""
    return {True: "↑", False: "↓", None: f"(best {one.best:g})"}[one.higher_is_better]


def _quiet(ax: Axes, axis: str = "both") -> None:
    ax.tick_params(labelsize=9)
    ax.grid(axis=axis, color="#d5dae0", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
