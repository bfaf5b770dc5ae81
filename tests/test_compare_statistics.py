"""Statistics of paired scores: by hand, against independent forms, and by simulation."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from nnunet_neuro.evaluate.comparison import statistics


def test_wilcoxon_by_hand():
    assert statistics.wilcoxon_p(np.array([1.0, 2, 3, 4, 5])) == 2 / 32
    assert statistics.wilcoxon_p(np.array([1.0, 2, -3])) == 1.0  # rank sums 3 and 3
    assert statistics.wilcoxon_p(np.array([2.0, 2, 2, 0, 0])) == 2 / 8  # equal ones, and zeros left out
    assert statistics.wilcoxon_p(np.zeros(4)) == 1.0 and math.isnan(statistics.wilcoxon_p(np.array([])))


@pytest.mark.parametrize("units", [1, 6, 25, 50, 300])
def test_wilcoxon_is_scipys_where_no_differences_are_equal(units):
    differences = np.random.default_rng(units).normal(0.2, 1, units)
    method = "exact" if units <= 50 else "approx"
    expected = scipy.stats.wilcoxon(differences, method=method, correction=True).pvalue
    assert statistics.wilcoxon_p(differences) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_wilcoxon_of_equal_differences_is_the_share_of_all_signs(seed):
    differences = np.random.default_rng(seed).integers(-2, 5, 10).astype(float)
    left = differences[differences != 0]
    ranks = scipy.stats.rankdata(np.abs(left))
    centre = ranks.sum() / 2
    away = [abs(ranks[np.array(signs) > 0].sum() - centre) for signs in itertools.product((-1, 1), repeat=len(left))]
    expected = np.mean(np.array(away) >= abs(ranks[left > 0].sum() - centre) - 1e-9)
    assert statistics.wilcoxon_p(differences) == pytest.approx(expected)


def test_differences_that_only_rounding_tells_apart_share_a_rank():
    assert 0.3 - 0.2 != 0.2 - 0.1
    assert statistics.rank_biserial(np.array([0.3 - 0.2, 0.1 - 0.2])) == 0


def test_sign_flip_by_hand_and_against_scipy():
    assert statistics.sign_flip_p(np.array([1.0, 1, 1])) == 2 / 8
    assert statistics.sign_flip_p(np.array([3.0, 1, -1, 0])) == 6 / 8  # |sum| of all signs: 5 3 3 1, each twice; observed 3
    assert statistics.sign_flip_p(np.zeros(3)) == 1.0 and math.isnan(statistics.sign_flip_p(np.array([])))
    differences = np.random.default_rng(0).normal(0.4, 1, 11)
    expected = scipy.stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert statistics.sign_flip_p(differences) == pytest.approx(expected)


def test_drawn_sign_flips_are_repeatable_and_near_the_exact_ones(monkeypatch):
    differences = np.random.default_rng(1).normal(0.4, 1, 14)
    exact = statistics.sign_flip_p(differences)
    monkeypatch.setattr(statistics, "MOST_EXACT", 5)
    drawn = statistics.sign_flip_p(differences, seed=3)
    assert drawn == statistics.sign_flip_p(differences, seed=3) != statistics.sign_flip_p(differences, seed=4)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / statistics.RESAMPLES))
    assert statistics.sign_flip_p(np.arange(1.0, 41)) == 1 / (statistics.RESAMPLES + 1), "never 0: the observed signs count"


def test_no_p_value_is_below_the_smallest_possible():
    for units in range(1, 12):
        differences = np.arange(1.0, units + 1)
        smallest = statistics.smallest_p(differences)
        assert smallest == min(1, 2 / 2**units)
        assert statistics.wilcoxon_p(differences) == pytest.approx(smallest) == statistics.sign_flip_p(differences)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, math.nan, 0.5]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
    assert statistics.holm([]) == []


def test_effect_sizes_by_hand():
    assert statistics.rank_biserial(np.array([1.0, 2, -3, 4, 0])) == pytest.approx((7 - 3) / 10)
    assert statistics.rank_biserial(np.array([-1.0, -5])) == -1 and statistics.rank_biserial(np.zeros(2)) == 0
    assert statistics.cohens_d_z(np.array([1.0, 2, 3])) == pytest.approx(2.0)
    assert statistics.cohens_d_z(np.zeros(3)) == 0 and math.isnan(statistics.cohens_d_z(np.full(3, 0.1)))
    assert math.isnan(statistics.cohens_d_z(np.array([1.0])))


@pytest.mark.parametrize("sizes", [np.ones(25), np.random.default_rng(5).integers(1, 6, 25).astype(float)])
def test_interval_is_scipys(sizes):
    sums = np.random.default_rng(2).gamma(1.5, 1, 25) * sizes
    expected = scipy.stats.bootstrap((sums, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, method="BCa",
                                     vectorized=True, n_resamples=40_000, random_state=np.random.default_rng(1)).confidence_interval
    width = expected.high - expected.low
    assert statistics.bootstrap_interval(sums, sizes, resamples=40_000) == pytest.approx(tuple(expected), abs=0.03 * width)


def test_interval_of_few_or_equal_values():
    assert all(map(math.isnan, statistics.bootstrap_interval(np.array([1.0]), np.array([3.0]))))
    assert statistics.bootstrap_interval(np.full(4, 0.3), np.ones(4)) == (pytest.approx(0.3), pytest.approx(0.3))
    low, high = statistics.bootstrap_interval(np.array([0.0, 1.0]), np.ones(2))
    assert 0 <= low < 0.5 < high <= 1


def test_repeated_measurements_of_a_group_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=12)
    once = statistics.bootstrap_interval(values, np.ones(12))
    assert statistics.bootstrap_interval(5 * values, np.full(12, 5.0)) == pytest.approx(once)
    as_cases = statistics.bootstrap_interval(np.repeat(values, 5), np.ones(60))
    assert as_cases[1] - as_cases[0] < 0.6 * (once[1] - once[0])


def test_interval_holds_the_truth_as_often_as_it_says():
    """Normal and skewed values in 30 units; 400 samples of each, so that the standard error of a share is about 1 %."""
    generator = np.random.default_rng(0)
    for draw, truth, lowest in ((lambda: generator.normal(size=30), 0, 0.90), (lambda: generator.exponential(size=30), 1, 0.87)):
        found = [statistics.bootstrap_interval(draw(), np.ones(30), seed=seed, resamples=1000) for seed in range(400)]
        assert lowest < np.mean([low <= truth <= high for low, high in found]) < 0.98


@pytest.mark.parametrize("test", [statistics.wilcoxon_p, statistics.sign_flip_p])
@pytest.mark.parametrize("units", [8, 14])
def test_false_positives_are_at_most_five_percent(test, units):
    generator = np.random.default_rng(units)
    p_values = np.array([test(generator.standard_t(3, size=units)) for _ in range(1000)])
    assert 0.02 < np.mean(p_values <= 0.05) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_holm_keeps_false_positives_of_a_family_below_five_percent():
    generator = np.random.default_rng(0)
    families = [min(statistics.holm([statistics.wilcoxon_p(generator.normal(size=12)) for _ in range(5)])) for _ in range(600)]
    assert np.mean(np.array(families) <= 0.05) < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)
