"""Values as the report writes them, and the order of the cases in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunet_neuro.evaluate.fields import headlines
from nnunet_neuro.evaluate.measures import Measure
from nnunet_neuro.evaluate.summary import score_text

if TYPE_CHECKING:
    from nnunet_neuro.evaluate.scores import CaseScores, Evaluation


@dataclass(frozen=True)
class RankedCase:
    """A case in its place.

    Attributes:
        case: its scores.
        place: 1 for the worst.
        value: the ranking measure, averaged over the classes where it is defined; NaN where it is in none.
    """

    case: CaseScores
    place: int
    value: float


def ranking_measure(evaluation: Evaluation) -> Measure | None:
    """The first headline measure of the field of use; None where nothing was measured."""
    return next((evaluation.measured[key] for key in headlines(evaluation.measured, evaluation.field_of_use)), None)


def ranked_cases(evaluation: Evaluation) -> list[RankedCase]:
    """The cases from the worst to the best; those where the ranking measure is undefined come last, equal ones in the order given."""
    one = ranking_measure(evaluation)
    values = [math.nan if one is None else class_mean(case, one.name) for case in evaluation.cases]
    order = sorted(range(len(values)), key=[badness(value, one) for value in values].__getitem__, reverse=True)
    return [RankedCase(evaluation.cases[index], place, values[index]) for place, index in enumerate(order, 1)]


def badness(value: float, one: Measure | None) -> float:
    """A number that is larger for worse values, and lowest for an undefined one."""
    if one is None or math.isnan(value):
        return -math.inf
    if one.higher_is_better is None:
        return abs(value - one.best)
    return -value if one.higher_is_better else value


def class_mean(case: CaseScores, key: str) -> float:
    """A measure averaged over the classes where it is defined."""
    found = [values[key] for values in case.values.values() if not math.isnan(values[key])]
    return sum(found) / len(found) if found else math.nan


def class_number_of(evaluation: Evaluation, name: str) -> int:
    """Place of a class, which decides its colour in all pictures."""
    return list(evaluation.names.classes).index(name)


def value_text(value: float) -> str:
    """Three decimals, or as many digits as a very small or large value needs; a dash where it is undefined."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if 0 < abs(value) < 0.0095:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 1000 else score_text(value)


def unit_of(one: Measure) -> str:
    """Unit of a measure in words."""
    if one.dimension == 0:
        return "a share" if one.limits == (0.0, 1.0) else "a number"
    power = {1: "a length", -1: "per length"}.get(one.dimension, f"a length to the power {one.dimension}")
    return f"{power}, in the unit of the voxel size"
