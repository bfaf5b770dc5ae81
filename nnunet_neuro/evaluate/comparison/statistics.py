"""Statistics of paired scores: intervals, tests and effect sizes as plain functions of arrays.

Every function takes one number per unit. A unit is what was drawn independently: a case, or a group of cases such as an animal. Where the
units are groups that differ in size, the mean over all cases is the sum of the groups' sums over the sum of their sizes, and it is whole
groups that are drawn again or turned round.

Efron, Better bootstrap confidence intervals, Journal of the American Statistical Association 1987 (the BCa interval); Wilcoxon, Individual
comparisons by ranking methods, Biometrics Bulletin 1945; Holm, A simple sequentially rejective multiple test procedure, Scandinavian
Journal of Statistics 1979; Kerby, The simple difference formula, Comprehensive Psychology 2014 (rank-biserial correlation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
MOST_EXACT = 15  # units, whose 2^15 signs take as long as the drawn ones
_MOST_EXACT_RANKS = 200  # units; above it the normal approximation is right to the third digit
_TIE = 1e-9  # sums of the same numbers in another order differ by less than this share


def bootstrap_interval(sums: np.ndarray, sizes: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
                       ) -> tuple[float, float]:
    """Confidence interval of `sum(sums) / sum(sizes)`, by drawing units again (bias-corrected and accelerated).

    With few units every bootstrap interval is too narrow: of normally distributed values, the interval of nominally 95 % held the truth in
    84 % of the samples of 5 units, 91 % of 10 and 93 % of 20 and of 40.

    Args:
        sums: (units,) sum of the values in each unit.
        sizes: (units,) number of values in each unit.
        seed: of the drawing; the same seed gives the same interval.
        resamples: how often all units are drawn.
        level: share of samples whose interval shall hold the truth.

    Returns:
        Lower and upper end; NaN for fewer than two units; the value itself twice if all units have the same mean.
    """
    from scipy.special import ndtr, ndtri

    sums, sizes = np.asarray(sums, float), np.asarray(sizes, float)
    units = len(sums)
    if units < 2:
        return math.nan, math.nan
    value = sums.sum() / sizes.sum()
    if np.allclose(sums / sizes, value, rtol=_TIE, atol=0):
        return float(value), float(value)
    drawn = np.random.default_rng(seed).integers(units, size=(resamples, units))
    again = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    # values equal to the sample's count half, so that a symmetric sample has no bias
    near = np.isclose(again, value, rtol=_TIE, atol=0)
    below = (np.count_nonzero((again < value) & ~near) + np.count_nonzero(near) / 2) / resamples
    bias = ndtri(np.clip(below, 1 / (resamples + 1), resamples / (resamples + 1)))
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    away = without.mean() - without
    spread = (away**2).sum() ** 1.5
    acceleration = (away**3).sum() / (6 * spread) if spread else 0.0
    tails = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(again, ndtr(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def wilcoxon_p(differences: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that the differences are symmetric around 0; zeros are left out.

    Exact up to 200 differences, equal ones included, which scipy's exact form does not know; then scipy's normal approximation with
    continuity correction. 1 where no difference is left, NaN where there was none.
    """
    differences = np.asarray(differences, float)
    if not len(differences):
        return math.nan
    left = differences[differences != 0]
    if not len(left):
        return 1.0
    if len(left) > _MOST_EXACT_RANKS:
        from scipy.stats import wilcoxon

        return float(wilcoxon(left, correction=True, method="approx").pvalue)
    return _exact_signed_rank_p(left)


def sign_flip_p(sums: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of the permutation test that turns the sign of each unit's sum of differences: is their mean 0?

    All signs up to `MOST_EXACT` units whose sum is not 0, else `resamples` drawn ones, to which the observed is added.

    Args:
        sums: (units,) sum of the differences in each unit; the difference itself where a unit is a case.
        seed: of the drawing.
        resamples: number of signs drawn.

    Returns:
        Share of the signs whose mean is at least as far from 0 as the observed; 1 where all sums are 0, NaN where there was none.
    """
    sums = np.asarray(sums, float)
    if not len(sums):
        return math.nan
    left = sums[sums != 0]
    if not len(left):
        return 1.0
    exact = len(left) <= MOST_EXACT
    if exact:
        turned = (np.arange(2 ** len(left))[:, None] >> np.arange(len(left))) & 1
    else:
        turned = np.random.default_rng(seed).integers(2, size=(resamples, len(left)), dtype=np.int8)
    far = np.abs((1 - 2 * turned) @ left) >= abs(left.sum()) - _TIE * np.abs(left).sum()
    return float(far.mean() if exact else (far.sum() + 1) / (resamples + 1))


def smallest_p(differences: np.ndarray) -> float:
    """The lowest two-sided p-value that an exact test by signs can reach: all differences that are not 0 on one side, 2 / 2^units."""
    left = np.count_nonzero(differences)
    return min(1.0, 2.0 ** (1 - left)) if len(differences) else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given; NaN stays NaN and is no test.

    Rejecting where the adjusted value is below 5 % keeps the chance of one or more false rejections among all tests below 5 %.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=p_values.__getitem__)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(order) - place)))
        adjusted[index] = highest
    return adjusted


def rank_biserial(differences: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation: share of the rank sum that is positive minus the share that is negative.

    1 if all differences are positive, -1 if all are negative, 0 if there is no difference; zeros are left out as in Wilcoxon's test.
    """
    left = np.asarray(differences, float)
    if not len(left):
        return math.nan
    left = left[left != 0]
    if not len(left):
        return 0.0
    ranks = _ranks(left)
    return float((ranks[left > 0].sum() - ranks[left < 0].sum()) / ranks.sum())


def cohens_d_z(differences: np.ndarray) -> float:
    """Mean difference in standard deviations of the differences (n - 1): how clearly it stands out, not how large it is.

    0 if there is no difference; NaN for fewer than two differences, and where all are the same but not 0.
    """
    differences = np.asarray(differences, float)
    if len(differences) < 2:
        return math.nan
    mean, deviation = differences.mean(), differences.std(ddof=1)
    if deviation <= _TIE * np.abs(differences).max():
        return math.nan if differences.any() else 0.0
    return float(mean / deviation)


def _ranks(differences: np.ndarray) -> np.ndarray:
    """Ranks of the absolute differences from 1, equal ones sharing the mean of theirs."""
    from scipy.stats import rankdata

    sizes = np.abs(differences)
    # 0.9 - 0.8 and 0.8 - 0.7 are equal differences, whose last bits differ
    return rankdata(np.round(sizes / sizes.max(), 12))


def _exact_signed_rank_p(differences: np.ndarray) -> float:
    """By the number of signs that give each rank sum, of which ranks are counted in halves."""
    halves = np.round(2 * _ranks(differences)).astype(int)
    total = int(halves.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for rank in halves:  # each rank is in the positive sum or is not
        ways = ways / 2
        ways[rank:] += ways[: total + 1 - rank].copy()
    positive = int(halves[differences > 0].sum())
    extreme = min(positive, total - positive)
    return float(min(1.0, 2 * ways[: extreme + 1].sum()))
