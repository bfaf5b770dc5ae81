"""What a reader must know before believing a comparison, in sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from nnunet_neuro.evaluate.comparison.compare import SIGNIFICANT, Comparison
from nnunet_neuro.evaluate.comparison.statistics import MOST_EXACT, RESAMPLES

_FEW_UNITS = 10
_LISTED = 8


def notes(comparison: Comparison) -> list[str]:
    """Sentences on this comparison: what few cases cannot show, scores that are undefined, models that are the same."""
    return [*_few_units(comparison), *_undefined(comparison), *_same_predictions(comparison), *_versions(comparison)]


def reading(comparison: Comparison) -> list[str]:
    """Sentences on how to read every number of the tables."""
    unit, tests = comparison.unit, len([one for one in comparison.pairs if one.cases])
    against = f"the baseline {comparison.baseline}" if comparison.baseline else "each other, all pairs"
    drawn = (f"The groups of {comparison.groups_from} were drawn and tested as wholes." if comparison.groups else
             "Cases were taken as independent; if several are from one animal, give --groups, or the intervals and p-values are too small.")
    lengths = [name for name in comparison.measures if comparison.scores[0].measures[name]["dimension"]]
    return [
        *([f"{', '.join(lengths)}: in powers of the unit of the voxel size, micrometres for microscopy and millimetres for MRI."]
          if lengths else []),
        "mean and sd are over the cases where the measure is defined, each case weighing the same; sd divides by n - 1.",
        f"The 95 % interval is a bias-corrected and accelerated bootstrap over {unit}s ({_resamples()} times, seed {comparison.seed}). "
        "Intervals of two models may overlap although their paired difference is clear: read the interval of the difference.",
        drawn,
        f"The models are tested against {against}, on the same cases. Wilcoxon is the signed-rank test on the differences"
        f"{' of the group means' if comparison.groups else ''}; permutation turns their signs and looks at the mean difference: all "
        f"turns of up to {MOST_EXACT} {unit}s, else {_resamples()} drawn ones, so that its p is never below {1 / (RESAMPLES + 1):.1g}.",
        f"Holm adjusts for the {tests} comparison{'s' if tests != 1 else ''} made here, each kind of test by itself. Marks are by "
        "Wilcoxon's test, adjusted: * below 0.05, ** below 0.01, *** below 0.001. Choose the test you quote before you look.",
        "rank-biserial runs from -1 to 1: the share of the rank sum where the model scores higher minus the share where it scores lower. "
        "d_z is the mean difference in standard deviations of the differences. A small p says that a difference is there, not that it "
        "matters.",
    ]


def _resamples() -> str:
    return f"{RESAMPLES:,}".replace(",", " ")


def _few_units(comparison: Comparison) -> list[str]:
    made = [one for one in comparison.pairs if one.cases]
    found = []
    units = min((one.units for one in made), default=0)
    if 0 < units < _FEW_UNITS:
        found.append(f"With {_count(units, comparison.unit)} a bootstrap interval is too narrow: it holds the truth clearly less often "
                     "than in 95 of 100 samples.")
    if made:
        lowest = min(one.smallest_p for one in made)
        adjusted = min(1.0, lowest * len(made))
        if adjusted >= SIGNIFICANT:
            most = max(one.units for one in made)
            after = f", and after Holm's correction for {len(made)} comparisons none below {adjusted:.3g}" if len(made) > 1 else ""
            found.append(f"With {_count(most, comparison.unit)} no p-value can be below {lowest:.3g}{after}, however large the difference: "
                         f"no test here can reach {SIGNIFICANT:g}, so its absence says nothing.")
    return found


def _undefined(comparison: Comparison) -> list[str]:
    found, unequal = [], False
    for rater, class_name, measure in comparison.blocks():
        missing = {one.model: len(comparison.cases) - one.cases for one in comparison.summaries_of((rater, class_name, measure))}
        unequal |= len(set(missing.values())) > 1
        if any(missing.values()):
            text = ", ".join(f"{number} of {model}" for model, number in missing.items() if number)
            found.append(f"{measure} of {class_name}{f' against {rater}' if rater else ''} in {text}")
    if not found:
        return []
    more = f"; and {len(found) - _LISTED} more, as the numbers of cases tell" if len(found) > _LISTED else ""
    warning = " A model may look better by failing there, so look at these cases." if unequal else ""
    return [f"Undefined, of {_count(len(comparison.cases), 'case')}: {'; '.join(found[:_LISTED])}{more}. Such cases are left out of the "
            f"model's mean and of its tests.{warning}"]


def _same_predictions(comparison: Comparison) -> list[str]:
    first = [comparison.of(model, comparison.raters[0]) for model in comparison.models]
    return [f"{one.model} and {other.model} have the same predictions in all cases: they are one model, or one folder was given twice."
            for one, other in itertools.combinations(first, 2) if one.predictions == other.predictions]


def _versions(comparison: Comparison) -> list[str]:
    made = {one.name: one.made_with.get("nnunet_neuro", "unknown") for one in comparison.scores}
    if len(set(made.values())) == 1:
        return []
    return [f"The scores were measured with different versions of nnunet_neuro: {_listed(made.items())}."]


def _listed(items: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {text}" for name, text in items)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
