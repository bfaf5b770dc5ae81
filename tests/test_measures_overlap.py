"""Overlap measures: hand-computed values, scikit-learn's and SimpleITK's, and a row of the thalamus benchmark's own table."""

import math

import numpy as np
import pytest

from nnunet_neuro.evaluate import measures
from nnunet_neuro.evaluate.measures import MEASURES, Masks

OVERLAP = measures.selected(["overlap"])


def measured(prediction, reference, annotated=None):
    annotated = np.ones(reference.shape, bool) if annotated is None else annotated
    return measures.values(measures.count(Masks(prediction, reference, annotated), OVERLAP), OVERLAP)


def of_counts(true_positive, false_positive, false_negative, true_negative):
    counts = {"true_positive": true_positive, "false_positive": false_positive, "false_negative": false_negative,
              "true_negative": true_negative}
    return measures.values(counts, OVERLAP)


def random_masks(seed):
    generator = np.random.default_rng(seed)
    reference = generator.random((7, 9, 11)) < 0.3
    return (reference & (generator.random(reference.shape) < 0.8)) | (generator.random(reference.shape) < 0.1), reference


def test_by_hand():
    found = of_counts(true_positive=6, false_positive=2, false_negative=4, true_negative=88)
    assert found["accuracy"] == pytest.approx(94 / 100)
    assert found["specificity"] == pytest.approx(88 / 90)
    assert found["balanced_accuracy"] == pytest.approx((6 / 10 + 88 / 90) / 2)
    assert found["false_negative_error"] == pytest.approx(4 / 10)
    assert found["false_positive_error"] == pytest.approx(2 / 8)
    assert found["volume_similarity_signed"] == pytest.approx(2 * (8 - 10) / 18)
    assert found["volume_similarity"] == pytest.approx(1 - 1 / 9)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scikit_learn(seed):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

    prediction, reference = random_masks(seed)
    annotated = np.random.default_rng(seed).random(reference.shape) < 0.6
    found, truth, guess = measured(prediction, reference, annotated), reference[annotated], prediction[annotated]
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guess))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))
    assert found["specificity"] == pytest.approx(recall_score(truth, guess, pos_label=False))


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_simpleitk(seed):
    sitk = pytest.importorskip("SimpleITK")

    prediction, reference = random_masks(seed)
    found, theirs = measured(prediction, reference), sitk.LabelOverlapMeasuresImageFilter()
    theirs.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (prediction, reference)))
    assert found["Dice"] == pytest.approx(theirs.GetDiceCoefficient())
    assert found["IoU"] == pytest.approx(theirs.GetJaccardCoefficient())
    assert found["false_negative_error"] == pytest.approx(theirs.GetFalseNegativeError())
    assert found["volume_similarity_signed"] == pytest.approx(theirs.GetVolumeSimilarity())
    if hasattr(theirs, "GetFalseDiscoveryRate"):
        assert found["false_positive_error"] == pytest.approx(theirs.GetFalseDiscoveryRate())
        assert 1 - found["specificity"] == pytest.approx(theirs.GetFalsePositiveError())


def test_names_mean_what_the_thalamus_benchmark_printed():
    """Subject 103010 against FreeSurfer in its notebook 6: two of the numbers determine the counts, up to a factor, and all others."""
    missed, invented = 0.007050, 0.248376
    shared = 1e6
    found = of_counts(shared, shared * invented / (1 - invented), shared * missed / (1 - missed), 1e7)
    for name, printed in (
        ("false_negative_error", missed),
        ("false_positive_error", invented),
        ("Dice", 0.855596),
        ("IoU", 0.747634),
        ("volume_similarity_signed", 0.276659),
        ("volume_similarity", 0.861671),
    ):
        assert found[name] == pytest.approx(printed, abs=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_errors_are_the_rest_of_precision_and_recall(seed):
    found = measured(*random_masks(seed))
    assert found["false_negative_error"] == pytest.approx(1 - found["recall"])
    assert found["false_positive_error"] == pytest.approx(1 - found["precision"])
    assert found["volume_similarity"] == pytest.approx(1 - abs(found["volume_similarity_signed"]) / 2)
    assert found["volume_similarity"] >= found["Dice"]


def test_swapping_the_masks_swaps_the_errors_and_the_sign():
    prediction, reference = random_masks(0)
    found, swapped = measured(prediction, reference), measured(reference, prediction)
    assert found["false_negative_error"] == swapped["false_positive_error"]
    assert found["volume_similarity_signed"] == -swapped["volume_similarity_signed"]
    assert found["volume_similarity"] == swapped["volume_similarity"]


def test_without_annotated_background_specificity_is_undefined():
    reference = np.ones((2, 3, 4), bool)
    prediction = reference.copy()
    prediction[0] = False
    found = measured(prediction, reference)
    assert math.isnan(found["specificity"]) and math.isnan(found["balanced_accuracy"])
    assert found["accuracy"] == found["recall"] == 0.5


def test_declared_values_of_empty_masks_are_the_limits_of_nearly_empty_ones():
    """Of one voxel in a million, so that nearly nothing is left but the empty mask."""
    sizes = ("volume_similarity_signed", "volume_similarity", "Dice")
    for name in ("specificity", "balanced_accuracy", "false_negative_error", "recall", *sizes):
        nearly = of_counts(1, 0, 10**6, 10**6)[name]
        assert MEASURES[name].prediction_empty == pytest.approx(nearly, abs=1e-5)
    for name in ("false_positive_error", "precision", *sizes):
        nearly = of_counts(1, 10**6, 0, 10**6)[name]
        assert MEASURES[name].reference_empty == pytest.approx(nearly, abs=1e-5)


def test_f1_and_jaccard_are_found_by_their_other_names():
    assert "F1" in MEASURES["Dice"].also_called and "Jaccard index" in MEASURES["IoU"].also_called
