"""The comparison itself: every model's scores summarised, every pair of models tested on the same cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from nnunet_neuro.evaluate.comparison import statistics
from nnunet_neuro.evaluate.comparison.scores import ModelScores, read_groups, read_models

SIGNIFICANT = 0.05
_NOISE = 1e-12  # a difference below this share of the scores is that of rounding


@dataclass(frozen=True)
class Summary:
    """One model, one class, one measure.

    Attributes:
        rater, class_name, measure, model: what it is of.
        cases: number of cases where the measure is defined.
        units: number of groups they are of; the cases themselves without groups.
        mean, sd: over these cases, each weighing the same; sd with n - 1.
        low, high: 95 % bootstrap interval of the mean.
        best: no other model's mean, as it is printed, is better.
    """

    rater: str
    class_name: str
    measure: str
    model: str
    cases: int
    units: int
    mean: float
    sd: float
    low: float
    high: float
    best: bool = False


@dataclass(frozen=True)
class Pair:
    """Two models, one class, one measure, on the cases where it is defined for both.

    Attributes:
        rater, class_name, measure: what it is of.
        model, other: difference is score of `model` minus score of `other`.
        cases, units: as in `Summary`.
        difference, low, high: mean difference over the cases and its 95 % bootstrap interval.
        wilcoxon_p, permutation_p: two-sided, each test by itself.
        wilcoxon_p_holm, permutation_p_holm: adjusted for all pairs of the comparison.
        smallest_p: what an exact test on so many units can reach at best.
        rank_biserial, cohens_d_z: effect sizes, over the units.
        better: the model with the better mean, "" if there is none.
    """

    rater: str
    class_name: str
    measure: str
    model: str
    other: str
    cases: int
    units: int
    difference: float
    low: float
    high: float
    wilcoxon_p: float
    permutation_p: float
    smallest_p: float
    rank_biserial: float
    cohens_d_z: float
    better: str
    wilcoxon_p_holm: float = math.nan
    permutation_p_holm: float = math.nan

    @property
    def significant(self) -> bool:
        """Whether Wilcoxon's test, adjusted by Holm, is below 5 %."""
        return self.wilcoxon_p_holm < SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown.

    Attributes:
        scores: what was read, one entry per model and rater.
        models, raters, classes, measures: names, in the order of the tables; one rater "" where there is one set of references.
        baseline: the model that the others are tested against; "" where all pairs are.
        groups: of each case, or None.
        groups_from: the table they are from, or None.
        seed: of everything drawn.
        summaries, pairs: the results.
        made_on: time, ISO 8601.
    """

    scores: list[ModelScores]
    models: list[str]
    raters: list[str]
    classes: list[str]
    measures: list[str]
    baseline: str
    groups: list[str] | None
    groups_from: Path | None
    seed: int
    summaries: list[Summary]
    pairs: list[Pair]
    made_on: str

    @property
    def cases(self) -> list[str]:
        """Names of the cases."""
        return self.scores[0].cases

    @property
    def unit(self) -> str:
        """What is drawn, tested and counted as one."""
        return "case" if self.groups is None else "group"

    def blocks(self) -> Iterator[tuple[str, str, str]]:
        """Rater, class and measure of each table."""
        yield from itertools.product(self.raters, self.classes, self.measures)

    def of(self, model: str, rater: str) -> ModelScores:
        """The scores of one model against one rater."""
        return next(one for one in self.scores if (one.model, one.rater) == (model, rater))

    def summaries_of(self, block: tuple[str, str, str]) -> list[Summary]:
        """One per model."""
        return [one for one in self.summaries if (one.rater, one.class_name, one.measure) == block]

    def pairs_of(self, block: tuple[str, str, str]) -> list[Pair]:
        """The pairs tested."""
        return [one for one in self.pairs if (one.rater, one.class_name, one.measure) == block]


def compare_models(words: Sequence[str], *, measures: Sequence[str] = ("Dice",), classes: Sequence[str] | None = None,
                   baseline: str | None = None, groups: str | Path | None = None, seed: int = 0, progress: bool = True) -> Comparison:
    """Compare the scores of several models on the same cases.

    Args:
        words: `NAME=PATH` or `NAME/RATER=PATH`, see `scores.read_models`.
        measures: names, each in all scores.json.
        classes: names; None takes all.
        baseline: the model that all others are tested against; None tests all pairs.
        groups: table of the group of each case; then groups are drawn and tested, not cases.
        seed: of the bootstrap and of the permutation test.
        progress: show a progress bar on stderr.

    Raises:
        FileNotFoundError, ValueError: bad input, see `scores`; an unknown measure, class or baseline.
    """
    from tqdm import tqdm

    if seed < 0:
        raise ValueError(f"seed is {seed}; expected 0 or more")
    scores = read_models(words)
    models, raters = (list(dict.fromkeys(names)) for names in ([one.model for one in scores], [one.rater for one in scores]))
    shared = [name for name in scores[0].measures if all(name in one.measures for one in scores)]
    measures = _chosen(measures, shared, "measure")
    classes = _chosen(classes, list(scores[0].classes), "class") if classes else list(scores[0].classes)
    if baseline is not None:
        _chosen([baseline], models, "model")
    table, made_on = None if groups is None else Path(groups), datetime.now(timezone.utc).isoformat(timespec="seconds")
    group_of = None if table is None else read_groups(table, scores[0].cases)
    comparison = Comparison(scores, models, raters, classes, measures, baseline or "", group_of, table, seed, [], [], made_on)
    summaries, pairs = [], []
    for block in tqdm([*comparison.blocks()], desc="comparing", unit="table", disable=not progress):
        summaries += _summaries(comparison, block)
        pairs += _pairs(comparison, block)
    return replace(comparison, summaries=summaries, pairs=_adjusted(pairs))


def printed(value: float) -> str:
    """A score as all tables show it: three decimals, fewer for large lengths; a dash where it is undefined."""
    if math.isnan(value):
        return "–"
    text = f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _summaries(comparison: Comparison, block: tuple[str, str, str]) -> list[Summary]:
    rater, class_name, measure = block
    made = []
    for model in comparison.models:
        values = comparison.of(model, rater).values[class_name][measure]
        sums, sizes = _units(values, comparison.groups)
        number = int(sizes.sum())
        low, high = statistics.bootstrap_interval(sums, sizes, seed=comparison.seed)
        made.append(Summary(rater, class_name, measure, model, number, len(sums), sums.sum() / number if number else math.nan,
                            float(np.nanstd(values, ddof=1)) if number > 1 else math.nan, low, high))
    declared = comparison.scores[0].measures[measure]
    off = [_badness(float(printed(one.mean)), declared) if one.cases else math.inf for one in made]
    return [replace(one, best=one.cases > 0 and bad == min(off)) for one, bad in zip(made, off)]


def _pairs(comparison: Comparison, block: tuple[str, str, str]) -> list[Pair]:
    rater, class_name, measure = block
    baseline = comparison.baseline
    tested = [(model, baseline) for model in comparison.models if model != baseline] if baseline else \
        [(later, earlier) for earlier, later in itertools.combinations(comparison.models, 2)]
    made = []
    for model, other in tested:
        first, second = (comparison.of(name, rater).values[class_name][measure] for name in (model, other))
        differences = first - second
        differences[np.abs(differences) <= _NOISE * np.maximum(np.abs(first), np.abs(second))] = 0
        sums, sizes = _units(differences, comparison.groups)
        means, number = sums / sizes, int(sizes.sum())
        mean = float(sums.sum() / number) if number else math.nan
        low, high = statistics.bootstrap_interval(sums, sizes, seed=comparison.seed)
        made.append(Pair(
            rater, class_name, measure, model, other, number, len(sums), mean, low, high, statistics.wilcoxon_p(means),
            statistics.sign_flip_p(sums, seed=comparison.seed), statistics.smallest_p(means), statistics.rank_biserial(means),
            statistics.cohens_d_z(means), _better(model, other, first, second, comparison.scores[0].measures[measure])))
    return made


def _units(values: np.ndarray, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the defined values in each unit, (units,) each; units without a value are left out."""
    defined = ~np.isnan(values)
    if groups is None:
        return values[defined], np.ones(np.count_nonzero(defined))
    _, unit = np.unique(np.asarray(groups)[defined], return_inverse=True)
    return np.bincount(unit, weights=values[defined]), np.bincount(unit).astype(float)


def _adjusted(pairs: list[Pair]) -> list[Pair]:
    wilcoxon, permutation = (statistics.holm([getattr(one, name) for one in pairs]) for name in ("wilcoxon_p", "permutation_p"))
    return [replace(one, wilcoxon_p_holm=first, permutation_p_holm=second) for one, first, second in zip(pairs, wilcoxon, permutation)]


def _better(model: str, other: str, first: np.ndarray, second: np.ndarray, declared: dict) -> str:
    both = ~np.isnan(first - second)
    if not both.any():
        return ""
    bad, worse = (_badness(float(values[both].mean()), declared) for values in (first, second))
    return "" if math.isclose(bad, worse, rel_tol=_NOISE) else model if bad < worse else other


def _badness(mean: float, declared: dict) -> float:
    """Lower is better; where neither direction is, the distance from the value of a perfect prediction."""
    higher = declared["higher_is_better"]
    return abs(mean - declared["best"]) if higher is None else -mean if higher else mean


def _chosen(words: Sequence[str], there: Sequence[str], what: str) -> list[str]:
    unknown = [word for word in words if word not in there]
    if unknown:
        raise ValueError(f"no {what} {', '.join(map(repr, unknown))} in all scores; expected some of {', '.join(there) or 'none'}")
    return list(dict.fromkeys(words))
