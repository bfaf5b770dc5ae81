"""Calibration of probabilities: scikit-learn, plain loops, and by hand."""

import math

import numpy as np
import pytest

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import Masks, calibration
from nnunet_neuro.evaluate.measures.calibration import calibration_counts, reliability

CALIBRATION = measures.selected(["calibration"])


def masks_of(probability, reference, annotated=None, inner=None):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return Masks(probability > 0.5, reference, annotated, probability=probability, inner=inner)


def measured(*masks):
    return measures.values(measures.count(masks_of(*masks), CALIBRATION), CALIBRATION)


def forecasts(seed, *, shape=(6, 20, 22)):
    """Too sure ones: the truth is drawn with a probability nearer to the middle."""
    random = np.random.default_rng(seed)
    probability = random.beta(0.4, 0.8, shape).astype(np.float32)
    reference = random.random(shape) < 0.25 + 0.5 * probability
    return probability, reference, random.random(shape) < 0.7


def line(*values, dtype=np.float32):
    return np.array(values, dtype)[None, None]


def test_calibration_by_hand():
    """Three voxels of 0.9, of which two are true, and one of 0.1 that is not."""
    found = measured(line(0.9, 0.9, 0.9, 0.1), line(1, 1, 0, 0, dtype=bool))
    assert found["ECE"] == pytest.approx(0.75 * (0.9 - 2 / 3) + 0.25 * 0.1)
    assert found["MCE"] == pytest.approx(0.9 - 2 / 3)
    assert found["Brier_score"] == pytest.approx((3 * 0.01 + 0.81) / 4)
    assert found["negative_log_likelihood"] == pytest.approx(-(3 * math.log(0.9) + math.log(0.1)) / 4)


def test_always_saying_a_half():
    found = measured(np.full((2, 5, 6), 0.5 + 1e-6, np.float32), np.arange(60).reshape(2, 5, 6) % 2 == 0)
    assert found["Brier_score"] == pytest.approx(0.25)
    assert found["negative_log_likelihood"] == pytest.approx(math.log(2))
    assert found["ECE"] == pytest.approx(0, abs=1e-5)


def test_sure_and_wrong_costs_a_finite_amount():
    found = measured(line(1, 0), line(0, 1, dtype=bool))
    assert found["negative_log_likelihood"] == pytest.approx(CALIBRATION["negative_log_likelihood"].limits[1]) == 24 * math.log(2)
    assert found["ECE"] == found["MCE"] == found["Brier_score"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_scores_and_points_equal_scikit_learn(seed):
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, log_loss

    probability, reference, annotated = forecasts(seed)
    counts = measures.count(masks_of(probability, reference, annotated), CALIBRATION)
    found = measures.values(counts, CALIBRATION)
    truth, seen = reference[annotated], probability[annotated].astype(float)
    assert found["Brier_score"] == pytest.approx(brier_score_loss(truth, seen), abs=1e-7)
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(truth, np.clip(seen, 2.0**-24, 1 - 2.0**-24)), abs=1e-6)
    points = reliability(counts)
    observed, predicted = calibration_curve(truth, seen, n_bins=15)
    np.testing.assert_allclose(points.observed, observed, atol=1e-7)
    np.testing.assert_allclose(points.predicted, predicted, atol=1e-7)
    assert points.voxels.sum() == annotated.sum() and len(points.voxels) == 15


@pytest.mark.parametrize("seed", range(3))
def test_calibration_errors_equal_a_plain_loop(seed):
    probability, reference, annotated = forecasts(seed)
    found = measured(probability, reference, annotated)
    bins = {}
    for forecast, truth in zip(probability[annotated].tolist(), reference[annotated].tolist()):
        bins.setdefault(max(0, math.ceil(forecast * 15) - 1), []).append((forecast, truth))
    gaps = {index: abs(sum(f - t for f, t in members)) / len(members) for index, members in bins.items()}
    assert found["ECE"] == pytest.approx(sum(gaps[index] * len(members) for index, members in bins.items()) / annotated.sum(), abs=1e-7)
    assert found["MCE"] == pytest.approx(max(gaps.values()), abs=1e-7)
    assert 0.05 < found["ECE"] < found["MCE"]


def test_a_bin_holds_its_upper_edge():
    fifths = line(0.2, 0.4, 0.6, 0.8, 1.0, dtype=np.float64)
    counts = calibration_counts(masks_of(fifths, fifths > 2))
    assert np.flatnonzero(counts["calibration_voxels"]).tolist() == [2, 5, 8, 11, 14]


def test_reliability_leaves_out_empty_bins():
    points = reliability(calibration_counts(masks_of(line(0.95, 0.97, 0.02), line(1, 0, 0, dtype=bool))))
    assert points.voxels.tolist() == [1, 2] and points.observed.tolist() == [0, 0.5]
    assert points.predicted == pytest.approx([0.02, 0.96])


def test_calibration_in_blocks_equals_the_whole(monkeypatch):
    probability, reference, annotated = forecasts(5)
    whole = calibration_counts(masks_of(probability, reference, annotated))
    boxes = [(slice(z, z + 4), slice(None), slice(x, x + 9)) for z in (0, 4) for x in (0, 9, 18)]
    amounts = [calibration_counts(masks_of(probability, reference, annotated, box)) for box in boxes]
    summed = amounts[0]
    for one in amounts[1:]:
        summed = measures.added(summed, one)
    monkeypatch.setattr(calibration, "_VOXELS_AT_ONCE", 100)
    for found in (summed, calibration_counts(masks_of(probability, reference, annotated))):
        for name, number in whole.items():
            np.testing.assert_array_equal(found[name], number)


def test_counts_of_cases_add_up():
    """The pooled value is that of all voxels of both cases together."""
    first, second = forecasts(1), forecasts(2)
    counts = [measures.count(masks_of(*case), CALIBRATION) for case in (first, second)]
    pooled = measures.values(measures.added(*counts), CALIBRATION)
    assert pooled == pytest.approx(measured(*(np.concatenate(both) for both in zip(first, second))))


@pytest.mark.parametrize("wrong", [-0.1, 1.5, math.nan])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        calibration_counts(masks_of(line(0.5, wrong), line(1, 0, dtype=bool)))
    assert calibration_counts(masks_of(line(0.5, wrong), line(1, 0, dtype=bool), line(1, 0, dtype=bool)))["calibration_voxels"].sum() == 1


def test_measures_of_probabilities_are_left_out_without_them():
    assert not measures.without_unmet(CALIBRATION, probability=False)
    assert measures.without_unmet(CALIBRATION, probability=True) == CALIBRATION
