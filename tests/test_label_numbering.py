"""Which numbering a label volume uses, told from fractions and from the length of objects."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_neuro.label_numbering import Expectation, are_told_apart, contradictions, measure_values, pooled

NUMBERING = {"tube": 1, "ball": 2}
EXPECTED = (Expectation("here", "tube", 0, 0.5), Expectation(None, "ball", 0.001, 1))
LENGTHS = {"longer": "tube", "shorter": "ball"}


def tissue(planes: int = 64) -> np.ndarray:
    """One tube of 2 x 2 pixels through all planes, and a ball of 4 x 4 x 4 voxels every 16 planes."""
    labels = np.zeros((planes, 20, 20), np.uint8)
    labels[:, 2:4, 2:4] = 1
    for z in range(2, planes - 4, 16):
        labels[z : z + 4, 10:14, 10:14] = 2
    return labels


def test_fractions_and_lengths():
    measures = measure_values(tissue(), (1, 2, 3))
    assert measures[1].fraction == pytest.approx(4 / 400) and measures[1].length == 64
    assert measures[2].fraction == pytest.approx(4 * 64 / (64 * 400)) and measures[2].length == 4
    assert (measures[3].fraction, measures[3].length) == (0, 0)


def test_planes_without_a_label_count_nowhere():
    labels = tissue()
    labels[::2] = 0
    assert measure_values(labels, (1, 2))[1].fraction == pytest.approx(4 / 400)


def test_lengths_need_planes_that_follow_each_other():
    short = measure_values(tissue(31), (1, 2))
    assert short[1].measured == 0 and not are_told_apart({"here": short}, NUMBERING, **LENGTHS)
    assert are_told_apart({"here": measure_values(tissue(32), (1, 2))}, NUMBERING, **LENGTHS)


def test_pooled_weighs_by_voxels():
    parts = [measure_values(tissue(64), (1,))[1], measure_values(tissue(32), (1,))[1]]
    both = pooled(parts)
    assert both.fraction == pytest.approx(0.01)
    assert both.length == pytest.approx((64 * 64 + 32 * 32) / 96)


def test_right_numbering_is_not_contradicted():
    assert contradictions({"here": measure_values(tissue(), (1, 2))}, NUMBERING, EXPECTED, **LENGTHS) == []


def test_exchanged_classes_are_found_by_length():
    found = contradictions({"here": measure_values(tissue(), (1, 2))}, {"tube": 2, "ball": 1}, EXPECTED, **LENGTHS)
    assert len(found) == 1 and "objects of ball would be 64 voxels long and those of tube 4" in found[0]


def test_too_much_and_too_little_are_found():
    labels = np.full((2, 4, 4), 1, np.uint8)
    found = contradictions({"here": measure_values(labels, (1, 2))}, NUMBERING, EXPECTED, **LENGTHS)
    assert found == ["tube would be 100.0% of here, expected at most 50.0%", "ball would be 0.0% of here, expected at least 0.1%"]


def test_expectation_of_another_region_does_not_matter():
    labels = np.full((2, 4, 4), 1, np.uint8)
    labels[0, 0, 0] = 2
    assert contradictions({"elsewhere": measure_values(labels, (1, 2))}, NUMBERING, EXPECTED, **LENGTHS) == []
